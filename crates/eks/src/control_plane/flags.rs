//! Command lines of the control plane's programs, as EKS sets them (`spec/eks-semantics.md` §3).

use super::Files;
use super::keys::{AUTHENTICATION, AUTHORIZER};
use crate::Eks;
use ekstra_domain::eks::{Cluster, ControlPlaneSlot, Listener, Site, Tuning};
use ekstra_host::{ChildId, ChildSpec, Limits};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

pub(crate) const API_SERVER: &str = "kube-apiserver";

/// `spec/eks-semantics.md` §3.2.
const ADMISSION_PLUGINS: [&str; 20] = [
    "NodeRestriction",
    "ExtendedResourceToleration",
    "NamespaceLifecycle",
    "LimitRanger",
    "ServiceAccount",
    "TaintNodesByCondition",
    "PodSecurity",
    "Priority",
    "DefaultTolerationSeconds",
    "DefaultStorageClass",
    "StorageObjectInUseProtection",
    "PersistentVolumeClaimResize",
    "RuntimeClass",
    "CertificateApproval",
    "CertificateSigning",
    "CertificateSubjectRestriction",
    "DefaultIngressClass",
    "MutatingAdmissionWebhook",
    "ValidatingAdmissionWebhook",
    "ResourceQuota",
];

fn flag(name: &str, value: impl std::fmt::Display) -> String {
    format!("--{name}={value}")
}

fn file(files: &Files, name: &str, key: &str) -> String {
    flag(name, files.key(key).display())
}

fn etcd(files: &Files, site: &Site) -> Vec<String> {
    let client = format!("https://{}", site.address(Listener::EtcdClients));
    let peer = format!("https://{}", site.address(Listener::EtcdPeers));
    vec![
        flag("name", "default"),
        flag("data-dir", files.etcd_data().display()),
        flag("listen-client-urls", &client),
        flag("advertise-client-urls", client),
        flag("listen-peer-urls", &peer),
        flag("initial-advertise-peer-urls", &peer),
        flag("initial-cluster", format_args!("default={peer}")),
        flag("quota-backend-bytes", 8_u64 << 30),
        flag("client-cert-auth", true),
        file(files, "cert-file", "etcd.crt"),
        file(files, "key-file", "etcd.key"),
        file(files, "trusted-ca-file", "etcd-ca.crt"),
        flag("peer-client-cert-auth", true),
        file(files, "peer-cert-file", "etcd.crt"),
        file(files, "peer-key-file", "etcd.key"),
        file(files, "peer-trusted-ca-file", "etcd-ca.crt"),
        flag("log-level", "warn"),
    ]
}

/// Nodes and pods come to the interfaces of a control plane; on the host there are none of either.
fn api_server_binds(site: &Site) -> &'static str {
    match site {
        Site::Apart { .. } => "0.0.0.0",
        Site::OnHost { .. } => "127.0.0.1",
    }
}

fn kube_apiserver(files: &Files, slot: &ControlPlaneSlot, tuning: &Tuning, issuer: &str) -> Vec<String> {
    let (first_port, last_port) = tuning.node_ports();
    let etcd = format!("https://{}", slot.site.address(Listener::EtcdClients));
    vec![
        flag("advertise-address", slot.advertise_address),
        flag("bind-address", api_server_binds(&slot.site)),
        flag("secure-port", slot.site.port(Listener::ApiServer)),
        flag("allow-privileged", true),
        // What RBAC has no word about, access policies may have.
        flag("authorization-mode", "Node,RBAC,Webhook"),
        file(files, "authorization-webhook-config-file", AUTHORIZER),
        flag("authorization-webhook-version", "v1"),
        // Who is given access, or loses it, does so in seconds.
        flag("authorization-webhook-cache-authorized-ttl", "10s"),
        flag("authorization-webhook-cache-unauthorized-ttl", "5s"),
        flag("enable-admission-plugins", ADMISSION_PLUGINS.join(",")),
        flag("enable-aggregator-routing", true),
        flag("endpoint-reconciler-type", "lease"),
        flag("etcd-servers", etcd),
        file(files, "etcd-cafile", "etcd-ca.crt"),
        file(files, "etcd-certfile", "etcd.crt"),
        file(files, "etcd-keyfile", "etcd.key"),
        file(files, "client-ca-file", "ca.crt"),
        file(files, "tls-cert-file", "apiserver.crt"),
        file(files, "tls-private-key-file", "apiserver.key"),
        file(files, "kubelet-certificate-authority", "ca.crt"),
        file(files, "kubelet-client-certificate", "kubelet-client.crt"),
        file(files, "kubelet-client-key", "kubelet-client.key"),
        flag("kubelet-preferred-address-types", "InternalIP"),
        file(files, "requestheader-client-ca-file", "front-proxy-ca.crt"),
        flag("requestheader-allowed-names", "front-proxy-client"),
        flag("requestheader-extra-headers-prefix", "X-Remote-Extra-"),
        flag("requestheader-group-headers", "X-Remote-Group"),
        flag("requestheader-username-headers", "X-Remote-User"),
        file(files, "proxy-client-cert-file", "front-proxy.crt"),
        file(files, "proxy-client-key-file", "front-proxy.key"),
        flag("service-cluster-ip-range", slot.service_cidr),
        flag("service-account-issuer", issuer),
        flag("api-audiences", "https://kubernetes.default.svc"),
        file(files, "service-account-key-file", "service-account.pub"),
        file(files, "service-account-signing-key-file", "service-account.key"),
        file(files, "authentication-config", AUTHENTICATION),
        file(files, "authentication-token-webhook-config-file", "token-webhook.json"),
        flag("authentication-token-webhook-version", "v1"),
        file(files, "encryption-provider-config", "encryption.json"),
        flag("encryption-provider-config-automatic-reload", true),
        flag("profiling", false),
        flag("event-ttl", tuning.event_ttl()),
        flag("service-node-port-range", format_args!("{first_port}-{last_port}")),
        flag("v", 1),
    ]
}

fn kube_controller_manager(files: &Files, cluster: &Cluster, site: &Site) -> Vec<String> {
    let mut args = Vec::new();
    for name in ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"] {
        args.push(file(files, name, "controller-manager.kubeconfig"));
    }
    // All of upstream's signers but that of kubelets' serving certificates (`signing.rs`).
    for signer in ["kube-apiserver-client", "kubelet-client", "legacy-unknown"] {
        args.push(file(files, &format!("cluster-signing-{signer}-cert-file"), "ca.crt"));
        args.push(file(files, &format!("cluster-signing-{signer}-key-file"), "ca.key"));
    }
    args.extend([
        flag("bind-address", "127.0.0.1"),
        flag("secure-port", site.port(Listener::ControllerManager)),
        flag("allocate-node-cidrs", false),
        flag("cluster-name", &cluster.name),
        file(files, "client-ca-file", "ca.crt"),
        file(files, "root-ca-file", "ca.crt"),
        file(files, "requestheader-client-ca-file", "front-proxy-ca.crt"),
        file(files, "service-account-private-key-file", "service-account.key"),
        flag("use-service-account-credentials", true),
        flag("terminated-pod-gc-threshold", cluster.tuning.terminated_pods()),
        // Forty controllers ask for a token each before they begin; at the default of 20 a second that takes 4 s.
        flag("kube-api-qps", 200),
        flag("kube-api-burst", 400),
        // How soon a volume whose node ended without a word is free for another; the default is a minute.
        flag("attach-detach-reconcile-sync-period", "20s"),
        // There is only ever one: whatever is left of the last is ended before another starts.
        flag("leader-elect", false),
        flag("profiling", false),
    ]);
    args
}

/// A file for what the scheduler has no flags for, and what is in it. Its name says what it is: a scheduler that was
/// started with another has another command line.
pub(crate) fn scheduler_config(files: &Files, tuning: &Tuning) -> Option<(PathBuf, String)> {
    let scoring = tuning.scoring.as_ref()?;
    let fit = json!({"name": "NodeResourcesFit", "args": scoring.arguments()});
    let content = json!({
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        // With a file, the flags for these are not looked at.
        "clientConnection": {"kubeconfig": files.key("scheduler.kubeconfig")},
        "leaderElection": {"leaderElect": false},
        "enableProfiling": false,
        "profiles": [{"schedulerName": "default-scheduler", "pluginConfig": [fit]}],
    })
    .to_string();
    let digest = hex::encode(Sha256::digest(&content));
    Some((files.root.join(format!("scheduler-{}.json", &digest[..12])), content))
}

fn kube_scheduler(files: &Files, site: &Site, tuning: &Tuning) -> Vec<String> {
    let mut args = Vec::new();
    for name in ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"] {
        args.push(file(files, name, "scheduler.kubeconfig"));
    }
    args.extend([
        flag("bind-address", "127.0.0.1"),
        flag("secure-port", site.port(Listener::Scheduler)),
        file(files, "requestheader-client-ca-file", "front-proxy-ca.crt"),
        flag("leader-elect", false),
        flag("profiling", false),
    ]);
    args.extend(scheduler_config(files, tuning).map(|(file, _)| flag("config", file.display())));
    args
}

/// The API server looks for webhooks and identity providers by name, as nodes and pods do: what the host's resolver is,
/// it cannot reach from its own network.
fn etc(files: &Files, site: &Site, program: &str) -> Option<PathBuf> {
    (program == API_SERVER && site.namespace().is_some()).then(|| files.etc())
}

/// One of the control plane's programs as a child.
pub(crate) fn child(
    eks: &Eks,
    cluster: &Cluster,
    slot: &ControlPlaneSlot,
    name: &str,
    executable: &Path,
) -> ChildSpec {
    let files = eks.files(&slot.id);
    let args = match name {
        "etcd" => etcd(&files, &slot.site),
        API_SERVER => kube_apiserver(&files, slot, &cluster.tuning, &eks.issuer(&slot.issuer_id)),
        "kube-controller-manager" => kube_controller_manager(&files, cluster, &slot.site),
        _ => kube_scheduler(&files, &slot.site, &cluster.tuning),
    };
    ChildSpec {
        id: ChildId(slot.child(name)),
        program: executable.to_owned(),
        args,
        // A smaller heap for a little more collecting (docs/adr/0004); etcd's is small anyway.
        env: vec![
            ("GOGC".to_owned(), if name == "etcd" { "20" } else { "40" }.to_owned()),
            // Nobody reads heap profiles: `--profiling=false`.
            ("GODEBUG".to_owned(), "memprofilerate=0".to_owned()),
            ("PATH".to_owned(), "/usr/bin:/bin".to_owned()),
        ],
        namespace: slot.site.namespace().map(str::to_owned),
        log: log(eks, slot, name),
        limits: Limits::default(),
        etc: etc(&files, &slot.site, name),
        sandbox: None,
    }
}

pub(crate) fn log(eks: &Eks, slot: &ControlPlaneSlot, name: &str) -> PathBuf {
    eks.cloud.home.join("logs").join(format!("{}-{name}.log", slot.id))
}

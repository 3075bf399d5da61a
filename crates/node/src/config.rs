//! The configuration of containerd, the CNI plugins and the kubelet: text from facts, nothing else.

use crate::user_data::{KubeletOptions, NodeSpec};
use ekstra_domain::ec2::{InstanceType, instance_type};
use ekstra_domain::prefix::Prefix;
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr};

pub(crate) const CA_FILE: &str = "/etc/kubernetes/pki/ca.crt";
pub(crate) const KUBECONFIG: &str = "/var/lib/kubelet/kubeconfig";
pub(crate) const KUBELET_CONFIG: &str = "/etc/kubernetes/kubelet/config.json";
pub(crate) const CONTAINERD_CONFIG: &str = "/etc/containerd/config.toml";
pub(crate) const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";
pub(crate) const PAUSE_IMAGE: &str = "registry.k8s.io/pause:3.10";

/// What the instance knows about itself.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) instance_id: String,
    pub(crate) instance_type: String,
    pub(crate) zone: String,
    pub(crate) address: Ipv4Addr,
    pub(crate) hostname: String,
    pub(crate) domain: String,
    pub(crate) vpc_cidr: Prefix,
    pub(crate) prefixes: Vec<Prefix>,
    /// A pull-through registry, `http://…`.
    pub(crate) registry: Option<String>,
    pub(crate) open_files: u64,
}

impl Facts {
    fn size(&self) -> Option<&'static InstanceType> {
        instance_type(&self.instance_type)
    }
}

pub(crate) fn resolv_conf(facts: &Facts) -> String {
    let resolver = facts.vpc_cidr.nth(2).unwrap_or(facts.vpc_cidr.base());
    format!("search {}\nnameserver {resolver}\n", facts.domain)
}

pub(crate) fn hosts(facts: &Facts) -> String {
    format!("127.0.0.1 localhost\n{} {}\n", facts.address, facts.hostname)
}

/// `privileged_without_host_devices`: the machine's own device rules are narrower than everything, and a runtime that
/// asks for everything is refused by the kernel. `restrict_oom_score_adj`: the machine may not let us lower scores (no CAP_SYS_RESOURCE in many containers).
pub(crate) fn containerd() -> String {
    format!(
        r#"version = 3
root = "/var/lib/containerd"
state = "/run/containerd"

[grpc]
  address = "{CONTAINERD_SOCKET}"

[plugins.'io.containerd.cri.v1.images']
  snapshotter = "overlayfs"
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = "{PAUSE_IMAGE}"
  [plugins.'io.containerd.cri.v1.images'.registry]
    config_path = "/etc/containerd/certs.d"

[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["/opt/cni/bin"]
    conf_dir = "/etc/cni/net.d"
  [plugins.'io.containerd.cri.v1.runtime'.containerd]
    default_runtime_name = "runc"
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      privileged_without_host_devices = true
      [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
        BinaryName = "/usr/local/bin/runc"
        SystemdCgroup = false
"#
    )
}

/// Every registry is asked for at `registry` first; what that lacks is fetched from where it says.
pub(crate) fn registry_mirror(registry: &str) -> String {
    format!("[host.\"{registry}\"]\n  capabilities = [\"pull\", \"resolve\"]\n")
}

/// Pods get addresses of the VPC out of the interface's prefixes; nothing is masqueraded on the node.
pub(crate) fn cni(prefixes: &[Prefix], mtu: u32) -> Value {
    let ranges: Vec<Value> = prefixes.iter().map(|p| json!({"subnet": p})).collect();
    json!({
        "cniVersion": "1.0.0",
        "name": "vpc",
        "plugins": [
            {
                "type": "ptp",
                "mtu": mtu,
                "ipMasq": false,
                "ipam": {
                    "type": "host-local",
                    "dataDir": "/run/cni/addresses",
                    "ranges": [ranges],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}, "backend": "nftables"},
        ],
    })
}

pub(crate) fn kubeconfig(spec: &NodeSpec) -> Value {
    let cluster = spec.cluster.name.clone().unwrap_or_default();
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": "cluster",
            "cluster": {"server": spec.cluster.api_server_endpoint, "certificate-authority": CA_FILE},
        }],
        "users": [{
            "name": "kubelet",
            "user": {"exec": {
                "apiVersion": "client.authentication.k8s.io/v1",
                "command": "/usr/local/bin/ekstra-node",
                "args": ["token", cluster],
                "interactiveMode": "Never",
                "provideClusterInfo": false,
            }},
        }],
        "contexts": [{"name": "node", "context": {"cluster": "cluster", "user": "kubelet"}}],
        "current-context": "node",
    })
}

/// The tenth address of the service range, as EKS's clusters have it.
fn cluster_dns(spec: &NodeSpec) -> Option<String> {
    let cidr: Prefix = spec.cluster.cidr.as_deref()?.parse().ok()?;
    cidr.nth(10).map(|a| a.to_string())
}

/// EKS's reservations (amazon-eks-ami's bootstrap): memory 255 MiB + 11 MiB a pod; CPU 6 % of the first core, 1 % of
/// the second, 0.5 % of the next two, 0.25 % of the rest.
fn reserved(cpus: u32, max_pods: u32) -> Value {
    let millis = |from: u32, to: u32, tenths_of_percent: u32| {
        cpus.min(to).saturating_sub(from) * tenths_of_percent * 10 / 10
    };
    let total = millis(0, 1, 60) + millis(1, 2, 10) + millis(2, 4, 5) + millis(4, 4096, 2);
    json!({"cpu": format!("{total}m"), "memory": format!("{}Mi", 255 + 11 * max_pods)})
}

pub(crate) fn kubelet(facts: &Facts, spec: &NodeSpec) -> Value {
    let max_pods = facts.size().map_or(17, InstanceType::max_pods);
    let mut config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": "0.0.0.0",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true, "cacheTTL": "2m0s"},
            "x509": {"clientCAFile": CA_FILE},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": false,
        "clusterDomain": "cluster.local",
        "clusterDNS": cluster_dns(spec).into_iter().collect::<Vec<_>>(),
        "containerRuntimeEndpoint": format!("unix://{CONTAINERD_SOCKET}"),
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "10%", "nodefs.inodesFree": "5%"},
        "failSwapOn": false,
        "kubeReserved": reserved(facts.size().map_or(2, |t| t.vcpus), max_pods),
        "makeIPTablesUtilChains": false,
        "maxOpenFiles": facts.open_files,
        "maxPods": max_pods,
        // A volume is mounted only after the node's status has said that it is in use; at the default of 10 s, a pod
        // with a volume waits 5 s for that.
        "nodeStatusUpdateFrequency": "1s",
        // Without this, the status would be sent as often as it is looked at, changed or not: at ten times the cost of
        // an idle cluster.
        "nodeStatusReportFrequency": "5m",
        "oomScoreAdj": 0,
        "protectKernelDefaults": true,
        "providerID": format!("aws:///{}/{}", facts.zone, facts.instance_id),
        "readOnlyPort": 0,
        "resolvConf": "/etc/resolv.conf",
        "serializeImagePulls": false,
        "serverTLSBootstrap": true,
    });
    overlay(&mut config, &spec.kubelet);
    config
}

fn overlay(config: &mut Value, options: &KubeletOptions) {
    let Some(target) = config.as_object_mut() else {
        return;
    };
    for (key, value) in &options.config {
        match (target.get_mut(key), value) {
            (Some(Value::Object(old)), Value::Object(new)) => {
                old.extend(new.iter().map(|(k, v)| (k.clone(), v.clone())));
            }
            _ => {
                target.insert(key.clone(), value.clone());
            }
        }
    }
}

pub(crate) fn kubelet_flags(facts: &Facts, spec: &NodeSpec) -> Vec<String> {
    let mut flags = vec![
        format!("--config={KUBELET_CONFIG}"),
        format!("--kubeconfig={KUBECONFIG}"),
        "--cloud-provider=external".to_owned(),
        format!("--hostname-override={}", facts.hostname),
        format!("--node-ip={}", facts.address),
    ];
    flags.extend(spec.kubelet.flags.iter().cloned());
    flags
}

/// Where the kubelet says how it is; `None` if its owner turned that off or moved it by flags, which are theirs.
pub(crate) fn kubelet_health(spec: &NodeSpec) -> Option<SocketAddr> {
    let option = |name: &str| spec.kubelet.config.get(name);
    let port = option("healthzPort").map_or(Some(10248), Value::as_u64)?;
    let address = option("healthzBindAddress").map_or(Some("127.0.0.1"), Value::as_str)?;
    let is_moved = spec.kubelet.flags.iter().any(|flag| flag.starts_with("--healthz-"));
    let port = u16::try_from(port).ok().filter(|port| *port != 0 && !is_moved)?;
    Some(SocketAddr::new(address.parse().ok()?, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::user_data;

    fn facts() -> Facts {
        Facts {
            instance_id: "i-1".into(),
            instance_type: "m5.large".into(),
            zone: "us-east-1a".into(),
            address: Ipv4Addr::new(172, 31, 0, 4),
            hostname: "ip-172-31-0-4.ec2.internal".into(),
            domain: "ec2.internal".into(),
            vpc_cidr: "172.31.0.0/16".parse().expect("valid"),
            prefixes: vec!["172.31.15.224/28".parse().expect("valid")],
            registry: None,
            open_files: 1024,
        }
    }

    #[test]
    fn the_kubelet_gets_the_types_defaults_and_the_users_overrides() {
        let data = user_data::parse(
            "spec: {cluster: {name: c, cidr: 10.100.0.0/16}, kubelet: {config: {evictionHard: {memory.available: 5%}, maxPods: 5}, flags: [--v=2]}}",
        )
        .expect("parses");
        let config = kubelet(&facts(), &data.node.spec);
        assert_eq!(config["clusterDNS"], json!(["10.100.0.10"]));
        assert_eq!(config["maxPods"], 5);
        assert_eq!(config["evictionHard"]["memory.available"], "5%");
        assert_eq!(config["evictionHard"]["nodefs.available"], "10%");
        assert_eq!(config["providerID"], "aws:///us-east-1a/i-1");
        assert_eq!(config["kubeReserved"], json!({"cpu": "70m", "memory": "574Mi"}));
        assert_eq!(kubelet_flags(&facts(), &data.node.spec).last().map(String::as_str), Some("--v=2"));
    }

    #[test]
    fn the_kubelet_is_asked_where_its_owner_put_it() {
        let asked = |kubelet: &str| {
            let text = format!("spec: {{kubelet: {{{kubelet}}}}}");
            kubelet_health(&user_data::parse(&text).expect("parses").node.spec).map(|a| a.to_string())
        };
        assert_eq!(asked("").as_deref(), Some("127.0.0.1:10248"));
        assert_eq!(asked("config: {healthzPort: 7}").as_deref(), Some("127.0.0.1:7"));
        assert_eq!(asked("config: {healthzPort: 0}"), None);
        assert_eq!(asked("flags: [--healthz-port=7]"), None);
    }

    #[test]
    fn names_are_resolved_at_base_plus_two() {
        assert_eq!(resolv_conf(&facts()), "search ec2.internal\nnameserver 172.31.0.2\n");
    }
}

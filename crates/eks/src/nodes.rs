//! The cloud's part in a node's life: it is given its addresses, zone and type, its serving certificate is approved, and
//! it is removed when its instance is gone. Certificates of workloads are signed here too (`signing.rs`). One watcher a
//! cluster.
//!
//! Invariant: a node gets nothing that its instance's record does not say, whatever the kubelet claims.

use crate::Eks;
use crate::controller::{Reached, down, reach};
use crate::signing::{self, KUBELET_SERVING, SigningError};
use ekstra_domain::ec2::Instance;
use ekstra_domain::names::{Scope, keys};
use ekstra_engine::{Next, Reconciler, blocking};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, WatchEvent, WatchParams};
use kube::{Client, ResourceExt};
use serde_json::json;
use std::time::Duration;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509CertificationRequest};

const UNINITIALIZED: &str = "node.cloudprovider.kubernetes.io/uninitialized";
/// Everything is looked at this often even when no event says so.
const RESYNC: Duration = Duration::from_secs(30);

/// One watcher for every cluster that can have nodes.
#[derive(Debug)]
pub struct NodeControllers {
    eks: Eks,
}

#[derive(Debug, thiserror::Error)]
pub enum NodesError {
    #[error("{0}")]
    Client(String),
    #[error("API server: {0}")]
    Kube(#[from] kube::Error),
}

impl Reconciler for NodeControllers {
    type Error = NodesError;

    fn name(&self) -> &'static str {
        "nodes"
    }

    fn keys(&self) -> Vec<String> {
        self.eks.cluster_keys()
    }

    fn affected(&self, changed: &str) -> Vec<String> {
        if changed.starts_with(keys::CLUSTERS) { vec![changed.to_owned()] } else { Vec::new() }
    }

    fn reconcile(&self, key: String) -> BoxFuture<'_, Result<Next, NodesError>> {
        async move {
            let reached = reach(&self.eks, &key).await.map_err(|e| NodesError::Client(e.to_string()))?;
            let Some(Reached { cluster, slot, client }) = reached else { return Ok(Next::OnChange) };
            let watcher = Watcher { eks: &self.eks, scope: cluster.scope, slot: slot.id.clone(), client };
            tokio::select! {
                done = watcher.run() => done.map(|()| Next::After(Duration::from_millis(200))),
                () = down(&self.eks, &key) => Ok(Next::After(Duration::from_millis(1))),
            }
        }
        .boxed()
    }
}

impl NodeControllers {
    pub fn new(eks: Eks) -> Self {
        Self { eks }
    }
}

struct Watcher<'a> {
    eks: &'a Eks,
    scope: Scope,
    slot: String,
    client: Client,
}

impl Watcher<'_> {
    /// Lists, then follows; returns when a watch ends, which they do every few minutes.
    async fn run(&self) -> Result<(), NodesError> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let requests: Api<CertificateSigningRequest> = Api::all(self.client.clone());
        // Before the lists: what ends after this is seen as a change, what ended before in the lists.
        let mut head = self.eks.cloud.store.head();
        let mut seen = *head.borrow_and_update();
        let resync = tokio::time::sleep(RESYNC);
        tokio::pin!(resync);
        let listed = nodes.list(&ListParams::default()).await?;
        let node_version = listed.metadata.resource_version.unwrap_or_default();
        for node in &listed.items {
            self.see_node(node).await?;
        }
        let listed = requests.list(&ListParams::default()).await?;
        let request_version = listed.metadata.resource_version.unwrap_or_default();
        for request in &listed.items {
            self.see_request(request).await?;
        }
        let mut node_events = nodes.watch(&WatchParams::default(), &node_version).await?.boxed();
        let mut request_events = requests.watch(&WatchParams::default(), &request_version).await?.boxed();
        loop {
            tokio::select! {
                event = node_events.next() => match event {
                    Some(Ok(WatchEvent::Added(node) | WatchEvent::Modified(node))) => self.see_node(&node).await?,
                    Some(Ok(WatchEvent::Deleted(_) | WatchEvent::Bookmark(_))) => {}
                    _ => return Ok(()),
                },
                event = request_events.next() => match event {
                    Some(Ok(WatchEvent::Added(request) | WatchEvent::Modified(request))) => {
                        self.see_request(&request).await?;
                    }
                    Some(Ok(WatchEvent::Deleted(_) | WatchEvent::Bookmark(_))) => {}
                    _ => return Ok(()),
                },
                changed = head.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    let now = *head.borrow_and_update();
                    if !self.see_store(seen).await? {
                        return Ok(());
                    }
                    seen = now;
                }
                () = &mut resync => return Ok(()),
            }
        }
    }

    /// An instance that ended takes its node with it. `false` when it is too long ago to know what changed.
    async fn see_store(&self, since: u64) -> Result<bool, NodesError> {
        let view = self.eks.cloud.store.view();
        let prefix = keys::scoped(keys::INSTANCES, &self.scope);
        let Some(changed) = view.changed_since(since) else { return Ok(false) };
        for key in changed.iter().filter(|key| key.starts_with(&prefix)) {
            if let Some(instance) = view.get_as::<Instance>(key)
                && !instance.state.is_alive()
            {
                self.delete_node_of(&instance).await?;
            }
        }
        Ok(true)
    }

    /// Names are reused with their addresses: the node of a later instance is not this one's.
    async fn delete_node_of(&self, instance: &Instance) -> Result<(), NodesError> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let Some(node) = nodes.get_opt(&instance.private_dns_name).await? else { return Ok(()) };
        let provider = node.spec.as_ref().and_then(|s| s.provider_id.as_deref()).unwrap_or_default();
        if provider.ends_with(&format!("/{}", instance.id)) {
            return self.delete_node(&instance.private_dns_name).await;
        }
        Ok(())
    }

    async fn delete_node(&self, name: &str) -> Result<(), NodesError> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        match nodes.delete(name, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            other => Ok(other.map(drop)?),
        }
    }

    fn instance_of(&self, node: &Node) -> Option<Instance> {
        let provider = node.spec.as_ref()?.provider_id.as_deref()?;
        let id = provider.rsplit('/').next()?;
        self.eks.cloud.store.view().get_as(&keys::instance(&self.scope, id))
    }

    async fn see_node(&self, node: &Node) -> Result<(), NodesError> {
        let spec = node.spec.clone().unwrap_or_default();
        let Some(provider) = spec.provider_id.as_deref() else {
            return Ok(());
        };
        let Some(instance) = self.instance_of(node) else {
            if provider.starts_with("aws:///") {
                return self.delete_node(&node.name_any()).await;
            }
            return Ok(());
        };
        if !instance.state.is_alive() || instance.private_dns_name != node.name_any() {
            return self.delete_node(&node.name_any()).await;
        }
        let taints = spec.taints.unwrap_or_default();
        if taints.iter().any(|t| t.key == UNINITIALIZED) {
            self.initialize(node, &instance).await
        } else {
            Ok(())
        }
    }

    /// Addresses first: the taint's end lets pods in, and they ask for the node's address.
    async fn initialize(&self, node: &Node, instance: &Instance) -> Result<(), NodesError> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let name = node.name_any();
        let addresses = json!([
            {"type": "InternalIP", "address": instance.address.to_string()},
            {"type": "InternalDNS", "address": instance.private_dns_name},
            {"type": "Hostname", "address": instance.private_dns_name},
        ]);
        let status = Patch::Strategic(json!({"status": {"addresses": addresses}}));
        nodes.patch_status(&name, &PatchParams::default(), &status).await?;
        let region = &instance.scope.region;
        // The status patch moved the version on; what is kept must be what is there now.
        let current = nodes.get(&name).await?;
        let taints = current.spec.iter().flat_map(|s| s.taints.iter().flatten());
        let kept: Vec<_> = taints.filter(|t| t.key != UNINITIALIZED).cloned().collect();
        let patch = json!({
            "metadata": {
                "resourceVersion": current.resource_version(),
                "labels": {
                    "node.kubernetes.io/instance-type": instance.instance_type,
                    "beta.kubernetes.io/instance-type": instance.instance_type,
                    "topology.kubernetes.io/region": region,
                    "failure-domain.beta.kubernetes.io/region": region,
                    "topology.kubernetes.io/zone": instance.zone,
                    "failure-domain.beta.kubernetes.io/zone": instance.zone,
                    "topology.k8s.aws/zone-id": ekstra_domain::ec2::zone_id(region, &instance.zone),
                },
            },
            "spec": {"taints": kept},
        });
        match nodes.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
            // Somebody was faster; the event of that change brings the node here again.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            other => Ok(other.map(drop)?),
        }
    }

    /// Approves the serving certificate of a node for exactly its own names (`design.md` §2).
    async fn see_request(&self, request: &CertificateSigningRequest) -> Result<(), NodesError> {
        if signing::is_due(request) {
            return self.sign(request).await;
        }
        let decided =
            request.status.as_ref().and_then(|s| s.conditions.as_ref()).is_some_and(|c| !c.is_empty());
        if decided || request.spec.signer_name != KUBELET_SERVING {
            return Ok(());
        }
        let verdict = self.judge(request);
        let (kind, reason, message) = match &verdict {
            Ok(()) => {
                ("Approved", "InstanceMatches", "the names are those of the node's instance".to_owned())
            }
            Err(why) => ("Denied", "InstanceDiffers", why.clone()),
        };
        let condition = json!({"type": kind, "status": "True", "reason": reason, "message": message});
        let patch = Patch::Merge(json!({"status": {"conditions": [condition]}}));
        let requests: Api<CertificateSigningRequest> = Api::all(self.client.clone());
        requests.patch_approval(&request.name_any(), &PatchParams::default(), &patch).await?;
        Ok(())
    }

    /// What cannot be signed is told in the request, as upstream's signers do.
    async fn sign(&self, request: &CertificateSigningRequest) -> Result<(), NodesError> {
        let (asked, files) = (request.clone(), self.eks.files(&self.slot));
        let status = match blocking(move || signing::sign(&asked, &files)).await {
            Ok(pem) => json!({"certificate": ByteString(pem.into_bytes())}),
            Err(SigningError::Authority(error)) => return Err(NodesError::Client(error.to_string())),
            Err(error) => {
                let decided = request.status.iter().flat_map(|s| s.conditions.iter().flatten());
                let failed = json!({
                    "type": "Failed", "status": "True", "reason": "SigningFailed", "message": error.to_string(),
                });
                let conditions: Vec<_> = decided.map(|c| json!(c)).chain([failed]).collect();
                json!({"conditions": conditions})
            }
        };
        let requests: Api<CertificateSigningRequest> = Api::all(self.client.clone());
        let patch = Patch::Merge(json!({"status": status}));
        requests.patch_status(&request.name_any(), &PatchParams::default(), &patch).await?;
        Ok(())
    }

    fn judge(&self, request: &CertificateSigningRequest) -> Result<(), String> {
        let user = request.spec.username.as_deref().unwrap_or_default();
        let node = user.strip_prefix("system:node:").ok_or_else(|| format!("{user} is not a node"))?;
        let instances =
            self.eks.cloud.store.view().list_as::<Instance>(&keys::scoped(keys::INSTANCES, &self.scope));
        let instance =
            instances.into_iter().map(|(_, i)| i).find(|i| i.private_dns_name == node && i.state.is_alive());
        let instance = instance.ok_or_else(|| format!("no running instance is called {node}"))?;
        check_names(&request.spec.request.0, user, &instance)
    }
}

fn check_names(pem: &[u8], user: &str, instance: &Instance) -> Result<(), String> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem).map_err(|e| format!("not PEM: {e}"))?;
    let (_, request) =
        X509CertificationRequest::from_der(&pem.contents).map_err(|e| format!("not a CSR: {e}"))?;
    let subject = &request.certification_request_info.subject;
    let name = subject.iter_common_name().next().and_then(|n| n.as_str().ok()).unwrap_or_default();
    if name != user {
        return Err(format!("subject {name} is not {user}"));
    }
    for extension in request.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(names) = extension else {
            continue;
        };
        for name in &names.general_names {
            let own = match name {
                GeneralName::DNSName(dns) => *dns == instance.private_dns_name,
                GeneralName::IPAddress(bytes) => *bytes == instance.address.octets(),
                _ => false,
            };
            if !own {
                return Err(format!("{name} is not the instance's"));
            }
        }
    }
    Ok(())
}

//! Emptying a node through the Eviction API, as `kubectl drain` does: pods of DaemonSets, mirror pods and finished pods
//! are nobody's loss.

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, EvictParams, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::json;

const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// Marks the node as leaving: nothing new is scheduled, load balancers look away.
pub(crate) async fn cordon(client: &Client, node: &str) -> Result<(), kube::Error> {
    let patch = json!({
        "metadata": {"labels": {EXCLUDED: "true"}},
        "spec": {"unschedulable": true},
    });
    let nodes: Api<Node> = Api::all(client.clone());
    match nodes.get_opt(node).await? {
        Some(found) if !is_cordoned(&found) => {}
        _ => return Ok(()),
    }
    match nodes.patch(node, &PatchParams::default(), &Patch::Strategic(patch)).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other.map(drop),
    }
}

fn is_cordoned(node: &Node) -> bool {
    let closed = node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
    closed && node.labels().get(EXCLUDED).is_some_and(|value| value == "true")
}

/// Whether a node other than these is ready for further pods.
pub(crate) async fn takes_pods(client: &Client, but: &[&str]) -> Result<bool, kube::Error> {
    let nodes: Api<Node> = Api::all(client.clone());
    let takes = |node: &Node| {
        let closed = node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
        is_ready(node) && !closed && !but.contains(&node.name_any().as_str())
    };
    Ok(nodes.list(&ListParams::default()).await?.items.iter().any(takes))
}

pub(crate) fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// Pods that keep the node from being empty.
pub(crate) async fn pods_left(client: &Client, node: &str) -> Result<Vec<Pod>, kube::Error> {
    let pods: Api<Pod> = Api::all(client.clone());
    let on_node = ListParams::default().fields(&format!("spec.nodeName={node}"));
    Ok(pods.list(&on_node).await?.items.into_iter().filter(holds_node).collect())
}

fn holds_node(pod: &Pod) -> bool {
    let of_daemon_set =
        pod.owner_references().iter().any(|o| o.kind == "DaemonSet" && o.controller == Some(true));
    let mirror = pod.annotations().contains_key("kubernetes.io/config.mirror");
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    !of_daemon_set && !mirror && !matches!(phase, Some("Succeeded" | "Failed"))
}

/// Asks for the end of every such pod; answers how many a disruption budget keeps (429). They are asked again later.
pub(crate) async fn evict_all(client: &Client, node: &str) -> Result<usize, kube::Error> {
    let (mut kept, mut failed) = (0, None);
    for pod in pods_left(client, node).await? {
        if pod.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let namespace = pod.namespace().unwrap_or_default();
        let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
        match pods.evict(&pod.name_any(), &EvictParams::default()).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409 | 429) => {
                kept += usize::from(status.code == 429);
                tracing::info!(node, pod = pod.name_any(), reason = status.message, "not evicted yet");
            }
            // The others are asked all the same.
            Err(error) => failed = Some(error),
        }
    }
    failed.map_or(Ok(kept), Err)
}

//! Changed labels and taints of a node group, on nodes that are there already.
//!
//! Invariant: what the group never had is not touched: users label and taint nodes too.

use ekstra_domain::eks::{NodeChange, Taint};
use k8s_openapi::api::core::v1::{Node, Taint as NodeTaint};
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

/// A node that went meanwhile needs nothing; one that changed meanwhile is an error, for the next try.
pub(crate) async fn apply(client: &Client, node: &Node, change: &NodeChange) -> Result<(), kube::Error> {
    let nodes: Api<Node> = Api::all(client.clone());
    let patch = Patch::Merge(patch(node, change));
    match nodes.patch(&node.name_any(), &PatchParams::default(), &patch).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other.map(drop),
    }
}

fn patch(node: &Node, change: &NodeChange) -> Value {
    let removed = change.remove_labels.iter().map(|key| (key.clone(), Value::Null));
    let added = change.labels.iter().map(|(key, value)| (key.clone(), json!(value)));
    let labels: serde_json::Map<String, Value> = removed.chain(added).collect();
    let before = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    json!({
        "metadata": {"labels": labels, "resourceVersion": node.resource_version()},
        "spec": {"taints": taints(before, change)},
    })
}

fn taints(before: Vec<NodeTaint>, change: &NodeChange) -> Vec<NodeTaint> {
    let is = |taint: &NodeTaint, of: &Taint| taint.key == of.key && taint.effect == of.kubernetes_effect();
    let goes = |taint: &NodeTaint| change.remove_taints.iter().chain(&change.taints).any(|t| is(taint, t));
    let mut after: Vec<NodeTaint> = before.into_iter().filter(|taint| !goes(taint)).collect();
    after.extend(change.taints.iter().map(|taint| NodeTaint {
        key: taint.key.clone(),
        value: taint.value.clone(),
        effect: taint.kubernetes_effect().to_owned(),
        ..Default::default()
    }));
    after
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::NodeSpec;

    #[test]
    fn what_the_group_changed_changes_and_the_rest_stays() {
        let taint = |key: &str, effect: &str| NodeTaint {
            key: key.into(),
            value: Some("v".into()),
            effect: effect.into(),
            ..Default::default()
        };
        let ours = |key: &str, effect: &str, value: &str| Taint {
            key: key.into(),
            value: Some(value.into()),
            effect: effect.into(),
        };
        let mut node = Node::default();
        node.metadata.resource_version = Some("7".into());
        let taints = ["user", "gone", "new"].map(|key| taint(key, "NoSchedule")).to_vec();
        node.spec = Some(NodeSpec { taints: Some(taints), ..Default::default() });
        let change = NodeChange {
            remove_labels: vec!["a".into()],
            labels: [("b".to_owned(), "2".to_owned())].into(),
            remove_taints: vec![ours("gone", "NO_SCHEDULE", "v"), ours("user", "NO_EXECUTE", "v")],
            taints: vec![ours("new", "NO_SCHEDULE", "w")],
        };
        let expected = json!({
            "metadata": {"labels": {"a": null, "b": "2"}, "resourceVersion": "7"},
            "spec": {"taints": [
                {"key": "user", "value": "v", "effect": "NoSchedule"},
                {"key": "new", "value": "w", "effect": "NoSchedule"},
            ]},
        });
        assert_eq!(patch(&node, &change), expected);
    }
}

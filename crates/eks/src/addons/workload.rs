//! What a cluster shows of an add-on: the workload whose pods it is.

use super::catalogue::{Definition, Kind, NAMESPACE};
use ekstra_domain::eks::Workload;
use futures::Stream;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::Value;

pub(super) fn watch(
    definition: &Definition,
    client: Client,
) -> impl Stream<Item = Result<watcher::Event<DynamicObject>, watcher::Error>> + use<> {
    let kind = match definition.kind {
        Kind::Deployment => "Deployment",
        Kind::DaemonSet => "DaemonSet",
    };
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("apps", "v1", kind));
    let api: Api<DynamicObject> = Api::namespaced_with(client, NAMESPACE, &resource);
    let one = watcher::Config::default().fields(&format!("metadata.name={}", definition.workload));
    watcher(api, one).default_backoff()
}

/// How many of its pods are there, of this very specification.
pub(super) fn read(kind: Kind, object: Option<DynamicObject>) -> Workload {
    let Some(object) = object else { return Workload::Missing };
    let number = |pointer: &str| object.data.pointer(pointer).and_then(Value::as_i64);
    let status = |name: &str| number(&format!("/status/{name}")).unwrap_or(0);
    let is_current = status("observedGeneration") >= object.metadata.generation.unwrap_or(0);
    match kind {
        // Its controller has not looked at it yet.
        _ if !is_current => Workload::Replicas { ready: 0, wanted: 1 },
        // Pods of an earlier specification may be available, and stay as long as the new ones are not.
        Kind::Deployment => Workload::Replicas {
            ready: status("availableReplicas") + status("updatedReplicas") - status("replicas"),
            wanted: number("/spec/replicas").unwrap_or(1),
        },
        Kind::DaemonSet => Workload::Replicas {
            ready: status("numberAvailable").min(status("updatedNumberScheduled")),
            wanted: status("desiredNumberScheduled"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn workload(kind: Kind, object: Value) -> Workload {
        let mut full =
            json!({"apiVersion": "apps/v1", "kind": "X", "metadata": {"name": "x", "generation": 2}});
        full.as_object_mut().expect("one").extend(object.as_object().expect("one").clone());
        read(kind, Some(serde_json::from_value(full).expect("an object")))
    }

    #[test]
    fn only_pods_of_the_present_specification_count() {
        let deployment = |observed: i64, updated: i64, available: i64| {
            let status = json!({"observedGeneration": observed, "replicas": 2, "updatedReplicas": updated, "availableReplicas": available});
            workload(Kind::Deployment, json!({"spec": {"replicas": 2}, "status": status}))
        };
        assert!(deployment(2, 2, 2).is_healthy());
        assert!(!deployment(1, 2, 2).is_healthy(), "its controller has not seen it");
        assert!(!deployment(2, 1, 2).is_healthy() && !deployment(2, 2, 1).is_healthy());
        let stuck =
            json!({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 1, "availableReplicas": 1});
        let stuck = json!({"spec": {"replicas": 1}, "status": stuck});
        assert!(!workload(Kind::Deployment, stuck).is_healthy(), "the one that is available is the old one");
        let none = json!({"spec": {"replicas": 0}, "status": {"observedGeneration": 2}});
        assert!(workload(Kind::Deployment, none).is_healthy(), "none are wanted");
        assert!(!workload(Kind::Deployment, json!({"spec": {}})).is_healthy());
        let daemons = |observed: i64, wanted: i64, ready: i64| {
            let status = json!({"observedGeneration": observed, "desiredNumberScheduled": wanted,
                                "numberAvailable": ready, "updatedNumberScheduled": wanted});
            workload(Kind::DaemonSet, json!({"status": status}))
        };
        assert!(daemons(2, 0, 0).is_healthy() && daemons(2, 3, 3).is_healthy());
        assert!(!daemons(1, 0, 0).is_healthy() && !daemons(2, 3, 2).is_healthy());
        assert_eq!(read(Kind::DaemonSet, None), Workload::Missing);
    }
}

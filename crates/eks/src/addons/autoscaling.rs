//! The replicas of CoreDNS, where its add-on is told to choose them by the size of the cluster (`autoScaling`).
//!
//! They are set through the Deployment's scale under a field manager of their own, so that what the add-on writes, what
//! grows with the cluster and what others have set can be told apart.

use super::catalogue::{Definition, NAMESPACE};
use crate::manifest::FIELD_MANAGER as ADDON_MANAGER;
use crate::quantity::thousandths;
use ekstra_domain::eks::{Bounds, Demand};
use ekstra_engine::Env;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::Client;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

const FIELD_MANAGER: &str = "eks-autoscaler";
/// How often the cluster is measured.
const EVERY: Duration = Duration::from_secs(10);
/// As the schema has them.
const LEAST: i64 = 2;
const MOST: i64 = 1000;

/// What a configuration says of it; `None` where replicas are not chosen so.
pub(super) fn bounds(values: &Map<String, Value>) -> Option<Bounds> {
    let given = values.get("autoScaling")?;
    given.get("enabled").and_then(Value::as_bool).filter(|enabled| *enabled)?;
    // To the schema 4.0 is an integer, too.
    let number = |name: &str| {
        let value = given.get(name)?;
        value.as_i64().or_else(|| value.as_f64().map(|number| number as i64))
    };
    Some(Bounds {
        least: number("minReplicas").unwrap_or(LEAST),
        most: number("maxReplicas").unwrap_or(MOST),
    })
}

/// What a schema cannot say.
pub(super) fn check(values: &Map<String, Value>) -> Result<(), String> {
    match bounds(values) {
        Some(Bounds { least, most }) if least > most => {
            Err(format!("autoScaling.minReplicas ({least}) is more than autoScaling.maxReplicas ({most})"))
        }
        _ => Ok(()),
    }
}

/// The replicas that there are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Scale {
    pub(super) replicas: i64,
    /// Whether nobody else has set them so.
    pub(super) is_ours: bool,
}

impl Scale {
    fn of(replicas: Option<i32>, managers: &[ManagedFieldsEntry]) -> Self {
        let has_set = |entry: &&ManagedFieldsEntry| {
            let fields = entry.fields_v1.as_ref().and_then(|fields| serde_json::to_value(fields).ok());
            fields.is_some_and(|fields| fields.pointer("/f:spec/f:replicas").is_some())
        };
        let by: Vec<&str> =
            managers.iter().filter(has_set).filter_map(|entry| entry.manager.as_deref()).collect();
        Self {
            replicas: replicas.unwrap_or(1).into(),
            is_ours: by.contains(&FIELD_MANAGER)
                && by.iter().all(|manager| [FIELD_MANAGER, ADDON_MANAGER].contains(manager)),
        }
    }

    /// What an add-on is to write instead of `rendered`: what grew with the cluster stays while it may.
    pub(super) fn taken_over(self, bounds: Option<Bounds>, rendered: i64) -> i64 {
        bounds.map_or(rendered, |bounds| bounds.clamp(self.replicas))
    }
}

pub(super) async fn read(definition: &Definition, client: &Client) -> Result<Option<Scale>, kube::Error> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let Some(found) = deployments.get_opt(definition.workload).await? else { return Ok(None) };
    let managers = found.metadata.managed_fields.unwrap_or_default();
    Ok(Some(Scale::of(found.spec.and_then(|spec| spec.replicas), &managers)))
}

pub(super) async fn set(definition: &Definition, client: &Client, replicas: i64) -> Result<(), kube::Error> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
    let by = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
    deployments.patch_scale(definition.workload, &by, &patch).await.map(drop)
}

/// What clusters have asked for lately, by the keys of their add-ons.
#[derive(Debug, Default)]
pub(super) struct Demands(Mutex<HashMap<String, Demand>>);

impl Demands {
    pub(super) fn replicas(
        &self,
        env: &Env,
        key: &str,
        size: (i64, i64),
        current: i64,
        bounds: Bounds,
    ) -> i64 {
        let now = env.steady_ms();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let demand = known.entry(key.to_owned()).or_insert_with(|| Demand::since(now));
        demand.replicas(now, size, current, bounds)
    }

    pub(super) fn forget(&self, key: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

/// Keeps as many replicas as are `wanted` for nodes and cores and what there is, for as long as it is polled.
pub(super) async fn keep(
    definition: &Definition,
    client: &Client,
    wanted: impl Fn((i64, i64), i64) -> i64,
) -> Infallible {
    loop {
        if let Err(error) = once(definition, client, &wanted).await {
            tracing::warn!(addon = definition.name, %error, "autoscaling");
        }
        tokio::time::sleep(EVERY).await;
    }
}

async fn once(
    definition: &Definition,
    client: &Client,
    wanted: &impl Fn((i64, i64), i64) -> i64,
) -> Result<(), kube::Error> {
    let Some(Scale { replicas, .. }) = read(definition, client).await? else { return Ok(()) };
    // What the API server has in memory is new enough.
    let all = ListParams { resource_version: Some("0".into()), ..ListParams::default() };
    let nodes = Api::<Node>::all(client.clone()).list(&all).await?.items;
    let size = (i64::try_from(nodes.len()).unwrap_or(i64::MAX), cores(&nodes));
    let wanted = wanted(size, replicas);
    if wanted != replicas {
        tracing::info!(
            addon = definition.name,
            replicas,
            wanted,
            nodes = size.0,
            cores = size.1,
            "autoscaling"
        );
        set(definition, client, wanted).await?;
    }
    Ok(())
}

/// Whole ones, of all nodes together.
fn cores(nodes: &[Node]) -> i64 {
    let capacity = |node: &Node| thousandths(&node.status.as_ref()?.capacity.as_ref()?.get("cpu")?.0);
    let sum = nodes.iter().filter_map(capacity).fold(0_u128, u128::saturating_add);
    i64::try_from(sum / 1000).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_enabled_has_bounds() {
        let values = |value: Value| value.as_object().cloned().expect("an object");
        assert_eq!(bounds(&values(json!({}))), None);
        assert_eq!(bounds(&values(json!({"autoScaling": {"enabled": false, "minReplicas": 4}}))), None);
        let on = values(json!({"autoScaling": {"enabled": true}}));
        assert_eq!((bounds(&on), check(&on)), (Some(Bounds { least: 2, most: 1000 }), Ok(())));
        let inverted =
            values(json!({"autoScaling": {"enabled": true, "minReplicas": 4.0, "maxReplicas": 3}}));
        assert!(check(&inverted).expect_err("refused").contains("minReplicas (4)"));
    }

    #[test]
    fn replicas_are_ours_when_nobody_else_has_set_them() {
        let entry = |manager: &str, member: &str| -> ManagedFieldsEntry {
            let fields = json!({"f:spec": {member: {}}});
            serde_json::from_value(json!({"manager": manager, "operation": "Update", "fieldsV1": fields}))
                .expect("an entry")
        };
        let replicas = |manager| entry(manager, "f:replicas");
        let (ours, addons, theirs) = (replicas(FIELD_MANAGER), replicas(ADDON_MANAGER), replicas("kubectl"));
        let other = entry(FIELD_MANAGER, "f:paused");
        for (managers, expected) in [
            (vec![], false),
            (vec![ours.clone()], true),
            (vec![ours.clone(), addons.clone()], true),
            (vec![addons], false),
            (vec![ours, theirs.clone()], false),
            (vec![other, theirs], false),
        ] {
            assert_eq!(
                Scale::of(Some(3), &managers),
                Scale { replicas: 3, is_ours: expected },
                "{managers:?}"
            );
        }
    }

    #[test]
    fn what_grew_stays_within_bounds() {
        let scale = Scale { replicas: 5, is_ours: true };
        for (bounds, expected) in [(None, 2), (Some((2, 10)), 5), (Some((2, 4)), 4), (Some((7, 10)), 7)] {
            let bounds = bounds.map(|(least, most)| Bounds { least, most });
            assert_eq!(scale.taken_over(bounds, 2), expected, "{bounds:?}");
        }
    }

    #[test]
    fn cores_are_the_capacity_of_all_nodes() {
        let node = |cpu: &str| -> Node {
            let node = json!({"metadata": {"name": "n"}, "status": {"capacity": {"cpu": cpu}}});
            serde_json::from_value(node).expect("a node")
        };
        assert_eq!(cores(&["2", "1930m", "2k", "70m", ""].map(node)), 2004);
        assert_eq!(cores(&[Node::default()]), 0);
        assert_eq!(cores(&["9E", "9E"].map(node)), i64::MAX);
    }
}

//! The replicas of CoreDNS, where its add-on is told to choose them by the size of the cluster (`autoScaling`).
//!
//! They are set through the Deployment's scale under a field manager of their own, so that what the add-on writes and what
//! grows with the cluster can be told apart.

use super::catalogue::{Definition, NAMESPACE};
use crate::quantity::whole;
use ekstra_domain::eks::{Bounds, Demand};
use ekstra_engine::Env;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Node;
use kube::Client;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::{Map, Value, json};
use std::convert::Infallible;
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
    let number = |name: &str| given.get(name).and_then(Value::as_i64);
    given.get("enabled").and_then(Value::as_bool).filter(|enabled| *enabled)?;
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
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    pub(super) replicas: i64,
    /// Whether they were set here, and by nobody since.
    pub(super) is_ours: bool,
}

pub(super) async fn read(definition: &Definition, client: &Client) -> Result<Option<Scale>, kube::Error> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let Some(found) = deployments.get_opt(definition.workload).await? else { return Ok(None) };
    let managers = found.metadata.managed_fields.unwrap_or_default();
    let is_ours = managers.iter().any(|field| field.manager.as_deref() == Some(FIELD_MANAGER));
    let replicas = found.spec.and_then(|spec| spec.replicas).unwrap_or(1);
    Ok(Some(Scale { replicas: replicas.into(), is_ours }))
}

pub(super) async fn set(definition: &Definition, client: &Client, replicas: i64) -> Result<(), kube::Error> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
    let by = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
    deployments.patch_scale(definition.workload, &by, &patch).await.map(drop)
}

/// Keeps the replicas within the bounds, for as long as it is polled.
pub(super) async fn keep(definition: &Definition, client: &Client, bounds: Bounds, env: &Env) -> Infallible {
    let mut demand = Demand::since(env.now_ms());
    loop {
        if let Err(error) = once(definition, client, bounds, env, &mut demand).await {
            tracing::warn!(addon = definition.name, %error, "autoscaling");
        }
        tokio::time::sleep(EVERY).await;
    }
}

async fn once(
    definition: &Definition,
    client: &Client,
    bounds: Bounds,
    env: &Env,
    demand: &mut Demand,
) -> Result<(), kube::Error> {
    let Some(Scale { replicas, .. }) = read(definition, client).await? else { return Ok(()) };
    // What the API server has in memory is new enough.
    let all = ListParams { resource_version: Some("0".into()), ..ListParams::default() };
    let nodes = Api::<Node>::all(client.clone()).list(&all).await?.items;
    let size = (i64::try_from(nodes.len()).unwrap_or(i64::MAX), nodes.iter().map(cores).sum());
    let wanted = demand.replicas(env.now_ms(), size, replicas, bounds);
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

/// Whole ones.
fn cores(node: &Node) -> i64 {
    let capacity = node.status.as_ref().and_then(|status| status.capacity.as_ref()?.get("cpu"));
    let text = capacity.map(|quantity| quantity.0.as_str()).unwrap_or_default();
    let number = |text| whole(text).and_then(|n| i64::try_from(n).ok()).unwrap_or(0);
    text.strip_suffix('m').map_or_else(|| number(text), |thousandths| number(thousandths) / 1000)
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
        let inverted = values(json!({"autoScaling": {"enabled": true, "minReplicas": 4, "maxReplicas": 3}}));
        assert!(check(&inverted).expect_err("refused").contains("minReplicas (4)"));
    }

    #[test]
    fn cores_of_a_node_are_its_capacity() {
        let node = |cpu: &str| -> Node {
            let node = json!({"metadata": {"name": "n"}, "status": {"capacity": {"cpu": cpu}}});
            serde_json::from_value(node).expect("a node")
        };
        let found: Vec<i64> = ["2", "1930m", "2k", ""].map(node).iter().map(cores).collect();
        assert_eq!(found, [2, 1, 2000, 0]);
        assert_eq!(cores(&Node::default()), 0);
    }
}

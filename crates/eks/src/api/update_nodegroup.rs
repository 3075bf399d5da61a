//! UpdateNodegroupConfig and UpdateNodegroupVersion.

use super::create_nodegroup::{taints, update_config};
use super::{
    Repeat, find_nodegroup, in_use, invalid, invalid_parameter, invalid_request, no_cluster, no_nodegroup,
    present, unserved,
};
use crate::Eks;
use ekstra_cloud::api::{Call, Refusal};
use ekstra_domain::eks::{
    NodeChange, Nodegroup, NodegroupStatus, Taint, UpdateOf, UpdateType, check_label, check_scaling,
};
use ekstra_domain::names::keys;
use ekstra_model::eks as model;
use ekstra_wire::ApiError;

pub(super) async fn config(
    eks: Eks,
    call: Call,
    mut input: model::UpdateNodegroupConfigRequest,
) -> Result<model::UpdateNodegroupConfigResponse, ApiError> {
    unserved::refuse_of_changed_nodes(&input)?;
    let repeat = Repeat::of(&eks, input.client_request_token.take(), &input);
    let (cluster, name) =
        (input.cluster_name.clone().unwrap_or_default(), input.nodegroup_name.clone().unwrap_or_default());
    let cluster_key = keys::cluster(&call.scope, &cluster);
    let key = keys::nodegroup(&call.scope, &cluster, &name);
    let update = eks
        .cloud
        .store
        .transact(|txn| {
            if !txn.exists(&cluster_key) {
                return Err(Refusal::Api(no_cluster(&cluster)));
            }
            let mut group: Nodegroup = txn.get(&key)?.ok_or_else(|| no_nodegroup(&cluster, &name))?;
            if let Some(known) = repeat.find(txn, &keys::updates(&call.scope, &cluster))? {
                return Ok(known);
            }
            if !matches!(group.status, NodegroupStatus::Active | NodegroupStatus::Degraded) {
                let message =
                    format!("Nodegroup {name} is in status {}; try again later", group.status.wire());
                return Err(Refusal::Api(in_use(message)));
            }
            let params = change(&mut group, &input)?;
            group.status = NodegroupStatus::Updating;
            group.modified_ms = repeat.now;
            txn.put(&key, &group)?;
            let (of, kind) = (UpdateOf::Nodegroup(&name), UpdateType::ConfigUpdate);
            repeat.begin(txn, (&call.scope, &cluster), of, kind, params)
        })
        .await?;
    Ok(model::UpdateNodegroupConfigResponse { update: Some(present::update(&update)) })
}

/// Applies what was asked to the record; the update's parameters, in EKS's names.
fn change(
    group: &mut Nodegroup,
    input: &model::UpdateNodegroupConfigRequest,
) -> Result<Vec<(String, String)>, ApiError> {
    let mut params = Vec::new();
    let wide = |n: Option<i32>| n.map(i64::from);
    if let Some(asked) = &input.scaling_config {
        let (min, max, desired) = (wide(asked.min_size), wide(asked.max_size), wide(asked.desired_size));
        group.scaling = check_scaling(min, max, desired, group.scaling).map_err(invalid)?;
        params.push(("MinSize".to_owned(), group.scaling.min.to_string()));
        params.push(("MaxSize".to_owned(), group.scaling.max.to_string()));
        params.push(("DesiredSize".to_owned(), group.scaling.desired.to_string()));
    }
    let mut told = group.unsynced.take().unwrap_or_default();
    if let Some(labels) = &input.labels {
        for key in labels.remove_labels.iter().flatten() {
            group.labels.remove(key);
            told.labels.remove(key);
            told.remove_labels.push(key.clone());
            params.push(("LabelsToRemove".to_owned(), key.clone()));
        }
        for (key, value) in labels.add_or_update_labels.iter().flatten() {
            check_label(key, value).map_err(invalid)?;
            group.labels.insert(key.clone(), value.clone());
            told.remove_labels.retain(|removed| removed != key);
            told.labels.insert(key.clone(), value.clone());
            params.push(("LabelsToAdd".to_owned(), format!("{key}={value}")));
        }
    }
    if let Some(asked) = &input.taints {
        let remove = taints(asked.remove_taints.clone().unwrap_or_default())?;
        let add = taints(asked.add_or_update_taints.clone().unwrap_or_default())?;
        // What is taken away is told by key and effect; its value may be left out.
        let stays = |taint: &Taint| !remove.iter().chain(&add).any(|other| other.replaces(taint));
        group.taints.retain(stays);
        told.taints.retain(stays);
        let shown = |taints: &[Taint]| taints.iter().map(Taint::kubelet).collect::<Vec<_>>().join(",");
        params.push(("TaintsToRemove".to_owned(), shown(&remove)));
        params.push(("TaintsToAdd".to_owned(), shown(&add)));
        group.taints.extend(add.clone());
        told.remove_taints.extend(remove);
        told.taints.extend(add);
    }
    group.unsynced = (told != NodeChange::default()).then_some(told);
    if let Some(asked) = &input.update_config {
        group.update_config = update_config(asked, &group.update_config)?;
        let shown = |n: Option<i32>| n.map(|n| n.to_string());
        params.extend(shown(asked.max_unavailable).map(|n| ("MaxUnavailable".to_owned(), n)));
        let share = shown(asked.max_unavailable_percentage);
        params.extend(share.map(|n| ("MaxUnavailablePercentage".to_owned(), n)));
    }
    if params.is_empty() {
        return Err(invalid_parameter("No changes were asked for"));
    }
    Ok(params)
}

pub(super) async fn version(
    eks: Eks,
    call: Call,
    input: model::UpdateNodegroupVersionRequest,
) -> Result<model::UpdateNodegroupVersionResponse, ApiError> {
    let (cluster, name) = (input.cluster_name.unwrap_or_default(), input.nodegroup_name.unwrap_or_default());
    let group = find_nodegroup(&eks, &call, &cluster, &name)?;
    let message = format!("ekstra cannot change a node group's version yet; {name} is at {}", group.version);
    Err(invalid_request(message))
}

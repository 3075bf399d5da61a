//! UpdateClusterConfig (one kind of change a call) and UpdateClusterVersion.

use super::{Repeat, find_cluster, in_use, invalid_parameter, invalid_request, no_cluster, present};
use super::{access_entries, tuning, unserved, vpc_config};
use crate::Eks;
use ekstra_cloud::api::{Call, Refusal};
use ekstra_domain::eks::{
    AccessEntry, AuthenticationMode, Cluster, ClusterStatus, Logging, Nodegroup, Update, UpdateOf, UpdateType,
};
use ekstra_domain::names::keys;
use ekstra_model::eks::{self as model, errors};
use ekstra_store::Txn;
use ekstra_wire::ApiError;
use serde_json::json;

/// What a call changes, checked.
struct Change {
    kind: UpdateType,
    params: Vec<(String, String)>,
    after: Cluster,
    /// Whom a cluster that begins to have entries has had until now.
    gets_entries: bool,
}

pub(super) async fn config(
    eks: Eks,
    call: Call,
    mut input: model::UpdateClusterConfigRequest,
) -> Result<model::UpdateClusterConfigResponse, ApiError> {
    unserved::refuse_of_changed_cluster(&input)?;
    let repeat = Repeat::of(&eks, input.client_request_token.take(), &input);
    let name = input.name.clone().unwrap_or_default();
    let key = keys::cluster(&call.scope, &name);
    let update = eks
        .cloud
        .store
        .transact(|txn| {
            let cluster: Cluster = txn.get(&key)?.ok_or_else(|| no_cluster(&name))?;
            if let Some(known) = repeat.find(txn, &keys::updates(&call.scope, &name))? {
                return Ok(known);
            }
            if cluster.status != ClusterStatus::Active {
                let message = format!("Cannot update cluster {name} in status {}", cluster.status.wire());
                return Err(Refusal::Api(in_use(message).with("clusterName", name.clone())));
            }
            let change = read_change(&eks, &input, cluster)?;
            let after = Cluster { status: ClusterStatus::Updating, ..change.after };
            if change.gets_entries {
                give_entries(&eks, &after, txn)?;
            }
            if change.kind == UpdateType::VpcConfigUpdate {
                vpc_config::regroup(&after, txn)?;
            }
            txn.put(&key, &after)?;
            repeat.begin(txn, (&call.scope, &name), UpdateOf::Cluster, change.kind, change.params)
        })
        .await?;
    Ok(model::UpdateClusterConfigResponse { update: Some(present::update(&update)) })
}

fn read_change(
    eks: &Eks,
    input: &model::UpdateClusterConfigRequest,
    cluster: Cluster,
) -> Result<Change, ApiError> {
    let tuning = tuning::Asked {
        api_server: input.kube_api_server_config.clone(),
        scheduler: input.kube_scheduler_config.clone(),
        controller_manager: input.kube_controller_manager_config.clone(),
    };
    let kinds = [
        input.resources_vpc_config.is_some(),
        input.logging.is_some(),
        input.deletion_protection.is_some(),
        input.upgrade_policy.is_some(),
        input.access_config.is_some(),
        tuning.is_something(),
    ];
    match kinds.iter().filter(|asked| **asked).count() {
        0 if unserved::asks_for_what_is(input) => {
            return Err(invalid_parameter("Cluster is already at the desired configuration"));
        }
        0 => return Err(invalid_parameter("No change was asked for")),
        1 => {}
        _ => return Err(invalid_parameter("Only one type of update can be allowed.")),
    }
    if tuning.is_something() {
        return programs(tuning, cluster);
    }
    if let Some(asked) = &input.resources_vpc_config {
        let (kind, params, vpc) = vpc_config::change(eks, &cluster, asked)?;
        return Ok(Change { kind, params, after: Cluster { vpc, ..cluster }, gets_entries: false });
    }
    if let Some(access) = &input.access_config {
        return authentication_mode(access, cluster);
    }
    if let Some(logging) = &input.logging {
        let logging = enabled_logs(&cluster.logging, Some(logging));
        if logging == cluster.logging {
            return Err(invalid_parameter("No changes needed for the logging config provided"));
        }
        let after = Cluster { logging, ..cluster };
        let params = vec![("ClusterLogging".to_owned(), logging_json(&after))];
        return Ok(Change { kind: UpdateType::LoggingUpdate, params, after, gets_entries: false });
    }
    if let Some(protect) = input.deletion_protection {
        let params = vec![("DeletionProtection".to_owned(), protect.to_string())];
        let after = Cluster { deletion_protection: protect, ..cluster };
        return Ok(Change { kind: UpdateType::DeletionProtectionUpdate, params, after, gets_entries: false });
    }
    let support = input.upgrade_policy.as_ref().and_then(|p| p.support_type.clone());
    let support_type = support.ok_or_else(|| invalid_parameter("upgradePolicy.supportType is required"))?;
    let params = vec![("UpgradePolicy".to_owned(), support_type.clone())];
    let after = Cluster { support_type, ..cluster };
    Ok(Change { kind: UpdateType::UpgradePolicyUpdate, params, after, gets_entries: false })
}

/// The reconciler starts those programs again that run with other settings.
fn programs(asked: tuning::Asked, cluster: Cluster) -> Result<Change, ApiError> {
    let tuning = asked.apply(&cluster.tuning)?;
    if tuning == cluster.tuning {
        return Err(invalid_parameter("Cluster is already at the desired configuration"));
    }
    let params = tuning::params(&cluster.tuning, &tuning);
    let after = Cluster { tuning, ..cluster };
    Ok(Change { kind: UpdateType::ControlPlaneComponentConfigUpdate, params, after, gets_entries: false })
}

/// Forward only: who has entries keeps them, and aws-auth does not come back.
fn authentication_mode(
    asked: &model::UpdateAccessConfigRequest,
    cluster: Cluster,
) -> Result<Change, ApiError> {
    let (before, text) =
        (cluster.authentication_mode, asked.authentication_mode.as_deref().unwrap_or_default());
    let order = [AuthenticationMode::ConfigMap, AuthenticationMode::ApiAndConfigMap, AuthenticationMode::Api];
    let place = |mode| order.iter().position(|known| *known == mode);
    let mode = AuthenticationMode::parse(text)
        .ok_or_else(|| invalid_parameter(format!("Invalid authentication mode: {text}")))?;
    if place(mode) < place(before)
        || (before, mode) == (AuthenticationMode::ConfigMap, AuthenticationMode::Api)
    {
        let message =
            format!("Unsupported authentication mode update from {} to {}", before.wire(), mode.wire());
        return Err(invalid_parameter(message));
    }
    if mode == before {
        return Err(invalid_parameter("Cluster is already at the desired authentication mode"));
    }
    let gets_entries = !cluster.has_entries;
    let after = Cluster { authentication_mode: mode, has_entries: true, ..cluster };
    let params = vec![("AuthenticationMode".to_owned(), mode.wire().to_owned())];
    Ok(Change { kind: UpdateType::AccessConfigUpdate, params, after, gets_entries })
}

/// Nobody who was somebody is nobody in between: entries come in the transaction that makes them count.
fn give_entries(eks: &Eks, cluster: &Cluster, txn: &mut Txn) -> Result<(), Refusal> {
    if cluster.creator_is_admin {
        let entry = access_entries::creators(eks, cluster);
        let key = keys::access_entry(&cluster.scope, &cluster.name, &entry.principal_arn);
        // One that somebody made before stays, and is an administrator's now.
        let entry = match txn.get::<AccessEntry>(&key)? {
            Some(mut known) => {
                known.policies.extend(entry.policies);
                known
            }
            None => entry,
        };
        txn.put(&key, &entry)?;
    }
    for (_, group) in txn.list::<Nodegroup>(&keys::nodegroups(&cluster.scope, &cluster.name))? {
        access_entries::ensure_of_nodes(eks, cluster, &group.node_role, txn)?;
    }
    Ok(())
}

/// The whole object, as EKS puts it into updates (`spec/eks-semantics.md` §3.6).
fn logging_json(cluster: &Cluster) -> String {
    let setups = present::logging(cluster).cluster_logging.unwrap_or_default();
    let setup = |setup: model::LogSetup| json!({"types": setup.types, "enabled": setup.enabled});
    json!({"clusterLogging": setups.into_iter().map(setup).collect::<Vec<_>>()}).to_string()
}

/// The log types that are on after a request.
pub(super) fn enabled_logs(before: &Logging, asked: Option<&model::Logging>) -> Logging {
    let mut enabled = before.enabled.clone();
    for setup in asked.and_then(|l| l.cluster_logging.as_deref()).unwrap_or_default() {
        let types = setup.types.clone().unwrap_or_default();
        enabled.retain(|t| !types.contains(t));
        if setup.enabled == Some(true) {
            enabled.extend(types);
        }
    }
    enabled.sort();
    Logging { enabled }
}

pub(super) async fn version(
    eks: Eks,
    call: Call,
    input: model::UpdateClusterVersionRequest,
) -> Result<model::UpdateClusterVersionResponse, ApiError> {
    let cluster = find_cluster(&eks, &call, &input.name.unwrap_or_default())?;
    let asked = input.version.unwrap_or_default();
    if asked == cluster.version {
        return Err(invalid_parameter(format!("Cluster is already at the desired version: {asked}")));
    }
    let message =
        format!("ekstra cannot change a cluster's version yet; {} is at {}", cluster.name, cluster.version);
    Err(invalid_request(message))
}

/// EKS can cancel the rollback of a version on Auto Mode clusters, and nothing else.
pub(super) async fn cancel(
    eks: Eks,
    call: Call,
    input: model::CancelUpdateRequest,
) -> Result<model::CancelUpdateResponse, ApiError> {
    let (name, id) = (input.name.unwrap_or_default(), input.update_id.unwrap_or_default());
    find_cluster(&eks, &call, &name)?;
    let update: Option<Update> = eks.cloud.store.view().get_as(&keys::update(&call.scope, &name, &id));
    let Some(update) = update else {
        let message = format!("No update found for ID: {id}");
        return Err(ApiError::new(&errors::RESOURCE_NOT_FOUND_EXCEPTION, message).with("clusterName", name));
    };
    let message = format!("Update {id} of type {} cannot be cancelled", update.kind.wire());
    Err(invalid_request(message).with("clusterName", name))
}

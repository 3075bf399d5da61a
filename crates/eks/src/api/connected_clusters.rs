//! RegisterCluster and DeregisterCluster: clusters of somebody else's, kept as they were registered. Nothing here connects
//! to them, so that they stay PENDING, and their health says why.

use super::{digest, in_use, insert, invalid_parameter, no_cluster, remove};
use crate::Eks;
use ekstra_cloud::api::Call;
use ekstra_cloud::iam::find_role;
use ekstra_domain::eks::{Asked, ConnectedCluster};
use ekstra_domain::names::keys;
use ekstra_model::Timestamp;
use ekstra_model::eks as model;
use ekstra_store::Txn;
use ekstra_wire::ApiError;

const NOT_CONNECTED: &str =
    "ekstra has no connector: this registration is a record, and no manifest will make it ACTIVE";

pub(super) fn present(known: ConnectedCluster, status: &str) -> model::Cluster {
    let issue = model::ClusterIssue {
        code: Some("Other".into()),
        message: Some(NOT_CONNECTED.into()),
        resource_ids: Some(Vec::new()),
    };
    model::Cluster {
        arn: Some(known.arn()),
        created_at: Some(Timestamp(known.created_ms)),
        status: Some(status.into()),
        tags: Some(known.tags.clone()),
        connector_config: Some(model::ConnectorConfigResponse {
            activation_expiry: Some(Timestamp(known.activation_ends_ms())),
            activation_id: Some(known.activation_id),
            activation_code: Some(known.activation_code),
            provider: Some(known.provider),
            role_arn: Some(known.role_arn),
        }),
        health: Some(model::ClusterHealth { issues: Some(vec![issue]) }),
        name: Some(known.name),
        ..Default::default()
    }
}

/// What there is of its kind.
pub(super) const KEPT: &str = "PENDING";

/// One that is shown.
pub(super) fn find(eks: &Eks, call: &Call, name: &str) -> Option<ConnectedCluster> {
    let key = keys::connected_cluster(&call.scope, name);
    let now = eks.cloud.env.now_ms();
    eks.cloud.store.view().get_as(&key).filter(|known: &ConnectedCluster| known.is_shown(now))
}

/// The names of those that are shown.
pub(super) fn names(eks: &Eks, call: &Call) -> Vec<String> {
    let now = eks.cloud.env.now_ms();
    let prefix = keys::connected_clusters(&call.scope);
    let all = eks.cloud.store.view().list_shared::<ConnectedCluster>(&prefix);
    let shown = all.into_iter().filter(|(_, registered)| registered.is_shown(now));
    shown.map(|(key, _)| key[prefix.len()..].to_owned()).collect()
}

pub(super) async fn register(
    eks: Eks,
    call: Call,
    mut input: model::RegisterClusterRequest,
) -> Result<model::RegisterClusterResponse, ApiError> {
    let token = input.client_request_token.take();
    let asked = Asked { token, digest: digest(&input) };
    let config = input.connector_config.unwrap_or_default();
    let role_arn = config.role_arn.unwrap_or_default();
    let role = find_role(&eks.cloud, &role_arn).filter(|role| role.account == call.scope.account);
    if role.is_none() {
        return Err(invalid_parameter(format!("The role with arn {role_arn} cannot be found.")));
    }
    let env = &eks.cloud.env;
    let new = ConnectedCluster {
        scope: call.scope.clone(),
        name: input.name.unwrap_or_default(),
        role_arn,
        provider: config.provider.unwrap_or_default(),
        activation_id: env.uuid(),
        activation_code: env.hex(10),
        tags: input.tags.unwrap_or_default(),
        created_ms: env.now_ms(),
        asked,
    };
    let body = |txn: &mut Txn| {
        let taken = in_use(format!("Cluster already exists with name: {}", new.name))
            .with("clusterName", new.name.clone());
        if txn.exists(&keys::cluster(&call.scope, &new.name)) {
            return Err(taken.into());
        }
        let key = keys::connected_cluster(&call.scope, &new.name);
        insert(txn, &key, &new, |known| &known.asked, taken)
    };
    let known = eks.cloud.store.transact(body).await?;
    Ok(model::RegisterClusterResponse { cluster: Some(present(known, KEPT)) })
}

pub(super) async fn deregister(
    eks: Eks,
    call: Call,
    input: model::DeregisterClusterRequest,
) -> Result<model::DeregisterClusterResponse, ApiError> {
    let name = input.name.unwrap_or_default();
    let key = keys::connected_cluster(&call.scope, &name);
    let known: ConnectedCluster = remove(&eks, &key, || no_cluster(&name)).await?;
    Ok(model::DeregisterClusterResponse { cluster: Some(present(known, "DELETING")) })
}

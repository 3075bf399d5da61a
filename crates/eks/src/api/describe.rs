//! DescribeCluster, DescribeNodegroup, DescribeUpdate.

use super::{connected_clusters, find_cluster, find_nodegroup, present};
use crate::Eks;
use ekstra_cloud::api::Call;
use ekstra_domain::eks::Update;
use ekstra_domain::names::keys;
use ekstra_model::eks::{self as model, errors};
use ekstra_wire::ApiError;

pub(super) async fn cluster(
    eks: Eks,
    call: Call,
    input: model::DescribeClusterRequest,
) -> Result<model::DescribeClusterResponse, ApiError> {
    let name = input.name.unwrap_or_default();
    if let Some(known) = connected_clusters::find(&eks, &call, &name) {
        let known = connected_clusters::present(known, connected_clusters::KEPT);
        return Ok(model::DescribeClusterResponse { cluster: Some(known) });
    }
    let cluster = find_cluster(&eks, &call, &name)?;
    Ok(model::DescribeClusterResponse { cluster: Some(present::cluster(&eks, &cluster)) })
}

pub(super) async fn nodegroup(
    eks: Eks,
    call: Call,
    input: model::DescribeNodegroupRequest,
) -> Result<model::DescribeNodegroupResponse, ApiError> {
    let (cluster, name) = (input.cluster_name.unwrap_or_default(), input.nodegroup_name.unwrap_or_default());
    let group = find_nodegroup(&eks, &call, &cluster, &name)?;
    Ok(model::DescribeNodegroupResponse { nodegroup: Some(present::nodegroup(&group)) })
}

pub(super) async fn update(
    eks: Eks,
    call: Call,
    input: model::DescribeUpdateRequest,
) -> Result<model::DescribeUpdateResponse, ApiError> {
    let (cluster, id) = (input.name.unwrap_or_default(), input.update_id.unwrap_or_default());
    find_cluster(&eks, &call, &cluster)?;
    let found: Option<Update> = eks.cloud.store.view().get_as(&keys::update(&call.scope, &cluster, &id));
    let of = (input.nodegroup_name, input.addon_name, input.capability_name);
    let update = found.filter(|update| update.is_listed_under(&of)).ok_or_else(|| {
        ApiError::new(&errors::RESOURCE_NOT_FOUND_EXCEPTION, format!("No update found for ID: {id}"))
    })?;
    Ok(model::DescribeUpdateResponse { update: Some(present::update(&update)) })
}

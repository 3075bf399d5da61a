//! DescribeCluster, DescribeNodegroup, DescribeUpdate.

use super::{find_cluster, find_nodegroup, present};
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
    let cluster = find_cluster(&eks, &call, &input.name.unwrap_or_default())?;
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
    let update =
        found.filter(|u| (u.nodegroup == input.nodegroup_name) && (u.addon == input.addon_name)).ok_or_else(
            || ApiError::new(&errors::RESOURCE_NOT_FOUND_EXCEPTION, format!("No update found for ID: {id}")),
        )?;
    Ok(model::DescribeUpdateResponse { update: Some(present::update(&update)) })
}

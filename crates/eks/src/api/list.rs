//! ListClusters, ListNodegroups, ListUpdates.

use super::{find_cluster, invalid};
use crate::Eks;
use ekstra_cloud::api::Call;
use ekstra_domain::eks::{Update, page_bounds};
use ekstra_domain::names::keys;
use ekstra_model::eks as model;
use ekstra_wire::ApiError;

/// EKS's longest page.
const LONGEST: usize = 100;

/// The names of the records under a prefix, a page of them.
fn names(
    all: Vec<String>,
    token: Option<&str>,
    size: Option<i32>,
) -> Result<(Option<Vec<String>>, Option<String>), ApiError> {
    let (start, size) = page_bounds(token, size.map(i64::from), LONGEST).map_err(invalid)?;
    let more = all.len() > start + size;
    let page = all.into_iter().skip(start).take(size).collect();
    Ok((Some(page), more.then(|| (start + size).to_string())))
}

fn stored(eks: &Eks, prefix: &str) -> Vec<String> {
    let records = eks.cloud.store.view().list(prefix);
    records.into_iter().map(|(key, _)| key[prefix.len()..].to_owned()).collect()
}

pub(super) async fn clusters(
    eks: Eks,
    call: Call,
    input: model::ListClustersRequest,
) -> Result<model::ListClustersResponse, ApiError> {
    let all = stored(&eks, &keys::scoped(keys::CLUSTERS, &call.scope));
    let (clusters, next_token) = names(all, input.next_token.as_deref(), input.max_results)?;
    Ok(model::ListClustersResponse { clusters, next_token })
}

pub(super) async fn nodegroups(
    eks: Eks,
    call: Call,
    input: model::ListNodegroupsRequest,
) -> Result<model::ListNodegroupsResponse, ApiError> {
    let cluster = input.cluster_name.unwrap_or_default();
    find_cluster(&eks, &call, &cluster)?;
    let all = stored(&eks, &keys::nodegroups(&call.scope, &cluster));
    let (nodegroups, next_token) = names(all, input.next_token.as_deref(), input.max_results)?;
    Ok(model::ListNodegroupsResponse { nodegroups, next_token })
}

pub(super) async fn updates(
    eks: Eks,
    call: Call,
    input: model::ListUpdatesRequest,
) -> Result<model::ListUpdatesResponse, ApiError> {
    let cluster = input.name.unwrap_or_default();
    find_cluster(&eks, &call, &cluster)?;
    let mut found: Vec<Update> = eks
        .cloud
        .store
        .view()
        .list_as::<Update>(&keys::updates(&call.scope, &cluster))
        .into_iter()
        .map(|(_, update)| update)
        .filter(|update| update.nodegroup == input.nodegroup_name)
        .collect();
    found.sort_by_key(|update| std::cmp::Reverse(update.created_ms));
    let all = found.into_iter().map(|update| update.id).collect();
    let (update_ids, next_token) = names(all, input.next_token.as_deref(), input.max_results)?;
    Ok(model::ListUpdatesResponse { update_ids, next_token })
}

//! ListClusters, ListNodegroups, ListAddons, ListUpdates.

use super::{connected_clusters, find_cluster, invalid, invalid_parameter};
use crate::Eks;
use ekstra_cloud::api::Call;
use ekstra_domain::eks::{Update, page_size};
use ekstra_domain::names::keys;
use ekstra_domain::page::Page;
use ekstra_model::eks as model;
use ekstra_wire::ApiError;

/// EKS's longest page.
const LONGEST: usize = 100;

type Names = (Option<Vec<String>>, Option<String>);

/// A page of names in their own order.
fn names(all: Vec<String>, token: Option<&str>, size: Option<i32>) -> Result<Names, ApiError> {
    let page = page(all, String::clone, token, size)?;
    Ok((Some(page.items), page.next))
}

/// A page as EKS cuts them.
pub(super) fn page<T>(
    all: Vec<T>,
    key: impl Fn(&T) -> String,
    token: Option<&str>,
    size: Option<i32>,
) -> Result<Page<T>, ApiError> {
    let size = page_size(size.map(i64::from), LONGEST).map_err(invalid)?;
    Page::of(all, key, token, size).map_err(|_| invalid_parameter("Invalid nextToken"))
}

/// Whether a filter, if there is one, has the value.
pub(super) fn wants(filter: Option<&Vec<String>>, value: &str) -> bool {
    filter.is_none_or(|wanted| wanted.is_empty() || wanted.iter().any(|w| w == value))
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
    let mut all = stored(&eks, &keys::scoped(keys::CLUSTERS, &call.scope));
    if input.include.is_some_and(|included| included.iter().any(|what| what == "all")) {
        all.extend(connected_clusters::names(&eks, &call));
        all.sort();
    }
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

pub(super) async fn addons(
    eks: Eks,
    call: Call,
    input: model::ListAddonsRequest,
) -> Result<model::ListAddonsResponse, ApiError> {
    let cluster = input.cluster_name.unwrap_or_default();
    find_cluster(&eks, &call, &cluster)?;
    let all = stored(&eks, &keys::addons(&call.scope, &cluster));
    let (addons, next_token) = names(all, input.next_token.as_deref(), input.max_results)?;
    Ok(model::ListAddonsResponse { addons, next_token })
}

pub(super) async fn updates(
    eks: Eks,
    call: Call,
    input: model::ListUpdatesRequest,
) -> Result<model::ListUpdatesResponse, ApiError> {
    let cluster = input.name.unwrap_or_default();
    find_cluster(&eks, &call, &cluster)?;
    let prefix = keys::updates(&call.scope, &cluster);
    let of = (input.nodegroup_name, input.addon_name, input.capability_name);
    let all: Vec<Update> = eks
        .cloud
        .store
        .view()
        .list_as::<Update>(&prefix)
        .into_iter()
        .map(|(_, update)| update)
        .filter(|update| update.is_listed_under(&of))
        .collect();
    // The newest first.
    let key = |update: &Update| format!("{:019} {}", i64::MAX - update.created_ms, update.id);
    let page = page(all, key, input.next_token.as_deref(), input.max_results)?;
    let update_ids = page.items.into_iter().map(|update| update.id).collect();
    Ok(model::ListUpdatesResponse { update_ids: Some(update_ids), next_token: page.next })
}

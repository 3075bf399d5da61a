//! TagResource, UntagResource, ListTagsForResource, for clusters, node groups, add-ons and access entries.

use crate::Eks;
use ekstra_cloud::api::{Call, Refusal};
use ekstra_domain::eks::{AccessEntry, Addon, Cluster, Nodegroup};
use ekstra_domain::names::{Arn, Scope, keys};
use ekstra_model::eks::{self as model, errors};
use ekstra_store::Txn;
use ekstra_wire::ApiError;
use std::collections::BTreeMap;

/// AWS's limit.
const MOST_TAGS: usize = 50;

enum Resource {
    Cluster(String),
    Nodegroup(String),
    Addon(String),
    AccessEntry(String),
}

fn bad(message: impl Into<String>) -> ApiError {
    ApiError::new(&errors::BAD_REQUEST_EXCEPTION, message)
}

fn missing(arn: &str) -> ApiError {
    ApiError::new(&errors::NOT_FOUND_EXCEPTION, format!("No resource found for ARN {arn}"))
}

fn resolve(eks: &Eks, call: &Call, text: &str) -> Result<Resource, ApiError> {
    let arn: Arn = text.parse().map_err(|_| bad(format!("Invalid ARN: {text}")))?;
    let scope = Scope::new(&arn.account, &arn.region);
    if arn.service != "eks" || scope != call.scope {
        return Err(missing(text));
    }
    let parts: Vec<&str> = arn.resource.split('/').collect();
    match parts[..] {
        ["cluster", name] => Ok(Resource::Cluster(keys::cluster(&scope, name))),
        ["nodegroup", cluster, name, _] => Ok(Resource::Nodegroup(keys::nodegroup(&scope, cluster, name))),
        ["addon", cluster, name, _] => Ok(Resource::Addon(keys::addon(&scope, cluster, name))),
        ["access-entry", cluster, ..] => {
            // The ARN has no path of the principal's; the entry knows its own.
            let all = eks.cloud.store.view().list_as::<AccessEntry>(&keys::access_entries(&scope, cluster));
            let found = all.into_iter().find(|(_, entry)| entry.arn() == text);
            found.map(|(key, _)| Resource::AccessEntry(key.to_string())).ok_or_else(|| missing(text))
        }
        _ => Err(missing(text)),
    }
}

/// Changes the tags of whatever the ARN names; they must be few enough afterwards.
fn change(
    txn: &mut Txn,
    resource: &Resource,
    arn: &str,
    change: impl Fn(&mut BTreeMap<String, String>),
) -> Result<(), Refusal> {
    let check = |tags: &BTreeMap<String, String>| {
        if tags.len() > MOST_TAGS {
            Err(bad(format!("A resource can have at most {MOST_TAGS} tags")))
        } else {
            Ok(())
        }
    };
    match resource {
        Resource::Cluster(key) => {
            let mut cluster: Cluster = txn.get(key)?.ok_or_else(|| missing(arn))?;
            change(&mut cluster.tags);
            check(&cluster.tags)?;
            Ok(txn.put(key, &cluster)?)
        }
        Resource::Nodegroup(key) => {
            let mut group: Nodegroup = txn.get(key)?.ok_or_else(|| missing(arn))?;
            change(&mut group.tags);
            check(&group.tags)?;
            Ok(txn.put(key, &group)?)
        }
        Resource::Addon(key) => {
            let mut addon: Addon = txn.get(key)?.ok_or_else(|| missing(arn))?;
            change(&mut addon.tags);
            check(&addon.tags)?;
            Ok(txn.put(key, &addon)?)
        }
        Resource::AccessEntry(key) => {
            let mut entry: AccessEntry = txn.get(key)?.ok_or_else(|| missing(arn))?;
            change(&mut entry.tags);
            check(&entry.tags)?;
            Ok(txn.put(key, &entry)?)
        }
    }
}

pub(super) async fn tag(
    eks: Eks,
    call: Call,
    input: model::TagResourceRequest,
) -> Result<model::TagResourceResponse, ApiError> {
    let arn = input.resource_arn.unwrap_or_default();
    let resource = resolve(&eks, &call, &arn)?;
    let added = input.tags.unwrap_or_default();
    let body = |txn: &mut Txn| change(txn, &resource, &arn, |tags| tags.extend(added.clone()));
    eks.cloud.store.transact(body).await?;
    Ok(model::TagResourceResponse::default())
}

pub(super) async fn untag(
    eks: Eks,
    call: Call,
    input: model::UntagResourceRequest,
) -> Result<model::UntagResourceResponse, ApiError> {
    let arn = input.resource_arn.unwrap_or_default();
    let resource = resolve(&eks, &call, &arn)?;
    let removed = input.tag_keys.unwrap_or_default();
    let body =
        |txn: &mut Txn| change(txn, &resource, &arn, |tags| tags.retain(|key, _| !removed.contains(key)));
    eks.cloud.store.transact(body).await?;
    Ok(model::UntagResourceResponse::default())
}

pub(super) async fn list(
    eks: Eks,
    call: Call,
    input: model::ListTagsForResourceRequest,
) -> Result<model::ListTagsForResourceResponse, ApiError> {
    let tags = tags_of(&eks, &call, &input.resource_arn.unwrap_or_default())?;
    Ok(model::ListTagsForResourceResponse { tags: Some(tags) })
}

pub(super) fn tags_of(eks: &Eks, call: &Call, arn: &str) -> Result<BTreeMap<String, String>, ApiError> {
    let view = eks.cloud.store.view();
    let tags = match resolve(eks, call, arn)? {
        Resource::Cluster(key) => view.get_as::<Cluster>(&key).map(|c| c.tags),
        Resource::Nodegroup(key) => view.get_as::<Nodegroup>(&key).map(|g| g.tags),
        Resource::Addon(key) => view.get_as::<Addon>(&key).map(|a| a.tags),
        Resource::AccessEntry(key) => view.get_as::<AccessEntry>(&key).map(|e| e.tags),
    };
    tags.ok_or_else(|| missing(arn))
}

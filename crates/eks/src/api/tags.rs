//! TagResource, UntagResource, ListTagsForResource, for whatever has tags.

use super::access::Resource;
use crate::Eks;
use ekstra_cloud::api::{Call, Refusal};
use ekstra_domain::eks::{
    AccessEntry, Addon, Capability, Cluster, ConnectedCluster, FargateProfile, IdentityProvider, Nodegroup,
    PodIdentityAssociation, Subscription,
};
use ekstra_domain::names::{Arn, Scope, keys};
use ekstra_model::eks::{self as model, errors};
use ekstra_store::Txn;
use ekstra_wire::ApiError;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// AWS's limit.
const MOST_TAGS: usize = 50;

/// What records that have tags are alike in.
#[derive(Serialize, Deserialize)]
struct Tagged {
    tags: BTreeMap<String, String>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

fn bad(message: impl Into<String>) -> ApiError {
    ApiError::new(&errors::BAD_REQUEST_EXCEPTION, message)
}

fn missing(arn: &str) -> ApiError {
    ApiError::new(&errors::NOT_FOUND_EXCEPTION, format!("No resource found for ARN {arn}"))
}

/// Where the record is that the ARN names.
fn resolve(eks: &Eks, call: &Call, text: &str) -> Result<String, ApiError> {
    let arn: Arn = text.parse().map_err(|_| bad(format!("Invalid ARN: {text}")))?;
    let scope = Scope::new(&arn.account, &arn.region);
    if arn.service != "eks" || scope != call.scope {
        return Err(missing(text));
    }
    let parts: Vec<&str> = arn.resource.split('/').collect();
    let found = match parts[..] {
        ["cluster", name] => called::<ConnectedCluster>(eks, text, keys::connected_cluster(&scope, name))
            .or_else(|| called::<Cluster>(eks, text, keys::cluster(&scope, name))),
        ["fargateprofile", cluster, name, _] => {
            called::<FargateProfile>(eks, text, keys::fargate_profile(&scope, cluster, name))
        }
        ["capability", cluster, _, name, _] => {
            called::<Capability>(eks, text, keys::capability(&scope, cluster, name))
        }
        ["eks-anywhere-subscription", id] => {
            called::<Subscription>(eks, text, keys::subscription(&scope, id))
        }
        ["nodegroup", cluster, name, _] => {
            called::<Nodegroup>(eks, text, keys::nodegroup(&scope, cluster, name))
        }
        ["addon", cluster, name, _] => called::<Addon>(eks, text, keys::addon(&scope, cluster, name)),
        ["identityproviderconfig", cluster, "oidc", name, _] => {
            called::<IdentityProvider>(eks, text, keys::identity_provider(&scope, cluster, name))
        }
        ["podidentityassociation", cluster, id] => {
            called::<PodIdentityAssociation>(eks, text, keys::pod_identity(&scope, cluster, id))
        }
        ["access-entry", ..] => entry_of(eks, call, text)
            .map(|entry| keys::access_entry(&scope, &entry.cluster, &entry.principal_arn)),
        _ => None,
    };
    found.ok_or_else(|| missing(text))
}

/// The key, if what is there has this ARN: one that was made anew under the name has another.
fn called<R: Resource>(eks: &Eks, arn: &str, key: String) -> Option<String> {
    let found = eks.cloud.store.view().shared::<R>(&key)?;
    (found.arn() == arn).then_some(key)
}

/// The access entry that the ARN names. It has no path of the principal's; the entry knows its own.
pub(super) fn entry_of(eks: &Eks, call: &Call, arn: &str) -> Option<AccessEntry> {
    let parsed: Arn = arn.parse().ok()?;
    let mut parts = parsed.resource.split('/');
    let cluster = parts.next().filter(|kind| *kind == "access-entry").and_then(|_| parts.next())?;
    let all = eks.cloud.store.view().list_as::<AccessEntry>(&keys::access_entries(&call.scope, cluster));
    all.into_iter().map(|(_, entry)| entry).find(|entry| entry.arn() == arn)
}

/// Changes the tags of whatever the ARN names; they must be few enough afterwards.
async fn change(
    eks: &Eks,
    call: &Call,
    arn: &str,
    change: impl Fn(&mut BTreeMap<String, String>),
) -> Result<(), ApiError> {
    let key = resolve(eks, call, arn)?;
    let body = |txn: &mut Txn| {
        let mut record: Tagged = txn.get(&key)?.ok_or_else(|| missing(arn))?;
        change(&mut record.tags);
        if record.tags.len() > MOST_TAGS {
            return Err(bad(format!("A resource can have at most {MOST_TAGS} tags")).into());
        }
        txn.put(&key, &record)?;
        Ok::<_, Refusal>(())
    };
    Ok(eks.cloud.store.transact(body).await?)
}

pub(super) async fn tag(
    eks: Eks,
    call: Call,
    input: model::TagResourceRequest,
) -> Result<model::TagResourceResponse, ApiError> {
    let added = input.tags.unwrap_or_default();
    let add = |tags: &mut BTreeMap<String, String>| tags.extend(added.clone());
    change(&eks, &call, &input.resource_arn.unwrap_or_default(), add).await?;
    Ok(model::TagResourceResponse::default())
}

pub(super) async fn untag(
    eks: Eks,
    call: Call,
    input: model::UntagResourceRequest,
) -> Result<model::UntagResourceResponse, ApiError> {
    let removed = input.tag_keys.unwrap_or_default();
    let remove = |tags: &mut BTreeMap<String, String>| tags.retain(|key, _| !removed.contains(key));
    change(&eks, &call, &input.resource_arn.unwrap_or_default(), remove).await?;
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
    let record: Option<Tagged> = eks.cloud.store.view().get_as(&resolve(eks, call, arn)?);
    record.map(|record| record.tags).ok_or_else(|| missing(arn))
}

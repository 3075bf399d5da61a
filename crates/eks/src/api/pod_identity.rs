//! Pod identity associations.
//!
//! The webhook of `gate` follows the records (a pod that is made from now on has what its association says), and so does
//! [`crate::auth`] (a pod that asks for credentials gets those of the role that is associated now).

use super::list::page;
use super::{digest, find_cluster, in_use, invalid_parameter, invalid_request, kept_cluster};
use crate::Eks;
use ekstra_cloud::api::{Call, Refusal};
use ekstra_cloud::iam::find_role;
use ekstra_domain::eks::{Addon, Asked, PodIdentityAssociation};
use ekstra_domain::names::{Arn, Scope, keys};
use ekstra_model::Timestamp;
use ekstra_model::eks::{self as model, errors};
use ekstra_policy::{Kind, Policy};
use ekstra_store::Txn;
use ekstra_wire::ApiError;
use std::sync::Arc;

fn missing(cluster: &str, id: &str) -> ApiError {
    ApiError::new(&errors::RESOURCE_NOT_FOUND_EXCEPTION, format!("Association not found: {id}"))
        .with("clusterName", cluster)
}

pub(super) fn present(association: &PodIdentityAssociation) -> model::PodIdentityAssociation {
    let known = association.clone();
    model::PodIdentityAssociation {
        association_arn: Some(known.arn()),
        cluster_name: Some(known.cluster),
        namespace: Some(known.namespace),
        service_account: Some(known.service_account),
        role_arn: Some(known.role_arn),
        association_id: Some(known.id),
        tags: Some(known.tags),
        created_at: Some(Timestamp(known.created_ms)),
        modified_at: Some(Timestamp(known.modified_ms)),
        owner_arn: known.owner_arn,
        disable_session_tags: Some(known.disable_session_tags),
        target_role_arn: known.target_role_arn,
        external_id: known.external_id,
        policy: known.policy,
    }
}

fn summarize(association: PodIdentityAssociation) -> model::PodIdentityAssociationSummary {
    model::PodIdentityAssociationSummary {
        association_arn: Some(association.arn()),
        cluster_name: Some(association.cluster),
        namespace: Some(association.namespace),
        service_account: Some(association.service_account),
        association_id: Some(association.id),
        owner_arn: association.owner_arn,
    }
}

/// A role that pods get has to be the caller's own, as only such can be passed on.
pub(super) fn check_role(eks: &Eks, call: &Call, arn: &str) -> Result<(), ApiError> {
    let parsed: Option<Arn> = arn.parse().ok();
    if parsed.as_ref().and_then(Arn::role_name).is_none() {
        return Err(invalid_parameter(format!("Role {arn} is not a valid role ARN")));
    }
    let found = find_role(&eks.cloud, arn).filter(|role| role.account == call.scope.account);
    found.map(drop).ok_or_else(|| invalid_parameter("Role provided in the request does not exist."))
}

/// Another account's may be unknown here; who assumes it will see.
fn check_target(arn: &str) -> Result<(), ApiError> {
    match arn.parse::<Arn>().ok().as_ref().and_then(Arn::role_name) {
        Some(_) => Ok(()),
        None => Err(invalid_parameter(format!("Target role {arn} is not a valid role ARN"))),
    }
}

/// What is not refused by its words has to fit together.
fn check_whole(association: &PodIdentityAssociation) -> Result<(), ApiError> {
    let Some(policy) = &association.policy else { return Ok(()) };
    if !association.disable_session_tags {
        return Err(invalid_parameter("disableSessionTags must be true when a policy is specified"));
    }
    Policy::parse(policy, Kind::Identity)
        .map(drop)
        .map_err(|why| invalid_parameter(format!("The policy is invalid: {why}")))
}

/// An empty string takes away what there was.
fn given(asked: Option<&String>) -> Option<String> {
    asked.filter(|text| !text.is_empty()).cloned()
}

fn find(eks: &Eks, call: &Call, cluster: &str, id: &str) -> Result<PodIdentityAssociation, ApiError> {
    find_cluster(eks, call, cluster)?;
    let key = keys::pod_identity(&call.scope, cluster, id);
    eks.cloud.store.view().get_as(&key).ok_or_else(|| missing(cluster, id))
}

fn check_names(input: &model::CreatePodIdentityAssociationRequest) -> Result<(), ApiError> {
    let names = [("namespace", &input.namespace, 63), ("serviceAccount", &input.service_account, 253)];
    for (what, name, most) in names {
        let name = name.as_deref().unwrap_or_default();
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
        if name.is_empty() || name.len() > most || !name.chars().all(fits) {
            return Err(invalid_parameter(format!("The {what} is not a name of Kubernetes: {name}")));
        }
    }
    Ok(())
}

pub(super) async fn create(
    eks: Eks,
    call: Call,
    mut input: model::CreatePodIdentityAssociationRequest,
) -> Result<model::CreatePodIdentityAssociationResponse, ApiError> {
    let token = input.client_request_token.take();
    let asked = Asked { token, digest: digest(&input) };
    let cluster = input.cluster_name.clone().unwrap_or_default();
    find_cluster(&eks, &call, &cluster)?;
    check_names(&input)?;
    let role_arn = input.role_arn.unwrap_or_default();
    check_role(&eks, &call, &role_arn)?;
    let target_role_arn = given(input.target_role_arn.as_ref());
    target_role_arn.as_deref().map_or(Ok(()), check_target)?;
    let (namespace, account) =
        (input.namespace.unwrap_or_default(), input.service_account.unwrap_or_default());
    let association = PodIdentityAssociation {
        external_id: target_role_arn.as_ref().map(|_| eks.cloud.env.uuid()),
        target_role_arn,
        disable_session_tags: input.disable_session_tags.unwrap_or_default(),
        policy: given(input.policy.as_ref()),
        tags: input.tags.unwrap_or_default(),
        asked,
        ..plain(&eks, &call.scope, [&cluster, &namespace, &account], role_arn)
    };
    check_whole(&association)?;
    let association = eks.cloud.store.transact(|txn| insert(txn, &association)).await?;
    Ok(model::CreatePodIdentityAssociationResponse { association: Some(present(&association)) })
}

/// With nothing but a role.
fn plain(eks: &Eks, scope: &Scope, of: [&str; 3], role_arn: String) -> PodIdentityAssociation {
    let (env, now) = (&eks.cloud.env, eks.cloud.env.now_ms());
    let [cluster, namespace, service_account] = of.map(str::to_owned);
    PodIdentityAssociation {
        scope: scope.clone(),
        cluster,
        id: env.iam_id("a-").to_lowercase(),
        namespace,
        service_account,
        role_arn,
        target_role_arn: None,
        external_id: None,
        disable_session_tags: false,
        policy: None,
        owner_arn: None,
        tags: Default::default(),
        created_ms: now,
        modified_ms: now,
        asked: Asked::default(),
    }
}

/// One for a service account.
fn insert(txn: &mut Txn, new: &PodIdentityAssociation) -> Result<PodIdentityAssociation, Refusal> {
    let PodIdentityAssociation { scope, cluster, namespace, service_account, .. } = new;
    kept_cluster(txn, scope, cluster)?;
    let all = txn.list::<PodIdentityAssociation>(&keys::pod_identities(scope, cluster))?;
    let mut all = all.into_iter().map(|(_, known)| known);
    if let Some(known) = all.find(|known| known.is_for(namespace, service_account)) {
        if new.asked.repeats(&known.asked) {
            return Ok(known);
        }
        let message = format!("Association already exists: {}", known.id);
        return Err(in_use(message).with("clusterName", cluster.clone()).into());
    }
    txn.put(&keys::pod_identity(scope, cluster, &new.id), new)?;
    Ok(new.clone())
}

/// ARNs of what an add-on has.
pub(super) fn arns_of_addon(eks: &Eks, addon: &Addon) -> Vec<String> {
    let prefix = keys::pod_identities(&addon.scope, &addon.cluster);
    let all = eks.cloud.store.view().list_as::<PodIdentityAssociation>(&prefix).into_iter();
    let owner = Some(addon.arn());
    all.filter(|(_, known)| known.owner_arn == owner).map(|(_, known)| known.arn()).collect()
}

/// An add-on has these from now on; without a word it keeps what it has.
pub(super) fn set_of_addon(
    eks: &Eks,
    txn: &mut Txn,
    addon: &Addon,
    wanted: Option<&[(String, String)]>,
) -> Result<(), Refusal> {
    let Some(wanted) = wanted else { return Ok(()) };
    let owner = addon.arn();
    let is_wanted = |known: &PodIdentityAssociation| {
        wanted.iter().any(|(account, role)| *account == known.service_account && *role == known.role_arn)
    };
    let own = of_addon(txn, addon)?;
    own.iter().filter(|(_, known)| !is_wanted(known)).for_each(|(key, _)| txn.delete(key));
    for (account, role) in wanted {
        if own.iter().any(|(_, known)| known.service_account == *account && known.role_arn == *role) {
            continue;
        }
        let new = plain(eks, &addon.scope, [&addon.cluster, &addon.namespace, account], role.clone());
        insert(txn, &PodIdentityAssociation { owner_arn: Some(owner.clone()), ..new })?;
    }
    Ok(())
}

/// What an add-on leaves behind is its user's.
pub(super) fn end_of_addon(txn: &mut Txn, addon: &Addon, preserve: bool) -> Result<(), Refusal> {
    for (key, known) in of_addon(txn, addon)? {
        match preserve {
            true => txn.put(&key, &PodIdentityAssociation { owner_arn: None, ..known })?,
            false => txn.delete(&key),
        }
    }
    Ok(())
}

fn of_addon(txn: &mut Txn, addon: &Addon) -> Result<Vec<(Arc<str>, PodIdentityAssociation)>, Refusal> {
    let owner = Some(addon.arn());
    let mut all = txn.list::<PodIdentityAssociation>(&keys::pod_identities(&addon.scope, &addon.cluster))?;
    all.retain(|(_, known)| known.owner_arn == owner);
    Ok(all)
}

pub(super) async fn describe(
    eks: Eks,
    call: Call,
    input: model::DescribePodIdentityAssociationRequest,
) -> Result<model::DescribePodIdentityAssociationResponse, ApiError> {
    let (cluster, id) = (input.cluster_name.unwrap_or_default(), input.association_id.unwrap_or_default());
    let found = find(&eks, &call, &cluster, &id)?;
    Ok(model::DescribePodIdentityAssociationResponse { association: Some(present(&found)) })
}

pub(super) async fn list(
    eks: Eks,
    call: Call,
    input: model::ListPodIdentityAssociationsRequest,
) -> Result<model::ListPodIdentityAssociationsResponse, ApiError> {
    let cluster = input.cluster_name.unwrap_or_default();
    find_cluster(&eks, &call, &cluster)?;
    let prefix = keys::pod_identities(&call.scope, &cluster);
    let all = eks.cloud.store.view().list_as::<PodIdentityAssociation>(&prefix);
    let wants = |asked: &Option<String>, name: &str| asked.as_ref().is_none_or(|asked| asked == name);
    let is_wanted = |known: &PodIdentityAssociation| {
        wants(&input.namespace, &known.namespace) && wants(&input.service_account, &known.service_account)
    };
    let found = all.into_iter().map(|(_, known)| known).filter(is_wanted).collect();
    let page = page(found, |known| known.id.clone(), input.next_token.as_deref(), input.max_results)?;
    Ok(model::ListPodIdentityAssociationsResponse {
        associations: Some(page.items.into_iter().map(summarize).collect()),
        next_token: page.next,
    })
}

/// An add-on's are changed with it.
fn check_unowned(association: &PodIdentityAssociation) -> Result<(), ApiError> {
    let Some(owner) = &association.owner_arn else { return Ok(()) };
    let message =
        format!("The association {} is owned by {owner} and is changed by it alone", association.id);
    Err(invalid_request(message).with("clusterName", association.cluster.clone()))
}

pub(super) async fn update(
    eks: Eks,
    call: Call,
    input: model::UpdatePodIdentityAssociationRequest,
) -> Result<model::UpdatePodIdentityAssociationResponse, ApiError> {
    let cluster = input.cluster_name.clone().unwrap_or_default();
    let id = input.association_id.clone().unwrap_or_default();
    find(&eks, &call, &cluster, &id)?;
    if let Some(role) = &input.role_arn {
        check_role(&eks, &call, role)?;
    }
    given(input.target_role_arn.as_ref()).as_deref().map_or(Ok(()), check_target)?;
    let (external_id, now) = (eks.cloud.env.uuid(), eks.cloud.env.now_ms());
    let key = keys::pod_identity(&call.scope, &cluster, &id);
    let body = |txn: &mut Txn| {
        let mut association: PodIdentityAssociation = txn.get(&key)?.ok_or_else(|| missing(&cluster, &id))?;
        check_unowned(&association)?;
        change(&mut association, &input, &external_id);
        check_whole(&association)?;
        association.modified_ms = now;
        txn.put(&key, &association)?;
        Ok::<_, Refusal>(association)
    };
    let association = eks.cloud.store.transact(body).await?;
    Ok(model::UpdatePodIdentityAssociationResponse { association: Some(present(&association)) })
}

/// What is not given stays.
fn change(
    association: &mut PodIdentityAssociation,
    input: &model::UpdatePodIdentityAssociationRequest,
    external_id: &str,
) {
    if let Some(role) = &input.role_arn {
        association.role_arn.clone_from(role);
    }
    if let Some(disabled) = input.disable_session_tags {
        association.disable_session_tags = disabled;
    }
    if input.target_role_arn.is_some() {
        association.target_role_arn = given(input.target_role_arn.as_ref());
        association.external_id = match (&association.target_role_arn, association.external_id.take()) {
            (Some(_), known) => Some(known.unwrap_or_else(|| external_id.to_owned())),
            (None, _) => None,
        };
    }
    if input.policy.is_some() {
        association.policy = given(input.policy.as_ref());
    }
}

pub(super) async fn delete(
    eks: Eks,
    call: Call,
    input: model::DeletePodIdentityAssociationRequest,
) -> Result<model::DeletePodIdentityAssociationResponse, ApiError> {
    let (cluster, id) = (input.cluster_name.unwrap_or_default(), input.association_id.unwrap_or_default());
    find_cluster(&eks, &call, &cluster)?;
    let key = keys::pod_identity(&call.scope, &cluster, &id);
    let body = |txn: &mut Txn| {
        let association: PodIdentityAssociation = txn.get(&key)?.ok_or_else(|| missing(&cluster, &id))?;
        check_unowned(&association)?;
        txn.delete(&key);
        Ok::<_, Refusal>(association)
    };
    let association = eks.cloud.store.transact(body).await?;
    Ok(model::DeletePodIdentityAssociationResponse { association: Some(present(&association)) })
}

//! Access entries and the access policies associated with them.
//!
//! The webhooks of `gate` follow the records: what is written here holds with the next request that is not in a cache.

use super::list::page;
use super::{digest, find_cluster, in_use, invalid_parameter, invalid_request, is_repeat, kept_cluster};
use crate::Eks;
use ekstra_cloud::api::{Call, Refusal};
use ekstra_cloud::iam::{principal_id, role_behind};
use ekstra_cloud::is_known_account;
use ekstra_domain::eks::{
    AccessEntry, AccessPolicy, Association, AuthenticationMode, CLUSTER_ADMIN, Cluster, EC2_LINUX, STANDARD,
    check_groups, check_username, default_username, node_username,
};
use ekstra_domain::iam::{Role, service_linked_name};
use ekstra_domain::names::{Arn, keys};
use ekstra_model::Timestamp;
use ekstra_model::eks::{self as model, errors};
use ekstra_store::Txn;
use ekstra_wire::ApiError;
use std::collections::BTreeMap;

/// What kubelets are, whichever node they run on.
const NODES: &str = "system:nodes";

fn missing(cluster: &str) -> ApiError {
    let message = "The specified principalArn could not be found. You can view your available access entries with 'list-access-entries'.";
    ApiError::new(&errors::RESOURCE_NOT_FOUND_EXCEPTION, message).with("clusterName", cluster)
}

/// Entries are for clusters that have them.
fn check_mode(cluster: &Cluster) -> Result<(), ApiError> {
    if cluster.authentication_mode != AuthenticationMode::ConfigMap {
        return Ok(());
    }
    Err(invalid_request(
        "The cluster's authentication mode must be set to one of [API, API_AND_CONFIG_MAP] to perform this operation.",
    ))
}

fn find(eks: &Eks, call: &Call, cluster: &str, principal: &str) -> Result<AccessEntry, ApiError> {
    check_mode(&*find_cluster(eks, call, cluster)?)?;
    let key = keys::access_entry(&call.scope, cluster, principal);
    eks.cloud.store.view().get_as(&key).ok_or_else(|| missing(cluster))
}

fn present(entry: &AccessEntry) -> model::AccessEntry {
    model::AccessEntry {
        cluster_name: Some(entry.cluster.clone()),
        principal_arn: Some(entry.principal_arn.clone()),
        kubernetes_groups: Some(entry.groups.clone()),
        access_entry_arn: Some(entry.arn()),
        created_at: Some(Timestamp(entry.created_ms)),
        modified_at: Some(Timestamp(entry.modified_ms)),
        tags: Some(entry.tags.clone()),
        username: Some(entry.username.clone()),
        r#type: Some(entry.kind.clone()),
    }
}

fn present_association(policy: &str, association: &Association) -> model::AssociatedAccessPolicy {
    model::AssociatedAccessPolicy {
        policy_arn: Some(policy.to_owned()),
        access_scope: Some(model::AccessScope {
            r#type: Some(association.scope().into()),
            namespaces: Some(association.namespaces.clone().unwrap_or_default()),
        }),
        associated_at: Some(Timestamp(association.associated_ms)),
        modified_at: Some(Timestamp(association.modified_ms)),
    }
}

/// One that nobody asked for in so many words.
fn own(eks: &Eks, cluster: &Cluster, principal: &str, kind: &str) -> AccessEntry {
    let now = eks.cloud.env.now_ms();
    let (username, groups) = match node_username(kind) {
        Some(name) => (name.to_owned(), vec![NODES.to_owned()]),
        None => (default_username(principal), Vec::new()),
    };
    AccessEntry {
        cluster: cluster.name.clone(),
        scope: cluster.scope.clone(),
        uid: eks.cloud.env.uuid(),
        principal_arn: principal.to_owned(),
        principal_id: principal_id(&eks.cloud, principal),
        kind: kind.to_owned(),
        username,
        groups,
        policies: BTreeMap::new(),
        tags: BTreeMap::new(),
        created_ms: now,
        modified_ms: now,
        request_token: None,
        request_digest: String::new(),
    }
}

/// The creator's, who is administrator of the whole cluster.
pub(super) fn creators(eks: &Eks, cluster: &Cluster) -> AccessEntry {
    let is_creator = |role: &Role| cluster.creator_id.as_ref().is_none_or(|id| *id == role.id);
    // Of a role the canonical ARN lacks the path.
    let role = role_behind(&eks.cloud, &cluster.creator_arn).filter(is_creator);
    let principal = role.map_or_else(|| cluster.creator_arn.clone(), |role| role.arn());
    let mut entry = own(eks, cluster, &principal, STANDARD);
    entry.principal_id = cluster.creator_id.clone().or(entry.principal_id);
    let now = entry.created_ms;
    let everything = Association { namespaces: None, associated_ms: now, modified_ms: now };
    entry.policies.insert(CLUSTER_ADMIN.into(), everything);
    entry
}

/// Of the role of a node group, unless there is one. One of nodes that a role has left which is gone is not this one's.
pub(super) fn ensure_of_nodes(
    eks: &Eks,
    cluster: &Cluster,
    role: &str,
    txn: &mut Txn,
) -> Result<(), Refusal> {
    if cluster.authentication_mode == AuthenticationMode::ConfigMap {
        return Ok(());
    }
    let key = keys::access_entry(&cluster.scope, &cluster.name, role);
    let new = own(eks, cluster, role, EC2_LINUX);
    let id = new.principal_id.as_deref().unwrap_or_default();
    let is_kept = |known: &AccessEntry| !known.is_of_nodes() || known.is_of_id(id);
    if !txn.get::<AccessEntry>(&key)?.is_some_and(|known| is_kept(&known)) {
        txn.put(&key, &new)?;
    }
    Ok(())
}

pub(super) async fn create(
    eks: Eks,
    call: Call,
    mut input: model::CreateAccessEntryRequest,
) -> Result<model::CreateAccessEntryResponse, ApiError> {
    let token = input.client_request_token.take();
    let asked = digest(&input);
    let name = input.cluster_name.clone().unwrap_or_default();
    let cluster = find_cluster(&eks, &call, &name)?;
    check_mode(&cluster)?;
    let entry = draft(&eks, &call, &cluster, input, token, asked)?;
    let key = keys::access_entry(&call.scope, &name, &entry.principal_arn);
    let entry = eks
        .cloud
        .store
        .transact(|txn| {
            kept_cluster(txn, &call.scope, &name)?;
            if let Some(existing) = txn.get::<AccessEntry>(&key)? {
                let (token, known) = (entry.request_token.as_ref(), existing.request_token.as_ref());
                if is_repeat(token, &entry.request_digest, known, &existing.request_digest) {
                    return Ok(existing);
                }
                let message = "The specified access entry resource is already in use on this cluster.";
                return Err(in_use(message).with("clusterName", name.clone()).into());
            }
            txn.put(&key, &entry)?;
            Ok::<_, Refusal>(entry.clone())
        })
        .await?;
    Ok(model::CreateAccessEntryResponse { access_entry: Some(present(&entry)) })
}

fn draft(
    eks: &Eks,
    call: &Call,
    cluster: &Cluster,
    input: model::CreateAccessEntryRequest,
    request_token: Option<String>,
    request_digest: String,
) -> Result<AccessEntry, ApiError> {
    let principal = input.principal_arn.unwrap_or_default();
    let kind = input.r#type.unwrap_or_else(|| STANDARD.into());
    check_principal(eks, call, &principal, &kind)?;
    if service_linked_name(&principal).is_some() {
        let message = "The caller is not allowed to modify access entries with a principalArn value of a Service Linked Role";
        return Err(invalid_parameter(message));
    }
    let groups = input.kubernetes_groups.unwrap_or_default();
    if kind != STANDARD && node_username(&kind).is_none() {
        return Err(invalid_parameter(format!("The type {kind} is not supported by ekstra")));
    }
    if kind != STANDARD && (!groups.is_empty() || input.username.is_some()) {
        let message =
            format!("Only access entries of type {STANDARD} can have a username and kubernetes groups");
        return Err(invalid_parameter(message));
    }
    check_groups(&groups).map_err(invalid_parameter)?;
    let mut entry = own(eks, cluster, &principal, &kind);
    if let Some(username) = input.username {
        check_username(&username).map_err(invalid_parameter)?;
        entry.username = username;
    }
    if kind == STANDARD {
        entry.groups = groups;
    }
    entry.tags = input.tags.unwrap_or_default();
    Ok(AccessEntry { request_token, request_digest, ..entry })
}

/// People's entries are for every principal of every account, nodes' for roles of the cluster's own.
fn check_principal(eks: &Eks, call: &Call, principal: &str, kind: &str) -> Result<(), ApiError> {
    let arn: Option<Arn> = principal.parse().ok();
    let fits = arn.filter(|arn| arn.service == "iam").is_some_and(|arn| {
        let is_own = arn.account == call.scope.account;
        // Of accounts that nobody has made here nothing is known.
        let is_there =
            principal_id(&eks.cloud, principal).is_some() || !is_known_account(&eks.cloud, &arn.account);
        if kind == STANDARD {
            arn.resource == "root" || (is_there && arn.role_name().or(arn.user_name()).is_some())
        } else {
            is_own && is_there && arn.role_name().is_some()
        }
    });
    match fits {
        true => Ok(()),
        false => Err(invalid_parameter("The specified principalArn is invalid: invalid principal.")),
    }
}

pub(super) async fn describe(
    eks: Eks,
    call: Call,
    input: model::DescribeAccessEntryRequest,
) -> Result<model::DescribeAccessEntryResponse, ApiError> {
    let (cluster, principal) =
        (input.cluster_name.unwrap_or_default(), input.principal_arn.unwrap_or_default());
    let entry = find(&eks, &call, &cluster, &principal)?;
    Ok(model::DescribeAccessEntryResponse { access_entry: Some(present(&entry)) })
}

pub(super) async fn list(
    eks: Eks,
    call: Call,
    input: model::ListAccessEntriesRequest,
) -> Result<model::ListAccessEntriesResponse, ApiError> {
    let name = input.cluster_name.unwrap_or_default();
    check_mode(&*find_cluster(&eks, &call, &name)?)?;
    let all = eks.cloud.store.view().list_as::<AccessEntry>(&keys::access_entries(&call.scope, &name));
    let wanted = input.associated_policy_arn;
    let has = |entry: &AccessEntry| wanted.as_ref().is_none_or(|policy| entry.policies.contains_key(policy));
    let found = all.into_iter().map(|(_, entry)| entry).filter(has).map(|entry| entry.principal_arn);
    let page = page(found.collect(), String::clone, input.next_token.as_deref(), input.max_results)?;
    Ok(model::ListAccessEntriesResponse { access_entries: Some(page.items), next_token: page.next })
}

/// Changes an entry that is there.
async fn change(
    eks: &Eks,
    call: &Call,
    cluster: &str,
    principal: &str,
    body: impl Fn(&mut AccessEntry) -> Result<(), ApiError>,
) -> Result<AccessEntry, ApiError> {
    find(eks, call, cluster, principal)?;
    let key = keys::access_entry(&call.scope, cluster, principal);
    let now = eks.cloud.env.now_ms();
    let body = |txn: &mut Txn| {
        let mut entry: AccessEntry = txn.get(&key)?.ok_or_else(|| missing(cluster))?;
        body(&mut entry)?;
        entry.modified_ms = now;
        txn.put(&key, &entry)?;
        Ok::<_, Refusal>(entry)
    };
    Ok(eks.cloud.store.transact(body).await?)
}

/// Nodes' entries are what they are.
fn check_standard(entry: &AccessEntry, what: &str) -> Result<(), ApiError> {
    if entry.kind == STANDARD {
        return Ok(());
    }
    let message = format!("{what} of access entries of type {} cannot be changed", entry.kind);
    Err(invalid_request(message))
}

pub(super) async fn update(
    eks: Eks,
    call: Call,
    input: model::UpdateAccessEntryRequest,
) -> Result<model::UpdateAccessEntryResponse, ApiError> {
    let (cluster, principal) =
        (input.cluster_name.unwrap_or_default(), input.principal_arn.unwrap_or_default());
    if let Some(groups) = &input.kubernetes_groups {
        check_groups(groups).map_err(invalid_parameter)?;
    }
    if let Some(username) = &input.username {
        check_username(username).map_err(invalid_parameter)?;
    }
    let update = |entry: &mut AccessEntry| {
        check_standard(entry, "Username and groups")?;
        if let Some(groups) = &input.kubernetes_groups {
            entry.groups.clone_from(groups);
        }
        if let Some(username) = &input.username {
            entry.username.clone_from(username);
        }
        Ok(())
    };
    let entry = change(&eks, &call, &cluster, &principal, update).await?;
    Ok(model::UpdateAccessEntryResponse { access_entry: Some(present(&entry)) })
}

pub(super) async fn delete(
    eks: Eks,
    call: Call,
    input: model::DeleteAccessEntryRequest,
) -> Result<model::DeleteAccessEntryResponse, ApiError> {
    let (cluster, principal) =
        (input.cluster_name.unwrap_or_default(), input.principal_arn.unwrap_or_default());
    find(&eks, &call, &cluster, &principal)?;
    let key = keys::access_entry(&call.scope, &cluster, &principal);
    let body = |txn: &mut Txn| {
        if !txn.exists(&key) {
            return Err(missing(&cluster).into());
        }
        txn.delete(&key);
        Ok::<_, Refusal>(())
    };
    eks.cloud.store.transact(body).await?;
    Ok(model::DeleteAccessEntryResponse::default())
}

/// The policy, if it is one.
fn check_policy(arn: &str) -> Result<(), ApiError> {
    if AccessPolicy::of_arn(arn).is_some() {
        return Ok(());
    }
    let message =
        "The policyArn is not supported, you can view the supported policies with 'list-access-policies'.";
    Err(invalid_parameter(message))
}

fn read_scope(scope: Option<model::AccessScope>) -> Result<Option<Vec<String>>, ApiError> {
    let scope = scope.unwrap_or_default();
    let namespaces = scope.namespaces.unwrap_or_default();
    match (scope.r#type.as_deref(), namespaces.is_empty()) {
        (Some("cluster"), true) => Ok(None),
        (Some("namespace"), false) => Ok(Some(namespaces)),
        (Some("cluster"), false) => {
            Err(invalid_parameter("Namespaces cannot be given with an access scope of type cluster"))
        }
        (Some("namespace"), true) => {
            Err(invalid_parameter("Namespaces are required for an access scope of type namespace"))
        }
        _ => Err(invalid_parameter("The type of the access scope must be one of [cluster, namespace]")),
    }
}

pub(super) async fn associate(
    eks: Eks,
    call: Call,
    input: model::AssociateAccessPolicyRequest,
) -> Result<model::AssociateAccessPolicyResponse, ApiError> {
    let (cluster, principal) =
        (input.cluster_name.unwrap_or_default(), input.principal_arn.unwrap_or_default());
    let policy = input.policy_arn.unwrap_or_default();
    let namespaces = read_scope(input.access_scope)?;
    let now = eks.cloud.env.now_ms();
    let associate = |entry: &mut AccessEntry| {
        check_policy(&policy)?;
        check_standard(entry, "Access policies")?;
        let before = entry.policies.get(&policy).map_or(now, |known| known.associated_ms);
        let association =
            Association { namespaces: namespaces.clone(), associated_ms: before, modified_ms: now };
        entry.policies.insert(policy.clone(), association);
        Ok(())
    };
    let entry = change(&eks, &call, &cluster, &principal, associate).await?;
    let association = entry.policies.get(&policy).map(|known| present_association(&policy, known));
    Ok(model::AssociateAccessPolicyResponse {
        cluster_name: Some(cluster),
        principal_arn: Some(principal),
        associated_access_policy: association,
    })
}

pub(super) async fn disassociate(
    eks: Eks,
    call: Call,
    input: model::DisassociateAccessPolicyRequest,
) -> Result<model::DisassociateAccessPolicyResponse, ApiError> {
    let (cluster, principal) =
        (input.cluster_name.unwrap_or_default(), input.principal_arn.unwrap_or_default());
    let policy = input.policy_arn.unwrap_or_default();
    let disassociate = |entry: &mut AccessEntry| {
        let message = "The specified policyArn is not associated with the access entry.";
        let missing = || ApiError::new(&errors::RESOURCE_NOT_FOUND_EXCEPTION, message);
        entry.policies.remove(&policy).map(drop).ok_or_else(missing)
    };
    change(&eks, &call, &cluster, &principal, disassociate).await?;
    Ok(model::DisassociateAccessPolicyResponse::default())
}

pub(super) async fn list_associated(
    eks: Eks,
    call: Call,
    input: model::ListAssociatedAccessPoliciesRequest,
) -> Result<model::ListAssociatedAccessPoliciesResponse, ApiError> {
    let (cluster, principal) =
        (input.cluster_name.unwrap_or_default(), input.principal_arn.unwrap_or_default());
    let entry = find(&eks, &call, &cluster, &principal)?;
    let all = entry.policies.iter().map(|(policy, association)| present_association(policy, association));
    let key = |policy: &model::AssociatedAccessPolicy| policy.policy_arn.clone().unwrap_or_default();
    let page = page(all.collect(), key, input.next_token.as_deref(), input.max_results)?;
    Ok(model::ListAssociatedAccessPoliciesResponse {
        cluster_name: Some(cluster),
        principal_arn: Some(principal),
        next_token: page.next,
        associated_access_policies: Some(page.items),
    })
}

pub(super) async fn list_policies(
    _: Eks,
    _: Call,
    input: model::ListAccessPoliciesRequest,
) -> Result<model::ListAccessPoliciesResponse, ApiError> {
    let describe = |policy: AccessPolicy| model::AccessPolicy {
        name: Some(policy.name().into()),
        arn: Some(policy.arn()),
    };
    let all = AccessPolicy::ALL.into_iter().map(describe).collect();
    let key = |policy: &model::AccessPolicy| policy.name.clone().unwrap_or_default();
    let page = page(all, key, input.next_token.as_deref(), input.max_results)?;
    Ok(model::ListAccessPoliciesResponse { access_policies: Some(page.items), next_token: page.next })
}

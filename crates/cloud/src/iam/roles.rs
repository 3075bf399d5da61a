//! Identity and Access Management: roles and the policies attached to them.

use crate::Cloud;
use crate::api::{Call, Refusal, Router};
use ekstra_domain::iam::Role;
use ekstra_domain::names::{Arn, keys};
use ekstra_domain::page::Page;
use ekstra_model::iam::{self as model, errors, ops};
use ekstra_model::{Shape, Timestamp};
use ekstra_wire::{ApiError, uri_encode};
use std::collections::BTreeMap;

pub(crate) fn serve(router: &mut Router, cloud: &Cloud) {
    router.serve(ops::CreateRole, cloud, create_role);
    router.serve(ops::GetRole, cloud, get_role);
    router.serve(ops::ListRoles, cloud, list_roles);
    router.serve(ops::DeleteRole, cloud, delete_role);
    router.serve(ops::AttachRolePolicy, cloud, attach_role_policy);
    router.serve(ops::DetachRolePolicy, cloud, detach_role_policy);
    router.serve(ops::ListAttachedRolePolicies, cloud, list_attached_role_policies);
}

/// The role that an ARN names, if it exists.
pub fn find_role(cloud: &Cloud, arn: &str) -> Option<Role> {
    let parsed: Arn = arn.parse().ok().filter(|a: &Arn| a.service == "iam")?;
    let role: Role = cloud.store.view().get_as(&keys::role(&parsed.account, parsed.role_name()?))?;
    (role.arn() == arn).then_some(role)
}

fn missing(name: &str) -> ApiError {
    ApiError::new(&errors::NO_SUCH_ENTITY_EXCEPTION, format!("The role with name {name} cannot be found."))
}

fn describe(role: &Role) -> model::Role {
    model::Role {
        path: Some(role.path.clone()),
        role_name: Some(role.name.clone()),
        role_id: Some(role.id.clone()),
        arn: Some(role.arn()),
        create_date: Some(Timestamp(role.created_ms)),
        // IAM answers policy documents percent-encoded.
        assume_role_policy_document: Some(uri_encode(&role.trust_policy)),
        description: role.description.clone(),
        max_session_duration: i32::try_from(role.max_session_seconds).ok(),
        tags: Some(role.tags.iter().map(|(k, v)| tag(k, v)).collect()),
        ..Default::default()
    }
}

fn tag(key: &str, value: &str) -> model::Tag {
    model::Tag { key: Some(key.to_owned()), value: Some(value.to_owned()) }
}

async fn create_role(
    cloud: Cloud,
    call: Call,
    input: model::CreateRoleRequest,
) -> Result<model::CreateRoleResponse, ApiError> {
    let name = input.role_name.unwrap_or_default();
    let trust_policy = input.assume_role_policy_document.unwrap_or_default();
    if !is_json_object(&trust_policy) {
        let message = "This policy contains invalid Json";
        return Err(ApiError::new(&errors::MALFORMED_POLICY_DOCUMENT_EXCEPTION, message));
    }
    let tags = input.tags.unwrap_or_default();
    let role = Role {
        name: name.clone(),
        account: call.scope.account.clone(),
        path: input.path.unwrap_or_else(|| "/".into()),
        id: cloud.env.iam_id("AROA"),
        created_ms: cloud.env.now_ms(),
        trust_policy,
        description: input.description,
        max_session_seconds: input.max_session_duration.map_or(3600, i64::from),
        attached_policies: Vec::new(),
        tags: tags.into_iter().filter_map(|t| Some((t.key?, t.value?))).collect::<BTreeMap<_, _>>(),
    };
    let key = keys::role(&role.account, &name);
    cloud
        .store
        .transact(|txn| {
            if txn.exists(&key) {
                let message = format!("Role with name {name} already exists.");
                return Err(ApiError::new(&errors::ENTITY_ALREADY_EXISTS_EXCEPTION, message).into());
            }
            Ok::<_, Refusal>(txn.put(&key, &role)?)
        })
        .await?;
    Ok(model::CreateRoleResponse { role: Some(describe(&role)) })
}

fn is_json_object(text: &str) -> bool {
    serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text).is_ok()
}

fn load(cloud: &Cloud, call: &Call, name: &str) -> Result<Role, ApiError> {
    cloud.store.view().get_as(&keys::role(&call.scope.account, name)).ok_or_else(|| missing(name))
}

async fn get_role(
    cloud: Cloud,
    call: Call,
    input: model::GetRoleRequest,
) -> Result<model::GetRoleResponse, ApiError> {
    let role = load(&cloud, &call, &input.role_name.unwrap_or_default())?;
    Ok(model::GetRoleResponse { role: Some(describe(&role)) })
}

async fn list_roles(
    cloud: Cloud,
    call: Call,
    input: model::ListRolesRequest,
) -> Result<model::ListRolesResponse, ApiError> {
    let prefix = input.path_prefix.unwrap_or_else(|| "/".into());
    let all = cloud.store.view().list_as::<Role>(&keys::roles(&call.scope.account));
    let found: Vec<Role> = all.into_iter().map(|(_, r)| r).filter(|r| r.path.starts_with(&prefix)).collect();
    let page = page(found, |r| r.name.clone(), input.marker.as_deref(), input.max_items)?;
    Ok(model::ListRolesResponse {
        roles: Some(page.items.iter().map(describe).collect()),
        is_truncated: Some(page.next.is_some()),
        marker: page.next,
    })
}

/// IAM's pagination: `Marker` and `MaxItems` (1 to 1000, 100 when absent).
fn page<T>(
    all: Vec<T>,
    key: impl Fn(&T) -> String,
    marker: Option<&str>,
    size: Option<i32>,
) -> Result<Page<T>, ApiError> {
    let invalid = |what: &str| ApiError::client("ValidationError", 400, what);
    let size = usize::try_from(size.unwrap_or(100)).ok().filter(|size| (1..=1000).contains(size));
    let size = size.ok_or_else(|| invalid("Invalid MaxItems."))?;
    Page::of(all, key, marker, size).map_err(|_| invalid("Invalid Marker."))
}

async fn delete_role(
    cloud: Cloud,
    call: Call,
    input: model::DeleteRoleRequest,
) -> Result<ekstra_model::Unit, ApiError> {
    let name = input.role_name.unwrap_or_default();
    let key = keys::role(&call.scope.account, &name);
    cloud
        .store
        .transact(|txn| {
            let role: Role = txn.get(&key)?.ok_or_else(|| missing(&name))?;
            if !role.attached_policies.is_empty() {
                let message = "Cannot delete entity, must detach all policies first.";
                return Err(ApiError::new(&errors::DELETE_CONFLICT_EXCEPTION, message).into());
            }
            txn.delete(&key);
            Ok::<_, Refusal>(())
        })
        .await?;
    unit()
}

fn unit<T: Shape>() -> Result<T, ApiError> {
    Ok(T::default())
}

async fn change_policies(
    cloud: &Cloud,
    call: &Call,
    name: &str,
    change: impl Fn(&mut Vec<String>) -> Result<(), ApiError>,
) -> Result<(), ApiError> {
    let key = keys::role(&call.scope.account, name);
    let body = |txn: &mut ekstra_store::Txn| {
        let mut role: Role = txn.get(&key)?.ok_or_else(|| missing(name))?;
        change(&mut role.attached_policies)?;
        Ok::<_, Refusal>(txn.put(&key, &role)?)
    };
    Ok(cloud.store.transact(body).await?)
}

async fn attach_role_policy(
    cloud: Cloud,
    call: Call,
    input: model::AttachRolePolicyRequest,
) -> Result<ekstra_model::Unit, ApiError> {
    let policy = input.policy_arn.unwrap_or_default();
    if policy.parse::<Arn>().is_err() {
        return Err(ApiError::client("ValidationError", 400, format!("ARN {policy} is not valid.")));
    }
    let attach = |policies: &mut Vec<String>| {
        if !policies.contains(&policy) {
            policies.push(policy.clone());
        }
        Ok(())
    };
    change_policies(&cloud, &call, &input.role_name.unwrap_or_default(), attach).await?;
    unit()
}

async fn detach_role_policy(
    cloud: Cloud,
    call: Call,
    input: model::DetachRolePolicyRequest,
) -> Result<ekstra_model::Unit, ApiError> {
    let policy = input.policy_arn.unwrap_or_default();
    let detach = |policies: &mut Vec<String>| {
        let before = policies.len();
        policies.retain(|p| *p != policy);
        if policies.len() == before {
            let message = format!("Policy {policy} was not found.");
            return Err(ApiError::new(&errors::NO_SUCH_ENTITY_EXCEPTION, message));
        }
        Ok(())
    };
    change_policies(&cloud, &call, &input.role_name.unwrap_or_default(), detach).await?;
    unit()
}

async fn list_attached_role_policies(
    cloud: Cloud,
    call: Call,
    input: model::ListAttachedRolePoliciesRequest,
) -> Result<model::ListAttachedRolePoliciesResponse, ApiError> {
    let role = load(&cloud, &call, &input.role_name.unwrap_or_default())?;
    let page = page(role.attached_policies, String::clone, input.marker.as_deref(), input.max_items)?;
    let attached = |arn: String| model::AttachedPolicy {
        policy_name: arn.rsplit('/').next().map(str::to_owned),
        policy_arn: Some(arn),
    };
    Ok(model::ListAttachedRolePoliciesResponse {
        attached_policies: Some(page.items.into_iter().map(attached).collect()),
        is_truncated: Some(page.next.is_some()),
        marker: page.next,
    })
}

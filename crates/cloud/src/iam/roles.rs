//! Roles.

use super::grants::check_boundary;
use super::{
    Entity, already_exists, boundary, change, check_own, delete_conflict, described, future_arn, is_taken,
    page, tagging, tags_of, trust, unit,
};
use crate::Cloud;
use crate::access::Access;
use crate::api::{Call, Refusal, Router};
use ekstra_domain::iam::{DEFAULT_SESSION_SECONDS, Grants, InstanceProfile, Role, is_service_linked};
use ekstra_domain::names::keys;
use ekstra_model::iam::{self as model, errors, ops};
use ekstra_model::{Timestamp, Unit};
use ekstra_wire::{ApiError, uri_encode};

macro_rules! about {
    ($input:ident) => {
        |cloud: &Cloud, call: &Call, input: &model::$input| {
            Role::access(cloud, call, input.role_name.as_ref())
        }
    };
}

pub(super) fn serve(router: &mut Router, cloud: &Cloud) {
    let creation = |_: &Cloud, call: &Call, input: &model::CreateRoleRequest| {
        let arn = future_arn(call, "role", input.path.as_ref(), input.role_name.as_ref());
        let access = Access::on(arn).made_with_tags(Some(&tags_of(input.tags.clone())), "iam:TagRole");
        access.with("iam:PermissionsBoundary", input.permissions_boundary.clone())
    };
    let listing = |_: &Cloud, call: &Call, input: &model::ListRolesRequest| {
        Access::on(future_arn(call, "role", input.path_prefix.as_ref(), None))
    };
    router.serve(ops::CreateRole, cloud, creation, create_role);
    router.serve(ops::GetRole, cloud, about!(GetRoleRequest), get_role);
    router.serve(ops::ListRoles, cloud, listing, list_roles);
    router.serve(ops::DeleteRole, cloud, about!(DeleteRoleRequest), delete_role);
    router.serve(ops::UpdateRole, cloud, about!(UpdateRoleRequest), update_role);
    router.serve(ops::UpdateRoleDescription, cloud, about!(UpdateRoleDescriptionRequest), describe_anew);
    router.serve(ops::UpdateAssumeRolePolicy, cloud, about!(UpdateAssumeRolePolicyRequest), update_trust);
}

pub(super) fn describe(cloud: &Cloud, role: &Role) -> model::Role {
    model::Role {
        path: Some(role.path.clone()),
        role_name: Some(role.name.clone()),
        role_id: Some(role.id.clone()),
        arn: Some(role.arn()),
        create_date: Some(Timestamp(role.created_ms)),
        // IAM answers policy documents percent-encoded.
        assume_role_policy_document: Some(uri_encode(&trust::shown(cloud, role))),
        description: role.description.clone(),
        max_session_duration: i32::try_from(role.max_session_seconds).ok(),
        permissions_boundary: boundary(&role.grants),
        tags: Some(described(&role.tags)),
        ..Default::default()
    }
}

/// Lists leave these out (API reference, ListRoles).
fn listed(cloud: &Cloud, role: &Role) -> model::Role {
    model::Role { permissions_boundary: None, tags: None, ..describe(cloud, role) }
}

async fn create_role(
    cloud: Cloud,
    call: Call,
    input: model::CreateRoleRequest,
) -> Result<model::CreateRoleResponse, ApiError> {
    let name = input.role_name.unwrap_or_default();
    if input.path.as_deref().is_some_and(is_service_linked) {
        let message = "Roles of this path are made by CreateServiceLinkedRole";
        return Err(ApiError::new(&errors::INVALID_INPUT_EXCEPTION, message));
    }
    check_boundary(&cloud, &call, input.permissions_boundary.as_deref())?;
    let trust_policy = input.assume_role_policy_document.unwrap_or_default();
    let trusted = trust::read(&cloud, &trust_policy)?;
    let role = Role {
        name: name.clone(),
        account: call.scope.account.clone(),
        path: input.path.unwrap_or_else(|| "/".into()),
        id: cloud.env.iam_id("AROA"),
        created_ms: cloud.env.now_ms(),
        trust_policy,
        trusted,
        description: input.description,
        max_session_seconds: input.max_session_duration.map_or(DEFAULT_SESSION_SECONDS, i64::from),
        grants: Grants { boundary: input.permissions_boundary, ..Grants::default() },
        tags: tagging::read::<Role>(input.tags)?,
    };
    let key = keys::role(&role.account, &name);
    cloud
        .store
        .transact(|txn| {
            if is_taken(&cloud, txn, &key) {
                return Err(already_exists(format!("Role with name {name} already exists.")).into());
            }
            Ok::<_, Refusal>(txn.put(&key, &role)?)
        })
        .await?;
    Ok(model::CreateRoleResponse { role: Some(describe(&cloud, &role)) })
}

async fn get_role(
    cloud: Cloud,
    call: Call,
    input: model::GetRoleRequest,
) -> Result<model::GetRoleResponse, ApiError> {
    let role = Role::load(&cloud, &call, &input.role_name.unwrap_or_default())?;
    Ok(model::GetRoleResponse { role: Some(describe(&cloud, &role)) })
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
        roles: Some(page.items.iter().map(|role| listed(&cloud, role)).collect()),
        is_truncated: Some(page.next.is_some()),
        marker: page.next,
    })
}

async fn delete_role(cloud: Cloud, call: Call, input: model::DeleteRoleRequest) -> Result<Unit, ApiError> {
    let name = input.role_name.unwrap_or_default();
    let key = keys::role(&call.scope.account, &name);
    let profiles = keys::instance_profiles(&call.scope.account);
    cloud
        .store
        .transact(|txn| {
            let role: Role = txn.get(&key)?.ok_or_else(|| Role::missing(&name))?;
            check_own(&role.arn())?;
            if !role.grants.attached_policies.is_empty() {
                return Err(delete_conflict("Cannot delete entity, must detach all policies first.").into());
            }
            let uses = |profile: &InstanceProfile| profile.role.as_ref() == Some(&name);
            if txn.list::<InstanceProfile>(&profiles)?.iter().any(|(_, profile)| uses(profile)) {
                let message = "Cannot delete entity, must remove roles from instance profile first.";
                return Err(delete_conflict(message).into());
            }
            if !role.grants.inline_policies.is_empty() {
                return Err(delete_conflict("Cannot delete entity, must delete policies first.").into());
            }
            txn.delete(&key);
            Ok::<_, Refusal>(())
        })
        .await?;
    unit()
}

async fn update_role(
    cloud: Cloud,
    call: Call,
    input: model::UpdateRoleRequest,
) -> Result<model::UpdateRoleResponse, ApiError> {
    // What is not said becomes what a new role has.
    let seconds = input.max_session_duration.map_or(DEFAULT_SESSION_SECONDS, i64::from);
    let update = |role: &mut Role| {
        role.description.clone_from(&input.description);
        role.max_session_seconds = seconds;
        Ok(())
    };
    change(&cloud, &call, input.role_name.as_deref().unwrap_or_default(), update).await?;
    unit()
}

async fn describe_anew(
    cloud: Cloud,
    call: Call,
    input: model::UpdateRoleDescriptionRequest,
) -> Result<model::UpdateRoleDescriptionResponse, ApiError> {
    let name = input.role_name.unwrap_or_default();
    let update = |role: &mut Role| {
        role.description.clone_from(&input.description);
        Ok(())
    };
    let role = change(&cloud, &call, &name, update).await?;
    Ok(model::UpdateRoleDescriptionResponse { role: Some(describe(&cloud, &role)) })
}

async fn update_trust(
    cloud: Cloud,
    call: Call,
    input: model::UpdateAssumeRolePolicyRequest,
) -> Result<Unit, ApiError> {
    let text = input.policy_document.unwrap_or_default();
    let trusted = trust::read(&cloud, &text)?;
    let update = |role: &mut Role| {
        check_own(&role.arn())?;
        role.trust_policy.clone_from(&text);
        role.trusted.clone_from(&trusted);
        Ok(())
    };
    change(&cloud, &call, &input.role_name.unwrap_or_default(), update).await?;
    unit()
}

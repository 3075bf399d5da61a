//! Users.

use super::grants::check_boundary;
use super::{
    Entity, already_exists, boundary, delete_conflict, described, future_arn, is_taken, page, tagging,
    tags_of, unit,
};
use crate::Cloud;
use crate::access::Access;
use crate::api::{Call, Refusal, Router};
use ekstra_domain::iam::{AccessKey, Grants, User};
use ekstra_domain::names::{Arn, keys};
use ekstra_model::iam::{self as model, ops};
use ekstra_model::{Timestamp, Unit};
use ekstra_wire::ApiError;
use std::collections::BTreeSet;

pub(super) fn serve(router: &mut Router, cloud: &Cloud) {
    let creation = |_: &Cloud, call: &Call, input: &model::CreateUserRequest| {
        let arn = future_arn(call, "user", input.path.as_ref(), input.user_name.as_ref());
        let access = Access::on(arn).made_with_tags(Some(&tags_of(input.tags.clone())), "iam:TagUser");
        access.with("iam:PermissionsBoundary", input.permissions_boundary.clone())
    };
    let listing = |_: &Cloud, call: &Call, input: &model::ListUsersRequest| {
        Access::on(future_arn(call, "user", input.path_prefix.as_ref(), None))
    };
    router.serve(ops::CreateUser, cloud, creation, create_user);
    router.serve(
        ops::GetUser,
        cloud,
        |cloud: &Cloud, call: &Call, input: &model::GetUserRequest| {
            User::access(cloud, call, named(call, input.user_name.clone()).as_ref())
        },
        get_user,
    );
    router.serve(ops::ListUsers, cloud, listing, list_users);
    router.serve(
        ops::DeleteUser,
        cloud,
        |cloud: &Cloud, call: &Call, input: &model::DeleteUserRequest| {
            User::access(cloud, call, input.user_name.as_ref())
        },
        delete_user,
    );
}

/// The user that is meant: the caller, when none is named.
pub(super) fn named(call: &Call, given: Option<String>) -> Option<String> {
    given.or_else(|| call.principal.arn.parse::<Arn>().ok()?.user_name().map(str::to_owned))
}

pub(super) fn describe(user: &User) -> model::User {
    model::User {
        path: Some(user.path.clone()),
        user_name: Some(user.name.clone()),
        user_id: Some(user.id.clone()),
        arn: Some(user.arn()),
        create_date: Some(Timestamp(user.created_ms)),
        permissions_boundary: boundary(&user.grants),
        tags: Some(described(&user.tags)),
        ..Default::default()
    }
}

/// Lists leave these out (API reference, ListUsers).
fn listed(user: &User) -> model::User {
    model::User { permissions_boundary: None, tags: None, ..describe(user) }
}

async fn create_user(
    cloud: Cloud,
    call: Call,
    input: model::CreateUserRequest,
) -> Result<model::CreateUserResponse, ApiError> {
    let name = input.user_name.unwrap_or_default();
    check_boundary(&cloud, &call, input.permissions_boundary.as_deref())?;
    let user = User {
        name: name.clone(),
        account: call.scope.account.clone(),
        path: input.path.unwrap_or_else(|| "/".into()),
        id: cloud.env.iam_id("AIDA"),
        created_ms: cloud.env.now_ms(),
        grants: Grants { boundary: input.permissions_boundary, ..Grants::default() },
        groups: BTreeSet::new(),
        tags: tagging::read::<User>(input.tags)?,
    };
    let key = keys::user(&user.account, &name);
    cloud
        .store
        .transact(|txn| {
            if is_taken(&cloud, txn, &key) {
                return Err(already_exists(format!("User with name {name} already exists.")).into());
            }
            Ok::<_, Refusal>(txn.put(&key, &user)?)
        })
        .await?;
    Ok(model::CreateUserResponse { user: Some(describe(&user)) })
}

async fn get_user(
    cloud: Cloud,
    call: Call,
    input: model::GetUserRequest,
) -> Result<model::GetUserResponse, ApiError> {
    let Some(name) = named(&call, input.user_name) else {
        let message = "Must specify userName when calling with non-User credentials";
        return Err(ApiError::client("ValidationError", 400, message));
    };
    let user = User::load(&cloud, &call, &name)?;
    Ok(model::GetUserResponse { user: Some(describe(&user)) })
}

async fn list_users(
    cloud: Cloud,
    call: Call,
    input: model::ListUsersRequest,
) -> Result<model::ListUsersResponse, ApiError> {
    let prefix = input.path_prefix.unwrap_or_else(|| "/".into());
    let all = cloud.store.view().list_as::<User>(&keys::users(&call.scope.account));
    let found: Vec<User> = all.into_iter().map(|(_, u)| u).filter(|u| u.path.starts_with(&prefix)).collect();
    let page = page(found, |user| user.name.clone(), input.marker.as_deref(), input.max_items)?;
    Ok(model::ListUsersResponse {
        users: Some(page.items.iter().map(listed).collect()),
        is_truncated: Some(page.next.is_some()),
        marker: page.next,
    })
}

async fn delete_user(cloud: Cloud, call: Call, input: model::DeleteUserRequest) -> Result<Unit, ApiError> {
    let name = input.user_name.unwrap_or_default();
    let key = keys::user(&call.scope.account, &name);
    cloud
        .store
        .transact(|txn| {
            let user: User = txn.get(&key)?.ok_or_else(|| User::missing(&name))?;
            let all_keys = txn.list::<AccessKey>(keys::ACCESS_KEYS)?;
            let has_keys = all_keys.iter().any(|(_, key)| super::keys::is_of(key, &user));
            let obstacle = [
                (has_keys, "must delete access keys first"),
                (!user.grants.attached_policies.is_empty(), "must detach all policies first"),
                (!user.grants.inline_policies.is_empty(), "must delete policies first"),
                (!user.groups.is_empty(), "must remove user from all groups first"),
            ];
            if let Some((_, what)) = obstacle.iter().find(|(stands, _)| *stands) {
                return Err(delete_conflict(format!("Cannot delete entity, {what}.")).into());
            }
            txn.delete(&key);
            Ok::<_, Refusal>(())
        })
        .await?;
    unit()
}

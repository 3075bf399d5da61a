//! Groups of users.

use super::users::describe as describe_user;
use super::{Entity, already_exists, delete_conflict, future_arn, is_taken, page, unit};
use crate::Cloud;
use crate::access::Access;
use crate::api::{Call, Refusal, Router};
use ekstra_domain::iam::{Grants, Group, User};
use ekstra_domain::names::keys;
use ekstra_model::iam::{self as model, ops};
use ekstra_model::{Timestamp, Unit};
use ekstra_wire::ApiError;

macro_rules! about {
    ($input:ident) => {
        |cloud: &Cloud, call: &Call, input: &model::$input| {
            Group::access(cloud, call, input.group_name.as_ref())
        }
    };
}

pub(super) fn serve(router: &mut Router, cloud: &Cloud) {
    let creation = |_: &Cloud, call: &Call, input: &model::CreateGroupRequest| {
        Access::on(future_arn(call, "group", input.path.as_ref(), input.group_name.as_ref()))
    };
    let listing = |_: &Cloud, call: &Call, input: &model::ListGroupsRequest| {
        Access::on(future_arn(call, "group", input.path_prefix.as_ref(), None))
    };
    let of_user = |cloud: &Cloud, call: &Call, input: &model::ListGroupsForUserRequest| {
        User::access(cloud, call, input.user_name.as_ref())
    };
    router.serve(ops::CreateGroup, cloud, creation, create);
    router.serve(ops::GetGroup, cloud, about!(GetGroupRequest), get);
    router.serve(ops::ListGroups, cloud, listing, list);
    router.serve(ops::DeleteGroup, cloud, about!(DeleteGroupRequest), delete);
    router.serve(ops::AddUserToGroup, cloud, about!(AddUserToGroupRequest), add);
    router.serve(ops::RemoveUserFromGroup, cloud, about!(RemoveUserFromGroupRequest), remove);
    router.serve(ops::ListGroupsForUser, cloud, of_user, list_of_user);
}

fn describe(group: &Group) -> model::Group {
    model::Group {
        path: Some(group.path.clone()),
        group_name: Some(group.name.clone()),
        group_id: Some(group.id.clone()),
        arn: Some(group.arn()),
        create_date: Some(Timestamp(group.created_ms)),
    }
}

async fn create(
    cloud: Cloud,
    call: Call,
    input: model::CreateGroupRequest,
) -> Result<model::CreateGroupResponse, ApiError> {
    let name = input.group_name.unwrap_or_default();
    let group = Group {
        name: name.clone(),
        account: call.scope.account.clone(),
        path: input.path.unwrap_or_else(|| "/".into()),
        id: cloud.env.iam_id("AGPA"),
        created_ms: cloud.env.now_ms(),
        grants: Grants::default(),
    };
    let key = keys::group(&group.account, &name);
    cloud
        .store
        .transact(|txn| {
            if is_taken(&cloud, txn, &key) {
                return Err(already_exists(format!("Group with name {name} already exists.")).into());
            }
            Ok::<_, Refusal>(txn.put(&key, &group)?)
        })
        .await?;
    Ok(model::CreateGroupResponse { group: Some(describe(&group)) })
}

fn members(cloud: &Cloud, call: &Call, group: &str) -> Vec<User> {
    let all = cloud.store.view().list_as::<User>(&keys::users(&call.scope.account));
    all.into_iter().map(|(_, user)| user).filter(|user| user.groups.contains(group)).collect()
}

async fn get(
    cloud: Cloud,
    call: Call,
    input: model::GetGroupRequest,
) -> Result<model::GetGroupResponse, ApiError> {
    let group = Group::load(&cloud, &call, &input.group_name.unwrap_or_default())?;
    let users = members(&cloud, &call, &group.name);
    let page = page(users, |user| user.name.clone(), input.marker.as_deref(), input.max_items)?;
    Ok(model::GetGroupResponse {
        group: Some(describe(&group)),
        users: Some(page.items.iter().map(describe_user).collect()),
        is_truncated: Some(page.next.is_some()),
        marker: page.next,
    })
}

async fn list(
    cloud: Cloud,
    call: Call,
    input: model::ListGroupsRequest,
) -> Result<model::ListGroupsResponse, ApiError> {
    let prefix = input.path_prefix.unwrap_or_else(|| "/".into());
    let all = cloud.store.view().list_as::<Group>(&keys::groups(&call.scope.account));
    let found = all.into_iter().map(|(_, group)| group).filter(|group| group.path.starts_with(&prefix));
    let page = page(found.collect(), |g: &Group| g.name.clone(), input.marker.as_deref(), input.max_items)?;
    Ok(model::ListGroupsResponse {
        groups: Some(page.items.iter().map(describe).collect()),
        is_truncated: Some(page.next.is_some()),
        marker: page.next,
    })
}

async fn delete(cloud: Cloud, call: Call, input: model::DeleteGroupRequest) -> Result<Unit, ApiError> {
    let name = input.group_name.unwrap_or_default();
    let key = keys::group(&call.scope.account, &name);
    let users = keys::users(&call.scope.account);
    cloud
        .store
        .transact(|txn| {
            let group: Group = txn.get(&key)?.ok_or_else(|| Group::missing(&name))?;
            if !group.grants.is_empty() {
                return Err(delete_conflict("Cannot delete entity, must delete policies first.").into());
            }
            if txn.list::<User>(&users)?.iter().any(|(_, user)| user.groups.contains(&name)) {
                let message = "Cannot delete entity, must remove users from group first.";
                return Err(delete_conflict(message).into());
            }
            txn.delete(&key);
            Ok::<_, Refusal>(())
        })
        .await?;
    unit()
}

async fn add(cloud: Cloud, call: Call, input: model::AddUserToGroupRequest) -> Result<Unit, ApiError> {
    let (group, user) = (input.group_name.unwrap_or_default(), input.user_name.unwrap_or_default());
    change_membership(&cloud, &call, &group, &user, true).await
}

async fn remove(
    cloud: Cloud,
    call: Call,
    input: model::RemoveUserFromGroupRequest,
) -> Result<Unit, ApiError> {
    let (group, user) = (input.group_name.unwrap_or_default(), input.user_name.unwrap_or_default());
    change_membership(&cloud, &call, &group, &user, false).await
}

async fn change_membership(
    cloud: &Cloud,
    call: &Call,
    group: &str,
    name: &str,
    is_member: bool,
) -> Result<Unit, ApiError> {
    let account = &call.scope.account;
    let (group_key, user_key) = (keys::group(account, group), keys::user(account, name));
    let body = |txn: &mut ekstra_store::Txn| {
        if !txn.exists(&group_key) {
            return Err(Group::missing(group).into());
        }
        let mut user: User = txn.get(&user_key)?.ok_or_else(|| User::missing(name))?;
        if is_member {
            user.groups.insert(group.to_owned());
        } else {
            user.groups.remove(group);
        }
        Ok::<_, Refusal>(txn.put(&user_key, &user)?)
    };
    cloud.store.transact(body).await?;
    unit()
}

async fn list_of_user(
    cloud: Cloud,
    call: Call,
    input: model::ListGroupsForUserRequest,
) -> Result<model::ListGroupsForUserResponse, ApiError> {
    let user = User::load(&cloud, &call, &input.user_name.unwrap_or_default())?;
    let groups = user.groups.iter().filter_map(|name| Group::load(&cloud, &call, name).ok()).collect();
    let page = page(groups, |g: &Group| g.name.clone(), input.marker.as_deref(), input.max_items)?;
    Ok(model::ListGroupsForUserResponse {
        groups: Some(page.items.iter().map(describe).collect()),
        is_truncated: Some(page.next.is_some()),
        marker: page.next,
    })
}

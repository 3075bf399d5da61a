//! What identities may do: managed policies attached to them, policies of their own, boundaries.

use super::{
    Entity, Grantee, change, change_with, check_document, check_own, no_such_entity, not_attachable, page,
    unit,
};
use crate::Cloud;
use crate::access::{Access, document};
use crate::api::{Call, Router};
use ekstra_domain::iam::{Group, Role, User, is_of_service_linked};
use ekstra_domain::names::Arn;
use ekstra_model::Unit;
use ekstra_model::iam::{self as model, errors, ops};
use ekstra_policy::Kind;
use ekstra_wire::{ApiError, uri_encode};

/// Managed policies of one identity (IAM quotas).
const MOST_ATTACHED: usize = 10;

async fn attach<E: Grantee>(cloud: Cloud, call: Call, name: String, arn: String) -> Result<Unit, ApiError> {
    check_attachable(&cloud, &call, &arn)?;
    let attach = |entity: &mut E| {
        check_own(&entity.arn())?;
        let policies = &mut entity.grants_mut().attached_policies;
        if !policies.contains(&arn) {
            if policies.len() >= MOST_ATTACHED {
                let message = format!("Cannot exceed quota for attached policies: {MOST_ATTACHED}");
                return Err(ApiError::new(&errors::LIMIT_EXCEEDED_EXCEPTION, message));
            }
            policies.push(arn.clone());
        }
        Ok(())
    };
    change_with(&cloud, &call, &name, Some(&arn), attach).await?;
    unit()
}

/// The boundary that somebody is made with.
pub(super) fn check_boundary(cloud: &Cloud, call: &Call, arn: Option<&str>) -> Result<(), ApiError> {
    arn.map_or(Ok(()), |arn| check_attachable(cloud, call, arn))
}

fn check_attachable(cloud: &Cloud, call: &Call, arn: &str) -> Result<(), ApiError> {
    if arn.parse::<Arn>().is_err() {
        return Err(ApiError::client("ValidationError", 400, format!("ARN {arn} is not valid.")));
    }
    if is_of_service_linked(arn) {
        let message = "Cannot attach a Service Role Policy to a Customer Role.";
        return Err(ApiError::new(&errors::POLICY_NOT_ATTACHABLE_EXCEPTION, message));
    }
    match document(cloud, &call.scope.account, arn) {
        Some(_) => Ok(()),
        None => Err(not_attachable(arn)),
    }
}

async fn detach<E: Grantee>(cloud: Cloud, call: Call, name: String, arn: String) -> Result<Unit, ApiError> {
    let detach = |entity: &mut E| {
        check_own(&entity.arn())?;
        let policies = &mut entity.grants_mut().attached_policies;
        let before = policies.len();
        policies.retain(|policy| *policy != arn);
        if policies.len() == before {
            return Err(no_such_entity(format!("Policy {arn} was not found.")));
        }
        Ok(())
    };
    change(&cloud, &call, &name, detach).await?;
    unit()
}

/// A page of what is attached, and the marker of the next one.
fn attached<E: Grantee>(
    cloud: &Cloud,
    call: &Call,
    name: &str,
    marker: Option<&str>,
    most: Option<i32>,
) -> Result<(Vec<model::AttachedPolicy>, Option<String>), ApiError> {
    let all = E::load(cloud, call, name)?.grants().attached_policies.clone();
    let page = page(all, String::clone, marker, most)?;
    let attached = |arn: String| model::AttachedPolicy {
        policy_name: arn.rsplit('/').next().map(str::to_owned),
        policy_arn: Some(arn),
    };
    Ok((page.items.into_iter().map(attached).collect(), page.next))
}

async fn put<E: Grantee>(
    cloud: Cloud,
    call: Call,
    name: String,
    policy: String,
    text: String,
) -> Result<Unit, ApiError> {
    check_document(&text, Kind::Identity)?;
    let put = |entity: &mut E| {
        check_own(&entity.arn())?;
        entity.grants_mut().inline_policies.insert(policy.clone(), text.clone());
        Ok(())
    };
    change(&cloud, &call, &name, put).await?;
    unit()
}

fn no_policy<E: Grantee>(policy: &str) -> ApiError {
    no_such_entity(format!("The {} policy with name {policy} cannot be found.", E::KIND))
}

/// Percent-encoded, as IAM answers documents.
fn text_of<E: Grantee>(cloud: &Cloud, call: &Call, name: &str, policy: &str) -> Result<String, ApiError> {
    let entity = E::load(cloud, call, name)?;
    entity
        .grants()
        .inline_policies
        .get(policy)
        .map(|text| uri_encode(text))
        .ok_or_else(|| no_policy::<E>(policy))
}

async fn remove<E: Grantee>(
    cloud: Cloud,
    call: Call,
    name: String,
    policy: String,
) -> Result<Unit, ApiError> {
    let remove = |entity: &mut E| {
        check_own(&entity.arn())?;
        let removed = entity.grants_mut().inline_policies.remove(&policy);
        removed.map(drop).ok_or_else(|| no_policy::<E>(&policy))
    };
    change(&cloud, &call, &name, remove).await?;
    unit()
}

async fn set_boundary<E: Grantee>(
    cloud: Cloud,
    call: Call,
    name: String,
    arn: Option<String>,
) -> Result<Unit, ApiError> {
    check_boundary(&cloud, &call, arn.as_deref())?;
    let set = |entity: &mut E| {
        check_own(&entity.arn())?;
        let boundary = &mut entity.grants_mut().boundary;
        if arn.is_none() && boundary.is_none() {
            return Err(no_such_entity(format!("No permissions boundary is set for the {}.", E::KIND)));
        }
        boundary.clone_from(&arn);
        Ok(())
    };
    change_with(&cloud, &call, &name, arn.as_deref(), set).await?;
    unit()
}

/// The same seven operations of each kind.
macro_rules! operations {
    ($router:ident, $cloud:ident, $kind:ident, $name:ident,
     $attach:ident $attach_in:ident, $detach:ident $detach_in:ident, $list:ident $list_in:ident $list_out:ident,
     $put:ident $put_in:ident, $get:ident $get_in:ident $get_out:ident, $names:ident $names_in:ident $names_out:ident,
     $delete:ident $delete_in:ident) => {
        $router.serve(
            ops::$attach,
            $cloud,
            |cloud: &Cloud, call: &Call, input: &model::$attach_in| {
                $kind::access(cloud, call, input.$name.as_ref())
                    .with("iam:PolicyARN", input.policy_arn.clone())
            },
            |cloud, call, input: model::$attach_in| {
                attach::<$kind>(
                    cloud,
                    call,
                    input.$name.unwrap_or_default(),
                    input.policy_arn.unwrap_or_default(),
                )
            },
        );
        $router.serve(
            ops::$detach,
            $cloud,
            |cloud: &Cloud, call: &Call, input: &model::$detach_in| {
                $kind::access(cloud, call, input.$name.as_ref())
                    .with("iam:PolicyARN", input.policy_arn.clone())
            },
            |cloud, call, input: model::$detach_in| {
                detach::<$kind>(
                    cloud,
                    call,
                    input.$name.unwrap_or_default(),
                    input.policy_arn.unwrap_or_default(),
                )
            },
        );
        $router.serve(
            ops::$list,
            $cloud,
            |cloud: &Cloud, call: &Call, input: &model::$list_in| {
                $kind::access(cloud, call, input.$name.as_ref())
            },
            |cloud: Cloud, call: Call, input: model::$list_in| async move {
                let name = input.$name.unwrap_or_default();
                let (policies, marker) =
                    attached::<$kind>(&cloud, &call, &name, input.marker.as_deref(), input.max_items)?;
                Ok(model::$list_out {
                    attached_policies: Some(policies),
                    is_truncated: Some(marker.is_some()),
                    marker,
                })
            },
        );
        $router.serve(
            ops::$put,
            $cloud,
            |cloud: &Cloud, call: &Call, input: &model::$put_in| {
                $kind::access(cloud, call, input.$name.as_ref())
            },
            |cloud, call, input: model::$put_in| {
                let (name, policy) = (input.$name.unwrap_or_default(), input.policy_name.unwrap_or_default());
                put::<$kind>(cloud, call, name, policy, input.policy_document.unwrap_or_default())
            },
        );
        $router.serve(
            ops::$get,
            $cloud,
            |cloud: &Cloud, call: &Call, input: &model::$get_in| {
                $kind::access(cloud, call, input.$name.as_ref())
            },
            |cloud: Cloud, call: Call, input: model::$get_in| async move {
                let (name, policy) = (input.$name.unwrap_or_default(), input.policy_name.unwrap_or_default());
                let text = text_of::<$kind>(&cloud, &call, &name, &policy)?;
                Ok(model::$get_out {
                    $name: Some(name),
                    policy_name: Some(policy),
                    policy_document: Some(text),
                })
            },
        );
        $router.serve(
            ops::$names,
            $cloud,
            |cloud: &Cloud, call: &Call, input: &model::$names_in| {
                $kind::access(cloud, call, input.$name.as_ref())
            },
            |cloud: Cloud, call: Call, input: model::$names_in| async move {
                let entity = $kind::load(&cloud, &call, &input.$name.unwrap_or_default())?;
                let names = entity.grants.inline_policies.into_keys().collect();
                let page = page(names, String::clone, input.marker.as_deref(), input.max_items)?;
                Ok(model::$names_out {
                    policy_names: Some(page.items),
                    is_truncated: Some(page.next.is_some()),
                    marker: page.next,
                })
            },
        );
        $router.serve(
            ops::$delete,
            $cloud,
            |cloud: &Cloud, call: &Call, input: &model::$delete_in| {
                $kind::access(cloud, call, input.$name.as_ref())
            },
            |cloud, call, input: model::$delete_in| {
                remove::<$kind>(
                    cloud,
                    call,
                    input.$name.unwrap_or_default(),
                    input.policy_name.unwrap_or_default(),
                )
            },
        );
    };
}

pub(super) fn serve(router: &mut Router, cloud: &Cloud) {
    operations!(router, cloud, Role, role_name,
        AttachRolePolicy AttachRolePolicyRequest, DetachRolePolicy DetachRolePolicyRequest,
        ListAttachedRolePolicies ListAttachedRolePoliciesRequest ListAttachedRolePoliciesResponse,
        PutRolePolicy PutRolePolicyRequest, GetRolePolicy GetRolePolicyRequest GetRolePolicyResponse,
        ListRolePolicies ListRolePoliciesRequest ListRolePoliciesResponse,
        DeleteRolePolicy DeleteRolePolicyRequest);
    operations!(router, cloud, User, user_name,
        AttachUserPolicy AttachUserPolicyRequest, DetachUserPolicy DetachUserPolicyRequest,
        ListAttachedUserPolicies ListAttachedUserPoliciesRequest ListAttachedUserPoliciesResponse,
        PutUserPolicy PutUserPolicyRequest, GetUserPolicy GetUserPolicyRequest GetUserPolicyResponse,
        ListUserPolicies ListUserPoliciesRequest ListUserPoliciesResponse,
        DeleteUserPolicy DeleteUserPolicyRequest);
    operations!(router, cloud, Group, group_name,
        AttachGroupPolicy AttachGroupPolicyRequest, DetachGroupPolicy DetachGroupPolicyRequest,
        ListAttachedGroupPolicies ListAttachedGroupPoliciesRequest ListAttachedGroupPoliciesResponse,
        PutGroupPolicy PutGroupPolicyRequest, GetGroupPolicy GetGroupPolicyRequest GetGroupPolicyResponse,
        ListGroupPolicies ListGroupPoliciesRequest ListGroupPoliciesResponse,
        DeleteGroupPolicy DeleteGroupPolicyRequest);
    serve_boundaries(router, cloud);
}

fn serve_boundaries(router: &mut Router, cloud: &Cloud) {
    let of_role = |cloud: &Cloud, call: &Call, name: Option<&String>| Role::access(cloud, call, name);
    router.serve(
        ops::PutRolePermissionsBoundary,
        cloud,
        move |cloud: &Cloud, call: &Call, input: &model::PutRolePermissionsBoundaryRequest| {
            of_role(cloud, call, input.role_name.as_ref())
                .with("iam:PermissionsBoundary", input.permissions_boundary.clone())
        },
        |cloud, call, input: model::PutRolePermissionsBoundaryRequest| {
            set_boundary::<Role>(cloud, call, input.role_name.unwrap_or_default(), input.permissions_boundary)
        },
    );
    router.serve(
        ops::DeleteRolePermissionsBoundary,
        cloud,
        move |cloud: &Cloud, call: &Call, input: &model::DeleteRolePermissionsBoundaryRequest| {
            of_role(cloud, call, input.role_name.as_ref())
        },
        |cloud, call, input: model::DeleteRolePermissionsBoundaryRequest| {
            set_boundary::<Role>(cloud, call, input.role_name.unwrap_or_default(), None)
        },
    );
    let of_user =
        |cloud: &Cloud, call: &Call, name: Option<&String>| -> Access { User::access(cloud, call, name) };
    router.serve(
        ops::PutUserPermissionsBoundary,
        cloud,
        move |cloud: &Cloud, call: &Call, input: &model::PutUserPermissionsBoundaryRequest| {
            of_user(cloud, call, input.user_name.as_ref())
                .with("iam:PermissionsBoundary", input.permissions_boundary.clone())
        },
        |cloud, call, input: model::PutUserPermissionsBoundaryRequest| {
            set_boundary::<User>(cloud, call, input.user_name.unwrap_or_default(), input.permissions_boundary)
        },
    );
    router.serve(
        ops::DeleteUserPermissionsBoundary,
        cloud,
        move |cloud: &Cloud, call: &Call, input: &model::DeleteUserPermissionsBoundaryRequest| {
            of_user(cloud, call, input.user_name.as_ref())
        },
        |cloud, call, input: model::DeleteUserPermissionsBoundaryRequest| {
            set_boundary::<User>(cloud, call, input.user_name.unwrap_or_default(), None)
        },
    );
}

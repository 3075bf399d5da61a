//! Service-linked roles: made for a service, by whoever may or by what first needs one; deleted when the service needs it no
//! more.

use super::roles::describe;
use super::{Entity, future_arn, is_taken, no_such_entity};
use crate::Cloud;
use crate::access::Access;
use crate::api::{Call, Refusal, Router};
use ekstra_domain::eks::{Cluster, FargateProfile, Nodegroup};
use ekstra_domain::iam::{
    Role, RoleDeletion, SERVICE_LINKED, ServiceLinked, is_service_linked, service_linked, service_linked_path,
};
use ekstra_domain::names::{Scope, keys};
use ekstra_model::iam::{self as model, errors, ops};
use ekstra_store::Txn;
use ekstra_wire::ApiError;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;

const CREATE: &str = "iam:CreateServiceLinkedRole";

pub(super) fn serve(router: &mut Router, cloud: &Cloud) {
    let creation = |_: &Cloud, call: &Call, input: &model::CreateServiceLinkedRoleRequest| {
        let service = input.aws_service_name.as_deref().unwrap_or_default();
        let known = service_linked(service);
        let name = known.map_or_else(|| "*".to_owned(), |known| known.name(input.custom_suffix.as_deref()));
        about(call, service, &name)
    };
    let deletion = |_: &Cloud, call: &Call, input: &model::DeleteServiceLinkedRoleRequest| {
        let name = input.role_name.as_deref().unwrap_or_default();
        match SERVICE_LINKED.iter().find(|known| of(known, name)) {
            Some(known) => about(call, known.service, name),
            None => Access::on(future_arn(call, "role", None, input.role_name.as_ref())),
        }
    };
    let status = |_: &Cloud, call: &Call, input: &model::GetServiceLinkedRoleDeletionStatusRequest| {
        let task = input.deletion_task_id.as_deref().unwrap_or_default();
        match task.split('/').collect::<Vec<_>>()[..] {
            ["task", "aws-service-role", service, name, _] => about(call, service, name),
            _ => Access::everything(),
        }
    };
    router.serve(ops::CreateServiceLinkedRole, cloud, creation, create);
    router.serve(ops::DeleteServiceLinkedRole, cloud, deletion, delete);
    router.serve(ops::GetServiceLinkedRoleDeletionStatus, cloud, status, deletion_status);
}

/// What an action on a service's role needs.
fn about(call: &Call, service: &str, name: &str) -> Access {
    let path = service_linked_path(service);
    Access::on(future_arn(call, Role::KIND, Some(&path), Some(&name.to_owned())))
        .with("iam:AWSServiceName", [service.to_owned()])
}

/// Whether a role of this name is the service's.
fn of(known: &ServiceLinked, name: &str) -> bool {
    let rest = name.strip_prefix(known.role);
    rest.is_some_and(|rest| rest.is_empty() || (known.takes_suffix && rest.starts_with('_')))
}

/// What makes the first thing of its kind in an account has the service's role made, too.
pub fn linking(cloud: &Cloud, call: &Call, access: Access, service: &str) -> Access {
    match service_linked(service) {
        Some(known) if cloud.store.view().get(&keys::role(&call.scope.account, known.role)).is_none() => {
            access.and_on(CREATE, about(call, service, known.role))
        }
        _ => access,
    }
}

/// The role of a service, which may be there.
pub fn ensure(cloud: &Cloud, account: &str, service: &str, txn: &mut Txn) -> Result<(), Refusal> {
    let Some(known) = service_linked(service) else { return Ok(()) };
    let key = keys::role(account, known.role);
    if txn.exists(&key) {
        return Ok(());
    }
    let role = known.make(account, None, None, cloud.env.iam_id("AROA"), cloud.env.now_ms());
    Ok(txn.put(&key, &role)?)
}

async fn create(
    cloud: Cloud,
    call: Call,
    input: model::CreateServiceLinkedRoleRequest,
) -> Result<model::CreateServiceLinkedRoleResponse, ApiError> {
    let service = input.aws_service_name.unwrap_or_default();
    let invalid = |message: String| ApiError::new(&errors::INVALID_INPUT_EXCEPTION, message);
    let known = service_linked(&service).ok_or_else(|| {
        let all: Vec<&str> = SERVICE_LINKED.iter().map(|known| known.service).collect();
        invalid(format!(
            "ekstra knows no service-linked role of {service}; it knows those of {}",
            all.join(", ")
        ))
    })?;
    let suffix = input.custom_suffix.as_deref();
    if suffix.is_some() && !known.takes_suffix {
        return Err(invalid(format!("Custom suffix is not allowed for {service}")));
    }
    let account = &call.scope.account;
    let role = known.make(account, suffix, input.description, cloud.env.iam_id("AROA"), cloud.env.now_ms());
    let key = keys::role(account, &role.name);
    let body = |txn: &mut Txn| {
        if is_taken(&cloud, txn, &key) {
            let message = format!(
                "Service role name {} has been taken in this account, please try a different suffix.",
                role.name
            );
            return Err(invalid(message).into());
        }
        Ok::<_, Refusal>(txn.put(&key, &role)?)
    };
    cloud.store.transact(body).await?;
    Ok(model::CreateServiceLinkedRoleResponse { role: Some(describe(&cloud, &role)) })
}

async fn delete(
    cloud: Cloud,
    call: Call,
    input: model::DeleteServiceLinkedRoleRequest,
) -> Result<model::DeleteServiceLinkedRoleResponse, ApiError> {
    let name = input.role_name.unwrap_or_default();
    let account = &call.scope.account;
    let key = keys::role(account, &name);
    let number = cloud.env.uuid();
    let body = |txn: &mut Txn| {
        let role: Role = txn.get(&key)?.ok_or_else(|| Role::missing(&name))?;
        if !is_service_linked(&role.path) {
            return Err(
                no_such_entity(format!("The role with name {name} is not a service-linked role.")).into()
            );
        }
        let service = role.path.split('/').nth(2).unwrap_or_default();
        let in_use_by = uses(account, service, txn)?;
        if in_use_by.is_empty() {
            txn.delete(&key);
        }
        let task = format!("task{}{name}/{number}", role.path);
        txn.put(&keys::role_deletion(account, &task), &RoleDeletion { in_use_by })?;
        Ok::<_, Refusal>(task)
    };
    let task = cloud.store.transact(body).await?;
    Ok(model::DeleteServiceLinkedRoleResponse { deletion_task_id: Some(task) })
}

/// What a service has in an account, ARNs by region.
fn uses(account: &str, service: &str, txn: &mut Txn) -> Result<BTreeMap<String, Vec<String>>, Refusal> {
    match service {
        "eks.amazonaws.com" => {
            by_region(txn, account, keys::CLUSTERS, |one: &Cluster| (&one.scope, one.arn()))
        }
        "eks-nodegroup.amazonaws.com" => {
            by_region(txn, account, keys::NODEGROUPS, |one: &Nodegroup| (&one.scope, one.arn()))
        }
        "eks-fargate.amazonaws.com" => {
            by_region(txn, account, keys::FARGATE_PROFILES, |one: &FargateProfile| (&one.scope, one.arn()))
        }
        // Nothing here is theirs.
        _ => Ok(BTreeMap::new()),
    }
}

fn by_region<T: DeserializeOwned>(
    txn: &mut Txn,
    account: &str,
    kind: &str,
    of: fn(&T) -> (&Scope, String),
) -> Result<BTreeMap<String, Vec<String>>, Refusal> {
    let mut found = BTreeMap::<String, Vec<String>>::new();
    for (_, one) in txn.list::<T>(&keys::in_account(kind, account))? {
        let (scope, arn) = of(&one);
        found.entry(scope.region.clone()).or_default().push(arn);
    }
    Ok(found)
}

async fn deletion_status(
    cloud: Cloud,
    call: Call,
    input: model::GetServiceLinkedRoleDeletionStatusRequest,
) -> Result<model::GetServiceLinkedRoleDeletionStatusResponse, ApiError> {
    let task = input.deletion_task_id.unwrap_or_default();
    let found: Option<RoleDeletion> =
        cloud.store.view().get_as(&keys::role_deletion(&call.scope.account, &task));
    let ended = found.ok_or_else(|| no_such_entity(format!("Deletion task {task} cannot be found.")))?;
    let usage =
        |(region, resources)| model::RoleUsageType { region: Some(region), resources: Some(resources) };
    let is_gone = ended.in_use_by.is_empty();
    let reason = (!is_gone).then(|| model::DeletionTaskFailureReasonType {
        reason: Some("The service still has resources that use the role.".into()),
        role_usage_list: Some(ended.in_use_by.into_iter().map(usage).collect()),
    });
    let status = if is_gone { "SUCCEEDED" } else { "FAILED" };
    Ok(model::GetServiceLinkedRoleDeletionStatusResponse { status: Some(status.into()), reason })
}

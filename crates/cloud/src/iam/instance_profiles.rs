//! Instance profiles: the role of an instance, by another name.

use super::roles::describe as describe_role;
use super::{
    Entity, already_exists, change, delete_conflict, described, future_arn, is_taken, no_such_entity, page,
    tagging, tags_of, unit,
};
use crate::Cloud;
use crate::access::Access;
use crate::api::{Call, Refusal, Router};
use ekstra_domain::iam::{InstanceProfile, Role};
use ekstra_domain::names::keys;
use ekstra_model::iam::{self as model, errors, ops};
use ekstra_model::{Timestamp, Unit};
use ekstra_wire::ApiError;

/// Who takes the roles of instances.
const INSTANCES: &str = "ec2.amazonaws.com";

impl Entity for InstanceProfile {
    const KIND: &'static str = "instance-profile";

    fn place(account: &str, name: &str) -> String {
        keys::instance_profile(account, name)
    }

    arn_and_tags!(tags);

    fn missing(name: &str) -> ApiError {
        no_such_entity(format!("Instance Profile {name} cannot be found."))
    }
}

macro_rules! about {
    ($input:ident) => {
        |cloud: &Cloud, call: &Call, input: &model::$input| {
            InstanceProfile::access(cloud, call, input.instance_profile_name.as_ref())
        }
    };
}

pub(super) fn serve(router: &mut Router, cloud: &Cloud) {
    let creation = |_: &Cloud, call: &Call, input: &model::CreateInstanceProfileRequest| {
        let name = input.instance_profile_name.as_ref();
        let access = Access::on(future_arn(call, InstanceProfile::KIND, input.path.as_ref(), name));
        access.made_with_tags(Some(&tags_of(input.tags.clone())), "iam:TagInstanceProfile")
    };
    let listing = |_: &Cloud, call: &Call, input: &model::ListInstanceProfilesRequest| {
        Access::on(future_arn(call, InstanceProfile::KIND, input.path_prefix.as_ref(), None))
    };
    let of_role = |cloud: &Cloud, call: &Call, input: &model::ListInstanceProfilesForRoleRequest| {
        Role::access(cloud, call, input.role_name.as_ref())
    };
    // Whoever may launch instances with the profile launches them with the role.
    let adding = |cloud: &Cloud, call: &Call, input: &model::AddRoleToInstanceProfileRequest| {
        let name = input.role_name.clone().unwrap_or_default();
        let found: Option<Role> = cloud.store.view().get_as(&keys::role(&call.scope.account, &name));
        let role = found.map_or_else(|| future_arn(call, "role", None, Some(&name)), |role| role.arn());
        InstanceProfile::access(cloud, call, input.instance_profile_name.as_ref())
            .passing(Some(&role), INSTANCES)
    };
    router.serve(ops::CreateInstanceProfile, cloud, creation, create);
    router.serve(ops::GetInstanceProfile, cloud, about!(GetInstanceProfileRequest), get);
    router.serve(ops::ListInstanceProfiles, cloud, listing, list);
    router.serve(ops::DeleteInstanceProfile, cloud, about!(DeleteInstanceProfileRequest), delete);
    router.serve(ops::AddRoleToInstanceProfile, cloud, adding, add_role);
    router.serve(
        ops::RemoveRoleFromInstanceProfile,
        cloud,
        about!(RemoveRoleFromInstanceProfileRequest),
        remove_role,
    );
    router.serve(ops::ListInstanceProfilesForRole, cloud, of_role, list_of_role);
}

fn describe(cloud: &Cloud, profile: &InstanceProfile) -> model::InstanceProfile {
    let role = profile
        .role
        .as_ref()
        .and_then(|name| cloud.store.view().get_as::<Role>(&keys::role(&profile.account, name)));
    model::InstanceProfile {
        path: Some(profile.path.clone()),
        instance_profile_name: Some(profile.name.clone()),
        instance_profile_id: Some(profile.id.clone()),
        arn: Some(profile.arn()),
        create_date: Some(Timestamp(profile.created_ms)),
        roles: Some(role.iter().map(|role| describe_role(cloud, role)).collect()),
        tags: Some(described(&profile.tags)),
    }
}

/// Lists leave these out (API reference, ListInstanceProfiles).
fn listed(cloud: &Cloud, profile: &InstanceProfile) -> model::InstanceProfile {
    model::InstanceProfile { tags: None, ..describe(cloud, profile) }
}

async fn create(
    cloud: Cloud,
    call: Call,
    input: model::CreateInstanceProfileRequest,
) -> Result<model::CreateInstanceProfileResponse, ApiError> {
    let profile = InstanceProfile {
        name: input.instance_profile_name.unwrap_or_default(),
        account: call.scope.account.clone(),
        path: input.path.unwrap_or_else(|| "/".into()),
        id: cloud.env.iam_id("AIPA"),
        created_ms: cloud.env.now_ms(),
        role: None,
        tags: tagging::read::<InstanceProfile>(input.tags)?,
    };
    let key = keys::instance_profile(&profile.account, &profile.name);
    cloud
        .store
        .transact(|txn| {
            if is_taken(&cloud, txn, &key) {
                let message = format!("Instance Profile {} already exists.", profile.name);
                return Err(already_exists(message).into());
            }
            Ok::<_, Refusal>(txn.put(&key, &profile)?)
        })
        .await?;
    Ok(model::CreateInstanceProfileResponse { instance_profile: Some(describe(&cloud, &profile)) })
}

async fn get(
    cloud: Cloud,
    call: Call,
    input: model::GetInstanceProfileRequest,
) -> Result<model::GetInstanceProfileResponse, ApiError> {
    let profile = InstanceProfile::load(&cloud, &call, &input.instance_profile_name.unwrap_or_default())?;
    Ok(model::GetInstanceProfileResponse { instance_profile: Some(describe(&cloud, &profile)) })
}

fn all(cloud: &Cloud, call: &Call, wanted: impl Fn(&InstanceProfile) -> bool) -> Vec<InstanceProfile> {
    let all = cloud.store.view().list_as::<InstanceProfile>(&keys::instance_profiles(&call.scope.account));
    all.into_iter().map(|(_, profile)| profile).filter(wanted).collect()
}

async fn list(
    cloud: Cloud,
    call: Call,
    input: model::ListInstanceProfilesRequest,
) -> Result<model::ListInstanceProfilesResponse, ApiError> {
    let prefix = input.path_prefix.unwrap_or_else(|| "/".into());
    let found = all(&cloud, &call, |profile| profile.path.starts_with(&prefix));
    let page = page(found, |p| p.name.clone(), input.marker.as_deref(), input.max_items)?;
    Ok(model::ListInstanceProfilesResponse {
        instance_profiles: Some(page.items.iter().map(|profile| listed(&cloud, profile)).collect()),
        is_truncated: Some(page.next.is_some()),
        marker: page.next,
    })
}

async fn list_of_role(
    cloud: Cloud,
    call: Call,
    input: model::ListInstanceProfilesForRoleRequest,
) -> Result<model::ListInstanceProfilesForRoleResponse, ApiError> {
    let role = Role::load(&cloud, &call, &input.role_name.unwrap_or_default())?;
    let found = all(&cloud, &call, |profile| profile.role.as_ref() == Some(&role.name));
    let page = page(found, |p| p.name.clone(), input.marker.as_deref(), input.max_items)?;
    Ok(model::ListInstanceProfilesForRoleResponse {
        instance_profiles: Some(page.items.iter().map(|profile| listed(&cloud, profile)).collect()),
        is_truncated: Some(page.next.is_some()),
        marker: page.next,
    })
}

async fn delete(
    cloud: Cloud,
    call: Call,
    input: model::DeleteInstanceProfileRequest,
) -> Result<Unit, ApiError> {
    let name = input.instance_profile_name.unwrap_or_default();
    let key = keys::instance_profile(&call.scope.account, &name);
    cloud
        .store
        .transact(|txn| {
            let profile: InstanceProfile = txn.get(&key)?.ok_or_else(|| InstanceProfile::missing(&name))?;
            if profile.role.is_some() {
                return Err(delete_conflict(
                    "Cannot delete entity, must remove roles from instance profile first.",
                )
                .into());
            }
            txn.delete(&key);
            Ok::<_, Refusal>(())
        })
        .await?;
    unit()
}

async fn add_role(
    cloud: Cloud,
    call: Call,
    input: model::AddRoleToInstanceProfileRequest,
) -> Result<Unit, ApiError> {
    let (name, role) = (input.instance_profile_name.unwrap_or_default(), input.role_name.unwrap_or_default());
    let (key, role_key) =
        (keys::instance_profile(&call.scope.account, &name), keys::role(&call.scope.account, &role));
    cloud
        .store
        .transact(|txn| {
            let mut profile: InstanceProfile =
                txn.get(&key)?.ok_or_else(|| InstanceProfile::missing(&name))?;
            if !txn.exists(&role_key) {
                return Err(Role::missing(&role).into());
            }
            if profile.role.is_some() {
                let message = "Cannot exceed quota for InstanceSessionsPerInstanceProfile: 1";
                return Err(ApiError::new(&errors::LIMIT_EXCEEDED_EXCEPTION, message).into());
            }
            profile.role = Some(role.clone());
            Ok::<_, Refusal>(txn.put(&key, &profile)?)
        })
        .await?;
    unit()
}

async fn remove_role(
    cloud: Cloud,
    call: Call,
    input: model::RemoveRoleFromInstanceProfileRequest,
) -> Result<Unit, ApiError> {
    let role = input.role_name.unwrap_or_default();
    let body = |profile: &mut InstanceProfile| {
        if profile.role.as_ref() != Some(&role) {
            return Err(Role::missing(&role));
        }
        profile.role = None;
        Ok(())
    };
    change(&cloud, &call, &input.instance_profile_name.unwrap_or_default(), body).await?;
    unit()
}

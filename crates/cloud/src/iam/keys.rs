//! Access keys of users.

use super::users::named;
use super::{Entity, no_such_entity, page, unit};
use crate::Cloud;
use crate::access::Access;
use crate::api::{Call, Refusal, Router};
use ekstra_domain::iam::{AccessKey, Principal, Secret, User};
use ekstra_domain::names::keys as places;
use ekstra_model::iam::{self as model, errors, ops};
use ekstra_model::{Timestamp, Unit};
use ekstra_wire::ApiError;

/// IAM quotas: access keys of a user.
const MOST: usize = 2;

macro_rules! about {
    ($input:ident) => {
        |cloud: &Cloud, call: &Call, input: &model::$input| -> Access {
            User::access(cloud, call, named(call, input.user_name.clone()).as_ref())
        }
    };
}

pub(super) fn serve(router: &mut Router, cloud: &Cloud) {
    router.serve(ops::CreateAccessKey, cloud, about!(CreateAccessKeyRequest), create);
    router.serve(ops::ListAccessKeys, cloud, about!(ListAccessKeysRequest), list);
    router.serve(ops::UpdateAccessKey, cloud, about!(UpdateAccessKeyRequest), update);
    router.serve(ops::DeleteAccessKey, cloud, about!(DeleteAccessKeyRequest), delete);
}

pub(super) fn is_of(key: &AccessKey, user: &User) -> bool {
    key.principal.user_id == user.id
}

/// In the order of their ids.
fn of_user(cloud: &Cloud, call: &Call, name: &str) -> Vec<AccessKey> {
    let Ok(user) = User::load(cloud, call, name) else { return Vec::new() };
    let all = cloud.store.view().list_as::<AccessKey>(places::ACCESS_KEYS);
    all.into_iter().map(|(_, key)| key).filter(|key| is_of(key, &user)).collect()
}

fn whose(cloud: &Cloud, call: &Call, given: Option<String>) -> Result<User, ApiError> {
    let name = named(call, given).ok_or_else(|| {
        ApiError::client(
            "ValidationError",
            400,
            "Must specify userName when calling with non-User credentials",
        )
    })?;
    User::load(cloud, call, &name)
}

fn status(key: &AccessKey) -> &'static str {
    if key.is_inactive { "Inactive" } else { "Active" }
}

async fn create(
    cloud: Cloud,
    call: Call,
    input: model::CreateAccessKeyRequest,
) -> Result<model::CreateAccessKeyResponse, ApiError> {
    let user = whose(&cloud, &call, input.user_name)?;
    let key = AccessKey {
        id: cloud.env.access_key_id("AKIA"),
        secret: Secret(cloud.env.hex(20)),
        principal: Principal { account: user.account.clone(), arn: user.arn(), user_id: user.id.clone() },
        created_ms: cloud.env.now_ms(),
        is_inactive: false,
    };
    cloud
        .store
        .transact(|txn| {
            let place = places::user(&user.account, &user.name);
            if txn.get::<User>(&place)?.is_none_or(|now| now.id != user.id) {
                return Err(User::missing(&user.name).into());
            }
            let all = txn.list::<AccessKey>(places::ACCESS_KEYS)?;
            if all.iter().filter(|(_, key)| is_of(key, &user)).count() >= MOST {
                let message = "Cannot exceed quota for AccessKeysPerUser: 2";
                return Err(ApiError::new(&errors::LIMIT_EXCEEDED_EXCEPTION, message).into());
            }
            Ok::<_, Refusal>(txn.put(&places::access_key(&key.id), &key)?)
        })
        .await?;
    Ok(model::CreateAccessKeyResponse {
        access_key: Some(model::AccessKey {
            user_name: Some(user.name),
            status: Some(status(&key).into()),
            access_key_id: Some(key.id),
            secret_access_key: Some(key.secret.0),
            create_date: Some(Timestamp(key.created_ms)),
        }),
    })
}

async fn list(
    cloud: Cloud,
    call: Call,
    input: model::ListAccessKeysRequest,
) -> Result<model::ListAccessKeysResponse, ApiError> {
    let user = whose(&cloud, &call, input.user_name)?;
    let keys = of_user(&cloud, &call, &user.name);
    let page = page(keys, |key| key.id.clone(), input.marker.as_deref(), input.max_items)?;
    let describe = |key: &AccessKey| model::AccessKeyMetadata {
        user_name: Some(user.name.clone()),
        access_key_id: Some(key.id.clone()),
        status: Some(status(key).into()),
        create_date: Some(Timestamp(key.created_ms)),
    };
    Ok(model::ListAccessKeysResponse {
        access_key_metadata: Some(page.items.iter().map(describe).collect()),
        is_truncated: Some(page.next.is_some()),
        marker: page.next,
    })
}

fn missing(id: &str) -> ApiError {
    no_such_entity(format!("The Access Key with id {id} cannot be found."))
}

async fn update(cloud: Cloud, call: Call, input: model::UpdateAccessKeyRequest) -> Result<Unit, ApiError> {
    let user = whose(&cloud, &call, input.user_name)?;
    let id = input.access_key_id.unwrap_or_default();
    let place = places::access_key(&id);
    let is_inactive = input.status.as_deref() == Some("Inactive");
    let body = |txn: &mut ekstra_store::Txn| {
        let key: Option<AccessKey> = txn.get(&place)?;
        let mut key = key.filter(|key| is_of(key, &user)).ok_or_else(|| missing(&id))?;
        key.is_inactive = is_inactive;
        Ok::<_, Refusal>(txn.put(&place, &key)?)
    };
    cloud.store.transact(body).await?;
    unit()
}

async fn delete(cloud: Cloud, call: Call, input: model::DeleteAccessKeyRequest) -> Result<Unit, ApiError> {
    let user = whose(&cloud, &call, input.user_name)?;
    let id = input.access_key_id.unwrap_or_default();
    let place = places::access_key(&id);
    let body = |txn: &mut ekstra_store::Txn| {
        let key: Option<AccessKey> = txn.get(&place)?;
        key.filter(|key| is_of(key, &user)).ok_or_else(|| missing(&id))?;
        txn.delete(&place);
        Ok::<_, Refusal>(())
    };
    cloud.store.transact(body).await?;
    unit()
}

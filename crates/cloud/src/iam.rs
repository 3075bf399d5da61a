//! Identity and Access Management: roles, users, groups, their policies and keys.
//!
//! Source of messages: what IAM answers, IAM API reference and User Guide.

/// Within an [`Entity`]: what its record has by the same names, and its tags, if it has a member for them.
macro_rules! arn_and_tags {
    ($($tags:ident)?) => {
        fn arn(&self) -> String {
            Self::arn(self)
        }

        fn tags(&self) -> Option<&std::collections::BTreeMap<String, String>> {
            [$(&self.$tags)?].into_iter().next()
        }

        fn tags_mut(&mut self) -> Option<&mut std::collections::BTreeMap<String, String>> {
            [$(&mut self.$tags)?].into_iter().next()
        }
    };
}

mod grants;
mod groups;
mod instance_profiles;
mod keys;
mod oidc_providers;
mod policies;
mod roles;
pub mod service_linked_roles;
mod simulate;
mod tagging;
mod trust;
mod users;

use crate::Cloud;
use crate::access::Access;
use crate::api::{Call, Router};
use ekstra_domain::iam::{Grants, Group, Role, User, aws_managed, service_linked_name};
use ekstra_domain::names::{Arn, keys as places};
use ekstra_domain::page::Page;
use ekstra_model::Shape;
use ekstra_model::iam::{self as model, errors};
use ekstra_policy::{Kind, Policy};
use ekstra_store::Txn;
use ekstra_wire::ApiError;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;

pub(crate) fn serve(router: &mut Router, cloud: &Cloud) {
    roles::serve(router, cloud);
    service_linked_roles::serve(router, cloud);
    users::serve(router, cloud);
    groups::serve(router, cloud);
    instance_profiles::serve(router, cloud);
    oidc_providers::serve(router, cloud);
    keys::serve(router, cloud);
    policies::serve(router, cloud);
    grants::serve(router, cloud);
    simulate::serve(router, cloud);
    tagging::serve(router, cloud);
}

/// The role that an ARN names, if it exists.
pub fn find_role(cloud: &Cloud, arn: &str) -> Option<Role> {
    role_behind(cloud, arn).filter(|role| role.arn() == arn)
}

/// The role that is called so in its account, whatever its path: ARNs of sessions do not have it.
pub fn role_behind(cloud: &Cloud, arn: &str) -> Option<Role> {
    let parsed: Arn = arn.parse().ok()?;
    cloud.store.view().get_as(&places::role(&parsed.account, parsed.role_name()?))
}

fn find_user(cloud: &Cloud, arn: &str) -> Option<User> {
    let parsed: Arn = arn.parse().ok()?;
    let user: User = cloud.store.view().get_as(&places::user(&parsed.account, parsed.user_name()?))?;
    (user.arn() == arn).then_some(user)
}

/// The unique id of such a user or role: one that is made later has another.
pub fn principal_id(cloud: &Cloud, arn: &str) -> Option<String> {
    find_role(cloud, arn).map(|role| role.id).or_else(|| find_user(cloud, arn).map(|user| user.id))
}

/// What has a name in an account.
trait Entity: Serialize + DeserializeOwned + Clone + Send + Sync + 'static {
    /// As messages and ARNs have it.
    const KIND: &'static str;
    /// Whether keys of its tags are the same in whatever letters (IAM User Guide, "Tags for IAM resources").
    const TAGS_IGNORE_CASE: bool = false;

    fn place(account: &str, name: &str) -> String;
    fn arn(&self) -> String;
    fn tags(&self) -> Option<&BTreeMap<String, String>>;
    fn tags_mut(&mut self) -> Option<&mut BTreeMap<String, String>>;

    /// The ARN of its permissions boundary.
    fn boundary(&self) -> Option<String> {
        None
    }

    fn missing(name: &str) -> ApiError {
        no_such_entity(format!("The {} with name {name} cannot be found.", Self::KIND))
    }

    /// The name of what a request means: it says it, or an ARN.
    fn name(_: &Call, id: &str) -> Result<String, ApiError> {
        Ok(id.to_owned())
    }

    /// The ARN of what a request means and is not there: as if it had no path.
    fn arn_meant(call: &Call, id: &str) -> String {
        format!("arn:aws:iam::{}:{}/{id}", call.scope.account, Self::KIND)
    }

    fn load(cloud: &Cloud, call: &Call, name: &str) -> Result<Self, ApiError> {
        let place = Self::place(&call.scope.account, name);
        cloud.store.view().get_as(&place).ok_or_else(|| Self::missing(name))
    }

    /// What a call about it needs.
    fn access(cloud: &Cloud, call: &Call, id: Option<&String>) -> Access {
        let id = id.map(String::as_str).unwrap_or_default();
        let place = Self::name(call, id).map(|name| Self::place(&call.scope.account, &name));
        let found = place.ok().and_then(|place| cloud.store.view().shared::<Self>(&place));
        let Some(found) = found else { return Access::on(Self::arn_meant(call, id)) };
        let mut access = Access::on(found.arn()).with_resource_tags(found.tags());
        for (key, value) in found.tags().into_iter().flatten() {
            access = access.with(&format!("iam:ResourceTag/{key}"), [value.clone()]);
        }
        access.with("iam:PermissionsBoundary", found.boundary())
    }
}

/// A role, a user or a group: what has policies.
trait Grantee: Entity {
    fn grants(&self) -> &Grants;
    fn grants_mut(&mut self) -> &mut Grants;
}

macro_rules! entity {
    ($name:ident, $kind:literal, $place:path $(, $tags:ident)?) => {
        impl Entity for $name {
            const KIND: &'static str = $kind;
            const TAGS_IGNORE_CASE: bool = true;

            fn place(account: &str, name: &str) -> String {
                $place(account, name)
            }

            arn_and_tags!($($tags)?);

            fn boundary(&self) -> Option<String> {
                self.grants.boundary.clone()
            }
        }

        impl Grantee for $name {
            fn grants(&self) -> &Grants {
                &self.grants
            }

            fn grants_mut(&mut self) -> &mut Grants {
                &mut self.grants
            }
        }
    };
}

entity!(Role, "role", places::role, tags);
entity!(User, "user", places::user, tags);
entity!(Group, "group", places::group);

/// The ARN that one to be made will have.
fn future_arn(call: &Call, kind: &str, path: Option<&String>, name: Option<&String>) -> String {
    let path = path.map_or("/", String::as_str);
    let name = name.map(String::as_str).unwrap_or_default();
    format!("arn:aws:iam::{}:{kind}{path}{name}", call.scope.account)
}

fn no_such_entity(message: impl Into<String>) -> ApiError {
    ApiError::new(&errors::NO_SUCH_ENTITY_EXCEPTION, message)
}

fn already_exists(message: impl Into<String>) -> ApiError {
    ApiError::new(&errors::ENTITY_ALREADY_EXISTS_EXCEPTION, message)
}

/// Names that differ in case only are the same (IAM User Guide, "IAM and AWS STS quotas": names of users, groups, roles,
/// policies and instance profiles).
///
/// Only the name as it is written is a part of the transaction: two that differ in case and are made at the same moment are
/// both made, and those who write other entities do not disturb each other.
fn is_taken(cloud: &Cloud, txn: &mut Txn, key: &str) -> bool {
    // No name has a slash in it.
    let all = key.rfind('/').map_or("", |end| &key[..=end]);
    txn.exists(key) || cloud.store.view().list(all).iter().any(|(known, _)| known.eq_ignore_ascii_case(key))
}

fn delete_conflict(message: impl Into<String>) -> ApiError {
    ApiError::new(&errors::DELETE_CONFLICT_EXCEPTION, message)
}

/// Refuses what is no document of its kind, or longer than IAM keeps (IAM quotas; blanks do not count).
fn check_document(text: &str, kind: Kind) -> Result<Policy, ApiError> {
    let most = if kind == Kind::Trust { 2048 } else { 6144 };
    if text.chars().filter(|c| !c.is_whitespace()).count() > most {
        let message = format!("Cannot exceed quota for PolicySize: {most}");
        return Err(ApiError::new(&errors::LIMIT_EXCEEDED_EXCEPTION, message));
    }
    Policy::parse(text, kind).map_err(|why| malformed(why.to_string()))
}

fn malformed(why: impl Into<String>) -> ApiError {
    ApiError::new(&errors::MALFORMED_POLICY_DOCUMENT_EXCEPTION, why)
}

fn tags_of(given: Option<Vec<model::Tag>>) -> BTreeMap<String, String> {
    given.into_iter().flatten().filter_map(|tag| Some((tag.key?, tag.value?))).collect()
}

fn described(tags: &BTreeMap<String, String>) -> Vec<model::Tag> {
    tags.iter()
        .map(|(key, value)| model::Tag { key: Some(key.clone()), value: Some(value.clone()) })
        .collect()
}

fn boundary(grants: &Grants) -> Option<model::AttachedPermissionsBoundary> {
    grants.boundary.as_ref().map(|arn| model::AttachedPermissionsBoundary {
        permissions_boundary_type: Some("Policy".into()),
        permissions_boundary_arn: Some(arn.clone()),
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

fn unit<T: Shape>() -> Result<T, ApiError> {
    Ok(T::default())
}

fn not_attachable(arn: &str) -> ApiError {
    no_such_entity(format!("Policy {arn} does not exist or is not attachable."))
}

/// Roles of services are the services' to change.
fn check_own(arn: &str) -> Result<(), ApiError> {
    let Some(name) = service_linked_name(arn) else { return Ok(()) };
    let message = format!(
        "Cannot perform the operation on the protected role '{name}' - this role is only modifiable by AWS"
    );
    Err(ApiError::new(&errors::UNMODIFIABLE_ENTITY_EXCEPTION, message))
}

/// Changes a record that is there, and gives it back.
async fn change<E: Entity>(
    cloud: &Cloud,
    call: &Call,
    name: &str,
    body: impl Fn(&mut E) -> Result<(), ApiError>,
) -> Result<E, ApiError> {
    change_with(cloud, call, name, None, body).await
}

/// The same, as long as a managed policy is there.
async fn change_with<E: Entity>(
    cloud: &Cloud,
    call: &Call,
    name: &str,
    policy: Option<&str>,
    body: impl Fn(&mut E) -> Result<(), ApiError>,
) -> Result<E, ApiError> {
    let place = E::place(&call.scope.account, name);
    let policy = policy.filter(|arn| aws_managed(arn).is_none());
    let body = |txn: &mut ekstra_store::Txn| {
        if let Some(arn) = policy.filter(|arn| !txn.exists(&places::policy(arn))) {
            return Err(not_attachable(arn).into());
        }
        let mut entity: E = txn.get(&place)?.ok_or_else(|| E::missing(name))?;
        body(&mut entity)?;
        txn.put(&place, &entity)?;
        Ok::<_, crate::api::Refusal>(entity)
    };
    Ok(cloud.store.transact(body).await?)
}

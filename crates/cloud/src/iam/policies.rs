//! Managed policies and their versions.

use super::{
    Entity, already_exists, check_document, delete_conflict, described, future_arn, no_such_entity, page,
    tagging, tags_of, unit,
};
use crate::Cloud;
use crate::access::Access;
use crate::api::{Call, Refusal, Router};
use ekstra_domain::iam::{
    Grants, MOST_VERSIONS, ManagedPolicy, PolicyVersion, aws_managed, aws_managed_arns,
};
use ekstra_domain::names::{Arn, keys};
use ekstra_model::iam::{self as model, errors, ops};
use ekstra_model::{Timestamp, Unit};
use ekstra_policy::Kind;
use ekstra_store::Txn;
use ekstra_wire::{ApiError, uri_encode};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Its name is its ARN.
impl Entity for ManagedPolicy {
    const KIND: &'static str = "policy";

    fn place(_: &str, arn: &str) -> String {
        keys::policy(arn)
    }

    arn_and_tags!(tags);

    /// AWS's own are there for everybody, and nobody's to change.
    fn missing(arn: &str) -> ApiError {
        if aws_managed(arn).is_some() {
            let message = format!("Policy {arn} is managed by AWS and cannot be changed.");
            return ApiError::client("AccessDenied", 403, message);
        }
        no_such_entity(format!("Policy {arn} was not found."))
    }

    /// Policies are their account's: one of another account is not there.
    fn name(call: &Call, arn: &str) -> Result<String, ApiError> {
        let account = arn.parse::<Arn>().map(|arn| arn.account);
        let is_there =
            account.is_ok_and(|account| account == call.scope.account) || aws_managed(arn).is_some();
        is_there.then(|| arn.to_owned()).ok_or_else(|| Self::missing(arn))
    }

    fn arn_meant(_: &Call, arn: &str) -> String {
        arn.to_owned()
    }

    fn load(cloud: &Cloud, call: &Call, arn: &str) -> Result<Self, ApiError> {
        let own = cloud.store.view().get_as(&keys::policy(&Self::name(call, arn)?));
        own.or_else(|| of_aws(arn)).ok_or_else(|| Self::missing(arn))
    }
}

macro_rules! about {
    ($input:ident) => {
        |cloud: &Cloud, call: &Call, input: &model::$input| {
            ManagedPolicy::access(cloud, call, input.policy_arn.as_ref())
        }
    };
}

pub(super) fn serve(router: &mut Router, cloud: &Cloud) {
    let creation = |_: &Cloud, call: &Call, input: &model::CreatePolicyRequest| {
        let arn = future_arn(call, "policy", input.path.as_ref(), input.policy_name.as_ref());
        Access::on(arn).made_with_tags(Some(&tags_of(input.tags.clone())), "iam:TagPolicy")
    };
    let listing = |_: &Cloud, call: &Call, input: &model::ListPoliciesRequest| {
        Access::on(future_arn(call, "policy", input.path_prefix.as_ref(), None))
    };
    router.serve(ops::CreatePolicy, cloud, creation, create);
    router.serve(ops::GetPolicy, cloud, about!(GetPolicyRequest), get);
    router.serve(ops::ListPolicies, cloud, listing, list);
    router.serve(ops::DeletePolicy, cloud, about!(DeletePolicyRequest), delete);
    router.serve(ops::CreatePolicyVersion, cloud, about!(CreatePolicyVersionRequest), create_version);
    router.serve(ops::GetPolicyVersion, cloud, about!(GetPolicyVersionRequest), get_version);
    router.serve(ops::ListPolicyVersions, cloud, about!(ListPolicyVersionsRequest), list_versions);
    router.serve(ops::DeletePolicyVersion, cloud, about!(DeletePolicyVersionRequest), delete_version);
    router.serve(ops::SetDefaultPolicyVersion, cloud, about!(SetDefaultPolicyVersionRequest), set_default);
}

/// One of AWS's as one of the account's: it has one version.
fn of_aws(arn: &str) -> Option<ManagedPolicy> {
    let document = aws_managed(arn)?.to_owned();
    let rest = arn.rsplit_once(":policy")?.1;
    let (path, name) = rest.rsplit_once('/')?;
    Some(ManagedPolicy {
        name: name.to_owned(),
        account: "aws".into(),
        path: format!("{path}/"),
        id: aws_id(name),
        description: None,
        created_ms: 0,
        updated_ms: 0,
        versions: BTreeMap::from([(1, PolicyVersion { document, created_ms: 0 })]),
        default_version: 1,
        last_version: 1,
        tags: BTreeMap::new(),
    })
}

/// The same at every time, as AWS's own is.
fn aws_id(name: &str) -> String {
    let letters: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
    format!("ANPA{:X<17.17}", letters.to_uppercase())
}

/// How many identities of an account have a policy, and how many as their boundary.
#[derive(Clone, Copy, Default)]
struct Use {
    attached: i32,
    bounding: i32,
}

/// By the ARNs of the policies.
#[derive(Default)]
struct Uses(BTreeMap<String, Use>);

/// As much of a role, a user or a group as counts here.
#[derive(Deserialize)]
struct Granted {
    #[serde(flatten)]
    grants: Grants,
}

fn identities(account: &str) -> [String; 3] {
    [keys::roles(account), keys::users(account), keys::groups(account)]
}

impl Uses {
    fn of(cloud: &Cloud, call: &Call) -> Self {
        let mut uses = Self::default();
        for all in identities(&call.scope.account) {
            uses.count(cloud.store.view().list_as(&all));
        }
        uses
    }

    /// As a transaction finds them, which does not succeed when they change meanwhile.
    fn within(txn: &mut Txn, account: &str) -> Result<Self, Refusal> {
        let mut uses = Self::default();
        for all in identities(account) {
            uses.count(txn.list(&all)?);
        }
        Ok(uses)
    }

    fn count(&mut self, all: Vec<(Arc<str>, Granted)>) {
        for (_, Granted { grants }) in all {
            for arn in grants.attached_policies {
                self.0.entry(arn).or_default().attached += 1;
            }
            if let Some(arn) = grants.boundary {
                self.0.entry(arn).or_default().bounding += 1;
            }
        }
    }

    fn get(&self, policy: &ManagedPolicy) -> Use {
        self.0.get(&policy.arn()).copied().unwrap_or_default()
    }
}

fn describe(policy: &ManagedPolicy, uses: &Uses) -> model::Policy {
    let Use { attached, bounding } = uses.get(policy);
    model::Policy {
        policy_name: Some(policy.name.clone()),
        policy_id: Some(policy.id.clone()),
        arn: Some(policy.arn()),
        path: Some(policy.path.clone()),
        default_version_id: Some(version_id(policy.default_version)),
        attachment_count: Some(attached),
        permissions_boundary_usage_count: Some(bounding),
        is_attachable: Some(true),
        description: policy.description.clone(),
        create_date: Some(Timestamp(policy.created_ms)),
        update_date: Some(Timestamp(policy.updated_ms)),
        tags: Some(described(&policy.tags)),
    }
}

fn version_id(number: u32) -> String {
    format!("v{number}")
}

fn number(id: &str) -> Option<u32> {
    id.strip_prefix('v')?.parse().ok()
}

fn describe_version(
    policy: &ManagedPolicy,
    number: u32,
    with_document: bool,
) -> Option<model::PolicyVersion> {
    let version = policy.versions.get(&number)?;
    Some(model::PolicyVersion {
        document: with_document.then(|| uri_encode(&version.document)),
        version_id: Some(version_id(number)),
        is_default_version: Some(number == policy.default_version),
        create_date: Some(Timestamp(version.created_ms)),
    })
}

/// Lists leave these out (API reference, ListPolicies).
fn listed(policy: &ManagedPolicy, uses: &Uses) -> model::Policy {
    model::Policy { description: None, tags: None, ..describe(policy, uses) }
}

async fn create(
    cloud: Cloud,
    call: Call,
    input: model::CreatePolicyRequest,
) -> Result<model::CreatePolicyResponse, ApiError> {
    let name = input.policy_name.unwrap_or_default();
    let document = input.policy_document.unwrap_or_default();
    check_document(&document, Kind::Identity)?;
    let now = cloud.env.now_ms();
    let policy = ManagedPolicy {
        name: name.clone(),
        account: call.scope.account.clone(),
        path: input.path.unwrap_or_else(|| "/".into()),
        id: cloud.env.iam_id("ANPA"),
        description: input.description,
        created_ms: now,
        updated_ms: now,
        versions: BTreeMap::from([(1, PolicyVersion { document, created_ms: now })]),
        default_version: 1,
        last_version: 1,
        tags: tagging::read::<ManagedPolicy>(input.tags)?,
    };
    let key = keys::policy(&policy.arn());
    let others = keys::policies(&policy.account);
    cloud
        .store
        .transact(|txn| {
            // Names are unique whatever their path.
            if txn
                .list::<ManagedPolicy>(&others)?
                .iter()
                .any(|(_, other)| other.name.eq_ignore_ascii_case(&name))
            {
                return Err(already_exists(format!(
                    "A policy called {name} already exists. Duplicate names are not allowed."
                ))
                .into());
            }
            Ok::<_, Refusal>(txn.put(&key, &policy)?)
        })
        .await?;
    Ok(model::CreatePolicyResponse { policy: Some(describe(&policy, &Uses::default())) })
}

async fn get(
    cloud: Cloud,
    call: Call,
    input: model::GetPolicyRequest,
) -> Result<model::GetPolicyResponse, ApiError> {
    let policy = ManagedPolicy::load(&cloud, &call, &input.policy_arn.unwrap_or_default())?;
    Ok(model::GetPolicyResponse { policy: Some(describe(&policy, &Uses::of(&cloud, &call))) })
}

async fn list(
    cloud: Cloud,
    call: Call,
    input: model::ListPoliciesRequest,
) -> Result<model::ListPoliciesResponse, ApiError> {
    let prefix = input.path_prefix.unwrap_or_else(|| "/".into());
    let scope = input.scope.as_deref().unwrap_or("All");
    let own = cloud.store.view().list_as::<ManagedPolicy>(&keys::policies(&call.scope.account));
    let own = own.into_iter().map(|(_, policy)| policy).filter(|_| scope != "AWS");
    let aws = aws_managed_arns().filter_map(|arn| of_aws(&arn)).filter(|_| scope != "Local");
    let uses = Uses::of(&cloud, &call);
    let is_wanted = |policy: &ManagedPolicy| {
        let Use { attached, bounding } = uses.get(policy);
        let used = match input.policy_usage_filter.as_deref() {
            Some("PermissionsBoundary") => bounding > 0,
            Some(_) => attached > 0,
            None => input.only_attached != Some(true) || attached > 0,
        };
        used && policy.path.starts_with(&prefix)
    };
    let mut found: Vec<ManagedPolicy> = own.chain(aws).filter(is_wanted).collect();
    found.sort_by_key(ManagedPolicy::arn);
    let page = page(found, ManagedPolicy::arn, input.marker.as_deref(), input.max_items)?;
    Ok(model::ListPoliciesResponse {
        policies: Some(page.items.iter().map(|policy| listed(policy, &uses)).collect()),
        is_truncated: Some(page.next.is_some()),
        marker: page.next,
    })
}

async fn delete(cloud: Cloud, call: Call, input: model::DeletePolicyRequest) -> Result<Unit, ApiError> {
    let arn = input.policy_arn.unwrap_or_default();
    change(&cloud, &call, &arn, |txn, policy| {
        if Uses::within(txn, &call.scope.account)?.0.contains_key(&arn) {
            return Err(delete_conflict("Cannot delete a policy attached to entities.").into());
        }
        if policy.versions.len() > 1 {
            let message = "This policy has more than one version. Before you delete a policy, you must delete the policy's versions. The default version is deleted with the policy.";
            return Err(delete_conflict(message).into());
        }
        policy.versions.clear();
        Ok(())
    })
    .await?;
    unit()
}

/// Of one of the account's own; one without versions goes.
async fn change(
    cloud: &Cloud,
    call: &Call,
    arn: &str,
    body: impl Fn(&mut Txn, &mut ManagedPolicy) -> Result<(), Refusal>,
) -> Result<ManagedPolicy, ApiError> {
    let key = keys::policy(&ManagedPolicy::name(call, arn)?);
    let body = |txn: &mut Txn| {
        let mut policy: ManagedPolicy = txn.get(&key)?.ok_or_else(|| ManagedPolicy::missing(arn))?;
        body(txn, &mut policy)?;
        if policy.versions.is_empty() {
            txn.delete(&key);
        } else {
            txn.put(&key, &policy)?;
        }
        Ok::<_, Refusal>(policy)
    };
    Ok(cloud.store.transact(body).await?)
}

async fn create_version(
    cloud: Cloud,
    call: Call,
    input: model::CreatePolicyVersionRequest,
) -> Result<model::CreatePolicyVersionResponse, ApiError> {
    let document = input.policy_document.unwrap_or_default();
    check_document(&document, Kind::Identity)?;
    let now = cloud.env.now_ms();
    let is_default = input.set_as_default == Some(true);
    let add = |_: &mut Txn, policy: &mut ManagedPolicy| {
        if policy.versions.len() >= MOST_VERSIONS {
            let message = format!(
                "A managed policy can have up to {MOST_VERSIONS} versions. Before you create a new version, you must delete an existing version."
            );
            return Err(ApiError::new(&errors::LIMIT_EXCEEDED_EXCEPTION, message).into());
        }
        policy.last_version += 1;
        let version = PolicyVersion { document: document.clone(), created_ms: now };
        policy.versions.insert(policy.last_version, version);
        if is_default {
            policy.default_version = policy.last_version;
        }
        policy.updated_ms = now;
        Ok(())
    };
    let policy = change(&cloud, &call, &input.policy_arn.unwrap_or_default(), add).await?;
    let policy_version = describe_version(&policy, policy.last_version, false);
    Ok(model::CreatePolicyVersionResponse { policy_version })
}

fn no_version(arn: &str, id: &str) -> ApiError {
    no_such_entity(format!("Policy {arn} version {id} does not exist or is not attachable."))
}

async fn get_version(
    cloud: Cloud,
    call: Call,
    input: model::GetPolicyVersionRequest,
) -> Result<model::GetPolicyVersionResponse, ApiError> {
    let (arn, id) = (input.policy_arn.unwrap_or_default(), input.version_id.unwrap_or_default());
    let policy = ManagedPolicy::load(&cloud, &call, &arn)?;
    let version = number(&id).and_then(|number| describe_version(&policy, number, true));
    let version = version.ok_or_else(|| no_version(&arn, &id))?;
    Ok(model::GetPolicyVersionResponse { policy_version: Some(version) })
}

async fn list_versions(
    cloud: Cloud,
    call: Call,
    input: model::ListPolicyVersionsRequest,
) -> Result<model::ListPolicyVersionsResponse, ApiError> {
    let policy = ManagedPolicy::load(&cloud, &call, &input.policy_arn.unwrap_or_default())?;
    let numbers = policy.versions.keys().rev().copied();
    let all: Vec<_> = numbers.filter_map(|number| describe_version(&policy, number, false)).collect();
    let key = |version: &model::PolicyVersion| version.version_id.clone().unwrap_or_default();
    let page = page(all, key, input.marker.as_deref(), input.max_items)?;
    Ok(model::ListPolicyVersionsResponse {
        versions: Some(page.items),
        is_truncated: Some(page.next.is_some()),
        marker: page.next,
    })
}

async fn delete_version(
    cloud: Cloud,
    call: Call,
    input: model::DeletePolicyVersionRequest,
) -> Result<Unit, ApiError> {
    let (arn, id) = (input.policy_arn.unwrap_or_default(), input.version_id.unwrap_or_default());
    let remove = |_: &mut Txn, policy: &mut ManagedPolicy| {
        let number = number(&id).filter(|n| policy.versions.contains_key(n));
        let number = number.ok_or_else(|| no_version(&arn, &id))?;
        if number == policy.default_version {
            return Err(delete_conflict("Cannot delete the default version of a policy.").into());
        }
        policy.versions.remove(&number);
        Ok(())
    };
    change(&cloud, &call, &arn, remove).await?;
    unit()
}

async fn set_default(
    cloud: Cloud,
    call: Call,
    input: model::SetDefaultPolicyVersionRequest,
) -> Result<Unit, ApiError> {
    let (arn, id) = (input.policy_arn.unwrap_or_default(), input.version_id.unwrap_or_default());
    let now = cloud.env.now_ms();
    let set = |_: &mut Txn, policy: &mut ManagedPolicy| {
        let number = number(&id).filter(|n| policy.versions.contains_key(n));
        policy.default_version = number.ok_or_else(|| no_version(&arn, &id))?;
        policy.updated_ms = now;
        Ok(())
    };
    change(&cloud, &call, &arn, set).await?;
    unit()
}

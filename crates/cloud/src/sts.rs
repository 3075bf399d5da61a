//! Security Token Service: who am I, and sessions of roles.

pub mod session;

use crate::Cloud;
use crate::access::Access;
use crate::api::{Call, Router};
use ekstra_domain::iam::{Principal, SessionTerms};
use ekstra_model::{Timestamp, sts as model};
use ekstra_policy::{Kind, Policy};
use ekstra_wire::ApiError;
use model::ops;
use session::{Started, Wish};

pub(crate) fn serve(router: &mut Router, cloud: &Cloud) {
    // Everybody may ask who they are. Whether a role may be assumed its own policy says, too.
    router.serve(ops::GetCallerIdentity, cloud, |_: &Cloud, _, _| Access::Unasked, get_caller_identity);
    router.serve(ops::AssumeRole, cloud, |_: &Cloud, _, _| Access::Unasked, assume_role);
    // No policy is asked: who has a key has what it may do (IAM User Guide, GetSessionToken).
    router.serve(ops::GetSessionToken, cloud, |_: &Cloud, _, _| Access::Unasked, get_session_token);
}

async fn get_caller_identity(
    _: Cloud,
    call: Call,
    _: model::GetCallerIdentityRequest,
) -> Result<model::GetCallerIdentityResponse, ApiError> {
    Ok(model::GetCallerIdentityResponse {
        user_id: Some(call.principal.user_id),
        account: Some(call.principal.account),
        arn: Some(call.principal.arn),
    })
}

/// Characters of a session's own policy.
const MOST_POLICY: usize = 2048;

/// A session that lacks what was asked for would be another one.
fn refuse_mfa(given: bool) -> Result<(), ApiError> {
    if !given {
        return Ok(());
    }
    let message = "MFA (SerialNumber, TokenCode) is not supported by ekstra";
    Err(ApiError::client("ValidationError", 400, message))
}

async fn assume_role(
    cloud: Cloud,
    call: Call,
    input: model::AssumeRoleRequest,
) -> Result<model::AssumeRoleResponse, ApiError> {
    refuse_mfa(input.serial_number.is_some() || input.token_code.is_some())?;
    if call.principal.is_root() {
        return Err(ApiError::client("AccessDenied", 403, "Roles may not be assumed by root accounts."));
    }
    let tags = input.tags.unwrap_or_default().into_iter();
    let tags = tags.map(|tag| (tag.key.unwrap_or_default(), tag.value.unwrap_or_default()));
    let (tags, transitive) = session::read_tags(tags, input.transitive_tag_keys.unwrap_or_default())?;
    let packed = packed(input.policy.as_ref(), input.policy_arns.as_ref());
    let policies = own_policy(input.policy)?;
    let terms =
        SessionTerms { policies, tags, transitive, source_identity: input.source_identity, provider: None };
    let wish = Wish {
        session_name: input.role_session_name.unwrap_or_default(),
        seconds: i64::from(input.duration_seconds.unwrap_or(3600)),
        external_id: input.external_id,
        packed,
        managed: arns_of(input.policy_arns),
        terms,
    };
    let started = session::assume(&cloud, &call, &input.role_arn.unwrap_or_default(), wish)?;
    Ok(model::AssumeRoleResponse {
        source_identity: started.session.terms.source_identity.clone(),
        assumed_role_user: Some(assumed_role_user(&started)),
        credentials: Some(credentials(started)),
        ..Default::default()
    })
}

pub fn assumed_role_user(started: &Started) -> model::AssumedRoleUser {
    let Principal { user_id, arn, .. } = started.session.principal.clone();
    model::AssumedRoleUser { assumed_role_id: Some(user_id), arn: Some(arn) }
}

/// Seconds of a session of a user, unless it says otherwise.
const USERS: i64 = 12 * 3600;
/// Seconds of a session of an account's root at most.
const ROOTS: i64 = 3600;

/// The caller once more, for a while.
async fn get_session_token(
    cloud: Cloud,
    call: Call,
    input: model::GetSessionTokenRequest,
) -> Result<model::GetSessionTokenResponse, ApiError> {
    refuse_mfa(input.serial_number.is_some() || input.token_code.is_some())?;
    if call.session_issued.is_some() {
        let message = "Cannot call GetSessionToken with session credentials";
        return Err(ApiError::client("AccessDenied", 403, message));
    }
    let most = if call.principal.is_root() { ROOTS } else { i64::MAX };
    let seconds = input.duration_seconds.map_or(USERS, i64::from).min(most);
    let started = session::seal(&cloud, call.principal, seconds, SessionTerms::default());
    Ok(model::GetSessionTokenResponse { credentials: Some(credentials(started)), ..Default::default() })
}

pub fn credentials(started: Started) -> model::Credentials {
    let Started { session, secret, token } = started;
    model::Credentials {
        access_key_id: Some(session.access_key_id),
        secret_access_key: Some(secret.0),
        session_token: Some(token),
        expiration: Some(Timestamp::from_secs(session.expires)),
    }
}

/// Characters of what a request says of policies: the one that it holds, and the ARNs of the others.
pub fn packed(own: Option<&String>, managed: Option<&Vec<model::PolicyDescriptorType>>) -> usize {
    let arns = managed.into_iter().flatten().filter_map(|named| named.arn.as_ref());
    arns.chain(own).map(|text| text.chars().count()).sum()
}

/// The managed policies that a request names.
pub fn arns_of(managed: Option<Vec<model::PolicyDescriptorType>>) -> Vec<String> {
    managed.into_iter().flatten().filter_map(|named| named.arn).collect()
}

/// The document that is to narrow a session, if there is one.
pub fn own_policy(own: Option<String>) -> Result<Vec<String>, ApiError> {
    if let Some(text) = &own {
        if text.chars().count() > MOST_POLICY {
            let message = format!("PackedPolicySize exceeds the quota: {MOST_POLICY} characters");
            return Err(ApiError::client("PackedPolicyTooLarge", 400, message));
        }
        Policy::parse(text, Kind::Identity)
            .map_err(|why| ApiError::client("MalformedPolicyDocument", 400, why.to_string()))?;
    }
    Ok(own.into_iter().collect())
}

//! Security Token Service: who am I, and sessions of roles.

use crate::Cloud;
use crate::access::{Access, document, may_assume};
use crate::api::{Call, Router};
use crate::iam::find_role;
use ekstra_domain::iam::{Principal, Session};
use ekstra_model::{Timestamp, sts as model};
use ekstra_policy::{Kind, Policy};
use ekstra_wire::ApiError;
use model::ops;

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
/// Seconds of a session that a session asked for.
const CHAINED: i64 = 3600;

/// A session that lacks what was asked for would be another one.
fn refuse_unserved(input: &model::AssumeRoleRequest) -> Result<(), ApiError> {
    let unserved = [
        (input.tags.as_ref().is_some_and(|tags| !tags.is_empty()), "Tags"),
        (input.transitive_tag_keys.as_ref().is_some_and(|keys| !keys.is_empty()), "TransitiveTagKeys"),
        (input.source_identity.is_some(), "SourceIdentity"),
        (input.serial_number.is_some() || input.token_code.is_some(), "MFA (SerialNumber, TokenCode)"),
    ];
    match unserved.iter().find(|(given, _)| *given) {
        Some((_, what)) => {
            Err(ApiError::client("ValidationError", 400, format!("{what} is not supported by ekstra")))
        }
        None => Ok(()),
    }
}

async fn assume_role(
    cloud: Cloud,
    call: Call,
    input: model::AssumeRoleRequest,
) -> Result<model::AssumeRoleResponse, ApiError> {
    refuse_unserved(&input)?;
    if call.principal.is_root() {
        return Err(ApiError::client("AccessDenied", 403, "Roles may not be assumed by root accounts."));
    }
    let role_arn = input.role_arn.unwrap_or_default();
    let session_name = input.role_session_name.unwrap_or_default();
    let denied = || {
        let caller = &call.principal.arn;
        let message =
            format!("User: {caller} is not authorized to perform: sts:AssumeRole on resource: {role_arn}");
        ApiError::client("AccessDenied", 403, message)
    };
    let mut context = vec![("sts:RoleSessionName".to_owned(), vec![session_name.clone()])];
    context.extend(input.external_id.clone().map(|id| ("sts:ExternalId".to_owned(), vec![id])));
    let role = find_role(&cloud, &role_arn)
        .filter(|role| may_assume(&cloud, &call, role, context.clone()))
        .ok_or_else(denied)?;
    let policies = session_policies(&cloud, &call, input.policy, input.policy_arns.unwrap_or_default())?;
    let seconds = i64::from(input.duration_seconds.unwrap_or(3600));
    if seconds > CHAINED && call.principal.session_name().is_some() {
        let message = "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining";
        return Err(ApiError::client("ValidationError", 400, message));
    }
    if seconds > role.max_session_seconds {
        let message = "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.";
        return Err(ApiError::client("ValidationError", 400, message));
    }
    let arn = format!("arn:aws:sts::{}:assumed-role/{}/{session_name}", role.account, role.name);
    let user_id = format!("{}:{session_name}", role.id);
    let session = Session {
        access_key_id: cloud.env.access_key_id("ASIA"),
        principal: Principal { account: role.account, arn: arn.clone(), user_id: user_id.clone() },
        expires: cloud.env.now() + seconds,
        policies,
    };
    Ok(model::AssumeRoleResponse {
        credentials: Some(credentials(&cloud, session)),
        assumed_role_user: Some(model::AssumedRoleUser { assumed_role_id: Some(user_id), arn: Some(arn) }),
        ..Default::default()
    })
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
    if input.serial_number.is_some() || input.token_code.is_some() {
        let message = "MFA (SerialNumber, TokenCode) is not supported by ekstra";
        return Err(ApiError::client("ValidationError", 400, message));
    }
    if call.is_session {
        let message = "Cannot call GetSessionToken with session credentials";
        return Err(ApiError::client("AccessDenied", 403, message));
    }
    let most = if call.principal.is_root() { ROOTS } else { i64::MAX };
    let seconds = input.duration_seconds.map_or(USERS, i64::from).min(most);
    let session = Session {
        access_key_id: cloud.env.access_key_id("ASIA"),
        principal: call.principal,
        expires: cloud.env.now() + seconds,
        policies: Vec::new(),
    };
    Ok(model::GetSessionTokenResponse {
        credentials: Some(credentials(&cloud, session)),
        ..Default::default()
    })
}

fn credentials(cloud: &Cloud, session: Session) -> model::Credentials {
    let token = cloud.master.seal(&session);
    model::Credentials {
        access_key_id: Some(session.access_key_id),
        secret_access_key: Some(cloud.master.secret(&token).0),
        session_token: Some(token),
        expiration: Some(Timestamp::from_secs(session.expires)),
    }
}

/// What narrows a session: one document, and managed policies as they are now.
fn session_policies(
    cloud: &Cloud,
    call: &Call,
    own: Option<String>,
    managed: Vec<model::PolicyDescriptorType>,
) -> Result<Vec<String>, ApiError> {
    if let Some(text) = &own {
        if text.chars().count() > MOST_POLICY {
            let message = format!("PackedPolicySize exceeds the quota: {MOST_POLICY} characters");
            return Err(ApiError::client("PackedPolicyTooLarge", 400, message));
        }
        Policy::parse(text, Kind::Identity)
            .map_err(|why| ApiError::client("MalformedPolicyDocument", 400, why.to_string()))?;
    }
    let mut policies: Vec<String> = own.into_iter().collect();
    for arn in managed.into_iter().filter_map(|named| named.arn) {
        let text = document(cloud, &call.scope.account, &arn).ok_or_else(|| {
            ApiError::client(
                "ValidationError",
                400,
                format!("Policy {arn} does not exist or is not attachable."),
            )
        })?;
        policies.push(text);
    }
    Ok(policies)
}

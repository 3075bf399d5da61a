//! AssumeRoleWithWebIdentity: a role for the bearer of a token of an identity provider that the role's account knows.
//!
//! The issuers whose tokens can be proved are the clusters of this service, which are asked (TokenReview): so a token whose
//! pod is gone is none. Other issuers can be recorded in IAM; their keys are not fetched, and their tokens are refused.
//!
//! Source: STS API reference, AssumeRoleWithWebIdentity; IAM User Guide, "Available keys for AWS OIDC federation".

use crate::Eks;
use crate::auth::review;
use ekstra_cloud::access::{Access, Outsider, trusts};
use ekstra_cloud::api::Call;
use ekstra_cloud::iam::find_role;
use ekstra_cloud::sts::session::{self, managed_policies};
use ekstra_cloud::sts::{arns_of, assumed_role_user, credentials, own_policy, packed};
use ekstra_domain::eks::{Cluster, ControlPlaneSlot};
use ekstra_domain::iam::{Claims, NotAToken, OidcProvider, SessionTerms};
use ekstra_domain::names::{Arn, keys};
use ekstra_model::sts::{self as model, errors};
use ekstra_wire::{ApiError, iso8601};
use tokio::sync::Semaphore;

const SECONDS: i64 = 3600;
const ACTION: &str = "sts:AssumeRoleWithWebIdentity";

/// Whoever has the token may; the role says which.
pub(crate) fn access(_: &Eks, _: &Call, _: &model::AssumeRoleWithWebIdentityRequest) -> Access {
    Access::Unasked
}

fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new(&errors::INVALID_IDENTITY_TOKEN_EXCEPTION, message)
}

/// The provider of the account whose tokens these are, and the audience by which it knows them.
fn provider(eks: &Eks, account: &str, claims: &Claims) -> Result<(OidcProvider, String), ApiError> {
    let issuer = claims.iss.strip_prefix("https://").unwrap_or(&claims.iss);
    let found: Option<OidcProvider> = eks.cloud.store.view().get_as(&keys::oidc_provider(account, issuer));
    let found = found.ok_or_else(|| {
        invalid(format!("No OpenIDConnect provider found in your account for {}", claims.iss))
    })?;
    let audience = claims.audiences().iter().find(|audience| found.client_ids.contains(audience)).cloned();
    Ok((found, audience.ok_or_else(|| invalid("Incorrect token audience"))?))
}

/// The cluster that signs as this issuer.
fn cluster_of(eks: &Eks, issuer: &str) -> Option<Cluster> {
    let view = eks.cloud.store.view();
    let slots = view.list_as::<ControlPlaneSlot>(keys::SLOTS);
    let (_, slot) = slots.into_iter().find(|(_, slot)| eks.issuer(&slot.issuer_id) == issuer)?;
    view.get_as(&slot.cluster)
}

async fn prove(eks: &Eks, claims: &Claims, token: String, audience: &str) -> Result<(), ApiError> {
    const NO_KEY: &str = "Couldn't retrieve verification key from your identity provider, please reference AssumeRoleWithWebIdentity documentation for requirements";
    /// Whoever asks has shown nothing yet: more of them at a time wait.
    static ASKING: Semaphore = Semaphore::const_new(8);
    let cluster = cluster_of(eks, &claims.iss).ok_or_else(|| invalid(NO_KEY))?;
    let _turn = ASKING.acquire().await;
    let status = review(eks, &cluster, token, audience).await.map_err(|error| {
        tracing::info!(cluster = cluster.name, error, "no review of a web identity's token");
        ApiError::new(&errors::IDP_COMMUNICATION_ERROR_EXCEPTION, "The identity provider does not answer")
    })?;
    let user = status.user.and_then(|user| user.username);
    if status.authenticated == Some(true) && user.as_ref() == Some(&claims.sub) {
        return Ok(());
    }
    tracing::info!(cluster = cluster.name, error = status.error, "a web identity's token is refused");
    Err(invalid("Token signature invalid"))
}

pub(crate) async fn assume_role_with_web_identity(
    eks: Eks,
    call: Call,
    input: model::AssumeRoleWithWebIdentityRequest,
) -> Result<model::AssumeRoleWithWebIdentityResponse, ApiError> {
    let denied = || ApiError::client("AccessDenied", 403, format!("Not authorized to perform {ACTION}"));
    let token = input.web_identity_token.unwrap_or_default();
    let role_arn = input.role_arn.unwrap_or_default();
    let account = role_arn
        .parse::<Arn>()
        .map(|arn| arn.account)
        .map_err(|_| ApiError::client("ValidationError", 400, "Request ARN is invalid"))?;
    let claims: Claims = token.parse().map_err(|error: NotAToken| invalid(error.to_string()))?;
    let now = eks.cloud.env.now();
    if claims.exp <= now {
        let message = format!(
            "Token expired: current date/time {} must be before the expiration date/time {}",
            iso8601(now * 1000),
            iso8601(claims.exp.saturating_mul(1000))
        );
        return Err(ApiError::new(&errors::EXPIRED_TOKEN_EXCEPTION, message));
    }
    let (provider, audience) = provider(&eks, &account, &claims)?;
    prove(&eks, &claims, token, &audience).await?;
    let name = input.role_session_name.unwrap_or_default();
    let arn = provider.arn();
    let packed = packed(input.policy.as_ref(), input.policy_arns.as_ref());
    let policies = own_policy(input.policy)?;
    let mut terms = SessionTerms { policies, provider: Some(arn.clone()), ..SessionTerms::default() };
    session::check_size(packed, &terms)?;
    let role = find_role(&eks.cloud, &role_arn).ok_or_else(denied)?;
    let mut known = session::context(&name, &terms);
    for (claim, value) in [("sub", &claims.sub), ("aud", &audience)] {
        known.push((format!("{}:{claim}", provider.issuer), vec![value.clone()]));
    }
    if !trusts(&eks.cloud, &call, &role, Outsider::Federated(&arn), ACTION, &known) {
        return Err(denied());
    }
    terms.policies.extend(managed_policies(&eks.cloud, &role, &arns_of(input.policy_arns))?);
    let seconds = input.duration_seconds.map_or(SECONDS, i64::from);
    session::check_duration(&role, seconds)?;
    let started = session::start(&eks.cloud, &role, &name, seconds, terms);
    Ok(model::AssumeRoleWithWebIdentityResponse {
        subject_from_web_identity_token: Some(claims.sub),
        assumed_role_user: Some(assumed_role_user(&started)),
        provider: Some(arn),
        audience: Some(audience),
        credentials: Some(credentials(started)),
        ..Default::default()
    })
}

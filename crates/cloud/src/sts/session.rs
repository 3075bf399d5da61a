//! Sessions of roles: what may be asked of one, who may ask, and its making.
//!
//! Source: IAM User Guide, "Pass session tags in AWS STS", "Monitor and control actions taken with assumed roles".

use crate::Cloud;
use crate::access::{document, may_assume};
use crate::api::Call;
use crate::iam::find_role;
use ekstra_domain::iam::{Principal, Role, Secret, Session, SessionTerms};
use ekstra_model::sts::errors;
use ekstra_wire::ApiError;
use std::collections::{BTreeMap, BTreeSet};

/// Seconds of a session that a session asked for.
const CHAINED: i64 = 3600;

/// What somebody asks of a role.
#[derive(Clone, Debug)]
pub struct Wish {
    pub session_name: String,
    pub seconds: i64,
    pub external_id: Option<String>,
    /// Characters of the policies that it names and holds.
    pub packed: usize,
    /// ARNs of managed policies of the role's account that narrow the session.
    pub managed: Vec<String>,
    /// Without what it has of the session that asks.
    pub terms: SessionTerms,
}

/// A session, and what its bearer needs.
#[derive(Clone, Debug)]
pub struct Started {
    pub session: Session,
    pub secret: Secret,
    pub token: String,
}

/// Nobody is asked whether it may be.
pub fn start(cloud: &Cloud, role: &Role, name: &str, seconds: i64, terms: SessionTerms) -> Started {
    let Role { account, name: role_name, id, .. } = role;
    let principal = Principal {
        account: account.clone(),
        arn: format!("arn:aws:sts::{account}:assumed-role/{role_name}/{name}"),
        user_id: format!("{id}:{name}"),
    };
    seal(cloud, principal, seconds, terms)
}

/// For whomever, from now on.
pub(super) fn seal(cloud: &Cloud, principal: Principal, seconds: i64, terms: SessionTerms) -> Started {
    let access_key_id = cloud.env.access_key_id("ASIA");
    let issued = cloud.env.now();
    let session = Session { access_key_id, principal, issued, expires: issued + seconds, terms };
    let token = cloud.master.seal(&session);
    Started { secret: cloud.master.secret(&token), token, session }
}

/// A session for a caller whom the role trusts.
pub fn assume(cloud: &Cloud, call: &Call, role_arn: &str, wish: Wish) -> Result<Started, ApiError> {
    let denied = |action: &str| {
        let caller = &call.principal.arn;
        let message =
            format!("User: {caller} is not authorized to perform: {action} on resource: {role_arn}");
        ApiError::client("AccessDenied", 403, message)
    };
    let mut terms = inherit(wish.terms.clone(), &call.terms)?;
    check_size(wish.packed, &terms)?;
    // Nobody is told what else is wrong who may not know of the role.
    let role = find_role(cloud, role_arn).ok_or_else(|| denied("sts:AssumeRole"))?;
    // Tags that are handed on are not asked for again; who began the chain is.
    let asked = SessionTerms { source_identity: terms.source_identity.clone(), ..wish.terms };
    let mut context = context(&wish.session_name, &asked);
    context.extend(wish.external_id.map(|id| ("sts:ExternalId".to_owned(), vec![id])));
    for action in std::iter::once("sts:AssumeRole").chain(further_actions(&asked)) {
        if !may_assume(cloud, call, &role, action, context.clone()) {
            return Err(denied(action));
        }
    }
    if wish.seconds > CHAINED && call.principal.session_name().is_some() {
        let message = "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining";
        return Err(ApiError::client("ValidationError", 400, message));
    }
    check_duration(&role, wish.seconds)?;
    terms.policies.extend(managed_policies(cloud, &role, &wish.managed)?);
    Ok(start(cloud, &role, &wish.session_name, wish.seconds, terms))
}

/// Managed policies of a role's account, as they are now.
pub fn managed_policies(cloud: &Cloud, role: &Role, arns: &[String]) -> Result<Vec<String>, ApiError> {
    let read = |arn: &String| {
        document(cloud, &role.account, arn).ok_or_else(|| {
            let message = format!("Policy {arn} does not exist or is not attachable.");
            ApiError::client("ValidationError", 400, message)
        })
    };
    arns.iter().map(read).collect()
}

pub fn check_duration(role: &Role, seconds: i64) -> Result<(), ApiError> {
    if seconds <= role.max_session_seconds {
        return Ok(());
    }
    let message = "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.";
    Err(ApiError::client("ValidationError", 400, message))
}

/// What a role's trust policy may ask about.
pub fn context(session_name: &str, terms: &SessionTerms) -> Vec<(String, Vec<String>)> {
    let mut known = vec![("sts:RoleSessionName".to_owned(), vec![session_name.to_owned()])];
    known
        .extend(terms.tags.iter().map(|(key, value)| (format!("aws:RequestTag/{key}"), vec![value.clone()])));
    known.push(("aws:TagKeys".to_owned(), terms.tags.keys().cloned().collect()));
    known.push(("sts:TransitiveTagKeys".to_owned(), terms.transitive.iter().cloned().collect()));
    known.extend(terms.source_identity.clone().map(|name| ("sts:SourceIdentity".to_owned(), vec![name])));
    known
}

/// What has to be allowed for such terms, beside the session.
pub fn further_actions(terms: &SessionTerms) -> impl Iterator<Item = &'static str> {
    let tags = (!terms.tags.is_empty()).then_some("sts:TagSession");
    tags.into_iter().chain(terms.source_identity.as_ref().map(|_| "sts:SetSourceIdentity"))
}

/// With what the session that asks hands on.
fn inherit(mut terms: SessionTerms, from: &SessionTerms) -> Result<SessionTerms, ApiError> {
    for key in &from.transitive {
        if terms.tags.keys().any(|own| own.eq_ignore_ascii_case(key)) {
            let message = "One of the specified transitive tag keys can't be set because it conflicts with a transitive tag key from the calling session.";
            return Err(ApiError::client("InvalidParameterValue", 400, message));
        }
        let value = from.tags.get(key).cloned().unwrap_or_default();
        terms.tags.insert(key.clone(), value);
        terms.transitive.insert(key.clone());
    }
    match (&terms.source_identity, &from.source_identity) {
        (Some(asked), Some(known)) if asked != known => {
            let message = "The source identity of the calling session cannot be changed";
            Err(ApiError::client("AccessDenied", 403, message))
        }
        (None, Some(known)) => Ok(SessionTerms { source_identity: Some(known.clone()), ..terms }),
        _ => Ok(terms),
    }
}

/// Tags as a caller gives them. Their keys do not care about case, as IAM's.
pub(super) fn read_tags(
    tags: impl IntoIterator<Item = (String, String)>,
    transitive: Vec<String>,
) -> Result<(BTreeMap<String, String>, BTreeSet<String>), ApiError> {
    let invalid = |message: String| Err(ApiError::client("InvalidParameterValue", 400, message));
    let mut read = BTreeMap::<String, String>::new();
    for (key, value) in tags {
        if key.to_ascii_lowercase().starts_with("aws:") {
            return invalid(format!("Tag keys must not begin with aws: {key}"));
        }
        if read.keys().any(|known| known.eq_ignore_ascii_case(&key)) {
            let message =
                "Duplicate tag keys found. Please note that Tag keys are case insensitive.".to_owned();
            return invalid(message);
        }
        read.insert(key, value);
    }
    let mut keys = BTreeSet::new();
    for key in transitive {
        let Some(known) = read.keys().find(|known| known.eq_ignore_ascii_case(&key)) else {
            return invalid(
                "The specified transitive tag key must be included in the requested tags.".into(),
            );
        };
        keys.insert(known.clone());
    }
    Ok((read, keys))
}

/// The most that a session's tags and what a request says of policies may be, in characters: "packed" they have a limit at
/// AWS that is not told.
const MOST_PACKED: usize = 4096;

/// Refused for their size, not for any one of them. `policies`: characters of the inline policy, and of the others' ARNs.
pub fn check_size(policies: usize, terms: &SessionTerms) -> Result<(), ApiError> {
    let tags = terms.tags.iter().map(|(key, value)| key.chars().count() + value.chars().count());
    let size = policies + tags.sum::<usize>();
    if size <= MOST_PACKED {
        return Ok(());
    }
    let percent = size * 100 / MOST_PACKED;
    let message = format!("Packed size of policies and session tags consumes {percent}% of allotted space.");
    Err(ApiError::new(&errors::PACKED_POLICY_TOO_LARGE_EXCEPTION, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn keys_of_tags_do_not_care_about_case() {
        let (tags, transitive) =
            read_tags(pairs(&[("Team", "a"), ("x", "")]), vec!["team".into()]).expect("fit");
        assert_eq!(tags.len(), 2);
        assert_eq!(transitive, BTreeSet::from(["Team".to_owned()]));
        assert!(read_tags(pairs(&[("Team", "a"), ("team", "b")]), Vec::new()).is_err());
        assert!(read_tags(pairs(&[("Team", "a")]), vec!["x".into()]).is_err());
        assert!(read_tags(pairs(&[("aws:x", "a")]), Vec::new()).is_err());
    }

    #[test]
    fn what_is_handed_on_cannot_be_replaced() {
        let from = SessionTerms {
            tags: BTreeMap::from([("Team".into(), "a".into()), ("other".into(), "b".into())]),
            transitive: BTreeSet::from(["Team".into()]),
            source_identity: Some("me".into()),
            ..SessionTerms::default()
        };
        let terms = inherit(SessionTerms::default(), &from).expect("inherits");
        assert_eq!(terms.tags, BTreeMap::from([("Team".into(), "a".into())]));
        assert_eq!(terms.transitive, from.transitive);
        assert_eq!(terms.source_identity.as_deref(), Some("me"));
        let tags = BTreeMap::from([("team".into(), "b".into())]);
        assert!(inherit(SessionTerms { tags, ..SessionTerms::default() }, &from).is_err());
        let another = SessionTerms { source_identity: Some("you".into()), ..SessionTerms::default() };
        assert!(inherit(another, &from).is_err());
    }
}

//! Whether a caller may do what it asks: what an operation needs, and what its caller's policies say.
//!
//! Invariant: no operation is served without saying what it needs ([`crate::api::Router::serve`]). **Invariant:** a policy
//! that is named and cannot be found or read allows nothing.

use crate::Cloud;
use crate::api::{Call, Origin};
use ekstra_domain::iam::{AWS_MANAGED, Grants, Group, ManagedPolicy, Principal, Role, User, aws_managed};
use ekstra_domain::names::{Arn, keys};
use ekstra_model::Protocol;
use ekstra_policy::{Context, Decision, Kind, Named, Policies, Policy, Principals, Reason, Request, decide};
use ekstra_wire::{ApiError, iso8601};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

/// An action on resources.
#[derive(Clone, Debug, PartialEq)]
pub struct Need {
    pub action: String,
    pub resources: Vec<String>,
    /// Condition keys of this action.
    pub context: Vec<(String, Vec<String>)>,
}

/// What a call of an operation needs.
#[derive(Clone, Debug, PartialEq)]
pub enum Access {
    /// A signature alone, as AWS has it; or the operation asks by itself.
    Unasked,
    /// The operation's own action on these resources, and what else.
    On { resources: Vec<String>, context: Vec<(String, Vec<String>)>, also: Vec<Need> },
}

impl Access {
    /// Of an operation that has no resources.
    pub fn everything() -> Self {
        Self::on("*")
    }

    pub fn on(resource: impl Into<String>) -> Self {
        Self::on_all(vec![resource.into()])
    }

    pub fn on_all(resources: Vec<String>) -> Self {
        Self::On { resources, context: Vec::new(), also: Vec::new() }
    }

    /// A condition key of the operation; of the same key twice the last one that has values counts.
    #[must_use]
    pub fn with(mut self, key: &str, values: impl IntoIterator<Item = String>) -> Self {
        if let Self::On { context, .. } = &mut self {
            context.push((key.to_owned(), values.into_iter().collect()));
        }
        self
    }

    /// Tags that the request gives.
    #[must_use]
    pub fn with_tags(mut self, tags: Option<&BTreeMap<String, String>>) -> Self {
        let Some(tags) = tags.filter(|tags| !tags.is_empty()) else { return self };
        for (key, value) in tags {
            self = self.with(&format!("aws:RequestTag/{key}"), [value.clone()]);
        }
        self.with("aws:TagKeys", tags.keys().cloned())
    }

    /// Tags that something is made with, for which `action` has to be allowed, too.
    #[must_use]
    pub fn made_with_tags(self, tags: Option<&BTreeMap<String, String>>, action: &str) -> Self {
        let is_tagged = tags.is_some_and(|tags| !tags.is_empty());
        let mut access = self.with_tags(tags);
        if let Self::On { resources, context, also } = &mut access
            && is_tagged
        {
            let (resources, context) = (resources.clone(), context.clone());
            also.push(Need { action: action.into(), resources, context });
        }
        access
    }

    /// The same action on another resource, of which other things are known.
    #[must_use]
    pub fn and_on(mut self, action: &str, other: Self) -> Self {
        if let (Self::On { also, .. }, Self::On { resources, context, also: more }) = (&mut self, other) {
            also.push(Need { action: action.into(), resources, context });
            also.extend(more);
        }
        self
    }

    /// Tags that the resource has.
    #[must_use]
    pub fn with_resource_tags(mut self, tags: Option<&BTreeMap<String, String>>) -> Self {
        for (key, value) in tags.into_iter().flatten() {
            self = self.with(&format!("aws:ResourceTag/{key}"), [value.clone()]);
        }
        self
    }

    /// To hand a role to a service.
    #[must_use]
    pub fn passing(mut self, role: Option<&String>, service: &str) -> Self {
        if let (Self::On { also, .. }, Some(role)) = (&mut self, role) {
            also.push(Need {
                action: "iam:PassRole".into(),
                resources: vec![role.clone()],
                context: vec![("iam:PassedToService".into(), vec![service.into()])],
            });
        }
        self
    }
}

/// Refuses what the caller's policies do not allow, in the words of the service that is asked.
pub(crate) fn check(
    cloud: &Cloud,
    call: &Call,
    protocol: Protocol,
    action: &str,
    access: Access,
) -> Result<(), ApiError> {
    // Sessions of users do not reach IAM, as long as nobody has shown a second factor (IAM User Guide, GetSessionToken).
    if call.session_issued.is_some() && call.principal.session_name().is_none() && action.starts_with("iam:")
    {
        let message = "The security token included in the request is invalid";
        return Err(ApiError::client("InvalidClientTokenId", 403, message));
    }
    let Access::On { resources, context, also } = access else { return Ok(()) };
    let own = Need { action: action.to_owned(), resources, context };
    let standing = Standing::of(cloud, call);
    for need in std::iter::once(own).chain(also) {
        for resource in &need.resources {
            let one = Need { resources: vec![resource.clone()], ..need.clone() };
            if let Decision::Denied(reason) = standing.decide(cloud, call, &one, None) {
                return Err(denial(call, protocol, &one, reason));
            }
        }
    }
    Ok(())
}

fn denial(call: &Call, protocol: Protocol, need: &Need, reason: Reason) -> ApiError {
    let (caller, action) = (&call.principal.arn, &need.action);
    let resource = need.resources.first().map_or("*", String::as_str);
    let why = reason.in_words(action);
    let (code, message) = match protocol {
        Protocol::Ec2Query => (
            "UnauthorizedOperation",
            format!(
                "You are not authorized to perform this operation. User: {caller} is not authorized to perform: {action} on resource: {resource} {why}"
            ),
        ),
        Protocol::AwsQuery => (
            "AccessDenied",
            format!("User: {caller} is not authorized to perform: {action} on resource: {resource} {why}"),
        ),
        _ => (
            "AccessDeniedException",
            format!("User: {caller} is not authorized to perform: {action} on resource: {resource} {why}"),
        ),
    };
    ApiError::client(code, 403, message)
}

/// What a caller would be answered.
pub(crate) fn simulate(cloud: &Cloud, call: &Call, need: &Need) -> Decision {
    Standing::of(cloud, call).decide(cloud, call, need, None)
}

/// Whether a role lets a caller do with it what `sts:AssumeRole` and its like are.
pub(crate) fn may_assume(
    cloud: &Cloud,
    call: &Call,
    role: &Role,
    action: &str,
    mut context: Vec<(String, Vec<String>)>,
) -> bool {
    context.push(("aws:ResourceAccount".into(), vec![role.account.clone()]));
    let need = Need { action: action.into(), resources: vec![role.arn()], context };
    let trust = parsed(&role.trust_policy, Kind::Trust);
    let standing = Standing::of(cloud, call);
    let is_foreign = call.principal.account != role.account;
    let caller =
        Caller { principal: &call.principal, arn: &standing.arn, trusted: &role.trusted, is_foreign };
    // As AWS has it.
    if standing.is_root {
        return false;
    }
    standing.decide(cloud, call, &need, Some((&trust, &caller))).is_allowed()
}

/// Who is nobody of an account, and may assume what names it.
#[derive(Clone, Copy, Debug)]
pub enum Outsider<'a> {
    /// `eks.amazonaws.com`.
    Service(&'a str),
    /// By the ARN of the identity provider that has vouched for it.
    Federated(&'a str),
}

impl Named for Outsider<'_> {
    fn is_named(&self, principals: &Principals) -> bool {
        match self {
            Self::Service(name) => principals.has_service(name),
            Self::Federated(provider) => principals.has_federated(provider),
        }
    }

    fn is_of_account(&self, _: &Principals) -> bool {
        false
    }
}

/// Whether a role lets a service of AWS assume it, on behalf of a resource or of the account alone.
pub fn trusts_service(
    cloud: &Cloud,
    call: &Call,
    role: &Role,
    service: &str,
    source: Option<String>,
) -> bool {
    let source: Vec<_> = source.map(|arn| ("aws:SourceArn".to_owned(), vec![arn])).into_iter().collect();
    trusts(cloud, call, role, Outsider::Service(service), "sts:AssumeRole", &source)
}

/// Whether a role lets an outsider do with it what `sts:AssumeRole` and its like are, because of this call.
pub fn trusts(
    cloud: &Cloud,
    call: &Call,
    role: &Role,
    who: Outsider<'_>,
    action: &str,
    known: &[(String, Vec<String>)],
) -> bool {
    let trust = parsed(&role.trust_policy, Kind::Trust);
    let policies = Policies { resource: Some((&trust, &who)), ..Policies::default() };
    let mut context = Context::default();
    let is_service = matches!(who, Outsider::Service(_));
    let origin = if is_service { &Origin::of_service() } else { &call.origin };
    for (key, value) in of_request(cloud, call, origin) {
        context.set(&key, value);
    }
    context.set("aws:PrincipalIsAWSService", is_service.to_string());
    context.set("aws:ResourceAccount", &role.account);
    if is_service {
        context.set("aws:SourceAccount", &role.account);
    }
    for (key, values) in known {
        context.set_all(key, values.iter().cloned());
    }
    let resources = [role.arn()];
    decide(&policies, &Request { action, resources: &resources, context: &context }).is_allowed()
}

/// As a trust policy sees it.
struct Caller<'a> {
    principal: &'a Principal,
    /// The user's, or that of the role behind the session.
    arn: &'a str,
    /// The unique ids of those whom the policy names.
    trusted: &'a BTreeMap<String, String>,
    /// Whose own account has to allow it as well, even if it is named.
    is_foreign: bool,
}

impl Caller<'_> {
    fn has(&self, principals: &Principals) -> bool {
        // One that was made anew under the name of another is not the other.
        let is_meant = |arn: &&str| self.trusted.get(*arn).is_none_or(|id| id == self.principal.unique_id());
        let names: Vec<&str> = [&self.principal.arn, self.arn].into_iter().filter(is_meant).collect();
        principals.has_identity(&names)
    }
}

impl Named for Caller<'_> {
    fn is_named(&self, principals: &Principals) -> bool {
        !self.is_foreign && self.has(principals)
    }

    fn is_of_account(&self, principals: &Principals) -> bool {
        principals.has_account(&self.principal.account) || (self.is_foreign && self.has(principals))
    }
}

/// Everything that applies to a caller.
struct Standing {
    /// The account's own; nothing restricts it.
    is_root: bool,
    /// The user's, or that of the role behind the session, with its path.
    arn: String,
    identity: Vec<Arc<Policy>>,
    boundary: Option<Arc<Policy>>,
    session: Option<Vec<Arc<Policy>>>,
    context: Vec<(String, String)>,
}

impl Standing {
    fn of(cloud: &Cloud, call: &Call) -> Self {
        let principal = &call.principal;
        let policies = &call.terms.policies;
        let session = (!policies.is_empty())
            .then(|| policies.iter().map(|text| parsed(text, Kind::Identity)).collect());
        let mut standing = Self {
            is_root: principal.is_root(),
            arn: principal.canonical_arn(),
            identity: Vec::new(),
            boundary: None,
            session,
            context: vec![
                ("aws:ViaAWSService".into(), "false".into()),
                ("aws:PrincipalIsAWSService".into(), "false".into()),
                ("aws:PrincipalAccount".into(), principal.account.clone()),
                ("aws:userid".into(), principal.user_id.clone()),
            ],
        };
        // Of keys that last there is no such thing (IAM User Guide, global condition keys).
        if let Some(issued) = call.session_issued {
            standing.context.push(("aws:MultiFactorAuthPresent".into(), "false".into()));
            standing.context.push(("aws:TokenIssueTime".into(), iso8601(issued * 1000)));
        }
        standing.look_up(cloud, principal);
        // Over those of the role.
        let tags = call.terms.tags.iter().map(|(key, value)| (principal_tag(key), value.clone()));
        standing.context.extend(tags);
        let source =
            call.terms.source_identity.iter().map(|name| ("aws:SourceIdentity".into(), name.clone()));
        standing.context.extend(source);
        let provider = call.terms.provider.iter().map(|arn| ("aws:FederatedProvider".into(), arn.clone()));
        standing.context.extend(provider);
        standing.context.push(("aws:PrincipalArn".into(), standing.arn.clone()));
        standing
    }

    fn look_up(&mut self, cloud: &Cloud, principal: &Principal) {
        let view = cloud.store.view();
        let Ok(arn) = principal.arn.parse::<Arn>() else { return };
        if let Some(name) = arn.role_name() {
            self.context.push(("aws:PrincipalType".into(), "AssumedRole".into()));
            let role = view.shared::<Role>(&keys::role(&principal.account, name));
            // One that was made anew under the name of another is not the other.
            match role.filter(|role| role.id == principal.unique_id()) {
                Some(role) => {
                    self.arn = role.arn();
                    self.take(cloud, &principal.account, &role.grants, &role.tags);
                }
                None => self.deny_everything(),
            }
        } else if let Some(name) = arn.user_name() {
            self.context.push(("aws:PrincipalType".into(), "User".into()));
            self.context.push(("aws:username".into(), name.to_owned()));
            let user = view.shared::<User>(&keys::user(&principal.account, name));
            let Some(user) = user.filter(|user| user.id == principal.user_id) else {
                return self.deny_everything();
            };
            self.arn = user.arn();
            self.take(cloud, &principal.account, &user.grants, &user.tags);
            let group = |name: &String| view.shared::<Group>(&keys::group(&principal.account, name));
            for group in user.groups.iter().filter_map(group) {
                self.identity.extend(policies_of(cloud, &principal.account, &group.grants));
            }
        } else if self.is_root {
            self.context.push(("aws:PrincipalType".into(), "Account".into()));
        }
    }

    fn deny_everything(&mut self) {
        self.identity = vec![Arc::new(Policy::of_nothing_allowed())];
    }

    fn take(&mut self, cloud: &Cloud, account: &str, grants: &Grants, tags: &BTreeMap<String, String>) {
        self.identity.extend(policies_of(cloud, account, grants));
        let tags = tags.iter().map(|(key, value)| (principal_tag(key), value.clone()));
        self.context.extend(tags);
        self.boundary = grants.boundary.as_ref().map(|arn| {
            managed(cloud, account, arn).unwrap_or_else(|| Arc::new(Policy::of_nothing_allowed()))
        });
    }

    fn decide(
        &self,
        cloud: &Cloud,
        call: &Call,
        need: &Need,
        resource: Option<(&Policy, &dyn Named)>,
    ) -> Decision {
        if self.is_root {
            return Decision::Allowed;
        }
        let mut context = Context::default();
        for (key, value) in &self.context {
            context.set(key, value.clone());
        }
        for (key, value) in of_request(cloud, call, &call.origin) {
            context.set(&key, value);
        }
        for (key, values) in &need.context {
            context.set_all(key, values.iter().cloned());
        }
        let identity: Vec<&Policy> = self.identity.iter().map(Arc::as_ref).collect();
        let session: Option<Vec<&Policy>> =
            self.session.as_ref().map(|policies| policies.iter().map(Arc::as_ref).collect());
        let policies = Policies {
            identity: &identity,
            boundary: self.boundary.as_deref(),
            session: session.as_deref(),
            resource,
        };
        decide(&policies, &Request { action: &need.action, resources: &need.resources, context: &context })
    }
}

fn principal_tag(key: &str) -> String {
    format!("aws:PrincipalTag/{key}")
}

fn of_request(cloud: &Cloud, call: &Call, origin: &Origin) -> Vec<(String, String)> {
    let now = cloud.env.now_ms();
    let mut found = vec![
        ("aws:CurrentTime".into(), iso8601(now)),
        ("aws:EpochTime".into(), (now / 1000).to_string()),
        ("aws:RequestedRegion".into(), call.scope.region.clone()),
        ("aws:ResourceAccount".into(), call.scope.account.clone()),
        ("aws:SecureTransport".into(), origin.is_tls.to_string()),
    ];
    if let Some(address) = origin.address {
        found.push(("aws:SourceIp".into(), address.to_string()));
    }
    if let Some(agent) = &origin.user_agent {
        found.push(("aws:UserAgent".into(), agent.clone()));
    }
    found
}

fn policies_of<'a>(
    cloud: &'a Cloud,
    account: &'a str,
    grants: &'a Grants,
) -> impl Iterator<Item = Arc<Policy>> + 'a {
    let managed = |arn: &String| {
        // Of AWS's that are not known here none denies anything.
        let nothing = || (!arn.starts_with(AWS_MANAGED)).then(|| Arc::new(Policy::of_nothing_allowed()));
        managed(cloud, account, arn).or_else(nothing)
    };
    let inline = grants.inline_policies.values().map(|text| parsed(text, Kind::Identity));
    grants.attached_policies.iter().filter_map(managed).chain(inline)
}

/// The document that counts of a managed policy, if the account can have it: its own, and AWS's.
pub(crate) fn document(cloud: &Cloud, account: &str, arn: &str) -> Option<String> {
    with_document(cloud, account, arn, str::to_owned)
}

fn managed(cloud: &Cloud, account: &str, arn: &str) -> Option<Arc<Policy>> {
    with_document(cloud, account, arn, |text| parsed(text, Kind::Identity))
}

fn with_document<T>(cloud: &Cloud, account: &str, arn: &str, read: impl FnOnce(&str) -> T) -> Option<T> {
    if let Some(text) = aws_managed(arn) {
        return Some(read(text));
    }
    let policy = cloud.store.view().shared::<ManagedPolicy>(&keys::policy(arn))?;
    policy.document().filter(|_| policy.account == account).map(read)
}

type Documents = Mutex<HashMap<String, Arc<Policy>>>;

/// With one that cannot be read nothing is allowed: it may have denied something.
fn parsed(text: &str, kind: Kind) -> Arc<Policy> {
    /// Documents are few, and each is read for many requests. Trust policies are another language.
    static PARSED: [LazyLock<Documents>; 2] = [const { LazyLock::new(Mutex::default) }; 2];
    const MOST: usize = 512;
    let language = &PARSED[usize::from(kind == Kind::Trust)];
    let mut known = language.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(policy) = known.get(text) {
        return policy.clone();
    }
    let policy = Arc::new(Policy::parse(text, kind).unwrap_or_else(|_| Policy::of_nothing_allowed()));
    if known.len() >= MOST {
        known.clear();
    }
    known.insert(text.to_owned(), policy.clone());
    policy
}

//! Whether a caller may do what it asks: what an operation needs, and what its caller's policies say.
//!
//! Invariant: no operation is served without saying what it needs ([`crate::api::Router::serve`]). **Invariant:** a policy
//! that is named and cannot be found or read allows nothing.

use crate::Cloud;
use crate::api::Call;
use ekstra_domain::iam::{Grants, Group, ManagedPolicy, Principal, Role, User, aws_managed};
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

    /// A condition key of the operation.
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
    let Access::On { resources, context, also } = access else { return Ok(()) };
    let own = Need { action: action.to_owned(), resources, context };
    let standing = Standing::of(cloud, call);
    for need in std::iter::once(own).chain(also) {
        if let Decision::Denied(reason) = standing.decide(cloud, call, &need, None) {
            return Err(denial(call, protocol, &need, reason));
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

/// Whether a role lets a caller assume it.
pub(crate) fn may_assume(
    cloud: &Cloud,
    call: &Call,
    role: &Role,
    context: Vec<(String, Vec<String>)>,
) -> bool {
    let need = Need { action: "sts:AssumeRole".into(), resources: vec![role.arn()], context };
    let caller = Caller { principal: &call.principal, is_foreign: call.principal.account != role.account };
    let trust = parsed(&role.trust_policy, Kind::Trust);
    let standing = Standing::of(cloud, call);
    // As AWS has it.
    if standing.is_root {
        return false;
    }
    standing.decide(cloud, call, &need, Some((&trust, &caller))).is_allowed()
}

/// Whether a role lets a service of AWS assume it.
pub fn trusts_service(role: &Role, service: &str) -> bool {
    struct Service<'a>(&'a str);
    impl Named for Service<'_> {
        fn is_named(&self, principals: &Principals) -> bool {
            principals.has_service(self.0)
        }
        fn is_of_account(&self, _: &Principals) -> bool {
            false
        }
    }
    let trust = parsed(&role.trust_policy, Kind::Trust);
    let policies = Policies { resource: Some((&trust, &Service(service))), ..Policies::default() };
    let mut context = Context::default();
    context.set("aws:SourceAccount", &role.account);
    let resources = [role.arn()];
    decide(&policies, &Request { action: "sts:AssumeRole", resources: &resources, context: &context })
        .is_allowed()
}

/// As a trust policy sees it.
struct Caller<'a> {
    principal: &'a Principal,
    /// Whose own account has to allow it as well, even if it is named.
    is_foreign: bool,
}

impl Caller<'_> {
    fn has(&self, principals: &Principals) -> bool {
        principals.has_identity(&[&self.principal.arn, &self.principal.canonical_arn()])
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
    identity: Vec<Arc<Policy>>,
    boundary: Option<Arc<Policy>>,
    session: Option<Vec<Arc<Policy>>>,
    context: Vec<(String, String)>,
}

impl Standing {
    fn of(cloud: &Cloud, call: &Call) -> Self {
        let principal = &call.principal;
        let session = (!call.session_policies.is_empty())
            .then(|| call.session_policies.iter().map(|text| parsed(text, Kind::Identity)).collect());
        let mut standing = Self {
            is_root: principal.arn.ends_with(":root"),
            identity: Vec::new(),
            boundary: None,
            session,
            context: vec![
                ("aws:PrincipalArn".into(), principal.canonical_arn()),
                ("aws:PrincipalAccount".into(), principal.account.clone()),
                ("aws:userid".into(), principal.user_id.clone()),
            ],
        };
        standing.look_up(cloud, principal);
        standing
    }

    fn look_up(&mut self, cloud: &Cloud, principal: &Principal) {
        let view = cloud.store.view();
        let Ok(arn) = principal.arn.parse::<Arn>() else { return };
        if let Some(name) = arn.role_name() {
            self.context.push(("aws:PrincipalType".into(), "AssumedRole".into()));
            if let Some(role) = view.get_as::<Role>(&keys::role(&principal.account, name)) {
                self.take(cloud, &role.grants, &role.tags);
            }
        } else if let Some(name) = arn.user_name() {
            self.context.push(("aws:PrincipalType".into(), "User".into()));
            self.context.push(("aws:username".into(), name.to_owned()));
            if let Some(user) = view.get_as::<User>(&keys::user(&principal.account, name)) {
                self.take(cloud, &user.grants, &user.tags);
                let group = |name: &String| view.get_as::<Group>(&keys::group(&principal.account, name));
                for group in user.groups.iter().filter_map(group) {
                    self.identity.extend(policies_of(cloud, &group.grants));
                }
            }
        } else if self.is_root {
            self.context.push(("aws:PrincipalType".into(), "Account".into()));
        }
    }

    fn take(&mut self, cloud: &Cloud, grants: &Grants, tags: &BTreeMap<String, String>) {
        self.identity.extend(policies_of(cloud, grants));
        let tags = tags.iter().map(|(key, value)| (format!("aws:PrincipalTag/{key}"), value.clone()));
        self.context.extend(tags);
        self.boundary = grants.boundary.as_ref().map(|arn| match document(cloud, arn) {
            Some(text) => parsed(&text, Kind::Identity),
            None => parsed("", Kind::Identity),
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
        for (key, value) in of_request(cloud, call) {
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

fn of_request(cloud: &Cloud, call: &Call) -> Vec<(String, String)> {
    let now = cloud.env.now_ms();
    let mut found = vec![
        ("aws:CurrentTime".into(), iso8601(now)),
        ("aws:EpochTime".into(), (now / 1000).to_string()),
        ("aws:RequestedRegion".into(), call.scope.region.clone()),
        ("aws:SecureTransport".into(), call.origin.is_tls.to_string()),
    ];
    if let Some(address) = call.origin.address {
        found.push(("aws:SourceIp".into(), address.to_string()));
    }
    if let Some(agent) = &call.origin.user_agent {
        found.push(("aws:UserAgent".into(), agent.clone()));
    }
    found
}

fn policies_of<'a>(cloud: &'a Cloud, grants: &'a Grants) -> impl Iterator<Item = Arc<Policy>> + 'a {
    let attached = grants.attached_policies.iter().filter_map(|arn| document(cloud, arn));
    attached.chain(grants.inline_policies.values().cloned()).map(|text| parsed(&text, Kind::Identity))
}

/// The document of a managed policy that counts.
pub(crate) fn document(cloud: &Cloud, arn: &str) -> Option<String> {
    if let Some(text) = aws_managed(arn) {
        return Some(text.to_owned());
    }
    let policy: ManagedPolicy = cloud.store.view().get_as(&keys::policy(arn))?;
    policy.document().map(str::to_owned)
}

type Documents = Mutex<HashMap<String, Arc<Policy>>>;

/// One that cannot be read says nothing, so it allows nothing.
fn parsed(text: &str, kind: Kind) -> Arc<Policy> {
    /// Documents are few, and each is read for many requests. Trust policies are another language.
    static PARSED: [LazyLock<Documents>; 2] = [const { LazyLock::new(Mutex::default) }; 2];
    const MOST: usize = 4096;
    let language = &PARSED[usize::from(kind == Kind::Trust)];
    let mut known = language.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(policy) = known.get(text) {
        return policy.clone();
    }
    let policy = Arc::new(Policy::parse(text, kind).unwrap_or_default());
    if known.len() >= MOST {
        known.clear();
    }
    known.insert(text.to_owned(), policy.clone());
    policy
}

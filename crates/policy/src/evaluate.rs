//! What policies together decide.
//!
//! An explicit denial anywhere is a denial. What is left has to be allowed by every layer that there is: the identity's
//! policies, its permissions boundary, its session's policies. A resource's own policy allows an identity of its account
//! that it names without the identity's policies.

use crate::Context;
use crate::document::{Policy, Principals, Statement};
use std::fmt;

/// An action on resources. `*` is the resource of actions that have none.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// `eks:DescribeCluster`.
    pub action: &'a str,
    pub resources: &'a [String],
    pub context: &'a Context,
}

/// Everything that applies to whoever asks. A layer of `None` restricts nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Policies<'a> {
    pub identity: &'a [&'a Policy],
    pub boundary: Option<&'a Policy>,
    pub session: Option<&'a [&'a Policy]>,
    /// With what it is called there: whether it names the identity itself, or its account only.
    pub resource: Option<(&'a Policy, &'a dyn Named)>,
}

/// Who asks, as a resource's policy sees it.
pub trait Named {
    fn is_named(&self, principals: &Principals) -> bool;
    fn is_of_account(&self, principals: &Principals) -> bool;
}

impl fmt::Debug for dyn Named + '_ {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Named")
    }
}

/// Where a policy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    Identity,
    Boundary,
    Session,
    Resource,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Allowed,
    Denied(Reason),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A statement says so.
    Explicit(Layer),
    /// No statement of this layer allows it.
    Implicit(Layer),
}

impl Decision {
    pub fn is_allowed(self) -> bool {
        self == Self::Allowed
    }
}

impl Reason {
    /// How AWS ends its "is not authorized to perform: ACTION on resource: RESOURCE".
    pub fn in_words(self, action: &str) -> String {
        match self {
            Self::Explicit(layer) => format!("with an explicit deny in {}", layer.article()),
            Self::Implicit(layer) => format!("because no {} allows the {action} action", layer.name()),
        }
    }
}

impl Layer {
    fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity-based policy",
            Self::Boundary => "permissions boundary",
            Self::Session => "session policy",
            Self::Resource => "resource-based policy",
        }
    }

    fn article(self) -> String {
        let article = if self == Self::Identity { "an" } else { "a" };
        format!("{article} {}", self.name())
    }
}

/// All resources have to be allowed, and there has to be one.
pub fn decide(policies: &Policies<'_>, request: &Request<'_>) -> Decision {
    if request.resources.is_empty() {
        return Decision::Denied(Reason::Implicit(Layer::Identity));
    }
    let decisions = request.resources.iter().map(|resource| decide_one(policies, request, resource));
    decisions.into_iter().find(|decision| !decision.is_allowed()).unwrap_or(Decision::Allowed)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    Denies,
    Allows,
    Nothing,
}

fn decide_one(policies: &Policies<'_>, request: &Request<'_>, resource: &str) -> Decision {
    let says = |layer: &[&Policy]| says(layer, request, resource);
    let boundary: Option<&[&Policy]> = policies.boundary.as_ref().map(std::slice::from_ref);
    let layers = [
        (Layer::Identity, says(policies.identity)),
        (Layer::Boundary, boundary.map_or(Says::Allows, says)),
        (Layer::Session, policies.session.map_or(Says::Allows, says)),
    ];
    let of_resource = policies.resource.map(|(policy, who)| of_resource(policy, who, request, resource));
    if let Some((layer, _)) = layers.iter().find(|(_, says)| *says == Says::Denies) {
        return Decision::Denied(Reason::Explicit(*layer));
    }
    // The resource's owner lets the identity in by name: its own policies need not, but what bounds it holds.
    let is_let_in = of_resource == Some(OfResource::AllowsIdentity);
    let lacks =
        |(layer, says): &&(Layer, Says)| *says == Says::Nothing && !(is_let_in && *layer == Layer::Identity);
    let missing = layers.iter().find(lacks);
    match (of_resource, missing) {
        (Some(OfResource::Denies), _) => Decision::Denied(Reason::Explicit(Layer::Resource)),
        (Some(OfResource::AllowsIdentity), None) => Decision::Allowed,
        (Some(OfResource::Nothing), None) => Decision::Denied(Reason::Implicit(Layer::Resource)),
        (_, Some((layer, _))) => Decision::Denied(Reason::Implicit(*layer)),
        (None | Some(OfResource::AllowsAccount), None) => Decision::Allowed,
    }
}

fn says(layer: &[&Policy], request: &Request<'_>, resource: &str) -> Says {
    let about = layer.iter().flat_map(|policy| &policy.statements);
    let mut outcome = Says::Nothing;
    for statement in about.filter(|statement| statement.is_about(request, resource)) {
        if statement.denies {
            return Says::Denies;
        }
        outcome = Says::Allows;
    }
    outcome
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OfResource {
    Denies,
    AllowsIdentity,
    /// It leaves it to the account's own policies.
    AllowsAccount,
    Nothing,
}

fn of_resource(policy: &Policy, who: &dyn Named, request: &Request<'_>, resource: &str) -> OfResource {
    let about = |statement: &&Statement| statement.is_about(request, resource);
    let mut outcome = OfResource::Nothing;
    for statement in policy.statements.iter().filter(about) {
        let identity = statement.names(|principals| who.is_named(principals));
        let account = statement.names(|principals| who.is_of_account(principals));
        match (statement.denies, identity, account) {
            (true, true, _) | (true, _, true) => return OfResource::Denies,
            (false, true, _) => outcome = OfResource::AllowsIdentity,
            (false, false, true) if outcome == OfResource::Nothing => outcome = OfResource::AllowsAccount,
            _ => {}
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    fn policy(statements: &str) -> Policy {
        let text = format!(r#"{{"Version":"2012-10-17","Statement":[{statements}]}}"#);
        Policy::parse(&text, Kind::Identity).expect("parses")
    }

    fn allow(action: &str, resource: &str) -> String {
        format!(r#"{{"Effect":"Allow","Action":"{action}","Resource":"{resource}"}}"#)
    }

    fn deny(action: &str, resource: &str) -> String {
        allow(action, resource).replace("Allow", "Deny")
    }

    const CLUSTER: &str = "arn:aws:eks:us-east-1:000000000000:cluster/a";

    fn ask(policies: &Policies<'_>, action: &str, resource: &str) -> Decision {
        let context = Context::default();
        decide(policies, &Request { action, resources: &[resource.to_owned()], context: &context })
    }

    #[test]
    fn identities() {
        for (statements, action, resource, expected) in [
            (allow("*", "*"), "eks:DescribeCluster", CLUSTER, Decision::Allowed),
            (allow("EKS:describe*", CLUSTER), "eks:DescribeCluster", CLUSTER, Decision::Allowed),
            (
                allow("eks:Describe*", CLUSTER),
                "eks:DeleteCluster",
                CLUSTER,
                Decision::Denied(Reason::Implicit(Layer::Identity)),
            ),
            (
                allow("eks:*", CLUSTER),
                "eks:ListClusters",
                "*",
                Decision::Denied(Reason::Implicit(Layer::Identity)),
            ),
            (allow("eks:*", "*"), "eks:ListClusters", "*", Decision::Allowed),
            (
                format!("{},{}", allow("*", "*"), deny("eks:Delete*", "arn:aws:eks:*:*:cluster/a")),
                "eks:DeleteCluster",
                CLUSTER,
                Decision::Denied(Reason::Explicit(Layer::Identity)),
            ),
            (
                r#"{"Effect":"Allow","NotAction":"iam:*","Resource":"*"}"#.to_owned(),
                "iam:CreateUser",
                "*",
                Decision::Denied(Reason::Implicit(Layer::Identity)),
            ),
            (
                r#"{"Effect":"Deny","Action":"*","NotResource":"arn:aws:eks:*:*:cluster/b"}"#.to_owned(),
                "eks:DescribeCluster",
                CLUSTER,
                Decision::Denied(Reason::Explicit(Layer::Identity)),
            ),
        ] {
            let policy = policy(&statements);
            let policies = Policies { identity: &[&policy], ..Policies::default() };
            assert_eq!(ask(&policies, action, resource), expected, "{statements} {action}");
        }
        assert_eq!(
            ask(&Policies::default(), "eks:ListClusters", "*"),
            Decision::Denied(Reason::Implicit(Layer::Identity))
        );
    }

    #[test]
    fn every_layer_has_to_allow() {
        let (all, some) = (policy(&allow("*", "*")), policy(&allow("eks:Describe*", "*")));
        let bounded = Policies { identity: &[&all], boundary: Some(&some), ..Policies::default() };
        assert!(ask(&bounded, "eks:DescribeCluster", CLUSTER).is_allowed());
        let denied = |layer| Decision::Denied(Reason::Implicit(layer));
        assert_eq!(ask(&bounded, "eks:DeleteCluster", CLUSTER), denied(Layer::Boundary));
        let session = [&some];
        let narrow = Policies { identity: &[&all], session: Some(&session), ..Policies::default() };
        assert_eq!(ask(&narrow, "eks:DeleteCluster", CLUSTER), denied(Layer::Session));
        let nothing = Policies { identity: &[&some], boundary: Some(&all), ..Policies::default() };
        assert_eq!(ask(&nothing, "eks:DeleteCluster", CLUSTER), denied(Layer::Identity));
    }

    struct Anna;

    const ANNA: &str = "arn:aws:iam::000000000000:user/anna";

    impl Named for Anna {
        fn is_named(&self, principals: &Principals) -> bool {
            principals.has_identity(&[ANNA])
        }

        fn is_of_account(&self, principals: &Principals) -> bool {
            principals.has_account("000000000000")
        }
    }

    #[test]
    fn a_role_trusts_an_identity_or_leaves_it_to_its_account() {
        let trust = |principal: &str, effect: &str| {
            let text = format!(
                r#"{{"Statement":{{"Effect":"{effect}","Principal":{{"AWS":"{principal}"}},"Action":"sts:AssumeRole"}}}}"#
            );
            Policy::parse(&text, Kind::Trust).expect("parses")
        };
        let (may, may_not) = (policy(&allow("sts:*", "*")), policy(&allow("eks:*", "*")));
        let role = "arn:aws:iam::000000000000:role/r";
        let asked = |trust: &Policy, identity: &Policy| {
            let policies =
                Policies { identity: &[identity], resource: Some((trust, &Anna)), ..Policies::default() };
            ask(&policies, "sts:AssumeRole", role)
        };
        assert!(asked(&trust(ANNA, "Allow"), &may_not).is_allowed(), "named");
        for bounded in [true, false] {
            let (trusted, none) = (trust(ANNA, "Allow"), [&may_not]);
            let policies = Policies {
                identity: &[],
                boundary: bounded.then_some(&may_not),
                session: (!bounded).then_some(&none),
                resource: Some((&trusted, &Anna)),
            };
            let layer = if bounded { Layer::Boundary } else { Layer::Session };
            assert_eq!(ask(&policies, "sts:AssumeRole", role), Decision::Denied(Reason::Implicit(layer)));
        }
        assert!(asked(&trust("000000000000", "Allow"), &may).is_allowed());
        assert_eq!(
            asked(&trust("000000000000", "Allow"), &may_not),
            Decision::Denied(Reason::Implicit(Layer::Identity))
        );
        assert_eq!(
            asked(&trust("111111111111", "Allow"), &may),
            Decision::Denied(Reason::Implicit(Layer::Resource))
        );
        assert_eq!(asked(&trust(ANNA, "Deny"), &may), Decision::Denied(Reason::Explicit(Layer::Resource)));
    }

    #[test]
    fn all_resources_have_to_be_allowed() {
        let policy = policy(&allow("iam:PassRole", "arn:aws:iam::*:role/a"));
        let policies = Policies { identity: &[&policy], ..Policies::default() };
        let context = Context::default();
        let role = |name: &str| format!("arn:aws:iam::000000000000:role/{name}");
        let decide = |resources: &[String]| {
            decide(&policies, &Request { action: "iam:PassRole", resources, context: &context }).is_allowed()
        };
        assert!(decide(&[role("a")]));
        assert!(!decide(&[role("a"), role("b")]));
    }

    #[test]
    fn a_denial_in_aws_s_words() {
        assert_eq!(
            Reason::Implicit(Layer::Identity).in_words("eks:ListClusters"),
            "because no identity-based policy allows the eks:ListClusters action"
        );
        assert_eq!(
            Reason::Explicit(Layer::Boundary).in_words("eks:ListClusters"),
            "with an explicit deny in a permissions boundary"
        );
    }
}

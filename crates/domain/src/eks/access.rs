//! Access entries: who of IAM is who in a cluster, and the access policies of EKS.

use crate::iam::unique_id;
use crate::names::{Arn, Scope};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A principal of IAM in a cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AccessEntry {
    pub cluster: String,
    pub scope: Scope,
    pub uid: String,
    /// A user's or a role's ARN, with its path.
    pub principal_arn: String,
    /// Whose entry it is, and nobody's who is made later under the same name. Entries of earlier versions do not know.
    #[serde(default)]
    pub principal_id: Option<String>,
    /// `STANDARD`, `EC2_LINUX` and so on.
    pub kind: String,
    /// May hold `{{SessionName}}`.
    pub username: String,
    pub groups: Vec<String>,
    /// By ARN.
    #[serde(default)]
    pub policies: BTreeMap<String, Association>,
    pub tags: BTreeMap<String, String>,
    pub created_ms: i64,
    pub modified_ms: i64,
    pub request_token: Option<String>,
    pub request_digest: String,
}

/// An access policy of an entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Association {
    /// `None`: the whole cluster. Names may end with `*`.
    pub namespaces: Option<Vec<String>>,
    pub associated_ms: i64,
    pub modified_ms: i64,
}

impl Association {
    /// As `accessScope` has it.
    pub fn scope(&self) -> &'static str {
        if self.namespaces.is_some() { "namespace" } else { "cluster" }
    }
}

/// The kind of people's entries.
pub const STANDARD: &str = "STANDARD";
/// The kind of managed node groups' entries.
pub const EC2_LINUX: &str = "EC2_LINUX";

/// What nodes of a kind are called, if it is one of nodes (`spec/eks-semantics.md` §3.8): they sign in by their role and have
/// no groups or policies of their own.
pub fn node_username(kind: &str) -> Option<&'static str> {
    match kind {
        EC2_LINUX | "EC2_WINDOWS" => Some("system:node:{{EC2PrivateDNSName}}"),
        "FARGATE_LINUX" => Some("system:node:{{SessionName}}"),
        _ => None,
    }
}

pub const CLUSTER_ADMIN: &str = "arn:aws:eks::aws:cluster-access-policy/AmazonEKSClusterAdminPolicy";

impl AccessEntry {
    pub fn arn(&self) -> String {
        let arn: Option<Arn> = self.principal_arn.parse().ok();
        let role = arn.as_ref().and_then(Arn::role_name).map(|name| ("role", name));
        let user = arn.as_ref().and_then(Arn::user_name).map(|name| ("user", name));
        let (kind, name) = role.or(user).unwrap_or(("root", "root"));
        let account = arn.as_ref().map_or(self.scope.account.as_str(), |arn| &arn.account);
        self.scope
            .arn("eks", format_args!("access-entry/{}/{kind}/{account}/{name}/{}", self.cluster, self.uid))
    }

    /// Whether this is the one whom tokens call so: a role's path is not in them.
    pub fn is_of(&self, canonical_arn: &str) -> bool {
        without_path(&self.principal_arn).as_deref() == Some(canonical_arn)
            || self.principal_arn == canonical_arn
    }

    /// Whether this is the very one that it was made for; `id` is a user's or a session's.
    pub fn is_of_id(&self, id: &str) -> bool {
        self.principal_id.as_deref().is_none_or(|known| known == unique_id(id))
    }

    pub fn is_of_nodes(&self) -> bool {
        node_username(&self.kind).is_some()
    }

    /// The user's name in a session.
    pub fn username_of(&self, session: Option<&str>) -> String {
        self.username.replace("{{SessionName}}", session.unwrap_or_default())
    }
}

/// As aws-iam-authenticator has it: a role's ARN without the path.
fn without_path(arn: &str) -> Option<String> {
    let parsed: Arn = arn.parse().ok()?;
    let role = parsed.role_name().filter(|_| parsed.service == "iam")?;
    Some(format!("arn:{}:iam::{}:role/{role}", parsed.partition, parsed.account))
}

/// The name of whom nobody has named: a user's ARN, or a role's sessions.
pub fn default_username(principal_arn: &str) -> String {
    let role = principal_arn.parse::<Arn>().ok().and_then(|arn| {
        let role = arn.role_name()?.to_owned();
        Some(format!("arn:{}:sts::{}:assumed-role/{role}/{{{{SessionName}}}}", arn.partition, arn.account))
    });
    role.unwrap_or_else(|| principal_arn.to_owned())
}

/// What an entry may be; the error is a sentence (`spec/eks-semantics.md` §3.8).
pub fn check_username(username: &str) -> Result<(), String> {
    let reserved = ["system:", "eks:", "aws:", "amazon:", "iam:"];
    if let Some(prefix) = reserved.iter().find(|prefix| username.starts_with(**prefix)) {
        return Err(format!("The username must not begin with {prefix}"));
    }
    match username.find("{{SessionName}}") {
        Some(at) if !username[..at].contains(':') => {
            Err("The username must have a colon before {{SessionName}}".into())
        }
        _ => Ok(()),
    }
}

pub fn check_groups(groups: &[String]) -> Result<(), String> {
    let reserved = ["system:", "eks:", "aws:", "amazon:", "iam:"];
    match groups.iter().find(|group| reserved.iter().any(|prefix| group.starts_with(prefix))) {
        Some(group) => Err(format!(
            "The kubernetes group name {group} is invalid, it cannot start with {}",
            reserved.join(", ")
        )),
        None => Ok(()),
    }
}

/// What somebody wants of a cluster's API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish<'a> {
    Resource {
        verb: &'a str,
        group: &'a str,
        /// With its subresource: `pods/log`.
        resource: &'a str,
        /// Empty: of the whole cluster, or of all namespaces.
        namespace: &'a str,
    },
    Path {
        verb: &'a str,
        path: &'a str,
    },
}

const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["create", "delete", "deletecollection", "patch", "update"];
/// Resources of namespaces that a viewer sees, by API group. Source: Kubernetes' user-facing roles (`view`).
const SEEN: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "bindings",
            "configmaps",
            "endpoints",
            "events",
            "limitranges",
            "namespaces",
            "namespaces/status",
            "persistentvolumeclaims",
            "persistentvolumeclaims/status",
            "pods",
            "pods/log",
            "pods/status",
            "replicationcontrollers",
            "replicationcontrollers/scale",
            "replicationcontrollers/status",
            "resourcequotas",
            "resourcequotas/status",
            "serviceaccounts",
            "services",
            "services/status",
        ],
    ),
    (
        "apps",
        &[
            "controllerrevisions",
            "daemonsets",
            "daemonsets/status",
            "deployments",
            "deployments/scale",
            "deployments/status",
            "replicasets",
            "replicasets/scale",
            "replicasets/status",
            "statefulsets",
            "statefulsets/scale",
            "statefulsets/status",
        ],
    ),
    ("autoscaling", &["horizontalpodautoscalers", "horizontalpodautoscalers/status"]),
    ("batch", &["cronjobs", "cronjobs/status", "jobs", "jobs/status"]),
    ("discovery.k8s.io", &["endpointslices"]),
    ("networking.k8s.io", &["ingresses", "ingresses/status", "networkpolicies"]),
    ("policy", &["poddisruptionbudgets", "poddisruptionbudgets/status"]),
    ("metrics.k8s.io", &["pods", "nodes"]),
];
/// What an editor writes of these; the rest a controller writes.
const WRITTEN: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "configmaps",
            "endpoints",
            "events",
            "persistentvolumeclaims",
            "pods",
            "replicationcontrollers",
            "replicationcontrollers/scale",
            "secrets",
            "serviceaccounts",
            "services",
        ],
    ),
    (
        "apps",
        &[
            "daemonsets",
            "deployments",
            "deployments/rollback",
            "deployments/scale",
            "replicasets",
            "replicasets/scale",
            "statefulsets",
            "statefulsets/scale",
        ],
    ),
    ("autoscaling", &["horizontalpodautoscalers"]),
    ("batch", &["cronjobs", "jobs"]),
    ("networking.k8s.io", &["ingresses", "networkpolicies"]),
    ("policy", &["poddisruptionbudgets"]),
];
const INTO_PODS: &[&str] = &["pods/attach", "pods/exec", "pods/portforward", "pods/proxy", "services/proxy"];

/// An access policy: what it allows in the namespaces it is for, or in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessPolicy {
    ClusterAdmin,
    Admin,
    AdminView,
    Edit,
    View,
}

impl AccessPolicy {
    pub const ALL: [Self; 5] = [Self::ClusterAdmin, Self::Admin, Self::AdminView, Self::Edit, Self::View];

    pub fn name(self) -> &'static str {
        match self {
            Self::ClusterAdmin => "AmazonEKSClusterAdminPolicy",
            Self::Admin => "AmazonEKSAdminPolicy",
            Self::AdminView => "AmazonEKSAdminViewPolicy",
            Self::Edit => "AmazonEKSEditPolicy",
            Self::View => "AmazonEKSViewPolicy",
        }
    }

    pub fn arn(self) -> String {
        format!("arn:aws:eks::aws:cluster-access-policy/{}", self.name())
    }

    pub fn of_arn(arn: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.arn() == arn)
    }

    /// Whether it allows that, wherever it is for.
    fn allows(self, wish: &Wish<'_>) -> bool {
        let Wish::Resource { verb, group, resource, .. } = wish else {
            return match (self, wish) {
                (Self::ClusterAdmin, _) => true,
                (Self::AdminView, Wish::Path { verb, .. }) => READ.contains(verb),
                _ => false,
            };
        };
        match self {
            Self::ClusterAdmin => true,
            Self::AdminView => READ.contains(verb),
            Self::View => READ.contains(verb) && listed(SEEN, group, resource),
            Self::Edit => edits(verb, group, resource),
            Self::Admin => {
                edits(verb, group, resource)
                    || *group == "rbac.authorization.k8s.io"
                        && ["roles", "rolebindings"].contains(resource)
                        && (READ.contains(verb) || WRITE.contains(verb))
                    || (*group, *resource, *verb)
                        == ("authorization.k8s.io", "localsubjectaccessreviews", "create")
            }
        }
    }
}

fn listed(table: &[(&str, &[&str])], group: &str, resource: &str) -> bool {
    table.iter().any(|(of, resources)| *of == group && resources.contains(&resource))
}

fn edits(verb: &str, group: &str, resource: &str) -> bool {
    let reads = READ.contains(&verb);
    let writes = WRITE.contains(&verb);
    (reads && (listed(SEEN, group, resource) || (group, resource) == ("", "secrets")))
        || (writes && listed(WRITTEN, group, resource))
        || (group.is_empty() && (reads || writes) && INTO_PODS.contains(&resource))
        || (group.is_empty()
            && verb == "create"
            && ["pods/eviction", "serviceaccounts/token"].contains(&resource))
        || (group.is_empty() && verb == "impersonate" && resource == "serviceaccounts")
}

impl Association {
    fn is_for(&self, wish: &Wish<'_>) -> bool {
        let Some(namespaces) = &self.namespaces else { return true };
        let Wish::Resource { namespace, .. } = wish else { return false };
        let fits = |pattern: &String| match pattern.strip_suffix('*') {
            Some(beginning) => namespace.starts_with(beginning),
            None => pattern == namespace,
        };
        !namespace.is_empty() && namespaces.iter().any(fits)
    }
}

/// Whether an entry's access policies allow it.
pub fn allows(entry: &AccessEntry, wish: &Wish<'_>) -> bool {
    entry.policies.iter().any(|(arn, association)| {
        association.is_for(wish) && AccessPolicy::of_arn(arn).is_some_and(|policy| policy.allows(wish))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(policy: AccessPolicy, namespaces: Option<&[&str]>) -> AccessEntry {
        let namespaces = namespaces.map(|names| names.iter().map(|n| (*n).to_owned()).collect());
        let association = Association { namespaces, associated_ms: 0, modified_ms: 0 };
        AccessEntry {
            cluster: "c".into(),
            scope: Scope::new("000000000000", "us-east-1"),
            uid: "u".into(),
            principal_arn: "arn:aws:iam::000000000000:role/team/dev".into(),
            principal_id: None,
            kind: STANDARD.into(),
            username: default_username("arn:aws:iam::000000000000:role/team/dev"),
            groups: Vec::new(),
            policies: BTreeMap::from([(policy.arn(), association)]),
            tags: BTreeMap::new(),
            created_ms: 0,
            modified_ms: 0,
            request_token: None,
            request_digest: String::new(),
        }
    }

    fn wish<'a>(verb: &'a str, group: &'a str, resource: &'a str, namespace: &'a str) -> Wish<'a> {
        Wish::Resource { verb, group, resource, namespace }
    }

    #[test]
    fn policies_allow_what_their_names_say() {
        use AccessPolicy::{Admin, AdminView, ClusterAdmin, Edit, View};
        for (asked, allowed) in [
            (wish("list", "", "pods", "a"), &[ClusterAdmin, Admin, AdminView, Edit, View][..]),
            (wish("create", "", "pods", "a"), &[ClusterAdmin, Admin, Edit]),
            (wish("get", "", "secrets", "a"), &[ClusterAdmin, Admin, AdminView, Edit]),
            (wish("create", "", "pods/exec", "a"), &[ClusterAdmin, Admin, Edit]),
            (wish("create", "rbac.authorization.k8s.io", "roles", "a"), &[ClusterAdmin, Admin]),
            (wish("list", "", "nodes", ""), &[ClusterAdmin, AdminView]),
            (wish("delete", "", "nodes", ""), &[ClusterAdmin]),
            (wish("update", "apps", "deployments/status", "a"), &[ClusterAdmin]),
            (Wish::Path { verb: "get", path: "/metrics" }, &[ClusterAdmin, AdminView]),
        ] {
            for policy in AccessPolicy::ALL {
                let told = allows(&entry(policy, None), &asked);
                assert_eq!(told, allowed.contains(&policy), "{policy:?} {asked:?}");
            }
        }
    }

    #[test]
    fn a_policy_for_namespaces_is_for_these_alone() {
        let entry = entry(AccessPolicy::ClusterAdmin, Some(&["a", "dev-*"]));
        for (namespace, expected) in
            [("a", true), ("ab", false), ("dev-x", true), ("dev", false), ("", false)]
        {
            assert_eq!(allows(&entry, &wish("create", "", "pods", namespace)), expected, "{namespace}");
        }
        assert!(!allows(&entry, &Wish::Path { verb: "get", path: "/metrics" }));
    }

    #[test]
    fn principals_are_known_by_what_tokens_call_them() {
        let entry = entry(AccessPolicy::View, None);
        assert!(entry.is_of("arn:aws:iam::000000000000:role/dev"));
        assert!(!entry.is_of("arn:aws:iam::000000000000:role/team"));
        assert_eq!(entry.username_of(Some("s")), "arn:aws:sts::000000000000:assumed-role/dev/s");
        assert_eq!(entry.arn(), "arn:aws:eks:us-east-1:000000000000:access-entry/c/role/000000000000/dev/u");
        assert_eq!(default_username("arn:aws:iam::1:user/a/b"), "arn:aws:iam::1:user/a/b");
    }

    #[test]
    fn names_that_are_taken() {
        for (name, fine) in [
            ("anna", true),
            ("system:admin", false),
            ("eks:x", false),
            ("dev:{{SessionName}}", true),
            ("dev-{{SessionName}}", false),
        ] {
            assert_eq!(check_username(name).is_ok(), fine, "{name}");
        }
        check_groups(&["viewers".into()]).expect("fine");
        check_groups(&["system:masters".into()]).expect_err("reserved");
    }
}

//! Identities: roles, access keys, and role sessions that carry their own proof.

mod aws_managed;
mod claims;
mod entities;
mod service_linked;
mod session;

pub use aws_managed::{AWS_MANAGED, aws_managed, aws_managed_arns};
pub use claims::{Claims, NotAToken};
pub use entities::{
    Grants, Group, InstanceProfile, MOST_CLIENT_IDS, MOST_THUMBPRINTS, MOST_VERSIONS, ManagedPolicy,
    OidcProvider, PolicyVersion, User,
};
pub use service_linked::{
    RoleDeletion, SERVICE_LINKED, ServiceLinked, is_of_service_linked, is_service_linked, service_linked,
    service_linked_name, service_linked_path,
};
pub use session::{Credential, MasterKey, Session, SessionError, SessionTerms};

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Every account's administrator at first.
pub const FIRST_USER: &str = "admin";

/// Of a role's sessions, unless it says otherwise.
pub const DEFAULT_SESSION_SECONDS: i64 = 3600;

/// Exist in every account, so that a first cluster needs no preparation.
pub const DEFAULT_ROLES: [(&str, &str, &[&str]); 2] = [
    ("eksClusterRole", "eks.amazonaws.com", &["AmazonEKSClusterPolicy"]),
    (
        "eksNodeRole",
        "ec2.amazonaws.com",
        &["AmazonEKSWorkerNodePolicy", "AmazonEKS_CNI_Policy", "AmazonEC2ContainerRegistryPullOnly"],
    ),
];

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Role {
    pub name: String,
    pub account: String,
    /// Starts and ends with `/`.
    pub path: String,
    /// `AROA…`.
    pub id: String,
    pub created_ms: i64,
    /// The trust policy, as given.
    pub trust_policy: String,
    /// The unique ids of the users, roles and sessions that it names, by ARN; a session's is its role's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub trusted: BTreeMap<String, String>,
    pub description: Option<String>,
    pub max_session_seconds: i64,
    #[serde(flatten)]
    pub grants: Grants,
    pub tags: BTreeMap<String, String>,
}

impl Role {
    pub fn arn(&self) -> String {
        format!("arn:aws:iam::{}:role{}{}", self.account, self.path, self.name)
    }
}

/// A trust policy that lets one service assume the role.
pub fn service_trust(principal: &str) -> String {
    format!(
        r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Principal":{{"Service":"{principal}"}},"Action":"sts:AssumeRole"}}]}}"#
    )
}

/// A secret that does not show itself.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A long-lived key of a user (or of the account's root).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AccessKey {
    /// `AKIA…`.
    pub id: String,
    pub secret: Secret,
    pub principal: Principal,
    #[serde(default)]
    pub created_ms: i64,
    /// `UpdateAccessKey` can take it out of use.
    #[serde(default)]
    pub is_inactive: bool,
}

/// Of a user's id or of a session's.
pub fn unique_id(user_id: &str) -> &str {
    user_id.split_once(':').map_or(user_id, |(id, _)| id)
}

/// Who a verified signature stands for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Principal {
    pub account: String,
    /// `arn:aws:iam::…:user/NAME` or `arn:aws:sts::…:assumed-role/ROLE/SESSION`.
    pub arn: String,
    /// `AIDA…` or `AROA…:SESSION`, as GetCallerIdentity answers.
    pub user_id: String,
}

impl Principal {
    /// Whether this is the account itself.
    pub fn is_root(&self) -> bool {
        self.arn == format!("arn:aws:iam::{}:root", self.account)
    }

    /// What cluster access is granted to: the user, or the role behind the session (without its path, as
    /// aws-iam-authenticator does: `spec/eks-semantics.md` §3.8).
    pub fn canonical_arn(&self) -> String {
        let Ok(arn) = self.arn.parse::<crate::names::Arn>() else {
            return self.arn.clone();
        };
        match (arn.service.as_str(), arn.role_name()) {
            ("sts", Some(role)) => format!("arn:{}:iam::{}:role/{role}", arn.partition, arn.account),
            _ => self.arn.clone(),
        }
    }

    /// `AIDA…`, or the `AROA…` of the role behind the session.
    pub fn unique_id(&self) -> &str {
        unique_id(&self.user_id)
    }

    /// The session's name, if this is a role session.
    pub fn session_name(&self) -> Option<&str> {
        self.user_id.split_once(':').map(|(_, session)| session)
    }
}

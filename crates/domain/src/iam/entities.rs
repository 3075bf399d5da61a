//! Users, groups, managed policies, and what they have in common with roles.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The policies of a role, a user or a group.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Grants {
    /// ARNs of managed policies, in the order in which they were attached.
    #[serde(default)]
    pub attached_policies: Vec<String>,
    /// Documents by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inline_policies: BTreeMap<String, String>,
    /// The ARN of a managed policy; groups have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boundary: Option<String>,
}

impl Grants {
    pub fn is_empty(&self) -> bool {
        self.attached_policies.is_empty() && self.inline_policies.is_empty()
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct User {
    pub name: String,
    pub account: String,
    /// Starts and ends with `/`.
    pub path: String,
    /// `AIDA…`.
    pub id: String,
    pub created_ms: i64,
    #[serde(flatten)]
    pub grants: Grants,
    pub groups: BTreeSet<String>,
    pub tags: BTreeMap<String, String>,
}

impl User {
    pub fn arn(&self) -> String {
        format!("arn:aws:iam::{}:user{}{}", self.account, self.path, self.name)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Group {
    pub name: String,
    pub account: String,
    /// Starts and ends with `/`.
    pub path: String,
    /// `AGPA…`.
    pub id: String,
    pub created_ms: i64,
    #[serde(flatten)]
    pub grants: Grants,
}

impl Group {
    pub fn arn(&self) -> String {
        format!("arn:aws:iam::{}:group{}{}", self.account, self.path, self.name)
    }
}

/// One that the account's users made, in its versions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ManagedPolicy {
    pub name: String,
    pub account: String,
    /// Starts and ends with `/`.
    pub path: String,
    /// `ANPA…`.
    pub id: String,
    pub description: Option<String>,
    pub created_ms: i64,
    pub updated_ms: i64,
    pub versions: BTreeMap<u32, PolicyVersion>,
    /// The number of the version that counts.
    pub default_version: u32,
    /// No number is given twice.
    pub last_version: u32,
    pub tags: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PolicyVersion {
    pub document: String,
    pub created_ms: i64,
}

/// As many versions of a policy are kept (IAM quotas).
pub const MOST_VERSIONS: usize = 5;

impl ManagedPolicy {
    pub fn arn(&self) -> String {
        format!("arn:aws:iam::{}:policy{}{}", self.account, self.path, self.name)
    }

    /// The document that counts.
    pub fn document(&self) -> Option<&str> {
        self.versions.get(&self.default_version).map(|version| version.document.as_str())
    }
}

/// What gives a role to instances.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstanceProfile {
    pub name: String,
    pub account: String,
    /// Starts and ends with `/`.
    pub path: String,
    /// `AIPA…`.
    pub id: String,
    pub created_ms: i64,
    /// The name of the role; there is at most one.
    pub role: Option<String>,
    pub tags: BTreeMap<String, String>,
}

impl InstanceProfile {
    pub fn arn(&self) -> String {
        format!("arn:aws:iam::{}:instance-profile{}{}", self.account, self.path, self.name)
    }
}

/// An issuer of tokens that an account trusts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OidcProvider {
    /// Its URL without `https://`.
    pub issuer: String,
    pub account: String,
    /// Audiences of the tokens that count.
    pub client_ids: Vec<String>,
    pub thumbprints: Vec<String>,
    pub created_ms: i64,
    pub tags: BTreeMap<String, String>,
}

/// IAM quotas.
pub const MOST_CLIENT_IDS: usize = 100;
pub const MOST_THUMBPRINTS: usize = 5;

impl OidcProvider {
    pub fn arn(&self) -> String {
        format!("arn:aws:iam::{}:oidc-provider/{}", self.account, self.issuer)
    }
}

//! A cluster as its users know it, and the control-plane slot that runs it.

use super::{Site, Tuning};
use crate::names::Scope;
use crate::prefix::Prefix;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ClusterStatus {
    Creating,
    Active,
    Updating,
    Deleting,
    Failed,
}

impl ClusterStatus {
    /// Its API server can be expected to answer, and it may be changed.
    pub fn is_up(self) -> bool {
        matches!(self, Self::Active | Self::Updating)
    }

    pub fn wire(self) -> &'static str {
        match self {
            Self::Creating => "CREATING",
            Self::Active => "ACTIVE",
            Self::Updating => "UPDATING",
            Self::Deleting => "DELETING",
            Self::Failed => "FAILED",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum AuthenticationMode {
    ConfigMap,
    ApiAndConfigMap,
    Api,
}

impl AuthenticationMode {
    pub fn wire(self) -> &'static str {
        match self {
            Self::ConfigMap => "CONFIG_MAP",
            Self::ApiAndConfigMap => "API_AND_CONFIG_MAP",
            Self::Api => "API",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::ConfigMap, Self::ApiAndConfigMap, Self::Api].into_iter().find(|mode| mode.wire() == text)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VpcAccess {
    pub vpc: String,
    pub subnets: Vec<String>,
    pub security_groups: Vec<String>,
    pub cluster_security_group: String,
    pub public_access: bool,
    pub private_access: bool,
    pub public_cidrs: Vec<String>,
}

/// Log types that are switched on, of `api audit authenticator controllerManager scheduler`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Logging {
    pub enabled: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HealthIssue {
    /// One of EKS's issue codes.
    pub code: String,
    pub message: String,
    pub resource_ids: Vec<String>,
}

/// A restore of a cluster's data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Restored {
    pub at_ms: i64,
    /// When the snapshot was taken; what was written after that is lost.
    pub snapshot_ms: i64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    pub name: String,
    pub scope: Scope,
    /// Distinguishes it from an earlier cluster of the same name.
    pub uid: String,
    pub status: ClusterStatus,
    pub version: String,
    pub platform_version: String,
    pub role_arn: String,
    pub created_ms: i64,
    pub vpc: VpcAccess,
    pub service_cidr: Prefix,
    pub authentication_mode: AuthenticationMode,
    pub creator_is_admin: bool,
    /// Canonical ARN of who called CreateCluster.
    pub creator_arn: String,
    /// Its unique id; of clusters of earlier versions it is not known.
    #[serde(default)]
    pub creator_id: Option<String>,
    pub logging: Logging,
    pub deletion_protection: bool,
    /// EXTENDED or STANDARD.
    pub support_type: String,
    pub tags: BTreeMap<String, String>,
    /// Idempotency: the caller's token, and a digest of what was asked with it.
    pub request_token: Option<String>,
    pub request_digest: String,
    /// The control plane behind it.
    pub slot: String,
    pub issues: Vec<HealthIssue>,
    /// What is awaited, for people who watch.
    pub progress: Option<String>,
    /// While it is created: since when it should have been ready and is not (unix ms).
    #[serde(default)]
    pub unready_since_ms: Option<i64>,
    /// Its data were damaged, and are what a snapshot had.
    #[serde(default)]
    pub restored: Option<Restored>,
    #[serde(default)]
    pub tuning: Tuning,
    /// Whether access entries say who is who, its creator and its nodes too. Clusters of earlier versions have none.
    #[serde(default)]
    pub has_entries: bool,
    /// Whether it begins with kube-proxy and CoreDNS.
    #[serde(default = "yes")]
    pub self_managed_addons: bool,
    /// Whether its pods have a network by an add-on only. Nodes of clusters of earlier versions have one by themselves.
    #[serde(default)]
    pub network_by_addon: bool,
}

fn yes() -> bool {
    true
}

impl Cluster {
    pub fn arn(&self) -> String {
        self.scope.arn("eks", format_args!("cluster/{}", self.name))
    }
}

/// What belongs to the control plane and not to the cluster's name: endpoint, keys, issuer (`design.md` §2). So a
/// control plane can be started before anyone has asked for a cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ControlPlaneSlot {
    /// Eight hex digits.
    pub id: String,
    /// Where the control plane's processes run.
    #[serde(flatten)]
    pub site: Site,
    /// The front door's port, on the service's address and on 127.0.0.1.
    pub port: u16,
    pub issuer_id: String,
    pub version: String,
    /// Key of the cluster that uses it.
    pub cluster: String,
    pub vpc: String,
    /// Interfaces in the cluster's subnets; the first one's address is advertised.
    pub interfaces: Vec<String>,
    pub advertise_address: Ipv4Addr,
    pub service_cidr: Prefix,
    /// PEM; present once the keys are on disk.
    pub certificate_authority: Option<String>,
}

impl ControlPlaneSlot {
    /// The child that runs one of [`super::CONTROL_PLANE_PROGRAMS`].
    pub fn child(&self, program: &str) -> String {
        format!("cp-{}-{program}", self.id)
    }
}

//! Managed node groups.

use super::HealthIssue;
use crate::names::Scope;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum NodegroupStatus {
    Creating,
    Active,
    Updating,
    Deleting,
    CreateFailed,
    DeleteFailed,
    Degraded,
}

impl NodegroupStatus {
    pub fn wire(self) -> &'static str {
        match self {
            Self::Creating => "CREATING",
            Self::Active => "ACTIVE",
            Self::Updating => "UPDATING",
            Self::Deleting => "DELETING",
            Self::CreateFailed => "CREATE_FAILED",
            Self::DeleteFailed => "DELETE_FAILED",
            Self::Degraded => "DEGRADED",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scaling {
    pub min: u32,
    pub max: u32,
    pub desired: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Taint {
    pub key: String,
    pub value: Option<String>,
    /// NO_SCHEDULE, NO_EXECUTE or PREFER_NO_SCHEDULE.
    pub effect: String,
}

impl Taint {
    /// Whether both have the same place on a node, which has one taint of a key and an effect.
    pub fn replaces(&self, other: &Self) -> bool {
        self.key == other.key && self.effect == other.effect
    }

    /// As a kubelet's `--register-with-taints` wants it.
    pub fn kubelet(&self) -> String {
        format!("{}={}:{}", self.key, self.value.as_deref().unwrap_or_default(), self.kubernetes_effect())
    }

    /// Kubernetes' word for the effect.
    pub fn kubernetes_effect(&self) -> &'static str {
        match self.effect.as_str() {
            "NO_EXECUTE" => "NoExecute",
            "PREFER_NO_SCHEDULE" => "PreferNoSchedule",
            _ => "NoSchedule",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UpdateConfig {
    pub max_unavailable: Option<i64>,
    pub max_unavailable_percentage: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Nodegroup {
    pub name: String,
    pub cluster: String,
    pub scope: Scope,
    pub uid: String,
    pub status: NodegroupStatus,
    pub version: String,
    pub release_version: String,
    pub created_ms: i64,
    pub modified_ms: i64,
    pub scaling: Scaling,
    pub instance_types: Vec<String>,
    pub subnets: Vec<String>,
    pub node_role: String,
    pub ami_type: String,
    pub capacity_type: String,
    pub disk_gib: u32,
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<Taint>,
    pub update_config: UpdateConfig,
    pub tags: BTreeMap<String, String>,
    pub request_token: Option<String>,
    pub request_digest: String,
    pub issues: Vec<HealthIssue>,
    /// Instances being drained, and since when (unix ms).
    pub draining: BTreeMap<String, i64>,
    /// What an update has changed that nodes which are there have not been told.
    #[serde(default)]
    pub unsynced: Option<NodeChange>,
}

/// Labels and taints that an update took away or put on; nodes that join later get them as they boot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeChange {
    pub remove_labels: Vec<String>,
    pub labels: BTreeMap<String, String>,
    pub remove_taints: Vec<Taint>,
    pub taints: Vec<Taint>,
}

impl Nodegroup {
    pub fn arn(&self) -> String {
        let Self { cluster, name, uid, .. } = self;
        self.scope.arn("eks", format_args!("nodegroup/{cluster}/{name}/{uid}"))
    }

    /// The tags by which its instances are found.
    pub fn instance_tags(&self) -> BTreeMap<String, String> {
        let mut tags = self.tags.clone();
        tags.insert("eks:cluster-name".into(), self.cluster.clone());
        tags.insert("eks:nodegroup-name".into(), self.name.clone());
        tags.insert("ekstra:nodegroup-uid".into(), self.uid.clone());
        tags.insert(format!("kubernetes.io/cluster/{}", self.cluster), "owned".into());
        tags.insert("Name".into(), format!("{}-{}-Node", self.cluster, self.name));
        tags
    }

    /// Labels of its nodes (`spec/eks-semantics.md` §2.3), the user's first.
    pub fn node_labels(&self, image: &str) -> BTreeMap<String, String> {
        let mut labels = self.labels.clone();
        labels.insert("eks.amazonaws.com/nodegroup".into(), self.name.clone());
        labels.insert("eks.amazonaws.com/nodegroup-image".into(), image.to_owned());
        labels.insert("eks.amazonaws.com/capacityType".into(), self.capacity_type.clone());
        labels
    }
}

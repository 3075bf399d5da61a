//! Updates: changes that DescribeUpdate follows.

use crate::names::Scope;
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpdateStatus {
    InProgress,
    Failed,
    Cancelled,
    Successful,
}

impl UpdateStatus {
    pub fn wire(self) -> &'static str {
        match self {
            Self::InProgress => "InProgress",
            Self::Failed => "Failed",
            Self::Cancelled => "Cancelled",
            Self::Successful => "Successful",
        }
    }
}

/// The kinds that ekstra carries out so far; EKS's spelling is the variant's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpdateType {
    ConfigUpdate,
    EndpointAccessUpdate,
    LoggingUpdate,
    DeletionProtectionUpdate,
    UpgradePolicyUpdate,
    AccessConfigUpdate,
    AddonUpdate,
    AssociateIdentityProviderConfig,
    DisassociateIdentityProviderConfig,
}

impl UpdateType {
    pub fn wire(self) -> &'static str {
        match self {
            Self::ConfigUpdate => "ConfigUpdate",
            Self::EndpointAccessUpdate => "EndpointAccessUpdate",
            Self::LoggingUpdate => "LoggingUpdate",
            Self::DeletionProtectionUpdate => "DeletionProtectionUpdate",
            Self::UpgradePolicyUpdate => "UpgradePolicyUpdate",
            Self::AccessConfigUpdate => "AccessConfigUpdate",
            Self::AddonUpdate => "AddonUpdate",
            Self::AssociateIdentityProviderConfig => "AssociateIdentityProviderConfig",
            Self::DisassociateIdentityProviderConfig => "DisassociateIdentityProviderConfig",
        }
    }
}

/// What an update concerns, of all that a cluster has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateOf<'a> {
    Cluster,
    Nodegroup(&'a str),
    Addon(&'a str),
    /// An identity provider, which API and lists count among the cluster's own.
    Provider(&'a str),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Update {
    pub id: String,
    pub scope: Scope,
    pub cluster: String,
    /// The node group it concerns, if any.
    pub nodegroup: Option<String>,
    /// The add-on it concerns, if any.
    #[serde(default)]
    pub addon: Option<String>,
    #[serde(default)]
    pub provider: Option<String>,
    pub kind: UpdateType,
    pub status: UpdateStatus,
    /// EKS's parameter types and values.
    pub params: Vec<(String, String)>,
    pub created_ms: i64,
    pub errors: Vec<(String, String)>,
    /// Idempotency: the caller's token, and a digest of what was asked with it.
    #[serde(default)]
    pub request_token: Option<String>,
    #[serde(default)]
    pub request_digest: String,
}

impl Update {
    pub fn concerns(&self) -> UpdateOf<'_> {
        match (&self.nodegroup, &self.addon, &self.provider) {
            (Some(nodegroup), ..) => UpdateOf::Nodegroup(nodegroup),
            (None, Some(addon), _) => UpdateOf::Addon(addon),
            (None, None, Some(provider)) => UpdateOf::Provider(provider),
            (None, None, None) => UpdateOf::Cluster,
        }
    }
}

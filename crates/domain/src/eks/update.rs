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
    VpcConfigUpdate,
    LoggingUpdate,
    DeletionProtectionUpdate,
    UpgradePolicyUpdate,
    AccessConfigUpdate,
    AddonUpdate,
    AssociateIdentityProviderConfig,
    DisassociateIdentityProviderConfig,
    AssociateEncryptionConfig,
    CapabilityUpdate,
    CertificateAuthorityUpdate,
    ControlPlaneComponentConfigUpdate,
}

impl UpdateType {
    pub fn wire(self) -> &'static str {
        match self {
            Self::ConfigUpdate => "ConfigUpdate",
            Self::EndpointAccessUpdate => "EndpointAccessUpdate",
            Self::VpcConfigUpdate => "VpcConfigUpdate",
            Self::LoggingUpdate => "LoggingUpdate",
            Self::DeletionProtectionUpdate => "DeletionProtectionUpdate",
            Self::UpgradePolicyUpdate => "UpgradePolicyUpdate",
            Self::AccessConfigUpdate => "AccessConfigUpdate",
            Self::AddonUpdate => "AddonUpdate",
            Self::AssociateIdentityProviderConfig => "AssociateIdentityProviderConfig",
            Self::DisassociateIdentityProviderConfig => "DisassociateIdentityProviderConfig",
            Self::AssociateEncryptionConfig => "AssociateEncryptionConfig",
            Self::CapabilityUpdate => "CapabilityUpdate",
            Self::CertificateAuthorityUpdate => "CertificateAuthorityUpdate",
            Self::ControlPlaneComponentConfigUpdate => "ControlPlaneComponentConfigUpdate",
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
    Capability(&'a str),
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
    #[serde(default)]
    pub capability: Option<String>,
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
    /// Whether whoever names these (a node group, an add-on, a capability, each or none) means it.
    pub fn is_listed_under(&self, named: &(Option<String>, Option<String>, Option<String>)) -> bool {
        (&self.nodegroup, &self.addon, &self.capability) == (&named.0, &named.1, &named.2)
    }

    pub fn concerns(&self) -> UpdateOf<'_> {
        let nodegroup = self.nodegroup.as_deref().map(UpdateOf::Nodegroup);
        let addon = self.addon.as_deref().map(UpdateOf::Addon);
        let provider = self.provider.as_deref().map(UpdateOf::Provider);
        let capability = self.capability.as_deref().map(UpdateOf::Capability);
        nodegroup.or(addon).or(provider).or(capability).unwrap_or(UpdateOf::Cluster)
    }
}

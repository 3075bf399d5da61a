//! What is kept of EKS and not carried out: Fargate profiles, capabilities, clusters that a connector would connect, EKS
//! Anywhere subscriptions, certificate authorities that would succeed the first.
//!
//! Invariant: whoever describes one of them is told so, by its status and by its health as far as EKS has such.

use crate::names::Scope;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a record was asked for with, so that the same request can come again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    #[serde(rename = "request_token")]
    pub token: Option<String>,
    #[serde(rename = "request_digest")]
    pub digest: String,
}

impl Asked {
    /// Without a token nothing is a repetition.
    pub fn repeats(&self, earlier: &Self) -> bool {
        self.token.is_some() && self == earlier
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FargateSelector {
    pub namespace: String,
    pub labels: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FargateProfile {
    pub scope: Scope,
    pub cluster: String,
    pub name: String,
    pub uid: String,
    pub role_arn: String,
    pub subnets: Vec<String>,
    pub selectors: Vec<FargateSelector>,
    pub tags: BTreeMap<String, String>,
    pub created_ms: i64,
    #[serde(flatten)]
    pub asked: Asked,
}

impl FargateProfile {
    pub fn arn(&self) -> String {
        let Self { cluster, name, uid, .. } = self;
        self.scope.arn("eks", format_args!("fargateprofile/{cluster}/{name}/{uid}"))
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Capability {
    pub scope: Scope,
    pub cluster: String,
    pub name: String,
    pub uid: String,
    /// `ACK`, `ARGOCD`, `KRO`.
    pub kind: String,
    pub role_arn: String,
    pub argo_cd: Option<ArgoCd>,
    pub ack: Option<Ack>,
    pub delete_propagation: String,
    pub tags: BTreeMap<String, String>,
    pub created_ms: i64,
    pub modified_ms: i64,
    #[serde(flatten)]
    pub asked: Asked,
}

impl Capability {
    pub fn arn(&self) -> String {
        let Self { cluster, name, uid, .. } = self;
        let kind = self.kind.to_lowercase();
        self.scope.arn("eks", format_args!("capability/{cluster}/{kind}/{name}/{uid}"))
    }
}

/// Settings of a capability `ARGOCD`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ArgoCd {
    pub namespace: Option<String>,
    pub idc_instance_arn: String,
    pub idc_region: Option<String>,
    /// By role; identities with their types.
    pub role_mappings: BTreeMap<String, Vec<(String, String)>>,
    pub vpc_endpoints: Vec<String>,
    pub endpoint_prefix: Option<String>,
}

/// Settings of a capability `ACK`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ack {
    pub enable_cross_namespace: Option<bool>,
    pub disabled_services: Vec<String>,
}

/// A cluster of somebody else's that was registered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConnectedCluster {
    pub scope: Scope,
    pub name: String,
    pub role_arn: String,
    pub provider: String,
    pub activation_id: String,
    pub activation_code: String,
    pub tags: BTreeMap<String, String>,
    pub created_ms: i64,
    #[serde(flatten)]
    pub asked: Asked,
}

impl ConnectedCluster {
    /// A manifest has to be applied in three days.
    const ACTIVATION_MS: i64 = 3 * 24 * 3600 * 1000;

    pub fn arn(&self) -> String {
        self.scope.arn("eks", format_args!("cluster/{}", self.name))
    }

    pub fn activation_ends_ms(&self) -> i64 {
        self.created_ms + Self::ACTIVATION_MS
    }

    /// Afterwards it is not shown any more, and can only be deregistered.
    pub fn is_shown(&self, now_ms: i64) -> bool {
        now_ms < self.activation_ends_ms()
    }
}

/// Of EKS Anywhere. There is no contract, and there are no licenses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Subscription {
    pub scope: Scope,
    pub id: String,
    pub name: String,
    pub months: i32,
    pub license_quantity: i32,
    pub license_type: String,
    pub auto_renew: bool,
    pub tags: BTreeMap<String, String>,
    pub created_ms: i64,
    #[serde(flatten)]
    pub asked: Asked,
}

impl Subscription {
    pub fn arn(&self) -> String {
        self.scope.arn("eks", format_args!("eks-anywhere-subscription/{}", self.id))
    }
}

/// A certificate authority that was asked for beside the cluster's own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SuccessorAuthority {
    pub id: String,
    pub created_ms: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_a_token_comes_again() {
        let asked = |token: Option<&str>, digest: &str| Asked {
            token: token.map(str::to_owned),
            digest: digest.into(),
        };
        assert!(asked(Some("t"), "d").repeats(&asked(Some("t"), "d")));
        assert!(!asked(None, "d").repeats(&asked(None, "d")));
        assert!(!asked(Some("t"), "d").repeats(&asked(Some("t"), "e")));
        assert!(!asked(Some("t"), "d").repeats(&asked(Some("u"), "d")));
    }
}

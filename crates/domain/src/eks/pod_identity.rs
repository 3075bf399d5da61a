//! Pod identity associations: which role the pods of a service account have.

use super::Asked;
use crate::names::Scope;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Who takes the roles of pods.
pub const POD_IDENTITY_SERVICE: &str = "pods.eks.amazonaws.com";
/// Whom the tokens are for that pods show.
pub const POD_IDENTITY_AUDIENCE: &str = POD_IDENTITY_SERVICE;
/// Where every node's agent answers its pods, as the SDKs of AWS allow it (EKS User Guide, "How EKS Pod Identity works").
pub const POD_IDENTITY_ADDRESS: std::net::Ipv4Addr = std::net::Ipv4Addr::new(169, 254, 170, 23);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PodIdentityAssociation {
    pub scope: Scope,
    pub cluster: String,
    /// `a-` and 17 letters.
    pub id: String,
    pub namespace: String,
    pub service_account: String,
    pub role_arn: String,
    /// Assumed with the first, if there is one; the pod has this one's credentials.
    pub target_role_arn: Option<String>,
    /// By which the target role may know the association.
    pub external_id: Option<String>,
    pub disable_session_tags: bool,
    /// Narrows what the pod may do.
    pub policy: Option<String>,
    /// Of the add-on that it belongs to.
    pub owner_arn: Option<String>,
    pub tags: BTreeMap<String, String>,
    pub created_ms: i64,
    pub modified_ms: i64,
    #[serde(flatten)]
    pub asked: Asked,
}

impl PodIdentityAssociation {
    pub fn arn(&self) -> String {
        self.scope.arn("eks", format_args!("podidentityassociation/{}/{}", self.cluster, self.id))
    }

    pub fn is_for(&self, namespace: &str, service_account: &str) -> bool {
        self.namespace == namespace && self.service_account == service_account
    }
}

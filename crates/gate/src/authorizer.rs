//! What EKS's access policies allow, for what RBAC has not allowed: SubjectAccessReview in, a verdict out.
//!
//! Invariant: it allows or has no opinion; it denies nothing. No object in the cluster comes of an access policy.
//!
//! Source: "Webhook Mode" in the Kubernetes documentation.

use crate::Gate;
use crate::http::{Body, full};
use crate::identity::entry_of;
use ekstra_domain::eks::{Cluster, ControlPlaneSlot, Wish, allows};
use ekstra_domain::names::keys;
use hyper::{Response, StatusCode};
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeMap;

pub(crate) const PATH: &str = "/authorize";
/// The key of a user's extra words that the token webhook gives (`webhook.rs`).
const CANONICAL_ARN: &str = "canonicalArn";

#[derive(Deserialize)]
struct Review {
    spec: Spec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default)]
    extra: BTreeMap<String, Vec<String>>,
    resource_attributes: Option<Resource>,
    non_resource_attributes: Option<Path>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Resource {
    namespace: String,
    verb: String,
    group: String,
    resource: String,
    subresource: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Path {
    path: String,
    verb: String,
}

pub(crate) fn answer(gate: &Gate, slot: &str, body: &[u8]) -> Response<Body> {
    let Ok(Review { spec }) = serde_json::from_slice::<Review>(body) else {
        return full(StatusCode::BAD_REQUEST, "application/json", "{}".to_owned());
    };
    let by = allowed_by(gate, slot, &spec);
    let status = json!({
        "allowed": by.is_some(),
        "reason": by.map(|arn| format!("EKS: allowed by the access policies of {arn}")),
    });
    let review =
        json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "status": status});
    full(StatusCode::OK, "application/json", review.to_string())
}

/// The principal whose access policies allow it.
fn allowed_by(gate: &Gate, slot: &str, spec: &Spec) -> Option<String> {
    // Users of other kinds (certificates, service accounts) are nobody of IAM.
    let [canonical] = spec.extra.get(CANONICAL_ARN)?.as_slice() else { return None };
    let slot: ControlPlaneSlot = gate.view.get_as(&keys::slot(slot))?;
    let cluster: Cluster = gate.view.get_as(&slot.cluster)?;
    let entry = entry_of(gate, &cluster, canonical).filter(|_| cluster.has_entries)?;
    let is_allowed = match (&spec.resource_attributes, &spec.non_resource_attributes) {
        (Some(asked), _) => {
            let resource = match asked.subresource.as_str() {
                "" => asked.resource.clone(),
                part => format!("{}/{part}", asked.resource),
            };
            let Resource { verb, group, namespace, .. } = asked;
            allows(&entry, &Wish::Resource { verb, group, resource: &resource, namespace })
        }
        (None, Some(Path { path, verb })) => allows(&entry, &Wish::Path { verb, path }),
        (None, None) => false,
    };
    is_allowed.then_some(entry.principal_arn)
}

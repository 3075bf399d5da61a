//! What EKS's access policies allow, for what RBAC has not allowed: SubjectAccessReview in, a verdict out.
//!
//! Invariant: it allows or has no opinion; it denies nothing. No object in the cluster comes of an access policy.
//!
//! Source: "Webhook Mode" in the Kubernetes documentation.

use crate::Gate;
use crate::http::{Body, full};
use crate::identity::entry_of;
use ekstra_domain::eks::{Wish, allows};
use hyper::{Response, StatusCode};
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeMap;

pub(crate) const PATH: &str = "/authorize";
/// Keys of a user's extra words that the token webhook gives (`webhook.rs`).
const CANONICAL_ARN: &str = "canonicalArn";
const PRINCIPAL_ID: &str = "principalId";

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

/// Aggregated API servers ask in their users' name, too: of them they know by HTTP headers, which have small letters only.
fn word<'a>(extra: &'a BTreeMap<String, Vec<String>>, name: &str) -> Option<&'a str> {
    let mut named = extra.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
    match (named.next(), named.next()) {
        (Some((_, values)), None) if values.len() == 1 => values.first().map(String::as_str),
        _ => None,
    }
}

/// The principal whose access policies allow it.
fn allowed_by(gate: &Gate, slot: &str, spec: &Spec) -> Option<String> {
    // Users of other kinds (certificates, service accounts) are nobody of IAM.
    let (canonical, id) = (word(&spec.extra, CANONICAL_ARN)?, word(&spec.extra, PRINCIPAL_ID)?);
    let cluster = gate.cluster_of(slot)?;
    let entry = entry_of(gate, &cluster, canonical, id).filter(|_| cluster.has_entries)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_known_by_whatever_letters_its_arn_is_under() {
        let extra = |keys: &[&str], values: usize| -> BTreeMap<String, Vec<String>> {
            keys.iter().map(|key| ((*key).to_owned(), vec!["arn".to_owned(); values])).collect()
        };
        for key in ["canonicalArn", "canonicalarn"] {
            assert_eq!(word(&extra(&[key, "arn"], 1), CANONICAL_ARN), Some("arn"), "{key}");
        }
        for ambiguous in
            [extra(&["canonicalArn", "canonicalarn"], 1), extra(&["canonicalArn"], 2), extra(&["arn"], 1)]
        {
            assert_eq!(word(&ambiguous, CANONICAL_ARN), None, "{ambiguous:?}");
        }
    }
}

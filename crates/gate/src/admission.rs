//! The webhook `pod-identity-webhook`: a pod whose service account has a pod identity association is told where its
//! credentials are. AdmissionReview in, a JSON Patch out.
//!
//! Invariant: nothing is refused, and what a pod says itself stays.
//!
//! Source: "Dynamic Admission Control" in the Kubernetes documentation; EKS User Guide, "How EKS Pod Identity works";
//! names of variables, volume and annotations as in amazon-eks-pod-identity-webhook (`spec/eks-semantics.md` §3.9).

use crate::Gate;
use crate::http::{Body, full};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ekstra_domain::eks::{POD_IDENTITY_ADDRESS, POD_IDENTITY_AUDIENCE, PodIdentityAssociation};
use ekstra_domain::names::keys;
use hyper::{Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

pub(crate) const PATH: &str = "/mutate";
/// A pod is at most what etcd takes, in an envelope.
pub(crate) const LARGEST: usize = 3 * 1024 * 1024;

const VOLUME: &str = "eks-pod-identity-token";
const DIRECTORY: &str = "/var/run/secrets/pods.eks.amazonaws.com/serviceaccount";
const TOKEN_LIFETIME: i64 = 86_400;
const SHORTEST_TOKEN_LIFETIME: i64 = 3600;
const SKIPPED: &str = "eks.amazonaws.com/skip-containers";
const EXPIRATION: &str = "eks.amazonaws.com/token-expiration";

#[derive(Deserialize)]
struct Review {
    request: Request,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    uid: String,
    #[serde(default)]
    namespace: String,
    object: Value,
}

/// What a pod of a cluster is given.
struct Settings {
    region: String,
    /// The AWS endpoint as pods reach it: without it, SDKs would take these credentials to AWS.
    endpoint: String,
}

pub(crate) fn answer(gate: &Gate, slot: &str, body: &[u8]) -> Response<Body> {
    let Ok(Review { request }) = serde_json::from_slice::<Review>(body) else {
        return full(StatusCode::BAD_REQUEST, "application/json", "{}".to_owned());
    };
    let mut response = json!({"uid": request.uid, "allowed": true});
    if let Some(settings) = settings_for(gate, slot, &request) {
        let patch = patch(&request.object, &settings);
        response["patchType"] = json!("JSONPatch");
        response["patch"] = json!(STANDARD.encode(json!(patch).to_string()));
    }
    let review =
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response});
    full(StatusCode::OK, "application/json", review.to_string())
}

/// `None` for a pod whose service account has no association.
fn settings_for(gate: &Gate, slot: &str, request: &Request) -> Option<Settings> {
    let cluster = gate.cluster_of(slot)?;
    let account = request.object.pointer("/spec/serviceAccountName").and_then(Value::as_str);
    let account = account.filter(|name| !name.is_empty()).unwrap_or("default");
    let prefix = keys::pod_identities(&cluster.scope, &cluster.name);
    let mut all = gate.view.list_as::<PodIdentityAssociation>(&prefix).into_iter();
    all.find(|(_, known)| known.is_for(&request.namespace, account))?;
    let facts = &gate.facts;
    Some(Settings {
        region: cluster.scope.region,
        endpoint: format!("http://{}:{}", facts.address, facts.port),
    })
}

fn patch(pod: &Value, settings: &Settings) -> Vec<Value> {
    let annotation = |name: &str| pod["metadata"]["annotations"][name].as_str();
    let skipped: Vec<&str> = annotation(SKIPPED).unwrap_or_default().split(',').map(str::trim).collect();
    let lifetime = annotation(EXPIRATION).and_then(|text| text.parse::<i64>().ok()).unwrap_or(TOKEN_LIFETIME);
    let mut patch = Vec::new();
    for kind in ["initContainers", "containers"] {
        let containers = pod["spec"][kind].as_array().map(Vec::as_slice).unwrap_or_default();
        for (index, container) in containers.iter().enumerate() {
            if container["name"].as_str().is_some_and(|name| skipped.contains(&name)) {
                continue;
            }
            let path = format!("/spec/{kind}/{index}");
            append(&mut patch, &path, container, "env", variables(container, settings));
            let mount = json!({"name": VOLUME, "mountPath": DIRECTORY, "readOnly": true});
            append(
                &mut patch,
                &path,
                container,
                "volumeMounts",
                unless_named(container, "volumeMounts", mount),
            );
        }
    }
    let token = json!({
        "audience": POD_IDENTITY_AUDIENCE,
        "expirationSeconds": lifetime.max(SHORTEST_TOKEN_LIFETIME),
        "path": VOLUME,
    });
    let volume = json!({"name": VOLUME, "projected": {"sources": [{"serviceAccountToken": token}]}});
    append(&mut patch, "/spec", &pod["spec"], "volumes", unless_named(&pod["spec"], "volumes", volume));
    patch
}

/// A list with the one item, if what it goes into has none of that name.
fn unless_named(of: &Value, list: &str, item: Value) -> Vec<Value> {
    let known = of[list].as_array().map(Vec::as_slice).unwrap_or_default();
    if known.iter().any(|known| known["name"] == item["name"]) { Vec::new() } else { vec![item] }
}

/// To the end of a list that may not be there.
fn append(patch: &mut Vec<Value>, path: &str, of: &Value, list: &str, items: Vec<Value>) {
    if items.is_empty() {
        return;
    }
    if of[list].is_array() {
        patch.extend(
            items
                .into_iter()
                .map(|item| json!({"op": "add", "path": format!("{path}/{list}/-"), "value": item})),
        );
    } else {
        patch.push(json!({"op": "add", "path": format!("{path}/{list}"), "value": items}));
    }
}

/// What the container does not say itself. Of the variables that mean the same, one is enough.
fn variables(container: &Value, settings: &Settings) -> Vec<Value> {
    let own = container["env"].as_array().map(Vec::as_slice).unwrap_or_default();
    let has = |name: &str| own.iter().any(|variable| variable["name"] == name);
    let address = POD_IDENTITY_ADDRESS;
    let groups = [
        vec![("AWS_STS_REGIONAL_ENDPOINTS", "regional".to_owned())],
        vec![("AWS_DEFAULT_REGION", settings.region.clone()), ("AWS_REGION", settings.region.clone())],
        vec![("AWS_ENDPOINT_URL", settings.endpoint.clone())],
        vec![
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("http://{address}/v1/credentials")),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", format!("{DIRECTORY}/{VOLUME}")),
        ],
    ];
    let missing = groups.into_iter().filter(|group| !group.iter().any(|(name, _)| has(name)));
    missing.flatten().map(|(name, value)| json!({"name": name, "value": value})).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{ACCOUNT, Fixture, SLOT};
    use ekstra_domain::names::Scope;
    use http_body_util::BodyExt;

    async fn associate(fixture: &Fixture, account: &str) {
        let scope = Scope::new(ACCOUNT, "us-east-1");
        let association = json!({
            "scope": scope, "cluster": "c", "id": "a-1", "namespace": "ns", "service_account": account,
            "role_arn": "r", "target_role_arn": null, "external_id": null, "disable_session_tags": false,
            "policy": null, "owner_arn": null, "tags": {}, "created_ms": 0, "modified_ms": 0,
            "request_token": null, "request_digest": "",
        });
        fixture.put(&keys::pod_identity(&scope, "c", "a-1"), &association).await;
    }

    /// The patch, if there is one.
    async fn reviewed(gate: &Gate, namespace: &str, pod: Value) -> Option<Vec<Value>> {
        let review = json!({"request": {"uid": "u", "namespace": namespace, "object": pod}});
        let (head, body) = answer(gate, SLOT, review.to_string().as_bytes()).into_parts();
        assert_eq!(head.status, StatusCode::OK);
        let body = body.collect().await.expect("a body").to_bytes();
        let review: Value = serde_json::from_slice(&body).expect("an AdmissionReview");
        let response = &review["response"];
        assert_eq!((&response["uid"], &response["allowed"]), (&json!("u"), &json!(true)));
        let patch = STANDARD.decode(response["patch"].as_str()?).expect("base64");
        Some(serde_json::from_slice(&patch).expect("a JSON Patch"))
    }

    #[tokio::test]
    async fn only_pods_of_associated_service_accounts_are_changed() {
        let fixture = Fixture::new();
        fixture.put_cluster(1).await;
        let pod = json!({"spec": {"containers": [{"name": "a"}], "serviceAccountName": "sa"}});
        assert_eq!(reviewed(&fixture.gate, "ns", pod.clone()).await, None);
        associate(&fixture, "sa").await;
        assert_eq!(reviewed(&fixture.gate, "other", pod.clone()).await, None);
        let default = json!({"spec": {"containers": [{"name": "a"}]}});
        assert_eq!(reviewed(&fixture.gate, "ns", default.clone()).await, None);
        let patch = reviewed(&fixture.gate, "ns", pod).await.expect("is changed");
        let at =
            |path: &str| patch.iter().find(|step| step["path"] == path).map(|step| step["value"].clone());
        let env = at("/spec/containers/0/env").expect("variables");
        let value = |name: &str| {
            let all = env.as_array().expect("a list");
            all.iter().find(|known| known["name"] == name).map(|known| known["value"].clone())
        };
        let uri = "http://169.254.170.23/v1/credentials";
        assert_eq!(value("AWS_CONTAINER_CREDENTIALS_FULL_URI"), Some(json!(uri)));
        assert_eq!(value("AWS_REGION"), Some(json!("us-east-1")));
        assert_eq!(value("AWS_ENDPOINT_URL"), Some(json!("http://127.0.0.3:4566")));
        let source = at("/spec/volumes").expect("a volume")[0]["projected"]["sources"][0].clone();
        assert_eq!(source["serviceAccountToken"]["audience"], POD_IDENTITY_AUDIENCE);
        assert_eq!(at("/spec/containers/0/volumeMounts").expect("a mount")[0]["mountPath"], DIRECTORY);
        associate(&fixture, "default").await;
        assert!(reviewed(&fixture.gate, "ns", default).await.is_some());
    }

    #[test]
    fn what_a_pod_says_itself_stays() {
        let settings = Settings { region: "us-east-1".into(), endpoint: "http://e".into() };
        let pod = json!({
            "metadata": {"annotations": {SKIPPED: "b, c", EXPIRATION: "60"}},
            "spec": {
                "containers": [
                    {"name": "a", "env": [{"name": "AWS_REGION", "value": "eu-west-1"}], "volumeMounts": []},
                    {"name": "b"},
                ],
                "volumes": [{"name": VOLUME}],
            },
        });
        let patch = patch(&pod, &settings);
        let paths: Vec<&str> = patch.iter().filter_map(|step| step["path"].as_str()).collect();
        assert!(paths.iter().all(|path| path.starts_with("/spec/containers/0/")), "{paths:?}");
        let names: Vec<&str> = patch.iter().filter_map(|step| step["value"]["name"].as_str()).collect();
        assert!(!names.contains(&"AWS_REGION") && !names.contains(&"AWS_DEFAULT_REGION"), "{names:?}");
        assert!(names.contains(&"AWS_ENDPOINT_URL") && names.contains(&VOLUME), "{names:?}");
        let bare = json!({"metadata": {"annotations": {EXPIRATION: "60"}}, "spec": {"containers": []}});
        let lifetime = "/0/value/0/projected/sources/0/serviceAccountToken/expirationSeconds";
        assert_eq!(json!(super::patch(&bare, &settings)).pointer(lifetime), Some(&json!(3600)));
    }
}

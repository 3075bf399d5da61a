//! What a new cluster contains (`spec/eks-semantics.md` §3.7): kube-proxy, CoreDNS, metrics-server, the roles behind them,
//! and the classes of storage.
//!
//! Invariant: applied by server-side apply under one field manager, so applying again changes nothing, and what users
//! own stays theirs.

use ekstra_domain::prefix::Prefix;
use futures::future::try_join_all;
use kube::Client;
use serde::Deserialize;
use serde_json::Value;

const ALWAYS: [&str; 3] = [
    include_str!("bootstrap/access.yaml"),
    include_str!("bootstrap/storage.yaml"),
    include_str!("bootstrap/snapshots.yaml"),
];
/// What `bootstrapSelfManagedAddons` is about.
const ADDONS: [&str; 3] = [
    include_str!("bootstrap/kube-proxy.yaml"),
    include_str!("bootstrap/coredns.yaml"),
    include_str!("bootstrap/metrics-server.yaml"),
];
/// As EKS's own.
const FIELD_MANAGER: &str = "eks";

/// What the manifests are filled with.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) endpoint: String,
    pub(crate) service_cidr: Prefix,
    /// `1.36.3`.
    pub(crate) kubernetes_version: String,
    /// Whether kube-proxy and CoreDNS are wanted.
    pub(crate) addons: bool,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum BootstrapError {
    #[error("a built-in manifest: {0}")]
    Manifest(String),
    #[error("{path}: {source}")]
    Apply { path: String, source: Box<kube::Error> },
}

/// Only what is needed to know where an object goes.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    api_version: String,
    kind: String,
    metadata: Names,
}

#[derive(Deserialize)]
struct Names {
    name: String,
    namespace: Option<String>,
}

pub(crate) async fn apply(client: &Client, facts: &Facts) -> Result<(), BootstrapError> {
    let objects = render(facts)?;
    try_join_all(objects.into_iter().map(|(path, body)| apply_one(client, path, body))).await.map(drop)
}

async fn apply_one(client: &Client, path: String, body: Vec<u8>) -> Result<(), BootstrapError> {
    let request = http::Request::patch(format!("{path}?fieldManager={FIELD_MANAGER}&force=true"))
        .header(http::header::CONTENT_TYPE, "application/apply-patch+yaml")
        .body(body)
        .map_err(|e| BootstrapError::Manifest(e.to_string()))?;
    let applied = client.request::<Value>(request).await;
    applied.map(drop).map_err(|source| BootstrapError::Apply { path, source: Box::new(source) })
}

/// Every object with its path.
fn render(facts: &Facts) -> Result<Vec<(String, Vec<u8>)>, BootstrapError> {
    let dns = facts.service_cidr.nth(10).map(|a| a.to_string()).unwrap_or_default();
    let mut objects = Vec::new();
    let addons = if facts.addons { &ADDONS[..] } else { &[] };
    for manifest in ALWAYS.iter().chain(addons) {
        let text = manifest
            .replace("{{endpoint}}", &facts.endpoint)
            .replace("{{clusterDns}}", &dns)
            .replace("{{kubernetesVersion}}", &facts.kubernetes_version);
        for document in text.split("\n---\n").filter(|d| !d.trim().is_empty()) {
            let fail = |e: &dyn std::fmt::Display| BootstrapError::Manifest(e.to_string());
            let value: Value = serde_saphyr::from_str(document).map_err(|e| fail(&e))?;
            let meta: Meta = serde_json::from_value(value.clone()).map_err(|e| fail(&e))?;
            objects.push((path(&meta), value.to_string().into_bytes()));
        }
    }
    Ok(objects)
}

fn path(meta: &Meta) -> String {
    let group = if meta.api_version.contains('/') { "apis" } else { "api" };
    let kind = meta.kind.to_lowercase();
    let plural = match kind.strip_suffix('s') {
        Some(stem) => format!("{stem}ses"),
        None => format!("{kind}s"),
    };
    let namespace = meta.metadata.namespace.as_ref().map(|n| format!("/namespaces/{n}")).unwrap_or_default();
    format!("/{group}/{}{namespace}/{plural}/{}", meta.api_version, meta.metadata.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_are_filled_and_placed() {
        let facts = Facts {
            endpoint: "https://169.254.80.1:16443".into(),
            service_cidr: "10.100.0.0/16".parse().expect("valid"),
            kubernetes_version: "1.36.3".into(),
            addons: true,
        };
        let objects = render(&facts).expect("renders");
        let paths: Vec<&str> = objects.iter().map(|(path, _)| path.as_str()).collect();
        assert!(paths.contains(&"/apis/apps/v1/namespaces/kube-system/daemonsets/kube-proxy"), "{paths:?}");
        assert!(paths.contains(&"/api/v1/namespaces/kube-system/services/kube-dns"), "{paths:?}");
        for path in [
            "/apis/storage.k8s.io/v1/storageclasses/gp2",
            "/apis/storage.k8s.io/v1/csidrivers/ebs.csi.aws.com",
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/volumesnapshots.snapshot.storage.k8s.io",
        ] {
            assert!(paths.contains(&path), "{path}: {paths:?}");
        }
        for (path, body) in &objects {
            assert!(!String::from_utf8_lossy(body).contains("{{"), "{path} is not filled");
        }
        let bare = render(&Facts { addons: false, ..facts }).expect("renders");
        let workloads = bare.iter().filter(|(path, _)| path.starts_with("/apis/apps/"));
        assert_eq!(workloads.count(), 0);
        assert!(bare.iter().any(|(path, _)| path.ends_with("/storageclasses/gp2")));
    }
}

//! What a new cluster contains (`spec/eks-semantics.md` §3.7): kube-proxy, CoreDNS, metrics-server, the roles behind them,
//! the classes of storage, and the webhook that tells pods of their identity.
//!
//! Invariant: applied by server-side apply under one field manager, so applying again changes nothing, and what users
//! own stays theirs.

use crate::manifest::{self, ManifestError, Mode, Object};
use crate::{Eks, addons};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ekstra_domain::eks::{Cluster, ControlPlaneSlot, Listener};
use ekstra_domain::prefix::Prefix;
use futures::future::try_join_all;
use kube::Client;

pub(crate) const ADMISSION: &str = include_str!("bootstrap/admission.yaml");
const ALWAYS: [&str; 4] = [
    ADMISSION,
    include_str!("bootstrap/access.yaml"),
    include_str!("bootstrap/storage.yaml"),
    include_str!("bootstrap/snapshots.yaml"),
];
/// What the manifests are filled with.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) endpoint: String,
    pub(crate) service_cidr: Prefix,
    /// `1.36.3`.
    pub(crate) kubernetes_version: String,
    pub(crate) cluster_name: String,
    /// Where the API server asks about pods, and the authority of whoever answers, in base 64.
    pub(crate) admission_url: String,
    pub(crate) certificate_authority: String,
    /// Whether it begins with add-ons that nobody manages (`bootstrapSelfManagedAddons`).
    pub(crate) addons: bool,
}

pub(crate) async fn apply(client: &Client, facts: &Facts) -> Result<(), ManifestError> {
    let objects = render(facts)?;
    try_join_all(objects.iter().map(|object| manifest::apply(client, object, Mode::Force))).await.map(drop)
}

impl Facts {
    /// What is fixed for a cluster's life, and what its version says.
    pub(crate) fn of(eks: &Eks, cluster: &Cluster, slot: &ControlPlaneSlot) -> Self {
        let offered = eks.offered(&cluster.version);
        Self {
            endpoint: eks.endpoint(slot),
            service_cidr: cluster.service_cidr,
            kubernetes_version: offered.map(|v| v.patch).unwrap_or_default(),
            cluster_name: cluster.name.clone(),
            admission_url: format!("https://{}/mutate", slot.site.address(Listener::Admission)),
            certificate_authority: STANDARD.encode(slot.certificate_authority.as_deref().unwrap_or_default()),
            addons: cluster.self_managed_addons,
        }
    }

    pub(crate) fn fill(&self, text: &str) -> Result<Vec<Object>, ManifestError> {
        let dns = self.service_cidr.nth(10).map(|a| a.to_string()).unwrap_or_default();
        let facts = [
            ("endpoint", self.endpoint.as_str()),
            ("clusterDns", &dns),
            ("kubernetesVersion", &self.kubernetes_version),
            ("clusterName", &self.cluster_name),
            ("admissionUrl", &self.admission_url),
            ("certificateAuthority", &self.certificate_authority),
        ];
        manifest::objects(text, &facts)
    }
}

fn render(facts: &Facts) -> Result<Vec<Object>, ManifestError> {
    let addons = if facts.addons { addons::manifests() } else { Vec::new() };
    let rendered: Result<Vec<_>, _> = ALWAYS.into_iter().chain(addons).map(|text| facts.fill(text)).collect();
    Ok(rendered?.into_iter().flatten().collect())
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
            cluster_name: "c".into(),
            admission_url: "https://127.0.0.1:23443/mutate".into(),
            certificate_authority: "Q0E=".into(),
            addons: true,
        };
        let objects = render(&facts).expect("renders");
        let paths: Vec<&str> = objects.iter().map(|object| object.path.as_str()).collect();
        assert!(paths.contains(&"/apis/apps/v1/namespaces/kube-system/daemonsets/kube-proxy"), "{paths:?}");
        assert!(paths.contains(&"/api/v1/namespaces/kube-system/services/kube-dns"), "{paths:?}");
        for path in [
            "/api/v1/namespaces/default/serviceaccounts/default",
            "/apis/storage.k8s.io/v1/storageclasses/gp2",
            "/apis/storage.k8s.io/v1/csidrivers/ebs.csi.aws.com",
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/volumesnapshots.snapshot.storage.k8s.io",
        ] {
            assert!(paths.contains(&path), "{path}: {paths:?}");
        }
        for Object { path, value } in &objects {
            assert!(!value.to_string().contains("{{"), "{path} is not filled");
        }
        let bare = render(&Facts { addons: false, ..facts }).expect("renders");
        let workloads = bare.iter().filter(|object| object.path.starts_with("/apis/apps/"));
        assert_eq!(workloads.count(), 0);
        assert!(bare.iter().any(|object| object.path.ends_with("/storageclasses/gp2")));
    }
}

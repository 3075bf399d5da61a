//! The product: clusters, their control planes, and managed node groups.
//!
//! Invariant: an operation (`api`) writes intent and answers; reconcilers make it true. What a plan is lies in
//! `ekstra_domain::eks`; here it is observed and applied.

mod addons;
mod admission;
mod api;
mod auth;
mod aws_auth;
mod bootstrap;
mod cluster;
mod control_plane;
mod controller;
mod drain;
mod etcd;
mod finalizers;
mod identity_providers;
mod insights;
mod kubernetes;
mod liveness;
mod load_balancers;
mod manifest;
mod metrics_api;
mod nodegroup;
mod nodes;
mod quantity;
mod relabel;
mod restarts;
mod signing;
mod storage;
mod updates;
mod user_data;
mod web_identity;

pub use addons::AddonReconciler;
pub use cluster::ClusterReconciler;
pub use etcd::EtcdSnapshots;
pub use identity_providers::IdentityProviderReconciler;
pub use insights::InsightsReconciler;
pub use liveness::Liveness;
pub use nodegroup::NodegroupReconciler;
pub use nodes::NodeControllers;

/// Volumes, attachments and snapshots of every cluster.
pub fn storage_controllers(eks: &Eks) -> impl Reconciler {
    Controllers::<storage::Storage>::new(eks.clone())
}

/// Services of type LoadBalancer of every cluster.
pub fn load_balancers(eks: &Eks) -> impl Reconciler {
    Controllers::<load_balancers::LoadBalancers>::new(eks.clone())
}

/// The metrics API of every cluster.
pub fn metrics_apis(eks: &Eks) -> impl Reconciler {
    Controllers::<metrics_api::MetricsApi>::new(eks.clone())
}

/// Who is who in every cluster, of its own word.
pub fn aws_auth_mirrors(eks: &Eks) -> impl Reconciler {
    Controllers::<aws_auth::AwsAuthMirror>::new(eks.clone())
}

/// The admission webhook of every cluster.
pub fn admission_webhooks(eks: &Eks) -> impl Reconciler {
    Controllers::<admission::Admission>::new(eks.clone())
}

use controller::Controllers;
use ekstra_cloud::Cloud;
use ekstra_cloud::api::Router;
use ekstra_domain::eks::{Cluster, ControlPlaneSlot};
use ekstra_domain::names::keys;
use ekstra_engine::Reconciler;
use ekstra_host::{Host, Names};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// A Kubernetes minor version that clusters may have.
#[derive(Clone, Debug, PartialEq)]
pub struct OfferedVersion {
    /// `1.36`.
    pub minor: String,
    /// `1.36.3`.
    pub patch: String,
    pub default: bool,
}

/// Where the control plane's programs come from. The calls may take minutes the first time.
pub trait Programs: Send + Sync + std::fmt::Debug {
    fn versions(&self) -> Vec<OfferedVersion>;
    /// One of [`ekstra_domain::eks::CONTROL_PLANE_PROGRAMS`], for clusters of that minor version. Those of Kubernetes may
    /// be one program that goes by its name.
    fn control_plane(&self, program: &str, minor: &str) -> Result<PathBuf, String>;
}

/// What operations and reconcilers share; cheap to clone.
#[derive(Clone, Debug)]
pub struct Eks {
    pub cloud: Cloud,
    pub host: Arc<dyn Host>,
    pub names: Names,
    pub programs: Arc<dyn Programs>,
    /// Seconds that a node has to be drained; EKS's 15 minutes unless set.
    pub drain_limit_seconds: Option<i64>,
    /// Variables by name, for what nodes fetch from outside.
    pub proxies: BTreeMap<String, String>,
    pub(crate) clients: kubernetes::Clients,
}

impl Eks {
    pub fn new(cloud: Cloud, host: Arc<dyn Host>, names: Names, programs: Arc<dyn Programs>) -> Self {
        let clients = kubernetes::Clients::new(cloud.clone());
        Self { cloud, host, names, programs, drain_limit_seconds: None, proxies: BTreeMap::new(), clients }
    }

    /// What clusters of that minor version run.
    pub(crate) fn offered(&self, minor: &str) -> Option<OfferedVersion> {
        self.programs.versions().into_iter().find(|version| version.minor == minor)
    }

    /// The control plane of a cluster.
    pub(crate) fn slot(&self, cluster: &Cluster) -> Option<Arc<ControlPlaneSlot>> {
        self.cloud.store.view().shared(&keys::slot(&cluster.slot))
    }

    /// The store's keys of all clusters there are.
    pub(crate) fn cluster_keys(&self) -> Vec<String> {
        self.cloud.store.view().list(keys::CLUSTERS).into_iter().map(|(key, _)| key.to_string()).collect()
    }

    /// A snapshot of every cluster's data as they are now; answers the clusters of which there is none.
    pub async fn snapshot_all(&self) -> Vec<String> {
        let view = self.cloud.store.view();
        let mut missed = Vec::new();
        for (_, cluster) in view.list_as::<Cluster>(keys::CLUSTERS) {
            let Some(slot) = view.get_as::<ControlPlaneSlot>(&keys::slot(&cluster.slot)) else { continue };
            if let Err(error) = etcd::take(self, &slot).await {
                tracing::warn!(cluster = cluster.name, %error, "no snapshot of it");
                missed.push(cluster.name);
            }
        }
        missed
    }

    /// What belongs to a control plane on disk: keys, flags' files, etcd's data.
    pub(crate) fn slot_directory(&self, slot: &str) -> PathBuf {
        self.cloud.home.join("slots").join(slot)
    }
}

/// Every operation of this crate.
pub fn serve(router: &mut Router, eks: &Eks) {
    api::serve(router, eks);
}

//! etcd's data: before it starts, and when it says that they are damaged.

use super::{ClusterError, ClusterReconciler, ETCD};
use crate::control_plane::flags;
use crate::etcd;
use ekstra_domain::eks::{Cluster, ControlPlaneSlot, Restored};
use ekstra_engine::blocking;
use ekstra_store::{CommitError, Txn};

impl ClusterReconciler {
    /// Finishes a restore that was interrupted. Data that are not there, though there is a snapshot of them, were left
    /// out of a backup.
    pub(super) async fn prepare_data(
        &self,
        cluster: &Cluster,
        slot: &ControlPlaneSlot,
    ) -> Result<(), ClusterError> {
        let (programs, version) = (self.eks.programs.clone(), cluster.version.clone());
        let (files, now) = (self.eks.files(&slot.id), self.eks.cloud.env.now_ms());
        blocking(move || {
            etcd::finish(&files)?;
            if !files.etcd_data().exists() {
                let tool = programs.control_plane("etcdutl", &version).map_err(ClusterError::Program)?;
                etcd::restore(&files, &tool, now)?;
            }
            Ok(())
        })
        .await
    }

    /// By etcd's own last words.
    pub(super) async fn is_damaged(&self, slot: &ControlPlaneSlot) -> bool {
        let log = flags::log(&self.eks, slot, ETCD);
        blocking(move || etcd::is_damaged(&log)).await.unwrap_or(false)
    }

    pub(super) async fn restore_data(
        &self,
        key: &str,
        cluster: &Cluster,
        slot: &ControlPlaneSlot,
    ) -> Result<(), ClusterError> {
        let (programs, version) = (self.eks.programs.clone(), cluster.version.clone());
        let (files, now) = (self.eks.files(&slot.id), self.eks.cloud.env.now_ms());
        let restored = blocking(move || {
            let tool = programs.control_plane("etcdutl", &version).map_err(ClusterError::Program)?;
            Ok::<_, ClusterError>(etcd::restore(&files, &tool, now)?)
        });
        let Some(snapshot_ms) = restored.await? else {
            let log = format!("{}-{ETCD}", slot.id);
            return Err(ClusterError::Damaged { log });
        };
        tracing::warn!(
            cluster = cluster.name,
            snapshot_ms,
            "etcd's data were damaged; restored from a snapshot"
        );
        self.restarts.forget(&slot.child(ETCD));
        let body = |txn: &mut Txn| {
            if let Some(mut cluster) = txn.get::<Cluster>(key)? {
                cluster.restored = Some(Restored { at_ms: now, snapshot_ms });
                txn.put(key, &cluster)?;
            }
            Ok::<_, CommitError>(())
        };
        Ok(self.eks.cloud.store.transact(body).await?)
    }
}

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
        let files = self.eks.files(&slot.id);
        let is_there = blocking(move || {
            etcd::finish(&files)?;
            Ok::<_, ClusterError>(files.etcd_data().exists())
        });
        if !is_there.await? {
            self.take_snapshot_back(cluster, slot, self.eks.cloud.env.now_ms()).await?;
        }
        Ok(())
    }

    /// Answers when the snapshot was taken; `None`: there is none.
    async fn take_snapshot_back(
        &self,
        cluster: &Cluster,
        slot: &ControlPlaneSlot,
        now_ms: i64,
    ) -> Result<Option<i64>, ClusterError> {
        let (programs, version) = (self.eks.programs.clone(), cluster.version.clone());
        let (files, site) = (self.eks.files(&slot.id), slot.site.clone());
        blocking(move || {
            let tool = programs.control_plane("etcdutl", &version).map_err(ClusterError::Program)?;
            Ok(etcd::restore(&files, &site, &tool, now_ms)?)
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
        let now = self.eks.cloud.env.now_ms();
        let Some(snapshot_ms) = self.take_snapshot_back(cluster, slot, now).await? else {
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

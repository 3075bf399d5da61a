//! The snapshot reconciler: a copy for every record.

use super::{snapshot_file, volume_file};
use crate::{Cloud, on_host};
use ekstra_domain::ec2::{Snapshot, SnapshotState, Volume, VolumeState};
use ekstra_domain::names::keys;
use ekstra_engine::{Next, Reconciler};
use ekstra_host::{ChildId, Host, HostError, SnapshotSpec};
use ekstra_store::{CommitError, Txn};
use futures::FutureExt;
use futures::future::BoxFuture;
use std::sync::Arc;
use std::time::Duration;

/// How soon to look again whether a volume has been filled from a snapshot that shall go.
const VOLUME_POLL: Duration = Duration::from_millis(200);

/// Keeps every snapshot as its record says.
#[derive(Debug)]
pub struct SnapshotReconciler {
    pub cloud: Cloud,
    pub host: Arc<dyn Host>,
}

#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Store(#[from] CommitError),
}

impl Reconciler for SnapshotReconciler {
    type Error = SnapshotError;

    fn name(&self) -> &'static str {
        "snapshot"
    }

    fn keys(&self) -> Vec<String> {
        self.cloud.store.view().list(keys::SNAPSHOTS).into_iter().map(|(key, _)| key.to_string()).collect()
    }

    fn affected(&self, changed: &str) -> Vec<String> {
        if changed.starts_with(keys::SNAPSHOTS) { vec![changed.to_owned()] } else { Vec::new() }
    }

    fn reconcile(&self, key: String) -> BoxFuture<'_, Result<Next, SnapshotError>> {
        async move {
            let Some(snapshot) = self.cloud.store.view().get_as::<Snapshot>(&key) else {
                return Ok(Next::OnChange);
            };
            match snapshot.state {
                _ if snapshot.deleting => self.remove(&key, &snapshot).await,
                SnapshotState::Pending => self.make(&key, &snapshot).await,
                SnapshotState::Completed | SnapshotState::Error => Ok(Next::OnChange),
            }
        }
        .boxed()
    }
}

impl SnapshotReconciler {
    fn volume(&self, snapshot: &Snapshot) -> Option<Volume> {
        self.cloud.store.view().get_as(&keys::volume(&snapshot.scope, &snapshot.volume))
    }

    fn spec(&self, snapshot: &Snapshot) -> SnapshotSpec {
        let attachment = self.volume(snapshot).and_then(|volume| volume.attachment);
        SnapshotSpec {
            volume: volume_file(&self.cloud, &snapshot.volume),
            to: snapshot_file(&self.cloud, &snapshot.id),
            instance: attachment.map(|attachment| ChildId(attachment.instance)),
        }
    }

    async fn make(&self, key: &str, snapshot: &Snapshot) -> Result<Next, SnapshotError> {
        let spec = self.spec(snapshot);
        tracing::info!(snapshot = snapshot.id, volume = snapshot.volume, "copying");
        on_host(&self.host, move |host| host.ensure_snapshot(&spec)).await?;
        let now = self.cloud.env.now_ms();
        let body = |txn: &mut Txn| {
            if let Some(mut snapshot) = txn.get::<Snapshot>(key)? {
                snapshot.state = SnapshotState::Completed;
                snapshot.completed_ms = Some(now);
                txn.put(key, &snapshot)?;
            }
            Ok::<_, CommitError>(())
        };
        self.cloud.store.transact(body).await?;
        Ok(Next::OnChange)
    }

    async fn remove(&self, key: &str, snapshot: &Snapshot) -> Result<Next, SnapshotError> {
        let volumes =
            self.cloud.store.view().list_as::<Volume>(&keys::scoped(keys::VOLUMES, &snapshot.scope));
        let fills =
            |v: &Volume| v.state == VolumeState::Creating && v.snapshot.as_ref() == Some(&snapshot.id);
        if volumes.iter().any(|(_, volume)| fills(volume)) {
            return Ok(Next::After(VOLUME_POLL));
        }
        let spec = self.spec(snapshot);
        on_host(&self.host, move |host| host.remove_snapshot(&spec)).await?;
        let body = |txn: &mut Txn| {
            txn.delete(key);
            Ok::<_, CommitError>(())
        };
        self.cloud.store.transact(body).await?;
        Ok(Next::OnChange)
    }
}

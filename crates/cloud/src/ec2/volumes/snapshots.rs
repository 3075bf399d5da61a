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
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How soon to look again whether another snapshot of the volume is made.
const TURN: Duration = Duration::from_millis(500);
/// Copies that fail in a row before a snapshot counts as failed.
const ATTEMPTS: u32 = 5;
/// How soon to look again whether a volume has been filled from a snapshot that shall go.
const VOLUME_POLL: Duration = Duration::from_millis(200);

/// Keeps every snapshot as its record says.
#[derive(Debug)]
pub struct SnapshotReconciler {
    cloud: Cloud,
    host: Arc<dyn Host>,
    /// Copies that failed, by key.
    failures: Mutex<HashMap<String, u32>>,
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
    pub fn new(cloud: Cloud, host: Arc<dyn Host>) -> Self {
        Self { cloud, host, failures: Mutex::default() }
    }

    /// One copy of a volume at a time, in the order in which they were asked for.
    fn must_wait(&self, snapshot: &Snapshot) -> bool {
        let order = |s: &Snapshot| (s.started_ms, s.id.clone());
        let prefix = keys::scoped(keys::SNAPSHOTS, &snapshot.scope);
        let all = self.cloud.store.view().list_as::<Snapshot>(&prefix);
        let is_before = |s: &Snapshot| {
            let copies = s.state == SnapshotState::Pending && !s.deleting;
            copies && s.volume == snapshot.volume && order(s) < order(snapshot)
        };
        all.iter().any(|(_, s)| is_before(s))
    }

    /// What lasts is told as a failure; anything else is tried again.
    async fn note_failure(&self, key: &str, error: &HostError) -> Result<bool, SnapshotError> {
        let count = {
            let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
            let count = failures.entry(key.to_owned()).or_default();
            *count += 1;
            *count
        };
        if count < ATTEMPTS && !error.is_lack_of_room() {
            return Ok(false);
        }
        self.end(key, SnapshotState::Error, Some(error.to_string())).await?;
        Ok(true)
    }

    async fn end(
        &self,
        key: &str,
        state: SnapshotState,
        message: Option<String>,
    ) -> Result<(), SnapshotError> {
        let now = self.cloud.env.now_ms();
        let body = |txn: &mut Txn| {
            if let Some(mut snapshot) = txn.get::<Snapshot>(key)? {
                snapshot.state = state;
                snapshot.state_message = message.clone();
                snapshot.completed_ms = (state == SnapshotState::Completed).then_some(now);
                txn.put(key, &snapshot)?;
            }
            Ok::<_, CommitError>(())
        };
        Ok(self.cloud.store.transact(body).await?)
    }

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
        if self.must_wait(snapshot) {
            return Ok(Next::After(TURN));
        }
        let spec = self.spec(snapshot);
        tracing::info!(snapshot = snapshot.id, volume = snapshot.volume, "copying");
        match on_host(&self.host, move |host| host.ensure_snapshot(&spec)).await {
            Ok(()) => self.end(key, SnapshotState::Completed, None).await?,
            Err(error) if self.note_failure(key, &error).await? => {
                tracing::warn!(snapshot = snapshot.id, %error, "given up");
            }
            Err(error) => return Err(error.into()),
        }
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
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

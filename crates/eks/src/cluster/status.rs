//! What a cluster's record says of it: its status, what is awaited, what is wrong.

use super::{ClusterError, ClusterReconciler, HOPELESS};
use crate::control_plane::{flags, log_end};
use crate::updates;
use ekstra_domain::eks::{Cluster, ClusterStatus, ControlPlaneSlot, HealthIssue, UpdateOf};
use ekstra_domain::names::keys;
use ekstra_engine::blocking;
use ekstra_store::{CommitError, Txn};
use std::io;
use std::path::Path;

impl ClusterReconciler {
    pub(super) async fn mark_active(&self, key: &str) -> Result<(), ClusterError> {
        let body = |txn: &mut Txn| {
            let Some(mut cluster) = txn.get::<Cluster>(key)? else {
                return Ok(());
            };
            if !matches!(cluster.status, ClusterStatus::Creating | ClusterStatus::Updating) {
                return Ok(());
            }
            cluster.status = ClusterStatus::Active;
            cluster.progress = None;
            cluster.unready_since_ms = None;
            cluster.issues.clear();
            updates::finish(txn, &keys::updates(&cluster.scope, &cluster.name), UpdateOf::Cluster)?;
            Ok::<_, CommitError>(txn.put(key, &cluster)?)
        };
        Ok(self.eks.cloud.store.transact(body).await?)
    }

    /// Gives a cluster up; what the programs had to say is in their logs.
    pub(super) async fn mark_failed(&self, key: &str, slot: &ControlPlaneSlot) -> Result<(), ClusterError> {
        self.change_new(key, |cluster| {
            cluster.status = ClusterStatus::Failed;
            cluster.progress = None;
            if cluster.issues.is_empty() {
                let message = format!(
                    "The API server did not become ready in time; see the logs {0}-kube-apiserver and {0}-etcd",
                    slot.id
                );
                cluster.issues = vec![internal_failure(message)];
            }
        })
        .await
    }

    /// A program ends as soon as it is started: DescribeCluster has its last words while the cluster is created.
    pub(super) async fn note_loop(
        &self,
        key: &str,
        cluster: &Cluster,
        slot: &ControlPlaneSlot,
        program: &str,
    ) -> Result<(), ClusterError> {
        if cluster.status != ClusterStatus::Creating || self.restarts.row(&slot.child(program)) < HOPELESS {
            return Ok(());
        }
        let log = flags::log(&self.eks, slot, program);
        let words = blocking(move || last_words(&log)).await.unwrap_or_default();
        let message = format!("{program} ends again and again: {words} (log {}-{program})", slot.id);
        self.note_trouble(key, &message).await
    }

    pub(super) async fn note_progress(&self, key: &str, progress: &str) -> Result<(), ClusterError> {
        let now = self.begin_waiting(key);
        self.change_new(key, |cluster| {
            cluster.progress = Some(progress.to_owned());
            cluster.unready_since_ms.get_or_insert(now);
        })
        .await
    }

    /// A step failed: DescribeCluster says why while it is tried again.
    pub(super) async fn note_trouble(&self, key: &str, message: &str) -> Result<(), ClusterError> {
        let now = self.begin_waiting(key);
        self.change_new(key, |cluster| {
            cluster.issues = vec![internal_failure(message.to_owned())];
            cluster.unready_since_ms.get_or_insert(now);
        })
        .await
    }

    /// From here on the limit counts, if it does not already. Answers the time of day.
    fn begin_waiting(&self, key: &str) -> i64 {
        let env = &self.eks.cloud.env;
        self.waits.elapsed_ms(env, key);
        env.now_ms()
    }

    /// Changes the record of a cluster that is still being created.
    pub(super) async fn change_new(
        &self,
        key: &str,
        change: impl Fn(&mut Cluster),
    ) -> Result<(), ClusterError> {
        let body = |txn: &mut Txn| {
            if let Some(before) = txn.get::<Cluster>(key)?
                && before.status == ClusterStatus::Creating
            {
                let mut after = before.clone();
                change(&mut after);
                if after != before {
                    txn.put(key, &after)?;
                }
            }
            Ok::<_, CommitError>(())
        };
        Ok(self.eks.cloud.store.transact(body).await?)
    }
}

/// The last line of a log, as much of it as fits into a message.
fn last_words(log: &Path) -> io::Result<String> {
    const END: u64 = 4096;
    const LONGEST: usize = 300;
    let end = log_end(log, END)?;
    Ok(end.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default().chars().take(LONGEST).collect())
}

fn internal_failure(message: String) -> HealthIssue {
    HealthIssue { code: "InternalFailure".to_owned(), message, resource_ids: Vec::new() }
}

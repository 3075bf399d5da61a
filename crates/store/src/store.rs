//! The writer: optimistic transactions, group commit on one thread.
//!
//! Invariant: a commit becomes visible in memory only after it is on disk.

use crate::Revision;
use crate::disk::{Disk, OpenError, copy};
use crate::memory::{Change, View};
use crate::txn::{MAX_WRITES, Txn, TxnError};
use std::path::Path;
use std::sync::mpsc;
use std::sync::{Arc, OnceLock};
use tokio::sync::{oneshot, watch};

/// Commits that one disk write may carry.
const GROUP: usize = 64;
/// Attempts of [`Store::transact`] before it gives up on a contended key.
const ATTEMPTS: usize = 32;

/// Why nothing was committed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    #[error("{key} changed meanwhile")]
    Conflict { key: Arc<str> },
    #[error("a transaction of {writes} writes (at most {MAX_WRITES})")]
    TooLarge { writes: usize },
    #[error("the state could not be written: {0}")]
    Disk(Arc<rusqlite::Error>),
    #[error("the store is closed")]
    Closed,
    #[error(transparent)]
    Txn(#[from] TxnError),
}

#[derive(Debug)]
struct Job {
    txn: Txn,
    reply: oneshot::Sender<Result<Revision, CommitError>>,
}

/// The single writer of a state file; cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    path: Arc<Path>,
    on_commit: Arc<OnceLock<fn()>>,
    view: View,
    jobs: mpsc::SyncSender<Job>,
    head: watch::Receiver<Revision>,
}

impl Store {
    /// Opens or creates the file and starts the writer thread, which ends with the last clone.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let disk = Disk::open_writer(path)?;
        let wrap = |source| OpenError::Sqlite { path: path.to_owned(), source };
        let view = View::new(disk.load().map_err(wrap)?);
        let (jobs, queue) = mpsc::sync_channel(1024);
        let (publish, head) = watch::channel(view.revision());
        let on_commit = Arc::<OnceLock<fn()>>::default();
        let writer = Writer { disk, view: view.clone(), publish, on_commit: on_commit.clone() };
        std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run(&queue))
            .map_err(|e| OpenError::Corrupt { path: path.to_owned(), detail: e.to_string() })?;
        Ok(Self { path: path.into(), on_commit, view, jobs, head })
    }

    /// Called after every commit, before whoever asked for it knows. The first one stays.
    pub fn on_commit(&self, hook: fn()) {
        let _ = self.on_commit.set(hook);
    }

    /// Writes what is committed now into a new file, which is a state of its own. Blocks; writers go on meanwhile.
    pub fn copy_to(&self, to: &Path) -> Result<(), OpenError> {
        copy(&self.path, to)
    }

    pub fn view(&self) -> &View {
        &self.view
    }

    /// Sees every new revision.
    pub fn head(&self) -> watch::Receiver<Revision> {
        self.head.clone()
    }

    /// Completes when it is so, also if it was before anybody listened; or when nothing can be committed any more.
    pub async fn until(&self, is_so: impl Fn(&View) -> bool) {
        let mut head = self.head();
        while !is_so(self.view()) && head.changed().await.is_ok() {}
    }

    /// Completes when nothing can be committed any more: the writer's thread is gone.
    pub async fn closed(&self) {
        let mut head = self.head();
        while head.changed().await.is_ok() {}
    }

    pub fn begin(&self) -> Txn {
        Txn::new(self.view.clone())
    }

    pub async fn commit(&self, txn: Txn) -> Result<Revision, CommitError> {
        if txn.is_read_only() {
            return Ok(self.view.revision());
        }
        if txn.write_count() > MAX_WRITES {
            return Err(CommitError::TooLarge { writes: txn.write_count() });
        }
        let (reply, answer) = oneshot::channel();
        // The queue is far longer than the number of concurrent requests; a full one is back-pressure.
        let jobs = self.jobs.clone();
        let sent = match jobs.try_send(Job { txn, reply }) {
            Ok(()) => true,
            Err(mpsc::TrySendError::Full(job)) => {
                tokio::task::spawn_blocking(move || jobs.send(job).is_ok()).await.unwrap_or(false)
            }
            Err(mpsc::TrySendError::Disconnected(_)) => false,
        };
        if !sent {
            return Err(CommitError::Closed);
        }
        answer.await.unwrap_or(Err(CommitError::Closed))
    }

    /// Runs `body` on a fresh transaction until it commits without conflict. `body` must have no other effect.
    pub async fn transact<T, E>(&self, mut body: impl FnMut(&mut Txn) -> Result<T, E>) -> Result<T, E>
    where
        E: From<CommitError>,
    {
        let mut attempt = 0;
        loop {
            let mut txn = self.begin();
            let value = body(&mut txn)?;
            match self.commit(txn).await {
                Ok(_) => return Ok(value),
                Err(CommitError::Conflict { .. }) if attempt < ATTEMPTS => attempt += 1,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

struct Writer {
    disk: Disk,
    view: View,
    publish: watch::Sender<Revision>,
    on_commit: Arc<OnceLock<fn()>>,
}

impl Writer {
    fn run(mut self, queue: &mpsc::Receiver<Job>) {
        while let Ok(first) = queue.recv() {
            let mut group = vec![first];
            while group.len() < GROUP
                && let Ok(next) = queue.try_recv()
            {
                group.push(next);
            }
            self.commit_group(group);
        }
    }

    /// Jobs that conflict are sent back last, so that whoever tries again sees what they conflicted with.
    fn commit_group(&mut self, group: Vec<Job>) {
        let mut revision = self.view.revision();
        let mut commits: Vec<(Revision, Vec<Change>)> = Vec::new();
        let mut accepted = Vec::new();
        let mut refused = Vec::new();
        for job in group {
            let conflict = {
                let state = self.view.read();
                job.txn.conflict(&state).or_else(|| clash(&job.txn, &commits))
            };
            if let Some(key) = conflict {
                refused.push((key, job.reply));
                continue;
            }
            revision += 1;
            commits.push((revision, job.txn.changes()));
            accepted.push((revision, job.reply));
        }
        let result = self.persist(revision, &commits);
        for (revision, reply) in accepted {
            answer(reply, result.as_ref().map(|()| revision).map_err(|e| CommitError::Disk(e.clone())));
        }
        for (key, reply) in refused {
            answer(reply, Err(CommitError::Conflict { key }));
        }
    }

    fn persist(
        &mut self,
        revision: Revision,
        commits: &[(Revision, Vec<Change>)],
    ) -> Result<(), Arc<rusqlite::Error>> {
        if commits.is_empty() {
            return Ok(());
        }
        self.disk.append(commits).map_err(|error| {
            tracing::error!(%error, "commit failed");
            Arc::new(error)
        })?;
        if let Some(hook) = self.on_commit.get() {
            hook();
        }
        let mut state = self.view.write();
        for (revision, changes) in commits {
            state.apply(*revision, changes);
        }
        drop(state);
        self.publish.send_replace(revision);
        Ok(())
    }
}

/// A caller that hung up does not want to know.
fn answer(reply: oneshot::Sender<Result<Revision, CommitError>>, result: Result<Revision, CommitError>) {
    let _ = reply.send(result);
}

fn clash(txn: &Txn, commits: &[(Revision, Vec<Change>)]) -> Option<Arc<str>> {
    let mut written = commits.iter().flat_map(|(_, changes)| changes.iter());
    written.find(|change| txn.depends_on(&change.key)).map(|change| change.key.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::State;
    use std::time::Duration;

    #[tokio::test]
    async fn a_dead_writer_is_noticed_and_nobody_waits_for_it() {
        let (jobs, queue) = mpsc::sync_channel::<Job>(1);
        let (publish, head) = watch::channel(0);
        let store = Store {
            path: Path::new("none").into(),
            on_commit: Arc::default(),
            view: View::new(State::default()),
            jobs,
            head,
        };
        let writer = std::thread::spawn(move || {
            let (_queue, _publish) = (&queue, &publish);
            let _job = queue.recv();
            panic!("on purpose");
        });
        let mut txn = store.begin();
        txn.put("k", &1).expect("encodes");
        let patience = Duration::from_secs(20);
        let refused = tokio::time::timeout(patience, store.commit(txn)).await.expect("is answered");
        assert!(matches!(refused, Err(CommitError::Closed)), "{refused:?}");
        tokio::time::timeout(patience, store.closed()).await.expect("is noticed");
        assert!(writer.join().is_err());
    }
}

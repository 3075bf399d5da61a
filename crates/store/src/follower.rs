//! A reader in another process that keeps up with the commit log.
//!
//! Caveat: it is a few milliseconds behind ([`POLL`]); whoever needs the newest state asks the writer.

mod doorbell;

use crate::Revision;
use crate::disk::{Disk, OpenError};
use crate::memory::View;
use doorbell::Doorbell;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How often the file's version is looked at while a commit is under way: SQLite writes it to the log, syncs, and only
/// then lets readers see it.
const POLL: Duration = Duration::from_millis(5);
/// After this a write that showed nothing was no commit (a checkpoint, a transaction that was rolled back).
const UNDER_WAY: Duration = Duration::from_secs(1);
/// How often it is looked at otherwise, should the kernel have told nothing.
const QUIET: Duration = Duration::from_millis(500);

/// A followed state; dropping it ends its thread, within [`QUIET`].
#[derive(Debug)]
pub struct Follower {
    view: View,
    head: watch::Receiver<Revision>,
    stop: Arc<AtomicBool>,
}

impl Follower {
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let disk = Disk::open_reader(path)?;
        let doorbell = Doorbell::of(path)
            .inspect_err(|error| tracing::warn!(%error, "the state file cannot be watched; polling it"))
            .ok();
        let wrap = |source| OpenError::Sqlite { path: path.to_owned(), source };
        let view = View::new(disk.load().map_err(wrap)?);
        let (publish, head) = watch::channel(view.revision());
        let stop = Arc::new(AtomicBool::new(false));
        let (thread_view, thread_stop) = (view.clone(), stop.clone());
        std::thread::Builder::new()
            .name("store-follower".into())
            .spawn(move || follow(&disk, doorbell.as_ref(), &thread_view, &publish, &thread_stop))
            .map_err(|e| OpenError::Corrupt { path: path.to_owned(), detail: e.to_string() })?;
        Ok(Self { view, head, stop })
    }

    pub fn view(&self) -> &View {
        &self.view
    }

    pub fn head(&self) -> watch::Receiver<Revision> {
        self.head.clone()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn follow(
    disk: &Disk,
    doorbell: Option<&Doorbell>,
    view: &View,
    publish: &watch::Sender<Revision>,
    stop: &AtomicBool,
) {
    let mut seen = None;
    // When the commit that is under way was first heard of.
    let mut written = Some(Instant::now());
    while !stop.load(Ordering::Relaxed) {
        // Before the version is looked at: what is written after it rings again.
        let rung = doorbell.is_none_or(Doorbell::rung);
        if rung {
            written = Some(Instant::now());
        }
        match look(disk, view, &mut seen) {
            Ok(true) => {
                publish.send_replace(view.revision());
                if !rung {
                    written = None;
                }
            }
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "the state file could not be read; trying again"),
        }
        match doorbell {
            Some(bell) if written.is_none_or(|at| at.elapsed() >= UNDER_WAY) => bell.wait(QUIET),
            _ => std::thread::sleep(POLL),
        }
    }
}

/// Whether there was something new.
fn look(disk: &Disk, view: &View, seen: &mut Option<i64>) -> rusqlite::Result<bool> {
    let version = disk.data_version()?;
    if *seen == Some(version) {
        return Ok(false);
    }
    catch_up(disk, view)?;
    *seen = Some(version);
    Ok(true)
}

fn catch_up(disk: &Disk, view: &View) -> rusqlite::Result<()> {
    match disk.commits_after(view.revision())? {
        Some(commits) => {
            let mut state = view.write();
            for (revision, changes) in &commits {
                state.apply(*revision, changes);
            }
        }
        None => *view.write() = disk.load()?,
    }
    Ok(())
}

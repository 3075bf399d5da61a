//! A reader in another process that keeps up with the commit log.
//!
//! Caveat: it is a few milliseconds behind ([`POLL`]); whoever needs the newest state asks the writer.

use crate::Revision;
use crate::disk::{Disk, OpenError};
use crate::memory::View;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::watch;

/// How often the file's data version is looked at (one read of shared memory).
const POLL: Duration = Duration::from_millis(15);

/// A followed state; dropping it ends its thread.
#[derive(Debug)]
pub struct Follower {
    view: View,
    head: watch::Receiver<Revision>,
    stop: Arc<AtomicBool>,
}

impl Follower {
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let disk = Disk::open_reader(path)?;
        let wrap = |source| OpenError::Sqlite { path: path.to_owned(), source };
        let view = View::new(disk.load().map_err(wrap)?);
        let (publish, head) = watch::channel(view.revision());
        let stop = Arc::new(AtomicBool::new(false));
        let (thread_view, thread_stop) = (view.clone(), stop.clone());
        std::thread::Builder::new()
            .name("store-follower".into())
            .spawn(move || follow(&disk, &thread_view, &publish, &thread_stop))
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

fn follow(disk: &Disk, view: &View, publish: &watch::Sender<Revision>, stop: &AtomicBool) {
    let mut seen = None;
    while !stop.load(Ordering::Relaxed) {
        match disk.data_version() {
            Ok(version) if seen != Some(version) => match catch_up(disk, view) {
                Ok(()) => {
                    seen = Some(version);
                    publish.send_replace(view.revision());
                }
                Err(error) => tracing::warn!(%error, "the commit log could not be read; trying again"),
            },
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "the state file could not be read; trying again"),
        }
        std::thread::sleep(POLL);
    }
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

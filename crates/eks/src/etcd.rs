//! etcd's data: snapshots of it now and then, and what is done when it is damaged.
//!
//! Invariant: a snapshot with its final name is whole (etcd's own sum at its end is right), and data that was damaged is
//! moved aside, never deleted.

mod client;
mod damage;
mod restore;
mod snapshots;

pub(crate) use client::connect;
pub(crate) use damage::is_damaged;
pub(crate) use restore::{finish, restore};
pub use snapshots::EtcdSnapshots;
pub(crate) use snapshots::take;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Below a slot's directory; they go with the slot.
const DIRECTORY: &str = "snapshots";

#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    #[error("etcd: {0}")]
    Connect(std::io::Error),
    #[error("etcd: {0}")]
    Answer(String),
    #[error("{path}: {source}")]
    File { path: PathBuf, source: std::io::Error },
    #[error("etcdutl: {0}")]
    Tool(String),
}

fn file_error(path: &Path) -> impl FnOnce(std::io::Error) -> EtcdError {
    let path = path.to_owned();
    move |source| EtcdError::File { path, source }
}

/// The new name is on disk when this returns.
fn rename(from: &Path, to: &Path) -> Result<(), EtcdError> {
    fs::rename(from, to).map_err(file_error(to))?;
    let directory = to.parent().unwrap_or(Path::new("/"));
    File::open(directory).and_then(|d| d.sync_all()).map_err(file_error(directory))
}

//! What can go wrong on the way to a node image.

use std::io;
use std::path::PathBuf;

use crate::error::EnsureError;

/// How the lock is renewed, and how it is set aside.
pub(crate) const RELOCK: &str = "renew the lock in a checkout: `cargo run --release -p ekstra-components \
    --example relock`; or take current versions this once: EKSTRA_NODE_IMAGE_UNLOCKED=1";

/// Why a node image could not be had. The variant is the step that failed.
#[derive(Debug, thiserror::Error)]
pub enum NodeImageError {
    #[error(transparent)]
    Ensure(#[from] EnsureError),
    #[error("making the node image takes root: file owners and chroot")]
    NeedsRoot,
    #[error("the node image's package lock, line {line}: {reason}")]
    Lock { line: usize, reason: &'static str },
    #[error("there is no node image for {host}: no packages are locked for it")]
    Architecture { host: String },
    #[error("the archive no longer has {}; {RELOCK}", packages.join(", "))]
    VersionGone { packages: Vec<String> },
    #[error("{file} is not what the lock says: SHA-256 {found}, locked {locked}; {RELOCK}")]
    Digest { file: PathBuf, found: String, locked: String },
    #[error("{step} failed; the last lines are\n{tail}\nand the whole log is {log}")]
    Command { step: String, tail: String, log: PathBuf },
    #[error("{step}, {path}: {source}")]
    Files { step: &'static str, path: PathBuf, source: io::Error },
}

impl NodeImageError {
    /// For `map_err` on a file operation.
    pub(crate) fn files(
        step: &'static str,
        path: &std::path::Path,
    ) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Files { step, path, source }
    }
}

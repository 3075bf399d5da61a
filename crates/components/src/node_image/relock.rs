//! Renews `components/node-image/packages.*.lock`. For developers of ekstra, when Debian has published updates:
//!
//! ```text
//! cargo run --release -p ekstra-components --example relock
//! ```
//! Invariant: writes only what apt resolved and verified just now.

use std::fs;
use std::path::Path;

use super::{NodeImageError, base, spec::Spec};
use crate::embedded;
use crate::store::Store;

/// Resolves the node image's packages for every architecture that has a lock, whatever the host's is, against
/// the host's Debian sources (else Debian's own mirror), and writes the lock files. Returns how many packages
/// each names. Needs no root.
pub fn relock(store: &Store, dir: &Path) -> Result<Vec<(&'static str, usize)>, NodeImageError> {
    let one = |architecture: &'static str| {
        let lock = base::current(store, architecture)?;
        let file = dir.join(format!("packages.{architecture}.lock"));
        let text = lock.render(&Spec::get().suite);
        fs::write(&file, text).map_err(NodeImageError::files("writing the lock", &file))?;
        Ok((architecture, lock.packages.len()))
    };
    embedded::PACKAGE_LOCKS.iter().map(|(architecture, _)| one(architecture)).collect()
}

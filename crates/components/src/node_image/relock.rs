//! Renews `components/node-image/packages.lock`. For developers of ekstra, when Debian has published updates:
//!
//! ```text
//! cargo run --release -p ekstra-components --example relock
//! ```
//! Invariant: writes only what apt resolved and verified just now.

use std::fs;
use std::path::Path;

use super::{NodeImageError, base, spec::Spec};
use crate::store::Store;

/// Resolves the node image's packages against the host's Debian sources (else Debian's own mirror) and
/// writes the lock file. Returns how many packages it names. Needs no root.
pub fn relock(store: &Store, lock_file: &Path) -> Result<usize, NodeImageError> {
    let lock = base::current(store)?;
    let text = lock.render(&Spec::get().suite);
    fs::write(lock_file, text).map_err(NodeImageError::files("writing the lock", lock_file))?;
    Ok(lock.packages.len())
}

//! Bundles: the components of one Kubernetes release in one file, for machines that build nothing.
//!
//! A bundle is a zstd-compressed tar of directories as they lie in the cache, led by [`MANIFEST`], which names every
//! file with its digest. Device nodes of the node image are left out: instances have a `/dev` of their own.
//!
//! Invariant: nothing of a bundle gets a name in the cache before the digest of the whole, which the user gave, and that
//! of each of its files have been compared.

mod pack;
mod spec;
mod unpack;

use crate::error::EnsureError;
use crate::node_image::NodeImageError;
use crate::recipe::KubernetesVersion;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

pub use pack::Packed;
pub use spec::{Bundle, Origin, Prebuilt};

/// The first entry of the tar.
const MANIFEST: &str = "bundle.json";
/// Raised when an older ekstra could not read it.
const FORMAT: u32 = 1;
/// In the directory of a component that came in a bundle: whichever Go this machine has, it counts.
pub(crate) const MARK: &str = "from-bundle";

/// Why a bundle could not be made or taken. The variant is the step that failed.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    #[error(transparent)]
    Ensure(#[from] EnsureError),
    #[error(transparent)]
    NodeImage(#[from] NodeImageError),
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error("fetching {url}: {reason}")]
    Fetch { url: String, reason: String },
    #[error("{origin} has the digest sha256:{found}, not sha256:{given}: nothing of it was taken")]
    Digest { origin: String, found: String, given: String },
    #[error("{origin} is not a bundle of components: {reason}")]
    Malformed { origin: String, reason: String },
    #[error("{origin} is for {found}, and this machine is {own}")]
    Architecture { origin: String, found: String, own: &'static str },
}

impl BundleError {
    fn file(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }
}

/// What [`MANIFEST`] holds.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Manifest {
    format: u32,
    /// As Rust spells it: `x86_64`.
    architecture: String,
    /// `1.36.3`.
    kubernetes: String,
    /// Under the cache's directory; each is complete.
    directories: Vec<String>,
    /// Path under the cache's directory to the SHA-256 of the regular file, in hex.
    files: BTreeMap<String, String>,
}

impl Manifest {
    fn new(kubernetes: &KubernetesVersion) -> Self {
        Self {
            format: FORMAT,
            architecture: std::env::consts::ARCH.to_owned(),
            kubernetes: kubernetes.version.clone(),
            directories: Vec::new(),
            files: BTreeMap::new(),
        }
    }
}

/// Passes bytes on and hashes them.
struct Hashing<T> {
    inner: T,
    hasher: Sha256,
}

impl<T> Hashing<T> {
    fn new(inner: T) -> Self {
        Self { inner, hasher: Sha256::new() }
    }

    fn digest(self) -> String {
        hex::encode(self.hasher.finalize())
    }
}

impl<T: Read> Read for Hashing<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}

impl<T: Write> Write for Hashing<T> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.hasher.update(&buffer[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Of everything that is left to read.
fn digest_of(reader: impl Read) -> io::Result<String> {
    let mut hashing = Hashing::new(reader);
    io::copy(&mut hashing, &mut io::sink())?;
    Ok(hashing.digest())
}

#[cfg(test)]
mod tests;

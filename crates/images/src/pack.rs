//! A root file system into a single-layer OCI image. Invariant: the digest depends on names, modes,
//! owners, contents and options alone; not on time, machine, directory order or compressor (the layer
//! is not compressed).

mod config;
mod tree;

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use tree::{Kind, Node, Tree};

use crate::digest::Digest;
use crate::manifest::{Descriptor, OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, host_architecture, image_manifest};
use crate::reference::Reference;
use crate::spool::SpoolError;
use crate::store::{Children, ImageStore, StoreError};

/// What to make of a root file system. The fields are those of the OCI image configuration.
#[derive(Debug, Clone)]
pub struct PackOptions {
    pub name: Reference,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Absolute.
    pub workdir: Option<String>,
    /// `user`, `uid`, `user:group` or `uid:gid`.
    pub user: Option<String>,
    /// `port`, `port/tcp`, `port/udp` or `port/sctp`.
    pub exposed_ports: Vec<String>,
    pub labels: BTreeMap<String, String>,
    /// RFC 3339; fixed, so that the same input has the same digest.
    pub created: String,
    /// In Go's words.
    pub architecture: String,
    /// Owner of every file, instead of what the root file system says.
    pub owner: Option<(u64, u64)>,
}

impl PackOptions {
    /// Nothing to run, made at the epoch, for this machine's architecture, owners kept.
    pub fn new(name: Reference) -> Self {
        Self {
            name,
            entrypoint: Vec::new(),
            cmd: Vec::new(),
            env: Vec::new(),
            workdir: None,
            user: None,
            exposed_ports: Vec::new(),
            labels: BTreeMap::new(),
            created: "1970-01-01T00:00:00Z".to_owned(),
            architecture: host_architecture().to_owned(),
            owner: None,
        }
    }
}

/// The image made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// Of the manifest.
    pub digest: Digest,
    /// Devices and sockets, which were left out; each was logged as a warning.
    pub skipped: Vec<PathBuf>,
}

/// What failed while packing.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    #[error("{option} `{value}` is not {expected}")]
    Option { option: &'static str, value: String, expected: &'static str },
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is not a readable tar")]
    NotTar { path: PathBuf, source: io::Error },
    #[error("refused: `{0}` lies outside of the root file system")]
    Traversal(PathBuf),
    #[error("hard link `{0}` refers to nothing before it")]
    HardLink(PathBuf),
    #[error("`{0}` would delete a file in another layer (.wh.), it cannot be packed")]
    Whiteout(PathBuf),
    #[error("cannot write `{path}` into the layer (did it change meanwhile?)")]
    Layer { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Spool(#[from] SpoolError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Packs a directory, or a tar that may be compressed with gzip, and names the image. Extended
/// attributes are left out.
pub fn pack(store: &ImageStore, rootfs: &Path, options: &PackOptions) -> Result<Packed, PackError> {
    config::check(options)?;
    let tree = if rootfs.is_dir() { Tree::of_dir(rootfs)? } else { Tree::of_tar(store, rootfs)? };
    let layer = write_layer(store, &tree, options)?;
    let config = config::json(options, &layer.digest);
    let config = Descriptor::new(OCI_CONFIG, store.put_blob(&config)?, config.len() as u64);
    let manifest = image_manifest(OCI_MANIFEST, &config, &[layer]);
    let target = store.put_manifest(&manifest, None, Children::All)?;
    store.tag(&options.name, &target)?;
    for path in &tree.skipped {
        tracing::warn!(path = %path.display(), "a device or socket was left out of the image");
    }
    Ok(Packed { digest: target.digest, skipped: tree.skipped })
}

fn write_layer(store: &ImageStore, tree: &Tree, options: &PackOptions) -> Result<Descriptor, PackError> {
    let mut blob = store.new_blob()?;
    let mut layer = tar::Builder::new(BufWriter::with_capacity(1 << 18, &mut blob));
    let mut written = HashMap::new();
    for node in &tree.nodes {
        let failed = |source| PackError::Layer { path: node.path(), source };
        append(&mut layer, tree, node, options.owner, &mut written).map_err(failed)?;
    }
    let end = |source| PackError::Layer { path: PathBuf::from("/"), source };
    layer.into_inner().and_then(|mut buffer| buffer.flush()).map_err(end)?;
    let (digest, size) = blob.commit(None)?;
    Ok(Descriptor::new(OCI_LAYER, digest, size))
}

/// Writes one entry. The first name of a file in order carries its content, later ones link to it.
fn append<'a>(
    layer: &mut tar::Builder<impl Write>,
    tree: &Tree,
    node: &'a Node,
    owner: Option<(u64, u64)>,
    written: &mut HashMap<(u64, u64), &'a [u8]>,
) -> io::Result<()> {
    let mut header = node.header(owner);
    let path = node.path();
    match &node.kind {
        Kind::Dir => {
            header.set_entry_type(tar::EntryType::Directory);
            layer.append_data(&mut header, path.join(""), io::empty())
        }
        Kind::Fifo => {
            header.set_entry_type(tar::EntryType::Fifo);
            layer.append_data(&mut header, path, io::empty())
        }
        Kind::Symlink(target) => {
            header.set_entry_type(tar::EntryType::Symlink);
            layer.append_link(&mut header, path, as_path(target))
        }
        Kind::File { content, size } => {
            if let Some(first) = written.get(content) {
                header.set_entry_type(tar::EntryType::Link);
                return layer.append_link(&mut header, path, as_path(first));
            }
            written.insert(*content, &node.name);
            header.set_entry_type(tar::EntryType::Regular);
            header.set_size(*size);
            layer.append_data(&mut header, path, Exact { inner: tree.open(node)?, left: *size })
        }
    }
}

fn as_path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

/// Yields exactly `left` bytes or fails: a tar entry that is shorter than its header says would garble
/// all that follow.
struct Exact<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Exact<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let count = self.inner.read(&mut buffer[..want])?;
        if count == 0 && want > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= count as u64;
        Ok(count)
    }
}

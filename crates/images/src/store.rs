//! The files that images are kept in; nothing else in this crate knows where they lie.
//!
//! ```text
//! blobs/sha256/<hex>                            content, named by what it is
//! refs/<registry>/<repository>/_tags/<tag>      {mediaType, digest, size}
//! refs/<registry>/<repository>/_digests/<hex>   the same, for images known by digest alone
//! tmp/  uploads/                                unfinished writes
//! lock                                          taken shared by writers, exclusively by gc and delete
//! ```
//! (`_tags`, because repository `a/b` and tag `b` of repository `a` would otherwise be the same path; no
//! part of a repository's name starts with an underscore.)
//!
//! # Guarantees
//! Any number of processes and threads may write at once: a file appears under its name complete, synced
//! and, for blobs, verified, by one atomic rename; the last writer of a tag wins. Readers take no lock.
//! Invariant: a blob's bytes hash to its name, and a tag is written after all it needs.
//!
//! # Caveats
//! Files become visible to [`ImageStore::gc`] when nothing refers to them: a writer that stores blobs
//! first and the tag later has as long as the cutoff that gc is given. `flock` must work on the
//! file system; it does on every local one.

mod blob;
mod gc;
mod refs;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

pub use blob::BlobWriter;
pub use gc::{Collected, Deleted};
pub use refs::Image;

use crate::digest::Digest;
use crate::manifest::{Content, Descriptor, MAX_MANIFEST, Manifest, ManifestError, is_foreign};

/// A directory of images. Cheap to clone; holds no open file.
#[derive(Debug, Clone)]
pub struct ImageStore {
    dir: PathBuf,
}

/// What failed in the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot {step} {path}")]
    Io { step: &'static str, path: PathBuf, source: io::Error },
    #[error("the content is {actual}, not {expected} as declared")]
    DigestMismatch { expected: Digest, actual: Digest },
    #[error("blob {digest} is {actual} bytes long, not {expected} as declared")]
    SizeMismatch { digest: Digest, expected: u64, actual: u64 },
    #[error("cannot read the content of a blob")]
    Content(#[source] io::Error),
    #[error("{path} is not an entry of the image index")]
    CorruptRef { path: PathBuf, source: serde_json::Error },
    #[error("{0} is not a manifest")]
    Manifest(Digest, #[source] ManifestError),
    #[error("manifest {manifest} needs {child}, which is not in the store")]
    MissingChild { manifest: Digest, child: Digest },
}

impl StoreError {
    pub(crate) fn io<'a>(step: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + use<'a> {
        move |source| Self::Io { step, path: path.to_owned(), source }
    }
}

/// What a manifest must find in the store before it may be written itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Children {
    /// Every child, as for a push.
    All,
    /// Every blob of an image, but of an index only some member, as in archives saved for one platform.
    AnyPlatform,
    /// Nothing: they are fetched when somebody asks for them.
    Later,
}

impl ImageStore {
    /// Opens the store in `dir` and makes its directories (mode 0700) where they lack.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let dir = dir.into();
        for part in ["blobs/sha256", "refs", "tmp", "uploads"] {
            let path = dir.join(part);
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path)
                .map_err(StoreError::io("create", &path))?;
        }
        Ok(Self { dir })
    }

    /// Where the store is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where a blob is or would be. Read it with [`Self::open_blob`], so that gc cannot pull it away.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.dir.join("blobs/sha256").join(digest.hex())
    }

    /// The blob's size in bytes, `None` when it is not here.
    pub fn blob_size(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        let path = self.blob_path(digest);
        let found = present(fs::metadata(&path)).map_err(StoreError::io("look at", &path))?;
        Ok(found.map(|meta| meta.len()))
    }

    /// The blob's file and size in bytes, `None` when it is not here.
    pub fn open_blob(&self, digest: &Digest) -> Result<Option<(File, u64)>, StoreError> {
        let path = self.blob_path(digest);
        let Some(file) = present(File::open(&path)).map_err(StoreError::io("open", &path))? else {
            return Ok(None);
        };
        let size = file.metadata().map_err(StoreError::io("look at", &path))?.len();
        Ok(Some((file, size)))
    }

    /// Makes an existing blob young again for gc, because somebody is about to refer to it. Says whether
    /// it is here.
    pub fn keep_blob(&self, digest: &Digest) -> Result<bool, StoreError> {
        let _lock = self.lock_shared()?;
        let Some((file, _)) = self.open_blob(digest)? else {
            return Ok(false);
        };
        file.set_modified(SystemTime::now()).map_err(StoreError::io("touch", &self.blob_path(digest)))?;
        Ok(true)
    }

    /// Starts a blob whose digest need not be known yet.
    pub fn new_blob(&self) -> Result<BlobWriter, StoreError> {
        BlobWriter::new(self.clone())
    }

    /// Stores bytes that are in memory.
    pub fn put_blob(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let mut blob = self.new_blob()?;
        blob.append(bytes)?;
        Ok(blob.commit(None)?.0)
    }

    /// Stores what `content` yields, which must have this digest and, if given, size in bytes.
    pub fn copy_blob(
        &self,
        mut content: impl Read,
        expected: &Digest,
        size: Option<u64>,
    ) -> Result<(), StoreError> {
        let mut blob = self.new_blob()?;
        io::copy(&mut content, &mut blob).map_err(StoreError::Content)?;
        if let Some(size) = size.filter(|&size| size != blob.len()) {
            return Err(StoreError::SizeMismatch { digest: *expected, expected: size, actual: blob.len() });
        }
        blob.commit(Some(expected)).map(drop)
    }

    /// The manifest with this digest and its bytes, `None` when it is not here.
    pub fn manifest(&self, digest: &Digest) -> Result<Option<(Manifest, Vec<u8>)>, StoreError> {
        let Some((file, size)) = self.open_blob(digest)? else {
            return Ok(None);
        };
        if size > MAX_MANIFEST {
            return Err(StoreError::Manifest(*digest, ManifestError::TooLarge(size)));
        }
        let mut bytes = Vec::with_capacity(size as usize);
        file.take(MAX_MANIFEST)
            .read_to_end(&mut bytes)
            .map_err(StoreError::io("read", &self.blob_path(digest)))?;
        let manifest = Manifest::parse(&bytes, None).map_err(|e| StoreError::Manifest(*digest, e))?;
        Ok(Some((manifest, bytes)))
    }

    /// Stores a manifest once what it needs is here, and returns the descriptor to tag it by.
    /// `declared` is its media type where one is known from outside.
    pub fn put_manifest(
        &self,
        bytes: &[u8],
        declared: Option<&str>,
        needs: Children,
    ) -> Result<Descriptor, StoreError> {
        let digest = Digest::of(bytes);
        let manifest = Manifest::parse(bytes, declared).map_err(|e| StoreError::Manifest(digest, e))?;
        self.check_children(&digest, &manifest, needs)?;
        self.put_blob(bytes)?;
        Ok(Descriptor::new(&manifest.media_type, digest, bytes.len() as u64))
    }

    fn check_children(
        &self,
        digest: &Digest,
        manifest: &Manifest,
        needs: Children,
    ) -> Result<(), StoreError> {
        let sparse = matches!(manifest.content, Content::Index { .. }) && needs == Children::AnyPlatform;
        let mut missing = None;
        let mut found = 0;
        for child in manifest.children().filter(|child| !is_foreign(&child.media_type)) {
            if needs == Children::Later || self.keep_blob(&child.digest)? {
                found += 1;
            } else {
                missing.get_or_insert(child.digest);
            }
        }
        match missing {
            Some(child) if !(sparse && found > 0) => {
                Err(StoreError::MissingChild { manifest: *digest, child })
            }
            _ => Ok(()),
        }
    }

    /// A new, empty, private file below `tmp/` that is removed when dropped.
    pub(crate) fn temp(&self) -> Result<Temp, StoreError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        loop {
            let name = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
            let path = self.dir.join("tmp").join(name);
            let opened = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
            match opened {
                // Another process of the same number, in another PID namespace or another boot.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(StoreError::io("create", &path)(error)),
                Ok(file) => {
                    return Ok(Temp { path, file, published: false });
                }
            }
        }
    }

    pub(crate) fn upload_path(&self, name: &str) -> PathBuf {
        self.dir.join("uploads").join(name)
    }

    fn lock_file(&self) -> Result<(File, PathBuf), StoreError> {
        let path = self.dir.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(StoreError::io("open", &path))?;
        Ok((file, path))
    }

    /// Held while something is put under its name; freed on drop.
    pub(crate) fn lock_shared(&self) -> Result<File, StoreError> {
        let (file, path) = self.lock_file()?;
        file.lock_shared().map_err(StoreError::io("lock", &path))?;
        Ok(file)
    }

    /// Held while something is taken away; freed on drop.
    pub(crate) fn lock_exclusive(&self) -> Result<File, StoreError> {
        let (file, path) = self.lock_file()?;
        file.lock().map_err(StoreError::io("lock", &path))?;
        Ok(file)
    }
}

/// A private file that goes away with its owner unless it was renamed.
#[derive(Debug)]
pub(crate) struct Temp {
    pub(crate) path: PathBuf,
    pub(crate) file: File,
    published: bool,
}

impl Temp {
    /// Syncs and gives the file its name, replacing what has it.
    pub(crate) fn publish(mut self, to: &Path) -> Result<(), StoreError> {
        self.file.sync_all().map_err(StoreError::io("sync", &self.path))?;
        publish(&self.path, to)?;
        self.published = true;
        Ok(())
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if !self.published {
            // A failure leaves it to gc.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Renames a synced file and makes the new name durable. Renaming over an equal blob is wanted: it heals
/// a damaged one, and makes it young for gc.
pub(crate) fn publish(from: &Path, to: &Path) -> Result<(), StoreError> {
    fs::rename(from, to).map_err(StoreError::io("rename into", to))?;
    let parent = to.parent().unwrap_or(Path::new("/"));
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(StoreError::io("sync", parent))
}

/// Turns "not found" into `None`.
pub(crate) fn present<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

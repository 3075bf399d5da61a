//! Collecting what nobody refers to. Invariant: nothing is removed while any entry of the index or any
//! manifest below one cannot be read: when in doubt, everything is kept.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use super::{ImageStore, StoreError, present};
use crate::digest::Digest;
use crate::manifest::{Content, is_image, is_index};
use crate::reference::Reference;

/// What gc removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    pub blobs: usize,
    pub unfinished: usize,
    pub bytes: u64,
}

impl ImageStore {
    /// Removes blobs that no tag or digest leads to, and abandoned writes, as far as they were last
    /// touched before `older_than`. The cutoff must lie further back than any push or import takes
    /// between its first blob and its tag: an hour is plenty.
    pub fn gc(&self, older_than: SystemTime) -> Result<Collected, StoreError> {
        let _lock = self.lock_exclusive()?;
        let marked = self.reachable()?;
        let mut collected = Collected::default();
        let is_garbage = |name: &str| Digest::from_hex(name).is_some_and(|d| !marked.contains(&d));
        collected.blobs =
            sweep(&self.dir.join("blobs/sha256"), older_than, is_garbage, &mut collected.bytes)?;
        for dir in ["tmp", "uploads"] {
            collected.unfinished += sweep(&self.dir.join(dir), older_than, |_| true, &mut collected.bytes)?;
        }
        Ok(collected)
    }

    /// Deletes a manifest by digest: the names of `reference`'s repository that mean it, and its bytes
    /// unless another name leads to them. Says whether anything went.
    pub fn delete_manifest(&self, reference: &Reference) -> Result<bool, StoreError> {
        let unnamed = self.delete(reference)?;
        let Some(digest) = reference.digest() else {
            return Ok(unnamed);
        };
        Ok(self.delete_blob(digest)? == Deleted::Gone || unnamed)
    }

    /// Deletes one blob, unless a name leads to it.
    pub fn delete_blob(&self, digest: &Digest) -> Result<Deleted, StoreError> {
        let _lock = self.lock_exclusive()?;
        let path = self.blob_path(digest);
        if self.blob_size(digest)?.is_none() {
            return Ok(Deleted::Absent);
        }
        if self.reachable()?.contains(digest) {
            return Ok(Deleted::InUse);
        }
        fs::remove_file(&path).map_err(StoreError::io("delete", &path))?;
        Ok(Deleted::Gone)
    }

    /// Everything that some name leads to, whether it is here or not.
    fn reachable(&self) -> Result<BTreeSet<Digest>, StoreError> {
        let mut marked = BTreeSet::new();
        // Apart from `marked`: what one document calls a layer another may call a manifest.
        let mut opened = BTreeSet::new();
        let mut todo: Vec<_> = self.list()?.into_iter().map(|image| image.target.digest).collect();
        while let Some(digest) = todo.pop() {
            marked.insert(digest);
            if !opened.insert(digest) {
                continue;
            }
            let Some((manifest, _)) = self.manifest(&digest)? else {
                continue;
            };
            let index = matches!(manifest.content, Content::Index { .. });
            for child in manifest.children() {
                if index && (is_image(&child.media_type) || is_index(&child.media_type)) {
                    todo.push(child.digest);
                } else {
                    marked.insert(child.digest);
                }
            }
        }
        Ok(marked)
    }
}

/// What became of a blob that was to be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    Gone,
    InUse,
    Absent,
}

fn sweep(
    dir: &Path,
    older_than: SystemTime,
    is_garbage: impl Fn(&str) -> bool,
    bytes: &mut u64,
) -> Result<usize, StoreError> {
    let mut count = 0;
    for entry in fs::read_dir(dir).map_err(StoreError::io("list", dir))? {
        let entry = entry.map_err(StoreError::io("list", dir))?;
        let path = entry.path();
        let Some(meta) = present(entry.metadata()).map_err(StoreError::io("look at", &path))? else {
            continue;
        };
        let old = meta.modified().map_err(StoreError::io("look at", &path))? < older_than;
        if old && is_garbage(&entry.file_name().to_string_lossy()) {
            present(fs::remove_file(&path)).map_err(StoreError::io("delete", &path))?;
            count += 1;
            *bytes += meta.len();
        }
    }
    Ok(count)
}

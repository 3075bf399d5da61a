//! Tags and digests: the index from names to manifests. Invariant: an entry is one small file, replaced
//! whole; only `_tags` and `_digests` directories hold entries.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::{ImageStore, StoreError, present};
use crate::digest::Digest;
use crate::manifest::{Descriptor, ManifestError};
use crate::reference::{Reference, Repository};

const TAGS: &str = "_tags";
const DIGESTS: &str = "_digests";

/// A name in the store and the manifest it means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    pub reference: Reference,
    pub target: Descriptor,
}

impl ImageStore {
    /// Makes `reference` mean `target`, under its tag and its digest alike, whichever it has.
    pub fn tag(&self, reference: &Reference, target: &Descriptor) -> Result<(), StoreError> {
        if let Some(&expected) = reference.digest().filter(|&&digest| digest != target.digest) {
            return Err(StoreError::DigestMismatch { expected, actual: target.digest });
        }
        let entry = Descriptor::new(&target.media_type, target.digest, target.size);
        for path in self.entry_paths(reference) {
            self.write_entry(&path, &entry)?;
        }
        Ok(())
    }

    fn write_entry(&self, path: &Path, entry: &Descriptor) -> Result<(), StoreError> {
        let mut temp = self.temp()?;
        let text = serde_json::to_vec(entry)
            .map_err(|source| StoreError::CorruptRef { path: path.to_owned(), source })?;
        temp.file.write_all(&text).map_err(StoreError::io("write", &temp.path))?;
        let _lock = self.lock_shared()?;
        let parent = path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(parent).map_err(StoreError::io("create", parent))?;
        temp.publish(path)
    }

    /// The manifest that `reference` means. A digest decides alone: with one, any manifest in the store
    /// that has it is found, whatever repository it came by.
    pub fn resolve(&self, reference: &Reference) -> Result<Option<Descriptor>, StoreError> {
        if let Some(digest) = reference.digest() {
            return self.resolve_digest(digest);
        }
        match self.entry_paths(reference).first() {
            Some(path) => read_entry(path),
            None => Ok(None),
        }
    }

    fn resolve_digest(&self, digest: &Digest) -> Result<Option<Descriptor>, StoreError> {
        match self.manifest(digest) {
            Ok(Some((manifest, bytes))) => {
                Ok(Some(Descriptor::new(&manifest.media_type, *digest, bytes.len() as u64)))
            }
            // A blob that is no manifest: nothing of that name here.
            Ok(None) | Err(StoreError::Manifest(_, ManifestError::Json(_) | ManifestError::Kind)) => Ok(None),
            Err(StoreError::Manifest(_, ManifestError::TooLarge(_))) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Every name in the store, sorted.
    pub fn list(&self) -> Result<Vec<Image>, StoreError> {
        let mut images = Vec::new();
        for repository in self.repositories()? {
            images.extend(self.images_of(&repository)?);
        }
        Ok(images)
    }

    /// Every name in one repository: tags sorted, then what is known by digest alone.
    pub fn images_of(&self, repository: &Repository) -> Result<Vec<Image>, StoreError> {
        let mut images = Vec::new();
        for (kind, name) in self
            .entries(repository, TAGS)?
            .into_iter()
            .map(|n| (TAGS, n))
            .chain(self.entries(repository, DIGESTS)?.into_iter().map(|n| (DIGESTS, n)))
        {
            let path = self.repository_path(repository).join(kind).join(&name);
            let reference = match (kind, Digest::from_hex(&name)) {
                (DIGESTS, Some(digest)) => Some(repository.clone().with_digest(digest)),
                (TAGS, _) => repository.clone().with_tag(&name).ok(),
                _ => None,
            };
            if let (Some(reference), Some(target)) = (reference, read_entry(&path)?) {
                images.push(Image { reference, target });
            }
        }
        Ok(images)
    }

    /// The tags of a repository, sorted; empty when it does not exist.
    pub fn tags(&self, repository: &Repository) -> Result<Vec<String>, StoreError> {
        self.entries(repository, TAGS)
    }

    /// Every repository that has a tag or a digest, sorted.
    pub fn repositories(&self) -> Result<Vec<Repository>, StoreError> {
        let root = self.dir.join("refs");
        let mut found = Vec::new();
        for registry in names_in(&root)? {
            collect_repositories(&root.join(&registry), &registry, &mut Vec::new(), &mut found)?;
        }
        found.sort();
        Ok(found)
    }

    /// Forgets a tag; with a digest, every name of this repository that means it. Says whether there was
    /// one. The blobs stay until [`Self::gc`].
    pub fn delete(&self, reference: &Reference) -> Result<bool, StoreError> {
        let _lock = self.lock_exclusive()?;
        let mut paths = self.entry_paths(reference);
        if let Some(digest) = reference.digest() {
            let same = |image: &Image| image.target.digest == *digest;
            let images = self.images_of(reference.repository())?;
            paths = images.iter().filter(|i| same(i)).flat_map(|i| self.entry_paths(&i.reference)).collect();
        }
        let mut deleted = false;
        for path in paths {
            let gone = present(fs::remove_file(&path)).map_err(StoreError::io("delete", &path))?;
            deleted |= gone.is_some();
            self.remove_empty(path.parent());
        }
        Ok(deleted)
    }

    /// Takes empty directories away, from the inside out; one that is not empty ends it.
    fn remove_empty(&self, mut dir: Option<&Path>) {
        let root = self.dir.join("refs");
        while let Some(path) = dir.filter(|path| **path != root && fs::remove_dir(path).is_ok()) {
            dir = path.parent();
        }
    }

    fn repository_path(&self, repository: &Repository) -> PathBuf {
        self.dir.join("refs").join(repository.registry()).join(repository.path())
    }

    fn entry_paths(&self, reference: &Reference) -> Vec<PathBuf> {
        let base = self.repository_path(reference.repository());
        let tag = reference.tag().map(|tag| base.join(TAGS).join(tag));
        let digest = reference.digest().map(|digest| base.join(DIGESTS).join(digest.hex()));
        tag.into_iter().chain(digest).collect()
    }

    fn entries(&self, repository: &Repository, kind: &str) -> Result<Vec<String>, StoreError> {
        names_in(&self.repository_path(repository).join(kind))
    }
}

fn read_entry(path: &Path) -> Result<Option<Descriptor>, StoreError> {
    let Some(text) = present(fs::read(path)).map_err(StoreError::io("read", path))? else {
        return Ok(None);
    };
    let entry = serde_json::from_slice(&text);
    entry.map(Some).map_err(|source| StoreError::CorruptRef { path: path.to_owned(), source })
}

/// Sorted names in a directory; none when there is no such directory.
fn names_in(dir: &Path) -> Result<Vec<String>, StoreError> {
    let error = || StoreError::io("list", dir);
    let Some(entries) = present(fs::read_dir(dir)).map_err(error())? else {
        return Ok(Vec::new());
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.map_err(error())?.file_name().into_string().ok());
    }
    names.sort();
    Ok(names)
}

fn collect_repositories(
    dir: &Path,
    registry: &str,
    parts: &mut Vec<String>,
    found: &mut Vec<Repository>,
) -> Result<(), StoreError> {
    let names = names_in(dir)?;
    if names.iter().any(|name| name == TAGS || name == DIGESTS) {
        found.extend(Repository::new(registry, &parts.join("/")).ok());
    }
    for name in names.into_iter().filter(|name| !name.starts_with('_')) {
        let below = dir.join(&name);
        parts.push(name);
        collect_repositories(&below, registry, parts, found)?;
        parts.pop();
    }
    Ok(())
}

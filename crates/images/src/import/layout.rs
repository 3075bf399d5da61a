//! OCI layouts. Invariant: every blob is checked against the descriptor that led to it, and a manifest
//! is stored only after its children. Source: OCI image-spec, image-layout.md.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::bundle::Bundle;
use super::{Found, ImportError, docker, parse_name};
use crate::digest::Digest;
use crate::manifest::{Content, Descriptor, Manifest, is_foreign, is_image, is_index};
use crate::reference::Reference;
use crate::store::{Children, ImageStore};

const MAX_DEPTH: usize = 4;
const MAX_MANIFESTS: usize = 1024;
/// The whole name, as containerd and BuildKit write it.
const FULL_NAME: &str = "io.containerd.image.name";
/// By the specification any text; in practice a tag or a whole name.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LayoutFile {
    image_layout_version: String,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

pub(super) fn import(store: &ImageStore, bundle: &Bundle) -> Result<Vec<Found>, ImportError> {
    let LayoutFile { image_layout_version: version } = bundle.json("oci-layout")?;
    if !version.starts_with("1.") {
        return Err(ImportError::LayoutVersion(version));
    }
    let index: Index = bundle.json("index.json")?;
    let docker_names = docker::names_by_config(bundle)?;
    let mut copy = Copy { store, bundle, done: BTreeSet::new() };
    let mut found: Vec<Found> = Vec::new();
    for descriptor in index.manifests {
        if !is_image(&descriptor.media_type) && !is_index(&descriptor.media_type) {
            tracing::warn!(media_type = %descriptor.media_type, "not an image, left out");
            continue;
        }
        let target = copy.manifest(&descriptor, "index.json", 0)?;
        let (mut names, bare_tag) = names(&descriptor)?;
        if names.is_empty() {
            names = docker_names
                .iter()
                .filter(|(config, _)| copy.has_config(&target, config))
                .map(|(_, n)| n.clone())
                .collect();
        }
        // The same image once per name is how layouts spell several names.
        match found.iter_mut().find(|image| image.target.digest == target.digest) {
            Some(image) => image.names.extend(names),
            None => found.push(Found { target, names, bare_tag }),
        }
    }
    if found.is_empty() { Err(ImportError::NotAnImage) } else { Ok(found) }
}

/// The names that a descriptor's annotations give, or else the bare tag.
fn names(descriptor: &Descriptor) -> Result<(Vec<Reference>, Option<String>), ImportError> {
    let full = descriptor.annotation(FULL_NAME);
    match full.or(descriptor.annotation(REF_NAME)) {
        None => Ok((Vec::new(), None)),
        Some(name) if full.is_some() || name.contains(['/', ':']) => Ok((vec![parse_name(name)?], None)),
        Some(tag) => Ok((Vec::new(), Some(tag.to_owned()))),
    }
}

/// Where a layout keeps a blob.
pub(super) fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

struct Copy<'a> {
    store: &'a ImageStore,
    bundle: &'a Bundle,
    done: BTreeSet<Digest>,
}

impl Copy<'_> {
    /// Stores a manifest or index and all below it. Returns the descriptor to tag it by.
    fn manifest(
        &mut self,
        from: &Descriptor,
        wanted_by: &str,
        depth: usize,
    ) -> Result<Descriptor, ImportError> {
        if depth > MAX_DEPTH {
            return Err(ImportError::TooDeep(MAX_DEPTH));
        }
        let name = blob_name(&from.digest);
        let bytes = self.bundle.read(&name, wanted_by)?;
        check(&name, from, &bytes)?;
        let parsed = Manifest::parse(&bytes, Some(&from.media_type))
            .map_err(|source| ImportError::Manifest { digest: from.digest, source })?;
        let target = Descriptor::new(&parsed.media_type, from.digest, from.size);
        if self.done.contains(&from.digest) {
            return Ok(target);
        }
        match &parsed.content {
            Content::Image { .. } => self.blobs(&parsed, &name)?,
            Content::Index { manifests } => self.platforms(manifests, &name, depth)?,
        }
        self.store.put_manifest(&bytes, Some(&parsed.media_type), Children::AnyPlatform)?;
        self.done.insert(from.digest);
        if self.done.len() > MAX_MANIFESTS {
            return Err(ImportError::TooMany(MAX_MANIFESTS));
        }
        Ok(target)
    }

    /// Archives saved on one platform list the others without their content; one whole member will do.
    fn platforms(&mut self, members: &[Descriptor], index: &str, depth: usize) -> Result<(), ImportError> {
        if members.len() > MAX_MANIFESTS {
            return Err(ImportError::TooMany(MAX_MANIFESTS));
        }
        let mut absent = None;
        let mut whole = 0;
        for member in members {
            let nested = is_image(&member.media_type) || is_index(&member.media_type);
            let copied = if nested {
                self.manifest(member, index, depth + 1).map(drop)
            } else {
                self.blob(member, index)
            };
            match copied {
                Ok(()) => whole += 1,
                Err(error) if error.is_absence() => absent = absent.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        match absent {
            Some(error) if whole == 0 => Err(error),
            _ => Ok(()),
        }
    }

    fn blobs(&self, manifest: &Manifest, name: &str) -> Result<(), ImportError> {
        manifest
            .children()
            .filter(|child| !is_foreign(&child.media_type))
            .try_for_each(|c| self.blob(c, name))
    }

    fn blob(&self, from: &Descriptor, wanted_by: &str) -> Result<(), ImportError> {
        let stored = self.store.blob_size(&from.digest)? == Some(from.size);
        if stored && self.store.keep_blob(&from.digest)? {
            return Ok(());
        }
        let name = blob_name(&from.digest);
        let (content, actual) = self.bundle.need(&name, wanted_by)?;
        if actual != from.size {
            return Err(ImportError::SizeMismatch { name, expected: from.size, actual });
        }
        Ok(self.store.copy_blob(content, &from.digest, Some(from.size))?)
    }

    /// Whether `target` is the image of this configuration.
    fn has_config(&self, target: &Descriptor, config: &Digest) -> bool {
        match self.store.manifest(&target.digest) {
            Ok(Some((Manifest { content: Content::Image { config: own, .. }, .. }, _))) => {
                own.digest == *config
            }
            _ => false,
        }
    }
}

fn check(name: &str, from: &Descriptor, bytes: &[u8]) -> Result<(), ImportError> {
    let (name, actual) = (name.to_owned(), Digest::of(bytes));
    if actual != from.digest {
        return Err(ImportError::DigestMismatch { name, expected: from.digest, actual });
    }
    if bytes.len() as u64 != from.size {
        return Err(ImportError::SizeMismatch { name, expected: from.size, actual: bytes.len() as u64 });
    }
    Ok(())
}

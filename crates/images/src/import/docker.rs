//! What `docker save` writes: manifest.json, a configuration and a tar per layer. Invariant: layers and
//! configuration are kept byte for byte; only the manifest that ties them together is made here, always
//! the same for the same input. Source: Moby's image/spec/v1.2.md, "Combined Image JSON".

use std::io::Read;

use flate2::read::MultiGzDecoder;
use serde::Deserialize;

use super::bundle::Bundle;
use super::{Found, ImportError, parse_name};
use crate::digest::{Digest, Digester};
use crate::manifest::{DOCKER_CONFIG, DOCKER_LAYER, DOCKER_MANIFEST, Descriptor, image_manifest};
use crate::reference::Reference;
use crate::store::{Children, ImageStore};

const MANIFEST: &str = "manifest.json";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Config {
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Option<Vec<Digest>>,
}

pub(super) fn import(store: &ImageStore, bundle: &Bundle) -> Result<Vec<Found>, ImportError> {
    let saved: Vec<Saved> = bundle.json(MANIFEST)?;
    if saved.is_empty() {
        return Err(ImportError::NotAnImage);
    }
    saved.iter().map(|image| import_one(store, bundle, image)).collect()
}

/// The names that manifest.json gives, by the digest of the configuration; none without the file. For
/// layouts that carry both formats and their names in this one alone.
pub(super) fn names_by_config(bundle: &Bundle) -> Result<Vec<(Digest, Reference)>, ImportError> {
    let saved: Vec<Saved> = if bundle.has(MANIFEST)? { bundle.json(MANIFEST)? } else { Vec::new() };
    let mut names = Vec::new();
    for image in &saved {
        if let Some(config) = digest_in_name(&image.config) {
            names.extend(image.names()?.into_iter().map(|name| (config, name)));
        }
    }
    Ok(names)
}

impl Saved {
    fn names(&self) -> Result<Vec<Reference>, ImportError> {
        self.repo_tags.iter().flatten().map(|tag| parse_name(tag)).collect()
    }
}

fn import_one(store: &ImageStore, bundle: &Bundle, saved: &Saved) -> Result<Found, ImportError> {
    let names = saved.names()?;
    let bytes = bundle.read(&saved.config, MANIFEST)?;
    let digest = Digest::of(&bytes);
    if let Some(expected) = digest_in_name(&saved.config).filter(|&expected| expected != digest) {
        return Err(ImportError::DigestMismatch { name: saved.config.clone(), expected, actual: digest });
    }
    let config: Config = serde_json::from_slice(&bytes)
        .map_err(|source| ImportError::Json { name: saved.config.clone(), source })?;
    let (paths, diff_ids) =
        (saved.layers.as_deref().unwrap_or_default(), config.rootfs.diff_ids.unwrap_or_default());
    if paths.len() != diff_ids.len() {
        return Err(ImportError::LayerCount {
            config: saved.config.clone(),
            layers: paths.len(),
            diff_ids: diff_ids.len(),
        });
    }
    let copied: Result<Vec<_>, _> =
        paths.iter().zip(&diff_ids).map(|(path, diff_id)| layer(store, bundle, path, diff_id)).collect();
    store.put_blob(&bytes)?;
    let config = Descriptor::new(DOCKER_CONFIG, digest, bytes.len() as u64);
    let manifest = image_manifest(DOCKER_MANIFEST, &config, &copied?);
    let target = store.put_manifest(&manifest, None, Children::All)?;
    Ok(Found { target, names, bare_tag: None })
}

/// Stores a layer as it is and checks that, unpacked, it is what the configuration says.
fn layer(
    store: &ImageStore,
    bundle: &Bundle,
    path: &str,
    diff_id: &Digest,
) -> Result<Descriptor, ImportError> {
    let (mut content, size) = bundle.need(path, MANIFEST)?;
    let mut head = Vec::new();
    content.by_ref().take(4).read_to_end(&mut head).map_err(ImportError::read(path))?;
    let whole = head.as_slice().chain(content);
    if head.starts_with(&[0x1f, 0x8b]) {
        let unpacked = digest_of(MultiGzDecoder::new(bundle.need(path, MANIFEST)?.0));
        expect(path, diff_id, unpacked.map_err(ImportError::read(path))?)?;
        return store_layer(store, whole, &format!("{DOCKER_LAYER}.gzip"));
    }
    if head.starts_with(b"\x28\xb5\x2f\xfd") {
        // Not unpacked here; the node's containerd checks the diff id when it unpacks.
        return store_layer(store, whole, &format!("{DOCKER_LAYER}.zstd"));
    }
    let known = store.blob_size(diff_id)? == Some(size) && store.keep_blob(diff_id)?;
    if known {
        return Ok(Descriptor::new(DOCKER_LAYER, *diff_id, size));
    }
    let mut blob = store.new_blob()?;
    std::io::copy(&mut { whole }, &mut blob).map_err(ImportError::read(path))?;
    match blob.commit(Some(diff_id)) {
        Ok((digest, size)) => Ok(Descriptor::new(DOCKER_LAYER, digest, size)),
        Err(crate::store::StoreError::DigestMismatch { actual, .. }) => {
            Err(ImportError::DigestMismatch { name: path.to_owned(), expected: *diff_id, actual })
        }
        Err(error) => Err(error.into()),
    }
}

fn store_layer(
    store: &ImageStore,
    mut content: impl Read,
    media_type: &str,
) -> Result<Descriptor, ImportError> {
    let mut blob = store.new_blob()?;
    std::io::copy(&mut content, &mut blob).map_err(ImportError::read("a layer"))?;
    let (digest, size) = blob.commit(None)?;
    Ok(Descriptor::new(media_type, digest, size))
}

fn expect(name: &str, expected: &Digest, actual: Digest) -> Result<(), ImportError> {
    if actual == *expected {
        return Ok(());
    }
    Err(ImportError::DigestMismatch { name: name.to_owned(), expected: *expected, actual })
}

fn digest_of(mut content: impl Read) -> std::io::Result<Digest> {
    let mut digester = Digester::default();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match content.read(&mut buffer)? {
            0 => return Ok(digester.finish()),
            count => digester.update(&buffer[..count]),
        }
    }
}

/// The digest in names such as `<hex>.json`, `sha256:<hex>` and `blobs/sha256/<hex>`.
fn digest_in_name(name: &str) -> Option<Digest> {
    let base = name.rsplit(['/', ':']).next()?;
    Digest::from_hex(base.strip_suffix(".json").unwrap_or(base))
}

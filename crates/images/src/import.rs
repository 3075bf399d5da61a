//! Archives and layouts into the store. Invariant: the input is hostile until its digests agree; names
//! are written last, so a refused input leaves at most blobs that gc removes.
//!
//! Understood are what `docker save` writes (old and new), OCI layouts as directory or tar, and either
//! of them compressed with gzip as a whole.

mod bundle;
mod docker;
mod layout;

use std::io::{self, Read};
use std::path::Path;

use bundle::Bundle;

use crate::digest::Digest;
use crate::manifest::{Descriptor, MAX_MANIFEST, ManifestError};
use crate::reference::{Reference, ReferenceError};
pub use crate::spool::SpoolError;
use crate::spool::Spooled;
use crate::store::{Image, ImageStore, StoreError};

/// How to import.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// The name to give, instead of those inside. The input must then hold exactly one image.
    pub name: Option<Reference>,
}

/// What is wrong with an input.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("the input is neither a docker archive (manifest.json) nor an OCI layout (index.json)")]
    NotAnImage,
    #[error("the input is not a readable tar")]
    NotTar(#[source] io::Error),
    #[error(transparent)]
    Spool(#[from] SpoolError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot read {what}")]
    Read { what: String, source: io::Error },
    #[error("refused: member `{name}` lies outside of the archive")]
    Traversal { name: String },
    #[error("refused: link `{name}` leads out of the archive, to `{target}`")]
    LinkOutside { name: String, target: String },
    #[error("refused: link `{name}` leads round in circles")]
    LinkLoop { name: String },
    #[error("refused: `{name}` is not a regular file")]
    NotRegular { name: String },
    #[error("`{name}` is missing; {wanted_by} refers to it")]
    Missing { name: String, wanted_by: String },
    #[error("refused: `{name}` is {size} bytes long, the limit for such documents is {MAX_MANIFEST}")]
    TooLarge { name: String, size: u64 },
    #[error("`{name}` is not valid JSON of its kind")]
    Json { name: String, source: serde_json::Error },
    #[error("manifest {digest} is refused")]
    Manifest { digest: Digest, source: ManifestError },
    #[error("refused: `{name}` is {actual}, not {expected}")]
    DigestMismatch { name: String, expected: Digest, actual: Digest },
    #[error("refused: `{name}` is {actual} bytes long, not {expected}")]
    SizeMismatch { name: String, expected: u64, actual: u64 },
    #[error("layout version `{0}` is not supported, only 1.x.x")]
    LayoutVersion(String),
    #[error("refused: {config} lists {diff_ids} layers, the archive {layers}")]
    LayerCount { config: String, layers: usize, diff_ids: usize },
    #[error("refused: indexes are nested deeper than {0}, or in a circle")]
    TooDeep(usize),
    #[error("refused: more than {0} manifests")]
    TooMany(usize),
    #[error("image {digest} has no name{}; give one with --name", hint(.tag))]
    NoName { digest: Digest, tag: Option<String> },
    #[error("one name was given, but the input holds {0} images")]
    NameForMany(usize),
    #[error("the input calls an image `{name}`")]
    BadName { name: String, source: ReferenceError },
}

fn hint(tag: &Option<String>) -> String {
    tag.as_ref().map(|tag| format!(" (only the tag `{tag}`)")).unwrap_or_default()
}

impl ImportError {
    fn read(what: impl ToString) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Read { what: what.to_string(), source }
    }

    /// Whether something is not there, as opposed to there and wrong.
    fn is_absence(&self) -> bool {
        matches!(self, Self::Missing { .. } | Self::Store(StoreError::MissingChild { .. }))
    }
}

/// An image in the store that has no name in it yet, and the names it shall have.
#[derive(Debug)]
struct Found {
    target: Descriptor,
    names: Vec<Reference>,
    /// A tag without a repository, which some layouts have for a name.
    bare_tag: Option<String>,
}

/// Imports a file, or a directory that holds a layout. Returns the names loaded.
pub fn import_path(
    store: &ImageStore,
    path: &Path,
    options: &ImportOptions,
) -> Result<Vec<Image>, ImportError> {
    let bundle = if path.is_dir() { Bundle::dir(path)? } else { Bundle::tar(Spooled::open(store, path)?)? };
    import(store, &bundle, options)
}

/// Imports a stream, such as standard input, by way of a temporary file in the store's directory.
/// Returns the names loaded.
pub fn import_reader(
    store: &ImageStore,
    input: impl Read,
    options: &ImportOptions,
) -> Result<Vec<Image>, ImportError> {
    let bundle = Bundle::tar(Spooled::receive(store, input)?)?;
    import(store, &bundle, options)
}

fn import(store: &ImageStore, bundle: &Bundle, options: &ImportOptions) -> Result<Vec<Image>, ImportError> {
    // New `docker save` writes both; the layout half is the one whose digests are the image's own.
    let found = if bundle.has("oci-layout")? && bundle.has("index.json")? {
        layout::import(store, bundle)?
    } else if bundle.has("manifest.json")? {
        docker::import(store, bundle)?
    } else {
        return Err(ImportError::NotAnImage);
    };
    let mut images = Vec::new();
    for (reference, target) in named(found, options)? {
        images.push(Image { reference, target });
    }
    // Only now that every image has its names: all are tagged or none.
    for image in &images {
        store.tag(&image.reference, &image.target)?;
    }
    Ok(images)
}

fn named(found: Vec<Found>, options: &ImportOptions) -> Result<Vec<(Reference, Descriptor)>, ImportError> {
    if let Some(name) = &options.name {
        return match <[Found; 1]>::try_from(found) {
            Ok([only]) => Ok(vec![(name.clone(), only.target)]),
            Err(many) => Err(ImportError::NameForMany(many.len())),
        };
    }
    let mut all = Vec::new();
    for Found { target, names, bare_tag } in found {
        if names.is_empty() {
            return Err(ImportError::NoName { digest: target.digest, tag: bare_tag });
        }
        all.extend(names.into_iter().map(|name| (name, target.clone())));
    }
    Ok(all)
}

fn parse_name(name: &str) -> Result<Reference, ImportError> {
    Reference::parse(name).map_err(|source| ImportError::BadName { name: name.to_owned(), source })
}

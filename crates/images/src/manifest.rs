//! Image manifests and indexes, read only as far as the store needs: which blobs they tie together.
//! Invariant: a document that parses is exactly one of the two kinds and its media type says the same,
//! so no two readers can understand it differently (CVE-2021-41190). Bytes are never rewritten.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// Largest manifest or index accepted, in bytes; what the OCI distribution-spec tells registries to take.
pub const MAX_MANIFEST: u64 = 4 << 20;

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";

/// Whether blobs of this media type are single-platform manifests.
pub fn is_image(media_type: &str) -> bool {
    matches!(media_type, OCI_MANIFEST | DOCKER_MANIFEST)
}

/// Whether blobs of this media type are indexes (manifest lists).
pub fn is_index(media_type: &str) -> bool {
    matches!(media_type, OCI_INDEX | DOCKER_INDEX)
}

/// Whether a layer of this media type may be absent from a registry by design.
pub fn is_foreign(media_type: &str) -> bool {
    media_type.contains("nondistributable") || media_type.contains(".foreign.")
}

/// A pointer from one document to a blob. Source: OCI image-spec, descriptor.md.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    pub media_type: String,
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

impl Descriptor {
    /// A descriptor without platform or annotations.
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self { media_type: media_type.to_owned(), digest, size, platform: None, annotations: None }
    }

    /// One annotation's value.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key).map(String::as_str)
    }
}

/// What a member of an index runs on, in Go's words (`linux`, `amd64`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    pub os: String,
    pub architecture: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// This machine's architecture in Go's words.
pub fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// What a manifest ties together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    Image { config: Descriptor, layers: Vec<Descriptor> },
    Index { manifests: Vec<Descriptor> },
}

/// A manifest or index, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    pub media_type: String,
    pub content: Content,
}

/// Why bytes are not a manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("the manifest is {0} bytes long, the limit is {MAX_MANIFEST}")]
    TooLarge(u64),
    #[error("the manifest is not valid JSON of its kind")]
    Json(#[source] serde_json::Error),
    #[error("manifest schema version {0} is not supported, only 2")]
    Schema(u64),
    #[error("the manifest is both an image and an index, or neither")]
    Kind,
    #[error("the manifest says it is `{inside}` but is declared as `{outside}`")]
    MediaType { inside: String, outside: String },
    #[error("media type `{0}` does not fit the manifest's content")]
    WrongMediaType(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: u64,
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

impl Manifest {
    /// Parses a manifest. `declared` is the media type that a descriptor or Content-Type gives; without it
    /// and without one inside, the OCI type of the document's kind is assumed.
    pub fn parse(bytes: &[u8], declared: Option<&str>) -> Result<Self, ManifestError> {
        if bytes.len() as u64 > MAX_MANIFEST {
            return Err(ManifestError::TooLarge(bytes.len() as u64));
        }
        let raw: Raw = serde_json::from_slice(bytes).map_err(ManifestError::Json)?;
        if raw.schema_version != 2 {
            return Err(ManifestError::Schema(raw.schema_version));
        }
        let media_type = agreed_type(raw.media_type.as_deref(), declared)?;
        let (content, fits, default): (_, fn(&str) -> bool, _) = match (raw.config, raw.layers, raw.manifests)
        {
            (Some(config), layers, None) => {
                (Content::Image { config, layers: layers.unwrap_or_default() }, is_image, OCI_MANIFEST)
            }
            (None, None, Some(manifests)) => (Content::Index { manifests }, is_index, OCI_INDEX),
            _ => return Err(ManifestError::Kind),
        };
        let media_type = media_type.unwrap_or(default);
        if !fits(media_type) {
            return Err(ManifestError::WrongMediaType(media_type.to_owned()));
        }
        Ok(Self { media_type: media_type.to_owned(), content })
    }

    /// Every blob this document points at.
    pub fn children(&self) -> impl Iterator<Item = &Descriptor> {
        let (config, rest) = match &self.content {
            Content::Image { config, layers } => (Some(config), layers),
            Content::Index { manifests } => (None, manifests),
        };
        config.into_iter().chain(rest)
    }
}

/// The bytes of an image manifest made here; the same for the same arguments.
pub(crate) fn image_manifest(media_type: &str, config: &Descriptor, layers: &[Descriptor]) -> Vec<u8> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Made<'a> {
        schema_version: u8,
        media_type: &'a str,
        config: &'a Descriptor,
        layers: &'a [Descriptor],
    }
    let made = Made { schema_version: 2, media_type, config, layers };
    serde_json::to_vec(&made).expect("numbers, texts and lists of them are always JSON")
}

fn agreed_type<'a>(
    inside: Option<&'a str>,
    outside: Option<&'a str>,
) -> Result<Option<&'a str>, ManifestError> {
    match (inside, outside) {
        (Some(inside), Some(outside)) if inside != outside => {
            Err(ManifestError::MediaType { inside: inside.to_owned(), outside: outside.to_owned() })
        }
        (inside, outside) => Ok(inside.or(outside)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(media_type: &str) -> String {
        format!(r#"{{"mediaType":"{media_type}","digest":"{}","size":1}}"#, Digest::of(b"x"))
    }

    #[test]
    fn an_ambiguous_document_is_refused() {
        let one = descriptor(OCI_CONFIG);
        let both = format!(r#"{{"schemaVersion":2,"config":{one},"layers":[{one}],"manifests":[{one}]}}"#);
        assert!(matches!(Manifest::parse(both.as_bytes(), None), Err(ManifestError::Kind)));
        assert!(matches!(Manifest::parse(br#"{"schemaVersion":2}"#, None), Err(ManifestError::Kind)));
        let image = format!(r#"{{"schemaVersion":2,"config":{one},"layers":[]}}"#);
        let error = Manifest::parse(image.as_bytes(), Some(OCI_INDEX)).expect_err("an image is no index");
        assert!(matches!(error, ManifestError::WrongMediaType(_)), "{error}");
    }

    #[test]
    fn the_media_type_inside_and_outside_must_agree() {
        let one = descriptor(OCI_CONFIG);
        let text =
            format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{one},"layers":[]}}"#);
        let parsed = Manifest::parse(text.as_bytes(), Some(OCI_MANIFEST)).expect("they agree");
        assert_eq!((parsed.media_type.as_str(), parsed.children().count()), (OCI_MANIFEST, 1));
        let error = Manifest::parse(text.as_bytes(), Some(DOCKER_MANIFEST)).expect_err("they do not");
        assert!(matches!(error, ManifestError::MediaType { .. }), "{error}");
    }

    #[test]
    fn old_schemas_and_huge_documents_are_refused() {
        assert!(matches!(Manifest::parse(br#"{"schemaVersion":1}"#, None), Err(ManifestError::Schema(1))));
        let huge = vec![b' '; MAX_MANIFEST as usize + 1];
        assert!(matches!(Manifest::parse(&huge, None), Err(ManifestError::TooLarge(_))));
    }
}

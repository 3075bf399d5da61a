//! The reading half of the API. Invariant: a manifest is served byte for byte as stored, under the media
//! type it was stored with.

use std::collections::BTreeSet;

use http::StatusCode;
use http::header::{ACCEPT, HeaderMap, RANGE};

use super::error::{ApiError, Code};
use super::route::{Target, encode, reference};
use super::{Action, Body, Registry, Reply, done, json, reply};
use crate::digest::Digest;
use crate::manifest::{Content, Descriptor, Manifest, host_architecture, is_image};
use crate::reference::Repository;

/// Entries per page when the client does not say.
const PAGE: usize = 1000;

impl Registry {
    pub(super) fn manifest(&self, repository: &Repository, key: &str, headers: &HeaderMap) -> Reply {
        let unknown = || {
            ApiError::new(Code::ManifestUnknown, format!("{repository} has no manifest `{key}`"))
                .detail("reference", key)
        };
        // A text that can be no tag is one that is not there.
        let wanted = reference(repository, key).map_err(|_| unknown())?;
        let target = self.store.resolve(&wanted)?.ok_or_else(unknown)?;
        let mut digest = target.digest;
        let (mut manifest, mut bytes) = self.store.manifest(&digest)?.ok_or_else(unknown)?;
        // A digest says exactly which bytes are wanted; only a tag leaves a choice.
        if wanted.digest().is_none() && !accepts(headers, &manifest.media_type) {
            let ours = for_this_machine(&manifest).filter(|ours| accepts(headers, &ours.media_type));
            digest = ours.ok_or_else(|| unknown().detail("available", &manifest.media_type))?.digest;
            (manifest, bytes) = self.store.manifest(&digest)?.ok_or_else(unknown)?;
        }
        let builder = reply(StatusCode::OK)
            .header("content-type", &manifest.media_type)
            .header("content-length", bytes.len())
            .header("docker-content-digest", digest.to_string())
            .header("etag", format!("\"{digest}\""));
        Ok(Action::Respond(done(builder, Body::Full(bytes.into()))))
    }

    pub(super) fn blob(&self, digest: &Digest, headers: &HeaderMap) -> Reply {
        if self.policy.allow_push {
            // Who asks before pushing skips the upload, so the blob must survive until its manifest comes.
            self.store.keep_blob(digest)?;
        }
        let Some((file, size)) = self.store.open_blob(digest)? else {
            return Err(
                ApiError::new(Code::BlobUnknown, "the blob is not in this registry").detail("digest", digest)
            );
        };
        let builder = reply(StatusCode::OK)
            .header("content-type", "application/octet-stream")
            .header("docker-content-digest", digest.to_string())
            .header("accept-ranges", "bytes")
            .header("etag", format!("\"{digest}\""));
        let (builder, offset, len) = match range(headers, size)? {
            None => (builder, 0, size),
            Some((first, last)) => {
                let content_range = format!("bytes {first}-{last}/{size}");
                let builder =
                    builder.status(StatusCode::PARTIAL_CONTENT).header("content-range", content_range);
                (builder, first, last - first + 1)
            }
        };
        let body = Body::File { path: self.store.blob_path(digest), file, offset, len };
        Ok(Action::Respond(done(builder.header("content-length", len), body)))
    }

    pub(super) fn tag_list(&self, target: &Target, repository: &Repository) -> Reply {
        if self.store.images_of(repository)?.is_empty() {
            return Err(ApiError::new(Code::NameUnknown, format!("there is no repository {repository}"))
                .detail("name", &target.name));
        }
        let tags = self.store.tags(repository)?;
        page(
            target,
            tags,
            &format!("/v2/{}/tags/list", target.name),
            |tags| serde_json::json!({ "name": target.name, "tags": tags }),
        )
    }

    /// With `ns` the paths in that registry; without, those of the default one, and all others with the
    /// registry in front.
    pub(super) fn catalog(&self, target: &Target) -> Reply {
        let ns = target.query("ns");
        let name = |repository: Repository| match ns {
            Some(ns) => (repository.registry() == ns).then(|| repository.path().to_owned()),
            None if repository.registry() == self.policy.default_registry => {
                Some(repository.path().to_owned())
            }
            None => Some(repository.to_string()),
        };
        let names: BTreeSet<String> = self.store.repositories()?.into_iter().filter_map(name).collect();
        page(
            target,
            names.into_iter().collect(),
            "/v2/_catalog",
            |names| serde_json::json!({ "repositories": names }),
        )
    }
}

/// One page of a sorted list: `n` entries after `last`, and a Link to the next page if there is one.
fn page(
    target: &Target,
    names: Vec<String>,
    path: &str,
    body: impl FnOnce(&[String]) -> serde_json::Value,
) -> Reply {
    let n = match target.query("n") {
        None => PAGE,
        Some(n) => n.parse().map_err(|_| {
            ApiError::new(Code::PaginationNumberInvalid, "`n` is not a number").detail("n", n)
        })?,
    };
    let start = target.query("last").map_or(0, |last| names.partition_point(|name| name.as_str() <= last));
    let rest = &names[start..];
    let shown = &rest[..n.min(rest.len())];
    let mut builder = reply(StatusCode::OK);
    if let Some(last) = shown.last().filter(|_| shown.len() < rest.len()) {
        let ns = target.query("ns").map(|ns| format!("&ns={}", encode(ns))).unwrap_or_default();
        builder = builder.header("link", format!("<{path}?n={n}&last={}{ns}>; rel=\"next\"", encode(last)));
    }
    Ok(Action::Respond(json(builder, body(shown).to_string().into_bytes())))
}

/// Whether an Accept header, if there is one, allows a media type. Weights other than 0 are all the same.
fn accepts(headers: &HeaderMap, media_type: &str) -> bool {
    let mut values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).peekable();
    if values.peek().is_none() {
        return true;
    }
    values.flat_map(|value| value.split(',')).any(|range| {
        let (name, weight) = range.split_once(';').unwrap_or((range, ""));
        let refused = matches!(weight.trim(), "q=0" | "q=0.0");
        !refused && (matches!(name.trim(), "*/*" | "application/*") || name.trim() == media_type)
    })
}

/// The member of an index for this machine, for clients that do not know indexes.
fn for_this_machine(manifest: &Manifest) -> Option<&Descriptor> {
    let Content::Index { manifests } = &manifest.content else {
        return None;
    };
    manifests.iter().find(|member| {
        let fits = |p: &crate::manifest::Platform| p.os == "linux" && p.architecture == host_architecture();
        is_image(&member.media_type) && member.platform.as_ref().is_some_and(fits)
    })
}

/// First and last byte of a Range header. What is no single range of bytes is ignored, as RFC 9110
/// (14.2) allows; one that lies outside is an error.
fn range(headers: &HeaderMap, size: u64) -> Result<Option<(u64, u64)>, ApiError> {
    let text = headers.get(RANGE).and_then(|value| value.to_str().ok());
    let Some((first, last)) = text.and_then(|t| t.strip_prefix("bytes=")).and_then(|t| t.split_once('-'))
    else {
        return Ok(None);
    };
    let found = match (first.trim().parse::<u64>(), last.trim().parse::<u64>()) {
        (Ok(first), Ok(last)) if first > last => return Ok(None),
        (Ok(first), Ok(last)) => (first < size).then(|| (first, last.min(size - 1))),
        (Ok(first), Err(_)) if last.trim().is_empty() => (first < size).then(|| (first, size - 1)),
        (Err(_), Ok(count)) if first.trim().is_empty() => {
            (count > 0 && size > 0).then(|| (size.saturating_sub(count), size - 1))
        }
        _ => return Ok(None),
    };
    let outside = || {
        ApiError::new(Code::RangeInvalid, format!("the blob has {size} bytes"))
            .header("content-range", format!("bytes */{size}"))
    };
    found.map(Some).ok_or_else(outside)
}

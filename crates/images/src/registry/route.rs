//! Paths and queries of requests. Invariant: what comes out is validated; no text of a request becomes a
//! file name any other way.

use http::Uri;
use percent_encoding::percent_decode_str;

use super::error::{ApiError, Code};
use crate::digest::Digest;
use crate::reference::{Reference, ReferenceError, Repository};

/// What a request is about.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route {
    Base,
    Catalog,
    Tags(Repository),
    /// The text is a tag or a digest, see [`reference`].
    Manifest(Repository, String),
    Blob(Repository, Digest),
    Uploads(Repository),
    Upload(Repository, String),
}

/// A route and what else the URI says.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) route: Route,
    /// The repository as the client wrote it, for Location headers and listings.
    pub(super) name: String,
    query: Vec<(String, String)>,
}

impl Target {
    pub(super) fn parse(uri: &Uri, default_registry: &str) -> Result<Self, ApiError> {
        let query = parse_query(uri.query().unwrap_or_default());
        let ns = query.iter().find(|(key, value)| key == "ns" && !value.is_empty());
        let unknown = || ApiError::new(Code::NameUnknown, "there is nothing at this path");
        let path = decode(uri.path()).ok_or_else(unknown)?;
        let path = path.strip_prefix("/v2").ok_or_else(unknown)?;
        match path {
            "" | "/" => {
                return Ok(Self { route: Route::Base, name: String::new(), query });
            }
            "/_catalog" => {
                return Ok(Self { route: Route::Catalog, name: String::new(), query });
            }
            _ => {}
        }
        let (name, end) = split(path.strip_prefix('/').ok_or_else(unknown)?).ok_or_else(unknown)?;
        let repository = match ns {
            Some((_, registry)) => Repository::new(registry, name)?,
            None => Repository::parse_in(default_registry, name)?,
        };
        let (name, route) = (name.to_owned(), end.route(repository)?);
        Ok(Self { route, name, query })
    }

    pub(super) fn query(&self, key: &str) -> Option<&str> {
        self.query.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// A path below this repository, leading to the same registry as this request did.
    pub(super) fn location(&self, rest: &str) -> String {
        let ns = self.query("ns").map(|ns| format!("?ns={}", encode(ns))).unwrap_or_default();
        format!("/v2/{}/{rest}{ns}", self.name)
    }
}

/// What follows the repository in a path.
enum End<'a> {
    Tags,
    Manifest(&'a str),
    Blob(&'a str),
    Uploads,
    Upload(&'a str),
}

impl End<'_> {
    fn route(self, repository: Repository) -> Result<Route, ApiError> {
        Ok(match self {
            Self::Tags => Route::Tags(repository),
            Self::Manifest(key) => Route::Manifest(repository, key.to_owned()),
            Self::Blob(digest) => Route::Blob(repository, parse_digest(digest)?),
            Self::Uploads => Route::Uploads(repository),
            Self::Upload(id) => Route::Upload(repository, id.to_owned()),
        })
    }
}

/// Splits from the right, since a repository may itself be called `blobs` or `tags/list`.
fn split(path: &str) -> Option<(&str, End<'_>)> {
    if let Some(name) = path.strip_suffix("/tags/list") {
        return Some((name, End::Tags));
    }
    if let Some(name) = path.strip_suffix("/blobs/uploads/").or(path.strip_suffix("/blobs/uploads")) {
        return Some((name, End::Uploads));
    }
    let (before, last) = path.rsplit_once('/')?;
    if let Some(name) = before.strip_suffix("/blobs/uploads") {
        return Some((name, End::Upload(last)));
    }
    if let Some(name) = before.strip_suffix("/manifests") {
        return Some((name, End::Manifest(last)));
    }
    before.strip_suffix("/blobs").map(|name| (name, End::Blob(last)))
}

/// The reference that the last part of a manifest's path means: a digest if it has a colon, else a tag.
pub(super) fn reference(repository: &Repository, key: &str) -> Result<Reference, ReferenceError> {
    if key.contains(':') {
        return Ok(repository.clone().with_digest(key.parse()?));
    }
    repository.clone().with_tag(key)
}

pub(super) fn parse_digest(text: &str) -> Result<Digest, ApiError> {
    text.parse().map_err(|error: crate::digest::DigestError| {
        ApiError::new(Code::DigestInvalid, error.to_string()).detail("digest", text)
    })
}

fn parse_query(query: &str) -> Vec<(String, String)> {
    let pairs = query.split('&').filter_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        Some((decode(key)?, decode(value)?))
    });
    pairs.collect()
}

fn decode(text: &str) -> Option<String> {
    percent_decode_str(text).decode_utf8().ok().map(|text| text.into_owned())
}

/// For a value in a query.
pub(super) fn encode(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(uri: &str) -> Route {
        let uri = uri.parse().expect("a URI");
        Target::parse(&uri, "localhost").unwrap_or_else(|e| panic!("{uri}: {e:?}")).route
    }

    fn repository(registry: &str, path: &str) -> Repository {
        Repository::new(registry, path).expect("a repository")
    }

    #[test]
    fn paths_mean_what_the_specification_says() {
        let digest = Digest::of(b"");
        let hub = || repository("docker.io", "library/nginx");
        let table = [
            ("/v2/".to_owned(), Route::Base),
            ("/v2/_catalog?n=1".to_owned(), Route::Catalog),
            ("/v2/app/tags/list".to_owned(), Route::Tags(repository("localhost", "app"))),
            ("/v2/library/nginx/manifests/1?ns=docker.io".to_owned(), Route::Manifest(hub(), "1".to_owned())),
            ("/v2/docker.io/nginx/manifests/1".to_owned(), Route::Manifest(hub(), "1".to_owned())),
            (format!("/v2/nginx/blobs/{digest}?ns=docker.io"), Route::Blob(hub(), digest)),
            (
                format!("/v2/a/blobs/sha256%3A{}", digest.hex()),
                Route::Blob(repository("localhost", "a"), digest),
            ),
            ("/v2/a/blobs/uploads/".to_owned(), Route::Uploads(repository("localhost", "a"))),
            ("/v2/a/blobs/uploads/7".to_owned(), Route::Upload(repository("localhost", "a"), "7".to_owned())),
            (
                "/v2/a/tags/list/manifests/x".to_owned(),
                Route::Manifest(repository("localhost", "a/tags/list"), "x".to_owned()),
            ),
        ];
        for (uri, expected) in table {
            assert_eq!(route(&uri), expected, "{uri}");
        }
    }

    #[test]
    fn other_paths_are_refused() {
        for (uri, code) in [
            ("/v1/", Code::NameUnknown),
            ("/v2/a", Code::NameUnknown),
            ("/v2/a/%2e%2e/b/manifests/x", Code::NameInvalid),
            ("/v2/A/manifests/x", Code::NameInvalid),
            ("/v2/a/manifests/x?ns=../..", Code::NameInvalid),
            ("/v2/a/blobs/sha256:1", Code::DigestInvalid),
        ] {
            let parsed = Target::parse(&uri.parse().expect("a URI"), "localhost");
            assert_eq!(parsed.expect_err(uri).code, code, "{uri}");
        }
    }
}

//! Image names. Invariant: a [`Repository`] or [`Reference`] that exists is valid and complete (registry
//! filled in, `library/` added), so every part of it is safe as a path below a directory: no part is
//! empty, `.` or `..`, and none holds a slash it should not.
//!
//! The grammar is that of `docker pull`: <https://pkg.go.dev/github.com/distribution/reference>.

use std::fmt;
use std::str::FromStr;

use crate::digest::{Digest, DigestError};

/// The registry of names that name none.
pub const DOCKER_HUB: &str = "docker.io";
/// The tag of names that name neither tag nor digest.
pub const DEFAULT_TAG: &str = "latest";
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;

/// Why a text is not an image name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    #[error("an image name is empty")]
    Empty,
    #[error("`{0}`: image names are lower case")]
    Uppercase(String),
    #[error("`{0}` is not a registry host (host[:port])")]
    Registry(String),
    #[error(
        "`{0}` is not a repository: parts of a-z and 0-9, joined inside by one of . _ __ - and between by /"
    )]
    Repository(String),
    #[error("the repository name is {0} characters long, the limit is {MAX_NAME}")]
    TooLong(usize),
    #[error("`{0}` is 64 hex digits: that is an image id, not a name")]
    ImageId(String),
    #[error("`{0}` is not a tag: at most {MAX_TAG} of A-Z a-z 0-9 _ . - and no . or - at the start")]
    Tag(String),
    #[error(transparent)]
    Digest(#[from] DigestError),
}

/// A registry and a path in it, such as `docker.io` and `library/nginx`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Repository {
    registry: String,
    path: String,
}

impl Repository {
    /// Joins a registry host and a path; Docker Hub's other host names and `library/` are normalised.
    pub fn new(registry: &str, path: &str) -> Result<Self, ReferenceError> {
        check_registry(registry)?;
        check_path(path)?;
        let registry = match registry {
            "index.docker.io" | "registry-1.docker.io" => DOCKER_HUB,
            other => other,
        };
        let official = registry == DOCKER_HUB && !path.contains('/');
        let path = if official { format!("library/{path}") } else { path.to_owned() };
        if path.len() > MAX_NAME {
            return Err(ReferenceError::TooLong(path.len()));
        }
        Ok(Self { registry: registry.to_owned(), path })
    }

    /// Parses `[registry/]path`; without a registry it is in `default_registry`.
    pub fn parse_in(default_registry: &str, text: &str) -> Result<Self, ReferenceError> {
        match text.split_once('/') {
            Some((head, rest)) if is_registry(head) => Self::new(head, rest),
            _ => Self::new(default_registry, text),
        }
    }

    /// Host and port of the registry.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path within the registry.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// This repository with a tag.
    pub fn with_tag(self, tag: &str) -> Result<Reference, ReferenceError> {
        check_tag(tag)?;
        Ok(Reference { repository: self, tag: Some(tag.to_owned()), digest: None })
    }

    /// This repository with a digest.
    pub fn with_digest(self, digest: Digest) -> Reference {
        Reference { repository: self, tag: None, digest: Some(digest) }
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.path)
    }
}

/// A repository with a tag, a digest or both; never with neither.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    repository: Repository,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Parses `[registry/]path[:tag][@digest]`: `nginx` is `docker.io/library/nginx:latest`.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse()?)),
            None => (text, None),
        };
        // A colon after the last slash starts a tag; one before it belongs to the registry's port.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if Digest::from_hex(name).is_some() {
            return Err(ReferenceError::ImageId(name.to_owned()));
        }
        if let Some(tag) = tag {
            check_tag(tag)?;
        }
        let repository = Repository::parse_in(DOCKER_HUB, name)?;
        let tag = tag.or(if digest.is_none() { Some(DEFAULT_TAG) } else { None });
        Ok(Self { repository, tag: tag.map(str::to_owned), digest })
    }

    /// Registry and path.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// Host and port of the registry.
    pub fn registry(&self) -> &str {
        &self.repository.registry
    }

    /// The tag; `None` only when there is a digest.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest; where there is one it decides what is meant, and the tag is only a hint.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        Self::parse(text)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// Whether the first part of a name is a registry: it has a dot, a port or capitals, or is `localhost`.
fn is_registry(head: &str) -> bool {
    head == "localhost" || head.contains(['.', ':']) || head.bytes().any(|b| b.is_ascii_uppercase())
}

fn check_registry(text: &str) -> Result<(), ReferenceError> {
    let bad = || ReferenceError::Registry(text.to_owned());
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']').ok_or_else(bad)?;
        address.parse::<std::net::Ipv6Addr>().map_err(|_| bad())?;
        (None, if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or_else(bad)?) })
    } else {
        match text.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(text), None),
        }
    };
    let port_ok = port.is_none_or(|p| p.bytes().all(|b| b.is_ascii_digit()) && p.parse::<u16>().is_ok());
    let host_ok = host.is_none_or(|h| h.len() <= 253 && h.split('.').all(is_host_label));
    if port_ok && host_ok { Ok(()) } else { Err(bad()) }
}

fn is_host_label(label: &str) -> bool {
    !label.is_empty()
        && label.len() <= 63
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

fn check_path(path: &str) -> Result<(), ReferenceError> {
    if path.is_empty() {
        return Err(ReferenceError::Empty);
    }
    if path.len() > MAX_NAME {
        return Err(ReferenceError::TooLong(path.len()));
    }
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(ReferenceError::Uppercase(path.to_owned()));
    }
    if path.split('/').all(is_path_part) { Ok(()) } else { Err(ReferenceError::Repository(path.to_owned())) }
}

/// Runs of letters and digits joined by `.`, `_`, `__` or any number of `-`.
fn is_path_part(part: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends = part.bytes().next().is_some_and(word) && part.bytes().last().is_some_and(word);
    let joints = part.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    ends && joints.into_iter().all(|j| matches!(j, "" | "." | "_" | "__") || j.bytes().all(|b| b == b'-'))
}

pub(crate) fn check_tag(tag: &str) -> Result<(), ReferenceError> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let ok = tag.len() <= MAX_TAG
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-');
    if ok { Ok(()) } else { Err(ReferenceError::Tag(tag.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn names_are_completed_as_docker_completes_them() {
        let table = [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.27", "docker.io/library/nginx:1.27"),
            ("me/app", "docker.io/me/app:latest"),
            ("docker.io/nginx", "docker.io/library/nginx:latest"),
            ("index.docker.io/nginx", "docker.io/library/nginx:latest"),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000/app:v1", "localhost:5000/app:v1"),
            ("[::1]:5000/app", "[::1]:5000/app:latest"),
            ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10"),
            ("1.dkr.ecr.eu-west-1.amazonaws.com/a/b", "1.dkr.ecr.eu-west-1.amazonaws.com/a/b:latest"),
            ("a__b/c-d---e.f_g:T_1.2-x", "docker.io/a__b/c-d---e.f_g:T_1.2-x"),
            ("HOST/app", "HOST/app:latest"),
        ];
        for (given, expected) in table {
            let parsed = Reference::parse(given).unwrap_or_else(|e| panic!("{given}: {e}"));
            assert_eq!(parsed.to_string(), expected, "{given}");
            assert_eq!(Reference::parse(expected).as_ref(), Ok(&parsed), "{expected} is stable");
        }
    }

    #[test]
    fn a_digest_takes_the_place_of_the_default_tag() {
        let by_digest = Reference::parse(&format!("nginx@sha256:{HEX}")).expect("valid");
        assert_eq!((by_digest.tag(), by_digest.digest().map(Digest::hex)), (None, Some(HEX.to_owned())));
        let both = Reference::parse(&format!("nginx:1@sha256:{HEX}")).expect("valid");
        assert_eq!(both.to_string(), format!("docker.io/library/nginx:1@sha256:{HEX}"));
    }

    #[test]
    fn what_is_not_a_name_is_refused_by_its_reason() {
        use ReferenceError as E;
        let long = "a".repeat(256);
        let long_tag = format!("a:{}", "t".repeat(129));
        type Is = fn(&E) -> bool;
        let table: [(&str, Is); 20] = [
            ("", |e| *e == E::Empty),
            ("/", |e| matches!(e, E::Repository(_))),
            ("Nginx", |e| matches!(e, E::Uppercase(_))),
            ("a/Nginx", |e| matches!(e, E::Uppercase(_))),
            ("a/../b", |e| matches!(e, E::Repository(_))),
            ("../b", |e| matches!(e, E::Registry(_))),
            ("a//b", |e| matches!(e, E::Repository(_))),
            ("a/", |e| matches!(e, E::Repository(_))),
            ("-a", |e| matches!(e, E::Repository(_))),
            ("a___b", |e| matches!(e, E::Repository(_))),
            ("a..b", |e| matches!(e, E::Repository(_))),
            ("a._b", |e| matches!(e, E::Repository(_))),
            ("a b", |e| matches!(e, E::Repository(_))),
            ("host:99999/a", |e| matches!(e, E::Registry(_))),
            ("-host.io/a", |e| matches!(e, E::Registry(_))),
            ("a:", |e| matches!(e, E::Tag(_))),
            ("a:.b", |e| matches!(e, E::Tag(_))),
            ("a@sha512:00", |e| matches!(e, E::Digest(_))),
            (HEX, |e| matches!(e, E::ImageId(_))),
            ("ä", |e| matches!(e, E::Repository(_))),
        ];
        for (given, is) in table {
            let error = Reference::parse(given).expect_err(given);
            assert!(is(&error), "{given}: {error:?}");
        }
        assert_eq!(Reference::parse(&long), Err(E::TooLong(256)));
        assert!(matches!(Reference::parse(&long_tag), Err(E::Tag(_))));
    }
}

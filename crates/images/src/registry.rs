//! The OCI distribution API over an [`ImageStore`], without sockets: a request's head goes in, an
//! [`Action`] comes out, and the caller moves the bytes. Sources: OCI distribution-spec 1.1; for `?ns=`
//! containerd's docs/hosts.md, "Registry API protocol".
//!
//! Which repository a path means: with `?ns=HOST`, as containerd asks its mirrors, it is the path in that
//! registry; without, a path that begins with a host (`registry.k8s.io/pause`) is taken at its word, and
//! any other is in [`Policy::default_registry`].
//!
//! # Guarantees
//! Every response, errors included, has `Docker-Distribution-Api-Version`; every error has the
//! specification's JSON body. Files are opened before the response is made, so gc cannot break one.
//!
//! # Assumptions
//! Whoever calls has authenticated the client and chosen the [`Policy`] for it. Everything here blocks on
//! disk: run it on a blocking thread. Blobs belong to the store, not to repositories: who may pull one
//! and knows a digest may pull that digest.

mod error;
mod pull;
mod push;
mod route;

use std::fs::File;
use std::path::PathBuf;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode, response};

use error::ApiError;
pub use error::Code;
pub use push::{BlobUpload, ManifestUpload, UploadError};
use route::{Route, Target};

use crate::digest::Digest;
use crate::reference::{Reference, Repository};
use crate::store::ImageStore;

/// What clients of one listener may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Whether uploads and deletions are served; pulls always are.
    pub allow_push: bool,
    /// Registry of paths that name none.
    pub default_registry: String,
    /// Whether what is missing is to be looked for at its own registry.
    pub upstream: Upstream,
    /// Largest blob that may be uploaded, in bytes.
    pub max_blob: u64,
}

impl Policy {
    /// Pull only, no upstream, `localhost` by default, blobs up to 64 GiB.
    pub fn read_only() -> Self {
        Self {
            allow_push: false,
            default_registry: "localhost".to_owned(),
            upstream: Upstream::Never,
            max_blob: 64 << 30,
        }
    }

    /// The same with pushes.
    pub fn read_write() -> Self {
        Self { allow_push: true, ..Self::read_only() }
    }
}

/// When to look elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upstream {
    Never,
    /// When the store lacks it, unless it belongs to the default registry, which is ourselves.
    WhenMissing,
}

/// What the caller has to do for a request.
#[derive(Debug)]
pub enum Action {
    /// Send this.
    Respond(Response<Body>),
    /// Feed the request's body to the upload, finish it, send what it returns.
    ReceiveBlob(BlobUpload),
    /// Read the request's body up to the upload's limit, finish it, send what it returns.
    ReceiveManifest(ManifestUpload),
    /// Fetch this into the store, then ask [`Registry::handle_stored`].
    FetchUpstream(Wanted),
}

/// Something the store lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Store it with `put_manifest(…, Children::Later)` and `tag` it as this reference.
    Manifest(Reference),
    Blob(Repository, Digest),
}

/// A response's body. Of a HEAD it is empty, while Content-Length tells the size.
#[derive(Debug)]
pub enum Body {
    Full(Bytes),
    /// `len` bytes of an open file from `offset` on (seek first: the file's position is its start).
    File {
        path: PathBuf,
        file: File,
        offset: u64,
        len: u64,
    },
}

impl Body {
    /// Bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Full(bytes) => bytes.len() as u64,
            Self::File { len, .. } => *len,
        }
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The registry. Cheap to clone; one per policy.
#[derive(Debug, Clone)]
pub struct Registry {
    store: ImageStore,
    policy: Policy,
}

type Reply = Result<Action, ApiError>;

impl Registry {
    /// Serves `store` under `policy`.
    pub fn new(store: ImageStore, policy: Policy) -> Self {
        Self { store, policy }
    }

    /// What to do for a request; its body is not needed to decide.
    pub fn handle(&self, head: &Parts) -> Action {
        self.route(head, self.policy.upstream).unwrap_or_else(|error| Action::Respond(error.response()))
    }

    /// The same after an upstream was asked: never [`Action::FetchUpstream`].
    pub fn handle_stored(&self, head: &Parts) -> Action {
        self.route(head, Upstream::Never).unwrap_or_else(|error| Action::Respond(error.response()))
    }

    /// For a manifest that is neither here nor to be had: containerd shows the body of a 403 to whoever waits for the
    /// image, of a 404 only that it was one.
    pub fn out_of_reach(&self, wanted: &Reference, why: &str) -> Response<Body> {
        let message =
            format!("{wanted} is not among the images of this machine (`ekstra image list`), and {why}");
        ApiError::new(Code::Denied, message).response()
    }

    fn route(&self, head: &Parts, upstream: Upstream) -> Reply {
        let target = Target::parse(&head.uri, &self.policy.default_registry)?;
        let reading = matches!(head.method, Method::GET | Method::HEAD);
        if !reading && !self.policy.allow_push {
            return Err(ApiError::new(Code::Denied, "this registry is read-only here"));
        }
        let reply = if reading { self.read(&target, head) } else { self.write(&target, head) };
        match reply {
            Err(error) if reading && upstream == Upstream::WhenMissing => {
                self.wanted(&target).filter(|_| error.is_absence()).map(Action::FetchUpstream).ok_or(error)
            }
            Ok(Action::Respond(response)) if head.method == Method::HEAD => {
                Ok(Action::Respond(response.map(|_| Body::Full(Bytes::new()))))
            }
            other => other,
        }
    }

    fn read(&self, target: &Target, head: &Parts) -> Reply {
        match &target.route {
            Route::Base => Ok(Action::Respond(json(reply(StatusCode::OK), b"{}".to_vec()))),
            Route::Catalog => self.catalog(target),
            Route::Tags(repository) => self.tag_list(target, repository),
            Route::Manifest(repository, key) => self.manifest(repository, key, &head.headers),
            Route::Blob(_, digest) => self.blob(digest, &head.headers),
            Route::Upload(_, id) => self.upload_status(target, id),
            Route::Uploads(_) => Err(ApiError::method("POST")),
        }
    }

    fn write(&self, target: &Target, head: &Parts) -> Reply {
        match (&head.method, &target.route) {
            (&Method::POST, Route::Uploads(_)) => self.start_upload(target),
            (&Method::PATCH, Route::Upload(_, id)) => self.append_upload(target, id, &head.headers),
            (&Method::PUT, Route::Upload(_, id)) => self.finish_upload(target, id, &head.headers),
            (&Method::DELETE, Route::Upload(_, id)) => self.cancel_upload(id),
            (&Method::PUT, Route::Manifest(repository, key)) => {
                self.receive_manifest(target, repository, key, &head.headers)
            }
            (&Method::DELETE, Route::Manifest(repository, key)) => self.delete_manifest(repository, key),
            (&Method::DELETE, Route::Blob(_, digest)) => self.delete_blob(digest),
            (_, Route::Upload(..)) => Err(ApiError::method("GET, PATCH, PUT, DELETE")),
            (_, Route::Uploads(_)) => Err(ApiError::method("POST")),
            (_, Route::Manifest(..)) => Err(ApiError::method("GET, HEAD, PUT, DELETE")),
            (_, Route::Blob(..)) => Err(ApiError::method("GET, HEAD, DELETE")),
            (_, Route::Base | Route::Catalog | Route::Tags(_)) => Err(ApiError::method("GET, HEAD")),
        }
    }

    /// What an upstream should be asked for, if this is something that others have.
    fn wanted(&self, target: &Target) -> Option<Wanted> {
        let (repository, wanted) = match &target.route {
            Route::Manifest(repository, key) => {
                (repository, Wanted::Manifest(route::reference(repository, key).ok()?))
            }
            Route::Blob(repository, digest) => (repository, Wanted::Blob(repository.clone(), *digest)),
            _ => return None,
        };
        (repository.registry() != self.policy.default_registry).then_some(wanted)
    }
}

/// A response in the making, with what every response has.
fn reply(status: StatusCode) -> response::Builder {
    Response::builder().status(status).header("docker-distribution-api-version", "registry/2.0")
}

fn json(builder: response::Builder, body: Vec<u8>) -> Response<Body> {
    let builder = builder.header("content-type", "application/json").header("content-length", body.len());
    done(builder, Body::Full(body.into()))
}

fn empty(builder: response::Builder) -> Response<Body> {
    done(builder.header("content-length", 0), Body::Full(Bytes::new()))
}

fn done(builder: response::Builder, body: Body) -> Response<Body> {
    builder.body(body).unwrap_or_else(|error| {
        // Only text that came from outside and is no header value can lead here.
        tracing::error!(%error, "cannot make a response");
        let mut response = Response::new(Body::Full(Bytes::new()));
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response.headers_mut().insert("content-length", HeaderValue::from_static("0"));
        response
    })
}

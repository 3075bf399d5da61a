//! The writing half of the API. Invariant: an upload's state is its file alone (its length is how far it
//! got), so any process can go on with it after a restart, and a blob is hashed from the very bytes that
//! are then published.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use http::{Response, StatusCode};

use super::error::{ApiError, Code, too_large};
use super::route::{Target, parse_digest, reference};
use super::{Action, Body, Registry, Reply, empty, reply};
use crate::digest::{Digest, Digester};
use crate::manifest::MAX_MANIFEST;
use crate::reference::{Reference, Repository};
use crate::store::{Children, Deleted, ImageStore, StoreError, present, publish};

const ID_BYTES: usize = 16;

/// Why an upload cannot go on. Send [`UploadError::response`] and drop the upload.
#[derive(Debug)]
pub struct UploadError(ApiError);

impl UploadError {
    /// What the client gets to see.
    pub fn response(self) -> Response<Body> {
        self.0.response()
    }
}

/// A blob, or a piece of one, that is being received.
#[derive(Debug)]
pub struct BlobUpload {
    store: ImageStore,
    session: Session,
    max: u64,
    /// Location of the session, of the blob once complete.
    location: String,
    /// Set when the body that comes is the last piece.
    complete: Option<Digest>,
}

impl BlobUpload {
    /// Takes the next bytes of the body.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), UploadError> {
        let len = self.session.len.saturating_add(bytes.len() as u64);
        if len > self.max {
            return Err(UploadError(too_large(len)));
        }
        let path = self.store.upload_path(&self.session.id);
        let written = self.session.file.write_all(bytes);
        written.map_err(|source| UploadError(StoreError::io("write", &path)(source).into()))?;
        self.session.len = len;
        Ok(())
    }

    /// Ends the body and returns what to send. Hashes the whole blob if it is complete: that takes a
    /// second per gigabyte or so.
    pub fn finish(self) -> Response<Body> {
        self.end().unwrap_or_else(ApiError::response)
    }

    fn end(self) -> Result<Response<Body>, ApiError> {
        let Some(expected) = self.complete else {
            let accepted = reply(StatusCode::ACCEPTED).header("location", &self.location);
            return Ok(empty(self.session.describe(accepted)));
        };
        self.session.publish(&self.store, &expected)?;
        Ok(created(&self.location, &expected))
    }
}

/// A manifest that is being received.
#[derive(Debug)]
pub struct ManifestUpload {
    store: ImageStore,
    reference: Reference,
    media_type: Option<String>,
    location: String,
}

impl ManifestUpload {
    /// Most bytes that the body may have. Of a longer one, pass any prefix longer than this to
    /// [`Self::finish`] to get the right answer.
    pub fn limit(&self) -> u64 {
        MAX_MANIFEST
    }

    /// Stores the manifest, if what it refers to is here, and returns what to send.
    pub fn finish(self, bytes: &[u8]) -> Response<Body> {
        self.end(bytes).unwrap_or_else(ApiError::response)
    }

    fn end(self, bytes: &[u8]) -> Result<Response<Body>, ApiError> {
        let actual = Digest::of(bytes);
        if let Some(&expected) = self.reference.digest().filter(|&&digest| digest != actual) {
            return Err(StoreError::DigestMismatch { expected, actual }.into());
        }
        let target = self.store.put_manifest(bytes, self.media_type.as_deref(), Children::All)?;
        self.store.tag(&self.reference, &target)?;
        Ok(created(&self.location, &target.digest))
    }
}

fn created(location: &str, digest: &Digest) -> Response<Body> {
    let builder = reply(StatusCode::CREATED).header("location", location);
    empty(builder.header("docker-content-digest", digest.to_string()))
}

impl Registry {
    /// A session, a monolithic upload (`digest`) or a mount from another repository (`mount`), which
    /// here means that the store has the blob already.
    pub(super) fn start_upload(&self, target: &Target) -> Reply {
        if let Some(mount) = target.query("mount") {
            let digest = parse_digest(mount)?;
            if self.store.keep_blob(&digest)? {
                let location = target.location(&format!("blobs/{digest}"));
                return Ok(Action::Respond(created(&location, &digest)));
            }
        }
        let complete = target.query("digest").map(parse_digest).transpose()?;
        let session = Session::start(&self.store)?;
        if let Some(digest) = complete {
            return Ok(Action::ReceiveBlob(self.upload(target, session, Some(digest))));
        }
        let location = session.location(target);
        let accepted = reply(StatusCode::ACCEPTED).header("location", location);
        Ok(Action::Respond(empty(session.describe(accepted))))
    }

    pub(super) fn upload_status(&self, target: &Target, id: &str) -> Reply {
        let session = Session::resume(&self.store, id, false)?;
        let builder = reply(StatusCode::NO_CONTENT).header("location", session.location(target));
        let response = session.describe(builder).body(Body::Full(bytes::Bytes::new()));
        Ok(Action::Respond(response.map_err(|e| ApiError::new(Code::Unknown, e.to_string()))?))
    }

    pub(super) fn append_upload(&self, target: &Target, id: &str, headers: &HeaderMap) -> Reply {
        let session = self.session(target, id, headers)?;
        Ok(Action::ReceiveBlob(self.upload(target, session, None)))
    }

    pub(super) fn finish_upload(&self, target: &Target, id: &str, headers: &HeaderMap) -> Reply {
        let missing = || ApiError::new(Code::DigestInvalid, "the query lacks `digest`");
        let digest = parse_digest(target.query("digest").ok_or_else(missing)?)?;
        let session = self.session(target, id, headers)?;
        Ok(Action::ReceiveBlob(self.upload(target, session, Some(digest))))
    }

    pub(super) fn cancel_upload(&self, id: &str) -> Reply {
        let session = Session::resume(&self.store, id, true)?;
        session.discard(&self.store);
        Ok(Action::Respond(empty(reply(StatusCode::NO_CONTENT))))
    }

    fn upload(&self, target: &Target, session: Session, complete: Option<Digest>) -> BlobUpload {
        let location = match &complete {
            Some(digest) => target.location(&format!("blobs/{digest}")),
            None => session.location(target),
        };
        BlobUpload { store: self.store.clone(), session, max: self.policy.max_blob, location, complete }
    }

    /// The session, if the piece that Content-Range announces is the next one and not too large.
    fn session(&self, target: &Target, id: &str, headers: &HeaderMap) -> Result<Session, ApiError> {
        let session = Session::resume(&self.store, id, true)?;
        let length = text(headers, CONTENT_LENGTH.as_str()).and_then(|length| length.parse::<u64>().ok());
        if let Some(length) =
            length.filter(|length| session.len.saturating_add(*length) > self.policy.max_blob)
        {
            return Err(too_large(length));
        }
        if let Some(range) = text(headers, "content-range") {
            let first = range.trim_start_matches("bytes ").split_once('-').map(|(first, _)| first.parse());
            if first != Some(Ok(session.len)) {
                let message = format!("the next piece begins at {}", session.len);
                return Err(ApiError::new(Code::RangeInvalid, message)
                    .header("location", session.location(target))
                    .header("range", session.range()));
            }
        }
        Ok(session)
    }

    pub(super) fn receive_manifest(
        &self,
        target: &Target,
        repository: &Repository,
        key: &str,
        headers: &HeaderMap,
    ) -> Reply {
        let reference = reference(repository, key).map_err(|error| {
            ApiError::new(Code::ManifestInvalid, error.to_string()).detail("reference", key)
        })?;
        let media_type = text(headers, CONTENT_TYPE.as_str())
            .map(|value| value.split(';').next().unwrap_or_default().trim().to_owned());
        let location = target.location(&format!("manifests/{key}"));
        Ok(Action::ReceiveManifest(ManifestUpload {
            store: self.store.clone(),
            reference,
            media_type,
            location,
        }))
    }

    pub(super) fn delete_manifest(&self, repository: &Repository, key: &str) -> Reply {
        let unknown =
            || ApiError::new(Code::ManifestUnknown, format!("{repository} has no manifest `{key}`"));
        let reference = reference(repository, key).map_err(|_| unknown())?;
        if reference.digest().is_some() && self.store.resolve(&reference)?.is_none() {
            return Err(unknown());
        }
        if self.store.delete_manifest(&reference)? {
            return Ok(Action::Respond(empty(reply(StatusCode::ACCEPTED))));
        }
        Err(unknown())
    }

    pub(super) fn delete_blob(&self, digest: &Digest) -> Reply {
        match self.store.delete_blob(digest)? {
            Deleted::Gone => Ok(Action::Respond(empty(reply(StatusCode::ACCEPTED)))),
            Deleted::Absent => {
                Err(ApiError::new(Code::BlobUnknown, "the blob is not in this registry")
                    .detail("digest", digest))
            }
            Deleted::InUse => {
                Err(ApiError::new(Code::Unsupported, "an image needs this blob").header("allow", "GET, HEAD"))
            }
        }
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// An upload's file; while it is open for writing it is locked against a second writer.
#[derive(Debug)]
struct Session {
    id: String,
    file: File,
    /// Bytes received so far.
    len: u64,
}

impl Session {
    fn start(store: &ImageStore) -> Result<Self, ApiError> {
        // The id is the only key to the session, so it must not be guessable.
        let mut raw = [0; ID_BYTES];
        let source = std::path::Path::new("/dev/urandom");
        File::open(source)
            .and_then(|mut f| f.read_exact(&mut raw))
            .map_err(StoreError::io("read", source))?;
        let id = hex::encode(raw);
        let path = store.upload_path(&id);
        let opened = OpenOptions::new().read(true).append(true).create_new(true).mode(0o600).open(&path);
        let file = opened.map_err(StoreError::io("create", &path))?;
        file.try_lock().map_err(|_| busy())?;
        Ok(Self { id, file, len: 0 })
    }

    fn resume(store: &ImageStore, id: &str, writing: bool) -> Result<Self, ApiError> {
        let unknown = || ApiError::new(Code::BlobUploadUnknown, "there is no such upload");
        let valid = id.len() == 2 * ID_BYTES && id.bytes().all(|b| b.is_ascii_hexdigit());
        if !valid {
            return Err(unknown());
        }
        let path = store.upload_path(id);
        let opened = present(OpenOptions::new().read(true).append(writing).open(&path));
        let file = opened.map_err(StoreError::io("open", &path))?.ok_or_else(unknown)?;
        if writing {
            file.try_lock().map_err(|_| busy())?;
            // Published or cancelled between opening and locking: the name is gone.
            present(fs::metadata(&path)).map_err(StoreError::io("look at", &path))?.ok_or_else(unknown)?;
        }
        let len = file.metadata().map_err(StoreError::io("look at", &path))?.len();
        Ok(Self { id: id.to_owned(), file, len })
    }

    fn location(&self, target: &Target) -> String {
        target.location(&format!("blobs/uploads/{}", self.id))
    }

    /// The range received, in the form the specification has for it; an empty one cannot be said.
    fn range(&self) -> String {
        format!("0-{}", self.len.saturating_sub(1))
    }

    fn describe(&self, builder: http::response::Builder) -> http::response::Builder {
        builder.header("range", self.range()).header("docker-upload-uuid", &self.id)
    }

    fn discard(&self, store: &ImageStore) {
        // A failure leaves it to gc.
        let _ = fs::remove_file(store.upload_path(&self.id));
    }

    /// Makes the file the blob that it must be; one that is something else is thrown away.
    fn publish(&self, store: &ImageStore, expected: &Digest) -> Result<(), StoreError> {
        let path = store.upload_path(&self.id);
        let actual = hash(&path).map_err(StoreError::io("read", &path))?;
        if actual != *expected {
            self.discard(store);
            return Err(StoreError::DigestMismatch { expected: *expected, actual });
        }
        self.file.sync_all().map_err(StoreError::io("sync", &path))?;
        let _lock = store.lock_shared()?;
        publish(&path, &store.blob_path(expected))
    }
}

fn busy() -> ApiError {
    ApiError::new(Code::BlobUploadInvalid, "another request is writing to this upload")
}

fn hash(path: &std::path::Path) -> io::Result<Digest> {
    let mut file = File::open(path)?;
    let mut digester = Digester::default();
    let mut buffer = vec![0; 1 << 17];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(digester.finish()),
            count => digester.update(&buffer[..count]),
        }
    }
}

//! Errors as clients see them. Invariant: a code has one HTTP status. Source: OCI distribution-spec,
//! "Error Codes".

use http::{Response, StatusCode};
use serde::Serialize;

use super::{Body, json, reply};
use crate::manifest::ManifestError;
use crate::reference::ReferenceError;
use crate::store::StoreError;

/// The specification's codes, as far as they are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Code {
    BlobUnknown,
    BlobUploadInvalid,
    BlobUploadUnknown,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    SizeInvalid,
    Denied,
    Unsupported,
    Unknown,
    /// A range that does not continue or does not exist; the specification has the status, no code.
    RangeInvalid,
    /// A parameter of a listing.
    PaginationNumberInvalid,
}

impl Code {
    fn status(self) -> StatusCode {
        match self {
            Self::BlobUnknown | Self::BlobUploadUnknown | Self::ManifestUnknown | Self::NameUnknown => {
                StatusCode::NOT_FOUND
            }
            Self::BlobUploadInvalid
            | Self::DigestInvalid
            | Self::ManifestBlobUnknown
            | Self::ManifestInvalid
            | Self::NameInvalid
            | Self::PaginationNumberInvalid => StatusCode::BAD_REQUEST,
            Self::SizeInvalid => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Denied => StatusCode::FORBIDDEN,
            Self::Unsupported => StatusCode::METHOD_NOT_ALLOWED,
            Self::Unknown => StatusCode::INTERNAL_SERVER_ERROR,
            Self::RangeInvalid => StatusCode::RANGE_NOT_SATISFIABLE,
        }
    }
}

/// An error on its way to the client.
#[derive(Debug)]
pub(super) struct ApiError {
    pub(super) code: Code,
    message: String,
    detail: serde_json::Value,
    headers: Vec<(&'static str, String)>,
}

impl ApiError {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), detail: serde_json::Value::Null, headers: Vec::new() }
    }

    /// With something for programs to read.
    pub(super) fn detail(mut self, key: &str, value: impl ToString) -> Self {
        self.detail = serde_json::json!({ key: value.to_string() });
        self
    }

    pub(super) fn header(mut self, name: &'static str, value: impl ToString) -> Self {
        self.headers.push((name, value.to_string()));
        self
    }

    pub(super) fn method(allowed: &str) -> Self {
        Self::new(Code::Unsupported, format!("the operation is not supported, only {allowed}"))
            .header("allow", allowed)
    }

    /// Whether another registry might have it.
    pub(super) fn is_absence(&self) -> bool {
        matches!(self.code, Code::BlobUnknown | Code::ManifestUnknown | Code::NameUnknown)
    }

    pub(super) fn response(self) -> Response<Body> {
        let error = serde_json::json!({
            "errors": [{ "code": self.code, "message": self.message, "detail": self.detail }]
        });
        let mut builder = reply(self.code.status());
        for (name, value) in self.headers {
            builder = builder.header(name, value);
        }
        json(builder, error.to_string().into_bytes())
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::DigestMismatch { .. } => Self::new(Code::DigestInvalid, error.to_string()),
            StoreError::SizeMismatch { .. } => Self::new(Code::DigestInvalid, error.to_string()),
            StoreError::Manifest(_, ManifestError::TooLarge(size)) => too_large(size),
            StoreError::Manifest(_, why) => Self::new(Code::ManifestInvalid, why.to_string()),
            StoreError::MissingChild { child, .. } => {
                Self::new(Code::ManifestBlobUnknown, error.to_string()).detail("digest", child)
            }
            StoreError::Io { .. } | StoreError::Content(_) | StoreError::CorruptRef { .. } => {
                tracing::error!(error = &error as &dyn std::error::Error, "the image store failed");
                Self::new(Code::Unknown, "the image store failed, see the service's log")
            }
        }
    }
}

impl From<ReferenceError> for ApiError {
    fn from(error: ReferenceError) -> Self {
        Self::new(Code::NameInvalid, error.to_string())
    }
}

pub(super) fn too_large(size: u64) -> ApiError {
    ApiError::new(Code::SizeInvalid, format!("{size} bytes are more than is accepted"))
}

//! AWS Signature Version 4: signing and presigning for our own clients, verification, and EKS tokens.
//!
//! Rules: the IAM User Guide, "Create a signed AWS API request". Invariants: secrets never reach `Debug`;
//! signatures are compared in constant time; `now` is an argument.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

mod canonical;
mod error;
mod sign;
mod token;
mod verify;

pub use error::SigError;
pub use sign::{presign, sign};
pub use token::{TOKEN_LIFETIME, TokenError, exec_credential, make_eks_token, verify_eks_token};
pub use verify::{Scope, Verified, VerifyOptions, scope, verify};

pub(crate) const ALGORITHM: &str = "AWS4-HMAC-SHA256";
pub(crate) const UNSIGNED_PAYLOAD: &str = "UNSIGNED-PAYLOAD";

/// What a client signs with.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub access_key_id: String,
    pub secret_access_key: String,
    pub session_token: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("access_key_id", &self.access_key_id).finish_non_exhaustive()
    }
}

/// What a server knows of an access key: the secret, and until when it serves.
#[derive(Clone)]
pub struct SecretKey {
    secret: String,
    expires: Option<i64>,
}

impl SecretKey {
    /// A key without an end.
    pub fn new(secret: impl Into<String>) -> Self {
        Self { secret: secret.into(), expires: None }
    }

    /// A temporary key: after `unix` seconds requests are answered `ExpiredToken`.
    #[must_use]
    pub fn expiring(self, unix: impl Into<Option<i64>>) -> Self {
        Self { expires: unix.into(), ..self }
    }
}

/// What a lookup finds: the key, and with it whatever else the caller wants to know of who has it.
pub trait KeyFound {
    fn key(&self) -> &SecretKey;
}

impl KeyFound for SecretKey {
    fn key(&self) -> &SecretKey {
        self
    }
}

impl<T> KeyFound for (SecretKey, T) {
    fn key(&self) -> &SecretKey {
        &self.0
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretKey").field("expires", &self.expires).finish_non_exhaustive()
    }
}

pub(crate) fn sha256_hex(data: &[u8]) -> String {
    hex::encode(Sha256::digest(data))
}

fn hmac_sha256(key: &[u8], data: &str) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(data.as_bytes());
    mac.finalize().into_bytes().into()
}

/// The hex signature. `date` is the whole `X-Amz-Date`, at least eight characters.
fn signature(secret: &str, date: &str, region: &str, service: &str, canonical_request: &str) -> String {
    let day = &date[..8];
    let scope = format!("{day}/{region}/{service}/aws4_request");
    let text = format!("{ALGORITHM}\n{date}\n{scope}\n{}", sha256_hex(canonical_request.as_bytes()));
    let key = [region, service, "aws4_request"]
        .iter()
        .fold(hmac_sha256(format!("AWS4{secret}").as_bytes(), day), |key, step| hmac_sha256(&key, step));
    hex::encode(hmac_sha256(&key, &text))
}

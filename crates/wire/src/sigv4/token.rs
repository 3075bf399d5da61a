//! EKS tokens: a presigned STS `GetCallerIdentity` URL in base64, as `aws eks get-token` writes them.
//!
//! Rules: spec/eks-semantics.md §3.8. The signature is verified here, over whatever host the URL names, and nothing
//! is ever sent to that host: clients put `AWS_ENDPOINT_URL` or AWS's own endpoint into the token.

use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};

use super::sign::presign;
use super::verify::{Verified, VerifyOptions, check_signature, claim};
use super::{Credentials, KeyFound, SigError};
use crate::message::Request;
use crate::text::parse_query;

const PREFIX: &str = "k8s-aws-v1.";
const CLUSTER_HEADER: &str = "x-k8s-aws-id";
const MAX_LEN: usize = 4096;
/// A token lives this long from `X-Amz-Date`, seconds, whatever `X-Amz-Expires` says.
pub const TOKEN_LIFETIME: i64 = 900;
/// What whoever caches a token is told, a minute less: aws-iam-authenticator's figure.
const TOLD_LIFETIME: i64 = TOKEN_LIFETIME - 60;
/// How far in the future a token may be dated, seconds: what STS allows.
const SKEW: i64 = 300;

/// The only query parameters of a token, lower case.
const PARAMETERS: [&str; 9] = [
    "action",
    "version",
    "x-amz-algorithm",
    "x-amz-credential",
    "x-amz-date",
    "x-amz-expires",
    "x-amz-security-token",
    "x-amz-signature",
    "x-amz-signedheaders",
];

/// Why a token is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("token is too large")]
    TooLong,
    #[error("token is missing expected \"{PREFIX}\" prefix")]
    Prefix,
    #[error("token is not base64")]
    Encoding,
    #[error("token's URL: {0}")]
    Url(&'static str),
    #[error("unexpected query parameter {0:?} in token")]
    Parameter(String),
    #[error("query parameter {0:?} is in the token more than once")]
    Duplicate(String),
    #[error("unexpected action parameter in token")]
    Action,
    #[error("the token's header {CLUSTER_HEADER} is not signed")]
    ClusterNotSigned,
    #[error("the token's X-Amz-Expires is not an integer from 0 to 900")]
    Expires,
    #[error("the token has expired: X-Amz-Date {0} is more than 15 minutes ago")]
    Expired(String),
    #[error("the token is not yet valid: X-Amz-Date {0}")]
    NotYet(String),
    #[error("the token is for another service than sts: {0}")]
    Service(String),
    #[error(transparent)]
    Signature(#[from] SigError),
}

/// Verifies a token for one cluster: its name, or whatever id the client was told to sign. `now` is Unix seconds.
pub fn verify_eks_token<K: KeyFound>(
    token: &str,
    cluster: &str,
    lookup: impl Fn(&str, Option<&str>) -> Option<K>,
    now: i64,
) -> Result<Verified<K>, TokenError> {
    let request = request_in(&url_of(token)?, cluster)?;
    check_query(&request.query)?;
    let claim = claim(&request)?;
    if !claim.signed_headers.iter().any(|h| h == CLUSTER_HEADER) {
        return Err(TokenError::ClusterNotSigned);
    }
    if !claim.signed_headers.iter().any(|h| h == "host") {
        return Err(SigError::Invalid("'host' must be signed".to_owned()).into());
    }
    if !claim.expires.is_some_and(|e| (0..=TOKEN_LIFETIME).contains(&e)) {
        return Err(TokenError::Expires);
    }
    if now > claim.date + TOKEN_LIFETIME {
        return Err(TokenError::Expired(claim.date_text));
    }
    if claim.date > now + SKEW {
        return Err(TokenError::NotYet(claim.date_text));
    }
    let verified = check_signature(&request, claim, lookup, now, &VerifyOptions::default())?;
    if verified.service != "sts" {
        return Err(TokenError::Service(verified.service));
    }
    Ok(verified)
}

/// What an exec plugin of `kubectl` or a kubelet prints: a token that was made at `now`, Unix seconds.
pub fn exec_credential(token: &str, now: i64) -> String {
    let expires = crate::time::iso8601((now + TOLD_LIFETIME) * 1000);
    serde_json::json!({
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "spec": {"interactive": false},
        "status": {"token": token, "expirationTimestamp": expires},
    })
    .to_string()
}

/// Makes a token. `sts_endpoint` is `https://host[:port]`; nothing is sent there.
pub fn make_eks_token(
    credentials: &Credentials,
    region: &str,
    sts_endpoint: &str,
    cluster: &str,
    now: i64,
) -> String {
    let endpoint = sts_endpoint.trim_end_matches('/');
    let host = endpoint.split_once("://").map_or(endpoint, |(_, host)| host);
    let mut request = Request {
        method: "GET".to_owned(),
        path: "/".to_owned(),
        query: "Action=GetCallerIdentity&Version=2011-06-15".to_owned(),
        headers: vec![("host".to_owned(), host.to_owned()), (CLUSTER_HEADER.to_owned(), cluster.to_owned())],
        body: Vec::new(),
    };
    presign(&mut request, credentials, region, "sts", now, 60);
    format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(format!("{endpoint}/?{}", request.query)))
}

fn url_of(token: &str) -> Result<String, TokenError> {
    if token.len() > MAX_LEN {
        return Err(TokenError::TooLong);
    }
    let encoded = token.strip_prefix(PREFIX).ok_or(TokenError::Prefix)?;
    let engine = if encoded.ends_with('=') { &URL_SAFE } else { &URL_SAFE_NO_PAD };
    let bytes = engine.decode(encoded).map_err(|_| TokenError::Encoding)?;
    String::from_utf8(bytes).map_err(|_| TokenError::Encoding)
}

/// The request the URL stands for, with the headers that this cluster's client signed.
fn request_in(url: &str, cluster: &str) -> Result<Request, TokenError> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let rest = rest.ok_or(TokenError::Url("neither https nor http"))?;
    if url.chars().any(|c| c.is_control() || c.is_whitespace() || c == '#') {
        return Err(TokenError::Url("not plain"));
    }
    let (place, query) = rest.split_once('?').ok_or(TokenError::Url("no query"))?;
    let (host, path) = place.split_once('/').unwrap_or((place, ""));
    if host.is_empty() || host.contains('@') {
        return Err(TokenError::Url("no plain host"));
    }
    if !path.is_empty() {
        return Err(TokenError::Url("a path other than /"));
    }
    Ok(Request {
        method: "GET".to_owned(),
        path: "/".to_owned(),
        query: query.to_owned(),
        headers: vec![("host".to_owned(), host.to_owned()), (CLUSTER_HEADER.to_owned(), cluster.to_owned())],
        body: Vec::new(),
    })
}

/// Only known parameters, each once whatever its case, and the right action.
fn check_query(raw: &str) -> Result<(), TokenError> {
    let query = parse_query(raw).ok_or(TokenError::Url("not UTF-8"))?;
    let mut seen: Vec<String> = Vec::new();
    for (name, _) in &query {
        let lower = name.to_ascii_lowercase();
        if !PARAMETERS.contains(&lower.as_str()) {
            return Err(TokenError::Parameter(name.clone()));
        }
        if seen.contains(&lower) {
            return Err(TokenError::Duplicate(name.clone()));
        }
        seen.push(lower);
    }
    let action = query.iter().find(|(k, _)| k.eq_ignore_ascii_case("action")).map(|(_, v)| v.as_str());
    if action != Some("GetCallerIdentity") {
        return Err(TokenError::Action);
    }
    Ok(())
}

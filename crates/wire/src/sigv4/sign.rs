//! Signing and presigning for our own clients.
//!
//! Invariant: what [`sign`] and [`presign`] write, [`super::verify`] accepts.

use super::canonical::{Parts, canonical_request, paths};
use super::{ALGORITHM, Credentials, UNSIGNED_PAYLOAD, sha256_hex, signature};
use crate::message::Request;
use crate::text::uri_encode;
use crate::time::amz_date;

/// Headers that proxies change or that say nothing about the request (botocore's list).
const UNSIGNED_HEADERS: [&str; 14] = [
    "authorization",
    "connection",
    "content-length",
    "expect",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "x-amzn-trace-id",
    "x-forwarded-for",
];

/// Signs in the `Authorization` header. The request must have its `host` header and its final body; `x-amz-date`
/// and `x-amz-security-token` are set here. `now` is Unix seconds.
pub fn sign(request: &mut Request, credentials: &Credentials, region: &str, service: &str, now: i64) {
    let date = amz_date(now);
    request
        .headers
        .retain(|(n, _)| !["authorization", "x-amz-date", "x-amz-security-token"].contains(&n.as_str()));
    request.headers.push(("x-amz-date".to_owned(), date.clone()));
    if let Some(token) = &credentials.session_token {
        request.headers.push(("x-amz-security-token".to_owned(), token.clone()));
    }
    let signed_headers = signable(request);
    let signature = signature_of(request, &signed_headers, credentials, region, service, &date);
    let value = format!(
        "{ALGORITHM} Credential={}/{}/{region}/{service}/aws4_request, SignedHeaders={}, Signature={signature}",
        credentials.access_key_id,
        &date[..8],
        signed_headers.join(";"),
    );
    request.headers.push(("authorization".to_owned(), value));
}

/// Signs in the query: afterwards `request.query` carries the signature and stays valid for `expires` seconds.
/// Every header present is signed and must be sent.
pub fn presign(
    request: &mut Request,
    credentials: &Credentials,
    region: &str,
    service: &str,
    now: i64,
    expires: u32,
) {
    let date = amz_date(now);
    let signed_headers = signable(request);
    let credential = format!("{}/{}/{region}/{service}/aws4_request", credentials.access_key_id, &date[..8]);
    let mut pairs = vec![
        ("X-Amz-Algorithm", ALGORITHM.to_owned()),
        ("X-Amz-Credential", credential),
        ("X-Amz-Date", date.clone()),
        ("X-Amz-Expires", expires.to_string()),
        ("X-Amz-SignedHeaders", signed_headers.join(";")),
    ];
    pairs.extend(credentials.session_token.iter().map(|token| ("X-Amz-Security-Token", token.clone())));
    for (name, value) in pairs {
        append(&mut request.query, name, &value);
    }
    let signature = signature_of(request, &signed_headers, credentials, region, service, &date);
    append(&mut request.query, "X-Amz-Signature", &signature);
}

fn append(query: &mut String, name: &str, value: &str) {
    if !query.is_empty() {
        query.push('&');
    }
    query.push_str(&format!("{name}={}", uri_encode(value)));
}

fn signable(request: &Request) -> Vec<String> {
    let mut names: Vec<String> = request.headers.iter().map(|(n, _)| n.clone()).collect();
    names.retain(|n| !UNSIGNED_HEADERS.contains(&n.as_str()));
    names.sort();
    names.dedup();
    names
}

fn signature_of(
    request: &Request,
    signed_headers: &[String],
    credentials: &Credentials,
    region: &str,
    service: &str,
    date: &str,
) -> String {
    let declared = request.header("x-amz-content-sha256").filter(|h| *h == UNSIGNED_PAYLOAD);
    let payload_hash = declared.map_or_else(|| sha256_hex(&request.body), str::to_owned);
    let parts = Parts { request, signed_headers, payload_hash: &payload_hash };
    let path = paths(&request.path, service).swap_remove(0);
    signature(&credentials.secret_access_key, date, region, service, &canonical_request(&parts, &path))
}

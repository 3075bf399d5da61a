//! The canonical request: the one text both sides hash.
//!
//! Invariant: equal requests have equal text whatever order, spacing or redundant encoding they arrived with.

use crate::message::Request;
use crate::text::{uri_decode, uri_encode, uri_encode_path};

/// What of a request is signed.
pub(crate) struct Parts<'a> {
    pub(crate) request: &'a Request,
    pub(crate) signed_headers: &'a [String],
    pub(crate) payload_hash: &'a str,
}

/// The canonical request. `path` comes from [`paths`]; `X-Amz-Signature` is left out of the query.
pub(crate) fn canonical_request(parts: &Parts<'_>, path: &str) -> String {
    let headers: String =
        parts.signed_headers.iter().map(|name| format!("{name}:{}\n", header(parts.request, name))).collect();
    format!(
        "{}\n{path}\n{}\n{headers}\n{}\n{}",
        parts.request.method,
        query(&parts.request.query),
        parts.signed_headers.join(";"),
        parts.payload_hash,
    )
}

/// The canonical paths a signer may have meant, best first. All services but S3 encode the path a second time and
/// remove dot segments; some SDKs leave dot segments alone, so both forms are accepted where they differ.
pub(crate) fn paths(raw: &str, service: &str) -> Vec<String> {
    let raw = if raw.is_empty() { "/" } else { raw };
    if service == "s3" {
        return vec![uri_encode_path(&uri_decode(raw).unwrap_or_else(|| raw.to_owned()))];
    }
    let mut paths = vec![uri_encode_path(&normalized(raw)), uri_encode_path(raw)];
    paths.dedup();
    paths
}

/// RFC 3986 dot segments and doubled slashes removed.
fn normalized(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(kept.pop()),
            segment => kept.push(segment),
        }
    }
    let trailing = if path.ends_with('/') && !kept.is_empty() { "/" } else { "" };
    format!("/{}{trailing}", kept.join("/"))
}

/// Pairs decoded, encoded once, sorted by encoded name and value.
fn query(raw: &str) -> String {
    let mut pairs: Vec<(String, String)> = raw
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(k, v)| (recode(k), recode(v)))
        .filter(|(k, _)| k != "X-Amz-Signature")
        .collect();
    pairs.sort();
    let pairs: Vec<String> = pairs.into_iter().map(|(k, v)| format!("{k}={v}")).collect();
    pairs.join("&")
}

/// A `+` is read as a space, as the codecs read it, so that what is signed is what is served.
fn recode(component: &str) -> String {
    let spaced = component.replace('+', "%20");
    uri_decode(&spaced).map_or(spaced, |text| uri_encode(&text))
}

/// Values trimmed, inner runs of spaces as one, repeated headers joined by commas.
fn header(request: &Request, name: &str) -> String {
    let values = request.headers.iter().filter(|(n, _)| n == name);
    let values: Vec<String> =
        values.map(|(_, v)| v.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    values.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_sorted_and_encoded_once() {
        assert_eq!(query("b=2&a=z&a=A%2fb&c&X-Amz-Signature=1&d=x+y"), "a=A%2Fb&a=z&b=2&c=&d=x%20y");
    }

    #[test]
    fn paths_are_encoded_twice_except_for_s3() {
        assert_eq!(paths("/tags/arn%3Aaws%2Fx", "eks"), ["/tags/arn%253Aaws%252Fx"]);
        assert_eq!(paths("/a%20b", "s3"), ["/a%20b"]);
        assert_eq!(paths("/a/./b//../c/", "eks"), ["/a/c/", "/a/./b//../c/"]);
        assert_eq!(paths("", "eks"), ["/"]);
    }
}

//! Verifying signatures, in the `Authorization` header or in the query.
//!
//! Invariant: nothing of a request is believed that its signature does not cover: the body is hashed here, and
//! `x-amz-*` headers must be signed.

use subtle::ConstantTimeEq;

use super::canonical::{Parts, canonical_request, paths};
use super::{ALGORITHM, KeyFound, SecretKey, SigError, UNSIGNED_PAYLOAD, sha256_hex, signature};
use crate::message::Request;
use crate::text::{parse_query, uri_decode};
use crate::time::{amz_date, parse_amz_date};

/// A credential scope, unverified: good for routing, not for trust.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    pub access_key: String,
    /// `20150830`.
    pub day: String,
    pub region: String,
    pub service: String,
}

/// What a valid signature vouches for.
#[derive(Clone)]
pub struct Verified<K = SecretKey> {
    pub access_key: String,
    /// As the lookup found it.
    pub found: K,
    /// When it was signed, Unix seconds.
    pub date: i64,
    pub region: String,
    pub service: String,
    /// Lower case, as signed.
    pub signed_headers: Vec<String>,
    pub session_token: Option<String>,
    pub presigned: bool,
    /// `X-Amz-Expires` of a presigned request, seconds.
    pub expires: Option<i64>,
}

impl<K> std::fmt::Debug for Verified<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verified")
            .field("access_key", &self.access_key)
            .field("date", &self.date)
            .field("region", &self.region)
            .field("service", &self.service)
            .field("signed_headers", &self.signed_headers)
            .field("presigned", &self.presigned)
            .finish_non_exhaustive()
    }
}

/// What the verifier allows.
#[derive(Clone, Copy, Debug)]
pub struct VerifyOptions<'a> {
    /// How far `X-Amz-Date` may be from now, seconds.
    pub skew: i64,
    /// The longest `X-Amz-Expires`, seconds.
    pub max_expires: i64,
    /// Accept `x-amz-content-sha256: UNSIGNED-PAYLOAD`.
    pub allow_unsigned_payload: bool,
    /// The scope's region and service must be these, where given.
    pub region: Option<&'a str>,
    pub service: Option<&'a str>,
}

impl Default for VerifyOptions<'_> {
    /// Five minutes, seven days, signed payloads, any scope.
    fn default() -> Self {
        Self { skew: 300, max_expires: 604_800, allow_unsigned_payload: false, region: None, service: None }
    }
}

/// A signature as it was sent.
pub(super) struct Claim {
    scope: Scope,
    pub(super) date_text: String,
    pub(super) date: i64,
    pub(super) signed_headers: Vec<String>,
    signature: String,
    session_token: Option<String>,
    /// Set when presigned.
    pub(super) expires: Option<i64>,
}

/// The scope a request claims, for [`crate::route`].
pub fn scope(request: &Request) -> Option<Scope> {
    let credential = match request.header("authorization") {
        Some(header) => field(header.strip_prefix(ALGORITHM)?, "Credential")?.to_owned(),
        None => {
            let raw = request.query.split('&').find_map(|pair| pair.strip_prefix("X-Amz-Credential="))?;
            uri_decode(raw)?
        }
    };
    parse_scope(&credential).ok()
}

/// Verifies a request. `lookup` finds the secret of an access key; temporary keys are looked up with their session
/// token and must not be found without it. `now` is Unix seconds.
pub fn verify<K: KeyFound>(
    request: &Request,
    lookup: impl Fn(&str, Option<&str>) -> Option<K>,
    now: i64,
    options: &VerifyOptions<'_>,
) -> Result<Verified<K>, SigError> {
    let claim = claim(request)?;
    check_scope(&claim.scope, options)?;
    check_date(&claim, now, options)?;
    check_headers(request, &claim)?;
    check_signature(request, claim, lookup, now, options)
}

/// Reads the claim of a request from its header or else its query.
pub(super) fn claim(request: &Request) -> Result<Claim, SigError> {
    match request.header("authorization") {
        Some(header) => header_claim(request, header),
        None => query_claim(request),
    }
}

fn header_claim(request: &Request, header: &str) -> Result<Claim, SigError> {
    let fields = header
        .strip_prefix(ALGORITHM)
        .filter(|f| f.starts_with(' '))
        .ok_or_else(|| incomplete("Authorization header requires the algorithm 'AWS4-HMAC-SHA256'."))?;
    let need = |name: &str| {
        field(fields, name)
            .ok_or_else(|| incomplete(&format!("Authorization header requires '{name}' parameter.")))
    };
    let date_text = request.header("x-amz-date").ok_or_else(|| {
        incomplete("Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header.")
    })?;
    Ok(Claim {
        scope: parse_scope(need("Credential")?)?,
        date: parse_date(date_text)?,
        date_text: date_text.to_owned(),
        signed_headers: need("SignedHeaders")?.split(';').map(str::to_owned).collect(),
        signature: need("Signature")?.to_owned(),
        session_token: request.header("x-amz-security-token").map(str::to_owned),
        expires: None,
    })
}

fn query_claim(request: &Request) -> Result<Claim, SigError> {
    let query = parse_query(&request.query).ok_or_else(|| incomplete("The query string is not UTF-8."))?;
    let find = |name: &str| query.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str());
    if find("X-Amz-Algorithm").is_none() && find("X-Amz-Signature").is_none() {
        return Err(SigError::Missing);
    }
    let need = |name: &str| -> Result<&str, SigError> {
        if query.iter().filter(|(k, _)| k == name).count() > 1 {
            return Err(incomplete(&format!("AWS query-string parameter '{name}' is there twice.")));
        }
        find(name).ok_or_else(|| incomplete(&format!("AWS query-string parameters must include '{name}'.")))
    };
    if need("X-Amz-Algorithm")? != ALGORITHM {
        return Err(incomplete("Unsupported AWS 'algorithm': only 'AWS4-HMAC-SHA256' is supported."));
    }
    let date_text = need("X-Amz-Date")?;
    let expires =
        need("X-Amz-Expires")?.parse().map_err(|_| incomplete("'X-Amz-Expires' is not an integer."))?;
    Ok(Claim {
        scope: parse_scope(need("X-Amz-Credential")?)?,
        date: parse_date(date_text)?,
        date_text: date_text.to_owned(),
        signed_headers: need("X-Amz-SignedHeaders")?.split(';').map(str::to_owned).collect(),
        signature: need("X-Amz-Signature")?.to_owned(),
        session_token: find("X-Amz-Security-Token").map(str::to_owned),
        expires: Some(expires),
    })
}

/// `Name=value` among fields separated by commas or spaces.
fn field<'a>(fields: &'a str, name: &str) -> Option<&'a str> {
    fields
        .split([',', ' '])
        .find_map(|field| field.strip_prefix(name).and_then(|rest| rest.strip_prefix('=')))
        .filter(|value| !value.is_empty())
}

fn parse_scope(credential: &str) -> Result<Scope, SigError> {
    let mut parts: Vec<&str> = credential.rsplitn(5, '/').collect();
    parts.reverse();
    match parts.as_slice() {
        [access_key, day, region, service, "aws4_request"] if !access_key.is_empty() => Ok(Scope {
            access_key: (*access_key).to_owned(),
            day: (*day).to_owned(),
            region: (*region).to_owned(),
            service: (*service).to_owned(),
        }),
        _ => Err(incomplete(
            "Credential must have five slash-separated elements: access key, date, region, service and 'aws4_request'.",
        )),
    }
}

fn parse_date(text: &str) -> Result<i64, SigError> {
    parse_amz_date(text)
        .ok_or_else(|| incomplete("Date must be in ISO-8601 'basic format', such as 20150830T123600Z."))
}

fn check_scope(scope: &Scope, options: &VerifyOptions<'_>) -> Result<(), SigError> {
    if let Some(region) = options.region.filter(|r| *r != scope.region) {
        return Err(SigError::Invalid(format!("Credential should be scoped to a valid region: '{region}'.")));
    }
    if let Some(service) = options.service.filter(|s| *s != scope.service) {
        return Err(SigError::Invalid(format!(
            "Credential should be scoped to correct service: '{service}'."
        )));
    }
    Ok(())
}

fn check_date(claim: &Claim, now: i64, options: &VerifyOptions<'_>) -> Result<(), SigError> {
    let (signed, minutes) = (claim.date_text.clone(), options.skew / 60);
    if claim.date > now + options.skew {
        let (limit, now) = (amz_date(now + options.skew), amz_date(now));
        return Err(SigError::NotYet { signed, limit, now, minutes });
    }
    match claim.expires {
        Some(expires) if !(0..=options.max_expires).contains(&expires) => {
            Err(incomplete(&format!("X-Amz-Expires must be between 0 and {} seconds.", options.max_expires)))
        }
        Some(expires) if now > claim.date + expires => Err(SigError::RequestExpired),
        None if claim.date < now - options.skew => {
            let (limit, now) = (amz_date(now - options.skew), amz_date(now));
            Err(SigError::TooOld { signed, limit, now, minutes })
        }
        _ => Ok(()),
    }
}

/// `host` and every `x-amz-*` header must be signed; browsers' SDKs add `x-amz-user-agent` late, which says nothing.
fn check_headers(request: &Request, claim: &Claim) -> Result<(), SigError> {
    let signed = |name: &str| claim.signed_headers.iter().any(|h| h == name);
    if !signed("host") {
        return Err(SigError::Invalid(
            "'Host' must be a 'SignedHeader' in the AWS Authorization.".to_owned(),
        ));
    }
    let unsigned = request
        .headers
        .iter()
        .map(|(name, _)| name.as_str())
        .find(|name| name.starts_with("x-amz-") && !signed(name) && *name != "x-amz-user-agent");
    match unsigned {
        Some(name) => Err(SigError::Invalid(format!("The header '{name}' must be signed."))),
        None => Ok(()),
    }
}

/// The day of the scope, the key, its lifetime, the payload, and last the signature itself.
pub(super) fn check_signature<K: KeyFound>(
    request: &Request,
    claim: Claim,
    lookup: impl Fn(&str, Option<&str>) -> Option<K>,
    now: i64,
    options: &VerifyOptions<'_>,
) -> Result<Verified<K>, SigError> {
    let Scope { access_key, day, region, service } = claim.scope;
    if claim.date_text.get(..8) != Some(day.as_str()) {
        let text = format!(
            "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date: '{day}'."
        );
        return Err(SigError::Invalid(text));
    }
    let found = lookup(&access_key, claim.session_token.as_deref())
        .ok_or_else(|| SigError::UnknownKey { access_key: access_key.clone() })?;
    let key = found.key();
    let payload_hash = payload_hash(request, options)?;
    let parts = Parts { request, signed_headers: &claim.signed_headers, payload_hash: &payload_hash };
    let sent = claim.signature.as_bytes();
    let matched = paths(&request.path, &service).iter().any(|path| {
        let text = canonical_request(&parts, path);
        let ours = signature(&key.secret, &claim.date_text, &region, &service, &text);
        bool::from(ours.as_bytes().ct_eq(sent))
    });
    if !matched {
        return Err(SigError::Mismatch);
    }
    if key.expires.is_some_and(|expires| now > expires) {
        return Err(SigError::ExpiredToken);
    }
    Ok(Verified {
        access_key,
        found,
        date: claim.date,
        region,
        service,
        signed_headers: claim.signed_headers,
        session_token: claim.session_token,
        presigned: claim.expires.is_some(),
        expires: claim.expires,
    })
}

fn payload_hash(request: &Request, options: &VerifyOptions<'_>) -> Result<String, SigError> {
    let ours = sha256_hex(&request.body);
    match request.header("x-amz-content-sha256") {
        None => Ok(ours),
        Some(UNSIGNED_PAYLOAD) if options.allow_unsigned_payload => Ok(UNSIGNED_PAYLOAD.to_owned()),
        Some(sent) if sent.eq_ignore_ascii_case(&ours) => Ok(sent.to_owned()),
        Some(_) => Err(SigError::Invalid(
            "The provided 'x-amz-content-sha256' header does not match what was computed.".into(),
        )),
    }
}

fn incomplete(text: &str) -> SigError {
    SigError::Incomplete(text.to_owned())
}

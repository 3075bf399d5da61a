//! Signature Version 4: AWS's published examples, botocore's presigned URLs and tokens, and everything refused.

use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ekstra_model::Protocol;
use ekstra_wire::sigv4::{
    Credentials, SecretKey, SigError, TokenError, VerifyOptions, make_eks_token, presign, sign, verify,
    verify_eks_token,
};
use ekstra_wire::{Request, parse_amz_date};
use serde_json::Value as Json;

const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const TOKEN: &str = "token/with+chars==";

fn credentials(session: bool) -> Credentials {
    Credentials {
        access_key_id: "AKIDEXAMPLE".to_owned(),
        secret_access_key: SECRET.to_owned(),
        session_token: session.then(|| TOKEN.to_owned()),
    }
}

fn lookup(access_key: &str, token: Option<&str>) -> Option<SecretKey> {
    (access_key == "AKIDEXAMPLE" && token.is_none_or(|t| t == TOKEN)).then(|| SecretKey::new(SECRET))
}

fn golden() -> Json {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/requests.json");
    serde_json::from_str(&fs::read_to_string(path).expect("checked in")).expect("JSON")
}

fn now() -> i64 {
    golden()["now"].as_i64().expect("a time")
}

fn get(query: &str, host: &str) -> Request {
    Request {
        method: "GET".to_owned(),
        path: "/".to_owned(),
        query: query.to_owned(),
        headers: vec![("host".to_owned(), host.to_owned())],
        body: Vec::new(),
    }
}

/// The signatures of AWS's Signature Version 4 test suite (service `service`, 2015-08-30) and of the example in
/// the IAM User Guide (`ListUsers`).
#[test]
fn published_examples() {
    let at = parse_amz_date("20150830T123600Z").expect("a date");
    let cases = [
        (
            get("", "example.amazonaws.com"),
            "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
        ),
        (
            get("Param2=value2&Param1=value1", "example.amazonaws.com"),
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
        ),
    ];
    for (mut request, expected) in cases {
        sign(&mut request, &credentials(false), "us-east-1", "service", at);
        let header = request.header("authorization").expect("signed").to_owned();
        assert!(
            header.ends_with(&format!("SignedHeaders=host;x-amz-date, Signature={expected}")),
            "{header}"
        );
        assert!(verify(&request, lookup, at, &VerifyOptions::default()).is_ok());
    }
    let mut request = get("Action=ListUsers&Version=2010-05-08", "iam.amazonaws.com");
    request.headers.push(("content-type".into(), "application/x-www-form-urlencoded; charset=utf-8".into()));
    sign(&mut request, &credentials(false), "us-east-1", "iam", at);
    let header = request.header("authorization").expect("signed");
    assert!(
        header.ends_with("Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"),
        "{header}"
    );
}

#[test]
fn botocores_presigned_url_is_valid_and_ours_is_the_same() {
    let golden = golden();
    let text = |key: &str| golden["presigned"][key].as_str().expect("a string").to_owned();
    let mut request = get(&text("query"), golden["presigned"]["headers"][0][1].as_str().expect("a host"));
    let options = VerifyOptions { service: Some("sts"), region: Some("us-east-1"), ..Default::default() };
    let verified = verify(&request, lookup, now() + 119, &options).expect("valid");
    assert!(verified.presigned);
    assert_eq!((verified.expires, verified.session_token.as_deref()), (Some(120), Some(TOKEN)));
    assert_eq!(verify(&request, lookup, now() + 121, &options).err(), Some(SigError::RequestExpired));

    let theirs = request.query.clone();
    request.query = "Action=GetCallerIdentity&Version=2011-06-15".to_owned();
    presign(&mut request, &credentials(true), "us-east-1", "sts", now(), 120);
    let signature =
        |query: &str| query.split('&').find(|p| p.starts_with("X-Amz-Signature=")).map(str::to_owned);
    assert_eq!(signature(&request.query), signature(&theirs));
}

fn signed() -> Request {
    let mut request = get("b=2&a=1&a=0", "localhost:7777");
    request.headers.push(("x-amz-target".to_owned(), "T.Op".to_owned()));
    request.body = b"{}".to_vec();
    sign(&mut request, &credentials(false), "us-east-1", "kms", now());
    request
}

fn outcome(request: &Request) -> Result<(), SigError> {
    verify(request, lookup, now(), &VerifyOptions::default()).map(drop)
}

#[test]
fn every_part_is_covered() {
    assert_eq!(outcome(&signed()), Ok(()));
    let tampered: [fn(&mut Request); 6] = [
        |r| r.method = "POST".to_owned(),
        |r| r.path = "/x".to_owned(),
        |r| r.query = "b=2&a=1&a=0&c=".to_owned(),
        |r| r.body = b"{ }".to_vec(),
        |r| r.headers[0].1 = "elsewhere".to_owned(),
        |r| r.headers[1].1 = "T.Other".to_owned(),
    ];
    for (i, tamper) in tampered.iter().enumerate() {
        let mut request = signed();
        tamper(&mut request);
        assert_eq!(outcome(&request), Err(SigError::Mismatch), "{i}");
    }
    let mut reordered = signed();
    reordered.query = "a=0&b=%32&a=1".to_owned();
    reordered.headers[1].1 = "  T.Op ".to_owned();
    assert_eq!(outcome(&reordered), Ok(()), "order, spacing and encoding do not matter");
}

#[test]
fn what_is_refused_and_how_it_is_called() {
    let code = |error: &SigError, protocol| error.to_error(protocol).code;
    let mut request = signed();
    request.headers.retain(|(n, _)| n != "authorization");
    let error = outcome(&request).expect_err("unsigned");
    assert_eq!(error, SigError::Missing);
    assert_eq!(code(&error, Protocol::AwsQuery), "MissingAuthenticationToken");

    let edit = |from: &str, to: &str| {
        let mut request = signed();
        let header = request.headers.last_mut().expect("authorization");
        assert!(header.1.contains(from));
        header.1 = header.1.replace(from, to);
        outcome(&request).expect_err("edited")
    };
    let error = edit("AKIDEXAMPLE", "AKIDOTHER");
    assert_eq!(code(&error, Protocol::AwsQuery), "InvalidClientTokenId");
    assert_eq!(code(&error, Protocol::RestJson), "UnrecognizedClientException");
    assert_eq!(code(&error, Protocol::Ec2Query), "AuthFailure");
    assert!(matches!(edit("aws4_request", "aws5_request"), SigError::Incomplete(_)));
    assert!(matches!(edit("AWS4-HMAC-SHA256", "AWS4-HMAC-SHA1"), SigError::Incomplete(_)));
    assert!(matches!(edit("SignedHeaders=", "Headers="), SigError::Incomplete(_)));
    assert!(matches!(edit("host;", ""), SigError::Invalid(_)));
    assert!(matches!(edit(";x-amz-target", ""), SigError::Invalid(_)));
    assert!(matches!(edit("/20260102/", "/20260103/"), SigError::Invalid(_)));

    let at = |now| verify(&signed(), lookup, now, &VerifyOptions::default());
    assert!(at(now() + 300).is_ok() && at(now() - 300).is_ok());
    let error = at(now() + 301).expect_err("old");
    assert_eq!(
        error.to_string(),
        "Signature expired: 20260102T030405Z is now earlier than 20260102T030406Z (20260102T030906Z - 5 min.)"
    );
    assert_eq!(code(&error, Protocol::RestJson), "InvalidSignatureException");
    assert!(matches!(at(now() - 301), Err(SigError::NotYet { .. })));

    let expired = |_: &str, _: Option<&str>| Some(SecretKey::new(SECRET).expiring(now() - 1));
    let refused = verify(&signed(), expired, now(), &VerifyOptions::default());
    assert_eq!(refused.err(), Some(SigError::ExpiredToken));
}

#[test]
fn unsigned_payloads_only_where_allowed() {
    let mut request = get("", "localhost");
    request.headers.push(("x-amz-content-sha256".to_owned(), "UNSIGNED-PAYLOAD".to_owned()));
    sign(&mut request, &credentials(false), "us-east-1", "s3", now());
    assert!(matches!(outcome(&request), Err(SigError::Invalid(_))));
    let options = VerifyOptions { allow_unsigned_payload: true, ..Default::default() };
    assert!(verify(&request, lookup, now(), &options).is_ok());
}

fn token_of(url: &str) -> String {
    format!("k8s-aws-v1.{}", URL_SAFE_NO_PAD.encode(url))
}

#[test]
fn botocores_tokens_are_valid_for_their_cluster_for_fifteen_minutes() {
    let golden = golden();
    for key in ["eks_token_url", "eks_token_url_with_session"] {
        let token = token_of(golden[key].as_str().expect("a URL"));
        let verified = verify_eks_token(&token, "demo", lookup, now() + 900).expect("valid");
        assert_eq!((verified.service.as_str(), verified.access_key.as_str()), ("sts", "AKIDEXAMPLE"));
        let other = verify_eks_token(&token, "other", lookup, now());
        assert_eq!(other.err(), Some(TokenError::Signature(SigError::Mismatch)));
        assert!(matches!(verify_eks_token(&token, "demo", lookup, now() + 901), Err(TokenError::Expired(_))));
        assert!(matches!(verify_eks_token(&token, "demo", lookup, now() - 301), Err(TokenError::NotYet(_))));
    }
}

#[test]
fn our_tokens_are_valid_over_any_endpoint() {
    for endpoint in ["https://sts.us-east-1.amazonaws.com", "http://127.0.0.1:7777/", "http://[::1]:1"] {
        for session in [false, true] {
            let token = make_eks_token(&credentials(session), "us-east-1", endpoint, "demo", now());
            assert!(verify_eks_token(&token, "demo", lookup, now()).is_ok(), "{endpoint}");
        }
    }
}

#[test]
fn tokens_are_refused_by_name() {
    let golden = golden();
    let url = golden["eks_token_url"].as_str().expect("a URL");
    let refused = |token: &str| verify_eks_token(token, "demo", lookup, now()).expect_err("refused");
    let edited = |from: &str, to: &str| {
        assert!(url.contains(from), "{from}");
        refused(&token_of(&url.replace(from, to)))
    };
    assert_eq!(refused(&token_of(&"x".repeat(5000))), TokenError::TooLong);
    assert_eq!(refused("k8s-aws-v2.xx"), TokenError::Prefix);
    assert_eq!(refused("k8s-aws-v1.x*"), TokenError::Encoding);
    assert!(matches!(edited("https:", "ftp:"), TokenError::Url(_)));
    assert!(matches!(edited("com/?", "com/x?"), TokenError::Url(_)));
    assert!(matches!(edited("https://", "https://user@"), TokenError::Url(_)));
    assert_eq!(edited("GetCallerIdentity", "AssumeRole"), TokenError::Action);
    assert_eq!(edited("&X-Amz-Date", "&y=1&X-Amz-Date"), TokenError::Parameter("y".to_owned()));
    assert_eq!(
        edited("&X-Amz-Date", "&ACTION=GetCallerIdentity&X-Amz-Date"),
        TokenError::Duplicate("ACTION".to_owned())
    );
    assert_eq!(edited("%3Bx-k8s-aws-id", ""), TokenError::ClusterNotSigned);
    assert!(matches!(edited("SignedHeaders=host%3B", "SignedHeaders="), TokenError::Signature(_)));
    assert_eq!(edited("X-Amz-Expires=60", "X-Amz-Expires=901"), TokenError::Expires);
    assert_eq!(edited("X-Amz-Expires=60", "X-Amz-Expires=61"), TokenError::Signature(SigError::Mismatch));
}

#[test]
fn secrets_are_not_printed() {
    let printed = format!("{:?} {:?}", credentials(true), SecretKey::new(SECRET));
    assert!(!printed.contains(SECRET) && !printed.contains(TOKEN), "{printed}");
}

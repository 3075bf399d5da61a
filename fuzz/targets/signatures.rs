//! Signed requests: whatever an Authorization header or a presigned query says, nobody who has not the secret is let in. Who has
//! it is, and not when a byte of what was signed has changed on the way.
#![no_main]

use ekstra_wire::Request;
use ekstra_wire::sigv4::{self, Credentials, SecretKey, SigError, Verified, VerifyOptions};
use libfuzzer_sys::fuzz_target;

const NOW: i64 = 1_767_323_045;
/// No input can know it.
const SECRET: &str = "a secret of 256 bits that nobody has written down";
const KEY: &str = "AKIAIOSFODNN7EXAMPLE";
const SERVICE: &str = "eks";

/// Lines of a head as in HTTP, an empty one, the body. The first line: the path with its query.
fn request(text: &str) -> Request {
    let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
    let mut lines = head.lines();
    let target = lines.next().unwrap_or("/");
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let headers = lines.filter_map(|line| line.split_once(": "));
    Request {
        method: "POST".into(),
        path: path.to_owned(),
        query: query.to_owned(),
        headers: headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect(),
        body: body.into(),
    }
}

fn verified(request: &Request) -> Result<Verified<SecretKey>, SigError> {
    let lookup = |id: &str, _: Option<&str>| (id == KEY).then(|| SecretKey::new(SECRET));
    sigv4::verify(request, lookup, NOW, &VerifyOptions::default())
}

/// As clients write a path and a query: what is escaped is ASCII.
fn is_escaped(text: &str) -> bool {
    let digit = |byte: &u8| byte.is_ascii_hexdigit();
    let mut parts = text.split('%');
    let plain = parts.next().unwrap_or_default();
    let rest = parts
        .all(|part| part.len() >= 2 && part.as_bytes()[..2].iter().all(digit) && part.as_bytes()[0] < b'8');
    rest && plain.is_ascii() && text.is_ascii()
}

/// What a server of HTTP hands on, and a client signs: names are tokens, each there once, and none of them the signature's.
fn is_signable(request: &Request) -> bool {
    let token = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let count = |name: &str| request.headers.iter().filter(|(known, _)| known == name).count();
    request.path.starts_with('/')
        && is_escaped(&request.path)
        && is_escaped(&request.query)
        && !request.query.contains("X-Amz-")
        && request
            .headers
            .iter()
            .all(|(name, _)| token(name) && count(name) == 1 && !name.starts_with("x-amz-"))
        && request.header("authorization").is_none()
}

/// The next letter or digit in its place.
fn changed(text: &mut String, place: usize) -> bool {
    let mut bytes = std::mem::take(text).into_bytes();
    let found: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at].is_ascii_alphanumeric()).collect();
    if let Some(at) = found.get(place % found.len().max(1)) {
        bytes[*at] = match bytes[*at] {
            b'9' => b'0',
            b'z' => b'a',
            b'Z' => b'A',
            other => other + 1,
        };
    }
    *text = String::from_utf8(bytes).expect("ASCII for ASCII");
    !found.is_empty()
}

/// One byte of something that is signed; where it is no text, of the signature.
fn tamper(request: &mut Request, choice: u8, place: usize) -> bool {
    match choice % 5 {
        0 => changed(&mut request.query, place),
        1 => {
            request.body.push(choice);
            true
        }
        2 => {
            request.method = "PUT".into();
            true
        }
        3 => request
            .headers
            .iter_mut()
            .find(|(name, _)| name == "host")
            .is_some_and(|(_, v)| changed(v, place)),
        _ => match request.headers.iter_mut().find(|(name, _)| name == "authorization") {
            Some((_, value)) => changed(value, place),
            None => changed(&mut request.query, place),
        },
    }
}

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let given = request(text);
    sigv4::scope(&given);
    assert!(verified(&given).is_err());
    let mut given = given;
    if !is_signable(&given) {
        return;
    }
    if given.header("host").is_none() {
        given.headers.push(("host".into(), "127.0.0.1:4566".into()));
    }
    let credentials =
        Credentials { access_key_id: KEY.into(), secret_access_key: SECRET.into(), session_token: None };
    let (choice, place) = (data.last().copied().unwrap_or(0), data.len());
    let mut signed = given.clone();
    sigv4::sign(&mut signed, &credentials, "us-east-1", SERVICE, NOW);
    let mut presigned = given;
    presigned.body.clear();
    sigv4::presign(&mut presigned, &credentials, "us-east-1", SERVICE, NOW, 60);
    for mut sent in [signed, presigned] {
        let let_in = verified(&sent);
        assert!(let_in.is_ok(), "{let_in:?}");
        if tamper(&mut sent, choice, place) {
            assert!(verified(&sent).is_err());
        }
    }
});

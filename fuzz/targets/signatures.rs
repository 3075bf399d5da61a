//! Signed requests: whatever an Authorization header or a presigned query says, nobody who has not the secret is let in.
#![no_main]

use ekstra_wire::Request;
use ekstra_wire::sigv4::{self, SecretKey, VerifyOptions};
use libfuzzer_sys::fuzz_target;

const NOW: i64 = 1_767_323_045;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut lines = text.lines();
    let target = lines.next().unwrap_or("/");
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let headers = lines.filter_map(|line| line.split_once(": "));
    let request = Request {
        method: "GET".into(),
        path: path.to_owned(),
        query: query.to_owned(),
        headers: headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect(),
        body: Vec::new(),
    };
    sigv4::scope(&request);
    // A secret that no input can know.
    let lookup =
        |_: &str, _: Option<&str>| Some(SecretKey::new("a secret of 256 bits that nobody has written down"));
    let options = VerifyOptions::default();
    assert!(sigv4::verify(&request, lookup, NOW, &options).is_err());
});

//! What the tests of recorded exchanges have in common.

use ekstra_wire::Request;
use serde_json::Value as Json;
use std::path::{Path, PathBuf};

pub(crate) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

pub(crate) fn text(json: &Json, key: &str) -> String {
    json[key].as_str().unwrap_or_else(|| panic!("{key} of {json} is no string")).to_owned()
}

/// As `golden/generate.py` wrote it down.
pub(crate) fn request(json: &Json) -> Request {
    let header = |pair: &Json| {
        let word = |index: usize| pair[index].as_str().expect("a string").to_owned();
        (word(0), word(1))
    };
    Request {
        method: text(json, "method"),
        path: text(json, "path"),
        query: text(json, "query"),
        headers: json["headers"].as_array().expect("headers").iter().map(header).collect(),
        body: text(json, "body").into_bytes(),
    }
}

//! Escaping: percent-encoding as SigV4 wants it, form parameters, XML text.
//!
//! Invariant: encoding leaves only RFC 3986's unreserved characters bare, so encoded text has one form.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const PATH: &AsciiSet = &UNRESERVED.remove(b'/');

/// Percent-encodes everything but letters, digits and `-._~`.
pub fn uri_encode(text: &str) -> String {
    utf8_percent_encode(text, UNRESERVED).to_string()
}

/// As [`uri_encode`], with `/` left bare.
pub(crate) fn uri_encode_path(text: &str) -> String {
    utf8_percent_encode(text, PATH).to_string()
}

/// Percent-decodes; `None` when the result is not UTF-8. A `+` stays.
pub(crate) fn uri_decode(text: &str) -> Option<String> {
    percent_decode_str(text).decode_utf8().ok().map(|s| s.into_owned())
}

/// Percent-decodes a form or query component, where `+` is a space.
fn form_decode(text: &str) -> Option<String> {
    uri_decode(&text.replace('+', " "))
}

/// The pairs of a raw query or form body, decoded, in order; `None` when one is not UTF-8.
pub(crate) fn parse_query(raw: &str) -> Option<Vec<(String, String)>> {
    raw.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((form_decode(key)?, form_decode(value)?))
        })
        .collect()
}

/// Escapes XML text. Characters XML 1.0 cannot carry become U+FFFD.
pub(crate) fn xml_escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            '\r' => out.push_str("&#xD;"),
            '\t' | '\n' => out.push(c),
            c if c < ' ' || c == '\u{FFFE}' || c == '\u{FFFF}' => out.push('\u{FFFD}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_decode_and_encode() {
        assert_eq!(uri_encode("arn:aws:eks/x y+~é"), "arn%3Aaws%3Aeks%2Fx%20y%2B~%C3%A9");
        let pairs = parse_query("a=b%20c&a=d+e&&f").expect("UTF-8");
        let expected = [("a", "b c"), ("a", "d e"), ("f", "")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(pairs, expected);
        assert_eq!(parse_query("a=%FF"), None);
    }

    #[test]
    fn xml_text_is_safe() {
        assert_eq!(xml_escape("<a&\"'>\r\u{1}"), "&lt;a&amp;&quot;&apos;&gt;&#xD;\u{FFFD}");
    }
}

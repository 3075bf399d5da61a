//! What `--components` may say: a directory of programs, or a bundle with its digest.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;

/// Programs that are taken instead of built ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prebuilt {
    /// Programs by name.
    Directory(PathBuf),
    Bundle(Bundle),
}

/// Where a bundle is, and what it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    pub origin: Origin,
    /// SHA-256 of the file, in lower-case hex.
    pub digest: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    File(PathBuf),
    /// http or https.
    Url(String),
}

const DIGEST_MARK: &str = "@sha256:";
const DIGITS: usize = 64;

impl Prebuilt {
    /// `DIR`, `FILE@sha256:HEX` or `URL@sha256:HEX`. The error is a whole sentence.
    pub fn parse(text: &OsStr) -> Result<Self, String> {
        let Some(words) = text.to_str() else {
            return Ok(Self::Directory(text.into()));
        };
        let is_url = ["http://", "https://"].iter().any(|scheme| words.starts_with(scheme));
        let Some((origin, digest)) = words.rsplit_once(DIGEST_MARK) else {
            return match is_url || words.ends_with(".tar.zst") {
                true => Err(format!(
                    "a bundle is taken against its digest alone: {words}{DIGEST_MARK}HEX, as who made it says"
                )),
                false => Ok(Self::Directory(words.into())),
            };
        };
        let digest = digest.to_ascii_lowercase();
        if digest.len() != DIGITS || !digest.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(format!("{DIGEST_MARK}{digest} is not a digest: {DIGITS} hex digits are expected"));
        }
        let origin = if is_url { Origin::Url(origin.to_owned()) } else { Origin::File(origin.into()) };
        Ok(Self::Bundle(Bundle { origin, digest }))
    }

    /// The same for a process with another working directory.
    pub fn absolute(self) -> std::io::Result<Self> {
        Ok(match self {
            Self::Directory(path) => Self::Directory(std::path::absolute(path)?),
            Self::Bundle(Bundle { origin: Origin::File(path), digest }) => {
                Self::Bundle(Bundle { origin: Origin::File(std::path::absolute(path)?), digest })
            }
            url => url,
        })
    }

    /// What [`Prebuilt::parse`] reads.
    pub fn to_word(&self) -> OsString {
        match self {
            Self::Directory(path) => path.into(),
            Self::Bundle(bundle) => {
                let mut word = match &bundle.origin {
                    Origin::File(path) => path.into(),
                    Origin::Url(url) => OsString::from(url),
                };
                word.push(DIGEST_MARK);
                word.push(&bundle.digest);
                word
            }
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Url(url) => f.write_str(url),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Prebuilt, String> {
        Prebuilt::parse(OsStr::new(text))
    }

    #[test]
    fn a_directory_a_file_a_url() {
        let digest = "ab".repeat(32);
        assert_eq!(parse("/opt/programs"), Ok(Prebuilt::Directory("/opt/programs".into())));
        let bundle = |origin| Prebuilt::Bundle(Bundle { origin, digest: digest.clone() });
        let cases = [
            (format!("x.tar.zst@sha256:{digest}"), Origin::File("x.tar.zst".into())),
            (format!("https://h/x@sha256:{}", digest.to_uppercase()), Origin::Url("https://h/x".into())),
        ];
        for (text, origin) in cases {
            assert_eq!(parse(&text), Ok(bundle(origin)), "{text}");
        }
        let again = bundle(Origin::Url("https://h/x".into()));
        assert_eq!(Prebuilt::parse(&again.to_word()), Ok(again));
    }

    #[test]
    fn a_bundle_without_its_digest_is_refused() {
        for text in ["https://h/x.tar.zst", "x.tar.zst", "http://h/x", "x@sha256:12", "x@sha256:"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}

//! Bodies that travel packed: requests of clients that say `Content-Encoding: gzip`, and long answers to those that take it.

use crate::error::ApiError;
use crate::message::{Request, Response};
use flate2::Compression;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;
use std::borrow::Cow;
use std::io::{Read, Write};

/// On one machine, a shorter answer is there before it is packed.
const WORTHWHILE: usize = 8 * 1024;

/// Why a body is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Another encoding than gzip.
    Unknown,
    /// It says gzip, and is not.
    Broken,
    TooLarge,
}

impl Refused {
    pub fn to_error(self) -> ApiError {
        let (code, status, message) = match self {
            Self::Unknown => ("UnsupportedMediaTypeException", 415, "The only content encoding is gzip."),
            Self::Broken => ("SerializationException", 400, "The content is not what its encoding says."),
            Self::TooLarge => return too_large(),
        };
        ApiError::client(code, status, message)
    }
}

pub fn too_large() -> ApiError {
    ApiError::client("RequestEntityTooLargeException", 413, "The request is too large.")
}

/// The request with what its body contains, at most `largest` of it.
pub fn unpacked(request: &Request, largest: usize) -> Result<Cow<'_, Request>, Refused> {
    match request.header("content-encoding").map(str::trim) {
        None | Some("") => Ok(Cow::Borrowed(request)),
        Some(name) if name.eq_ignore_ascii_case("identity") => Ok(Cow::Borrowed(request)),
        Some(name) if !name.eq_ignore_ascii_case("gzip") => Err(Refused::Unknown),
        Some(_) => {
            let mut body = Vec::new();
            let most = u64::try_from(largest).unwrap_or(u64::MAX).saturating_add(1);
            let read = MultiGzDecoder::new(request.body.as_slice()).take(most).read_to_end(&mut body);
            read.map_err(|_| Refused::Broken)?;
            if body.len() > largest {
                return Err(Refused::TooLarge);
            }
            Ok(Cow::Owned(Request { body, ..request.clone() }))
        }
    }
}

/// Whether the client says that it takes gzip.
pub fn takes_gzip(request: &Request) -> bool {
    let given = request.header("accept-encoding").unwrap_or_default();
    given.split(',').any(|one| {
        let (name, parameters) = one.split_once(';').unwrap_or((one, ""));
        let refused = parameters.trim().strip_prefix("q=").and_then(|q| q.parse().ok()) == Some(0.0);
        name.trim().eq_ignore_ascii_case("gzip") && !refused
    })
}

/// The answer packed, if that is worth it.
pub fn pack(mut response: Response) -> Response {
    if response.body.len() < WORTHWHILE {
        return response;
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let packed = encoder.write_all(&response.body).and_then(|()| encoder.finish());
    if let Ok(packed) = packed {
        response.body = packed;
        response.headers.push(("content-encoding".into(), "gzip".into()));
        response.headers.push(("vary".into(), "accept-encoding".into()));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(content).expect("packs");
        encoder.finish().expect("packs")
    }

    fn request(header: (&str, &str), body: Vec<u8>) -> Request {
        let headers = vec![(header.0.to_owned(), header.1.to_owned())];
        Request { headers, body, ..Request::default() }
    }

    fn body(header: (&str, &str), travelled: Vec<u8>, largest: usize) -> Result<Vec<u8>, Refused> {
        unpacked(&request(header, travelled), largest).map(|plain| plain.body.clone())
    }

    const GZIP: (&str, &str) = ("content-encoding", "GZIP");

    #[test]
    fn a_packed_body_is_unpacked_and_another_left_alone() {
        assert_eq!(body(GZIP, gzip(b"content"), 7), Ok(b"content".to_vec()));
        assert_eq!(body(GZIP, gzip(b"content"), 6), Err(Refused::TooLarge));
        assert_eq!(body(GZIP, b"content".to_vec(), 7), Err(Refused::Broken));
        assert_eq!(body(GZIP, gzip(b"content")[..12].to_vec(), 7), Err(Refused::Broken));
        assert_eq!(body(("content-encoding", "br"), Vec::new(), 7), Err(Refused::Unknown));
        let plain = ("content-type", "application/json");
        assert_eq!(body(plain, b"content".to_vec(), 7), Ok(b"content".to_vec()));
    }

    #[test]
    fn a_small_body_that_unpacks_to_much_is_read_no_further() {
        let bomb = gzip(&vec![0; 64 << 20]);
        assert!(bomb.len() < 1 << 20);
        assert_eq!(body(GZIP, bomb, 1 << 20), Err(Refused::TooLarge));
    }

    #[test]
    fn clients_say_what_they_take() {
        for (given, takes) in [
            ("gzip", true),
            ("gzip, deflate", true),
            ("br;q=1.0, GZIP;q=0.5", true),
            ("gzip;q=0", false),
            ("identity", false),
            ("", false),
        ] {
            assert_eq!(takes_gzip(&request(("accept-encoding", given), Vec::new())), takes, "{given}");
        }
    }

    #[test]
    fn long_answers_are_packed() {
        let answer = |length| Response { status: 200, headers: Vec::new(), body: vec![b'a'; length] };
        assert_eq!(pack(answer(WORTHWHILE - 1)), answer(WORTHWHILE - 1));
        let packed = pack(answer(WORTHWHILE));
        assert!(packed.body.len() < 1000);
        assert_eq!(body(GZIP, packed.body, WORTHWHILE), Ok(vec![b'a'; WORTHWHILE]));
        assert_eq!(packed.headers[0], ("content-encoding".to_owned(), "gzip".to_owned()));
    }
}

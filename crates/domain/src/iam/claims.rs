//! What a web identity's token says of itself. Nothing of it is proved yet.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use std::str::FromStr;

/// The claims of RFC 7519 that roles are assumed by.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Claims {
    pub iss: String,
    pub sub: String,
    aud: Audience,
    /// In Unix seconds.
    pub exp: i64,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("The ID Token provided is not a valid JWT. (You may see this error if you sent an Access Token)")]
pub struct NotAToken;

impl Claims {
    pub fn audiences(&self) -> &[String] {
        match &self.aud {
            Audience::One(audience) => std::slice::from_ref(audience),
            Audience::Many(audiences) => audiences,
        }
    }
}

impl FromStr for Claims {
    type Err = NotAToken;

    fn from_str(token: &str) -> Result<Self, NotAToken> {
        let mut parts = token.split('.');
        let (Some(_), Some(payload), Some(_), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(NotAToken);
        };
        let payload = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).map_err(|_| NotAToken)?;
        serde_json::from_slice(&payload).map_err(|_| NotAToken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(payload: &str) -> String {
        format!("e30.{}.x", URL_SAFE_NO_PAD.encode(payload))
    }

    #[test]
    fn claims_are_read_of_whatever_calls_itself_a_token() {
        let claims = |payload: &str| token(payload).parse::<Claims>().expect("reads");
        assert_eq!(claims(r#"{"iss":"https://i","sub":"s","aud":"a","exp":1}"#).audiences(), ["a"]);
        let many = claims(r#"{"iss":"https://i","sub":"s","aud":["a","b"],"exp":1}"#);
        assert_eq!(many.audiences(), ["a", "b"]);
        for bad in ["", "a.b", "a.b.c.d", "e30.e30.x", "e30.%%%.x", &token("nonsense")] {
            assert_eq!(bad.parse::<Claims>(), Err(NotAToken), "{bad}");
        }
    }
}

//! Temporary credentials that need no record: the session token carries who it is for and until when, under a MAC, and
//! the secret key follows from it. So `gate` can hand out an instance's credentials, and `serve` verify them, with
//! nothing written.
//!
//! Invariant: without the master key neither a token nor the secret of a token can be made.

use super::{AccessKey, Principal, Secret};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// 32 random bytes of the home.
#[derive(Clone)]
pub struct MasterKey(pub [u8; 32]);

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MasterKey(…)")
    }
}

/// A role session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// `ASIA…`.
    pub access_key_id: String,
    pub principal: Principal,
    /// Unix seconds. Tokens of earlier versions do not say it: they are as old as can be.
    #[serde(default)]
    pub issued: i64,
    /// Unix seconds.
    pub expires: i64,
    #[serde(flatten)]
    pub terms: SessionTerms,
}

/// What a session has beside what its role has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionTerms {
    /// Documents that narrow what the role may do; none at all narrow nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<String>,
    /// Over those of the role.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// Keys of the tags that a session has, too, that is asked for with this one.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub transitive: BTreeSet<String>,
    /// Who began the chain of sessions. It stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_identity: Option<String>,
    /// The identity provider whose token it was asked for with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
}

/// What an access key proves, and for whom.
#[derive(Clone, Debug, PartialEq)]
pub struct Credential {
    pub secret: Secret,
    /// Of a session, in Unix seconds; `None` for a key without an end.
    pub issued: Option<i64>,
    /// Likewise.
    pub expires: Option<i64>,
    pub principal: Principal,
    /// Of a key without an end: none.
    pub terms: SessionTerms,
}

#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum SessionError {
    #[error("not a session token of this service")]
    Invalid,
    #[error("the session has expired")]
    Expired,
}

impl MasterKey {
    /// A value that only this home can compute.
    pub fn derive(&self, purpose: &str, data: &[u8]) -> [u8; 32] {
        let mut mac = self.mac(purpose);
        mac.update(data);
        mac.finalize().into_bytes().into()
    }

    fn mac(&self, purpose: &str) -> Hmac<Sha256> {
        let mut mac =
            <Hmac<Sha256> as KeyInit>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(purpose.as_bytes());
        mac.update(&[0]);
        mac
    }

    /// The session token.
    pub fn seal(&self, session: &Session) -> String {
        let payload = serde_json::to_vec(session).expect("plain strings and a number");
        let tag = self.derive("session-token", &payload);
        format!("{}.{}", URL_SAFE_NO_PAD.encode(payload), URL_SAFE_NO_PAD.encode(tag))
    }

    pub fn secret(&self, token: &str) -> Secret {
        let secret = self.derive("session-secret", token.as_bytes());
        Secret(base64::engine::general_purpose::STANDARD_NO_PAD.encode(&secret[..30]))
    }

    /// The key `id` as a request names it: with the session token, or looked up among those that are `stored`. One that
    /// has expired is found too, since only who has its secret is told that it has: whoever verifies a signature must
    /// look at `expires`.
    pub fn credential(
        &self,
        id: &str,
        session_token: Option<&str>,
        stored: impl FnOnce(&str) -> Option<Arc<AccessKey>>,
    ) -> Option<Credential> {
        let Some(token) = session_token else {
            let key = stored(id).filter(|key| !key.is_inactive)?;
            return Some(Credential {
                secret: key.secret.clone(),
                issued: None,
                expires: None,
                principal: key.principal.clone(),
                terms: SessionTerms::default(),
            });
        };
        let session = self.open(token, i64::MIN).ok().filter(|session| session.access_key_id == id)?;
        Some(Credential {
            secret: self.secret(token),
            issued: Some(session.issued),
            expires: Some(session.expires),
            principal: session.principal,
            terms: session.terms,
        })
    }

    /// Whose session it is, if the token is ours and not past `now` (unix seconds).
    pub fn open(&self, token: &str, now: i64) -> Result<Session, SessionError> {
        let (payload, tag) = token.split_once('.').ok_or(SessionError::Invalid)?;
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| SessionError::Invalid);
        let (payload, tag) = (decode(payload)?, decode(tag)?);
        let mut mac = self.mac("session-token");
        mac.update(&payload);
        mac.verify_slice(&tag).map_err(|_| SessionError::Invalid)?;
        let session: Session = serde_json::from_slice(&payload).map_err(|_| SessionError::Invalid)?;
        if now < session.expires { Ok(session) } else { Err(SessionError::Expired) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Session {
        let principal = Principal {
            account: "000000000000".into(),
            arn: "arn:aws:sts::000000000000:assumed-role/R/i-1".into(),
            user_id: "AROAX:i-1".into(),
        };
        let terms = SessionTerms::default();
        Session { access_key_id: "ASIAX".into(), principal, issued: 100, expires: 1000, terms }
    }

    #[test]
    fn a_token_opens_under_its_key_until_it_expires() {
        let key = MasterKey([7; 32]);
        let token = key.seal(&session());
        assert_eq!(key.open(&token, 999), Ok(session()));
        assert_eq!(key.open(&token, 1000), Err(SessionError::Expired));
        assert_eq!(MasterKey([8; 32]).open(&token, 0), Err(SessionError::Invalid));
        assert_ne!(key.secret(&token), MasterKey([8; 32]).secret(&token));
    }

    #[test]
    fn a_session_of_an_earlier_version_is_as_old_as_can_be() {
        let mut stored = serde_json::to_value(session()).expect("JSON");
        stored.as_object_mut().expect("an object").remove("issued");
        let read: Session = serde_json::from_value(stored).expect("is read");
        assert_eq!(read, Session { issued: 0, ..session() });
    }

    #[test]
    fn a_changed_token_is_refused() {
        let key = MasterKey([7; 32]);
        let token = key.seal(&session());
        let other = key.seal(&Session { expires: 2000, ..session() });
        let (payload, _) = other.split_once('.').expect("two parts");
        let (_, tag) = token.split_once('.').expect("two parts");
        assert_eq!(key.open(&format!("{payload}.{tag}"), 0), Err(SessionError::Invalid));
        assert_eq!(key.open("nonsense", 0), Err(SessionError::Invalid));
    }

    #[test]
    fn a_credential_is_found_by_its_id_and_token_together() {
        let key = MasterKey([7; 32]);
        let token = key.seal(&session());
        let nothing = |_: &str| None;
        let found = key.credential("ASIAX", Some(&token), nothing).expect("a session of this home");
        assert_eq!(found.secret, key.secret(&token));
        assert_eq!((found.issued, found.expires), (Some(100), Some(1000)));
        assert_eq!(found.principal, session().principal);
        assert_eq!(key.credential("ASIAY", Some(&token), nothing), None, "the token is another key's");
        assert_eq!(MasterKey([8; 32]).credential("ASIAX", Some(&token), nothing), None);
        assert_eq!(key.credential("ASIAX", None, nothing), None);
        let stored = AccessKey {
            id: "AKIAX".into(),
            secret: Secret("s".into()),
            principal: session().principal,
            created_ms: 0,
            is_inactive: false,
        };
        let inactive = AccessKey { is_inactive: true, ..stored.clone() };
        assert_eq!(key.credential("AKIAX", None, |_| Some(inactive.into())), None);
        let stored = |id: &str| (id == "AKIAX").then(|| stored.into());
        let found = key.credential("AKIAX", None, stored).expect("stored");
        assert_eq!((found.secret, found.expires), (Secret("s".into()), None));
        let unread = |_: &str| panic!("a session key is not looked up");
        assert_eq!(key.credential("ASIAX", Some("nonsense"), unread), None);
    }
}

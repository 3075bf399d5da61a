//! EKS Auth as the node asks it: signed with the credentials of the instance's role.

use crate::metadata::Metadata;
use crate::token::RoleCredentials;
use ekstra_wire::sigv4;
use http_body_util::{BodyExt, Full};
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::http::response::Parts;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::{Value, json};
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::TcpStream;

/// SDKs wait one or two seconds for an answer.
const PATIENCE: Duration = Duration::from_millis(900);
/// The role's credentials are asked for anew when they are good for less, in seconds.
const RENEWAL: i64 = 600;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Answer {
    pub(super) access_key_id: String,
    pub(super) secret_access_key: String,
    pub(super) session_token: String,
    pub(super) account: String,
    /// Unix seconds.
    pub(super) expires: i64,
}

impl Answer {
    pub(super) fn has_expired(&self) -> bool {
        now() >= self.expires
    }
}

/// Why there are no credentials.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) status: StatusCode,
    pub(super) message: String,
}

impl Refused {
    /// Nobody has said no.
    pub(super) fn is_silence(&self) -> bool {
        self.status.is_server_error()
    }
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        let message = format!("unable to fetch credentials from EKS Auth: {error}");
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, message }
    }
}

pub(super) struct Endpoint {
    cluster: String,
    region: String,
    /// `169.254.77.1:4566`.
    authority: String,
    role: Mutex<Option<RoleCredentials>>,
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

impl Endpoint {
    /// Of the service that this instance belongs to.
    pub(super) fn find(cluster: &str) -> io::Result<Self> {
        let metadata = Metadata::connect()?;
        let url = metadata.require("meta-data/services/endpoint")?;
        let authority = url.trim().strip_prefix("http://");
        let authority = authority.ok_or_else(|| io::Error::other(format!("no endpoint of ours: {url}")))?;
        Ok(Self {
            cluster: cluster.to_owned(),
            region: metadata.require("meta-data/placement/region")?,
            authority: authority.to_owned(),
            role: Mutex::default(),
        })
    }

    pub(super) async fn credentials(&self, token: &str) -> Result<Answer, Refused> {
        let silent = || io::Error::new(io::ErrorKind::TimedOut, "no answer");
        tokio::time::timeout(PATIENCE, self.ask(token)).await.unwrap_or_else(|_| Err(silent().into()))
    }

    async fn ask(&self, token: &str) -> Result<Answer, Refused> {
        let (head, body) = self.exchange(self.signed(token).await?).await?;
        let body: Value = serde_json::from_slice(&body).map_err(io::Error::other)?;
        if head.status.is_success() {
            return Ok(read(body)?);
        }
        let code = head.headers.get("x-amzn-errortype").and_then(|value| value.to_str().ok());
        Err(refused(head.status, code.unwrap_or_default(), &body))
    }

    async fn signed(&self, token: &str) -> io::Result<ekstra_wire::Request> {
        let credentials = self.role().await?.signing();
        let mut request = ekstra_wire::Request {
            method: "POST".into(),
            path: format!(
                "/clusters/{}/assume-role-for-pod-identity",
                ekstra_wire::uri_encode(&self.cluster)
            ),
            headers: vec![
                ("host".into(), self.authority.clone()),
                ("content-type".into(), "application/json".into()),
            ],
            body: json!({"token": token}).to_string().into_bytes(),
            ..ekstra_wire::Request::default()
        };
        sigv4::sign(&mut request, &credentials, &self.region, "eks-auth", now());
        Ok(request)
    }

    /// The instance's own.
    async fn role(&self) -> io::Result<RoleCredentials> {
        let known = self.role.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(known) = known.filter(|known| known.expires() - now() > RENEWAL) {
            return Ok(known);
        }
        let fetched = tokio::task::spawn_blocking(|| RoleCredentials::fetch(&Metadata::connect()?));
        let fetched = fetched.await.map_err(io::Error::other)??;
        *self.role.lock().unwrap_or_else(PoisonError::into_inner) = Some(fetched.clone());
        Ok(fetched)
    }

    async fn exchange(&self, request: ekstra_wire::Request) -> io::Result<(Parts, Bytes)> {
        let stream = TcpStream::connect(&self.authority).await?;
        let connected = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = connected.map_err(io::Error::other)?;
        let driver = tokio::spawn(connection);
        let mut built = hyper::Request::builder().method(request.method.as_str()).uri(&request.path);
        for (name, value) in &request.headers {
            built = built.header(name, value);
        }
        let built = built.body(Full::new(Bytes::from(request.body))).map_err(io::Error::other)?;
        let answer = sender.send_request(built).await.map_err(io::Error::other)?;
        let (head, body) = answer.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        driver.abort();
        Ok((head, body))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Found {
    credentials: Credentials,
    assumed_role_user: AssumedRoleUser,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Credentials {
    access_key_id: String,
    secret_access_key: String,
    session_token: String,
    /// Unix seconds, as restJson has it.
    expiration: f64,
}

#[derive(Deserialize)]
struct AssumedRoleUser {
    arn: String,
}

fn read(body: Value) -> io::Result<Answer> {
    let Found { credentials, assumed_role_user } = serde_json::from_value(body).map_err(io::Error::other)?;
    Ok(Answer {
        access_key_id: credentials.access_key_id,
        secret_access_key: credentials.secret_access_key,
        session_token: credentials.session_token,
        account: assumed_role_user.arn.split(':').nth(4).unwrap_or_default().to_owned(),
        expires: credentials.expiration as i64,
    })
}

fn refused(status: StatusCode, code: &str, body: &Value) -> Refused {
    let why = body["message"].as_str().unwrap_or_default();
    let fault = if status.is_server_error() { "server" } else { "client" };
    Refused { status, message: format!("({code}): {why}, fault: {fault}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_what_sdks_want() {
        let body = json!({
            "credentials": {"accessKeyId": "ASIAX", "secretAccessKey": "s", "sessionToken": "t", "expiration": 1.5e9},
            "assumedRoleUser": {"arn": "arn:aws:sts::123456789012:assumed-role/r/s", "assumeRoleId": "i"},
        });
        let answer = read(body).expect("reads");
        assert_eq!((answer.account.as_str(), answer.expires), ("123456789012", 1_500_000_000));
        assert!(answer.has_expired());
        assert!(read(json!({})).is_err());
    }

    #[test]
    fn only_silence_is_silence() {
        let no = json!({"message": "none"});
        let no = refused(StatusCode::NOT_FOUND, "ResourceNotFoundException", &no);
        assert_eq!(no.message, "(ResourceNotFoundException): none, fault: client");
        assert!(!no.is_silence());
        assert!(Refused::from(io::Error::from(io::ErrorKind::ConnectionRefused)).is_silence());
    }
}

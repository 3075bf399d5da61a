//! The command line's own AWS client: a signed request, a parsed answer.
//!
//! It calls the service as any AWS client does; nothing is reachable here that is not reachable with `aws`.

use crate::credentials::StoredCredentials;
use crate::home::Home;
use crate::service::HEALTH;
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use ekstra_wire::sigv4::{self, Credentials};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const PATIENCE: Duration = Duration::from_secs(60);

/// What the service answered, when it was not what was hoped for.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{code}: {message}")]
pub(crate) struct Refused {
    pub(crate) code: String,
    pub(crate) message: String,
}

#[derive(Clone, Debug)]
pub(crate) struct Client {
    http: HttpClient<HttpConnector, Full<Bytes>>,
    authority: String,
    credentials: Credentials,
    pub(crate) region: String,
    pub(crate) account: String,
}

impl Client {
    pub(crate) fn new(home: &Home, region: &str) -> Result<Self> {
        let settings = home.known()?;
        let stored = StoredCredentials::load(home)?;
        Ok(Self {
            http: HttpClient::builder(TokioExecutor::new()).build_http(),
            authority: format!("127.0.0.1:{}", settings.port),
            credentials: stored.signing(),
            region: region.to_owned(),
            account: stored.account,
        })
    }

    /// A restJson call to EKS.
    pub(crate) async fn eks(&self, method: &str, path: &str, body: Option<Value>) -> Result<Value> {
        let body = body.map(|b| b.to_string()).unwrap_or_default();
        let answer = self.send("eks", method, path, "application/json", body).await?;
        if answer.is_empty() { Ok(Value::Null) } else { Ok(serde_json::from_slice(&answer)?) }
    }

    /// An ec2Query call; the answer's XML.
    pub(crate) async fn ec2(&self, action: &str, parameters: &[(&str, &str)]) -> Result<String> {
        let mut form = format!("Action={action}&Version=2016-11-15");
        for (name, value) in parameters {
            form.push_str(&format!("&{name}={}", ekstra_wire::uri_encode(value)));
        }
        let kind = "application/x-www-form-urlencoded";
        let answer = self.send("ec2", "POST", "/", kind, form).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// An awsJson call of the version 1.1.
    pub(crate) async fn json(&self, service: &str, operation: &str, body: &Value) -> Result<Value> {
        let kind = "application/x-amz-json-1.1";
        let target = [("x-amz-target", operation)];
        let answer = self.send_with(&target, service, "POST", "/", kind, body.to_string()).await?;
        Ok(serde_json::from_slice(&answer)?)
    }

    async fn send(
        &self,
        service: &str,
        method: &str,
        target: &str,
        kind: &str,
        body: String,
    ) -> Result<Vec<u8>> {
        self.send_with(&[], service, method, target, kind, body).await
    }

    async fn send_with(
        &self,
        headers: &[(&str, &str)],
        service: &str,
        method: &str,
        target: &str,
        kind: &str,
        body: String,
    ) -> Result<Vec<u8>> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut request = ekstra_wire::Request {
            method: method.to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
            headers: vec![("host".into(), self.authority.clone()), ("content-type".into(), kind.to_owned())],
            body: body.into_bytes(),
        };
        request.headers.extend(headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?;
        sigv4::sign(&mut request, &self.credentials, &self.region, service, now);
        let mut built =
            hyper::Request::builder().method(method).uri(format!("http://{}{target}", self.authority));
        for (name, value) in &request.headers {
            built = built.header(name, value);
        }
        let sent = self.http.request(built.body(Full::new(request.body.into()))?);
        let answer = tokio::time::timeout(PATIENCE, sent).await.with_context(|| {
            let seconds = PATIENCE.as_secs();
            format!("the service does not answer after {seconds} s; `ekstra status` says whether it hangs")
        })?;
        let answer = answer.map_err(|error| match error.is_connect() {
            true => anyhow::anyhow!("the service does not run; `ekstra start` starts it"),
            false => error.into(),
        })?;
        let status = answer.status();
        let kind = answer.headers().get("x-amzn-errortype").and_then(|v| v.to_str().ok()).map(str::to_owned);
        let body = answer.into_body().collect().await?.to_bytes().to_vec();
        if status.is_success() { Ok(body) } else { Err(refusal(kind, &body).into()) }
    }

    /// The version and home of the service that listens, if one does.
    pub(crate) async fn health(authority: &str) -> Option<(String, String)> {
        let http: HttpClient<HttpConnector, Full<Bytes>> =
            HttpClient::builder(TokioExecutor::new()).build_http();
        let request =
            hyper::Request::get(format!("http://{authority}{HEALTH}")).body(Full::default()).ok()?;
        let answer = tokio::time::timeout(Duration::from_secs(2), http.request(request)).await.ok()?.ok()?;
        let body = answer.into_body().collect().await.ok()?.to_bytes();
        let health: Value = serde_json::from_slice(&body).ok()?;
        Some((health["version"].as_str()?.to_owned(), health["home"].as_str()?.to_owned()))
    }
}

/// restJson names the error in a header, the query protocols in the body.
fn refusal(kind: Option<String>, body: &[u8]) -> Refused {
    if let Ok(json) = serde_json::from_slice::<Value>(body) {
        let text = |name: &str| json[name].as_str().map(str::to_owned);
        let code = kind.or_else(|| text("__type")).unwrap_or_else(|| "Refused".into());
        return Refused { code, message: text("message").unwrap_or_default() };
    }
    let xml = String::from_utf8_lossy(body);
    let first = |name: &str| elements(&xml, name).into_iter().next().unwrap_or_default();
    Refused { code: first("Code"), message: first("Message") }
}

/// The texts of all elements of a name, of XML that our own service wrote.
pub(crate) fn elements(xml: &str, name: &str) -> Vec<String> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let mut found = Vec::new();
    let mut rest = xml;
    while let Some(start) = rest.find(&open) {
        rest = &rest[start + open.len()..];
        let Some(end) = rest.find(&close) else { break };
        found.push(rest[..end].to_owned());
        rest = &rest[end..];
    }
    found
}

/// The code of an AWS error inside an error chain.
pub(crate) fn code(error: &anyhow::Error) -> Option<&str> {
    error.downcast_ref::<Refused>().map(|r| r.code.as_str())
}

/// Refuses names that would change the path.
pub(crate) fn segment(name: &str) -> Result<String> {
    if name.is_empty() {
        bail!("a name is missing; say --name NAME");
    }
    Ok(ekstra_wire::uri_encode(name))
}

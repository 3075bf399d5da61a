//! A signing client, and a load of it.

use super::REGION;
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use ekstra_wire::sigv4::{self, Credentials};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(20);

#[derive(Clone)]
pub(super) struct Aws {
    port: u16,
    credentials: Credentials,
    account: String,
}

/// A call whose signature serves for all of one second.
struct Signed {
    at: i64,
    headers: Vec<(String, String)>,
}

impl Aws {
    pub(super) fn new(
        port: u16,
        access_key_id: String,
        secret_access_key: String,
        account: String,
    ) -> Result<Self> {
        let credentials = Credentials { access_key_id, secret_access_key, session_token: None };
        Ok(Self { port, credentials, account })
    }

    pub(super) fn role(&self, name: &str) -> String {
        format!("arn:aws:iam::{}:role/{name}", self.account)
    }

    fn authority(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn sign(&self, service: &str, method: &str, path: &str, body: &str) -> Result<Signed> {
        let kind = if service == "ec2" { "application/x-www-form-urlencoded" } else { "application/json" };
        let mut request = ekstra_wire::Request {
            method: method.to_owned(),
            path: path.to_owned(),
            query: String::new(),
            headers: vec![("host".into(), self.authority()), ("content-type".into(), kind.into())],
            body: body.as_bytes().to_vec(),
        };
        let at = now()?;
        sigv4::sign(&mut request, &self.credentials, REGION, service, at);
        Ok(Signed { at, headers: request.headers })
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect(self.authority()).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Ends with the sender.
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn send(&self, service: &str, method: &str, path: &str, body: &str) -> Result<(u16, Bytes)> {
        let signed = self.sign(service, method, path, body)?;
        let mut sender = self.connect().await?;
        exchange(&mut sender, &signed, method, path, body).await
    }

    /// A restJson call.
    pub(super) async fn eks(&self, method: &str, path: &str, body: &str) -> Result<Value> {
        let (status, answer) = self.send("eks", method, path, body).await?;
        if !(200..300).contains(&status) {
            bail!("{method} {path}: {status} {}", String::from_utf8_lossy(&answer));
        }
        Ok(serde_json::from_slice(&answer).unwrap_or(Value::Null))
    }

    pub(super) async fn subnets(&self) -> Result<Vec<String>> {
        let (_, answer) = self.send("ec2", "POST", "/", "Action=DescribeSubnets&Version=2016-11-15").await?;
        let text = String::from_utf8_lossy(&answer).into_owned();
        let mut ids: Vec<String> = text
            .split("<subnetId>")
            .skip(1)
            .filter_map(|rest| rest.split_once('<').map(|(id, _)| id.to_owned()))
            .collect();
        ids.dedup();
        if ids.is_empty() {
            bail!("DescribeSubnets: {text}");
        }
        Ok(ids)
    }

    pub(super) async fn wait_status(&self, path: &str, pointer: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = self.eks("GET", path, "").await?;
            let status = seen.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            if status == "ACTIVE" {
                return Ok(());
            }
            if Instant::now() > deadline || status.ends_with("FAILED") {
                bail!("{path} is not ACTIVE: {seen}");
            }
            tokio::time::sleep(POLL).await;
        }
    }

    pub(super) async fn wait_gone(&self, path: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (status, answer) = self.send("eks", "GET", path, "").await?;
            if status == 404 {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{path} is not gone: {}", String::from_utf8_lossy(&answer));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// GETs a second: each connection asks again as soon as it has its answer.
    pub(super) async fn load(&self, path: &str, connections: usize, duration: Duration) -> Result<f64> {
        let started = Instant::now();
        let workers =
            (0..connections).map(|_| tokio::spawn(self.clone().ask(path.to_owned(), started + duration)));
        let mut answered = 0.0;
        for worker in workers.collect::<Vec<_>>() {
            answered += f64::from(worker.await??);
        }
        Ok(answered / started.elapsed().as_secs_f64())
    }

    /// Signs once a second, so that it is the service that is measured; it verifies every request.
    async fn ask(self, path: String, deadline: Instant) -> Result<u32> {
        let mut sender = self.connect().await?;
        let mut signed = self.sign("eks", "GET", &path, "")?;
        let mut answered = 0;
        while Instant::now() < deadline {
            if now()? != signed.at {
                signed = self.sign("eks", "GET", &path, "")?;
            }
            let (status, answer) = exchange(&mut sender, &signed, "GET", &path, "").await?;
            if status != 200 {
                bail!("GET {path}: {status} {}", String::from_utf8_lossy(&answer));
            }
            answered += 1;
        }
        Ok(answered)
    }
}

fn now() -> Result<i64> {
    Ok(i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?)
}

async fn exchange(
    sender: &mut SendRequest<Full<Bytes>>,
    signed: &Signed,
    method: &str,
    path: &str,
    body: &str,
) -> Result<(u16, Bytes)> {
    let mut request = hyper::Request::builder().method(method).uri(path);
    for (name, value) in &signed.headers {
        request = request.header(name, value);
    }
    sender.ready().await?;
    let request = request.body(Full::new(Bytes::copy_from_slice(body.as_bytes())))?;
    let answer = tokio::time::timeout(PATIENCE, sender.send_request(request));
    let answer = answer.await.context("the service does not answer")??;
    let status = answer.status().as_u16();
    Ok((status, answer.into_body().collect().await?.to_bytes()))
}

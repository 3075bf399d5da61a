//! A signing client, and a load of it.

use super::REGION;
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use ekstra_wire::sigv4::{self, Credentials};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(20);

/// ekstra has it from the first.
pub(super) const CLUSTER_ROLE: &str = "eksClusterRole";

/// Credentials of one account at one endpoint.
#[derive(Clone)]
pub(super) struct Aws {
    port: u16,
    credentials: Credentials,
    account: String,
}

/// What is asked, before it is signed.
#[derive(Clone, Debug)]
pub(super) struct Call {
    service: &'static str,
    method: &'static str,
    path: String,
    query: &'static str,
    content_type: &'static str,
    body: String,
}

impl Call {
    /// Of EKS.
    pub(super) fn eks(method: &'static str, path: impl Into<String>, body: impl Into<String>) -> Self {
        let (service, content_type) = ("eks", "application/json");
        Self { service, method, path: path.into(), query: "", content_type, body: body.into() }
    }

    /// Of a service whose requests are forms: EC2, IAM, STS.
    pub(super) fn form(service: &'static str, body: impl Into<String>) -> Self {
        let content_type = "application/x-www-form-urlencoded; charset=utf-8";
        Self { service, method: "POST", path: "/".into(), query: "", content_type, body: body.into() }
    }

    pub(super) fn with_query(self, query: &'static str) -> Self {
        Self { query, ..self }
    }
}

/// A call whose signature serves for all of one second.
struct Signed {
    at: i64,
    headers: Vec<(String, String)>,
}

/// How a load was borne.
pub(super) struct Borne {
    /// Calls a second.
    pub(super) rate: f64,
    /// Of a hundred calls one took longer, in milliseconds.
    pub(super) p99: f64,
}

impl Aws {
    pub(super) fn new(port: u16, access_key_id: String, secret_access_key: String, account: String) -> Self {
        Self {
            port,
            account,
            credentials: Credentials { access_key_id, secret_access_key, session_token: None },
        }
    }

    /// The same account with another access key.
    pub(super) fn with_key(&self, access_key_id: String, secret_access_key: String) -> Self {
        Self::new(self.port, access_key_id, secret_access_key, self.account.clone())
    }

    pub(super) fn arn(&self, service: &str, rest: &str) -> String {
        format!("arn:aws:{service}::{}:{rest}", self.account)
    }

    pub(super) fn role(&self, name: &str) -> String {
        self.arn("iam", &format!("role/{name}"))
    }

    fn authority(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn sign(&self, call: &Call) -> Result<Signed> {
        let mut request = ekstra_wire::Request {
            method: call.method.to_owned(),
            path: call.path.clone(),
            query: call.query.to_owned(),
            headers: vec![
                ("host".into(), self.authority()),
                ("content-type".into(), call.content_type.into()),
            ],
            body: call.body.as_bytes().to_vec(),
        };
        let at = now()?;
        sigv4::sign(&mut request, &self.credentials, REGION, call.service, at);
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

    /// The status and the body, whatever they are.
    pub(super) async fn send(&self, call: &Call) -> Result<(u16, String)> {
        let signed = self.sign(call)?;
        let mut sender = self.connect().await?;
        let (status, body) = exchange(&mut sender, &signed, call).await?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    /// The body of a call that succeeds.
    pub(super) async fn call(&self, call: &Call) -> Result<String> {
        let (status, answer) = self.send(call).await?;
        if !(200..300).contains(&status) {
            bail!("{call:?}: {status} {answer}");
        }
        Ok(answer)
    }

    pub(super) async fn eks(&self, method: &'static str, path: &str, body: &str) -> Result<Value> {
        let answer = self.call(&Call::eks(method, path, body)).await?;
        Ok(serde_json::from_str(&answer).unwrap_or(Value::Null))
    }

    pub(super) async fn create_cluster(&self, name: &str, subnets: &[String]) -> Result<()> {
        let role = self.role(CLUSTER_ROLE);
        let request = json!({"name": name, "roleArn": role, "resourcesVpcConfig": {"subnetIds": subnets}});
        self.eks("POST", "/clusters", &request.to_string()).await.map(drop)
    }

    /// Of the default VPC.
    pub(super) async fn subnets(&self) -> Result<Vec<String>> {
        let answer = self.call(&describe_subnets()).await?;
        let mut ids = texts(&answer, "subnetId");
        ids.dedup();
        if ids.is_empty() {
            bail!("DescribeSubnets: {answer}");
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
            let (status, answer) = self.send(&Call::eks("GET", path, "")).await?;
            if status == 404 {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{path} is not gone: {answer}");
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Each connection asks again as soon as it has its answer.
    pub(super) async fn load(&self, call: &Call, connections: usize, duration: Duration) -> Result<Borne> {
        let (started, call) = (Instant::now(), Arc::new(call.clone()));
        let workers =
            (0..connections).map(|_| tokio::spawn(self.clone().ask(call.clone(), started + duration)));
        let mut took = Vec::new();
        for worker in workers.collect::<Vec<_>>() {
            took.append(&mut worker.await??);
        }
        let elapsed = started.elapsed();
        took.sort_unstable();
        let rank = (took.len() * 99).div_ceil(100);
        let p99 = took.get(rank.saturating_sub(1)).context("nothing was answered")?;
        Ok(Borne {
            rate: f64::from(u32::try_from(took.len())?) / elapsed.as_secs_f64(),
            p99: p99.as_secs_f64() * 1e3,
        })
    }

    /// Signs once a second, so that it is the service that is measured; it verifies every request. A connection that the
    /// service closes is opened again, within the time of the call that needs it.
    async fn ask(self, call: Arc<Call>, deadline: Instant) -> Result<Vec<Duration>> {
        let mut sender = self.connect().await?;
        let mut signed = self.sign(&call)?;
        let mut took = Vec::new();
        while Instant::now() < deadline {
            if now()? != signed.at {
                signed = self.sign(&call)?;
            }
            let asked = Instant::now();
            if sender.ready().await.is_err() {
                sender = self.connect().await?;
            }
            let (status, answer) = exchange(&mut sender, &signed, &call).await?;
            if status != 200 {
                bail!("{call:?}: {status} {}", String::from_utf8_lossy(&answer));
            }
            took.push(asked.elapsed());
        }
        Ok(took)
    }
}

/// Those of three zones: ekstra has three, and moto as many as the region.
const DESCRIBE_SUBNETS: &str = "Action=DescribeSubnets&Version=2016-11-15&Filter.1.Name=availability-zone";

/// The default VPC's.
pub(super) fn describe_subnets() -> Call {
    let zones = ["a", "b", "c"].iter().zip(1..);
    let zones: String = zones.map(|(zone, n)| format!("&Filter.1.Value.{n}={REGION}{zone}")).collect();
    Call::form("ec2", format!("{DESCRIBE_SUBNETS}{zones}"))
}

pub(super) fn get_caller_identity() -> Call {
    Call::form("sts", "Action=GetCallerIdentity&Version=2011-06-15")
}

/// The text of every element of that name.
pub(super) fn texts(xml: &str, element: &str) -> Vec<String> {
    let start = format!("<{element}>");
    let rests = xml.split(start.as_str()).skip(1);
    rests.filter_map(|rest| rest.split_once('<').map(|(text, _)| text.to_owned())).collect()
}

fn now() -> Result<i64> {
    Ok(i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?)
}

async fn exchange(
    sender: &mut SendRequest<Full<Bytes>>,
    signed: &Signed,
    call: &Call,
) -> Result<(u16, Bytes)> {
    let target =
        if call.query.is_empty() { call.path.clone() } else { format!("{}?{}", call.path, call.query) };
    let mut request = hyper::Request::builder().method(call.method).uri(target);
    for (name, value) in &signed.headers {
        request = request.header(name, value);
    }
    sender.ready().await?;
    let request = request.body(Full::new(Bytes::copy_from_slice(call.body.as_bytes())))?;
    let answer = tokio::time::timeout(PATIENCE, sender.send_request(request));
    let answer = answer.await.context("the service does not answer")??;
    let status = answer.status().as_u16();
    Ok((status, answer.into_body().collect().await?.to_bytes()))
}

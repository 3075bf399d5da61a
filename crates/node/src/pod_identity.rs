//! `ekstra-node pod-identity CLUSTER`: the daemon of the add-on eks-pod-identity-agent, a pod of every node.
//!
//! A pod shows it the token of its service account and gets credentials of the role that is associated with it. What it
//! asks it asks as the node, with the role of the instance; every answer is EKS Auth's. Only when there is none it repeats
//! the last one for the same token, as long as that is good.
//!
//! Source: EKS User Guide, "How EKS Pod Identity works"; what applications see is as of eks-pod-identity-agent.

mod address;
mod exchange;

use ekstra_domain::eks::POD_IDENTITY_ADDRESS;
use exchange::{Answer, Endpoint};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

const PORT: u16 = 80;
/// Where the kubelet asks how it is.
const PROBE_PORT: u16 = 2703;
const PATH: &str = "/v1/credentials";
/// Of clients that send nothing.
const PATIENCE: Duration = Duration::from_secs(10);
/// Tokens whose last answer is kept.
const MOST: usize = 2000;

struct Agent {
    endpoint: Endpoint,
    /// By token.
    known: Mutex<HashMap<String, Answer>>,
}

pub(crate) fn run(args: &[String]) -> io::Result<()> {
    let [cluster] = args else {
        return Err(io::Error::other("usage: ekstra-node pod-identity CLUSTER"));
    };
    address::add(POD_IDENTITY_ADDRESS)
        .map_err(|error| io::Error::other(format!("{POD_IDENTITY_ADDRESS} on the loopback: {error}")))?;
    let agent = Agent { endpoint: Endpoint::find(cluster)?, known: Mutex::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(Arc::new(agent)))
}

async fn serve(agent: Arc<Agent>) -> io::Result<()> {
    let listener = TcpListener::bind((POD_IDENTITY_ADDRESS, PORT)).await?;
    let probes = TcpListener::bind((Ipv4Addr::LOCALHOST, PROBE_PORT)).await?;
    say!("ekstra-node: pods find their credentials at http://{POD_IDENTITY_ADDRESS}{PATH}");
    let mut end = signal(SignalKind::terminate())?;
    tokio::select! {
        () = accept(listener, move |request| answer(agent.clone(), request)) => {}
        () = accept(probes, |_| async { respond(StatusCode::OK, "text/plain", "ok".into()) }) => {}
        _ = end.recv() => {}
    }
    Ok(())
}

async fn accept<F, A>(listener: TcpListener, function: F)
where
    F: Fn(Request<Incoming>) -> A + Clone + Send + 'static,
    A: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let function = function.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let answer = function(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            let mut http = hyper::server::conn::http1::Builder::new();
            let http = http.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
            // A client that goes away is no error of ours.
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn respond(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}

fn refuse(status: StatusCode, why: impl Into<String>) -> Response<Full<Bytes>> {
    let why = why.into();
    say!("ekstra-node: refused ({}): {why}", status.as_u16());
    respond(status, "text/plain", why)
}

async fn answer(agent: Arc<Agent>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    if request.uri().path() != PATH {
        return respond(StatusCode::NOT_FOUND, "text/plain", "404 page not found".into());
    }
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    // A name that somebody made lead here is not where an SDK goes.
    let own = POD_IDENTITY_ADDRESS.to_string();
    if header(HOST).rsplit_once(':').map_or(header(HOST), |(host, _)| host) != own {
        return refuse(
            StatusCode::BAD_REQUEST,
            format!("Called agent through invalid address: {}", header(HOST)),
        );
    }
    let token = header(AUTHORIZATION).to_owned();
    if token.is_empty() {
        return refuse(StatusCode::BAD_REQUEST, "Service account token cannot be empty");
    }
    if token.split('.').count() != 3 || token.contains(char::is_whitespace) {
        return refuse(StatusCode::BAD_REQUEST, "Service account token cannot be parsed: token is malformed");
    }
    let outcome = agent.endpoint.credentials(&token).await;
    let mut known = agent.known.lock().unwrap_or_else(PoisonError::into_inner);
    match outcome {
        Ok(found) => {
            if known.len() >= MOST {
                known.retain(|_, answer| !answer.has_expired());
            }
            if known.len() < MOST {
                known.insert(token, found.clone());
            }
            respond(StatusCode::OK, "application/json", present(&found).to_string())
        }
        Err(refused) => {
            let last = known.get(&token).filter(|last| refused.is_silence() && !last.has_expired());
            if let Some(last) = last {
                return respond(StatusCode::OK, "application/json", present(last).to_string());
            }
            known.remove(&token);
            refuse(refused.status, refused.message)
        }
    }
}

/// As SDKs read it.
fn present(answer: &Answer) -> Value {
    json!({
        "AccessKeyId": answer.access_key_id,
        "SecretAccessKey": answer.secret_access_key,
        "Token": answer.session_token,
        "AccountId": answer.account,
        "Expiration": ekstra_wire::iso8601(answer.expires * 1000),
    })
}

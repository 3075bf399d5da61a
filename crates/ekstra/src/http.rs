//! The AWS endpoint: http and https on one port, requests in, the service's answers out.
//!
//! Invariant: whatever a web page could send (another `Host`, a foreign `Origin`) is refused before it is looked at
//! (`design.md`, threat model).

use crate::service::Service;
use bytes::Bytes;
use ekstra_cloud::api::Origin;
use ekstra_wire::{ApiError, Request, Response, encoding};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

/// Larger than any request of the services here, also unpacked.
pub(crate) const LARGEST_BODY: usize = 2 * 1024 * 1024;
/// The first byte of a TLS handshake.
const TLS_HANDSHAKE: u8 = 0x16;
const HELLO_PATIENCE: Duration = Duration::from_secs(30);
/// Between requests, and within the head of one. Clients open another connection when they find one closed.
const IDLE: Duration = Duration::from_secs(60);
/// Of one listener: clients keep ten or so each.
const MOST_CONNECTIONS: usize = 2048;
/// Requests at once on one HTTP/2 connection.
const MOST_STREAMS: u32 = 32;
/// For a body to arrive, and for room to take it in.
const BODY_PATIENCE: Duration = Duration::from_secs(30);
/// KiB of bodies that are being received, of all connections together.
static ROOM: Semaphore = Semaphore::const_new(64 * 1024);

pub(crate) async fn serve(listener: TcpListener, tls: TlsAcceptor, service: Arc<Service>) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        // A semaphore that is never closed. Who comes when all are taken waits in the listener's queue.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let _ = stream.set_nodelay(true);
                let (tls, service) = (tls.clone(), service.clone());
                tokio::spawn(async move {
                    let _place = place;
                    connection(stream, peer.ip(), tls, service).await;
                });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn connection(stream: TcpStream, peer: IpAddr, tls: TlsAcceptor, service: Arc<Service>) {
    let origin = |is_tls| Origin { address: Some(peer), is_tls, user_agent: None };
    let mut first = [0];
    match tokio::time::timeout(HELLO_PATIENCE, stream.peek(&mut first)).await {
        Ok(Ok(1)) if first[0] == TLS_HANDSHAKE => {
            if let Ok(Ok(stream)) = tokio::time::timeout(HELLO_PATIENCE, tls.accept(stream)).await {
                exchange(stream, service, origin(true)).await;
            }
        }
        Ok(Ok(1)) => exchange(stream, service, origin(false)).await,
        _ => {}
    }
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    service: Arc<Service>,
    origin: Origin,
) {
    let answer = service_fn(move |request: hyper::Request<Incoming>| {
        let (service, origin) = (service.clone(), origin.clone());
        async move { Ok::<_, Infallible>(answer(service, request, origin).await) }
    });
    // A client that hangs up is not an error of ours.
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(IDLE);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(IDLE).keep_alive_timeout(HELLO_PATIENCE);
    builder.http2().max_concurrent_streams(MOST_STREAMS);
    let _ = builder.serve_connection(TokioIo::new(stream), answer).await;
}

async fn answer(
    service: Arc<Service>,
    request: hyper::Request<Incoming>,
    origin: Origin,
) -> hyper::Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let headers = head
        .headers
        .iter()
        .filter_map(|(name, value)| Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned())));
    let mut headers: Vec<(String, String)> = headers.collect();
    // HTTP/2 names the host in the request line.
    if let Some(authority) = head.uri.authority().filter(|_| !headers.iter().any(|(n, _)| n == "host")) {
        headers.push(("host".into(), authority.to_string()));
    }
    let mut request = Request {
        method: head.method.as_str().to_owned(),
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        headers,
        body: Vec::new(),
    };
    request.body = match tokio::time::timeout(BODY_PATIENCE, receive(body)).await {
        Ok(Some(body)) => body,
        Ok(None) => return respond(service.refuse(&request, &encoding::too_large())),
        Err(_) => return respond(service.refuse(&request, &too_slow())),
    };
    let takes_gzip = encoding::takes_gzip(&request);
    // To its end, also when the client hangs up: what was begun has its record.
    match tokio::spawn(async move { service.handle(request, origin).await }).await {
        Ok(response) => respond(if takes_gzip { encoding::pack(response) } else { response }),
        Err(_) => plain(500, "the call ended by a fault of the service"),
    }
}

/// The whole body; `None` if it is too large.
async fn receive(body: Incoming) -> Option<Vec<u8>> {
    let most = LARGEST_BODY as u64;
    let announced = body.size_hint().upper().unwrap_or(most);
    if announced > most {
        return None;
    }
    // A semaphore that is never closed.
    let _room = ROOM.acquire_many(u32::try_from(announced.div_ceil(1024)).unwrap_or(u32::MAX)).await.ok()?;
    Limited::new(body, LARGEST_BODY).collect().await.ok().map(|body| body.to_bytes().to_vec())
}

fn too_slow() -> ApiError {
    ApiError::client("RequestTimeoutException", 408, "The request did not arrive in time.")
}

fn respond(response: Response) -> hyper::Response<Full<Bytes>> {
    let mut built = hyper::Response::builder().status(response.status);
    for (name, value) in response.headers {
        built = built.header(name, value);
    }
    built.body(Full::new(response.body.into())).unwrap_or_else(|_| plain(500, "an answer that is not HTTP"))
}

fn plain(status: u16, text: &'static str) -> hyper::Response<Full<Bytes>> {
    let mut response = hyper::Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or(hyper::StatusCode::BAD_REQUEST);
    response
}

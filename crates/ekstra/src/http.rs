//! The AWS endpoint: http and https on one port, requests in, the service's answers out.
//!
//! Invariant: whatever a web page could send (another `Host`, a foreign `Origin`) is refused before it is looked at
//! (`design.md`, threat model).

use crate::service::Service;
use bytes::Bytes;
use ekstra_cloud::api::Origin;
use ekstra_gate::Watched;
use ekstra_host::descriptors::{blocking, receive};
use ekstra_wire::{ApiError, Request, Response, encoding};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

/// Larger than any request of the services here, also unpacked.
pub(crate) const LARGEST_BODY: usize = 2 * 1024 * 1024;
/// The first byte of a TLS handshake.
const TLS_HANDSHAKE: u8 = 0x16;
const HELLO_PATIENCE: Duration = Duration::from_secs(30);
/// Until so many bytes have come it is not known which HTTP is spoken, and none of its own limits run.
const PREFACE: usize = 24;
/// For a client that takes none of its answer.
const STALLED: Duration = Duration::from_secs(30);
/// Between requests, and within the head of one. Clients open another connection when they find one closed.
const IDLE: Duration = Duration::from_secs(60);
/// After an error that the next `accept` would have again.
const PAUSE: Duration = Duration::from_millis(20);
/// Of one listener: clients keep ten or so each.
const MOST_CONNECTIONS: u32 = 2048;
/// Of the head of a request, and of what is written at once.
const BUFFER: usize = 64 * 1024;
/// Requests at once on one HTTP/2 connection.
const MOST_STREAMS: u32 = 32;
/// For a body to arrive, and for room to take it in.
const BODY_PATIENCE: Duration = Duration::from_secs(30);
/// What every body has room for. Most are shorter.
const SHORT_BODY: usize = 32 * 1024;
/// Bodies that are longer and are being received, of all connections together.
static LONG_BODIES: Semaphore = Semaphore::const_new(32);
/// What is under way when the service ends has so long to be answered.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// What every connection is given.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) tls: TlsAcceptor,
    pub(crate) service: Arc<Service>,
    pub(crate) shutdown: watch::Receiver<bool>,
}

/// Ends, with what is under way, when the service does.
pub(crate) async fn serve(listener: TcpListener, door: Door) {
    let accept = move |context: &mut Context<'_>| listener.poll_accept(context);
    serve_each(door, accept, |(stream, peer), door| connection(stream, peer.ip(), door)).await;
}

/// The same for connections of nodes and pods, which the gate accepts where they are and gives away.
pub(crate) async fn serve_given(listener: UnixListener, door: Door) {
    let accept = move |context: &mut Context<'_>| listener.poll_accept(context);
    serve_each(door, accept, |(gate, _), door| given_connection(gate, door)).await;
}

/// Who comes when all places are taken waits in the listener's queue.
async fn serve_each<T, F>(
    door: Door,
    accept: impl Fn(&mut Context<'_>) -> Poll<io::Result<T>>,
    serve: impl Fn(T, Door) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS as usize));
    let mut shutdown = door.shutdown.clone();
    loop {
        let placed = async {
            let place = places.clone().acquire_owned().await;
            (place, poll_fn(&accept).await)
        };
        let (place, accepted) = tokio::select! {
            _ = shutdown.wait_for(|stop| *stop) => break,
            placed = placed => placed,
        };
        let Ok(accepted) = accepted else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let served = serve(accepted, door.clone());
        tokio::spawn(async move {
            served.await;
            drop(place);
        });
    }
    drop(accept);
    let _ = tokio::time::timeout(LAST_ANSWERS, places.acquire_many(MOST_CONNECTIONS)).await;
}

/// The gate counts the connection as its peer's until its socket is closed, and closes it with its own listener, of which
/// the connection is.
async fn given_connection(gate: UnixStream, door: Door) {
    let Ok((mut gate, (_, descriptor))) = blocking(gate, HELLO_PATIENCE, receive).await else { return };
    let Some(Ok((stream, peer))) = descriptor.map(tcp) else { return };
    let mut nothing = [0];
    tokio::select! {
        () = connection(stream, peer, door) => {}
        _ = gate.read(&mut nothing) => {}
    }
}

fn tcp(descriptor: OwnedFd) -> io::Result<(TcpStream, IpAddr)> {
    let stream = std::net::TcpStream::from(descriptor);
    stream.set_nonblocking(true)?;
    let peer = stream.peer_addr()?.ip();
    Ok((TcpStream::from_std(stream)?, peer))
}

async fn connection(stream: TcpStream, peer: IpAddr, door: Door) {
    let _ = stream.set_nodelay(true);
    let origin = |is_tls| Origin { address: Some(peer), is_tls, user_agent: None };
    let mut first = [0];
    match before_the_end(&door, stream.peek(&mut first)).await {
        Some(1) if first[0] == TLS_HANDSHAKE => {
            if let Some(stream) = before_the_end(&door, door.tls.accept(stream)).await {
                exchange(stream, door, origin(true)).await;
            }
        }
        Some(1) => exchange(stream, door, origin(false)).await,
        _ => {}
    }
}

/// What a client says at first. The end of the service does not wait for who has asked for nothing yet.
async fn before_the_end<T>(door: &Door, hello: impl Future<Output = io::Result<T>>) -> Option<T> {
    let mut shutdown = door.shutdown.clone();
    tokio::select! {
        biased;
        said = tokio::time::timeout(HELLO_PATIENCE, hello) => said.ok()?.ok(),
        _ = shutdown.wait_for(|stop| *stop) => None,
    }
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S, door: Door, origin: Origin) {
    let Door { service, mut shutdown, .. } = door;
    let answer = service_fn(move |request: hyper::Request<Incoming>| {
        let (service, origin) = (service.clone(), origin.clone());
        async move { Ok::<_, Infallible>(answer(service, request, origin).await) }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(IDLE).max_buf_size(BUFFER);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(IDLE).keep_alive_timeout(HELLO_PATIENCE);
    builder.http2().max_concurrent_streams(MOST_STREAMS);
    let stream = Watched::new(stream, STALLED).opening(PREFACE, HELLO_PATIENCE);
    let connection = builder.serve_connection(TokioIo::new(stream), answer);
    tokio::pin!(connection);
    // A client that hangs up is not an error of ours.
    tokio::select! {
        // A request that is here is read before the end is looked at.
        biased;
        _ = &mut connection => return,
        _ = shutdown.wait_for(|stop| *stop) => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
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
    request.body = match tokio::time::timeout(BODY_PATIENCE, receive_body(body)).await {
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

/// The whole body; `None` if it is too large. However many long ones are announced or sent, short ones do not wait for them.
async fn receive_body(mut body: Incoming) -> Option<Vec<u8>> {
    if body.size_hint().lower() > LARGEST_BODY as u64 {
        return None;
    }
    let (mut whole, mut place) = (Vec::new(), None);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.ok()?.into_data() else { continue };
        if whole.len() + data.len() > LARGEST_BODY {
            return None;
        }
        if whole.len() + data.len() > SHORT_BODY && place.is_none() {
            // A semaphore that is never closed.
            place = Some(LONG_BODIES.acquire().await.ok()?);
        }
        whole.extend_from_slice(&data);
    }
    Some(whole)
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

//! Small HTTP/1 servers over an accepted connection.
//!
//! Invariant: a client that sends nothing, or takes nothing, loses its connection after its [`Patience`].

use crate::watched::Watched;
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

pub(crate) type Body = BoxBody<Bytes, io::Error>;

/// How long a client may be waited for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// From accepting to a whole head, and from an answer to the next whole head.
    pub(crate) head: Duration,
    /// For a client that takes none of the answer.
    pub(crate) stalled: Duration,
}

impl Patience {
    /// Of clients that are strangers and open another connection when they need it.
    pub(crate) const STRANGERS: Self =
        Self { head: Duration::from_secs(15), stalled: Duration::from_secs(30) };
}

pub(crate) fn full(status: StatusCode, kind: &str, body: impl Into<Bytes>) -> Response<Body> {
    let body = Full::new(body.into()).map_err(|never| match never {}).boxed();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    if let Ok(kind) = kind.parse() {
        response.headers_mut().insert(hyper::header::CONTENT_TYPE, kind);
    }
    response
}

/// Serves one connection to its end.
pub(crate) async fn serve<S, F, A>(stream: S, patience: Patience, answer: F)
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Fn(Request<Incoming>) -> A,
    A: Future<Output = Response<Body>>,
{
    let service = service_fn(|request| {
        let answered = answer(request);
        async { Ok::<_, Infallible>(answered.await) }
    });
    let stream = Watched::new(stream, patience.stalled);
    let mut server = hyper::server::conn::http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(patience.head).max_buf_size(64 * 1024);
    // A client that hangs up, or is given up, is not an error of ours.
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    const SHORT: Patience =
        Patience { head: Duration::from_millis(100), stalled: Duration::from_millis(100) };

    /// Serves one connection with answers of so many bytes; completes when it has let the connection go.
    async fn serving(size: usize) -> (SocketAddr, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("bound");
        let task = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.expect("accepted");
            serve(stream, SHORT, |_| async move { full(StatusCode::OK, "text/plain", vec![b'x'; size]) })
                .await;
        });
        (address, task)
    }

    async fn let_go(task: tokio::task::JoinHandle<()>) {
        tokio::time::timeout(Duration::from_secs(5), task).await.expect("in time").expect("no panic");
    }

    #[tokio::test]
    async fn a_client_that_says_nothing_is_let_go() {
        let (address, task) = serving(1).await;
        let _client = TcpStream::connect(address).await.expect("connected");
        let_go(task).await;
    }

    #[tokio::test]
    async fn so_is_one_that_sends_half_a_head_or_nothing_more() {
        for said in ["GET / HTTP/1.1\r\nhost:", "GET / HTTP/1.1\r\nhost: a\r\n\r\n"] {
            let (address, task) = serving(1).await;
            let mut client = TcpStream::connect(address).await.expect("connected");
            client.write_all(said.as_bytes()).await.expect("sent");
            let_go(task).await;
            let mut got = String::new();
            client.read_to_string(&mut got).await.expect("closed");
            assert_eq!(got.ends_with("\r\n\r\nx"), said.ends_with("\r\n\r\n"), "{got}");
        }
    }

    #[tokio::test]
    async fn and_one_that_takes_no_answer() {
        let (address, task) = serving(64 * 1024 * 1024).await;
        let mut client = TcpStream::connect(address).await.expect("connected");
        client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("sent");
        let_go(task).await;
    }
}

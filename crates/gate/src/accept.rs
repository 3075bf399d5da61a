//! The accept loop of every TCP listener here.
//!
//! # Guarantees
//! - It ends only when it is dropped or told to drain; no error of `accept` ends it.
//! - A connection is a task of the listener's scope: the listener dropped, its connections are closed.
//! - Told to drain, it accepts no more and completes when its connections have ended.

use crate::limits::Limits;
use crate::scope::Scope;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// After an error that the next `accept` would have again, such as being out of descriptors.
const PAUSE: Duration = Duration::from_millis(100);
/// Between two lines about the same trouble.
const QUIET: Duration = Duration::from_secs(60);

/// What a listener is run with.
#[derive(Debug)]
pub(crate) struct Terms {
    pub(crate) name: String,
    pub(crate) limits: Limits,
    pub(crate) drain: watch::Receiver<bool>,
}

/// Where connections come from.
pub(crate) trait Incoming: Send + Sync {
    fn next(&self) -> impl Future<Output = io::Result<(TcpStream, SocketAddr)>> + Send;
}

impl Incoming for Arc<TcpListener> {
    fn next(&self) -> impl Future<Output = io::Result<(TcpStream, SocketAddr)>> + Send {
        self.accept()
    }
}

/// Gives each connection to `serve`, whose answer is the connection's task; `None` closes it.
pub(crate) async fn run<S, T>(terms: Terms, incoming: impl Incoming, serve: S)
where
    S: Fn(TcpStream, SocketAddr) -> Option<T>,
    T: Future<Output = ()> + Send + 'static,
{
    let Terms { name, limits, mut drain } = terms;
    let scope = Scope::new(name.clone());
    let (mut failing, mut refusing) = (Seldom::default(), Seldom::default());
    loop {
        let accepted = tokio::select! {
            accepted = incoming.next() => accepted,
            // Also when nobody is left who could tell.
            _ = drain.wait_for(|drain| *drain) => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if is_of_the_connection(&error) => continue,
            Err(error) => {
                if failing.now() {
                    tracing::warn!(listener = name, %error, "connections cannot be accepted; trying again");
                }
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let Some(permit) = limits.admit(peer.ip()).await else {
            if refusing.now() {
                tracing::warn!(listener = name, peer = %peer.ip(), "too many connections of one peer; closing");
            }
            continue;
        };
        if let Some(task) = serve(stream, peer) {
            scope.spawn(async move {
                let _permit = permit;
                task.await;
            });
        }
    }
    drop(incoming);
    scope.drained().await;
}

/// The connection was gone before it was accepted; the next one may be well.
fn is_of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

/// So that what fails a thousand times a second is one line a minute.
#[derive(Debug, Default)]
pub(crate) struct Seldom {
    last: Option<Instant>,
}

impl Seldom {
    pub(crate) fn now(&mut self) -> bool {
        let due = self.last.is_none_or(|last| last.elapsed() >= QUIET);
        if due {
            self.last = Some(Instant::now());
        }
        due
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::limits::{Budget, Kind};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    pub(crate) fn terms(descriptors: u64) -> (watch::Sender<bool>, Terms) {
        let (sender, drain) = watch::channel(false);
        let limits = Budget::new(descriptors).limits(Kind::Metadata, true);
        (sender, Terms { name: "test".into(), limits, drain })
    }

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("bound");
        (listener, address)
    }

    /// Sends one byte to whoever comes and stays until the client goes.
    fn greet(mut stream: TcpStream, _: SocketAddr) -> Option<impl Future<Output = ()>> {
        Some(async move {
            let _ = stream.write_all(b"x").await;
            let _ = stream.read(&mut [0]).await;
        })
    }

    async fn greeted(address: SocketAddr) -> Option<TcpStream> {
        let mut stream = TcpStream::connect(address).await.ok()?;
        let byte = tokio::time::timeout(Duration::from_secs(5), stream.read_u8()).await;
        byte.expect("an answer or an end").ok().map(|_| stream)
    }

    async fn closed(stream: &mut TcpStream) -> bool {
        let end = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut [0])).await;
        end.is_ok_and(|read| read.map_or(true, |length| length == 0))
    }

    struct Failing(TcpListener, AtomicUsize);

    impl Incoming for Failing {
        async fn next(&self) -> io::Result<(TcpStream, SocketAddr)> {
            match self.1.fetch_add(1, Ordering::Relaxed) {
                0 => Err(io::Error::from_raw_os_error(nix::libc::EMFILE)),
                1 => Err(io::Error::from_raw_os_error(nix::libc::ECONNABORTED)),
                _ => self.0.accept().await,
            }
        }
    }

    #[tokio::test]
    async fn errors_of_accept_do_not_end_it() {
        let (listener, address) = listener().await;
        let (_drain, terms) = terms(1024);
        let _running = tokio::spawn(run(terms, Failing(listener, AtomicUsize::new(0)), greet));
        assert!(greeted(address).await.is_some());
    }

    #[tokio::test]
    async fn a_peer_has_its_share_and_gets_it_back() {
        let (listener, address) = listener().await;
        let (_drain, terms) = terms(1024);
        let _running = tokio::spawn(run(terms, Arc::new(listener), greet));
        let mut held = Vec::new();
        while let Some(stream) = greeted(address).await {
            held.push(stream);
            assert!(held.len() < 1000, "no end of it");
        }
        held.clear();
        let again = async { while greeted(address).await.is_none() {} };
        tokio::time::timeout(Duration::from_secs(5), again).await.expect("admitted again");
    }

    #[tokio::test]
    async fn a_dropped_listener_closes_its_connections() {
        let (listener, address) = listener().await;
        let (_drain, terms) = terms(1024);
        let running = tokio::spawn(run(terms, Arc::new(listener), greet));
        let mut stream = greeted(address).await.expect("greeted");
        running.abort();
        assert!(closed(&mut stream).await);
        assert!(greeted(address).await.is_none());
    }

    #[tokio::test]
    async fn a_draining_listener_refuses_and_finishes() {
        let (listener, address) = listener().await;
        let (drain, terms) = terms(1024);
        let running = tokio::spawn(run(terms, Arc::new(listener), greet));
        let stream = greeted(address).await.expect("greeted");
        drain.send_replace(true);
        let refused = async { while TcpStream::connect(address).await.is_ok() {} };
        tokio::time::timeout(Duration::from_secs(5), refused).await.expect("closed");
        assert!(!running.is_finished(), "a connection is left");
        drop(stream);
        tokio::time::timeout(Duration::from_secs(5), running).await.expect("ended").expect("no panic");
    }
}

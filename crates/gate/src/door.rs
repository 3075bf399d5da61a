//! The front door of a cluster: TCP to the API server, whose own TLS it is.
//!
//! # Guarantees
//! - A new connection waits while the API server is being started or replaced ([`PATIENCE`]); it is not refused.
//! - `publicAccessCidrs` and the endpoint switches hold for whoever comes from outside the cluster's VPC.
//! - However many connections wait, one at a time knocks at the API server ([`Way`]).

use crate::Gate;
use crate::accept::{self, Terms};
use crate::splice::splice;
use ekstra_domain::eks::{Cluster, ControlPlaneSlot, INTERNAL_ADDRESS, Listener, Site};
use ekstra_domain::names::keys;
use ekstra_domain::prefix::Prefix;
use ekstra_host::netns;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// How long a connection is held for an API server.
const PATIENCE: Duration = Duration::from_secs(30);
/// In TLS, and in HTTP, the client speaks first; one that says nothing is not worth a second descriptor.
const HELLO_PATIENCE: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(20);
/// A frozen API server takes no more connections and refuses none.
const ATTEMPT: Duration = Duration::from_secs(1);

/// The way to one server, shared by everybody who wants to go it.
#[derive(Debug)]
pub(crate) struct Way {
    /// `None` is the host's.
    namespace: Option<String>,
    address: SocketAddr,
    patience: Duration,
    /// Whose turn it is to knock.
    turn: Mutex<()>,
}

impl Way {
    pub(crate) fn to_api_server(site: &Site) -> Self {
        Self {
            namespace: site.namespace().map(str::to_owned),
            address: site.address(Listener::ApiServer),
            patience: PATIENCE,
            turn: Mutex::default(),
        }
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        let deadline = Instant::now() + self.patience;
        let turn = timeout_at(deadline + ATTEMPT, self.turn.lock()).await?;
        loop {
            let attempt = timeout(ATTEMPT, netns::connect(self.namespace.as_deref(), self.address));
            match attempt.await.map_err(io::Error::from).flatten() {
                Err(_) if Instant::now() < deadline => sleep(RETRY).await,
                outcome => {
                    drop(turn);
                    return outcome;
                }
            }
        }
    }
}

pub(crate) async fn serve(
    terms: Terms,
    gate: Gate,
    slot: String,
    way: Arc<Way>,
    from: SocketAddr,
    listener: Arc<TcpListener>,
) {
    accept::run(terms, listener, |stream, peer| {
        let slot = gate.view.get_as::<ControlPlaneSlot>(&keys::slot(&slot))?;
        let admitted = from.ip() == INTERNAL_ADDRESS || admits(&gate, &slot, peer.ip());
        admitted.then(|| forward(stream, way.clone()))
    })
    .await;
}

/// A listener inside the cluster's VPC, where every address may come in.
pub(crate) async fn serve_inside(terms: Terms, way: Arc<Way>, listener: Arc<TcpListener>) {
    accept::run(terms, listener, |stream, _| Some(forward(stream, way.clone()))).await;
}

fn admits(gate: &Gate, slot: &ControlPlaneSlot, peer: IpAddr) -> bool {
    let Some(cluster) = gate.view.get_as::<Cluster>(&slot.cluster) else {
        return false;
    };
    let IpAddr::V4(peer) = peer else { return false };
    let listed = |cidr: &String| cidr.parse::<Prefix>().is_ok_and(|c| c.contains(peer));
    cluster.vpc.public_access && cluster.vpc.public_cidrs.iter().any(listed)
}

/// Whether the client has said something, before long.
pub(crate) async fn speaks(client: &TcpStream) -> bool {
    matches!(timeout(HELLO_PATIENCE, client.peek(&mut [0])).await, Ok(Ok(1)))
}

async fn forward(client: TcpStream, way: Arc<Way>) {
    if speaks(&client).await
        && let Ok(server) = way.connect().await
    {
        splice(client, server).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// An address where nobody listens yet.
    async fn vacant() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        listener.local_addr().expect("bound")
    }

    fn way(address: SocketAddr, patience: Duration) -> Arc<Way> {
        Arc::new(Way { namespace: None, address, patience, turn: Mutex::default() })
    }

    async fn echo(listener: TcpListener) {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    }

    #[tokio::test]
    async fn connections_wait_for_the_server_and_one_of_them_knocks() {
        let address = vacant().await;
        let way = way(address, Duration::from_secs(20));
        let waiting: Vec<_> = (0..50)
            .map(|_| {
                let way = way.clone();
                tokio::spawn(async move { way.connect().await })
            })
            .collect();
        while way.turn.try_lock().is_ok() {
            tokio::task::yield_now().await;
        }
        assert!(waiting.iter().all(|task| !task.is_finished()));
        tokio::spawn(echo(TcpListener::bind(address).await.expect("bound")));
        for task in waiting {
            task.await.expect("no panic").expect("connected");
        }
    }

    #[tokio::test]
    async fn patience_ends_for_all_at_their_own_time() {
        let way = way(vacant().await, Duration::from_millis(200));
        let began = Instant::now();
        let tasks: Vec<_> = (0..5)
            .map(|_| {
                let way = way.clone();
                tokio::spawn(async move { way.connect().await.is_err() })
            })
            .collect();
        for task in tasks {
            assert!(task.await.expect("no panic"));
        }
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn what_the_client_said_while_it_waited_arrives() {
        let (server, door) = (vacant().await, TcpListener::bind("127.0.0.1:0").await.expect("bound"));
        let at = door.local_addr().expect("bound");
        let (_drain, terms) = crate::accept::tests::terms(1024);
        tokio::spawn(serve_inside(terms, way(server, Duration::from_secs(20)), Arc::new(door)));
        let mut client = TcpStream::connect(at).await.expect("connected");
        client.write_all(b"hello").await.expect("sent");
        tokio::spawn(echo(TcpListener::bind(server).await.expect("bound")));
        let mut answer = [0; 5];
        client.read_exact(&mut answer).await.expect("answered");
        assert_eq!(&answer, b"hello");
    }
}

//! Load balancers of Services: a connection to one of their ports goes to a healthy target, in turn.
//!
//! # Guarantees
//! - A target that takes no connection is passed over, and the next one tried, before the client hears of it.
//! - Health is looked at from the VPC's router, where nodes and pods are reached, and known to nobody but this process.

use crate::Gate;
use crate::accept::{self, Terms};
use crate::splice::splice;
use ekstra_domain::ec2::Vpc;
use ekstra_domain::elb::{HealthCheck, LoadBalancer, candidates};
use ekstra_domain::names::keys;
use ekstra_host::netns;
use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

/// Between two looks at the targets. A target is passed over after one that failed: connections tell sooner anyway.
const CHECK_EVERY: Duration = Duration::from_secs(2);
/// Within a machine, what takes longer does not answer.
const ATTEMPT: Duration = Duration::from_secs(1);
/// Targets that one connection tries.
const TRIES: usize = 3;

/// One balancer, shared by its listeners.
#[derive(Debug)]
pub(crate) struct Balancer {
    key: String,
    unhealthy: Mutex<BTreeSet<SocketAddrV4>>,
    turn: AtomicUsize,
}

impl Balancer {
    /// Looks after its targets for as long as anybody has it.
    pub(crate) fn start(gate: Gate, key: String) -> Arc<Self> {
        let balancer = Arc::new(Self { key, unhealthy: Mutex::default(), turn: AtomicUsize::new(0) });
        tokio::spawn(look_after(gate, Arc::downgrade(&balancer)));
        balancer
    }

    fn unhealthy(&self) -> std::sync::MutexGuard<'_, BTreeSet<SocketAddrV4>> {
        self.unhealthy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, target: SocketAddrV4, healthy: bool) {
        let mut unhealthy = self.unhealthy();
        if healthy {
            unhealthy.remove(&target)
        } else {
            unhealthy.insert(target)
        };
    }

    fn choose(&self, targets: &[SocketAddrV4]) -> Vec<SocketAddrV4> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let unhealthy = self.unhealthy();
        let mut chosen = candidates(targets, |target| !unhealthy.contains(target), turn);
        chosen.truncate(TRIES);
        chosen
    }
}

async fn look_after(gate: Gate, balancer: Weak<Balancer>) {
    while let Some(balancer) = balancer.upgrade() {
        if let Some(record) = gate.view.get_as::<LoadBalancer>(&balancer.key)
            && let Some(router) = router(&gate, &record)
        {
            let targets: BTreeSet<SocketAddrV4> =
                record.ports.iter().flat_map(|port| port.targets.iter().copied()).collect();
            balancer.unhealthy().retain(|target| targets.contains(target));
            let checks = targets.iter().map(|target| async {
                balancer.note(*target, is_healthy(&router, *target, record.health).await);
            });
            futures::future::join_all(checks).await;
        }
        drop(balancer);
        tokio::time::sleep(CHECK_EVERY).await;
    }
}

async fn is_healthy(router: &str, target: SocketAddrV4, check: HealthCheck) -> bool {
    let looked = match check {
        HealthCheck::Connect => timeout(ATTEMPT, connect(router, target)).await.map(|stream| stream.is_ok()),
        HealthCheck::Http { port } => {
            let at = SocketAddrV4::new(*target.ip(), port);
            timeout(ATTEMPT, answers_ok(router, at)).await.map(|answer| answer.unwrap_or(false))
        }
    };
    looked.unwrap_or(false)
}

async fn answers_ok(router: &str, at: SocketAddrV4) -> io::Result<bool> {
    let mut stream = connect(router, at).await?;
    stream.write_all(format!("GET /healthz HTTP/1.0\r\nHost: {at}\r\n\r\n").as_bytes()).await?;
    let mut start = [0; 12];
    stream.read_exact(&mut start).await?;
    // `HTTP/1.x 200`
    Ok(start.ends_with(b" 200"))
}

async fn connect(router: &str, target: SocketAddrV4) -> io::Result<TcpStream> {
    let namespace = router.to_owned();
    let socket = tokio::task::spawn_blocking(move || netns::tcp_socket(&namespace));
    let socket = TcpSocket::from_std_stream(socket.await.map_err(io::Error::other)??.into());
    let stream = socket.connect(SocketAddr::V4(target)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Where nodes and pods of the balancer's VPC are reached.
fn router(gate: &Gate, balancer: &LoadBalancer) -> Option<String> {
    let vpc: Vpc = gate.view.get_as(&keys::vpc(&balancer.scope, &balancer.vpc))?;
    Some(format!("{}vpc-{}", gate.facts.namespace_prefix, vpc.number?))
}

pub(crate) async fn serve(
    terms: Terms,
    gate: Gate,
    balancer: Arc<Balancer>,
    port: u16,
    listener: Arc<TcpListener>,
) {
    accept::run(terms, listener, |stream, peer| {
        let record = gate.view.get_as::<LoadBalancer>(&balancer.key)?;
        let IpAddr::V4(from) = peer.ip() else { return None };
        let targets = record.ports.iter().find(|p| p.port == port).map(|p| p.targets.clone())?;
        let router = router(&gate, &record)?;
        let balancer = balancer.clone();
        let forwarding = async move { forward(&balancer, &router, &targets, stream).await };
        record.admits(from).then_some(forwarding)
    })
    .await;
}

async fn forward(balancer: &Balancer, router: &str, targets: &[SocketAddrV4], client: TcpStream) {
    for target in balancer.choose(targets) {
        match timeout(ATTEMPT, connect(router, target)).await {
            Ok(Ok(server)) => return splice(client, server).await,
            Ok(Err(_)) | Err(_) => balancer.note(target, false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(last: u8) -> SocketAddrV4 {
        SocketAddrV4::new([172, 31, 0, last].into(), 30080)
    }

    #[test]
    fn a_target_that_failed_is_passed_over_until_it_is_well() {
        let balancer = Balancer { key: "k".into(), unhealthy: Mutex::default(), turn: AtomicUsize::new(0) };
        let targets = [target(1), target(2)];
        let first = |balancer: &Balancer| balancer.choose(&targets)[0];
        assert_ne!(first(&balancer), first(&balancer), "in turn");
        balancer.note(target(1), false);
        assert_eq!([first(&balancer), first(&balancer)], [target(2), target(2)]);
        balancer.note(target(2), false);
        assert_ne!(first(&balancer), first(&balancer), "none is well: all are tried");
        balancer.note(target(1), true);
        assert_eq!([first(&balancer), first(&balancer)], [target(1), target(1)]);
    }
}

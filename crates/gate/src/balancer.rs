//! Load balancers of Services: a connection to one of their ports goes to a healthy target, in turn.
//!
//! # Guarantees
//! - A target that takes no connection is passed over, and the next one tried, before the client hears of it.
//! - Health is looked at from the VPC's router, where nodes and pods are reached, and known to nobody but this process.

use crate::Gate;
use crate::accept::{self, Terms};
use crate::limits::Limits;
use crate::splice::splice;
use ekstra_domain::ec2::Vpc;
use ekstra_domain::elb::{HealthCheck, LoadBalancer, candidates};
use ekstra_domain::names::keys;
use ekstra_host::netns;
use futures::stream::{self, StreamExt};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// Between two looks at targets that are not known to be well. One is passed over after a look that failed.
const CHECK_EVERY: Duration = Duration::from_secs(2);
/// Those that are well are looked at every so many times, as at AWS (10 s): connections tell sooner anyway.
const WELL_EVERY: u32 = 5;
/// Looks at once: each has a thread for a moment.
const CHECKS_AT_ONCE: usize = 16;
/// Within a machine, what takes longer does not answer.
const ATTEMPT: Duration = Duration::from_secs(1);
/// A new Service has its address before every node has heard of it: a connection waits so long for a target that takes it.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(100);
/// Targets that one connection tries in a row.
const TRIES: usize = 3;

/// One balancer, shared by its listeners.
#[derive(Debug)]
pub(crate) struct Balancer {
    key: String,
    /// Of all its listeners together.
    pub(crate) limits: Limits,
    unhealthy: Mutex<BTreeSet<SocketAddrV4>>,
    turn: AtomicUsize,
}

impl Balancer {
    /// Looks after its targets for as long as anybody has it.
    pub(crate) fn start(gate: Gate, key: String, limits: Limits) -> Arc<Self> {
        let balancer = Arc::new(Self::new(key, limits));
        tokio::spawn(look_after(gate, Arc::downgrade(&balancer)));
        balancer
    }

    fn new(key: String, limits: Limits) -> Self {
        Self { key, limits, unhealthy: Mutex::default(), turn: AtomicUsize::new(0) }
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
    let mut well = BTreeSet::new();
    for round in 0_u32.. {
        let Some(balancer) = balancer.upgrade() else { return };
        if let Some(record) = gate.view.get_as::<LoadBalancer>(&balancer.key)
            && let Some(router) = router(&gate, &record)
        {
            let targets: BTreeSet<SocketAddrV4> =
                record.ports.iter().flat_map(|port| port.targets.iter().copied()).collect();
            balancer.unhealthy().retain(|target| targets.contains(target));
            if round.is_multiple_of(WELL_EVERY) {
                well.clear();
            }
            let due = targets.into_iter().filter(|target| !well.contains(target));
            for (target, is_well) in look(&router, due, record.health).await {
                balancer.note(target, is_well);
                if is_well {
                    well.insert(target);
                }
            }
        }
        drop(balancer);
        tokio::time::sleep(CHECK_EVERY).await;
    }
}

/// Asks each place once, whoever of the targets it speaks for.
async fn look(
    router: &str,
    targets: impl Iterator<Item = SocketAddrV4>,
    check: HealthCheck,
) -> Vec<(SocketAddrV4, bool)> {
    let asked = |target: &SocketAddrV4| match check {
        HealthCheck::Connect => *target,
        HealthCheck::Http { port } => SocketAddrV4::new(*target.ip(), port),
    };
    let mut places = BTreeMap::<SocketAddrV4, Vec<SocketAddrV4>>::new();
    for target in targets {
        places.entry(asked(&target)).or_default().push(target);
    }
    let looks = places.into_iter().map(|(at, targets)| async move {
        let is_well = is_healthy(router, at, check).await;
        targets.into_iter().map(move |target| (target, is_well)).collect::<Vec<_>>()
    });
    stream::iter(looks).buffer_unordered(CHECKS_AT_ONCE).concat().await
}

async fn is_healthy(router: &str, at: SocketAddrV4, check: HealthCheck) -> bool {
    let looked = match check {
        HealthCheck::Connect => timeout(ATTEMPT, connect(router, at)).await.map(|stream| stream.is_ok()),
        HealthCheck::Http { .. } => {
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
    netns::connect(Some(router), SocketAddr::V4(target)).await
}

fn vpc(gate: &Gate, balancer: &LoadBalancer) -> Option<Vpc> {
    gate.view.get_as(&keys::vpc(&balancer.scope, &balancer.vpc))
}

/// Where nodes and pods of the balancer's VPC are reached.
fn router(gate: &Gate, balancer: &LoadBalancer) -> Option<String> {
    let vpc = vpc(gate, balancer)?;
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
        // Whoever is not of the VPC is this host, by whatever address it came.
        let is_host = !vpc(&gate, &record)?.cidr.contains(from);
        let is_admitted = record.admits(from) || (is_host && record.admits(Ipv4Addr::LOCALHOST));
        is_admitted.then_some(forwarding)
    })
    .await;
}

async fn forward(balancer: &Balancer, router: &str, targets: &[SocketAddrV4], client: TcpStream) {
    let begun = Instant::now();
    loop {
        for target in balancer.choose(targets) {
            match timeout(ATTEMPT, connect(router, target)).await {
                Ok(Ok(server)) => return splice(client, server).await,
                Ok(Err(_)) | Err(_) => balancer.note(target, false),
            }
        }
        if targets.is_empty() || begun.elapsed() >= PATIENCE {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{Budget, Kind};

    fn target(last: u8) -> SocketAddrV4 {
        SocketAddrV4::new([172, 31, 0, last].into(), 30080)
    }

    #[test]
    fn a_target_that_failed_is_passed_over_until_it_is_well() {
        let limits = Budget::new(1024).limits(Kind::Balancers, true);
        let balancer = Balancer::new("k".into(), limits);
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

//! How many connections each kind of listener may hold: of one peer, of one listener, and of all its kind.
//!
//! Invariant: what all kinds together may hold fits into the process's descriptors, with a quarter to spare for the
//! listeners themselves. So whoever uses up the metadata service or the registry never takes a door or a webhook away.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Doors,
    Webhooks,
    Metadata,
    Names,
    Images,
    Endpoints,
    Balancers,
}

impl Kind {
    const ALL: [Self; 7] = [
        Self::Doors,
        Self::Webhooks,
        Self::Metadata,
        Self::Names,
        Self::Images,
        Self::Endpoints,
        Self::Balancers,
    ];

    /// Sixteenths of the usable descriptors, and how many of them one connection takes.
    const fn share(self) -> (u64, u64) {
        match self {
            Self::Doors => (6, 2),
            Self::Webhooks | Self::Metadata => (1, 1),
            Self::Names | Self::Images | Self::Endpoints | Self::Balancers => (2, 2),
        }
    }
}

/// More than anybody has needed; memory is finite too.
const MOST: u64 = 16_384;

/// Connections of one pod or node to the AWS endpoint. SDKs keep ten or so each.
const ENDPOINT_OF_PEER: usize = 64;

#[derive(Clone, Debug)]
pub(crate) struct Budget {
    pools: [Pool; Kind::ALL.len()],
}

#[derive(Clone, Debug)]
struct Pool {
    size: usize,
    left: Arc<Semaphore>,
}

impl Budget {
    /// `descriptors` is the process's limit.
    pub(crate) fn new(descriptors: u64) -> Self {
        let usable = descriptors / 4 * 3;
        let pools = Kind::ALL.map(|kind| {
            let (sixteenths, each) = kind.share();
            let size = (usable * sixteenths / 16 / each).clamp(8, MOST);
            let size = usize::try_from(size).unwrap_or(usize::MAX);
            Pool { size, left: Arc::new(Semaphore::new(size)) }
        });
        Self { pools }
    }

    /// For one listener; `many_peers` where an address stands for one client, and not for all of this machine.
    pub(crate) fn limits(&self, kind: Kind, many_peers: bool) -> Limits {
        let pool = &self.pools[kind as usize];
        let most = pool.size.div_ceil(2);
        Limits {
            of_kind: pool.left.clone(),
            of_listener: Arc::new(Semaphore::new(most)),
            of_peer: match kind {
                // The service behind it has places of its own, fewer than a pod could take here.
                Kind::Endpoints => most.min(ENDPOINT_OF_PEER),
                _ if many_peers => most.div_ceil(4),
                _ => most,
            },
            peers: Peers::default(),
        }
    }
}

/// What one listener may hold.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    of_kind: Arc<Semaphore>,
    of_listener: Arc<Semaphore>,
    of_peer: usize,
    peers: Peers,
}

impl Limits {
    /// `None` when the peer has as much as one peer may have. Waits while all are in use: the listener's queue in the
    /// kernel holds whoever comes then, and listeners of a kind take turns.
    pub(crate) async fn admit(&self, peer: IpAddr) -> Option<Permit> {
        let peer = self.peers.enter(peer, self.of_peer)?;
        // Semaphores that are never closed.
        let listener = self.of_listener.clone().acquire_owned().await.ok()?;
        let kind = self.of_kind.clone().acquire_owned().await.ok()?;
        Some(Permit { _peer: peer, _listener: listener, _kind: kind })
    }

    /// Without waiting.
    pub(crate) fn try_admit(&self, peer: IpAddr) -> Option<Permit> {
        let peer = self.peers.enter(peer, self.of_peer)?;
        let listener = self.of_listener.clone().try_acquire_owned().ok()?;
        let kind = self.of_kind.clone().try_acquire_owned().ok()?;
        Some(Permit { _peer: peer, _listener: listener, _kind: kind })
    }
}

/// Held for as long as the connection.
#[derive(Debug)]
pub(crate) struct Permit {
    _peer: Entered,
    _listener: OwnedSemaphorePermit,
    _kind: OwnedSemaphorePermit,
}

#[derive(Clone, Debug, Default)]
struct Peers(Arc<Mutex<HashMap<IpAddr, usize>>>);

impl Peers {
    fn enter(&self, peer: IpAddr, most: usize) -> Option<Entered> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.get(&peer).copied().unwrap_or_default();
        if count >= most {
            return None;
        }
        counts.insert(peer, count + 1);
        Some(Entered { peers: self.clone(), peer })
    }
}

#[derive(Debug)]
struct Entered {
    peers: Peers,
    peer: IpAddr,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut counts = self.peers.0.lock().unwrap_or_else(PoisonError::into_inner);
        match counts.get_mut(&self.peer) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(counts.remove(&self.peer)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn peer(last: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 0, 0, last))
    }

    #[test]
    fn all_kinds_together_fit_into_the_descriptors() {
        for descriptors in [1024, 4096, 20_000, 1_048_576] {
            let budget = Budget::new(descriptors);
            let taken: u64 =
                Kind::ALL.iter().map(|k| budget.pools[*k as usize].size as u64 * k.share().1).sum();
            assert!(taken <= descriptors / 4 * 3, "{taken} of {descriptors}");
        }
    }

    #[test]
    fn one_peer_leaves_room_for_another_and_one_kind_for_the_others() {
        let budget = Budget::new(1024);
        let metadata = budget.limits(Kind::Metadata, true);
        let held: Vec<_> = std::iter::from_fn(|| metadata.try_admit(peer(1))).collect();
        assert!(!held.is_empty());
        assert!(metadata.try_admit(peer(1)).is_none());
        let all: Vec<_> = (2..=255).filter_map(|last| metadata.try_admit(peer(last))).collect();
        assert!(!all.is_empty(), "another peer of the same listener is admitted");
        assert!(metadata.try_admit(peer(3)).is_none(), "the listener is full");
        assert!(budget.limits(Kind::Metadata, true).try_admit(peer(1)).is_some(), "another VPC's is not");
        assert!(budget.limits(Kind::Doors, true).try_admit(peer(1)).is_some());
        drop(held);
        assert!(metadata.try_admit(peer(1)).is_some(), "what ended is given back");
    }

    #[tokio::test]
    async fn a_full_listener_admits_as_soon_as_a_connection_ends() {
        let limits = Budget::new(1024).limits(Kind::Webhooks, false);
        let mut held: Vec<_> = std::iter::from_fn(|| limits.try_admit(peer(1))).collect();
        let waiting = limits.admit(peer(2));
        tokio::pin!(waiting);
        assert!(futures::poll!(&mut waiting).is_pending());
        held.pop();
        assert!(waiting.await.is_some());
    }
}

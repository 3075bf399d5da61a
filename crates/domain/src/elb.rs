//! Load balancers of Services: an address of this machine, and what stands behind each of its ports.

use crate::names::Scope;
use crate::prefix::Prefix;
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, SocketAddrV4};

/// One port, and who answers there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BalancedPort {
    pub port: u16,
    /// Nodes at a node port, or pods.
    pub targets: Vec<SocketAddrV4>,
}

/// How a target shows that it may be given connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum HealthCheck {
    /// It accepts a connection.
    Connect,
    /// `GET /healthz` at this port of the target answers 200: kube-proxy's word that the node has a pod of the Service
    /// (`externalTrafficPolicy: Local`).
    Http { port: u16 },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoadBalancer {
    /// Sixteen hex digits.
    pub id: String,
    pub scope: Scope,
    pub vpc: String,
    /// The Service's uid, its cluster's uid, and what both are called.
    pub service_uid: String,
    pub cluster_uid: String,
    pub service: String,
    pub address: Ipv4Addr,
    /// Resolved in the VPC.
    pub dns_name: String,
    pub ports: Vec<BalancedPort>,
    pub health: HealthCheck,
    /// Who may connect; everybody when empty.
    pub source_ranges: Vec<Prefix>,
    pub deleting: bool,
}

impl LoadBalancer {
    /// Shaped like AWS's names of network load balancers.
    pub fn dns_name(id: &str, region: &str) -> String {
        format!(
            "k8s-{}-{}.elb.{region}.amazonaws.com",
            &id[..id.len().min(8)],
            id.get(8..).unwrap_or_default()
        )
    }

    pub fn admits(&self, peer: Ipv4Addr) -> bool {
        self.source_ranges.is_empty() || self.source_ranges.iter().any(|range| range.contains(peer))
    }
}

/// The lowest address of a home's range that nobody has; the first is the range's own.
pub fn free_address(range: Prefix, taken: &[Ipv4Addr]) -> Option<Ipv4Addr> {
    let last = u32::try_from(range.size()).unwrap_or(u32::MAX).saturating_sub(1);
    (1..last).filter_map(|n| range.nth(n)).find(|address| !taken.contains(address))
}

/// The target of the `turn`th connection, and those to try after it: the healthy ones in turn; all of them when none is,
/// as AWS's network load balancers do.
pub fn candidates(
    targets: &[SocketAddrV4],
    is_healthy: impl Fn(&SocketAddrV4) -> bool,
    turn: usize,
) -> Vec<SocketAddrV4> {
    let healthy: Vec<SocketAddrV4> = targets.iter().copied().filter(|target| is_healthy(target)).collect();
    let mut chosen = if healthy.is_empty() { targets.to_vec() } else { healthy };
    if !chosen.is_empty() {
        let first = turn % chosen.len();
        chosen.rotate_left(first);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(last: u8) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::new(172, 31, 0, last), 30080)
    }

    #[test]
    fn healthy_targets_take_turns_and_without_any_all_do() {
        let targets = [target(1), target(2), target(3)];
        let healthy = |t: &SocketAddrV4| *t != target(2);
        assert_eq!(candidates(&targets, healthy, 0), [target(1), target(3)]);
        assert_eq!(candidates(&targets, healthy, 1), [target(3), target(1)]);
        assert_eq!(candidates(&targets, healthy, 2), [target(1), target(3)]);
        assert_eq!(candidates(&targets, |_| false, 4), [target(2), target(3), target(1)]);
        assert!(candidates(&[], healthy, 7).is_empty());
    }

    #[test]
    fn addresses_are_used_again_and_run_out() {
        let range: Prefix = "198.19.1.0/29".parse().expect("valid");
        let mut taken = Vec::new();
        while let Some(address) = free_address(range, &taken) {
            taken.push(address);
        }
        assert_eq!(taken.len(), 6);
        assert_eq!(taken[0], Ipv4Addr::new(198, 19, 1, 1));
        taken.remove(2);
        assert_eq!(free_address(range, &taken), Some(Ipv4Addr::new(198, 19, 1, 3)));
    }

    #[test]
    fn names_fit_into_a_label() {
        let name = LoadBalancer::dns_name("0123456789abcdef", "eu-west-1");
        assert_eq!(name, "k8s-01234567-89abcdef.elb.eu-west-1.amazonaws.com");
    }
}

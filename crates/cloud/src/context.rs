//! What every operation and reconciler is given.

use ekstra_domain::iam::MasterKey;
use ekstra_domain::prefix::Prefix;
use ekstra_engine::Env;
use ekstra_store::Store;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

/// Facts of one service that never change after its first start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Four hex digits; part of every global name.
    pub home_id: String,
    /// The service is not root: control planes run on the host's loopback, and there are no nodes.
    #[serde(default)]
    pub rootless: bool,
    /// The service's link-local address; without root, 127.0.0.1.
    pub address: Ipv4Addr,
    /// Of the AWS endpoint.
    pub port: u16,
    /// Of the image registry that nodes use.
    pub registry_port: u16,
    /// First port of the clusters' front doors.
    pub first_cluster_port: u16,
    /// The uplinks' addresses: a /24 of 198.18.0.0/15, two for each VPC.
    pub transit: Prefix,
    pub mtu: u32,
    /// Answered when a request names no region.
    pub region: String,
}

impl Settings {
    /// Addresses of load balancers: the half of 198.18.0.0/15 that has no uplinks, the /24 with this home's number.
    pub fn balancers(&self) -> Prefix {
        let [_, _, number, _] = self.transit.base().octets();
        Prefix::new(Ipv4Addr::new(198, 19, number, 0), 24)
    }
}

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Cloud {
    pub store: Store,
    pub env: Env,
    pub master: MasterKey,
    pub settings: Arc<Settings>,
    pub home: PathBuf,
    /// Read by whoever makes a router or hangs a link on it, written by whoever takes an unused one away: between
    /// finding it unused and removing it nobody may start to use it.
    pub router_use: Arc<tokio::sync::RwLock<()>>,
}

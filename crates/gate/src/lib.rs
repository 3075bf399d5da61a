//! The data side of the service: what clusters, nodes and pods hang on while they run. Front doors, token webhooks,
//! instance metadata, name resolution, images.
//!
//! Invariant: it writes nothing to the store. So it can be killed and started again at any moment, and goes on working
//! when `serve` is dead. Its listeners are derived from the followed state and from the namespaces that exist.

mod accept;
mod admission;
mod authorizer;
mod balancer;
mod door;
mod endpoint;
#[cfg(test)]
mod fixture;
mod handover;
mod http;
mod identity;
mod limits;
mod listeners;
mod metadata;
mod registry;
mod resolver;
mod scope;
mod splice;
mod watched;
mod webhook;

use ekstra_domain::eks::{Cluster, ControlPlaneSlot};
use ekstra_domain::iam::MasterKey;
use ekstra_domain::names::keys;
use ekstra_host::descriptors::raise_descriptors;
use ekstra_images::registry::Registry;
use ekstra_store::{Revision, View};
use handover::Predecessor;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::watch;
pub use watched::Watched;

/// Facts that never change while it runs.
#[derive(Clone, Debug)]
pub struct Facts {
    pub address: Ipv4Addr,
    /// Of the AWS endpoint.
    pub port: u16,
    pub registry_port: u16,
    /// `ekstra-<home id>-`, as all of the home's namespaces begin.
    pub namespace_prefix: String,
    pub home: PathBuf,
}

/// What every listener is given; cheap to clone.
#[derive(Clone, Debug)]
pub struct Gate {
    pub view: View,
    pub master: MasterKey,
    pub facts: Arc<Facts>,
    pub images: Registry,
}

impl Gate {
    /// Whose control plane it is.
    fn cluster_of(&self, slot: &str) -> Option<Cluster> {
        let slot: ControlPlaneSlot = self.view.get_as(&keys::slot(slot))?;
        self.view.get_as(&slot.cluster)
    }
}

/// Takes over from the home's present gate, if there is one, and serves until a successor does the same, or the shutdown
/// comes. An error says that the present gate has something and did not give it; it goes on.
pub async fn run(
    gate: Gate,
    head: watch::Receiver<Revision>,
    mut shutdown: watch::Receiver<bool>,
) -> io::Result<()> {
    let descriptors = raise_descriptors()?;
    let path = handover::path(&gate.facts.home);
    let mut listeners = listeners::Listeners::new(gate, limits::Budget::new(descriptors));
    let asked = path.clone();
    let predecessor = tokio::task::spawn_blocking(move || Predecessor::ask(&asked));
    if let Some((predecessor, sockets)) = predecessor.await.map_err(io::Error::other)?? {
        tracing::info!(sockets = sockets.len(), "taking over");
        listeners.adopt(sockets);
        predecessor.taken()?;
    }
    let successors = handover::listen(&path)?;
    tracing::info!(descriptors, "the data side serves");
    tokio::select! {
        () = listeners.follow(head, successors) => {}
        _ = shutdown.wait_for(|stop| *stop) => {}
    }
    Ok(())
}

/// Where `serve` takes the connections of nodes and pods to the AWS endpoint, each with a frame of
/// [`ekstra_host::descriptors`].
pub fn endpoint_path(home: &Path) -> PathBuf {
    home.join("run/endpoint.sock")
}

/// Whether the gate that runs in this home waits for a successor.
pub fn hands_over(home: &Path) -> bool {
    handover::path(home).exists()
}

/// Whether the gate that runs in this home says nothing though it takes connections. Blocks, for seconds at most.
pub fn is_silent(home: &Path) -> bool {
    let silences = [io::ErrorKind::TimedOut, io::ErrorKind::WouldBlock];
    handover::ping(&handover::path(home)).is_err_and(|error| silences.contains(&error.kind()))
}

fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

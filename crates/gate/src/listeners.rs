//! Which listeners there should be, and keeping it so.
//!
//! Invariant: a listener is known by what it serves and by the identity of its namespace; so a namespace that was made
//! anew under an old name gets new listeners.

use crate::{Gate, door, metadata, registry, resolver, webhook};
use ekstra_domain::ec2::{METADATA_ADDRESS, Vpc};
use ekstra_domain::eks::{ControlPlaneSlot, INTERNAL_ADDRESS, TOKEN_WEBHOOK_PORT};
use ekstra_domain::names::keys;
use ekstra_host::netns;
use ekstra_store::Revision;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Listeners that could not be opened are tried again this often.
const RETRY: Duration = Duration::from_millis(100);
/// Namespaces come and go without a change of the state.
const RESYNC: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    Door {
        slot: String,
    },
    Webhook {
        slot: String,
    },
    Metadata {
        vpc: String,
    },
    Names {
        vpc: String,
    },
    Images,
    /// The AWS endpoint, for nodes and pods.
    Endpoint,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// Name, and which of that name; `None` is the host's.
    namespace: Option<(String, netns::Identity)>,
    address: SocketAddr,
    role: Role,
}

#[derive(Debug)]
pub(crate) struct Listeners {
    gate: Gate,
    running: BTreeMap<Place, JoinHandle<()>>,
}

impl Drop for Listeners {
    fn drop(&mut self) {
        self.running.values().for_each(JoinHandle::abort);
    }
}

impl Listeners {
    pub(crate) fn new(gate: Gate) -> Self {
        Self { gate, running: BTreeMap::new() }
    }

    pub(crate) async fn follow(&mut self, mut head: watch::Receiver<Revision>) {
        loop {
            head.borrow_and_update();
            let wait = if self.adjust().await { RESYNC } else { RETRY };
            let _ = tokio::time::timeout(wait, head.changed()).await;
        }
    }

    /// `false` when something could not be opened.
    async fn adjust(&mut self) -> bool {
        let wanted = self.wanted();
        self.running.retain(|place, task| {
            let keep = wanted.contains(place) && !task.is_finished();
            if !keep {
                task.abort();
            }
            keep
        });
        let mut complete = true;
        for place in wanted {
            if self.running.contains_key(&place) {
                continue;
            }
            match open(&self.gate, &place).await {
                Ok(task) => {
                    self.running.insert(place, task);
                }
                Err(error) => {
                    complete = false;
                    tracing::debug!(?place, %error, "not yet");
                }
            }
        }
        complete
    }

    fn wanted(&self) -> Vec<Place> {
        let facts = &self.gate.facts;
        let vpcs: Vec<Vpc> = self.gate.view.list_as(keys::VPCS).into_iter().map(|(_, vpc)| vpc).collect();
        let routers: BTreeMap<String, (String, netns::Identity)> = vpcs
            .iter()
            .filter_map(|vpc| {
                let name = format!("{}vpc-{}", facts.namespace_prefix, vpc.number?);
                Some((vpc.id.clone(), (name.clone(), netns::identity(&name)?)))
            })
            .collect();
        let mut places = Vec::new();
        for (_, slot) in self.gate.view.list_as::<ControlPlaneSlot>(keys::SLOTS) {
            self.add_slot(&slot, &routers, &mut places);
        }
        for vpc in &vpcs {
            if let Some(router) = routers.get(&vpc.id) {
                self.add_router(vpc, router, &mut places);
            }
        }
        places
    }

    fn add_slot(
        &self,
        slot: &ControlPlaneSlot,
        routers: &BTreeMap<String, (String, netns::Identity)>,
        places: &mut Vec<Place>,
    ) {
        let role = Role::Door { slot: slot.id.clone() };
        for address in [Ipv4Addr::LOCALHOST, INTERNAL_ADDRESS, self.gate.facts.address] {
            places.push(Place { namespace: None, address: at(address, slot.port), role: role.clone() });
        }
        if let Some(router) = routers.get(&slot.vpc) {
            let address = at(self.gate.facts.address, slot.port);
            places.push(Place { namespace: Some(router.clone()), address, role });
        }
        if let Some(identity) = netns::identity(&slot.namespace) {
            places.push(Place {
                namespace: Some((slot.namespace.clone(), identity)),
                address: at(Ipv4Addr::LOCALHOST, TOKEN_WEBHOOK_PORT),
                role: Role::Webhook { slot: slot.id.clone() },
            });
        }
    }

    fn add_router(&self, vpc: &Vpc, router: &(String, netns::Identity), places: &mut Vec<Place>) {
        let facts = &self.gate.facts;
        let listeners = [
            (at(METADATA_ADDRESS, 80), Role::Metadata { vpc: vpc.id.clone() }),
            (at(vpc.resolver(), 53), Role::Names { vpc: vpc.id.clone() }),
            (at(facts.address, facts.registry_port), Role::Images),
            (at(facts.address, facts.port), Role::Endpoint),
        ];
        places.extend(listeners.map(|(address, role)| Place {
            namespace: Some(router.clone()),
            address,
            role,
        }));
    }
}

fn at(address: Ipv4Addr, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(address), port)
}

async fn open(gate: &Gate, place: &Place) -> io::Result<JoinHandle<()>> {
    let listener = listen(place)?;
    let gate = gate.clone();
    Ok(match place.role.clone() {
        Role::Door { slot } => {
            tokio::spawn(door::serve(gate, slot, place.address, place.namespace.is_some(), listener))
        }
        Role::Webhook { slot } => tokio::spawn(webhook::serve(gate, slot, listener)),
        Role::Metadata { vpc } => tokio::spawn(metadata::serve(gate, vpc, listener)),
        Role::Images => tokio::spawn(registry::serve(gate, listener)),
        Role::Endpoint => tokio::spawn(door::forward_endpoint(gate, listener)),
        Role::Names { vpc } => {
            let socket = bind(place)?;
            tokio::spawn(resolver::serve(gate, vpc, listener, socket))
        }
    })
}

fn listen(place: &Place) -> io::Result<TcpListener> {
    let listener = match &place.namespace {
        Some((name, _)) => netns::listen_tcp(name, place.address)?,
        None => std::net::TcpListener::bind(place.address)?,
    };
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

fn bind(place: &Place) -> io::Result<UdpSocket> {
    let socket = match &place.namespace {
        Some((name, _)) => netns::bind_udp(name, place.address)?,
        None => std::net::UdpSocket::bind(place.address)?,
    };
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

//! Which listeners there should be, and keeping it so.
//!
//! Invariant: a listener is known by what it serves and by the inode of its namespace; so a namespace that was made
//! anew under an old name gets new listeners. **Invariant:** a listener that should not be there any more is dropped,
//! and its connections with it.

use crate::accept::Terms;
use crate::door::Way;
use crate::limits::{Budget, Kind};
use crate::{Gate, door, metadata, registry, resolver, webhook};
use ekstra_domain::ec2::{METADATA_ADDRESS, Vpc};
use ekstra_domain::eks::{ControlPlaneSlot, INTERNAL_ADDRESS, TOKEN_WEBHOOK_PORT};
use ekstra_domain::names::keys;
use ekstra_host::netns;
use ekstra_store::Revision;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
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
    /// Over UDP.
    Names {
        vpc: String,
    },
    /// Over TCP.
    LongNames {
        vpc: String,
    },
    Images,
    /// The AWS endpoint, for nodes and pods.
    Endpoint,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// Name and inode; `None` is the host's.
    namespace: Option<(String, u64)>,
    address: SocketAddr,
    role: Role,
}

impl Role {
    fn kind(&self) -> Kind {
        match self {
            Self::Door { .. } => Kind::Doors,
            Self::Webhook { .. } => Kind::Webhooks,
            Self::Metadata { .. } => Kind::Metadata,
            Self::Names { .. } | Self::LongNames { .. } => Kind::Names,
            Self::Images => Kind::Images,
            Self::Endpoint => Kind::Endpoints,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let namespace = self.namespace.as_ref().map_or("host", |(name, _)| name);
        write!(f, "{:?} at {} in {namespace}", self.role, self.address)
    }
}

#[derive(Debug)]
pub(crate) struct Listeners {
    gate: Gate,
    budget: Budget,
    running: BTreeMap<Place, JoinHandle<()>>,
    /// By slot; the doors of a slot have one in common.
    ways: BTreeMap<String, Arc<Way>>,
    to_endpoint: Arc<Way>,
    drain: watch::Sender<bool>,
}

impl Drop for Listeners {
    fn drop(&mut self) {
        self.running.values().for_each(JoinHandle::abort);
    }
}

impl Listeners {
    pub(crate) fn new(gate: Gate, budget: Budget) -> Self {
        let endpoint = at(gate.facts.address, gate.facts.port);
        Self {
            gate,
            budget,
            running: BTreeMap::new(),
            ways: BTreeMap::new(),
            to_endpoint: Arc::new(Way::to_endpoint(endpoint)),
            drain: watch::Sender::new(false),
        }
    }

    pub(crate) async fn follow(&mut self, mut head: watch::Receiver<Revision>) {
        loop {
            head.borrow_and_update();
            let wait = if self.adjust() { RESYNC } else { RETRY };
            let _ = tokio::time::timeout(wait, head.changed()).await;
        }
    }

    /// `false` when something could not be opened.
    fn adjust(&mut self) -> bool {
        let wanted = self.wanted();
        self.running.retain(|place, task| {
            if task.is_finished() {
                tracing::error!(%place, "a listener ended by itself; opening it again");
                return false;
            }
            let keep = wanted.contains(place);
            if !keep {
                task.abort();
            }
            keep
        });
        self.ways.retain(|_, way| Arc::strong_count(way) > 1);
        let mut complete = true;
        for place in wanted {
            if self.running.contains_key(&place) {
                continue;
            }
            match open(&place).and_then(|socket| self.start(&place, socket)) {
                Ok(task) => drop(self.running.insert(place, task)),
                Err(error) => {
                    complete = false;
                    tracing::debug!(%place, %error, "not yet");
                }
            }
        }
        complete
    }

    fn start(&mut self, place: &Place, socket: OwnedFd) -> io::Result<JoinHandle<()>> {
        // On the host and in a control plane everybody has the same few addresses.
        let many_peers = place.namespace.is_some() && !matches!(place.role, Role::Webhook { .. });
        let terms = Terms {
            name: place.to_string(),
            limits: self.budget.limits(place.role.kind(), many_peers),
            drain: self.drain.subscribe(),
        };
        let gate = self.gate.clone();
        Ok(match place.role.clone() {
            Role::Door { slot } => {
                let (way, from) = (self.way(&slot), place.address);
                match place.namespace {
                    Some(_) => tokio::spawn(door::serve_inside(terms, way, tcp(socket)?)),
                    None => tokio::spawn(door::serve(terms, gate, slot, way, from, tcp(socket)?)),
                }
            }
            Role::Webhook { slot } => tokio::spawn(webhook::serve(terms, gate, slot, tcp(socket)?)),
            Role::Metadata { vpc } => tokio::spawn(metadata::serve(terms, gate, vpc, tcp(socket)?)),
            Role::Names { vpc } => tokio::spawn(resolver::serve_udp(terms, gate, vpc, udp(socket)?)),
            Role::LongNames { vpc } => tokio::spawn(resolver::serve_tcp(terms, gate, vpc, tcp(socket)?)),
            Role::Images => tokio::spawn(registry::serve(terms, gate, tcp(socket)?)),
            Role::Endpoint => tokio::spawn(door::serve_inside(terms, self.to_endpoint.clone(), tcp(socket)?)),
        })
    }

    /// To the API server of a slot; where its namespace is does not change.
    fn way(&mut self, slot: &str) -> Arc<Way> {
        let gate = &self.gate;
        let way = self.ways.entry(slot.to_owned()).or_insert_with(|| {
            let record = gate.view.get_as::<ControlPlaneSlot>(&keys::slot(slot));
            Arc::new(Way::to_api_server(record.map(|slot| slot.namespace).unwrap_or_default()))
        });
        way.clone()
    }

    fn wanted(&self) -> Vec<Place> {
        let facts = &self.gate.facts;
        let vpcs: Vec<Vpc> = self.gate.view.list_as(keys::VPCS).into_iter().map(|(_, vpc)| vpc).collect();
        let routers: BTreeMap<String, (String, u64)> = vpcs
            .iter()
            .filter_map(|vpc| {
                let name = format!("{}vpc-{}", facts.namespace_prefix, vpc.number);
                Some((vpc.id.clone(), (name.clone(), inode(&name)?)))
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
        routers: &BTreeMap<String, (String, u64)>,
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
        if let Some(inode) = inode(&slot.namespace) {
            places.push(Place {
                namespace: Some((slot.namespace.clone(), inode)),
                address: at(Ipv4Addr::LOCALHOST, TOKEN_WEBHOOK_PORT),
                role: Role::Webhook { slot: slot.id.clone() },
            });
        }
    }

    fn add_router(&self, vpc: &Vpc, router: &(String, u64), places: &mut Vec<Place>) {
        let facts = &self.gate.facts;
        let listeners = [
            (at(METADATA_ADDRESS, 80), Role::Metadata { vpc: vpc.id.clone() }),
            (at(vpc.resolver(), 53), Role::Names { vpc: vpc.id.clone() }),
            (at(vpc.resolver(), 53), Role::LongNames { vpc: vpc.id.clone() }),
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

fn inode(namespace: &str) -> Option<u64> {
    // A file that no namespace is mounted on lies on the directory's own device.
    let directory = std::fs::metadata(netns::RUN_NETNS).ok()?;
    let file = std::fs::metadata(netns::path(namespace)).ok()?;
    (file.dev() != directory.dev()).then(|| file.ino())
}

fn open(place: &Place) -> io::Result<OwnedFd> {
    Ok(match (&place.role, &place.namespace) {
        (Role::Names { .. }, Some((name, _))) => netns::bind_udp(name, place.address)?.into(),
        (Role::Names { .. }, None) => std::net::UdpSocket::bind(place.address)?.into(),
        (_, Some((name, _))) => netns::listen_tcp(name, place.address)?.into(),
        (_, None) => std::net::TcpListener::bind(place.address)?.into(),
    })
}

fn tcp(socket: OwnedFd) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::from(socket);
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

fn udp(socket: OwnedFd) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::from(socket);
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

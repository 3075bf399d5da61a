//! Which listeners there should be, and keeping it so.
//!
//! Invariant: a listener is known by what it serves and by the identity of its namespace; so a namespace that was made
//! anew under an old name gets new listeners. **Invariant:** a listener that should not be there any more is dropped,
//! and its connections with it.

use crate::accept::Terms;
use crate::balancer::{self, Balancer};
use crate::door::Way;
use crate::handover::Given;
use crate::limits::{Budget, Kind};
use crate::{Gate, door, endpoint, handover, metadata, registry, resolver, webhook};
use ekstra_domain::ec2::{METADATA_ADDRESS, Vpc};
use ekstra_domain::eks::{ControlPlaneSlot, INTERNAL_ADDRESS, Listener as Listens, Site};
use ekstra_domain::elb::LoadBalancer;
use ekstra_domain::names::keys;
use ekstra_host::netns;
use ekstra_store::Revision;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, UdpSocket, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// Listeners that could not be opened are tried again this often.
const RETRY: Duration = Duration::from_millis(100);
/// Namespaces come and go without a change of the state.
const RESYNC: Duration = Duration::from_secs(1);
/// What could not be opened for so long is told, and tried again less often.
const LATE: Duration = Duration::from_secs(10);
/// What is under way when a successor takes over may go on for so long: a `kubectl exec` to its end, mostly.
const RETIREMENT: Duration = Duration::from_secs(5 * 60);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Role {
    Door {
        slot: String,
    },
    Webhook {
        slot: String,
    },
    /// The same, for what the API server asks by TLS alone.
    TlsWebhook {
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
    /// A port of a Service's load balancer, by the balancer's key.
    Balancer {
        balancer: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Place {
    /// Name, and which of that name; `None` is the host's.
    namespace: Option<(String, netns::Identity)>,
    address: SocketAddr,
    role: Role,
}

impl Role {
    fn kind(&self) -> Kind {
        match self {
            Self::Door { .. } => Kind::Doors,
            Self::Webhook { .. } | Self::TlsWebhook { .. } => Kind::Webhooks,
            Self::Metadata { .. } => Kind::Metadata,
            Self::Names { .. } | Self::LongNames { .. } => Kind::Names,
            Self::Images => Kind::Images,
            Self::Endpoint => Kind::Endpoints,
            Self::Balancer { .. } => Kind::Balancers,
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
    running: BTreeMap<Place, Listener>,
    /// By slot; the doors of a slot have one in common.
    ways: BTreeMap<String, Arc<Way>>,
    /// By key; the ports of a balancer have one in common.
    balancers: BTreeMap<String, Arc<Balancer>>,
    /// Of listeners that cannot be opened, since when.
    missing: BTreeMap<Place, Missing>,
    drain: watch::Sender<bool>,
}

#[derive(Debug)]
struct Missing {
    since: Instant,
    told: bool,
}

#[derive(Debug)]
struct Listener {
    task: JoinHandle<()>,
    /// For a successor; the task has it too.
    socket: Socket,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone, Debug)]
enum Socket {
    Tcp(Arc<TcpListener>),
    Udp(Arc<UdpSocket>),
    /// It is the successor's.
    Given,
}

impl Listeners {
    pub(crate) fn new(gate: Gate, budget: Budget) -> Self {
        Self {
            gate,
            budget,
            running: BTreeMap::new(),
            ways: BTreeMap::new(),
            balancers: BTreeMap::new(),
            missing: BTreeMap::new(),
            drain: watch::Sender::new(false),
        }
    }

    /// What a predecessor had, as far as it is still wanted.
    pub(crate) fn adopt(&mut self, sockets: Vec<Given>) {
        let wanted = self.wanted();
        for (place, socket) in sockets {
            if wanted.contains(&place)
                && let Err(error) = self.start(place.clone(), socket)
            {
                tracing::warn!(%place, %error, "a predecessor's listener is of no use; opening it anew");
            }
        }
    }

    /// Keeps the listeners that there should be, until a successor has them and what was under way has ended.
    pub(crate) async fn follow(&mut self, mut head: watch::Receiver<Revision>, successors: UnixListener) {
        loop {
            head.borrow_and_update();
            let wait = if self.adjust() { RESYNC } else { RETRY };
            tokio::select! {
                () = change(&mut head, wait) => {}
                Ok((stream, _)) = successors.accept() => match self.give(stream).await {
                    Ok(true) => break,
                    Ok(false) => {}
                    Err(error) => tracing::warn!(%error, "a successor did not take over; going on"),
                },
            }
        }
        drop(successors);
        self.retire(&mut head).await;
    }

    async fn give(&self, stream: UnixStream) -> io::Result<bool> {
        let stream = stream.into_std()?;
        let sockets: Vec<Given> = self
            .running
            .iter()
            .filter_map(|(place, listener)| Some((place.clone(), listener.socket.duplicate()?)))
            .collect();
        let given = tokio::task::spawn_blocking(move || handover::give(stream, &sockets));
        given.await.map_err(io::Error::other)?
    }

    async fn retire(&mut self, head: &mut watch::Receiver<Revision>) {
        tracing::info!("a successor has the listeners; finishing what is under way");
        self.drain.send_replace(true);
        self.running.values_mut().for_each(|listener| listener.socket = Socket::Given);
        let deadline = Instant::now() + RETIREMENT;
        loop {
            let wanted = self.wanted();
            self.running.retain(|place, listener| !listener.task.is_finished() && wanted.contains(place));
            if self.running.is_empty() || Instant::now() >= deadline {
                return;
            }
            change(head, RETRY).await;
        }
    }

    /// `false` when something could not be opened.
    fn adjust(&mut self) -> bool {
        let wanted = self.wanted();
        self.running.retain(|place, listener| {
            let ended = listener.task.is_finished();
            if ended {
                tracing::error!(%place, "a listener ended by itself; opening it again");
            }
            !ended && wanted.contains(place)
        });
        self.ways.retain(|_, way| Arc::strong_count(way) > 1);
        self.balancers.retain(|_, balancer| Arc::strong_count(balancer) > 1);
        self.missing.retain(|place, _| wanted.contains(place));
        let mut complete = true;
        for place in wanted {
            if self.running.contains_key(&place) {
                continue;
            }
            match open(&place).and_then(|socket| self.start(place.clone(), socket)) {
                Ok(()) => drop(self.missing.remove(&place)),
                Err(error) => complete &= self.note_missing(&place, &error),
            }
        }
        complete
    }

    /// Whether it has been missing for so long that nobody hurries any more. Its address or its namespace is being made
    /// when it begins.
    fn note_missing(&mut self, place: &Place, error: &io::Error) -> bool {
        let new = || Missing { since: Instant::now(), told: false };
        let missing = self.missing.entry(place.clone()).or_insert_with(new);
        let is_late = missing.since.elapsed() >= LATE;
        if is_late && !missing.told {
            tracing::warn!(%place, %error, "cannot be opened; trying again");
        }
        missing.told |= is_late;
        is_late
    }

    fn start(&mut self, place: Place, socket: OwnedFd) -> io::Result<()> {
        let socket = Socket::of(&place, socket)?;
        // On the host and in a control plane everybody has the same few addresses.
        let many_peers = place.namespace.is_some() && place.role.kind() != Kind::Webhooks;
        let terms = Terms {
            name: place.to_string(),
            limits: self.budget.limits(place.role.kind(), many_peers),
            drain: self.drain.subscribe(),
        };
        let gate = self.gate.clone();
        let task = match (place.role.clone(), socket.clone()) {
            (Role::Door { slot }, Socket::Tcp(tcp)) => {
                let (way, from) = (self.way(&slot)?, place.address);
                match place.namespace {
                    Some(_) => tokio::spawn(door::serve_inside(terms, way, tcp)),
                    None => tokio::spawn(door::serve(terms, gate, slot, way, from, tcp)),
                }
            }
            (Role::Webhook { slot }, Socket::Tcp(tcp)) => {
                let tls = place.namespace.is_none().then(|| self.acceptor(&slot)).transpose()?;
                tokio::spawn(webhook::serve(terms, gate, slot, tls, tcp))
            }
            (Role::TlsWebhook { slot }, Socket::Tcp(tcp)) => {
                let tls = Some(self.acceptor(&slot)?);
                tokio::spawn(webhook::serve(terms, gate, slot, tls, tcp))
            }
            (Role::Metadata { vpc }, Socket::Tcp(tcp)) => {
                tokio::spawn(metadata::serve(terms, gate, vpc, tcp))
            }
            (Role::Names { vpc }, Socket::Udp(udp)) => {
                tokio::spawn(resolver::serve_udp(terms, gate, vpc, udp))
            }
            (Role::LongNames { vpc }, Socket::Tcp(tcp)) => {
                tokio::spawn(resolver::serve_tcp(terms, gate, vpc, tcp))
            }
            (Role::Images, Socket::Tcp(tcp)) => tokio::spawn(registry::serve(terms, gate, tcp)),
            (Role::Endpoint, Socket::Tcp(tcp)) => {
                let service = crate::endpoint_path(&self.gate.facts.home);
                tokio::spawn(endpoint::serve(terms, service, tcp))
            }
            (Role::Balancer { balancer }, Socket::Tcp(tcp)) => {
                let (balancer, port) = (self.balancer(&balancer), place.address.port());
                // All ports of a balancer share what one listener of others has.
                let terms = Terms { limits: balancer.limits.clone(), ..terms };
                tokio::spawn(balancer::serve(terms, gate, balancer, port, tcp))
            }
            (_, Socket::Tcp(_) | Socket::Udp(_) | Socket::Given) => {
                return Err(io::ErrorKind::Unsupported.into());
            }
        };
        self.running.insert(place, Listener { task, socket });
        Ok(())
    }

    fn acceptor(&self, slot: &str) -> io::Result<TlsAcceptor> {
        webhook::acceptor(&self.gate.facts.home.join("slots").join(slot).join("pki"))
    }

    /// To the API server of a slot; where its namespace is does not change.
    fn way(&mut self, slot: &str) -> io::Result<Arc<Way>> {
        if let Some(way) = self.ways.get(slot) {
            return Ok(way.clone());
        }
        let record = self.gate.view.get_as::<ControlPlaneSlot>(&keys::slot(slot));
        let way = Arc::new(Way::to_api_server(&record.ok_or(io::ErrorKind::NotFound)?.site));
        self.ways.insert(slot.to_owned(), way.clone());
        Ok(way)
    }

    fn balancer(&mut self, key: &str) -> Arc<Balancer> {
        let (gate, budget) = (&self.gate, &self.budget);
        let started = || Balancer::start(gate.clone(), key.to_owned(), budget.limits(Kind::Balancers, true));
        self.balancers.entry(key.to_owned()).or_insert_with(started).clone()
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
        for (key, balancer) in self.gate.view.list_as::<LoadBalancer>(keys::BALANCERS) {
            add_balancer(&key, &balancer, &routers, &mut places);
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
        let namespace = match &slot.site {
            Site::OnHost { .. } => Some(None),
            // Not before it is there.
            Site::Apart { namespace } => netns::identity(namespace).map(|it| Some((namespace.clone(), it))),
        };
        let Some(namespace) = namespace else { return };
        let (token, admission) =
            (slot.site.address(Listens::TokenWebhook), slot.site.address(Listens::Admission));
        if admission != token {
            let role = Role::TlsWebhook { slot: slot.id.clone() };
            places.push(Place { namespace: namespace.clone(), address: admission, role });
        }
        places.push(Place { namespace, address: token, role: Role::Webhook { slot: slot.id.clone() } });
    }

    fn add_router(&self, vpc: &Vpc, router: &(String, netns::Identity), places: &mut Vec<Place>) {
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

/// In the VPC's router alone, to which the host has a route.
fn add_balancer(
    key: &str,
    balancer: &LoadBalancer,
    routers: &BTreeMap<String, (String, netns::Identity)>,
    places: &mut Vec<Place>,
) {
    if balancer.deleting {
        return;
    }
    let Some(router) = routers.get(&balancer.vpc) else { return };
    for port in &balancer.ports {
        let role = Role::Balancer { balancer: key.to_owned() };
        let address = at(balancer.address, port.port);
        places.push(Place { namespace: Some(router.clone()), address, role });
    }
}

fn at(address: Ipv4Addr, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(address), port)
}

fn open(place: &Place) -> io::Result<OwnedFd> {
    Ok(match (&place.role, &place.namespace) {
        (Role::Names { .. }, Some((name, _))) => netns::bind_udp(name, place.address)?.into(),
        (Role::Names { .. }, None) => std::net::UdpSocket::bind(place.address)?.into(),
        (_, Some((name, _))) => netns::listen_tcp(name, place.address)?.into(),
        (_, None) => std::net::TcpListener::bind(place.address)?.into(),
    })
}

impl Socket {
    fn of(place: &Place, socket: OwnedFd) -> io::Result<Self> {
        if matches!(place.role, Role::Names { .. }) {
            let socket = std::net::UdpSocket::from(socket);
            socket.set_nonblocking(true)?;
            return Ok(Self::Udp(Arc::new(UdpSocket::from_std(socket)?)));
        }
        let listener = std::net::TcpListener::from(socket);
        listener.set_nonblocking(true)?;
        Ok(Self::Tcp(Arc::new(TcpListener::from_std(listener)?)))
    }

    fn duplicate(&self) -> Option<OwnedFd> {
        match self {
            Self::Tcp(listener) => listener.as_fd().try_clone_to_owned().ok(),
            Self::Udp(socket) => socket.as_fd().try_clone_to_owned().ok(),
            Self::Given => None,
        }
    }
}

/// Until the state changes, at most so long.
async fn change(head: &mut watch::Receiver<Revision>, most: Duration) {
    let changed = async {
        if head.changed().await.is_err() {
            // Nobody follows the state any more; that is no reason to hurry.
            std::future::pending::<()>().await;
        }
    };
    let _ = tokio::time::timeout(most, changed).await;
}

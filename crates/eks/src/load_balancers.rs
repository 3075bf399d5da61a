//! Services of type LoadBalancer: each gets an address of this machine, and nodes or pods behind it.
//!
//! What EKS's cloud controller and the AWS Load Balancer Controller do for network load balancers, as far as it has a
//! meaning here. In-cluster clients never come this far: kube-proxy answers for the address on every node.
//!
//! Invariant: a Service that has a balancer has our finalizer, so no address outlives the Service; and one whose
//! finalizer was taken away loses its balancer when that is seen.

mod mirror;
mod targets;

use crate::controller::{Controller, Outcome, Place, Trouble};
use crate::finalizers::{add_finalizer, drop_finalizer};
use ekstra_cloud::elb::{self, Wanted};
use ekstra_domain::ec2::{Instance, Vpc};
use ekstra_domain::elb::{BalancedPort, HealthCheck, LoadBalancer};
use ekstra_domain::names::keys;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Node, ObjectReference, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::core::PartialObjectMeta;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::watcher::Event as Seen;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Resource, ResourceExt};
use mirror::Mirror;
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";
/// Classes of AWS's controllers; a Service of none is ours too.
const CLASSES: [&str; 2] = ["service.k8s.aws/nlb", "eks.amazonaws.com/nlb"];
/// `ip`: to pods instead of node ports, as the AWS Load Balancer Controller reads it.
const TARGET_TYPE: &str = "service.beta.kubernetes.io/aws-load-balancer-nlb-target-type";
/// `hostname`: the Service's status has a name, as at AWS; it is resolved in the VPC. Else an address, which works
/// everywhere on this machine.
const ADDRESS_KIND: &str = "ekstra.dev/load-balancer-status";
const SERVICE_OF_SLICE: &str = "kubernetes.io/service-name";
/// Listeners of a network load balancer at AWS.
const MOST_PORTS: usize = 50;

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    namespace: String,
    name: String,
}

impl Key {
    fn new(namespace: Option<String>, name: String) -> Self {
        Self { namespace: namespace.unwrap_or_default(), name }
    }

    /// As balancers record it.
    fn parse(text: &str) -> Option<Self> {
        let (namespace, name) = text.split_once('/')?;
        Some(Self { namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What the watches have shown.
#[derive(Debug, Default)]
struct Known {
    /// The provider's names of nodes that take traffic.
    nodes: Mirror<String>,
    /// Services that want a balancer.
    services: Mirror<Key>,
}

impl Known {
    /// Services to look at because of what was seen of one.
    fn see_service(&mut self, event: &Seen<Service>, recorded: impl FnOnce() -> Vec<Key>) -> Vec<Key> {
        let key = |service: &Service| Key::new(service.namespace(), service.name_any());
        let wanted = |service: &Service| is_wanted(service).then(|| key(service));
        self.services.note(event, |service| key(service).to_string(), wanted);
        match event {
            Seen::Apply(service) | Seen::InitApply(service) | Seen::Delete(service) => vec![key(service)],
            Seen::Init => Vec::new(),
            // Some may have gone while nobody looked.
            Seen::InitDone => recorded(),
        }
    }

    /// And of a node.
    fn see_node(&mut self, event: &Seen<Node>) -> Vec<Key> {
        if !self.nodes.note(event, |node| node.name_any(), targets::target) {
            return Vec::new();
        }
        self.services.current().map(|services| services.values().cloned().collect()).unwrap_or_default()
    }

    fn wants(&self, key: &Key) -> bool {
        self.services.current().is_some_and(|services| services.contains_key(&key.to_string()))
    }
}

/// One for every cluster that is up.
pub(crate) struct LoadBalancers {
    place: Place,
    events: Recorder,
    known: Arc<Mutex<Known>>,
}

fn lock(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Controller for LoadBalancers {
    type Key = Key;
    const NAME: &'static str = "load-balancers";

    fn new(place: Place) -> Self {
        let reporter = Reporter { controller: "service-controller".into(), instance: None };
        Self { events: Recorder::new(place.client.clone(), reporter), known: Arc::default(), place }
    }

    fn watch(&self) -> BoxStream<'static, Result<Key, watcher::Error>> {
        let client = &self.place.client;
        let all = watcher::Config::default;
        let (known, place) = (self.known.clone(), self.place.clone());
        let services = watcher(Api::<Service>::all(client.clone()), all()).default_backoff();
        let services = services.map_ok(move |event| {
            let recorded = || recorded(&place).filter_map(|b| Key::parse(&b.service)).collect();
            lock(&known).see_service(&event, recorded)
        });
        let known = self.known.clone();
        let nodes = watcher(Api::<Node>::all(client.clone()), all()).default_backoff();
        let nodes = nodes.map_ok(move |event| lock(&known).see_node(&event));
        let known = self.known.clone();
        let slices: Api<PartialObjectMeta<EndpointSlice>> = Api::all(client.clone());
        let slices = watcher(slices, all()).default_backoff();
        let slices = slices.touched_objects().map_ok(move |slice| {
            let service = slice.labels().get(SERVICE_OF_SLICE).cloned();
            let key = service.map(|name| Key::new(slice.namespace(), name));
            key.filter(|key| lock(&known).wants(key)).into_iter().collect()
        });
        let keys: [BoxStream<'static, Result<Vec<Key>, watcher::Error>>; 3] =
            [services.boxed(), nodes.boxed(), slices.boxed()];
        stream::select_all(keys).map_ok(|keys| stream::iter(keys.into_iter().map(Ok))).try_flatten().boxed()
    }

    fn step(&self, key: Key) -> BoxFuture<'_, Result<Outcome, Trouble>> {
        async move { self.service(&key).await }.boxed()
    }

    fn concerns(changed: &str) -> bool {
        changed.starts_with(keys::BALANCERS)
    }
}

/// The cluster's balancers.
fn recorded(place: &Place) -> impl Iterator<Item = LoadBalancer> {
    let all = place.eks.cloud.store.view().list_as(&keys::scoped(keys::BALANCERS, &place.cluster.scope));
    let uid = place.cluster.uid.clone();
    all.into_iter().map(|(_, balancer): (_, LoadBalancer)| balancer).filter(move |b| b.cluster_uid == uid)
}

impl LoadBalancers {
    async fn service(&self, key: &Key) -> Result<Outcome, Trouble> {
        let services: Api<Service> = Api::namespaced(self.place.client.clone(), &key.namespace);
        let service = services.get_opt(&key.name).await?;
        self.clear(key, service.as_ref().and_then(|service| service.uid())).await?;
        let Some(service) = service else { return Ok(Outcome::Settled) };
        if !is_wanted(&service) {
            return self.release(&services, &service).await;
        }
        let step = self.provide(&services, &service, key).await;
        if let Err(Trouble::Refused(why)) = &step {
            let about = service.object_ref(&());
            self.tell(&about, EventType::Warning, "SyncLoadBalancerFailed", why.clone()).await;
        }
        step
    }

    /// Ends balancers of Services that had this name and are gone, with nobody having waited for us.
    async fn clear(&self, key: &Key, uid: Option<String>) -> Result<(), Trouble> {
        let name = key.to_string();
        let is_stale = |b: &LoadBalancer| b.service == name && Some(&b.service_uid) != uid.as_ref();
        if recorded(&self.place).any(|balancer| is_stale(&balancer) && !balancer.deleting) {
            let cluster = &self.place.cluster;
            let of_cluster = |b: &LoadBalancer| b.cluster_uid == cluster.uid && is_stale(b);
            elb::remove(&self.place.eks.cloud, &cluster.scope, of_cluster).await?;
        }
        Ok(())
    }

    async fn provide(
        &self,
        services: &Api<Service>,
        service: &Service,
        key: &Key,
    ) -> Result<Outcome, Trouble> {
        let cluster = &self.place.cluster;
        if self.place.eks.cloud.settings.rootless {
            return Err(Trouble::refused(
                "this service runs without root, and the addresses of load balancers need it",
            ));
        }
        let Some(ports) = self.ports(service, key).await? else { return Ok(Outcome::Waiting) };
        let has_targets = ports.iter().any(|port| !port.targets.is_empty());
        let wanted = Wanted {
            scope: cluster.scope.clone(),
            vpc: cluster.vpc.vpc.clone(),
            service_uid: service.uid().unwrap_or_default(),
            cluster_uid: cluster.uid.clone(),
            service: key.to_string(),
            ports,
            health: health(service),
            source_ranges: source_ranges(service).map_err(Trouble::refused)?,
        };
        add_finalizer(services, service, FINALIZER).await?;
        let balancer = elb::ensure(&self.place.eks.cloud, wanted).await?;
        if balancer.deleting {
            return Ok(Outcome::Waiting);
        }
        let ingress = ingress(service, &balancer);
        if self.has(service, &ingress) {
            return Ok(Outcome::Settled);
        }
        let status = json!({"status": {"loadBalancer": {"ingress": [ingress]}}});
        services.patch_status(&service.name_any(), &PatchParams::default(), &Patch::Merge(status)).await?;
        let (about, note) =
            (service.object_ref(&()), format!("Ensured load balancer at {}", balancer.address));
        self.tell(&about, EventType::Normal, "EnsuredLoadBalancer", note).await;
        if !has_targets {
            let note = "There are no available nodes for LoadBalancer".to_owned();
            self.tell(&about, EventType::Warning, "UnAvailableLoadBalancer", note).await;
        }
        Ok(Outcome::Settled)
    }

    fn has(&self, service: &Service, ingress: &Value) -> bool {
        let status = service.status.as_ref().and_then(|s| s.load_balancer.as_ref()?.ingress.as_ref());
        let told = status.and_then(|all| all.first()).map(|first| json!(first));
        let same = |key: &str| told.as_ref().and_then(|t| t.get(key)) == ingress.get(key);
        told.is_some() && same("ip") && same("hostname")
    }

    async fn release(&self, services: &Api<Service>, service: &Service) -> Result<Outcome, Trouble> {
        let (cloud, scope) = (&self.place.eks.cloud, &self.place.cluster.scope);
        let uid = service.uid().unwrap_or_default();
        if elb::find(cloud, scope, &uid).is_some() {
            elb::remove(cloud, scope, |balancer| balancer.service_uid == uid).await?;
            return Ok(Outcome::Waiting);
        }
        // The finalizer's name is upstream's: one of another class has its own controller, which put it there.
        if !is_of_our_class(service) || !service.finalizers().iter().any(|f| f == FINALIZER) {
            return Ok(Outcome::Settled);
        }
        if service.metadata.deletion_timestamp.is_none() {
            let status = Patch::Merge(json!({"status": {"loadBalancer": Value::Null}}));
            services.patch_status(&service.name_any(), &PatchParams::default(), &status).await?;
        }
        drop_finalizer(services, service, FINALIZER).await?;
        Ok(Outcome::Settled)
    }

    /// `None` while it is not known which nodes there are.
    async fn ports(&self, service: &Service, key: &Key) -> Result<Option<Vec<BalancedPort>>, Trouble> {
        let ports = service.spec.clone().unwrap_or_default().ports.unwrap_or_default();
        if let Some(other) = ports.iter().find(|p| p.protocol.as_deref().unwrap_or("TCP") != "TCP") {
            let (port, protocol) = (other.port, other.protocol.clone().unwrap_or_default());
            return Err(Trouble::refused(format!(
                "port {port}: {protocol} is not balanced here yet, TCP alone is"
            )));
        }
        if ports.len() > MOST_PORTS {
            let count = ports.len();
            return Err(Trouble::refused(format!("{count} ports; a balancer has {MOST_PORTS} at most")));
        }
        let balanced: Result<Vec<BalancedPort>, String> = if to_pods(service) {
            let (slices, vpc) = (self.slices(key).await?, self.vpc()?);
            ports.iter().map(|port| targets::at_pods(port, &slices, vpc.cidr)).collect()
        } else {
            let Some(nodes) = self.nodes() else { return Ok(None) };
            ports.iter().map(|port| targets::at_nodes(port, &nodes)).collect()
        };
        Ok(Some(balanced.map_err(Trouble::refused)?))
    }

    /// Where nodes are is what their instances' records say, not what nodes say of themselves.
    fn nodes(&self) -> Option<Vec<Ipv4Addr>> {
        let (view, scope) = (self.place.eks.cloud.store.view(), &self.place.cluster.scope);
        let known = lock(&self.known);
        let address = |(name, provider): (&String, &String)| {
            let instance: Instance = view.get_as(&keys::instance(scope, provider.rsplit('/').next()?))?;
            let is_it = instance.private_dns_name == *name && instance.state.is_alive();
            is_it.then_some(instance.address)
        };
        let mut found: Vec<Ipv4Addr> = known.nodes.current()?.iter().filter_map(address).collect();
        found.sort();
        Some(found)
    }

    fn vpc(&self) -> Result<Vpc, Trouble> {
        let (view, cluster) = (self.place.eks.cloud.store.view(), &self.place.cluster);
        let vpc = view.get_as(&keys::vpc(&cluster.scope, &cluster.vpc.vpc));
        vpc.ok_or_else(|| Trouble::refused(format!("{} is not recorded", cluster.vpc.vpc)))
    }

    async fn slices(&self, key: &Key) -> Result<Vec<EndpointSlice>, Trouble> {
        let slices: Api<EndpointSlice> = Api::namespaced(self.place.client.clone(), &key.namespace);
        let own = ListParams::default().labels(&format!("{SERVICE_OF_SLICE}={}", key.name));
        Ok(slices.list(&own).await?.items)
    }

    async fn tell(&self, about: &ObjectReference, type_: EventType, reason: &str, note: String) {
        let event =
            Event { type_, reason: reason.into(), note: Some(note), action: reason.into(), secondary: None };
        if let Err(error) = self.events.publish(&event, about).await {
            tracing::debug!(%error, reason, "an event was not written");
        }
    }
}

fn is_of_our_class(service: &Service) -> bool {
    let class = service.spec.as_ref().and_then(|spec| spec.load_balancer_class.as_deref());
    class.is_none_or(|class| CLASSES.contains(&class))
}

fn is_wanted(service: &Service) -> bool {
    let kind = service.spec.as_ref().and_then(|spec| spec.type_.as_deref());
    service.metadata.deletion_timestamp.is_none() && kind == Some("LoadBalancer") && is_of_our_class(service)
}

fn to_pods(service: &Service) -> bool {
    service.annotations().get(TARGET_TYPE).is_some_and(|kind| kind == "ip")
}

fn ingress(service: &Service, balancer: &LoadBalancer) -> Value {
    match service.annotations().get(ADDRESS_KIND).map(String::as_str) {
        Some("hostname") => json!({"hostname": balancer.dns_name}),
        _ => json!({"ip": balancer.address, "ipMode": "VIP"}),
    }
}

fn health(service: &Service) -> HealthCheck {
    let spec = service.spec.clone().unwrap_or_default();
    let local = spec.external_traffic_policy.as_deref() == Some("Local");
    let port = spec.health_check_node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
    port.filter(|_| local && !to_pods(service))
        .map_or(HealthCheck::Connect, |port| HealthCheck::Http { port })
}

fn source_ranges(service: &Service) -> Result<Vec<ekstra_domain::prefix::Prefix>, String> {
    let ranges = service.spec.as_ref().and_then(|spec| spec.load_balancer_source_ranges.clone());
    let parse = |range: String| range.trim().parse().map_err(|e| format!("loadBalancerSourceRanges: {e}"));
    ranges.unwrap_or_default().into_iter().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(spec: Value, annotations: Value) -> Service {
        serde_json::from_value(json!({"metadata": {"name": "web", "annotations": annotations}, "spec": spec}))
            .expect("a service")
    }

    #[test]
    fn only_ours_are_served() {
        for (spec, ours) in [
            (json!({"type": "LoadBalancer"}), true),
            (json!({"type": "ClusterIP"}), false),
            (json!({"type": "LoadBalancer", "loadBalancerClass": "service.k8s.aws/nlb"}), true),
            (json!({"type": "LoadBalancer", "loadBalancerClass": "metallb.universe.tf/metallb"}), false),
        ] {
            assert_eq!(is_wanted(&service(spec.clone(), json!({}))), ours, "{spec}");
        }
    }

    #[test]
    fn local_traffic_is_checked_where_kube_proxy_says() {
        let local =
            json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 31000});
        assert_eq!(health(&service(local.clone(), json!({}))), HealthCheck::Http { port: 31000 });
        assert_eq!(health(&service(local, json!({TARGET_TYPE: "ip"}))), HealthCheck::Connect);
        assert_eq!(health(&service(json!({"type": "LoadBalancer"}), json!({}))), HealthCheck::Connect);
    }

    #[test]
    fn services_are_looked_at_when_the_nodes_are_others() {
        let wanted = |name: &str| -> Service {
            let spec = json!({"type": "LoadBalancer"});
            serde_json::from_value(json!({"metadata": {"namespace": "n", "name": name}, "spec": spec}))
                .expect("a service")
        };
        let node = |name: &str, heard: &str| -> Node {
            let status =
                json!({"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": heard}]});
            let node = json!({"metadata": {"name": name}, "spec": {"providerID": name}, "status": status});
            serde_json::from_value(node).expect("a node")
        };
        let key = |name: &str| Key { namespace: "n".into(), name: name.into() };
        let mut known = Known::default();
        let gone = || vec![key("gone")];
        assert!(known.see_service(&Seen::Init, gone).is_empty());
        assert_eq!(known.see_service(&Seen::InitApply(wanted("web")), gone), [key("web")]);
        assert!(!known.wants(&key("web")), "not everything has been listed");
        assert_eq!(known.see_service(&Seen::InitDone, gone), [key("gone")]);
        assert!(known.wants(&key("web")));
        known.see_node(&Seen::Init);
        known.see_node(&Seen::InitApply(node("a", "2026-01-01T00:00:00Z")));
        assert_eq!(known.see_node(&Seen::InitDone), [key("web")]);
        let heard = Seen::Apply(node("a", "2026-01-01T00:00:10Z"));
        assert!(known.see_node(&heard).is_empty(), "it only lives");
        assert_eq!(known.see_node(&Seen::Apply(node("b", "2026-01-01T00:00:10Z"))), [key("web")]);
        assert_eq!(known.see_node(&Seen::Delete(node("a", "2026-01-01T00:00:10Z"))), [key("web")]);
    }
}

//! Services of type LoadBalancer: each gets an address of this machine, and nodes or pods behind it.
//!
//! What EKS's cloud controller and the AWS Load Balancer Controller do for network load balancers, as far as it has a
//! meaning here. In-cluster clients never come this far: kube-proxy answers for the address on every node.
//!
//! Invariant: a Service that has a balancer has our finalizer, so no address outlives the Service.

use crate::controller::{Controller, Outcome, Place, Trouble};
use crate::finalizers::{add_finalizer, drop_finalizer};
use ekstra_cloud::elb::{self, Wanted};
use ekstra_domain::elb::{BalancedPort, HealthCheck, LoadBalancer};
use ekstra_domain::names::keys;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Node, ObjectReference, Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddrV4};

const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";
/// Classes of AWS's controllers; a Service of none is ours too.
const CLASSES: [&str; 2] = ["service.k8s.aws/nlb", "eks.amazonaws.com/nlb"];
/// `ip`: to pods instead of node ports, as the AWS Load Balancer Controller reads it.
const TARGET_TYPE: &str = "service.beta.kubernetes.io/aws-load-balancer-nlb-target-type";
/// `hostname`: the Service's status has a name, as at AWS; it is resolved in the VPC. Else an address, which works
/// everywhere on this machine.
const ADDRESS_KIND: &str = "ekstra.dev/load-balancer-status";
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
const SERVICE_OF_SLICE: &str = "kubernetes.io/service-name";

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    Service {
        namespace: String,
        name: String,
    },
    /// Some node changed: every balancer may have other targets.
    Nodes,
}

/// One for every cluster that is up.
pub(crate) struct LoadBalancers {
    place: Place,
    events: Recorder,
}

impl Controller for LoadBalancers {
    type Key = Key;
    const NAME: &'static str = "load-balancers";

    fn new(place: Place) -> Self {
        let reporter = Reporter { controller: "service-controller".into(), instance: None };
        Self { events: Recorder::new(place.client.clone(), reporter), place }
    }

    fn watch(&self) -> BoxStream<'static, Result<Key, watcher::Error>> {
        let client = &self.place.client;
        let key = |namespace: Option<String>, name: String| Key::Service {
            namespace: namespace.unwrap_or_default(),
            name,
        };
        let services = watcher(Api::<Service>::all(client.clone()), watcher::Config::default());
        let services = services.default_backoff().touched_objects();
        let slices = watcher(Api::<EndpointSlice>::all(client.clone()), watcher::Config::default());
        let slices = slices.default_backoff().touched_objects().try_filter_map(move |slice| async move {
            let service = slice.labels().get(SERVICE_OF_SLICE).cloned();
            Ok(service.map(|name| key(slice.namespace(), name)))
        });
        let nodes = watcher(Api::<Node>::all(client.clone()), watcher::Config::default());
        let nodes = nodes.default_backoff().touched_objects();
        stream::select_all([
            services.map_ok(move |service| key(service.namespace(), service.name_any())).boxed(),
            slices.boxed(),
            nodes.map_ok(|_| Key::Nodes).boxed(),
        ])
        .boxed()
    }

    fn step(&self, key: Key) -> BoxFuture<'_, Result<Outcome, Trouble>> {
        async move {
            match key {
                Key::Service { namespace, name } => self.service(&namespace, &name).await,
                Key::Nodes => self.all().await,
            }
        }
        .boxed()
    }

    fn concerns(changed: &str) -> bool {
        changed.starts_with(keys::BALANCERS)
    }
}

impl LoadBalancers {
    async fn all(&self) -> Result<Outcome, Trouble> {
        let services: Api<Service> = Api::all(self.place.client.clone());
        for service in services.list(&ListParams::default()).await?.into_iter().filter(is_wanted) {
            self.service(&service.namespace().unwrap_or_default(), &service.name_any()).await?;
        }
        Ok(Outcome::Settled)
    }

    async fn service(&self, namespace: &str, name: &str) -> Result<Outcome, Trouble> {
        let services: Api<Service> = Api::namespaced(self.place.client.clone(), namespace);
        let Some(service) = services.get_opt(name).await? else { return Ok(Outcome::Settled) };
        if !is_wanted(&service) {
            return self.release(&services, &service).await;
        }
        let step = self.provide(&services, &service, namespace).await;
        if let Err(Trouble::Refused(why)) = &step {
            let about = service.object_ref(&());
            self.tell(&about, EventType::Warning, "SyncLoadBalancerFailed", why.clone()).await;
        }
        step
    }

    async fn provide(
        &self,
        services: &Api<Service>,
        service: &Service,
        namespace: &str,
    ) -> Result<Outcome, Trouble> {
        let cluster = &self.place.cluster;
        let ports = self.ports(service, namespace).await?;
        let wanted = Wanted {
            scope: cluster.scope.clone(),
            vpc: cluster.vpc.vpc.clone(),
            service_uid: service.uid().unwrap_or_default(),
            cluster_uid: cluster.uid.clone(),
            service: format!("{namespace}/{}", service.name_any()),
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
        let note = format!("Ensured load balancer at {}", balancer.address);
        self.tell(&service.object_ref(&()), EventType::Normal, "EnsuredLoadBalancer", note).await;
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
        if !service.finalizers().iter().any(|f| f == FINALIZER) {
            return Ok(Outcome::Settled);
        }
        if service.metadata.deletion_timestamp.is_none() {
            let status = Patch::Merge(json!({"status": {"loadBalancer": Value::Null}}));
            services.patch_status(&service.name_any(), &PatchParams::default(), &status).await?;
        }
        drop_finalizer(services, service, FINALIZER).await?;
        Ok(Outcome::Settled)
    }

    async fn ports(&self, service: &Service, namespace: &str) -> Result<Vec<BalancedPort>, Trouble> {
        let ports = service.spec.clone().unwrap_or_default().ports.unwrap_or_default();
        if let Some(other) = ports.iter().find(|p| p.protocol.as_deref().unwrap_or("TCP") != "TCP") {
            let (port, protocol) = (other.port, other.protocol.clone().unwrap_or_default());
            return Err(Trouble::refused(format!(
                "port {port}: {protocol} is not balanced here yet, TCP alone is"
            )));
        }
        let to_pods = service.annotations().get(TARGET_TYPE).is_some_and(|kind| kind == "ip");
        let (nodes, slices) = match to_pods {
            true => (Vec::new(), self.slices(service, namespace).await?),
            false => (self.nodes().await?, Vec::new()),
        };
        ports.iter().map(|port| balanced(port, to_pods, &nodes, &slices).map_err(Trouble::refused)).collect()
    }

    async fn nodes(&self) -> Result<Vec<Ipv4Addr>, Trouble> {
        let nodes: Api<Node> = Api::all(self.place.client.clone());
        let mut found: Vec<Ipv4Addr> =
            nodes.list(&ListParams::default()).await?.iter().filter_map(target_address).collect();
        found.sort();
        Ok(found)
    }

    async fn slices(&self, service: &Service, namespace: &str) -> Result<Vec<EndpointSlice>, Trouble> {
        let slices: Api<EndpointSlice> = Api::namespaced(self.place.client.clone(), namespace);
        let own = ListParams::default().labels(&format!("{SERVICE_OF_SLICE}={}", service.name_any()));
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

fn is_wanted(service: &Service) -> bool {
    let spec = service.spec.clone().unwrap_or_default();
    let ours = spec.load_balancer_class.is_none_or(|class| CLASSES.contains(&class.as_str()));
    service.metadata.deletion_timestamp.is_none() && spec.type_.as_deref() == Some("LoadBalancer") && ours
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
    let to_pods = service.annotations().get(TARGET_TYPE).is_some_and(|kind| kind == "ip");
    port.filter(|_| local && !to_pods).map_or(HealthCheck::Connect, |port| HealthCheck::Http { port })
}

fn source_ranges(service: &Service) -> Result<Vec<ekstra_domain::prefix::Prefix>, String> {
    let ranges = service.spec.as_ref().and_then(|spec| spec.load_balancer_source_ranges.clone());
    let parse = |range: String| range.trim().parse().map_err(|e| format!("loadBalancerSourceRanges: {e}"));
    ranges.unwrap_or_default().into_iter().map(parse).collect()
}

/// A node that takes traffic from outside.
fn target_address(node: &Node) -> Option<Ipv4Addr> {
    if node.labels().contains_key(EXCLUDED) || node.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let status = node.status.as_ref()?;
    let ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
    let address = status.addresses.iter().flatten().find(|address| address.type_ == "InternalIP")?;
    address.address.parse().ok().filter(|_| ready)
}

fn balanced(
    port: &ServicePort,
    to_pods: bool,
    nodes: &[Ipv4Addr],
    slices: &[EndpointSlice],
) -> Result<BalancedPort, String> {
    let number = |port: i32| u16::try_from(port).map_err(|_| format!("{port} is not a port"));
    let targets = if to_pods {
        let mut targets: Vec<SocketAddrV4> = slices.iter().flat_map(|slice| pods(port, slice)).collect();
        targets.sort();
        targets.dedup();
        targets
    } else {
        let node_port = port.node_port.ok_or("it has no node ports (allocateLoadBalancerNodePorts)")?;
        let node_port = number(node_port)?;
        nodes.iter().map(|node| SocketAddrV4::new(*node, node_port)).collect()
    };
    Ok(BalancedPort { port: number(port.port)?, targets })
}

/// Ready endpoints behind that port.
fn pods(port: &ServicePort, slice: &EndpointSlice) -> Vec<SocketAddrV4> {
    let same = |name: &Option<String>| name.as_deref().unwrap_or("") == port.name.as_deref().unwrap_or("");
    let of_slice = slice.ports.iter().flatten().find(|p| same(&p.name)).and_then(|p| p.port);
    let Some(number) = of_slice.and_then(|port| u16::try_from(port).ok()) else { return Vec::new() };
    let ready = slice.endpoints.iter().flatten().filter(|endpoint| {
        endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
    });
    let addresses = ready.flat_map(|endpoint| endpoint.addresses.iter());
    addresses.filter_map(|address| Some(SocketAddrV4::new(address.parse().ok()?, number))).collect()
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
    fn targets_are_ready_nodes_or_ready_pods() {
        let node = |ready: &str, excluded: bool| -> Node {
            let labels = if excluded { json!({EXCLUDED: "true"}) } else { json!({}) };
            serde_json::from_value(json!({
                "metadata": {"name": "n", "labels": labels},
                "status": {
                    "conditions": [{"type": "Ready", "status": ready}],
                    "addresses": [{"type": "InternalIP", "address": "172.31.0.5"}],
                },
            }))
            .expect("a node")
        };
        assert_eq!(target_address(&node("True", false)), Some(Ipv4Addr::new(172, 31, 0, 5)));
        assert_eq!(target_address(&node("False", false)), None);
        assert_eq!(target_address(&node("True", true)), None);
        let slice: EndpointSlice = serde_json::from_value(json!({
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080}, {"name": "admin", "port": 9090}],
            "endpoints": [
                {"addresses": ["172.31.1.1"], "conditions": {"ready": true}},
                {"addresses": ["172.31.1.2"], "conditions": {"ready": false}},
            ],
        }))
        .expect("a slice");
        let port =
            ServicePort { name: Some("http".into()), port: 80, node_port: Some(30080), ..Default::default() };
        let to_pods = balanced(&port, true, &[], &[slice]).expect("balanced");
        assert_eq!(to_pods.targets, ["172.31.1.1:8080".parse().expect("an address")]);
        let nodes = [Ipv4Addr::new(172, 31, 0, 5)];
        let to_nodes = balanced(&port, false, &nodes, &[]).expect("balanced");
        assert_eq!(
            (to_nodes.port, to_nodes.targets),
            (80, vec!["172.31.0.5:30080".parse().expect("an address")])
        );
        let none = ServicePort { port: 80, ..Default::default() };
        assert!(balanced(&none, false, &nodes, &[]).expect_err("no node port").contains("node ports"));
    }
}

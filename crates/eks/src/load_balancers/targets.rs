//! Who stands behind a port: nodes that take traffic from outside, or pods that are ready.

use ekstra_domain::elb::BalancedPort;
use ekstra_domain::prefix::Prefix;
use k8s_openapi::api::core::v1::{Node, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use std::net::{Ipv4Addr, SocketAddrV4};

const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
/// The cluster autoscaler is about to end it.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// The provider's name of a node that takes traffic, as upstream's service controller judges it
/// (`stableNodeSetPredicates`). Whether it is ready is for health checks: after a long sleep of the machine, no node is,
/// though all of them work.
pub(super) fn target(node: &Node) -> Option<String> {
    let spec = node.spec.as_ref()?;
    let excluded = node.labels().get(EXCLUDED).is_some_and(|value| !says_no(value));
    let leaving = spec.taints.iter().flatten().any(|taint| taint.key == TO_BE_DELETED);
    let going = node.metadata.deletion_timestamp.is_some();
    spec.provider_id.clone().filter(|_| !excluded && !leaving && !going)
}

/// As Go's `strconv.ParseBool` reads it.
fn says_no(value: &str) -> bool {
    ["0", "f", "F", "false", "FALSE", "False"].contains(&value)
}

/// A port of nodes, by their node port.
pub(super) fn at_nodes(port: &ServicePort, nodes: &[Ipv4Addr]) -> Result<BalancedPort, String> {
    let node_port = port.node_port.ok_or("it has no node ports (allocateLoadBalancerNodePorts)")?;
    let node_port = number(node_port)?;
    let targets = nodes.iter().map(|node| SocketAddrV4::new(*node, node_port)).collect();
    Ok(BalancedPort { port: number(port.port)?, targets })
}

/// A port of pods. Slices are written by whoever may: an address outside the VPC is nobody's target.
pub(super) fn at_pods(
    port: &ServicePort,
    slices: &[EndpointSlice],
    vpc: Prefix,
) -> Result<BalancedPort, String> {
    let ready = slices.iter().flat_map(|slice| ready_pods(port, slice));
    let mut targets: Vec<SocketAddrV4> = ready.filter(|target| vpc.contains(*target.ip())).collect();
    targets.sort();
    targets.dedup();
    Ok(BalancedPort { port: number(port.port)?, targets })
}

fn number(port: i32) -> Result<u16, String> {
    u16::try_from(port).map_err(|_| format!("{port} is not a port"))
}

fn ready_pods(port: &ServicePort, slice: &EndpointSlice) -> Vec<SocketAddrV4> {
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
    use serde_json::{Value, json};

    #[test]
    fn nodes_take_traffic_unless_they_are_excluded_or_leave() {
        let node = |labels: Value, taints: Value| -> Option<String> {
            let spec = json!({"providerID": "aws:///us-east-1a/i-1", "taints": taints});
            let status = json!({"conditions": [{"type": "Ready", "status": "Unknown"}]});
            let node = json!({"metadata": {"name": "n", "labels": labels}, "spec": spec, "status": status});
            target(&serde_json::from_value(node).expect("a node"))
        };
        let provider = Some("aws:///us-east-1a/i-1".to_owned());
        assert_eq!(node(json!({}), json!([])), provider);
        assert_eq!(node(json!({EXCLUDED: "true"}), json!([])), None);
        assert_eq!(node(json!({EXCLUDED: ""}), json!([])), None);
        assert_eq!(node(json!({EXCLUDED: "false"}), json!([])), provider);
        assert_eq!(node(json!({}), json!([{"key": TO_BE_DELETED, "effect": "NoSchedule"}])), None);
    }

    #[test]
    fn ports_are_nodes_or_ready_pods_of_the_vpc() {
        let slice: EndpointSlice = serde_json::from_value(json!({
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080}, {"name": "admin", "port": 9090}],
            "endpoints": [
                {"addresses": ["172.31.1.1"], "conditions": {"ready": true}},
                {"addresses": ["172.31.1.2"], "conditions": {"ready": false}},
                {"addresses": ["198.19.0.1"], "conditions": {"ready": true}},
            ],
        }))
        .expect("a slice");
        let port =
            ServicePort { name: Some("http".into()), port: 80, node_port: Some(30080), ..Default::default() };
        let vpc = "172.31.0.0/16".parse().expect("valid");
        let to_pods = at_pods(&port, &[slice], vpc).expect("balanced");
        assert_eq!(to_pods.targets, ["172.31.1.1:8080".parse().expect("an address")]);
        let nodes = [Ipv4Addr::new(172, 31, 0, 5)];
        let to_nodes = at_nodes(&port, &nodes).expect("balanced");
        let wanted = vec!["172.31.0.5:30080".parse().expect("an address")];
        assert_eq!((to_nodes.port, to_nodes.targets), (80, wanted));
        let none = ServicePort { port: 80, ..Default::default() };
        assert!(at_nodes(&none, &nodes).expect_err("no node port").contains("node ports"));
    }
}

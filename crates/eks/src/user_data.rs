//! The user data that EKS gives to nodes of a managed group: a NodeConfig in a MIME message, as AL2023's nodeadm reads
//! it (`spec/eks-semantics.md` §2.6).

use crate::Eks;
use base64::Engine;
use ekstra_domain::ec2::{METADATA_ADDRESS, Vpc};
use ekstra_domain::eks::{Cluster, ControlPlaneSlot, Nodegroup};
use ekstra_domain::names::keys;
use serde_json::json;

const NO_PROXY: &str = "NO_PROXY";

/// What is not to be asked for through a proxy: what the user says, and all that is this machine's.
fn exceptions(eks: &Eks, cluster: &Cluster, given: Option<&String>) -> Vec<String> {
    let view = eks.cloud.store.view();
    let vpc: Option<Vpc> = view.get_as(&keys::vpc(&cluster.scope, &cluster.vpc.vpc));
    let own = ["localhost", "127.0.0.1", ".internal", ".svc", ".cluster.local"].map(str::to_owned);
    let networks = [
        eks.cloud.settings.address.to_string(),
        METADATA_ADDRESS.to_string(),
        cluster.service_cidr.to_string(),
    ];
    let given = given.into_iter().flat_map(|list| list.split(',')).map(|word| word.trim().to_owned());
    given
        .filter(|word| !word.is_empty())
        .chain(own)
        .chain(networks)
        .chain(vpc.map(|vpc| vpc.cidr.to_string()))
        .collect()
}

/// `None` until the cluster's certificate authority exists.
pub(crate) fn render(
    eks: &Eks,
    cluster: &Cluster,
    slot: &ControlPlaneSlot,
    group: &Nodegroup,
    image: &str,
    has_network: bool,
) -> Option<String> {
    let ca = slot.certificate_authority.as_ref()?;
    let labels: Vec<String> = group.node_labels(image).iter().map(|(k, v)| format!("{k}={v}")).collect();
    let mut flags = vec![format!("--node-labels={}", labels.join(","))];
    if !group.taints.is_empty() {
        let taints: Vec<String> = group.taints.iter().map(|t| t.kubelet()).collect();
        flags.push(format!("--register-with-taints={}", taints.join(",")));
    }
    // JSON is YAML.
    let mut config = json!({
        "apiVersion": "node.eks.aws/v1alpha1",
        "kind": "NodeConfig",
        "spec": {
            "cluster": {
                "name": cluster.name,
                "apiServerEndpoint": eks.endpoint(slot),
                "certificateAuthority": base64::engine::general_purpose::STANDARD.encode(ca),
                "cidr": cluster.service_cidr.to_string(),
            },
            "kubelet": {"flags": flags},
        },
    });
    if !has_network {
        config["metadata"] = json!({"annotations": {"ekstra.dev/pod-network": "none"}});
    }
    if !eks.proxies.is_empty() {
        let direct = exceptions(eks, cluster, eks.proxies.get(NO_PROXY));
        let mut variables = eks.proxies.clone();
        variables.insert(NO_PROXY.to_owned(), direct.join(","));
        config["spec"]["instance"] = json!({"environment": {"containerd": variables}});
    }
    Some(format!(
        "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"//\"\r\n\r\n--//\r\n\
         Content-Type: application/node.eks.aws\r\n\r\n{config}\r\n--//--\r\n"
    ))
}

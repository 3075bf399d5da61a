//! The user data that EKS gives to nodes of a managed group: a NodeConfig in a MIME message, as AL2023's nodeadm reads
//! it (`spec/eks-semantics.md` §2.6).

use crate::Eks;
use base64::Engine;
use ekstra_domain::eks::{Cluster, ControlPlaneSlot, Nodegroup};
use serde_json::json;

/// `None` until the cluster's certificate authority exists.
pub(crate) fn render(
    eks: &Eks,
    cluster: &Cluster,
    slot: &ControlPlaneSlot,
    group: &Nodegroup,
    image: &str,
) -> Option<String> {
    let ca = slot.certificate_authority.as_ref()?;
    let labels: Vec<String> = group.node_labels(image).iter().map(|(k, v)| format!("{k}={v}")).collect();
    let mut flags = vec![format!("--node-labels={}", labels.join(","))];
    if !group.taints.is_empty() {
        let taints: Vec<String> = group.taints.iter().map(|t| t.kubelet()).collect();
        flags.push(format!("--register-with-taints={}", taints.join(",")));
    }
    // JSON is YAML.
    let config = json!({
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
    Some(format!(
        "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"//\"\r\n\r\n--//\r\n\
         Content-Type: application/node.eks.aws\r\n\r\n{config}\r\n--//--\r\n"
    ))
}

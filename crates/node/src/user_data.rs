//! User data: a MIME multipart message with NodeConfig documents and shell scripts, or one of them alone.
//!
//! Source: `spec/eks-semantics.md` §2.6 (AL2023's nodeadm: part `application/node.eks.aws`, kind NodeConfig).

use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::io;

/// `node.eks.aws/v1alpha1` NodeConfig; several are merged, the later wins.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(crate) struct NodeConfig {
    metadata: NodeMetadata,
    pub(crate) spec: NodeSpec,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
struct NodeMetadata {
    annotations: BTreeMap<String, String>,
}

/// `none`: the network of pods comes with an add-on.
const NETWORK: &str = "ekstra.dev/pod-network";

impl NodeConfig {
    /// Whether pods have a network before anything is installed in the cluster.
    pub(crate) fn has_network(&self) -> bool {
        self.metadata.annotations.get(NETWORK).is_none_or(|value| value != "none")
    }
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(crate) struct NodeSpec {
    pub(crate) cluster: ClusterDetails,
    pub(crate) kubelet: KubeletOptions,
    pub(crate) instance: InstanceOptions,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(crate) struct InstanceOptions {
    /// Variables by service; those of `default` are everybody's.
    environment: BTreeMap<String, BTreeMap<String, String>>,
}

impl InstanceOptions {
    /// A service's own variables come last.
    pub(crate) fn environment(&self, service: &str) -> Vec<(String, String)> {
        let of = |name: &str| self.environment.get(name).cloned().unwrap_or_default();
        of("default").into_iter().chain(of(service)).collect()
    }
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ClusterDetails {
    pub(crate) name: Option<String>,
    pub(crate) api_server_endpoint: Option<String>,
    /// Base64 of PEM.
    pub(crate) certificate_authority: Option<String>,
    pub(crate) cidr: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(crate) struct KubeletOptions {
    /// Merged over the defaults of KubeletConfiguration.
    pub(crate) config: Map<String, Value>,
    pub(crate) flags: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct UserData {
    pub(crate) node: NodeConfig,
    /// Run in order before the node joins.
    pub(crate) scripts: Vec<String>,
}

pub(crate) fn parse(text: &str) -> io::Result<UserData> {
    let mut data = UserData::default();
    for (kind, body) in parts(text) {
        match kind.as_str() {
            "application/node.eks.aws" => {
                let config: NodeConfig = serde_saphyr::from_str(&body)
                    .map_err(|e| io::Error::other(format!("the NodeConfig in the user data: {e}")))?;
                merge(&mut data.node, config);
            }
            "text/x-shellscript" | "text/cloud-boothook" => data.scripts.push(body),
            _ => {}
        }
    }
    Ok(data)
}

fn merge(into: &mut NodeConfig, from: NodeConfig) {
    into.metadata.annotations.extend(from.metadata.annotations);
    let (cluster, other) = (&mut into.spec.cluster, from.spec.cluster);
    cluster.name = other.name.or(cluster.name.take());
    cluster.api_server_endpoint = other.api_server_endpoint.or(cluster.api_server_endpoint.take());
    cluster.certificate_authority = other.certificate_authority.or(cluster.certificate_authority.take());
    cluster.cidr = other.cidr.or(cluster.cidr.take());
    into.spec.kubelet.config.extend(from.spec.kubelet.config);
    into.spec.kubelet.flags.extend(from.spec.kubelet.flags);
    for (service, variables) in from.spec.instance.environment {
        into.spec.instance.environment.entry(service).or_default().extend(variables);
    }
}

/// Content type and body of each part.
fn parts(text: &str) -> Vec<(String, String)> {
    let text = text.replace("\r\n", "\n");
    if text.starts_with("#!") {
        return vec![("text/x-shellscript".into(), text)];
    }
    let Some(boundary) = boundary(&text) else {
        return vec![("application/node.eks.aws".into(), text)];
    };
    let delimiter = format!("--{boundary}");
    let mut found = Vec::new();
    let mut current: Option<String> = None;
    for line in text.lines() {
        if line.trim_end() == delimiter || line.trim_end() == format!("{delimiter}--") {
            found.extend(current.take());
            current = (line.trim_end() == delimiter).then(String::new);
        } else if let Some(part) = &mut current {
            part.push_str(line);
            part.push('\n');
        }
    }
    found.iter().map(|part| split_part(part)).collect()
}

fn boundary(text: &str) -> Option<String> {
    let head = text.split("\n\n").next()?;
    let at = head.find("boundary=")? + "boundary=".len();
    let rest = head[at..].lines().next()?;
    let value = rest.split(';').next()?.trim().trim_matches('"');
    (!value.is_empty()).then(|| value.to_owned())
}

fn split_part(part: &str) -> (String, String) {
    // A part without headers begins with the blank line that ends them.
    let (head, body) = match part.strip_prefix('\n') {
        Some(body) => ("", body),
        None => part.split_once("\n\n").unwrap_or((part, "")),
    };
    let kind = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-type")
            .then(|| value.split(';').next().unwrap_or_default().trim().to_owned())
    });
    (kind.unwrap_or_else(|| "application/node.eks.aws".into()), body.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIME: &str = "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"//\"\r\n\r\n--//\r\n\
        Content-Type: application/node.eks.aws\r\n\r\napiVersion: node.eks.aws/v1alpha1\r\nkind: NodeConfig\r\n\
        spec:\r\n  cluster:\r\n    name: c\r\n    apiServerEndpoint: https://e\r\n    cidr: 10.100.0.0/16\r\n\
        \x20\x20kubelet:\r\n    config:\r\n      maxPods: 7\r\n    flags:\r\n      - --node-labels=a=b\r\n\r\n--//\r\n\
        Content-Type: text/x-shellscript; charset=\"us-ascii\"\r\n\r\n#!/bin/sh\r\necho hi\r\n\r\n--//--\r\n";

    #[test]
    fn multipart_with_config_and_script() {
        let data = parse(MIME).expect("parses");
        assert_eq!(data.node.spec.cluster.name.as_deref(), Some("c"));
        assert_eq!(data.node.spec.kubelet.config.get("maxPods"), Some(&Value::from(7)));
        assert_eq!(data.node.spec.kubelet.flags, ["--node-labels=a=b"]);
        assert_eq!(data.scripts, ["#!/bin/sh\necho hi\n\n"]);
    }

    #[test]
    fn later_documents_win_and_one_document_needs_no_mime() {
        let twice = MIME.replace(
            "\r\n--//--\r\n",
            "\r\n--//\r\n\r\nspec: {kubelet: {config: {maxPods: 9}}}\r\n--//--\r\n",
        );
        let data = parse(&twice).expect("parses");
        assert_eq!(data.node.spec.kubelet.config.get("maxPods"), Some(&Value::from(9)));
        assert_eq!(data.node.spec.cluster.name.as_deref(), Some("c"));
        let alone = parse("spec: {cluster: {name: solo}}").expect("parses");
        assert_eq!(alone.node.spec.cluster.name.as_deref(), Some("solo"));
        assert!(parse("spec: [").is_err());
    }

    #[test]
    fn variables_of_a_service_come_after_everybody_s() {
        let text = "spec: {instance: {environment: {default: {A: '1', B: '1'}, containerd: {B: '2'}}}}";
        let instance = parse(text).expect("parses").node.spec.instance;
        let pairs = |service| {
            let variables = instance.environment(service);
            variables.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>()
        };
        assert_eq!(pairs("kubelet"), ["A=1", "B=1"]);
        assert_eq!(pairs("containerd"), ["A=1", "B=1", "B=2"]);
    }
}

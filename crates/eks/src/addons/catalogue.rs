//! Which add-ons there are, in which versions, and of what they consist.

use crate::OfferedVersion;
use serde_json::{Value, json};

const DEFINITIONS: &str = include_str!("definitions.json");

/// What EKS gives its own builds as a suffix. Clients read versions by it.
const BUILD: &str = "eksbuild.1";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Deployment,
    DaemonSet,
}

#[derive(Debug)]
pub(crate) struct Definition {
    pub(crate) name: &'static str,
    /// What EKS files it under.
    pub(crate) category: &'static str,
    pub(crate) manifest: &'static str,
    /// The workload whose pods are the add-on.
    pub(crate) kind: Kind,
    pub(crate) workload: &'static str,
    /// Whether there is a disruption budget unless the configuration says otherwise.
    pub(crate) has_budget: bool,
    /// Whether clusters begin with it, unless they are told not to (`bootstrapSelfManagedAddons`).
    pub(crate) is_initial: bool,
    /// Whether its replicas can follow the size of the cluster.
    pub(crate) is_autoscaled: bool,
    /// The service account whose pods can have a role by an association.
    pub(crate) identity: Option<&'static str>,
    /// `None`: that of the cluster.
    release: Option<&'static str>,
    schema: &'static str,
}

pub(crate) const NAMESPACE: &str = "kube-system";
/// The add-on that gives pods addresses of their node's prefixes. It has AWS's name and settings; what it runs is
/// `ekstra-node cni`, and its version says which of AWS's it stands for.
pub(crate) const NETWORK: &str = "vpc-cni";
pub(crate) const NETWORK_DAEMON: &str = "aws-node";

/// The add-on by which pods get credentials of their own role. What it runs is `ekstra-node pod-identity`; its version says
/// which of AWS's it stands for.
pub(crate) const POD_IDENTITY: &str = "eks-pod-identity-agent";

/// In the order of their names, as DescribeAddonVersions has them.
const ALL: [Definition; 5] = [
    Definition {
        name: "coredns",
        category: "networking",
        manifest: include_str!("coredns.yaml"),
        kind: Kind::Deployment,
        workload: "coredns",
        has_budget: true,
        is_initial: true,
        is_autoscaled: true,
        identity: None,
        release: Some("1.15.0"),
        schema: include_str!("coredns.schema.json"),
    },
    Definition {
        name: POD_IDENTITY,
        category: "security",
        manifest: include_str!("pod-identity-agent.yaml"),
        kind: Kind::DaemonSet,
        workload: POD_IDENTITY,
        has_budget: false,
        is_initial: false,
        is_autoscaled: false,
        identity: None,
        release: Some("1.3.10"),
        schema: include_str!("pod-identity-agent.schema.json"),
    },
    Definition {
        name: "kube-proxy",
        category: "networking",
        manifest: include_str!("kube-proxy.yaml"),
        kind: Kind::DaemonSet,
        workload: "kube-proxy",
        has_budget: false,
        is_initial: true,
        is_autoscaled: false,
        identity: None,
        release: None,
        schema: include_str!("kube-proxy.schema.json"),
    },
    Definition {
        name: "metrics-server",
        category: "observability",
        manifest: include_str!("metrics-server.yaml"),
        kind: Kind::Deployment,
        workload: "metrics-server",
        has_budget: false,
        is_initial: true,
        is_autoscaled: false,
        identity: None,
        release: Some("0.9.0"),
        schema: include_str!("metrics-server.schema.json"),
    },
    Definition {
        name: NETWORK,
        category: "networking",
        manifest: include_str!("aws-node.yaml"),
        kind: Kind::DaemonSet,
        workload: NETWORK_DAEMON,
        has_budget: false,
        is_initial: true,
        is_autoscaled: false,
        identity: Some(NETWORK_DAEMON),
        release: Some("1.23.2"),
        schema: include_str!("vpc-cni.schema.json"),
    },
];

pub(crate) fn all() -> &'static [Definition] {
    &ALL
}

pub(crate) fn find(name: &str) -> Option<&'static Definition> {
    ALL.iter().find(|definition| definition.name == name)
}

impl Definition {
    /// Whether it is a part of Kubernetes, in the cluster's own version.
    pub(crate) fn follows_cluster(&self) -> bool {
        self.release.is_none()
    }

    /// Its version for clusters of this one.
    pub(crate) fn version(&self, cluster: &OfferedVersion) -> String {
        format!("v{}-{BUILD}", self.release.unwrap_or(&cluster.patch))
    }

    /// Its versions, each with the clusters that it is for; the newest first.
    pub(crate) fn versions(&self, offered: &[OfferedVersion]) -> Vec<(String, Vec<String>)> {
        let mut versions: Vec<(String, Vec<String>)> = Vec::new();
        for cluster in offered {
            let version = self.version(cluster);
            match versions.iter_mut().find(|(known, _)| *known == version) {
                Some((_, clusters)) => clusters.push(cluster.minor.clone()),
                None => versions.push((version, vec![cluster.minor.clone()])),
            }
        }
        versions
    }

    /// What its configuration may be, as JSON Schema.
    pub(crate) fn schema(&self) -> Result<Value, serde_json::Error> {
        let mut schema: Value = serde_json::from_str(self.schema)?;
        schema["$schema"] = json!("http://json-schema.org/draft-06/schema#");
        schema["definitions"] = serde_json::from_str(DEFINITIONS)?;
        Ok(schema)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_image_of_a_manifest_is_the_version_that_is_told() {
        for definition in
            all().iter().filter(|definition| ![NETWORK, POD_IDENTITY].contains(&definition.name))
        {
            let told = definition.release.unwrap_or("{{kubernetesVersion}}");
            let image = definition.manifest.lines().find_map(|line| line.trim().strip_prefix("image: "));
            assert!(image.is_some_and(|image| image.ends_with(&format!(":v{told}"))), "{image:?}");
        }
    }

    #[test]
    fn a_component_of_the_cluster_has_a_version_for_each() {
        let offered = |minor: &str, patch: &str| OfferedVersion {
            minor: minor.into(),
            patch: patch.into(),
            default: false,
        };
        let clusters = [offered("1.37", "1.37.2"), offered("1.36", "1.36.3")];
        let proxy = find("kube-proxy").expect("is one").versions(&clusters);
        let expected = [("v1.37.2-eksbuild.1", "1.37"), ("v1.36.3-eksbuild.1", "1.36")];
        assert_eq!(proxy, expected.map(|(version, minor)| (version.to_owned(), vec![minor.to_owned()])));
        let dns = find("coredns").expect("is one").versions(&clusters);
        assert_eq!(dns, [("v1.15.0-eksbuild.1".to_owned(), vec!["1.37".to_owned(), "1.36".to_owned()])]);
        assert!(find("vpc-lattice").is_none());
    }
}

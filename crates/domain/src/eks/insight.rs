//! Insights: what of a cluster would stand in the way of its next version. Pure: facts in, findings out.
//!
//! Source of names, descriptions and rules: EKS User Guide, "Prepare for Kubernetes version upgrades with cluster insights"
//! (`spec/eks-semantics.md` §3.3); version skew: Kubernetes' version skew policy.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Kubelets and kube-proxies may be so many minor versions older than the API server.
const SKEW: u32 = 3;
/// Deprecated APIs count for 30 days after their last use.
const REMEMBERED_MS: i64 = 30 * 24 * 60 * 60 * 1000;
pub const UPGRADE_READINESS: &str = "UPGRADE_READINESS";

/// The worst comes last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Verdict {
    Passing,
    Unknown,
    Warning,
    Error,
}

impl Verdict {
    pub fn wire(self) -> &'static str {
        match self {
            Self::Passing => "PASSING",
            Self::Unknown => "UNKNOWN",
            Self::Warning => "WARNING",
            Self::Error => "ERROR",
        }
    }
}

/// Something in the cluster that a check is about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resource {
    pub uri: Option<String>,
    pub arn: Option<String>,
    pub verdict: Verdict,
    pub reason: String,
}

/// A use of an API that will be removed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Deprecation {
    /// `/apis/GROUP/VERSION/RESOURCE`.
    pub usage: String,
    pub removed_in: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AddonCompatibility {
    pub name: String,
    pub compatible_versions: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Insight {
    pub id: String,
    pub name: String,
    /// The version that it is about.
    pub version: String,
    pub description: String,
    pub recommendation: String,
    pub verdict: Verdict,
    pub reason: String,
    pub resources: Vec<Resource>,
    pub deprecations: Vec<Deprecation>,
    pub addons: Vec<AddonCompatibility>,
    pub refreshed_ms: i64,
    /// When its verdict became what it is.
    pub changed_ms: i64,
}

/// What is remembered of a cluster's checks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Insights {
    /// Of the cluster: what is told of an earlier one of the same name counts for nothing.
    pub uid: String,
    pub insights: Vec<Insight>,
    /// Deprecated APIs, `GROUP/VERSION/RESOURCE` and the release without them, with when their use was last seen. The
    /// API server forgets that when it is started again.
    pub deprecated: BTreeMap<String, (String, i64)>,
    pub started_ms: i64,
    /// `None`: they are to be made anew, since somebody has asked for them.
    pub ended_ms: Option<i64>,
}

impl Insights {
    pub fn new(uid: &str, now_ms: i64) -> Self {
        Self {
            uid: uid.to_owned(),
            insights: Vec::new(),
            deprecated: BTreeMap::new(),
            started_ms: now_ms,
            ended_ms: None,
        }
    }
}

/// A program on a node, with its version.
#[derive(Clone, Debug, PartialEq)]
pub struct Running {
    /// Of the object that says so.
    pub uri: String,
    /// `v1.36.3`, with or without anything behind it.
    pub version: String,
}

/// An EKS add-on of the cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct InstalledAddon {
    pub name: String,
    pub arn: String,
    pub version: String,
    /// Its versions for the next version of Kubernetes.
    pub next_versions: Vec<String>,
    /// Whether the version that it has may stay when the cluster moves on.
    pub may_stay: bool,
}

/// What was found in a cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClusterFacts {
    /// `1.36`.
    pub version: String,
    /// Whether the next version is one that there is.
    pub has_next: bool,
    pub kubelets: Vec<Running>,
    pub proxies: Vec<Running>,
    pub addons: Vec<InstalledAddon>,
    /// Messages of the cluster's health.
    pub issues: Vec<String>,
    pub deprecated: BTreeMap<String, (String, i64)>,
}

/// The minor of `1.36`, `v1.36.3` or `v1.36.3-eks-1`.
fn minor(version: &str) -> Option<u32> {
    version.trim_start_matches('v').split('.').nth(1)?.parse().ok()
}

/// One check, before it has an id and times.
struct Finding {
    name: String,
    description: String,
    recommendation: &'static str,
    /// When nothing is wrong.
    fine: &'static str,
    resources: Vec<Resource>,
    deprecations: Vec<Deprecation>,
    addons: Vec<AddonCompatibility>,
}

/// Makes the insights of a cluster; what they were before says since when they are so.
pub fn assess(
    facts: &ClusterFacts,
    before: &[Insight],
    id: impl Fn(&str) -> String,
    now_ms: i64,
) -> Vec<Insight> {
    let Some(next) = minor(&facts.version).map(|minor| minor + 1) else { return Vec::new() };
    let findings = [
        skew("Kubelet", "kubelet", &facts.kubelets, next),
        skew("kube-proxy", "kube-proxy", &facts.proxies, next),
    ];
    let findings =
        findings.into_iter().chain([addons(facts, next), health(facts), deprecated(facts, next, now_ms)]);
    let insight = |finding: Finding| {
        let worst = finding.resources.iter().max_by_key(|resource| resource.verdict);
        let (verdict, reason) = match worst {
            Some(worst) if worst.verdict != Verdict::Passing => (worst.verdict, worst.reason.clone()),
            _ => (Verdict::Passing, finding.fine.to_owned()),
        };
        let id = id(&finding.name);
        let known = before.iter().find(|known| known.id == id && known.verdict == verdict);
        Insight {
            id,
            name: finding.name,
            version: format!("1.{next}"),
            description: finding.description,
            recommendation: finding.recommendation.to_owned(),
            verdict,
            reason,
            resources: finding.resources,
            deprecations: finding.deprecations,
            addons: finding.addons,
            refreshed_ms: now_ms,
            changed_ms: known.map_or(now_ms, |known| known.changed_ms),
        }
    };
    findings.map(insight).collect()
}

/// What is too old for the next version is an error, what is too old for the one after that a warning.
fn skew(title: &str, program: &str, running: &[Running], next: u32) -> Finding {
    let judge = |running: &Running| {
        let (verdict, reason) = match minor(&running.version) {
            None => (Verdict::Unknown, format!("The version of {program} is not known: {}", running.version)),
            Some(minor) if minor + SKEW < next => {
                (Verdict::Error, format!("{program} {} is too old for Kubernetes 1.{next}.", running.version))
            }
            Some(minor) if minor + SKEW < next + 1 => (
                Verdict::Warning,
                format!("{program} {} is too old for Kubernetes 1.{}.", running.version, next + 1),
            ),
            Some(_) => (Verdict::Passing, format!("{program} {} is supported.", running.version)),
        };
        Resource { uri: Some(running.uri.clone()), arn: None, verdict, reason }
    };
    Finding {
        name: format!("{title} version skew"),
        description: format!(
            "Checks for {program} versions of worker nodes in the cluster to see if upgrade would cause non compliance with supported Kubernetes {program} version skew policy."
        ),
        recommendation: "Upgrade the worker nodes before the control plane, so that none is more than three minor versions older.",
        fine: "Node versions are within the supported skew.",
        resources: running.iter().map(judge).collect(),
        deprecations: Vec::new(),
        addons: Vec::new(),
    }
}

fn addons(facts: &ClusterFacts, next: u32) -> Finding {
    let judge = |addon: &InstalledAddon| {
        let (verdict, reason) = if !facts.has_next {
            (Verdict::Unknown, format!("There is no Kubernetes 1.{next} yet."))
        } else if addon.may_stay || addon.next_versions.contains(&addon.version) {
            (Verdict::Passing, format!("{} {} is compatible.", addon.name, addon.version))
        } else {
            (
                Verdict::Error,
                format!("{} {} is not compatible with Kubernetes 1.{next}.", addon.name, addon.version),
            )
        };
        Resource { uri: None, arn: Some(addon.arn.clone()), verdict, reason }
    };
    let compatible = |addon: &InstalledAddon| AddonCompatibility {
        name: addon.name.clone(),
        compatible_versions: addon.next_versions.clone(),
    };
    Finding {
        name: "EKS add-on version compatibility".to_owned(),
        description: "Checks version of installed EKS add-ons to ensure they are compatible with the next version of Kubernetes.".to_owned(),
        recommendation: "Update the add-ons to a version that is compatible with the next version of Kubernetes.",
        fine: "All installed EKS add-on versions are compatible with next Kubernetes version.",
        resources: facts.addons.iter().map(judge).collect(),
        deprecations: Vec::new(),
        addons: facts.addons.iter().map(compatible).collect(),
    }
}

fn health(facts: &ClusterFacts) -> Finding {
    let resource = |message: &String| Resource {
        uri: None,
        arn: None,
        verdict: Verdict::Error,
        reason: message.clone(),
    };
    Finding {
        name: "Cluster health issues".to_owned(),
        description: "Checks for any cluster health issues that prevent successful upgrade to the next Kubernetes version on EKS.".to_owned(),
        recommendation: "Resolve what DescribeCluster tells of the cluster's health.",
        fine: "No cluster health issues detected.",
        resources: facts.issues.iter().map(resource).collect(),
        deprecations: Vec::new(),
        addons: Vec::new(),
    }
}

fn deprecated(facts: &ClusterFacts, next: u32, now_ms: i64) -> Finding {
    let fresh = facts.deprecated.iter().filter(|(_, (_, seen_ms))| now_ms - seen_ms <= REMEMBERED_MS);
    let uses: Vec<Deprecation> = fresh
        .map(|(api, (removed_in, _))| Deprecation { usage: path(api), removed_in: removed_in.clone() })
        .collect();
    let resource = |api: &Deprecation| {
        let gone = minor(&api.removed_in).is_some_and(|removed| removed <= next);
        let verdict = if gone { Verdict::Error } else { Verdict::Warning };
        let reason = format!("{} is removed in Kubernetes {}.", api.usage, api.removed_in);
        Resource { uri: Some(api.usage.clone()), arn: None, verdict, reason }
    };
    Finding {
        name: "Deprecated APIs".to_owned(),
        description: "Checks for usage of deprecated APIs that are scheduled for removal in a version of Kubernetes. Upgrading your cluster before migrating to the updated APIs could cause application impact.".to_owned(),
        recommendation: "Update manifests and API clients to use newer Kubernetes APIs before upgrading.",
        fine: "No deprecated API usage detected within the last 30 days.",
        resources: uses.iter().map(resource).collect(),
        deprecations: uses,
        addons: Vec::new(),
    }
}

/// `apps/v1/deployments` as the API server's path.
fn path(api: &str) -> String {
    match api.strip_prefix('/') {
        Some(core) => format!("/api/{core}"),
        None => format!("/apis/{api}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> ClusterFacts {
        ClusterFacts { version: "1.36".into(), has_next: true, ..ClusterFacts::default() }
    }

    fn kubelet(version: &str) -> Running {
        Running { uri: format!("/api/v1/nodes/{version}"), version: version.into() }
    }

    fn of<'a>(insights: &'a [Insight], name: &str) -> &'a Insight {
        insights.iter().find(|insight| insight.name == name).expect("there is such an insight")
    }

    fn assessed(facts: &ClusterFacts) -> Vec<Insight> {
        assess(facts, &[], str::to_owned, 1_000)
    }

    #[test]
    fn a_cluster_in_order_passes_everything() {
        let insights = assessed(&ClusterFacts { kubelets: vec![kubelet("v1.36.3")], ..facts() });
        assert_eq!(insights.len(), 5);
        for insight in &insights {
            assert_eq!(
                (insight.verdict, insight.version.as_str()),
                (Verdict::Passing, "1.37"),
                "{insight:?}"
            );
        }
        let deprecated = of(&insights, "Deprecated APIs");
        assert_eq!(deprecated.reason, "No deprecated API usage detected within the last 30 days.");
    }

    #[test]
    fn the_oldest_node_decides() {
        let verdict = |versions: &[&str]| {
            let kubelets = versions.iter().map(|version| kubelet(version)).collect();
            of(&assessed(&ClusterFacts { kubelets, ..facts() }), "Kubelet version skew").verdict
        };
        assert_eq!(verdict(&["v1.36.3", "v1.35.1"]), Verdict::Passing);
        assert_eq!(
            verdict(&["v1.36.3", "v1.34.9-eks-1"]),
            Verdict::Warning,
            "too old for the one after the next"
        );
        assert_eq!(verdict(&["v1.33.0", "v1.36.3"]), Verdict::Error);
        assert_eq!(verdict(&["who knows"]), Verdict::Unknown);
    }

    #[test]
    fn an_add_on_needs_a_version_for_what_comes_next() {
        let addon = |next: &[&str], may_stay| InstalledAddon {
            name: "coredns".into(),
            arn: "arn".into(),
            version: "v1".into(),
            next_versions: next.iter().map(|v| (*v).to_owned()).collect(),
            may_stay,
        };
        let verdict = |addon: InstalledAddon, has_next| {
            let facts = ClusterFacts { addons: vec![addon], has_next, ..facts() };
            of(&assessed(&facts), "EKS add-on version compatibility").verdict
        };
        assert_eq!(verdict(addon(&["v1", "v2"], false), true), Verdict::Passing);
        assert_eq!(verdict(addon(&["v2"], false), true), Verdict::Error);
        assert_eq!(verdict(addon(&["v2"], true), true), Verdict::Passing);
        assert_eq!(verdict(addon(&[], false), false), Verdict::Unknown, "nobody can say");
    }

    #[test]
    fn deprecated_apis_count_for_thirty_days() {
        let used = |removed: &str, seen_ms: i64| {
            let deprecated =
                BTreeMap::from([("apps/v1beta1/deployments".to_owned(), (removed.to_owned(), seen_ms))]);
            let facts = ClusterFacts { deprecated, ..facts() };
            of(&assess(&facts, &[], str::to_owned, REMEMBERED_MS), "Deprecated APIs").clone()
        };
        let gone = used("1.37", 0);
        assert_eq!(
            (gone.verdict, gone.deprecations[0].usage.as_str()),
            (Verdict::Error, "/apis/apps/v1beta1/deployments")
        );
        assert_eq!(used("1.40", 0).verdict, Verdict::Warning);
        assert_eq!(used("1.37", -1).verdict, Verdict::Passing);
    }

    #[test]
    fn an_insight_remembers_since_when_it_is_so() {
        let before = assess(&facts(), &[], str::to_owned, 1_000);
        let same = assess(&facts(), &before, str::to_owned, 2_000);
        assert!(same.iter().all(|insight| (insight.changed_ms, insight.refreshed_ms) == (1_000, 2_000)));
        let ill = ClusterFacts { issues: vec!["ill".into()], ..facts() };
        let other = assess(&ill, &same, str::to_owned, 3_000);
        let health = of(&other, "Cluster health issues");
        assert_eq!(
            (health.changed_ms, health.verdict, health.reason.as_str()),
            (3_000, Verdict::Error, "ill")
        );
        assert_eq!(of(&other, "Deprecated APIs").changed_ms, 1_000);
    }
}

//! Insights: looks into clusters for what would stand in the way of their next version, each day and when asked.

use crate::addons::catalogue;
use crate::controller::{Reached, reach, up};
use crate::{Eks, OfferedVersion};
use ekstra_domain::eks::{Addon, Cluster, ClusterFacts, Insights, InstalledAddon, RunningProgram, assess};
use ekstra_domain::names::keys;
use ekstra_engine::{Next, Reconciler};
use ekstra_store::{CommitError, Txn};
use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::time::Duration;

/// As at EKS.
const PERIOD_MS: i64 = 24 * 60 * 60 * 1000;
/// A new cluster has other things to do.
const YOUNG_MS: i64 = 10 * 1000;
/// A cluster that does not answer is asked again.
const PATIENCE: Duration = Duration::from_secs(10);
const DEPRECATED: &str = "apiserver_requested_deprecated_apis";

/// Keeps every cluster's insights fresh.
#[derive(Debug)]
pub struct InsightsReconciler {
    eks: Eks,
}

#[derive(Debug, thiserror::Error)]
pub enum InsightsError {
    #[error(transparent)]
    Store(#[from] CommitError),
    #[error("client: {0}")]
    Client(String),
    #[error("API server: {0}")]
    Kube(#[from] kube::Error),
    #[error("the API server does not answer")]
    Silent,
}

impl Reconciler for InsightsReconciler {
    type Error = InsightsError;

    fn name(&self) -> &'static str {
        "insights"
    }

    fn keys(&self) -> Vec<String> {
        self.eks.cluster_keys()
    }

    fn affected(&self, changed: &str) -> Vec<String> {
        let of =
            |kind: &str| changed.strip_prefix(kind).map(|cluster| format!("{}{cluster}", keys::CLUSTERS));
        of(keys::CLUSTERS).or_else(|| of(keys::INSIGHTS)).into_iter().collect()
    }

    fn reconcile(&self, key: String) -> BoxFuture<'_, Result<Next, InsightsError>> {
        async move {
            let Some(cluster) = up(&self.eks, &key) else { return Ok(Next::OnChange) };
            let view = self.eks.cloud.store.view();
            let now = self.eks.cloud.env.now_ms();
            let place = keys::insights(&cluster.scope, &cluster.name);
            let known: Option<Insights> =
                view.get_as(&place).filter(|known: &Insights| known.uid == cluster.uid);
            let early = early_ms(&cluster, known.as_ref(), now);
            if early > 0 {
                return Ok(Next::After(Duration::from_millis(early)));
            }
            let reached = reach(&self.eks, &key).await.map_err(|e| InsightsError::Client(e.to_string()))?;
            let Some(Reached { client, .. }) = reached else { return Ok(Next::OnChange) };
            let found = tokio::time::timeout(PATIENCE, self.facts(&cluster, &client)).await;
            let facts = found.map_err(|_| InsightsError::Silent)??;
            self.record(&place, &cluster, facts).await?;
            Ok(Next::After(Duration::from_millis(1)))
        }
        .boxed()
    }
}

impl InsightsReconciler {
    pub fn new(eks: Eks) -> Self {
        Self { eks }
    }

    async fn facts(&self, cluster: &Cluster, client: &Client) -> Result<ClusterFacts, kube::Error> {
        let nodes: Api<Node> = Api::all(client.clone());
        let listed = nodes.list(&ListParams::default()).await?.items;
        let kubelet = |node: &Node| RunningProgram {
            uri: format!("/api/v1/nodes/{}", node.name_any()),
            version: node
                .status
                .as_ref()
                .and_then(|status| status.node_info.as_ref())
                .map(|info| info.kubelet_version.clone())
                .unwrap_or_default(),
        };
        let daemons: Api<DaemonSet> = Api::namespaced(client.clone(), catalogue::NAMESPACE);
        let proxy = daemons.get_opt("kube-proxy").await?;
        let metrics =
            client.request_text(http::Request::get("/metrics").body(Vec::new()).unwrap_or_default()).await?;
        let seen = self.eks.cloud.env.now_ms();
        let next = next_of(&cluster.version, &self.eks.programs.versions());
        let view = self.eks.cloud.store.view();
        let addons = view.list_as::<Addon>(&keys::addons(&cluster.scope, &cluster.name));
        Ok(ClusterFacts {
            version: cluster.version.clone(),
            has_next: next.is_some(),
            kubelets: listed.iter().map(kubelet).collect(),
            proxies: proxy.iter().filter_map(proxy_version).collect(),
            addons: addons.into_iter().map(|(_, addon)| installed(&addon, next.as_ref())).collect(),
            issues: cluster.issues.iter().map(|issue| issue.message.clone()).collect(),
            deprecated: deprecated_apis(&metrics)
                .into_iter()
                .map(|(api, gone)| (api, (gone, seen)))
                .collect(),
        })
    }

    async fn record(&self, place: &str, cluster: &Cluster, facts: ClusterFacts) -> Result<(), InsightsError> {
        let now = self.eks.cloud.env.now_ms();
        let cluster_key = keys::cluster(&cluster.scope, &cluster.name);
        let body = |txn: &mut Txn| {
            // Another cluster of this name has insights of its own.
            if txn.get::<Cluster>(&cluster_key)?.is_none_or(|found| found.uid != cluster.uid) {
                return Ok(());
            }
            let known = txn.get::<Insights>(place)?.filter(|known| known.uid == cluster.uid);
            let mut record = known.unwrap_or_else(|| Insights::new(&cluster.uid, now));
            let mut facts = facts.clone();
            record.deprecated.append(&mut facts.deprecated);
            facts.deprecated.clone_from(&record.deprecated);
            record.insights = assess(&facts, &record.insights, |name| id_of(&cluster.uid, name), now);
            record.ended_ms = Some(now);
            txn.put(place, &record)?;
            Ok::<_, CommitError>(())
        };
        self.eks.cloud.store.transact(body).await.map_err(InsightsError::from)
    }
}

/// For how long nothing has to be looked at. A clock that was set back makes things young, not younger than new.
fn early_ms(cluster: &Cluster, known: Option<&Insights>, now_ms: i64) -> u64 {
    let left = match known {
        Some(known) => known.ended_ms.map_or(0, |ended| PERIOD_MS - (now_ms - ended).max(0)),
        None => YOUNG_MS - (now_ms - cluster.created_ms).max(0),
    };
    u64::try_from(left).unwrap_or(0)
}

/// An insight is the same as long as its cluster is.
fn id_of(cluster: &str, name: &str) -> String {
    let digest = hex::encode(Sha256::digest(format!("{cluster} {name}")));
    [&digest[..8], &digest[8..12], &digest[12..16], &digest[16..20], &digest[20..32]].join("-")
}

fn next_of(minor: &str, offered: &[OfferedVersion]) -> Option<OfferedVersion> {
    let number: u32 = minor.split_once('.')?.1.parse().ok()?;
    let next = format!("1.{}", number + 1);
    offered.iter().find(|version| version.minor == next).cloned()
}

fn installed(addon: &Addon, next: Option<&OfferedVersion>) -> InstalledAddon {
    let definition = catalogue::find(&addon.name);
    let versions = definition.zip(next).map(|(definition, next)| definition.version(next));
    InstalledAddon {
        name: addon.name.clone(),
        arn: addon.arn(),
        version: addon.version.clone(),
        next_versions: versions.into_iter().collect(),
        // Of Kubernetes itself: its own check says whether it is too old.
        may_stay: definition.is_some_and(|definition| definition.follows_cluster()),
    }
}

fn proxy_version(daemon: &DaemonSet) -> Option<RunningProgram> {
    let containers = daemon.spec.as_ref()?.template.spec.as_ref()?.containers.as_slice();
    let image = containers.first()?.image.as_ref()?;
    let version = image.rsplit_once(':')?.1.to_owned();
    Some(RunningProgram {
        uri: format!("/apis/apps/v1/namespaces/kube-system/daemonsets/{}", daemon.name_any()),
        version,
    })
}

/// `GROUP/VERSION/RESOURCE` and the release that removes it, of every deprecated API that was asked for.
fn deprecated_apis(metrics: &str) -> BTreeMap<String, String> {
    let lines = metrics.lines().filter_map(|line| line.strip_prefix(DEPRECATED)?.strip_prefix('{'));
    lines.filter_map(|line| deprecated_api(line.split_once('}')?.0)).collect()
}

/// The labels have no commas and no quotes in them.
fn deprecated_api(labels: &str) -> Option<(String, String)> {
    let pairs = labels.split(',').filter_map(|pair| pair.split_once('='));
    let labels: BTreeMap<&str, &str> = pairs.map(|(name, value)| (name, value.trim_matches('"'))).collect();
    let removed = labels.get("removed_release").filter(|release| !release.is_empty())?;
    let api = format!("{}/{}/{}", labels.get("group")?, labels.get("version")?, labels.get("resource")?);
    Some((api, (*removed).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deprecated_apis_are_read_from_the_metrics() {
        let metrics = "# TYPE apiserver_requested_deprecated_apis gauge\n\
            apiserver_requested_deprecated_apis{group=\"flowcontrol.apiserver.k8s.io\",removed_release=\"1.32\",resource=\"flowschemas\",subresource=\"\",version=\"v1beta3\"} 1\n\
            apiserver_requested_deprecated_apis{group=\"\",removed_release=\"\",resource=\"endpoints\",subresource=\"\",version=\"v1\"} 1\n\
            apiserver_request_total{group=\"\"} 3\n";
        let found = deprecated_apis(metrics);
        assert_eq!(
            found,
            BTreeMap::from([("flowcontrol.apiserver.k8s.io/v1beta3/flowschemas".into(), "1.32".into())])
        );
    }

    #[test]
    fn ids_are_stable_and_look_like_ekss() {
        let id = id_of("uid", "Kubelet version skew");
        assert_eq!(id, id_of("uid", "Kubelet version skew"));
        assert_ne!(id, id_of("other", "Kubelet version skew"));
        assert_eq!(id.split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
    }

    #[test]
    fn the_next_version_is_one_minor_on() {
        let offered =
            |minor: &str| OfferedVersion { minor: minor.into(), patch: format!("{minor}.0"), default: false };
        let all = [offered("1.36"), offered("1.37")];
        assert_eq!(next_of("1.36", &all).map(|version| version.minor), Some("1.37".into()));
        assert_eq!(next_of("1.37", &all), None);
    }
}

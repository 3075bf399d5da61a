//! The ConfigMap `kube-system/aws-auth` of every cluster, as a record that `gate` follows.

use crate::controller::{Controller, Outcome, Place, Trouble};
use ekstra_domain::eks::{AwsAuth, Cluster};
use ekstra_domain::names::keys;
use ekstra_store::{CommitError, Txn};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::Api;
use kube::runtime::{WatchStreamExt, watcher};

const NAMESPACE: &str = "kube-system";
const NAME: &str = "aws-auth";

/// One for every cluster that is up.
pub(crate) struct AwsAuthMirror {
    place: Place,
}

impl AwsAuthMirror {
    fn api(&self) -> Api<ConfigMap> {
        Api::namespaced(self.place.client.clone(), NAMESPACE)
    }

    async fn record(&self, map: Option<&AwsAuth>) -> Result<(), CommitError> {
        let Place { eks, cluster, .. } = &self.place;
        let key = keys::aws_auth(&cluster.scope, &cluster.name);
        let cluster_key = keys::cluster(&cluster.scope, &cluster.name);
        let body = |txn: &mut Txn| {
            let now: Option<Cluster> = txn.get(&cluster_key)?;
            if now.is_none_or(|now| now.uid != cluster.uid) || txn.get::<AwsAuth>(&key)?.as_ref() == map {
                return Ok(());
            }
            match map {
                Some(map) => txn.put(&key, map)?,
                None => txn.delete(&key),
            }
            Ok::<_, CommitError>(())
        };
        eks.cloud.store.transact(body).await
    }
}

impl Controller for AwsAuthMirror {
    /// There is one.
    type Key = ();
    const NAME: &'static str = "aws-auth";

    fn new(place: Place) -> Self {
        Self { place }
    }

    fn watch(&self) -> BoxStream<'static, Result<(), watcher::Error>> {
        let one = watcher::Config::default().fields(&format!("metadata.name={NAME}"));
        watcher(self.api(), one).default_backoff().map_ok(drop).boxed()
    }

    fn step(&self, (): ()) -> BoxFuture<'_, Result<Outcome, Trouble>> {
        async move {
            let Place { eks, cluster, .. } = &self.place;
            let known = eks.cloud.store.view().get_as(&keys::aws_auth(&cluster.scope, &cluster.name));
            let found = self.api().get_opt(NAME).await?;
            let read =
                found.map(|map| AwsAuth::read(&map.data.unwrap_or_default(), known.unwrap_or_default()));
            let (map, complaints) = read.unzip();
            for why in complaints.into_iter().flatten() {
                tracing::warn!(cluster = cluster.name, why, "of aws-auth");
            }
            self.record(map.as_ref()).await?;
            Ok(Outcome::Settled)
        }
        .boxed()
    }

    fn concerns(_: &str) -> bool {
        false
    }
}

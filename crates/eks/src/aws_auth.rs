//! The ConfigMap `kube-system/aws-auth` of every cluster, as a record that `gate` follows.
//!
//! Invariant: one that cannot be read changes nothing: whoever could sign in still can.

use crate::controller::{Controller, Outcome, Place, Trouble};
use ekstra_domain::eks::{AwsAuth, Cluster, Mapping};
use ekstra_domain::names::keys;
use ekstra_store::{CommitError, Txn};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::Api;
use kube::runtime::{WatchStreamExt, watcher};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;

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
            let found = self.api().get_opt(NAME).await?;
            match found.map(|map| read(&map.data.unwrap_or_default())).transpose() {
                Ok(map) => self.record(map.as_ref()).await?,
                Err(why) => {
                    tracing::warn!(
                        cluster = self.place.cluster.name,
                        why,
                        "aws-auth cannot be read, and changes nothing"
                    );
                }
            }
            Ok(Outcome::Settled)
        }
        .boxed()
    }

    fn concerns(_: &str) -> bool {
        false
    }
}

#[derive(Deserialize)]
struct RoleLine {
    rolearn: String,
    username: String,
    groups: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct UserLine {
    userarn: String,
    username: String,
    groups: Option<Vec<String>>,
}

fn read(data: &BTreeMap<String, String>) -> Result<AwsAuth, String> {
    let roles: Vec<RoleLine> = list(data, "mapRoles")?;
    let users: Vec<UserLine> = list(data, "mapUsers")?;
    let mapping = |arn, username, groups: Option<Vec<String>>| Mapping {
        arn,
        username,
        groups: groups.unwrap_or_default(),
    };
    Ok(AwsAuth {
        roles: roles.into_iter().map(|line| mapping(line.rolearn, line.username, line.groups)).collect(),
        users: users.into_iter().map(|line| mapping(line.userarn, line.username, line.groups)).collect(),
        accounts: list(data, "mapAccounts")?,
    })
}

/// A list in YAML; what is not there is empty.
fn list<T: DeserializeOwned>(data: &BTreeMap<String, String>, name: &str) -> Result<Vec<T>, String> {
    let text = data.get(name).map(|text| text.trim()).filter(|text| !text.is_empty());
    let Some(text) = text else { return Ok(Vec::new()) };
    let read: Result<Option<Vec<T>>, _> = serde_saphyr::from_str(text);
    read.map(Option::unwrap_or_default).map_err(|error| format!("{name}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_is_read_as_people_write_it() {
        let data = BTreeMap::from([
            (
                "mapRoles".to_owned(),
                "- rolearn: arn:aws:iam::1:role/r\n  username: system:node:{{EC2PrivateDNSName}}\n  groups:\n  - system:bootstrappers\n  - system:nodes\n".to_owned(),
            ),
            ("mapUsers".to_owned(), "[]\n".to_owned()),
            ("mapAccounts".to_owned(), "- \"000000000001\"\n".to_owned()),
        ]);
        let map = read(&data).expect("reads");
        assert_eq!(map.roles[0].groups, ["system:bootstrappers", "system:nodes"]);
        assert_eq!((map.users.len(), map.accounts), (0, vec!["000000000001".to_owned()]));
        assert_eq!(read(&BTreeMap::new()).expect("empty"), AwsAuth::default());
        let broken = BTreeMap::from([("mapRoles".to_owned(), "- rolearn: [\n".to_owned())]);
        assert!(read(&broken).expect_err("no YAML").starts_with("mapRoles"));
        let incomplete = BTreeMap::from([("mapUsers".to_owned(), "- userarn: a\n".to_owned())]);
        assert!(read(&incomplete).is_err());
    }
}

//! The ConfigMap `kube-system/aws-auth` of every cluster, as a record that `gate` follows.
//!
//! Invariant: a list that cannot be read stays as it was, and a line that cannot is not there, as with the authenticator.

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
use serde_json::Value;
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
            let Place { eks, cluster, .. } = &self.place;
            let known = eks.cloud.store.view().get_as(&keys::aws_auth(&cluster.scope, &cluster.name));
            let found = self.api().get_opt(NAME).await?;
            let read = found.map(|map| read(&map.data.unwrap_or_default(), known.unwrap_or_default()));
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

/// With what is wrong with it.
fn read(data: &BTreeMap<String, String>, known: AwsAuth) -> (AwsAuth, Vec<String>) {
    let mut complaints = Vec::new();
    let mapping = |arn, username, groups: Option<Vec<String>>| Mapping {
        arn,
        username,
        groups: groups.unwrap_or_default(),
    };
    let role = |line: RoleLine| mapping(line.rolearn, line.username, line.groups);
    let user = |line: UserLine| mapping(line.userarn, line.username, line.groups);
    let map = AwsAuth {
        roles: list(data, "mapRoles", role, known.roles, &mut complaints),
        users: list(data, "mapUsers", user, known.users, &mut complaints),
        accounts: list(data, "mapAccounts", |account: String| account, known.accounts, &mut complaints),
    };
    (map, complaints)
}

/// A list in YAML; what is not there is empty.
fn list<L: DeserializeOwned, T>(
    data: &BTreeMap<String, String>,
    name: &str,
    read: impl Fn(L) -> T,
    known: Vec<T>,
    complaints: &mut Vec<String>,
) -> Vec<T> {
    let text = data.get(name).map(|text| text.trim()).filter(|text| !text.is_empty());
    let Some(text) = text else { return Vec::new() };
    let lines: Option<Vec<Value>> = match serde_saphyr::from_str(text) {
        Ok(lines) => lines,
        Err(error) => {
            complaints.push(format!("{name} cannot be read, and stays as it was: {error}"));
            return known;
        }
    };
    let mut all = Vec::new();
    for line in lines.unwrap_or_default() {
        match serde_json::from_value(line) {
            Ok(line) => all.push(read(line)),
            Err(error) => complaints.push(format!("a line of {name} is left out: {error}")),
        }
    }
    all
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
        let (map, complaints) = read(&data, AwsAuth::default());
        assert_eq!(complaints, Vec::<String>::new());
        assert_eq!(map.roles[0].groups, ["system:bootstrappers", "system:nodes"]);
        assert_eq!((map.users.len(), map.accounts), (0, vec!["000000000001".to_owned()]));
        assert_eq!(read(&BTreeMap::new(), AwsAuth::default()), (AwsAuth::default(), Vec::new()));
    }

    #[test]
    fn what_cannot_be_read_stays_and_the_rest_does_not() {
        let known = AwsAuth {
            roles: vec![Mapping { arn: "r".into(), username: "old".into(), groups: Vec::new() }],
            users: vec![Mapping { arn: "u".into(), username: "gone".into(), groups: Vec::new() }],
            accounts: Vec::new(),
        };
        let data = BTreeMap::from([
            ("mapRoles".to_owned(), "- rolearn: [\n".to_owned()),
            ("mapUsers".to_owned(), "- userarn: a\n- {userarn: b, username: new}\n".to_owned()),
        ]);
        let (map, complaints) = read(&data, known.clone());
        assert_eq!(map.roles, known.roles);
        let names: Vec<&str> = map.users.iter().map(|user| user.username.as_str()).collect();
        assert_eq!(names, ["new"]);
        assert!(
            complaints[0].starts_with("mapRoles") && complaints[1].contains("mapUsers"),
            "{complaints:?}"
        );
    }
}

//! The controller part of the storage driver `ebs.csi.aws.com`: claims become volumes of EC2, attachments become
//! attachments of EC2, snapshots snapshots. What the sidecars of a CSI driver do in a cluster is done here, outside,
//! as EKS's own controllers are; the node part is `ekstra-node`'s.
//!
//! Invariant: a volume is found by its name tag, so a claim has one volume however often it is worked on; and nothing is
//! deleted that another object still names.

mod attachments;
mod claims;
mod parameters;
mod snapshots;
mod volumes;

use crate::controller::{Controller, Outcome, Place, Trouble};
use ekstra_cloud::Cloud;
use ekstra_cloud::ec2::volumes as ec2;
use ekstra_domain::ec2::{Instance, Snapshot, Volume, VolumeState};
use ekstra_domain::eks::Cluster;
use ekstra_domain::names::keys;
use ekstra_store::{CommitError, Txn};
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Node, ObjectReference, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::VolumeAttachment;
use kube::api::Api;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Resource, ResourceExt};
use std::collections::BTreeMap;
use std::time::Duration;

/// As the driver of AWS is called.
pub(crate) const DRIVER: &str = "ebs.csi.aws.com";
/// The name that a volume was made for: `pvc-…`.
const NAME_TAG: &str = "CSIVolumeName";
const SNAPSHOT_NAME_TAG: &str = "CSIVolumeSnapshotName";
/// The cluster whose driver made it.
pub(crate) const CLUSTER_TAG: &str = "ekstra:cluster-uid";
/// Whether it goes with its cluster: what a reclaim policy says.
pub(crate) const RECLAIM_TAG: &str = "ekstra:reclaim-policy";
/// A PersistentVolume was made of it: from then on that decides.
const PROVISIONED_TAG: &str = "ekstra:provisioned";
/// How often volumes and attachments are looked for that nobody wants.
const SWEEP: Duration = Duration::from_secs(20);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    Claim {
        namespace: String,
        name: String,
    },
    Volume(String),
    Attachment(String),
    Snapshot {
        namespace: String,
        name: String,
    },
    Content(String),
    /// Volumes whose claim went before it had them, attachments to nodes that are gone.
    Sweep,
}

/// One for every cluster that is up.
pub(crate) struct Storage {
    place: Place,
    events: Recorder,
}

impl Controller for Storage {
    type Key = Key;
    const NAME: &'static str = "storage";

    fn new(place: Place) -> Self {
        let reporter = Reporter { controller: DRIVER.to_owned(), instance: None };
        Self { events: Recorder::new(place.client.clone(), reporter), place }
    }

    fn watch(&self) -> BoxStream<'static, Result<Key, watcher::Error>> {
        let client = &self.place.client;
        let sweeps = stream::unfold((), |()| async {
            tokio::time::sleep(SWEEP).await;
            Some((Ok(Key::Sweep), ()))
        });
        stream::select_all([
            objects::<PersistentVolumeClaim>(client, |name, namespace| Key::Claim { namespace, name }),
            objects::<PersistentVolume>(client, |name, _| Key::Volume(name)),
            objects::<VolumeAttachment>(client, |name, _| Key::Attachment(name)),
            snapshots::watch(client),
            sweeps.boxed(),
        ])
        .boxed()
    }

    fn step(&self, key: Key) -> BoxFuture<'_, Result<Outcome, Trouble>> {
        async move {
            match &key {
                Key::Claim { namespace, name } => self.claim(namespace, name).await,
                Key::Volume(name) => self.volume(name).await,
                Key::Attachment(name) => self.attachment(name).await,
                Key::Snapshot { namespace, name } => self.snapshot(namespace, name).await,
                Key::Content(name) => self.content(name).await,
                Key::Sweep => {
                    self.sweep_attachments().await?;
                    self.sweep().await
                }
            }
        }
        .boxed()
    }

    fn concerns(changed: &str) -> bool {
        changed.starts_with(keys::VOLUMES) || changed.starts_with(keys::SNAPSHOTS)
    }
}

/// What a cluster that goes takes along: volumes and snapshots that its policies do not keep. Its nodes are gone.
pub(crate) async fn release(cloud: &Cloud, cluster: &Cluster) -> Result<(), Trouble> {
    let view = cloud.store.view();
    let goes = |tags: &BTreeMap<String, String>| {
        let kept = tags.get(RECLAIM_TAG).is_some_and(|policy| policy == "Retain");
        tags.get(CLUSTER_TAG) == Some(&cluster.uid) && !kept
    };
    let snapshots = view.list_as::<Snapshot>(&keys::scoped(keys::SNAPSHOTS, &cluster.scope));
    for (_, snapshot) in snapshots.iter().filter(|(_, s)| goes(&s.tags) && !s.deleting) {
        ec2::delete_snapshot(cloud, &cluster.scope, &snapshot.id).await?;
    }
    let volumes = view.list_as::<Volume>(&keys::scoped(keys::VOLUMES, &cluster.scope));
    for (key, _) in volumes.iter().filter(|(_, v)| goes(&v.tags) && v.state != VolumeState::Deleting) {
        let body = |txn: &mut Txn| {
            if let Some(mut volume) = txn.get::<Volume>(key)? {
                volume.state = VolumeState::Deleting;
                txn.put(key, &volume)?;
            }
            Ok::<_, CommitError>(())
        };
        cloud.store.transact(body).await?;
    }
    Ok(())
}

/// How many volumes of pods an instance has.
pub(crate) fn held_by(cloud: &Cloud, instance: &Instance) -> usize {
    let volumes = cloud.store.view().list_as::<Volume>(&keys::scoped(keys::VOLUMES, &instance.scope));
    let of_pods = |volume: &Volume| {
        let held = volume.attachment.as_ref().is_some_and(|a| a.instance == instance.id);
        held && volume.tags.contains_key(CLUSTER_TAG)
    };
    volumes.iter().filter(|(_, volume)| of_pods(volume)).count()
}

/// Those that are there, and every change.
fn objects<K>(
    client: &Client,
    key: fn(String, String) -> Key,
) -> BoxStream<'static, Result<Key, watcher::Error>>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + Send + serde::de::DeserializeOwned + 'static,
{
    let api: Api<K> = Api::all(client.clone());
    let changes = watcher(api, watcher::Config::default()).default_backoff().touched_objects();
    changes.map_ok(move |object| key(object.name_any(), object.namespace().unwrap_or_default())).boxed()
}

impl Storage {
    fn record<T: serde::de::DeserializeOwned>(&self, key: &str) -> Option<T> {
        self.place.eks.cloud.store.view().get_as(key)
    }

    fn volume_record(&self, id: &str) -> Option<Volume> {
        self.record(&keys::volume(&self.place.cluster.scope, id))
    }

    /// Volumes that this cluster's driver made.
    fn own_volumes(&self) -> Vec<Volume> {
        let prefix = keys::scoped(keys::VOLUMES, &self.place.cluster.scope);
        let all = self.place.eks.cloud.store.view().list_as::<Volume>(&prefix);
        let own = |volume: &Volume| volume.tags.get(CLUSTER_TAG) == Some(&self.place.cluster.uid);
        all.into_iter().map(|(_, volume)| volume).filter(own).collect()
    }

    /// Writes a tag of a volume, if it has another value.
    async fn tag_volume(&self, id: &str, tag: &str, value: &str) -> Result<(), Trouble> {
        let is_told = |volume: &Volume| volume.tags.get(tag).is_some_and(|told| told == value);
        if self.volume_record(id).is_none_or(|volume| is_told(&volume)) {
            return Ok(());
        }
        let key = keys::volume(&self.place.cluster.scope, id);
        let body = |txn: &mut Txn| {
            if let Some(mut volume) = txn.get::<Volume>(&key)? {
                volume.tags.insert(tag.to_owned(), value.to_owned());
                txn.put(&key, &volume)?;
            }
            Ok::<_, CommitError>(())
        };
        Ok(self.place.eks.cloud.store.transact(body).await?)
    }

    fn volume_named(&self, name: &str) -> Option<Volume> {
        self.own_volumes().into_iter().find(|v| v.tags.get(NAME_TAG).is_some_and(|tag| tag == name))
    }

    fn snapshot_record(&self, id: &str) -> Option<Snapshot> {
        self.record(&keys::snapshot(&self.place.cluster.scope, id))
    }

    /// The instance that a node is.
    async fn instance_of(&self, node: &str) -> Result<Option<Instance>, Trouble> {
        let nodes: Api<Node> = Api::all(self.place.client.clone());
        let Some(node) = nodes.get_opt(node).await? else { return Ok(None) };
        let provider = node.spec.and_then(|spec| spec.provider_id).unwrap_or_default();
        let id = provider.rsplit('/').next().unwrap_or_default();
        Ok(self.record(&keys::instance(&self.place.cluster.scope, id)))
    }

    /// An event of an object. That it cannot be written is no reason to stop.
    async fn tell(&self, about: &ObjectReference, type_: EventType, reason: &str, note: String) {
        let event =
            Event { type_, reason: reason.into(), note: Some(note), action: reason.into(), secondary: None };
        if let Err(error) = self.events.publish(&event, about).await {
            tracing::debug!(%error, reason, "an event was not written");
        }
    }
}

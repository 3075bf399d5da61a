//! VolumeSnapshots: a copy of a claim's volume, and volumes from copies. The kinds are not of Kubernetes itself; their
//! definitions are among the built-in objects (`bootstrap/snapshots.yaml`).
//!
//! Invariant: a VolumeSnapshot has one content, named by its uid, and a content one snapshot of EC2, found by its tag.

use super::claims::volume_id;
use super::{CLUSTER_TAG, DRIVER, Key, RECLAIM_TAG, SNAPSHOT_NAME_TAG, Storage};
use crate::controller::{Outcome, Trouble};
use crate::finalizers::{add_finalizer, drop_finalizer};
use ekstra_cloud::ec2::volumes;
use ekstra_domain::ec2::{Snapshot, SnapshotState};
use ekstra_domain::names::keys;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub(super) const GROUP: &str = "snapshot.storage.k8s.io";
const DEFAULT_CLASS: &str = "snapshot.storage.kubernetes.io/is-default-class";
const FINALIZER: &str = "snapshot.storage.kubernetes.io/volumesnapshot-bound-protection";
const CONTENT_FINALIZER: &str = "snapshot.storage.kubernetes.io/volumesnapshotcontent-bound-protection";

fn resource(kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk(GROUP, "v1", kind))
}

fn snapshots(client: &Client, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, &resource("VolumeSnapshot"))
}

fn contents(client: &Client) -> Api<DynamicObject> {
    Api::all_with(client.clone(), &resource("VolumeSnapshotContent"))
}

fn text<'a>(object: &'a DynamicObject, pointer: &str) -> Option<&'a str> {
    object.data.pointer(pointer)?.as_str()
}

/// A content that changes is news for its snapshot too.
pub(super) fn watch(client: &Client) -> BoxStream<'static, Result<Key, watcher::Error>> {
    let follow = |kind: &str, keys: fn(&DynamicObject) -> Vec<Key>| {
        let resource = resource(kind);
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        let changes = watcher(api, watcher::Config::default()).default_backoff().touched_objects();
        let keys = move |change: Result<DynamicObject, _>| match change {
            Ok(object) => stream::iter(keys(&object).into_iter().map(Ok).collect::<Vec<_>>()),
            Err(error) => stream::iter(vec![Err(error)]),
        };
        changes.flat_map(keys).boxed()
    };
    stream::select_all([
        follow("VolumeSnapshot", |snapshot| {
            vec![snapshot_key(snapshot.namespace().unwrap_or_default(), snapshot.name_any())]
        }),
        follow("VolumeSnapshotContent", |content| {
            let part =
                |what: &str| text(content, &format!("/spec/volumeSnapshotRef/{what}")).map(str::to_owned);
            let of =
                part("namespace").zip(part("name")).map(|(namespace, name)| snapshot_key(namespace, name));
            of.into_iter().chain([Key::Content(content.name_any())]).collect()
        }),
    ])
    .boxed()
}

fn snapshot_key(namespace: String, name: String) -> Key {
    Key::Snapshot { namespace, name }
}

/// The snapshot of EC2 that a claim is to begin with.
pub(super) async fn handle(
    client: &Client,
    claim: &PersistentVolumeClaim,
    name: &str,
) -> Result<String, Trouble> {
    let namespace = claim.namespace().unwrap_or_default();
    let refused = |why: &str| Trouble::refused(format!("VolumeSnapshot \"{name}\" {why}"));
    let snapshot =
        snapshots(client, &namespace).get_opt(name).await?.ok_or_else(|| refused("does not exist"))?;
    if snapshot.data.pointer("/status/readyToUse") != Some(&Value::Bool(true)) {
        return Err(refused("is not ready yet"));
    }
    let content = text(&snapshot, "/status/boundVolumeSnapshotContentName").unwrap_or_default();
    let content = contents(client).get_opt(content).await?.ok_or_else(|| refused("has no content"))?;
    if text(&content, "/spec/driver") != Some(DRIVER) {
        return Err(refused("is of another driver"));
    }
    text(&content, "/status/snapshotHandle").map(str::to_owned).ok_or_else(|| refused("has no snapshot yet"))
}

impl Storage {
    pub(super) async fn snapshot(&self, namespace: &str, name: &str) -> Result<Outcome, Trouble> {
        let api = snapshots(&self.place.client, namespace);
        let Some(snapshot) = api.get_opt(name).await? else { return Ok(Outcome::Settled) };
        let step = if snapshot.metadata.deletion_timestamp.is_some() {
            self.end_snapshot(&api, &snapshot).await
        } else {
            self.bind(&api, &snapshot, namespace).await
        };
        if let Err(Trouble::Refused(why)) = &step {
            let error = json!({"status": {"readyToUse": false, "error": {"message": why}}});
            patch_status(&api, name, &error).await?;
        }
        step
    }

    async fn bind(
        &self,
        api: &Api<DynamicObject>,
        snapshot: &DynamicObject,
        namespace: &str,
    ) -> Result<Outcome, Trouble> {
        let contents = contents(&self.place.client);
        let own = format!("snapcontent-{}", snapshot.uid().unwrap_or_default());
        let given = text(snapshot, "/spec/source/volumeSnapshotContentName").map(str::to_owned);
        let name = given.clone().unwrap_or(own);
        let content = match contents.get_opt(&name).await? {
            Some(content) => content,
            None if given.is_some() => {
                return Err(Trouble::refused(format!("VolumeSnapshotContent \"{name}\" does not exist")));
            }
            None => {
                let Some(body) = self.new_content(snapshot, namespace, &name).await? else {
                    return Ok(Outcome::Settled);
                };
                contents.create(&PostParams::default(), &body).await?
            }
        };
        if text(&content, "/spec/driver") != Some(DRIVER) {
            return Ok(Outcome::Settled);
        }
        if text(&content, "/spec/volumeSnapshotRef/name") != Some(&snapshot.name_any()) {
            return Err(Trouble::refused(format!("VolumeSnapshotContent \"{name}\" is another snapshot's")));
        }
        add_finalizer(api, snapshot, FINALIZER).await?;
        let ready = content.data.pointer("/status/readyToUse") == Some(&Value::Bool(true));
        let mut status =
            json!({"boundVolumeSnapshotContentName": name, "readyToUse": ready, "error": Value::Null});
        if let Some(size) = content.data.pointer("/status/restoreSize").and_then(Value::as_i64) {
            status["restoreSize"] = json!(size.to_string());
        }
        if let Some(nanoseconds) = content.data.pointer("/status/creationTime").and_then(Value::as_i64) {
            let time =
                k8s_openapi::jiff::Timestamp::from_nanosecond(i128::from(nanoseconds)).unwrap_or_default();
            status["creationTime"] = json!(time.to_string());
        }
        patch_status(api, &snapshot.name_any(), &json!({"status": status})).await?;
        Ok(if ready { Outcome::Settled } else { Outcome::Waiting })
    }

    /// `None`: it is of another driver's class.
    async fn new_content(
        &self,
        snapshot: &DynamicObject,
        namespace: &str,
        name: &str,
    ) -> Result<Option<DynamicObject>, Trouble> {
        let Some(class) = self.class(text(snapshot, "/spec/volumeSnapshotClassName")).await? else {
            return Ok(None);
        };
        let client = &self.place.client;
        let claim_name = text(snapshot, "/spec/source/persistentVolumeClaimName").unwrap_or_default();
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
        let claim = claims.get_opt(claim_name).await?;
        let bound = claim.and_then(|claim| claim.spec?.volume_name).unwrap_or_default();
        let persistent: Api<PersistentVolume> = Api::all(client.clone());
        let volume = match bound.is_empty() {
            true => None,
            false => persistent.get_opt(&bound).await?.as_ref().and_then(volume_id),
        };
        let volume = volume.ok_or_else(|| {
            Trouble::refused(format!(
                "claim \"{claim_name}\" has no volume of {DRIVER} to take a snapshot of"
            ))
        })?;
        let body = json!({
            "apiVersion": format!("{GROUP}/v1"),
            "kind": "VolumeSnapshotContent",
            "metadata": {"name": name, "finalizers": [CONTENT_FINALIZER]},
            "spec": {
                "driver": DRIVER,
                "deletionPolicy": text(&class, "/deletionPolicy").unwrap_or("Delete"),
                "source": {"volumeHandle": volume},
                "volumeSnapshotClassName": class.name_any(),
                "volumeSnapshotRef": {
                    "apiVersion": format!("{GROUP}/v1"),
                    "kind": "VolumeSnapshot",
                    "namespace": namespace,
                    "name": snapshot.name_any(),
                    "uid": snapshot.uid(),
                },
            },
        });
        Ok(serde_json::from_value(body).ok())
    }

    /// By name, or the default one of this driver.
    async fn class(&self, name: Option<&str>) -> Result<Option<DynamicObject>, Trouble> {
        let classes: Api<DynamicObject> =
            Api::all_with(self.place.client.clone(), &resource("VolumeSnapshotClass"));
        let ours = |class: &DynamicObject| text(class, "/driver") == Some(DRIVER);
        let Some(name) = name else {
            let all = classes.list(&ListParams::default()).await?;
            let is_default = |class: &DynamicObject| {
                class.annotations().get(DEFAULT_CLASS).is_some_and(|value| value == "true")
            };
            return Ok(all.into_iter().find(|class| is_default(class) && ours(class)));
        };
        let class = classes.get_opt(name).await?;
        let missing = || Trouble::refused(format!("there is no VolumeSnapshotClass \"{name}\""));
        Ok(Some(class.ok_or_else(missing)?).filter(ours))
    }

    /// Its content goes first, if it is not to be kept.
    async fn end_snapshot(
        &self,
        api: &Api<DynamicObject>,
        snapshot: &DynamicObject,
    ) -> Result<Outcome, Trouble> {
        let contents = contents(&self.place.client);
        let name = text(snapshot, "/status/boundVolumeSnapshotContentName").unwrap_or_default();
        let content = if name.is_empty() { None } else { contents.get_opt(name).await? };
        if let Some(content) = content
            && text(&content, "/spec/driver") == Some(DRIVER)
            && text(&content, "/spec/deletionPolicy") == Some("Delete")
        {
            if content.metadata.deletion_timestamp.is_none() {
                contents.delete(name, &DeleteParams::default()).await?;
            }
            return Ok(Outcome::Waiting);
        }
        drop_finalizer(api, snapshot, FINALIZER).await?;
        Ok(Outcome::Settled)
    }

    pub(super) async fn content(&self, name: &str) -> Result<Outcome, Trouble> {
        let contents = contents(&self.place.client);
        let Some(content) = contents.get_opt(name).await? else { return Ok(Outcome::Settled) };
        if text(&content, "/spec/driver") != Some(DRIVER) {
            return Ok(Outcome::Settled);
        }
        if content.metadata.deletion_timestamp.is_some() {
            return self.end_content(&contents, &content).await;
        }
        let snapshot = match self.taken(&content) {
            Some(snapshot) => snapshot,
            None => self.take(&content, name).await?,
        };
        let ready = snapshot.state == SnapshotState::Completed;
        let status = json!({"status": {
            "snapshotHandle": snapshot.id,
            "creationTime": snapshot.started_ms.saturating_mul(1_000_000),
            "restoreSize": i64::from(snapshot.size_gib) << 30,
            "readyToUse": ready,
        }});
        patch_status(&contents, name, &status).await?;
        Ok(if ready { Outcome::Settled } else { Outcome::Waiting })
    }

    /// The snapshot of EC2 that this content is.
    fn taken(&self, content: &DynamicObject) -> Option<Snapshot> {
        let given = text(content, "/spec/source/snapshotHandle").or(text(content, "/status/snapshotHandle"));
        if let Some(id) = given {
            return self.snapshot_record(id);
        }
        let prefix = keys::scoped(keys::SNAPSHOTS, &self.place.cluster.scope);
        let all = self.place.eks.cloud.store.view().list_as::<Snapshot>(&prefix);
        let name = content.name_any();
        let named = |s: &Snapshot| s.tags.get(SNAPSHOT_NAME_TAG) == Some(&name) && !s.deleting;
        all.into_iter().map(|(_, snapshot)| snapshot).find(named)
    }

    async fn take(&self, content: &DynamicObject, name: &str) -> Result<Snapshot, Trouble> {
        let Some(volume) = text(content, "/spec/source/volumeHandle") else {
            return Err(Trouble::refused("The snapshot does not exist."));
        };
        let cluster = &self.place.cluster;
        let tags = [
            (SNAPSHOT_NAME_TAG, name.to_owned()),
            ("ebs.csi.aws.com/cluster", "true".to_owned()),
            (CLUSTER_TAG, cluster.uid.clone()),
            (RECLAIM_TAG, text(content, "/spec/deletionPolicy").unwrap_or("Delete").to_owned()),
        ];
        let tags: BTreeMap<String, String> = tags.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        let description = "Created by AWS EBS CSI driver for volume ".to_owned() + volume;
        Ok(volumes::create_snapshot(&self.place.eks.cloud, &cluster.scope, volume, description, tags).await?)
    }

    async fn end_content(
        &self,
        contents: &Api<DynamicObject>,
        content: &DynamicObject,
    ) -> Result<Outcome, Trouble> {
        let goes = text(content, "/spec/deletionPolicy") == Some("Delete");
        if let Some(snapshot) = self.taken(content).filter(|_| goes) {
            if !snapshot.deleting {
                let scope = &self.place.cluster.scope;
                volumes::delete_snapshot(&self.place.eks.cloud, scope, &snapshot.id).await?;
            }
            return Ok(Outcome::Waiting);
        }
        drop_finalizer(contents, content, CONTENT_FINALIZER).await?;
        Ok(Outcome::Settled)
    }
}

async fn patch_status(api: &Api<DynamicObject>, name: &str, patch: &Value) -> Result<(), Trouble> {
    match api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        patched => Ok(patched.map(drop)?),
    }
}

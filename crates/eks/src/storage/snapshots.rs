//! VolumeSnapshots: a copy of a claim's volume, and volumes from copies. The kinds are not of Kubernetes itself; their
//! definitions are among the built-in objects (`bootstrap/snapshots.yaml`).
//!
//! Invariant: a VolumeSnapshot has one content, named by its uid, and a content one snapshot of EC2, found by its tag.

use super::claims::{is_bound, volume_id};
use super::{CLUSTER_TAG, DRIVER, Key, RECLAIM_TAG, SNAPSHOT_NAME_TAG, Storage};
use crate::controller::{Outcome, Trouble};
use crate::finalizers::{add_finalizer, drop_finalizer};
use ekstra_cloud::ec2::volumes;
use ekstra_domain::ec2::{Snapshot, SnapshotState};
use ekstra_domain::names::keys;
use ekstra_store::{CommitError, Txn};
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
/// Of a claim whose snapshot has not been taken yet.
const SOURCE_FINALIZER: &str = "snapshot.storage.kubernetes.io/pvc-as-source-protection";
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
    if !is_of(&content, &snapshot) {
        return Err(refused("has another snapshot's content"));
    }
    text(&content, "/status/snapshotHandle").map(str::to_owned).ok_or_else(|| refused("has no snapshot yet"))
}

/// The VolumeSnapshot that a content is of. A content that was made by hand may not know its uid yet.
fn is_of(content: &DynamicObject, snapshot: &DynamicObject) -> bool {
    let part = |what: &str| text(content, &format!("/spec/volumeSnapshotRef/{what}")).map(str::to_owned);
    let uid = part("uid").filter(|uid| !uid.is_empty());
    part("name") == Some(snapshot.name_any())
        && part("namespace") == snapshot.namespace()
        && (uid.is_none() || uid == snapshot.uid())
}

/// Whether the copy has been asked for, and so no longer needs the claim.
fn is_cut(content: &DynamicObject) -> bool {
    text(content, "/status/snapshotHandle").is_some()
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
        let was_bound = text(snapshot, "/status/boundVolumeSnapshotContentName").is_some();
        let content = match contents.get_opt(&name).await? {
            Some(content) => content,
            // A second copy would be of another moment.
            None if given.is_some() || was_bound => {
                return Err(Trouble::refused(format!("VolumeSnapshotContent \"{name}\" does not exist")));
            }
            None => {
                // Before there is anything that it has to take along.
                add_finalizer(api, snapshot, FINALIZER).await?;
                let Some(body) = self.new_content(snapshot, namespace, &name).await? else {
                    return Ok(Outcome::Settled);
                };
                contents.create(&PostParams::default(), &body).await?
            }
        };
        if text(&content, "/spec/driver") != Some(DRIVER) {
            return Ok(Outcome::Settled);
        }
        if !is_of(&content, snapshot) {
            return Err(Trouble::refused(format!("VolumeSnapshotContent \"{name}\" is another snapshot's")));
        }
        if text(&content, "/spec/volumeSnapshotRef/uid").is_none_or(str::is_empty) {
            let uid = json!({"spec": {"volumeSnapshotRef": {"uid": snapshot.uid()}}});
            contents.patch(&name, &PatchParams::default(), &Patch::Merge(uid)).await?;
        }
        if let Some(snapshot) = api.get_opt(&snapshot.name_any()).await? {
            add_finalizer(api, &snapshot, FINALIZER).await?;
        }
        if let Some(why) = text(&content, "/status/error/message") {
            return Err(Trouble::refused(why));
        }
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
        if is_cut(&content) {
            self.release_claim_of(snapshot, namespace).await?;
        }
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
        let claim = claims.get_opt(claim_name).await?.unwrap_or_default();
        let bound = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()).unwrap_or_default();
        let persistent: Api<PersistentVolume> = Api::all(client.clone());
        let volume = match bound.is_empty() {
            true => None,
            false => persistent.get_opt(&bound).await?.filter(|pv| is_bound(&claim, pv)),
        };
        let volume = volume.as_ref().and_then(volume_id);
        let volume = volume.ok_or_else(|| {
            Trouble::refused(format!(
                "claim \"{claim_name}\" has no volume of {DRIVER} to take a snapshot of"
            ))
        })?;
        // Until the copy is asked for, the claim keeps the volume.
        add_finalizer(&claims, &claim, SOURCE_FINALIZER).await?;
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
        let own = content.filter(|content| is_of(content, snapshot));
        if let Some(content) = own
            && text(&content, "/spec/driver") == Some(DRIVER)
            && text(&content, "/spec/deletionPolicy") == Some("Delete")
        {
            if content.metadata.deletion_timestamp.is_none() {
                contents.delete(name, &DeleteParams::default()).await?;
            }
            return Ok(Outcome::Waiting);
        }
        self.release_claim_of(snapshot, &snapshot.namespace().unwrap_or_default()).await?;
        drop_finalizer(api, snapshot, FINALIZER).await?;
        Ok(Outcome::Settled)
    }

    async fn release_claim_of(&self, snapshot: &DynamicObject, namespace: &str) -> Result<(), Trouble> {
        let Some(name) = text(snapshot, "/spec/source/persistentVolumeClaimName") else { return Ok(()) };
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.place.client.clone(), namespace);
        let Some(claim) = claims.get_opt(name).await? else { return Ok(()) };
        self.release_source(&claims, &claim).await.map(drop)
    }

    /// The claim may go when no snapshot of it waits for its copy to be asked for.
    pub(super) async fn release_source(
        &self,
        claims: &Api<PersistentVolumeClaim>,
        claim: &PersistentVolumeClaim,
    ) -> Result<Outcome, Trouble> {
        if !claim.finalizers().iter().any(|finalizer| finalizer == SOURCE_FINALIZER) {
            return Ok(Outcome::Settled);
        }
        let of_namespace = snapshots(&self.place.client, &claim.namespace().unwrap_or_default());
        let (all, contents) =
            (of_namespace.list(&ListParams::default()).await?, contents(&self.place.client));
        let name = claim.name_any();
        for snapshot in all {
            let is_of_claim = text(&snapshot, "/spec/source/persistentVolumeClaimName") == Some(&name);
            if !is_of_claim || snapshot.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let content = format!("snapcontent-{}", snapshot.uid().unwrap_or_default());
            if !contents.get_opt(&content).await?.is_some_and(|content| is_cut(&content)) {
                return Ok(Outcome::Waiting);
            }
        }
        drop_finalizer(claims, claim, SOURCE_FINALIZER).await?;
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
        let step = self.keep_content(&contents, &content, name).await;
        if let Err(Trouble::Refused(why)) = &step {
            let error = json!({"status": {"readyToUse": false, "error": {"message": why}}});
            patch_status(&contents, name, &error).await?;
        }
        step
    }

    async fn keep_content(
        &self,
        contents: &Api<DynamicObject>,
        content: &DynamicObject,
        name: &str,
    ) -> Result<Outcome, Trouble> {
        let goes = text(content, "/spec/deletionPolicy") == Some("Delete");
        if goes && self.is_orphan(content).await? {
            contents.delete(name, &DeleteParams::default()).await?;
            return Ok(Outcome::Settled);
        }
        let snapshot = match self.taken(content) {
            Some(snapshot) => snapshot,
            // Of a copy that is gone there is no second one: it would be of another moment.
            None if is_cut(content) => return Err(Trouble::refused("Its snapshot does not exist any more.")),
            None => self.take(content, name).await?,
        };
        self.note_policy(content, &snapshot).await?;
        if snapshot.state == SnapshotState::Error {
            let why = snapshot.state_message.unwrap_or_else(|| "The copy failed.".into());
            return Err(Trouble::refused(why));
        }
        let ready = snapshot.state == SnapshotState::Completed;
        let status = json!({"status": {
            "error": Value::Null,
            "snapshotHandle": snapshot.id,
            "creationTime": snapshot.started_ms.saturating_mul(1_000_000),
            "restoreSize": i64::from(snapshot.size_gib) << 30,
            "readyToUse": ready,
        }});
        patch_status(contents, name, &status).await?;
        Ok(if ready { Outcome::Settled } else { Outcome::Waiting })
    }

    /// Its VolumeSnapshot is gone, or another one has its name.
    async fn is_orphan(&self, content: &DynamicObject) -> Result<bool, Trouble> {
        if text(content, "/spec/volumeSnapshotRef/uid").is_none_or(str::is_empty) {
            return Ok(false);
        }
        Ok(self.bound_to(content).await?.is_none())
    }

    /// The VolumeSnapshot that a content is of.
    async fn bound_to(&self, content: &DynamicObject) -> Result<Option<DynamicObject>, Trouble> {
        let part = |what: &str| text(content, &format!("/spec/volumeSnapshotRef/{what}")).unwrap_or_default();
        let named = snapshots(&self.place.client, part("namespace")).get_opt(part("name")).await?;
        Ok(named.filter(|snapshot| is_of(content, snapshot)))
    }

    /// Whether it goes with its cluster is decided by what its policy is then.
    async fn note_policy(&self, content: &DynamicObject, snapshot: &Snapshot) -> Result<(), Trouble> {
        let policy = text(content, "/spec/deletionPolicy").unwrap_or("Delete").to_owned();
        if snapshot.tags.get(RECLAIM_TAG).is_none_or(|told| *told == policy) {
            return Ok(());
        }
        let key = keys::snapshot(&self.place.cluster.scope, &snapshot.id);
        let body = |txn: &mut Txn| {
            if let Some(mut snapshot) = txn.get::<Snapshot>(&key)? {
                snapshot.tags.insert(RECLAIM_TAG.to_owned(), policy.clone());
                txn.put(&key, &snapshot)?;
            }
            Ok::<_, CommitError>(())
        };
        Ok(self.place.eks.cloud.store.transact(body).await?)
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
        // As long as somebody is bound to it, it is only marked.
        let bound = self.bound_to(content).await?;
        if bound.is_some_and(|snapshot| snapshot.metadata.deletion_timestamp.is_none()) {
            return Ok(Outcome::Waiting);
        }
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

//! Elastic Block Store: what may be asked of volumes and snapshots, as transactions. The operations (`operations.rs`) and
//! the storage controllers of clusters ask in the same way; the reconcilers (`reconcile.rs`, `snapshots.rs`) make it so.
//!
//! Invariant: an attachment names one instance of the volume's zone, and nothing but the reconciler, which has seen
//! the device go, takes it out of the record.

pub(super) mod describe;
pub(super) mod operations;
mod reconcile;
mod snapshots;

pub use reconcile::VolumeReconciler;
pub use snapshots::SnapshotReconciler;

use crate::Cloud;
use crate::api::Refusal;
use ekstra_domain::ec2::{
    AttachmentState, Instance, InstanceState, Performance, Snapshot, SnapshotState, Volume, VolumeAttachment,
    VolumeModification, VolumeState, ZONES,
};
use ekstra_domain::names::{Scope, keys};
use ekstra_store::Txn;
use ekstra_wire::ApiError;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A volume to be made.
#[derive(Clone, Debug)]
pub struct NewVolume {
    pub scope: Scope,
    pub zone: String,
    pub size_gib: u32,
    pub performance: Performance,
    /// Its content; it must be complete, and not larger.
    pub snapshot: Option<String>,
    pub tags: BTreeMap<String, String>,
    /// Idempotency: the caller's token, and a digest of what was asked with it.
    pub token: Option<String>,
    pub digest: String,
}

/// A change of size or performance.
#[derive(Clone, Debug)]
pub struct Change {
    pub size_gib: u32,
    pub performance: Performance,
}

pub(crate) fn refuse(code: &str, message: impl Into<String>) -> Refusal {
    ApiError::client(code, 400, message).into()
}

pub(crate) fn no_volume(id: &str) -> Refusal {
    refuse("InvalidVolume.NotFound", format!("The volume '{id}' does not exist."))
}

pub(crate) fn no_snapshot(id: &str) -> Refusal {
    refuse("InvalidSnapshot.NotFound", format!("The snapshot '{id}' does not exist."))
}

/// Where the content of a volume lies.
fn volume_file(cloud: &Cloud, id: &str) -> PathBuf {
    cloud.home.join("volumes").join(id)
}

fn snapshot_file(cloud: &Cloud, id: &str) -> PathBuf {
    cloud.home.join("snapshots").join(id)
}

pub fn find(cloud: &Cloud, scope: &Scope, id: &str) -> Option<Volume> {
    cloud.store.view().get_as(&keys::volume(scope, id))
}

pub fn find_snapshot(cloud: &Cloud, scope: &Scope, id: &str) -> Option<Snapshot> {
    cloud.store.view().get_as(&keys::snapshot(scope, id))
}

/// What a repeated request made the first time, if it is one.
pub async fn create(cloud: &Cloud, new: NewVolume) -> Result<Volume, Refusal> {
    let (id, now) = (cloud.env.ec2_id("vol"), cloud.env.now_ms());
    let zones: Vec<String> = ZONES.iter().map(|letter| format!("{}{letter}", new.scope.region)).collect();
    if !zones.contains(&new.zone) {
        return Err(refuse("InvalidZone.NotFound", format!("The zone '{}' does not exist.", new.zone)));
    }
    cloud
        .store
        .transact(|txn| {
            if let Some(existing) = made_before(txn, &new)? {
                return Ok(existing);
            }
            if let Some(id) = &new.snapshot {
                check_source(txn, &new, id)?;
            }
            let volume = Volume {
                id: id.clone(),
                scope: new.scope.clone(),
                zone: new.zone.clone(),
                size_gib: new.size_gib,
                performance: new.performance.clone(),
                snapshot: new.snapshot.clone(),
                state: VolumeState::Creating,
                attachment: None,
                modification: None,
                created_ms: now,
                tags: new.tags.clone(),
                request_token: new.token.clone(),
                request_digest: new.digest.clone(),
                trouble: None,
            };
            txn.put(&keys::volume(&new.scope, &id), &volume)?;
            Ok(volume)
        })
        .await
}

fn made_before(txn: &mut Txn, new: &NewVolume) -> Result<Option<Volume>, Refusal> {
    let Some(token) = &new.token else { return Ok(None) };
    let known = txn.list::<Volume>(&keys::scoped(keys::VOLUMES, &new.scope))?;
    match known.into_iter().map(|(_, v)| v).find(|v| v.request_token.as_ref() == Some(token)) {
        Some(volume) if volume.request_digest != new.digest => {
            let message = "The client token was used before with other parameters.";
            Err(refuse("IdempotentParameterMismatch", message))
        }
        found => Ok(found),
    }
}

fn check_source(txn: &mut Txn, new: &NewVolume, id: &str) -> Result<(), Refusal> {
    let snapshot = txn.get::<Snapshot>(&keys::snapshot(&new.scope, id))?.filter(|s| !s.deleting);
    let snapshot = snapshot.ok_or_else(|| no_snapshot(id))?;
    if snapshot.state != SnapshotState::Completed {
        let message = format!("Snapshot is in invalid state - {}", snapshot.state.wire());
        return Err(refuse("IncorrectState", message));
    }
    if snapshot.size_gib > new.size_gib {
        let message = format!(
            "Volume of {}GiB is smaller than snapshot '{id}', expect size >= {}GiB",
            new.size_gib, snapshot.size_gib
        );
        return Err(refuse("InvalidParameterValue", message));
    }
    Ok(())
}

/// The record, for a change.
fn get(txn: &mut Txn, scope: &Scope, id: &str) -> Result<Volume, Refusal> {
    let volume = txn.get::<Volume>(&keys::volume(scope, id))?;
    volume.filter(|v| v.state != VolumeState::Deleting).ok_or_else(|| no_volume(id))
}

/// Asks for the volume as `device` of an instance.
pub async fn attach(
    cloud: &Cloud,
    scope: &Scope,
    id: &str,
    instance: &str,
    device: &str,
) -> Result<Volume, Refusal> {
    let now = cloud.env.now_ms();
    cloud
        .store
        .transact(|txn| {
            let mut volume = get(txn, scope, id)?;
            check_attachable(txn, &volume, instance, device)?;
            volume.attachment = Some(VolumeAttachment {
                instance: instance.to_owned(),
                device: device.to_owned(),
                state: AttachmentState::Attaching,
                since_ms: now,
            });
            volume.state = VolumeState::InUse;
            txn.put(&keys::volume(scope, id), &volume)?;
            Ok(volume)
        })
        .await
}

fn check_attachable(txn: &mut Txn, volume: &Volume, instance: &str, device: &str) -> Result<(), Refusal> {
    let id = &volume.id;
    if volume.attachment.is_some() {
        return Err(refuse("VolumeInUse", format!("{id} is already attached to an instance")));
    }
    if volume.state != VolumeState::Available {
        return Err(refuse("IncorrectState", format!("Volume '{id}' is not 'available'.")));
    }
    let target = txn.get::<Instance>(&keys::instance(&volume.scope, instance))?;
    let missing = || format!("The instance ID '{instance}' does not exist");
    let target = target.ok_or_else(|| refuse("InvalidInstanceID.NotFound", missing()))?;
    if target.state != InstanceState::Running {
        return Err(refuse("IncorrectState", format!("Instance '{instance}' is not 'running'.")));
    }
    if target.zone != volume.zone {
        let message =
            format!("The volume '{id}' is not in the same availability zone as instance '{instance}'");
        return Err(refuse("InvalidVolume.ZoneMismatch", message));
    }
    let others = txn.list::<Volume>(&keys::scoped(keys::VOLUMES, &volume.scope))?;
    let mut held = others.iter().filter_map(|(_, v)| v.attachment.as_ref());
    if held.any(|a| a.instance == instance && a.device == device) {
        let message =
            format!("Invalid value '{device}' for unixDevice. Attachment point {device} is already in use");
        return Err(refuse("InvalidParameterValue", message));
    }
    Ok(())
}

/// Device names for volumes that controllers attach, as the EBS CSI driver picks them, and not taken by another.
pub fn free_device(cloud: &Cloud, scope: &Scope, instance: &str) -> Option<String> {
    let volumes = cloud.store.view().list_as::<Volume>(&keys::scoped(keys::VOLUMES, scope));
    let taken: Vec<String> = volumes
        .into_iter()
        .filter_map(|(_, v)| v.attachment)
        .filter(|a| a.instance == instance)
        .map(|a| a.device)
        .collect();
    let names =
        "bcd".chars().flat_map(|first| ('a'..='z').map(move |second| format!("/dev/xvd{first}{second}")));
    names.into_iter().find(|name| !taken.contains(name))
}

/// Asks for the end of the attachment. `instance`: only of one to it.
pub async fn detach(
    cloud: &Cloud,
    scope: &Scope,
    id: &str,
    instance: Option<&str>,
) -> Result<Volume, Refusal> {
    let now = cloud.env.now_ms();
    cloud
        .store
        .transact(|txn| {
            let mut volume = get(txn, scope, id)?;
            let state = volume.state.wire();
            let Some(attachment) = &mut volume.attachment else {
                return Err(refuse("IncorrectState", format!("Volume '{id}' is in the '{state}' state.")));
            };
            if instance.is_some_and(|instance| instance != attachment.instance) {
                let message = format!("The volume '{id}' is not attached to that instance");
                return Err(refuse("InvalidAttachment.NotFound", message));
            }
            if attachment.state != AttachmentState::Detaching {
                attachment.state = AttachmentState::Detaching;
                attachment.since_ms = now;
            }
            txn.put(&keys::volume(scope, id), &volume)?;
            Ok(volume)
        })
        .await
}

/// Asks for the volume's end. What is attached is refused.
pub async fn delete(cloud: &Cloud, scope: &Scope, id: &str) -> Result<(), Refusal> {
    cloud
        .store
        .transact(|txn| {
            let mut volume = get(txn, scope, id)?;
            if let Some(attachment) = &volume.attachment {
                let message = format!("Volume {id} is currently attached to {}", attachment.instance);
                return Err(refuse("VolumeInUse", message));
            }
            volume.state = VolumeState::Deleting;
            Ok(txn.put(&keys::volume(scope, id), &volume)?)
        })
        .await
}

/// Asks for another size or performance. Volumes grow only.
pub async fn modify(
    cloud: &Cloud,
    scope: &Scope,
    id: &str,
    change: impl Fn(&Volume) -> Result<Change, ApiError>,
) -> Result<Volume, Refusal> {
    let now = cloud.env.now_ms();
    cloud
        .store
        .transact(|txn| {
            let mut volume = get(txn, scope, id)?;
            if volume.modification.as_ref().is_some_and(|m| m.ended_ms.is_none()) {
                let message = format!("The volume '{id}' is being modified.");
                return Err(refuse("IncorrectModificationState", message));
            }
            let Change { size_gib, performance } = change(&volume)?;
            if size_gib < volume.size_gib {
                let message = "New size cannot be smaller than existing size";
                return Err(refuse("InvalidParameterValue", message));
            }
            volume.modification = Some(VolumeModification {
                original: volume.performance.clone(),
                original_gib: volume.size_gib,
                target_gib: size_gib,
                started_ms: now,
                ended_ms: None,
                failure: None,
            });
            (volume.size_gib, volume.performance) = (size_gib, performance);
            txn.put(&keys::volume(scope, id), &volume)?;
            Ok(volume)
        })
        .await
}

/// Asks for a copy of the volume as it will be when the copy is made.
pub async fn create_snapshot(
    cloud: &Cloud,
    scope: &Scope,
    volume: &str,
    description: String,
    tags: BTreeMap<String, String>,
) -> Result<Snapshot, Refusal> {
    let (id, now) = (cloud.env.ec2_id("snap"), cloud.env.now_ms());
    cloud
        .store
        .transact(|txn| {
            let source = get(txn, scope, volume)?;
            if source.state == VolumeState::Creating {
                let message = format!("Volume '{volume}' is in the 'creating' state.");
                return Err(refuse("IncorrectState", message));
            }
            let snapshot = Snapshot {
                id: id.clone(),
                scope: scope.clone(),
                volume: volume.to_owned(),
                size_gib: source.size_gib,
                description: description.clone(),
                state: SnapshotState::Pending,
                state_message: None,
                deleting: false,
                started_ms: now,
                completed_ms: None,
                tags: tags.clone(),
            };
            txn.put(&keys::snapshot(scope, &id), &snapshot)?;
            Ok(snapshot)
        })
        .await
}

pub async fn delete_snapshot(cloud: &Cloud, scope: &Scope, id: &str) -> Result<(), Refusal> {
    let key = keys::snapshot(scope, id);
    cloud
        .store
        .transact(|txn| {
            let mut snapshot =
                txn.get::<Snapshot>(&key)?.filter(|s| !s.deleting).ok_or_else(|| no_snapshot(id))?;
            snapshot.deleting = true;
            Ok(txn.put(&key, &snapshot)?)
        })
        .await
}

//! Volumes, their modifications and snapshots in EC2's shapes.

use crate::Cloud;
use crate::api::Call;
use crate::ec2::describe::records;
use crate::ec2::filters::{matches, page, refuse_dry_run, tags};
use crate::ec2::volumes::{no_snapshot, no_volume};
use ekstra_domain::ec2::{Snapshot, SnapshotState, Volume};
use ekstra_domain::names::keys;
use ekstra_model::Timestamp;
use ekstra_model::ec2 as model;
use ekstra_wire::ApiError;

fn number(value: u32) -> Option<i32> {
    i32::try_from(value).ok()
}

pub(super) fn describe_volume(volume: &Volume) -> model::Volume {
    model::Volume {
        volume_id: Some(volume.id.clone()),
        volume_arn: Some(volume.scope.arn("ec2", format_args!("volume/{}", volume.id))),
        owner_id: Some(volume.scope.account.clone()),
        availability_zone: Some(volume.zone.clone()),
        availability_zone_id: Some(ekstra_domain::ec2::zone_id(&volume.scope.region, &volume.zone)),
        size: number(volume.size_gib),
        volume_type: Some(volume.performance.kind.clone()),
        iops: volume.performance.iops.and_then(number),
        throughput: volume.performance.throughput.and_then(number),
        snapshot_id: Some(volume.snapshot.clone().unwrap_or_default()),
        state: Some(volume.state.wire().into()),
        create_time: Some(Timestamp(volume.created_ms)),
        attachments: Some(attachment(volume).into_iter().collect()),
        encrypted: Some(false),
        multi_attach_enabled: Some(false),
        tags: tags(&volume.tags),
        ..Default::default()
    }
}

pub(super) fn attachment(volume: &Volume) -> Option<model::VolumeAttachment> {
    let attachment = volume.attachment.as_ref()?;
    Some(model::VolumeAttachment {
        volume_id: Some(volume.id.clone()),
        instance_id: Some(attachment.instance.clone()),
        device: Some(attachment.device.clone()),
        state: Some(attachment.state.wire().into()),
        attach_time: Some(Timestamp(attachment.since_ms)),
        delete_on_termination: Some(false),
        ..Default::default()
    })
}

pub(super) fn describe_modification(volume: &Volume) -> Option<model::VolumeModification> {
    let modification = volume.modification.as_ref()?;
    let ended = modification.ended_ms;
    let state = match (&modification.failure, ended) {
        (Some(_), _) => "failed",
        (None, Some(_)) => "completed",
        (None, None) => "modifying",
    };
    Some(model::VolumeModification {
        volume_id: Some(volume.id.clone()),
        modification_state: Some(state.into()),
        status_message: modification.failure.clone(),
        progress: Some(if state == "completed" { 100 } else { 0 }),
        original_size: number(modification.original_gib),
        original_volume_type: Some(modification.original.kind.clone()),
        original_iops: modification.original.iops.and_then(number),
        original_throughput: modification.original.throughput.and_then(number),
        target_size: number(modification.target_gib.max(volume.size_gib)),
        target_volume_type: Some(volume.performance.kind.clone()),
        target_iops: volume.performance.iops.and_then(number),
        target_throughput: volume.performance.throughput.and_then(number),
        start_time: Some(Timestamp(modification.started_ms)),
        end_time: ended.map(Timestamp),
        ..Default::default()
    })
}

pub(super) fn describe_snapshot(snapshot: &Snapshot) -> model::Snapshot {
    let progress = if snapshot.state == SnapshotState::Completed { "100%" } else { "0%" };
    model::Snapshot {
        snapshot_id: Some(snapshot.id.clone()),
        volume_id: Some(snapshot.volume.clone()),
        volume_size: number(snapshot.size_gib),
        state: Some(snapshot.state.wire().into()),
        state_message: snapshot.state_message.clone(),
        progress: Some(progress.into()),
        start_time: Some(Timestamp(snapshot.started_ms)),
        completion_time: snapshot.completed_ms.map(Timestamp),
        owner_id: Some(snapshot.scope.account.clone()),
        description: Some(snapshot.description.clone()),
        encrypted: Some(false),
        storage_tier: Some("standard".into()),
        tags: tags(&snapshot.tags),
        ..Default::default()
    }
}

fn volume_attribute(volume: &Volume, name: &str) -> Option<Vec<String>> {
    let attachment = volume.attachment.as_ref();
    let one = |value: Option<String>| Some(value.into_iter().collect());
    match name {
        "volume-id" => one(Some(volume.id.clone())),
        "status" => one(Some(volume.state.wire().into())),
        "size" => one(Some(volume.size_gib.to_string())),
        "volume-type" => one(Some(volume.performance.kind.clone())),
        "availability-zone" => one(Some(volume.zone.clone())),
        "snapshot-id" => one(volume.snapshot.clone()),
        "encrypted" | "multi-attach-enabled" => one(Some("false".into())),
        "attachment.instance-id" => one(attachment.map(|a| a.instance.clone())),
        "attachment.device" => one(attachment.map(|a| a.device.clone())),
        "attachment.status" => one(attachment.map(|a| a.state.wire().into())),
        "attachment.delete-on-termination" => one(attachment.map(|_| "false".into())),
        _ => None,
    }
}

/// Those that were asked for, or all; in the order of their ids.
fn asked_volumes(cloud: &Cloud, call: &Call, asked: &[String]) -> Result<Vec<Volume>, ApiError> {
    let all: Vec<Volume> = records(cloud, &keys::scoped(keys::VOLUMES, &call.scope));
    if let Some(id) = asked.iter().find(|id| !all.iter().any(|v| v.id == **id)) {
        return Err(no_volume(id).into());
    }
    Ok(all.into_iter().filter(|v| asked.is_empty() || asked.contains(&v.id)).collect())
}

pub(in crate::ec2) async fn volumes(
    cloud: Cloud,
    call: Call,
    input: model::DescribeVolumesRequest,
) -> Result<model::DescribeVolumesResult, ApiError> {
    refuse_dry_run(input.dry_run)?;
    let mut found = Vec::new();
    for volume in asked_volumes(&cloud, &call, &input.volume_ids.unwrap_or_default())? {
        let attribute = |name: &str| volume_attribute(&volume, name);
        if matches(input.filters.as_deref().unwrap_or_default(), &volume.tags, &attribute)? {
            found.push(describe_volume(&volume));
        }
    }
    let (volumes, next_token) =
        page(found, |v| &v.volume_id, input.next_token.as_deref(), input.max_results)?;
    Ok(model::DescribeVolumesResult { volumes: Some(volumes), next_token })
}

pub(in crate::ec2) async fn modifications(
    cloud: Cloud,
    call: Call,
    input: model::DescribeVolumesModificationsRequest,
) -> Result<model::DescribeVolumesModificationsResult, ApiError> {
    refuse_dry_run(input.dry_run)?;
    let mut found = Vec::new();
    for volume in asked_volumes(&cloud, &call, &input.volume_ids.unwrap_or_default())? {
        let Some(described) = describe_modification(&volume) else { continue };
        let attribute = |name: &str| match name {
            "volume-id" => Some(vec![volume.id.clone()]),
            "modification-state" => Some(described.modification_state.clone().into_iter().collect()),
            _ => None,
        };
        if matches(input.filters.as_deref().unwrap_or_default(), &volume.tags, &attribute)? {
            found.push(described);
        }
    }
    let (found, next_token) = page(found, |m| &m.volume_id, input.next_token.as_deref(), input.max_results)?;
    Ok(model::DescribeVolumesModificationsResult { volumes_modifications: Some(found), next_token })
}

pub(in crate::ec2) async fn snapshots(
    cloud: Cloud,
    call: Call,
    input: model::DescribeSnapshotsRequest,
) -> Result<model::DescribeSnapshotsResult, ApiError> {
    refuse_dry_run(input.dry_run)?;
    let all: Vec<Snapshot> = records(&cloud, &keys::scoped(keys::SNAPSHOTS, &call.scope));
    let all: Vec<Snapshot> = all.into_iter().filter(|s| !s.deleting).collect();
    let asked = input.snapshot_ids.unwrap_or_default();
    if let Some(id) = asked.iter().find(|id| !all.iter().any(|s| s.id == **id)) {
        return Err(no_snapshot(id).into());
    }
    // There are no public snapshots: everybody sees their own.
    let owners = input.owner_ids.unwrap_or_default();
    let own = owners.is_empty() || owners.iter().any(|o| o == "self" || *o == call.scope.account);
    let mut found = Vec::new();
    for snapshot in all.into_iter().filter(|s| own && (asked.is_empty() || asked.contains(&s.id))) {
        let attribute = |name: &str| match name {
            "snapshot-id" => Some(vec![snapshot.id.clone()]),
            "volume-id" => Some(vec![snapshot.volume.clone()]),
            "volume-size" => Some(vec![snapshot.size_gib.to_string()]),
            "status" => Some(vec![snapshot.state.wire().into()]),
            "description" => Some(vec![snapshot.description.clone()]),
            "owner-id" => Some(vec![snapshot.scope.account.clone()]),
            "encrypted" => Some(vec!["false".into()]),
            _ => None,
        };
        if matches(input.filters.as_deref().unwrap_or_default(), &snapshot.tags, &attribute)? {
            found.push(describe_snapshot(&snapshot));
        }
    }
    let (snapshots, next_token) =
        page(found, |s| &s.snapshot_id, input.next_token.as_deref(), input.max_results)?;
    Ok(model::DescribeSnapshotsResult { snapshots: Some(snapshots), next_token })
}

//! CreateVolume, AttachVolume and the others that change something.

use super::describe::{attachment, describe_modification, describe_snapshot, describe_volume};
use super::{Change, NewVolume, attach, create, create_snapshot, delete, delete_snapshot, detach, modify};
use crate::Cloud;
use crate::api::{Call, digest};
use crate::ec2::filters::refuse_dry_run;
use ekstra_domain::ec2::{Snapshot, performance};
use ekstra_domain::names::keys;
use ekstra_model::Unit;
use ekstra_model::ec2 as model;
use ekstra_wire::ApiError;
use std::collections::BTreeMap;

fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::client("InvalidParameterValue", 400, message)
}

/// What only the cloud has is refused by name.
fn unserved(what: &str, asked: bool) -> Result<(), ApiError> {
    if !asked {
        return Ok(());
    }
    Err(ApiError::client("UnsupportedOperation", 400, format!("ekstra does not support {what} yet.")))
}

/// Tags of the resource that is made; of another kind there can be none.
fn tags(
    specifications: Option<Vec<model::TagSpecification>>,
    kind: &str,
) -> Result<BTreeMap<String, String>, ApiError> {
    let mut tags = BTreeMap::new();
    for specification in specifications.unwrap_or_default() {
        let named = specification.resource_type.unwrap_or_default();
        if named != kind {
            return Err(invalid(format!(
                "'{named}' is not a valid taggable resource type for this operation."
            )));
        }
        for tag in specification.tags.unwrap_or_default() {
            tags.insert(tag.key.unwrap_or_default(), tag.value.unwrap_or_default());
        }
    }
    Ok(tags)
}

fn whole(number: Option<i32>, name: &str) -> Result<Option<u32>, ApiError> {
    let convert =
        |n: i32| u32::try_from(n).map_err(|_| invalid(format!("Value ({n}) for {name} is invalid.")));
    number.map(convert).transpose()
}

pub(in crate::ec2) async fn create_volume(
    cloud: Cloud,
    call: Call,
    mut input: model::CreateVolumeRequest,
) -> Result<model::Volume, ApiError> {
    let token = input.client_token.take();
    let digest = digest(&input);
    unserved("encrypted volumes", input.encrypted == Some(true) || input.kms_key_id.is_some())?;
    unserved("volumes that several instances share", input.multi_attach_enabled == Some(true))?;
    unserved("Outposts", input.outpost_arn.is_some())?;
    unserved("zones by id here: name the AvailabilityZone", input.availability_zone_id.is_some())?;
    let zone = input.availability_zone.unwrap_or_default();
    if zone.is_empty() {
        let message = "The request must contain the parameter AvailabilityZone";
        return Err(ApiError::client("MissingParameter", 400, message));
    }
    let of_snapshot = input.snapshot_id.as_ref().and_then(|id| {
        cloud.store.view().get_as::<Snapshot>(&keys::snapshot(&call.scope, id)).map(|s| s.size_gib)
    });
    let size_gib = match whole(input.size, "size")?.or(of_snapshot) {
        Some(size) => size,
        None if input.snapshot_id.is_some() => 1,
        None => {
            let message = "The request must contain the parameter size or snapshotId";
            return Err(ApiError::client("MissingParameter", 400, message));
        }
    };
    let kind = input.volume_type.unwrap_or_else(|| "gp2".into());
    let (iops, throughput) = (whole(input.iops, "iops")?, whole(input.throughput, "throughput")?);
    let performance =
        performance(&kind, size_gib, iops, throughput).map_err(|refused| invalid(refused.to_string()))?;
    let tags = tags(input.tag_specifications, "volume")?;
    refuse_dry_run(input.dry_run)?;
    let new = NewVolume {
        scope: call.scope,
        zone,
        size_gib,
        performance,
        snapshot: input.snapshot_id,
        tags,
        token,
        digest,
    };
    Ok(describe_volume(&create(&cloud, new).await?))
}

pub(in crate::ec2) async fn delete_volume(
    cloud: Cloud,
    call: Call,
    input: model::DeleteVolumeRequest,
) -> Result<Unit, ApiError> {
    refuse_dry_run(input.dry_run)?;
    delete(&cloud, &call.scope, &input.volume_id.unwrap_or_default()).await?;
    Ok(Unit {})
}

/// Source: "Device names for volumes on Amazon EC2 instances" in the EC2 user guide.
fn check_device(device: &str) -> Result<(), ApiError> {
    let name = device.strip_prefix("/dev/").unwrap_or_default();
    let letters = name.strip_prefix("sd").or_else(|| name.strip_prefix("xvd")).unwrap_or_default();
    let plain = letters.len() == 1 && matches!(letters.as_bytes(), [b'b'..=b'z']);
    let double = name.starts_with("xvd") && matches!(letters.as_bytes(), [b'b'..=b'd', b'a'..=b'z']);
    if plain || double {
        return Ok(());
    }
    Err(invalid(format!(
        "Value ({device}) for parameter device is invalid. {device} is not a valid EBS device name."
    )))
}

pub(in crate::ec2) async fn attach_volume(
    cloud: Cloud,
    call: Call,
    input: model::AttachVolumeRequest,
) -> Result<model::VolumeAttachment, ApiError> {
    let (id, instance) = (input.volume_id.unwrap_or_default(), input.instance_id.unwrap_or_default());
    let device = input.device.unwrap_or_default();
    check_device(&device)?;
    refuse_dry_run(input.dry_run)?;
    let volume = attach(&cloud, &call.scope, &id, &instance, &device).await?;
    Ok(attachment(&volume).unwrap_or_default())
}

pub(in crate::ec2) async fn detach_volume(
    cloud: Cloud,
    call: Call,
    input: model::DetachVolumeRequest,
) -> Result<model::VolumeAttachment, ApiError> {
    unserved("taking a volume from an instance that uses it", input.force == Some(true))?;
    refuse_dry_run(input.dry_run)?;
    let id = input.volume_id.unwrap_or_default();
    let volume = detach(&cloud, &call.scope, &id, input.instance_id.as_deref()).await?;
    Ok(attachment(&volume).unwrap_or_default())
}

pub(in crate::ec2) async fn modify_volume(
    cloud: Cloud,
    call: Call,
    input: model::ModifyVolumeRequest,
) -> Result<model::ModifyVolumeResult, ApiError> {
    unserved("volumes that several instances share", input.multi_attach_enabled == Some(true))?;
    let size = whole(input.size, "size")?;
    let (iops, throughput) = (whole(input.iops, "iops")?, whole(input.throughput, "throughput")?);
    refuse_dry_run(input.dry_run)?;
    let id = input.volume_id.unwrap_or_default();
    let volume = modify(&cloud, &call.scope, &id, |volume| {
        let same_kind = input.volume_type.as_ref().is_none_or(|kind| *kind == volume.performance.kind);
        let kind = input.volume_type.as_ref().unwrap_or(&volume.performance.kind);
        let size_gib = size.unwrap_or(volume.size_gib);
        // gp2's follow from its size; of another type's, what is not named stays.
        let kept = same_kind && kind != "gp2";
        let iops = iops.or(volume.performance.iops.filter(|_| kept));
        let throughput = throughput.or(volume.performance.throughput.filter(|_| kept));
        let performance = performance(kind, size_gib, iops, throughput);
        Ok(Change { size_gib, performance: performance.map_err(|refused| invalid(refused.to_string()))? })
    })
    .await?;
    Ok(model::ModifyVolumeResult { volume_modification: describe_modification(&volume) })
}

pub(in crate::ec2) async fn make_snapshot(
    cloud: Cloud,
    call: Call,
    input: model::CreateSnapshotRequest,
) -> Result<model::Snapshot, ApiError> {
    unserved("Outposts", input.outpost_arn.is_some())?;
    unserved("local snapshots", input.location.as_deref() == Some("local"))?;
    let tags = tags(input.tag_specifications, "snapshot")?;
    refuse_dry_run(input.dry_run)?;
    let (volume, description) = (input.volume_id.unwrap_or_default(), input.description.unwrap_or_default());
    let snapshot = create_snapshot(&cloud, &call.scope, &volume, description, tags).await?;
    Ok(describe_snapshot(&snapshot))
}

pub(in crate::ec2) async fn remove_snapshot(
    cloud: Cloud,
    call: Call,
    input: model::DeleteSnapshotRequest,
) -> Result<Unit, ApiError> {
    refuse_dry_run(input.dry_run)?;
    delete_snapshot(&cloud, &call.scope, &input.snapshot_id.unwrap_or_default()).await?;
    Ok(Unit {})
}

#[cfg(test)]
mod tests {
    use super::check_device;

    #[test]
    fn device_names_are_awss() {
        for good in ["/dev/sdf", "/dev/sdz", "/dev/xvdb", "/dev/xvdba", "/dev/xvddz"] {
            assert!(check_device(good).is_ok(), "{good}");
        }
        for bad in ["", "sdf", "/dev/sda", "/dev/sdba", "/dev/xvdaa", "/dev/xvdea", "/dev/../x", "/dev/null"]
        {
            assert!(check_device(bad).is_err(), "{bad}");
        }
    }
}

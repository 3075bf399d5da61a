//! What calls about volumes and snapshots need, as the Service Authorization Reference has them.

use crate::Cloud;
use crate::access::Access;
use crate::api::Call;
use ekstra_domain::ec2::{Instance, Snapshot, Volume};
use ekstra_domain::names::keys;
use ekstra_model::ec2 as model;
use std::collections::BTreeMap;

type Tags = BTreeMap<String, String>;

fn arn(call: &Call, kind: &str, id: Option<&String>) -> String {
    let id = id.map_or("*", String::as_str);
    // Snapshots belong to a region, and not to an account.
    let account = if kind == "snapshot" { "" } else { &call.scope.account };
    format!("arn:aws:ec2:{}:{account}:{kind}/{id}", call.scope.region)
}

fn volume(cloud: &Cloud, call: &Call, id: Option<&String>) -> Access {
    let find = |id: &String| cloud.store.view().get_as::<Volume>(&keys::volume(&call.scope, id));
    let found = id.and_then(find);
    tagged(Access::on(arn(call, "volume", id)), found.map(|volume| volume.tags))
}

/// EC2's own key for tags is older than everybody's.
fn tagged(mut access: Access, tags: Option<Tags>) -> Access {
    for (key, value) in tags.iter().flatten() {
        access = access.with(&format!("ec2:ResourceTag/{key}"), [value.clone()]);
    }
    access.with_resource_tags(tags.as_ref())
}

/// A volume, and the instance that has it or is to have it.
fn attachment(
    cloud: &Cloud,
    call: &Call,
    action: &str,
    id: Option<&String>,
    instance: Option<&String>,
) -> Access {
    let access = volume(cloud, call, id);
    let Some(instance) = instance else { return access };
    let found: Option<Instance> = cloud.store.view().get_as(&keys::instance(&call.scope, instance));
    let other = Access::on(arn(call, "instance", Some(instance)));
    access.and_on(action, tagged(other, found.map(|instance| instance.tags)))
}

fn given(specifications: Option<&Vec<model::TagSpecification>>) -> Tags {
    let tags = specifications.into_iter().flatten().flat_map(|given| given.tags.clone().unwrap_or_default());
    tags.filter_map(|tag| Some((tag.key?, tag.value?))).collect()
}

pub(super) fn create_volume(_: &Cloud, call: &Call, input: &model::CreateVolumeRequest) -> Access {
    let tags = given(input.tag_specifications.as_ref());
    let access = Access::on(arn(call, "volume", None)).with("ec2:CreateAction", ["CreateVolume".to_owned()]);
    access.made_with_tags(Some(&tags), "ec2:CreateTags")
}

pub(super) fn delete_volume(cloud: &Cloud, call: &Call, input: &model::DeleteVolumeRequest) -> Access {
    volume(cloud, call, input.volume_id.as_ref())
}

pub(super) fn attach_volume(cloud: &Cloud, call: &Call, input: &model::AttachVolumeRequest) -> Access {
    attachment(cloud, call, "ec2:AttachVolume", input.volume_id.as_ref(), input.instance_id.as_ref())
}

pub(super) fn detach_volume(cloud: &Cloud, call: &Call, input: &model::DetachVolumeRequest) -> Access {
    attachment(cloud, call, "ec2:DetachVolume", input.volume_id.as_ref(), input.instance_id.as_ref())
}

pub(super) fn modify_volume(cloud: &Cloud, call: &Call, input: &model::ModifyVolumeRequest) -> Access {
    volume(cloud, call, input.volume_id.as_ref())
}

pub(super) fn create_snapshot(cloud: &Cloud, call: &Call, input: &model::CreateSnapshotRequest) -> Access {
    let tags = given(input.tag_specifications.as_ref());
    let made = Access::on(arn(call, "snapshot", None))
        .with("ec2:CreateAction", ["CreateSnapshot".to_owned()])
        .made_with_tags(Some(&tags), "ec2:CreateTags");
    volume(cloud, call, input.volume_id.as_ref()).and_on("ec2:CreateSnapshot", made)
}

pub(super) fn delete_snapshot(cloud: &Cloud, call: &Call, input: &model::DeleteSnapshotRequest) -> Access {
    let id = input.snapshot_id.as_ref();
    let find = |id: &String| cloud.store.view().get_as::<Snapshot>(&keys::snapshot(&call.scope, id));
    let found = id.and_then(find);
    tagged(Access::on(arn(call, "snapshot", id)), found.map(|snapshot| snapshot.tags))
}

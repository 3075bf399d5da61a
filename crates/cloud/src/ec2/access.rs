//! What calls about volumes and snapshots need, as the Service Authorization Reference has them.

use crate::Cloud;
use crate::access::Access;
use crate::api::Call;
use ekstra_domain::ec2::{Snapshot, Volume};
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
    Access::on(arn(call, "volume", id)).with_resource_tags(found.as_ref().map(|volume| &volume.tags))
}

/// A volume and the instance that has it, or is to have it.
fn attachment(cloud: &Cloud, call: &Call, id: Option<&String>, instance: Option<&String>) -> Access {
    let Access::On { mut resources, context, also } = volume(cloud, call, id) else {
        return Access::everything();
    };
    resources.extend(instance.map(|instance| arn(call, "instance", Some(instance))));
    Access::On { resources, context, also }
}

fn given(specifications: Option<&Vec<model::TagSpecification>>) -> Tags {
    let tags = specifications.into_iter().flatten().flat_map(|given| given.tags.clone().unwrap_or_default());
    tags.filter_map(|tag| Some((tag.key?, tag.value?))).collect()
}

pub(super) fn create_volume(_: &Cloud, call: &Call, input: &model::CreateVolumeRequest) -> Access {
    Access::on(arn(call, "volume", None)).with_tags(Some(&given(input.tag_specifications.as_ref())))
}

pub(super) fn delete_volume(cloud: &Cloud, call: &Call, input: &model::DeleteVolumeRequest) -> Access {
    volume(cloud, call, input.volume_id.as_ref())
}

pub(super) fn attach_volume(cloud: &Cloud, call: &Call, input: &model::AttachVolumeRequest) -> Access {
    attachment(cloud, call, input.volume_id.as_ref(), input.instance_id.as_ref())
}

pub(super) fn detach_volume(cloud: &Cloud, call: &Call, input: &model::DetachVolumeRequest) -> Access {
    attachment(cloud, call, input.volume_id.as_ref(), input.instance_id.as_ref())
}

pub(super) fn modify_volume(cloud: &Cloud, call: &Call, input: &model::ModifyVolumeRequest) -> Access {
    volume(cloud, call, input.volume_id.as_ref())
}

pub(super) fn create_snapshot(cloud: &Cloud, call: &Call, input: &model::CreateSnapshotRequest) -> Access {
    let Access::On { mut resources, context, also } = volume(cloud, call, input.volume_id.as_ref()) else {
        return Access::everything();
    };
    resources.push(arn(call, "snapshot", None));
    Access::On { resources, context, also }.with_tags(Some(&given(input.tag_specifications.as_ref())))
}

pub(super) fn delete_snapshot(cloud: &Cloud, call: &Call, input: &model::DeleteSnapshotRequest) -> Access {
    let id = input.snapshot_id.as_ref();
    let find = |id: &String| cloud.store.view().get_as::<Snapshot>(&keys::snapshot(&call.scope, id));
    let found = id.and_then(find);
    Access::on(arn(call, "snapshot", id)).with_resource_tags(found.as_ref().map(|snapshot| &snapshot.tags))
}

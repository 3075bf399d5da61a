//! Elastic Compute Cloud: describing the network, running the machines.

mod access;
mod describe;
mod filters;
pub mod instances;
pub mod network;
pub mod routers;
pub mod volumes;

use crate::Cloud;
use crate::access::Access;
use crate::api::{Call, Router};
use ekstra_model::ec2::ops;

pub(crate) fn serve(router: &mut Router, cloud: &Cloud) {
    router.serve(ops::DescribeVpcs, cloud, everything, describe::vpcs);
    router.serve(ops::DescribeSubnets, cloud, everything, describe::subnets);
    router.serve(ops::DescribeSecurityGroups, cloud, everything, describe::security_groups);
    router.serve(ops::DescribeAvailabilityZones, cloud, everything, describe::availability_zones);
    router.serve(ops::DescribeInstances, cloud, everything, describe::instances);
    router.serve(ops::CreateVolume, cloud, access::create_volume, volumes::operations::create_volume);
    router.serve(ops::DeleteVolume, cloud, access::delete_volume, volumes::operations::delete_volume);
    router.serve(ops::AttachVolume, cloud, access::attach_volume, volumes::operations::attach_volume);
    router.serve(ops::DetachVolume, cloud, access::detach_volume, volumes::operations::detach_volume);
    router.serve(ops::ModifyVolume, cloud, access::modify_volume, volumes::operations::modify_volume);
    router.serve(ops::CreateSnapshot, cloud, access::create_snapshot, volumes::operations::make_snapshot);
    router.serve(ops::DeleteSnapshot, cloud, access::delete_snapshot, volumes::operations::remove_snapshot);
    router.serve(ops::DescribeVolumes, cloud, everything, volumes::describe::volumes);
    router.serve(ops::DescribeVolumesModifications, cloud, everything, volumes::describe::modifications);
    router.serve(ops::DescribeSnapshots, cloud, everything, volumes::describe::snapshots);
}

/// What describes has no resources.
fn everything<I>(_: &Cloud, _: &Call, _: &I) -> Access {
    Access::everything()
}

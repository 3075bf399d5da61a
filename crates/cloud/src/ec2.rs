//! Elastic Compute Cloud: describing the network, running the machines.

mod describe;
mod filters;
pub mod instances;
pub mod network;
pub mod routers;
pub mod volumes;

use crate::Cloud;
use crate::api::Router;
use ekstra_model::ec2::ops;

pub(crate) fn serve(router: &mut Router, cloud: &Cloud) {
    router.serve(ops::DescribeVpcs, cloud, describe::vpcs);
    router.serve(ops::DescribeSubnets, cloud, describe::subnets);
    router.serve(ops::DescribeSecurityGroups, cloud, describe::security_groups);
    router.serve(ops::DescribeAvailabilityZones, cloud, describe::availability_zones);
    router.serve(ops::DescribeInstances, cloud, describe::instances);
    router.serve(ops::CreateVolume, cloud, volumes::operations::create_volume);
    router.serve(ops::DeleteVolume, cloud, volumes::operations::delete_volume);
    router.serve(ops::AttachVolume, cloud, volumes::operations::attach_volume);
    router.serve(ops::DetachVolume, cloud, volumes::operations::detach_volume);
    router.serve(ops::ModifyVolume, cloud, volumes::operations::modify_volume);
    router.serve(ops::CreateSnapshot, cloud, volumes::operations::make_snapshot);
    router.serve(ops::DeleteSnapshot, cloud, volumes::operations::remove_snapshot);
    router.serve(ops::DescribeVolumes, cloud, volumes::describe::volumes);
    router.serve(ops::DescribeVolumesModifications, cloud, volumes::describe::modifications);
    router.serve(ops::DescribeSnapshots, cloud, volumes::describe::snapshots);
}

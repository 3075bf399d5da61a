//! Elastic Compute Cloud: describing the network, running the machines.

mod describe;
mod filters;
pub mod instances;
pub mod network;
pub mod routers;

use crate::Cloud;
use crate::api::Router;
use ekstra_model::ec2::ops;

pub(crate) fn serve(router: &mut Router, cloud: &Cloud) {
    router.serve(ops::DescribeVpcs, cloud, describe::vpcs);
    router.serve(ops::DescribeSubnets, cloud, describe::subnets);
    router.serve(ops::DescribeSecurityGroups, cloud, describe::security_groups);
    router.serve(ops::DescribeAvailabilityZones, cloud, describe::availability_zones);
    router.serve(ops::DescribeInstances, cloud, describe::instances);
}

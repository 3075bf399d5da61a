//! The Describe operations: records in EC2's shapes.

use super::filters::{matches, page, refuse_dry_run, require_ids, tags};
use super::network::subnet_use;
use crate::Cloud;
use crate::api::Call;
use ekstra_domain::ec2::{Instance, Interface, SecurityGroup, Subnet, Vpc, ZONES, instance_type, zone_id};
use ekstra_domain::names::keys;
use ekstra_model::Timestamp;
use ekstra_model::ec2 as model;
use ekstra_wire::ApiError;

pub(super) async fn vpcs(
    cloud: Cloud,
    call: Call,
    input: model::DescribeVpcsRequest,
) -> Result<model::DescribeVpcsResult, ApiError> {
    refuse_dry_run(input.dry_run)?;
    let all: Vec<Vpc> = records(&cloud, &keys::scoped(keys::VPCS, &call.scope));
    let asked = input.vpc_ids.unwrap_or_default();
    let known: Vec<String> = all.iter().map(|v| v.id.clone()).collect();
    require_ids(&asked, &known, "InvalidVpcID.NotFound", "vpc")?;
    let mut found = Vec::new();
    for vpc in all.into_iter().filter(|v| asked.is_empty() || asked.contains(&v.id)) {
        let attribute = |name: &str| match name {
            "vpc-id" => Some(vec![vpc.id.clone()]),
            "cidr" | "cidr-block-association.cidr-block" => Some(vec![vpc.cidr.to_string()]),
            "is-default" | "isDefault" => Some(vec![vpc.is_default.to_string()]),
            "state" => Some(vec!["available".into()]),
            "owner-id" => Some(vec![vpc.scope.account.clone()]),
            _ => None,
        };
        if matches(input.filters.as_deref().unwrap_or_default(), &vpc.tags, &attribute)? {
            found.push(describe_vpc(&vpc));
        }
    }
    let (vpcs, next_token) = page(found, |v| &v.vpc_id, input.next_token.as_deref(), input.max_results)?;
    Ok(model::DescribeVpcsResult { vpcs: Some(vpcs), next_token })
}

pub(super) fn records<T: serde::de::DeserializeOwned>(cloud: &Cloud, prefix: &str) -> Vec<T> {
    cloud.store.view().list_as(prefix).into_iter().map(|(_, record)| record).collect()
}

fn describe_vpc(vpc: &Vpc) -> model::Vpc {
    let association = model::VpcCidrBlockAssociation {
        association_id: Some(vpc.id.replace("vpc-", "vpc-cidr-assoc-")),
        cidr_block: Some(vpc.cidr.to_string()),
        cidr_block_state: Some(model::VpcCidrBlockState {
            state: Some("associated".into()),
            ..Default::default()
        }),
    };
    model::Vpc {
        vpc_id: Some(vpc.id.clone()),
        owner_id: Some(vpc.scope.account.clone()),
        instance_tenancy: Some("default".into()),
        cidr_block: Some(vpc.cidr.to_string()),
        cidr_block_association_set: Some(vec![association]),
        is_default: Some(vpc.is_default),
        dhcp_options_id: Some("default".into()),
        state: Some("available".into()),
        tags: tags(&vpc.tags),
        ..Default::default()
    }
}

pub(super) async fn subnets(
    cloud: Cloud,
    call: Call,
    input: model::DescribeSubnetsRequest,
) -> Result<model::DescribeSubnetsResult, ApiError> {
    refuse_dry_run(input.dry_run)?;
    let all: Vec<Subnet> = records(&cloud, &keys::scoped(keys::SUBNETS, &call.scope));
    let interfaces: Vec<Interface> = records(&cloud, &keys::scoped(keys::INTERFACES, &call.scope));
    let asked = input.subnet_ids.unwrap_or_default();
    let known: Vec<String> = all.iter().map(|s| s.id.clone()).collect();
    require_ids(&asked, &known, "InvalidSubnetID.NotFound", "subnet")?;
    let mut found = Vec::new();
    for subnet in all.into_iter().filter(|s| asked.is_empty() || asked.contains(&s.id)) {
        let attribute = |name: &str| match name {
            "subnet-id" => Some(vec![subnet.id.clone()]),
            "vpc-id" => Some(vec![subnet.vpc.clone()]),
            "availability-zone" | "availabilityZone" => Some(vec![subnet.zone.clone()]),
            "availability-zone-id" => Some(vec![subnet.zone_id()]),
            "cidr-block" | "cidr" | "cidrBlock" => Some(vec![subnet.cidr.to_string()]),
            "default-for-az" | "defaultForAz" => Some(vec![subnet.default_for_zone.to_string()]),
            "state" => Some(vec!["available".into()]),
            "owner-id" => Some(vec![subnet.scope.account.clone()]),
            _ => None,
        };
        if matches(input.filters.as_deref().unwrap_or_default(), &subnet.tags, &attribute)? {
            found.push(describe_subnet(&subnet, &interfaces));
        }
    }
    let (subnets, next_token) =
        page(found, |s| &s.subnet_id, input.next_token.as_deref(), input.max_results)?;
    Ok(model::DescribeSubnetsResult { subnets: Some(subnets), next_token })
}

fn describe_subnet(subnet: &Subnet, interfaces: &[Interface]) -> model::Subnet {
    let used = subnet_use(interfaces.iter().filter(|i| i.subnet == subnet.id));
    let taken = 5 + used.addresses.len() as u64 + used.prefixes.iter().map(|p| p.size()).sum::<u64>();
    model::Subnet {
        subnet_id: Some(subnet.id.clone()),
        subnet_arn: Some(subnet.scope.arn("ec2", format_args!("subnet/{}", subnet.id))),
        vpc_id: Some(subnet.vpc.clone()),
        cidr_block: Some(subnet.cidr.to_string()),
        availability_zone: Some(subnet.zone.clone()),
        availability_zone_id: Some(subnet.zone_id()),
        available_ip_address_count: i32::try_from(subnet.cidr.size().saturating_sub(taken)).ok(),
        default_for_az: Some(subnet.default_for_zone),
        map_public_ip_on_launch: Some(subnet.default_for_zone),
        assign_ipv6_address_on_creation: Some(false),
        owner_id: Some(subnet.scope.account.clone()),
        state: Some("available".into()),
        tags: tags(&subnet.tags),
        ..Default::default()
    }
}

pub(super) async fn security_groups(
    cloud: Cloud,
    call: Call,
    input: model::DescribeSecurityGroupsRequest,
) -> Result<model::DescribeSecurityGroupsResult, ApiError> {
    refuse_dry_run(input.dry_run)?;
    let all: Vec<SecurityGroup> = records(&cloud, &keys::security_groups(&call.scope));
    let asked = input.group_ids.unwrap_or_default();
    let names = input.group_names.unwrap_or_default();
    let known: Vec<String> = all.iter().map(|g| g.id.clone()).collect();
    if let Some(id) = asked.iter().find(|id| !known.contains(id)) {
        let message = format!("The security group '{id}' does not exist");
        return Err(ApiError::client("InvalidGroup.NotFound", 400, message));
    }
    let mut found = Vec::new();
    let wanted = |g: &SecurityGroup| {
        (asked.is_empty() || asked.contains(&g.id)) && (names.is_empty() || names.contains(&g.name))
    };
    for group in all.into_iter().filter(wanted) {
        let attribute = |name: &str| match name {
            "group-id" => Some(vec![group.id.clone()]),
            "group-name" => Some(vec![group.name.clone()]),
            "vpc-id" => Some(vec![group.vpc.clone()]),
            "description" => Some(vec![group.description.clone()]),
            "owner-id" => Some(vec![group.scope.account.clone()]),
            _ => None,
        };
        if matches(input.filters.as_deref().unwrap_or_default(), &group.tags, &attribute)? {
            found.push(describe_group(&group));
        }
    }
    let (groups, next_token) = page(found, |g| &g.group_id, input.next_token.as_deref(), input.max_results)?;
    Ok(model::DescribeSecurityGroupsResult { security_groups: Some(groups), next_token })
}

/// AWS's default rules: everything out, everything in from the group itself.
fn describe_group(group: &SecurityGroup) -> model::SecurityGroup {
    let everything = || model::IpPermission { ip_protocol: Some("-1".into()), ..Default::default() };
    let anywhere = model::IpRange { cidr_ip: Some("0.0.0.0/0".into()), ..Default::default() };
    let itself = model::UserIdGroupPair {
        group_id: Some(group.id.clone()),
        user_id: Some(group.scope.account.clone()),
        ..Default::default()
    };
    model::SecurityGroup {
        group_id: Some(group.id.clone()),
        group_name: Some(group.name.clone()),
        description: Some(group.description.clone()),
        vpc_id: Some(group.vpc.clone()),
        owner_id: Some(group.scope.account.clone()),
        security_group_arn: Some(group.scope.arn("ec2", format_args!("security-group/{}", group.id))),
        ip_permissions: Some(vec![model::IpPermission {
            user_id_group_pairs: Some(vec![itself]),
            ..everything()
        }]),
        ip_permissions_egress: Some(vec![model::IpPermission {
            ip_ranges: Some(vec![anywhere]),
            ..everything()
        }]),
        tags: tags(&group.tags),
    }
}

pub(super) async fn availability_zones(
    _: Cloud,
    call: Call,
    input: model::DescribeAvailabilityZonesRequest,
) -> Result<model::DescribeAvailabilityZonesResult, ApiError> {
    refuse_dry_run(input.dry_run)?;
    let region = &call.scope.region;
    let asked = input.zone_names.unwrap_or_default();
    let is_known = |name: &&String| ZONES.iter().any(|letter| **name == format!("{region}{letter}"));
    if let Some(unknown) = asked.iter().find(|name| !is_known(name)) {
        let message = format!("Invalid availability zone: [{unknown}]");
        return Err(ApiError::client("InvalidParameterValue", 400, message));
    }
    let mut found = Vec::new();
    for name in ZONES.iter().map(|letter| format!("{region}{letter}")) {
        let id = zone_id(region, &name);
        let attribute = |filter: &str| match filter {
            "zone-name" => Some(vec![name.clone()]),
            "zone-id" => Some(vec![id.clone()]),
            "region-name" | "group-name" => Some(vec![region.clone()]),
            "state" => Some(vec!["available".into()]),
            "zone-type" => Some(vec!["availability-zone".into()]),
            "opt-in-status" => Some(vec!["opt-in-not-required".into()]),
            _ => None,
        };
        let listed = asked.is_empty() || asked.contains(&name);
        let filters = input.filters.as_deref().unwrap_or_default();
        if listed && matches(filters, &Default::default(), &attribute)? {
            found.push(model::AvailabilityZone {
                zone_name: Some(name.clone()),
                zone_id: Some(id),
                region_name: Some(region.clone()),
                group_name: Some(region.clone()),
                network_border_group: Some(region.clone()),
                zone_type: Some("availability-zone".into()),
                opt_in_status: Some("opt-in-not-required".into()),
                state: Some("available".into()),
                messages: Some(Vec::new()),
                ..Default::default()
            });
        }
    }
    Ok(model::DescribeAvailabilityZonesResult { availability_zones: Some(found) })
}

pub(super) async fn instances(
    cloud: Cloud,
    call: Call,
    input: model::DescribeInstancesRequest,
) -> Result<model::DescribeInstancesResult, ApiError> {
    refuse_dry_run(input.dry_run)?;
    let all: Vec<Instance> = records(&cloud, &keys::scoped(keys::INSTANCES, &call.scope));
    let asked = input.instance_ids.unwrap_or_default();
    let known: Vec<String> = all.iter().map(|i| i.id.clone()).collect();
    require_ids(&asked, &known, "InvalidInstanceID.NotFound", "instance")?;
    let mut found = Vec::new();
    for instance in all.into_iter().filter(|i| asked.is_empty() || asked.contains(&i.id)) {
        let attribute = |name: &str| match name {
            "instance-id" => Some(vec![instance.id.clone()]),
            "instance-state-name" => Some(vec![instance.state.wire().1.into()]),
            "instance-state-code" => Some(vec![instance.state.wire().0.to_string()]),
            "instance-type" => Some(vec![instance.instance_type.clone()]),
            "vpc-id" => Some(vec![instance.vpc.clone()]),
            "subnet-id" => Some(vec![instance.subnet.clone()]),
            "availability-zone" => Some(vec![instance.zone.clone()]),
            "private-dns-name" => Some(vec![instance.private_dns_name.clone()]),
            "private-ip-address" => Some(vec![instance.address.to_string()]),
            "image-id" => Some(vec![instance.image.clone()]),
            _ => None,
        };
        if matches(input.filters.as_deref().unwrap_or_default(), &instance.tags, &attribute)? {
            found.push(describe_instance(&cloud, &instance));
        }
    }
    let (items, next_token) =
        page(found, |i| &i.instance_id, input.next_token.as_deref(), input.max_results)?;
    let reservation = |instance: model::Instance| model::Reservation {
        reservation_id: instance.instance_id.as_deref().map(|id| id.replacen("i-", "r-", 1)),
        owner_id: Some(call.scope.account.clone()),
        groups: Some(Vec::new()),
        instances: Some(vec![instance]),
        ..Default::default()
    };
    Ok(model::DescribeInstancesResult {
        reservations: Some(items.into_iter().map(reservation).collect()),
        next_token,
    })
}

fn describe_instance(cloud: &Cloud, instance: &Instance) -> model::Instance {
    let (code, name) = instance.state.wire();
    let interface: Option<Interface> =
        cloud.store.view().get_as(&keys::interface(&instance.scope, &instance.interface));
    let groups = interface.as_ref().map(|i| i.security_groups.clone()).unwrap_or_default();
    let group = |id: &String| model::GroupIdentifier { group_id: Some(id.clone()), group_name: None };
    let alive = instance.state.is_alive();
    let vcpus = instance_type(&instance.instance_type).map(|t| t.vcpus);
    model::Instance {
        instance_id: Some(instance.id.clone()),
        image_id: Some(instance.image.clone()),
        instance_type: Some(instance.instance_type.clone()),
        state: Some(model::InstanceState { code: i32::try_from(code).ok(), name: Some(name.into()) }),
        state_reason: instance.state_reason.as_ref().map(|reason| model::StateReason {
            code: Some("Server.InternalError".into()),
            message: Some(reason.clone()),
        }),
        launch_time: Some(Timestamp(instance.launched_ms)),
        architecture: Some(if cfg!(target_arch = "aarch64") { "arm64" } else { "x86_64" }.into()),
        hypervisor: Some("xen".into()),
        virtualization_type: Some("hvm".into()),
        root_device_type: Some("ebs".into()),
        root_device_name: Some("/dev/xvda".into()),
        private_dns_name: Some(if alive { instance.private_dns_name.clone() } else { String::new() }),
        private_ip_address: alive.then(|| instance.address.to_string()),
        subnet_id: alive.then(|| instance.subnet.clone()),
        vpc_id: alive.then(|| instance.vpc.clone()),
        source_dest_check: Some(true),
        placement: Some(model::Placement {
            availability_zone: Some(instance.zone.clone()),
            tenancy: Some("default".into()),
            ..Default::default()
        }),
        iam_instance_profile: instance.role_arn.as_ref().map(|arn| model::IamInstanceProfile {
            arn: Some(arn.replace(":role/", ":instance-profile/")),
            id: None,
        }),
        cpu_options: vcpus.map(|n| model::CpuOptions {
            core_count: i32::try_from(n).ok(),
            threads_per_core: Some(1),
            ..Default::default()
        }),
        metadata_options: Some(model::InstanceMetadataOptionsResponse {
            state: Some("applied".into()),
            http_tokens: Some("required".into()),
            http_put_response_hop_limit: Some(i32::from(instance.metadata_hop_limit)),
            http_endpoint: Some("enabled".into()),
            ..Default::default()
        }),
        security_groups: Some(groups.iter().map(group).collect()),
        network_interfaces: Some(interface.iter().map(describe_interface).collect()),
        monitoring: Some(model::Monitoring { state: Some("disabled".into()), ..Default::default() }),
        tags: tags(&instance.tags),
        ..Default::default()
    }
}

fn describe_interface(interface: &Interface) -> model::InstanceNetworkInterface {
    let prefix =
        |p: &ekstra_domain::prefix::Prefix| model::InstanceIpv4Prefix { ipv4_prefix: Some(p.to_string()) };
    model::InstanceNetworkInterface {
        network_interface_id: Some(interface.id.clone()),
        mac_address: Some(interface.mac.clone()),
        private_ip_address: Some(interface.address.to_string()),
        private_dns_name: Some(interface.scope.private_dns_name(interface.address)),
        subnet_id: Some(interface.subnet.clone()),
        vpc_id: Some(interface.vpc.clone()),
        owner_id: Some(interface.scope.account.clone()),
        status: Some("in-use".into()),
        source_dest_check: Some(true),
        interface_type: Some("interface".into()),
        ipv4_prefixes: Some(interface.prefixes.iter().map(prefix).collect()),
        ..Default::default()
    }
}

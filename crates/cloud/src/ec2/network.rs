//! Interfaces and the routers that join them.
//!
//! Invariant: addresses are claimed in the transaction that writes the interface, so no two interfaces share one.

use crate::api::Refusal;
use crate::{Cloud, Settings};
use ekstra_domain::ec2::{Attachment, Interface, METADATA_ADDRESS, Subnet, SubnetUse, Vpc, plan_addresses};
use ekstra_domain::names::{Scope, keys};
use ekstra_host::{InterfaceSpec, Names, RouterSpec};
use ekstra_store::Txn;
use ekstra_wire::ApiError;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// What EC2 says when an account has too many.
pub const VPC_LIMIT: &str = "VpcLimitExceeded";

/// What a set of interfaces takes of its subnet.
pub(crate) fn subnet_use<'a>(interfaces: impl Iterator<Item = &'a Interface>) -> SubnetUse {
    let mut used = SubnetUse::default();
    for interface in interfaces {
        used.addresses.insert(interface.address);
        used.prefixes.extend(interface.prefixes.iter().copied());
    }
    used
}

/// An interface to be made.
#[derive(Clone, Debug)]
pub struct NewInterface<'a> {
    pub subnet: &'a Subnet,
    pub prefixes: usize,
    pub security_groups: Vec<String>,
    pub attachment: Attachment,
    pub device_index: u32,
}

/// Claims addresses and records the interface.
pub fn create_interface(cloud: &Cloud, txn: &mut Txn, new: NewInterface<'_>) -> Result<Interface, Refusal> {
    let scope = new.subnet.scope.clone();
    let existing: Vec<(_, Interface)> = txn.list(&keys::scoped(keys::INTERFACES, &scope))?;
    let mut used = subnet_use(existing.iter().map(|(_, i)| i).filter(|i| i.subnet == new.subnet.id));
    let latest = keys::latest_address(&scope, &new.subnet.id);
    used.latest = txn.get(&latest)?;
    let plan = plan_addresses(new.subnet.cidr, &used, new.prefixes).map_err(|full| {
        let message = format!("{full}, which nodes need for their pods");
        ApiError::client("InsufficientFreeAddressesInSubnet", 400, message)
    })?;
    txn.put(&latest, &plan.address)?;
    ensure_router_number(&cloud.settings, txn, &scope, &new.subnet.vpc)?;
    let id = cloud.env.ec2_id("eni");
    let interface = Interface {
        id,
        scope: scope.clone(),
        vpc: new.subnet.vpc.clone(),
        subnet: new.subnet.id.clone(),
        address: plan.address,
        prefixes: plan.prefixes,
        mac: mac_of(plan.address),
        security_groups: new.security_groups,
        attachment: new.attachment,
        device_index: new.device_index,
    };
    txn.put(&keys::interface(&scope, &interface.id), &interface)?;
    Ok(interface)
}

/// A VPC's first interface gives it a router; the last one's end takes it away (`routers.rs`).
fn ensure_router_number(settings: &Settings, txn: &mut Txn, scope: &Scope, id: &str) -> Result<(), Refusal> {
    let key = keys::vpc(scope, id);
    let Some(mut vpc) = txn.get::<Vpc>(&key)?.filter(|vpc| vpc.number.is_none()) else { return Ok(()) };
    let used: BTreeSet<u32> =
        txn.list::<Vpc>(keys::VPCS)?.into_iter().filter_map(|(_, vpc)| vpc.number).collect();
    let all = (0..).take_while(|number| transit(settings, *number).is_some());
    let free = all.into_iter().find(|number| !used.contains(number)).ok_or_else(|| {
        let message = format!("{} VPCs are in use, and no more have room on this machine", used.len());
        ApiError::client(VPC_LIMIT, 400, message)
    })?;
    vpc.number = Some(free);
    Ok(txn.put(&key, &vpc)?)
}

/// The two addresses of a router's uplink.
fn transit(settings: &Settings, number: u32) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let first = number.checked_mul(2)?;
    Some((settings.transit.nth(first)?, settings.transit.nth(first + 1)?))
}

/// Locally administered, unique within a VPC because the address is.
fn mac_of(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("0a:{:02x}:{a:02x}:{b:02x}:{c:02x}:{d:02x}", 0x58)
}

/// The router of a VPC, as the host is to make it; `None` when no interface needs one.
pub fn router_spec(settings: &Settings, names: &Names, vpc: &Vpc, subnets: &[Subnet]) -> Option<RouterSpec> {
    let number = vpc.number?;
    let mut own_addresses = vec![settings.address, METADATA_ADDRESS, vpc.resolver()];
    own_addresses.extend(subnets.iter().filter(|s| s.vpc == vpc.id).map(Subnet::gateway));
    Some(RouterSpec {
        namespace: names.namespace(&format!("vpc-{number}")),
        uplink: names.uplink(number),
        transit: transit(settings, number)?,
        cidr: vpc.cidr,
        own_addresses,
        balancers: settings.balancers(),
        mtu: settings.mtu,
    })
}

/// The router that serves an interface, from what is stored.
pub fn router_of(cloud: &Cloud, names: &Names, scope: &Scope, vpc: &str) -> Option<RouterSpec> {
    let view = cloud.store.view();
    let vpc: Vpc = view.get_as(&keys::vpc(scope, vpc))?;
    let subnets: Vec<Subnet> =
        view.list_as(&keys::scoped(keys::SUBNETS, scope)).into_iter().map(|(_, s)| s).collect();
    router_spec(&cloud.settings, names, &vpc, &subnets)
}

/// The link of an interface, as the host is to make it.
pub fn interface_spec(
    settings: &Settings,
    router: &RouterSpec,
    interface: &Interface,
    subnet: &Subnet,
    namespace: &str,
) -> InterfaceSpec {
    InterfaceSpec {
        id: interface.link(),
        router: router.namespace.clone(),
        namespace: namespace.to_owned(),
        device_index: interface.device_index,
        mac: interface.mac.clone(),
        address: interface.address,
        gateway: subnet.gateway(),
        prefixes: interface.prefixes.clone(),
        mtu: settings.mtu,
    }
}

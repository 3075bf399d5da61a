//! The network and the machines underneath: VPCs, subnets, interfaces, instances.

mod addresses;
mod types;
mod volume;

pub use addresses::{AddressPlan, InsufficientFreeAddresses, SubnetUse, plan_addresses};
pub use types::{InstanceType, instance_type, instance_types};
pub use volume::{
    AttachmentState, Device, InstanceLife, ObservedVolume, Performance, Snapshot, SnapshotState, Volume,
    VolumeAction, VolumeAttachment, VolumeModification, VolumeRefusal, VolumeState, performance, plan_volume,
};

use crate::names::Scope;
use crate::prefix::Prefix;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// AWS's address of the instance metadata service.
pub const METADATA_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// AWS's default VPC.
pub const DEFAULT_VPC_CIDR: &str = "172.31.0.0/16";
/// Zones of every region: `<region>a`, `<region>b`, `<region>c`.
pub const ZONES: [char; 3] = ['a', 'b', 'c'];

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Vpc {
    pub id: String,
    pub scope: Scope,
    pub cidr: Prefix,
    pub is_default: bool,
    /// Tells its router from others of the home; also picks the uplink's addresses. There are as many as the home has
    /// uplink addresses, so only a VPC with interfaces has one.
    pub number: Option<u32>,
    pub tags: BTreeMap<String, String>,
}

impl Vpc {
    /// The resolver: base plus two, as in AWS.
    pub fn resolver(&self) -> Ipv4Addr {
        self.cidr.nth(2).unwrap_or(self.cidr.base())
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Subnet {
    pub id: String,
    pub scope: Scope,
    pub vpc: String,
    pub cidr: Prefix,
    /// `us-east-1a`.
    pub zone: String,
    pub default_for_zone: bool,
    pub tags: BTreeMap<String, String>,
}

impl Subnet {
    /// Base plus one, as in AWS.
    pub fn gateway(&self) -> Ipv4Addr {
        self.cidr.nth(1).unwrap_or(self.cidr.base())
    }

    /// `use1-az1` for `us-east-1a`.
    pub fn zone_id(&self) -> String {
        zone_id(&self.scope.region, &self.zone)
    }
}

pub fn zone_id(region: &str, zone: &str) -> String {
    let mut parts = region.split('-');
    let head = parts.next().unwrap_or_default();
    let rest: String = parts.map(|p| p.chars().next().unwrap_or('x')).collect();
    let letter = zone.bytes().last().unwrap_or(b'a');
    format!("{head}{rest}-az{}", i32::from(letter) - i32::from(b'a') + 1)
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SecurityGroup {
    pub id: String,
    pub scope: Scope,
    pub vpc: String,
    pub name: String,
    pub description: String,
    pub tags: BTreeMap<String, String>,
}

/// What an interface is for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Attachment {
    ControlPlane { slot: String },
    Instance { id: String },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interface {
    pub id: String,
    pub scope: Scope,
    pub vpc: String,
    pub subnet: String,
    pub address: Ipv4Addr,
    pub prefixes: Vec<Prefix>,
    pub mac: String,
    pub security_groups: Vec<String>,
    pub attachment: Attachment,
    pub device_index: u32,
}

impl Interface {
    /// The router's end: at most 15 characters, from the random part of the id.
    pub fn link(&self) -> String {
        let hex = self.id.rsplit('-').next().unwrap_or(&self.id);
        format!("e-{}", &hex[..hex.len().min(12)])
    }

    pub fn holds(&self, address: Ipv4Addr) -> bool {
        self.address == address || self.prefixes.iter().any(|p| p.contains(address))
    }
}

/// EC2's instance states that ekstra passes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InstanceState {
    Pending,
    Running,
    ShuttingDown,
    Terminated,
}

impl InstanceState {
    /// EC2's code and name.
    pub fn wire(self) -> (i64, &'static str) {
        match self {
            Self::Pending => (0, "pending"),
            Self::Running => (16, "running"),
            Self::ShuttingDown => (32, "shutting-down"),
            Self::Terminated => (48, "terminated"),
        }
    }

    pub fn is_alive(self) -> bool {
        matches!(self, Self::Pending | Self::Running)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    pub id: String,
    pub scope: Scope,
    pub image: String,
    pub instance_type: String,
    pub interface: String,
    pub address: Ipv4Addr,
    pub private_dns_name: String,
    pub zone: String,
    pub subnet: String,
    pub vpc: String,
    /// GiB.
    pub disk_gib: u32,
    pub user_data: String,
    /// The role whose credentials the metadata service hands out.
    pub role_arn: Option<String>,
    /// The unique id of that role; of instances of earlier versions it is not known.
    #[serde(default)]
    pub role_id: Option<String>,
    /// Of metadata answers: 1 reaches the instance, 2 its pods.
    pub metadata_hop_limit: u8,
    /// Kubernetes version of the image.
    pub kubernetes_version: String,
    pub state: InstanceState,
    pub state_reason: Option<String>,
    pub launched_ms: i64,
    /// When it became what `state` says.
    pub state_since_ms: i64,
    pub tags: BTreeMap<String, String>,
}

impl Instance {
    /// Moves to `state` unless that is a way back, which no instance has.
    pub fn advance(&mut self, state: InstanceState, now_ms: i64) -> bool {
        if state.wire().0 <= self.state.wire().0 {
            return false;
        }
        self.state = state;
        self.state_since_ms = now_ms;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zone_ids_look_like_awss() {
        assert_eq!(zone_id("us-east-1", "us-east-1a"), "use1-az1");
        assert_eq!(zone_id("eu-central-1", "eu-central-1c"), "euc1-az3");
    }
}

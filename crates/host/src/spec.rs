//! What a machine can be asked for. Plain data; paths and names are decided by the caller.

use ekstra_domain::prefix::Prefix;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// The name of a child, unique in a home: `[a-z0-9-]`, at most 64 characters (it is a cgroup's name).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ChildId(pub String);

impl std::fmt::Display for ChildId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A process that outlives the service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ChildSpec {
    pub id: ChildId,
    /// On the host, or inside the sandbox's root when there is one.
    pub program: PathBuf,
    pub args: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// A network namespace by name; `None` is the host's.
    pub namespace: Option<String>,
    /// Standard output and error, appended.
    pub log: PathBuf,
    pub limits: Limits,
    /// A directory whose files it finds in `/etc`, before those of the host.
    pub etc: Option<PathBuf>,
    pub sandbox: Option<Sandbox>,
}

/// Zero or absent means unlimited.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Limits {
    pub memory_bytes: Option<u64>,
    /// Thousandths of a core.
    pub cpu_millis: Option<u32>,
    pub pids: Option<u32>,
    /// Only the devices that a container host needs.
    pub restrict_devices: bool,
}

/// Namespaces of its own and a root file system of its own: a container instance.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sandbox {
    pub hostname: String,
    /// Read-only layers of the root file system, the topmost first.
    pub layers: Vec<PathBuf>,
    /// An ext4 image; the root's writable layer and the node's data live in it.
    pub disk: PathBuf,
    /// An empty directory to assemble the root on. Nothing stays mounted there outside the sandbox.
    pub mountpoint: PathBuf,
    /// Memory and processors that `/proc` shall show.
    pub memory_bytes: u64,
    pub cpus: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub enum ChildStatus {
    Absent,
    Running(Running),
    /// It was started and is gone.
    Exited,
    /// It was started before the machine was last booted.
    BeforeBoot,
}

/// A process as this machine knows it. The start time tells it from a later one with the same pid.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Running {
    pub pid: i32,
    /// Clock ticks after boot, from `/proc/<pid>/stat`.
    pub start_ticks: u64,
    pub boot_id: String,
}

/// A VPC's router: one namespace with a route per address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RouterSpec {
    pub namespace: String,
    /// The host's end of the uplink, at most 15 characters.
    pub uplink: String,
    /// The two addresses of the uplink's /31, the host's first.
    pub transit: (Ipv4Addr, Ipv4Addr),
    pub cidr: Prefix,
    /// Addresses that are the router itself: service address, gateways, resolver, instance metadata.
    pub own_addresses: Vec<Ipv4Addr>,
    /// Load balancers' addresses are of this range.
    pub balancers: Prefix,
    pub mtu: u32,
}

/// An elastic network interface: a veth between the router and a namespace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InterfaceSpec {
    /// The router's end, at most 15 characters.
    pub id: String,
    pub router: String,
    pub namespace: String,
    /// 0 is the one with the default route; `eth<n>` is its name inside `namespace`.
    pub device_index: u32,
    pub mac: String,
    pub address: Ipv4Addr,
    pub gateway: Ipv4Addr,
    /// Further addresses routed to this interface (pods).
    pub prefixes: Vec<Prefix>,
    pub mtu: u32,
}

/// The link-local address that means this service on the host and in every router.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceAddress {
    pub address: Ipv4Addr,
    /// Source range of the uplinks of this home.
    pub transit: Prefix,
    /// Range of further addresses of this home on the host, which only the host itself may come to.
    pub balancers: Prefix,
}

/// A sparse ext4 image.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DiskSpec {
    pub path: PathBuf,
    pub bytes: u64,
}

/// The content of a block volume: a sparse file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VolumeSpec {
    pub path: PathBuf,
    pub bytes: u64,
    /// A new one begins as a copy of this file, not empty.
    pub source: Option<PathBuf>,
}

/// A volume as a block device of an instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttachmentSpec {
    pub path: PathBuf,
    pub instance: ChildId,
    /// Its name in the instance's `/dev`, such as `xvdba`.
    pub device: String,
    /// A link to it in the instance's `/dev/disk/by-id`.
    pub alias: String,
}

/// A copy of a volume as it is at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SnapshotSpec {
    pub volume: PathBuf,
    pub to: PathBuf,
    /// Where the volume may be mounted. It is not written to while it is copied.
    pub instance: Option<ChildId>,
}

/// Why the machine did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error("{program} failed ({status}): {output}")]
    Command { program: String, status: String, output: String },
    #[error("{program} cannot be run: {source}. Install it (Debian: apt-get install {package})")]
    Missing { program: String, package: &'static str, source: std::io::Error },
    #[error("{action} {path}: {source}")]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("network namespace {name}: {source}")]
    Namespace { name: String, source: std::io::Error },
    #[error("child {id} did not start: {detail}")]
    Launch { id: ChildId, detail: String },
    #[error("child {id} does not end: {survivors} go on after SIGKILL")]
    Immortal { id: ChildId, survivors: String },
    #[error("{what} needs root, and this service runs without it")]
    NeedsRoot { what: &'static str },
    #[error("instance {id} does not run")]
    NotRunning { id: ChildId },
    #[error("a copy of {needed} bytes does not fit into {path}, where {free} are free")]
    NoRoom { path: PathBuf, needed: u64, free: u64 },
    #[error("{path} is in use by {id}")]
    VolumeInUse { path: PathBuf, id: ChildId },
    #[error("child {id} is being started or removed by another process, which does not come to an end")]
    Busy { id: ChildId },
}

impl HostError {
    /// The file system has no files of that size.
    pub fn is_too_large(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == std::io::ErrorKind::FileTooLarge)
    }

    /// There is no space left for what was to be made.
    pub fn is_lack_of_room(&self) -> bool {
        let full = [std::io::ErrorKind::StorageFull, std::io::ErrorKind::QuotaExceeded];
        match self {
            Self::NoRoom { .. } => true,
            Self::Io { source, .. } => full.contains(&source.kind()),
            _ => false,
        }
    }

    /// Waiting for the end of a child failed.
    pub fn wait(id: &str) -> impl FnOnce(std::io::Error) -> Self {
        Self::io("wait for", id)
    }

    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}

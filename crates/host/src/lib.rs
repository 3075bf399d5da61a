//! One Linux machine, behind [`Host`]: child processes that outlive the service, network namespaces and the links
//! between them, cgroups, instance disks.
//!
//! Invariant: this is the only crate that needs root (PID 1 of an instance aside), and all but one line of `unsafe`
//! is here. Every `ensure_*` may be killed
//! at any instruction and called again; every global name (namespace, link, cgroup, table) carries the home's id, so
//! that services of other homes are never touched.

pub mod descriptors;
pub mod faults;
mod linux;
mod logs;
pub mod netns;
pub mod sim;
mod spec;

pub use ekstra_domain::ec2::Device;
pub use linux::freeze_main;
pub use linux::launch::{launch_main, open_log};
pub use linux::machine::{SettingChange, boot_id, raise_settings, restore_settings};
pub use linux::{Firewall, LinuxHost, Names, RootlessHost, child_arguments, child_exit, firewalls};
pub use logs::{LOG_LIMIT, older_log, remove_log, rotate_logs};
pub use spec::*;

/// What the service asks of a machine. Arguments are owned and serialisable, so that the same trait can be an RPC
/// to an agent on another machine (`design.md` §7). All calls block; run them off the async threads.
pub trait Host: Send + Sync + std::fmt::Debug {
    fn child_status(&self, id: &ChildId) -> Result<ChildStatus, HostError>;
    /// Starts the child unless it runs. Strays in its cgroup are ended first.
    fn ensure_child(&self, spec: &ChildSpec) -> Result<Running, HostError>;
    /// SIGTERM, then SIGKILL after the grace; the cgroup is gone when this returns.
    fn remove_child(&self, id: &ChildId, grace: std::time::Duration) -> Result<(), HostError>;
    /// Every child that has a cgroup or a pid file.
    fn children(&self) -> Result<Vec<ChildId>, HostError>;

    fn ensure_namespace(&self, name: &str) -> Result<(), HostError>;
    fn remove_namespace(&self, name: &str) -> Result<(), HostError>;
    fn namespaces(&self) -> Result<Vec<String>, HostError>;
    fn ensure_router(&self, spec: &RouterSpec) -> Result<(), HostError>;
    fn remove_router(&self, spec: &RouterSpec) -> Result<(), HostError>;
    fn ensure_interface(&self, spec: &InterfaceSpec) -> Result<(), HostError>;
    fn remove_interface(&self, router: &str, id: &str) -> Result<(), HostError>;
    /// The addresses of the service itself on this machine, and the firewall around all of its routers.
    fn ensure_service_address(&self, spec: &ServiceAddress) -> Result<(), HostError>;
    /// Puts right what others may have undone of that since; called now and then.
    fn tend_service_address(&self, spec: &ServiceAddress) -> Result<(), HostError>;
    fn remove_service_address(&self, spec: &ServiceAddress) -> Result<(), HostError>;

    /// An address of the router's, to which the host has a way. The router is there.
    fn ensure_balancer(&self, router: &RouterSpec, address: std::net::Ipv4Addr) -> Result<(), HostError>;
    fn remove_balancer(&self, router: &RouterSpec, address: std::net::Ipv4Addr) -> Result<(), HostError>;

    fn ensure_disk(&self, spec: &DiskSpec) -> Result<(), HostError>;
    /// The file as large as asked for, or larger; an attached one's device follows.
    fn ensure_volume(&self, spec: &VolumeSpec) -> Result<(), HostError>;
    /// Of a volume's file; `None` when there is none.
    fn volume_bytes(&self, path: &std::path::Path) -> Result<Option<u64>, HostError>;
    fn remove_volume(&self, path: &std::path::Path) -> Result<(), HostError>;
    fn volume_device(&self, spec: &AttachmentSpec) -> Result<Device, HostError>;
    /// The instance must run.
    fn attach_volume(&self, spec: &AttachmentSpec) -> Result<(), HostError>;
    /// An error as long as the instance uses it.
    fn detach_volume(&self, spec: &AttachmentSpec) -> Result<(), HostError>;
    /// Every device of a volume below this directory is gone.
    fn detach_all_volumes(&self, below: &std::path::Path) -> Result<(), HostError>;
    fn ensure_snapshot(&self, spec: &SnapshotSpec) -> Result<(), HostError>;
    fn remove_snapshot(&self, spec: &SnapshotSpec) -> Result<(), HostError>;
    fn remove_directory(&self, path: &std::path::Path) -> Result<(), HostError>;
}

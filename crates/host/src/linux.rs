//! The real machine.

pub(crate) mod cgroup;
mod child;
mod command;
mod disk;
mod firewall;
pub(crate) mod launch;
mod lock;
pub(crate) mod machine;
mod mounts;
pub(crate) mod network;
mod rootless;
mod volume;

use crate::{
    AttachmentSpec, ChildId, ChildSpec, ChildStatus, Device, DiskSpec, Host, HostError, InterfaceSpec,
    RouterSpec, Running, ServiceAddress, SnapshotSpec, VolumeSpec, netns,
};
use lock::ChildLock;
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub(crate) use child::start_ticks;
pub use child::{arguments as child_arguments, exit as child_exit};
pub use firewall::Firewall;
pub use rootless::RootlessHost;
pub use volume::freeze_main;

/// For everything in a group to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// A launch that goes on without the service that began it takes a second at most.
const LOCK_PATIENCE: Duration = Duration::from_secs(15);

/// Global names of one home on this machine.
#[derive(Clone, Debug)]
pub struct Names {
    /// Four hex digits.
    pub home_id: String,
}

impl Names {
    pub fn namespace(&self, what: &str) -> String {
        format!("ekstra-{}-{what}", self.home_id)
    }

    /// The host's end of a router's uplink.
    pub fn uplink(&self, number: u32) -> String {
        format!("ek{}u{number}", self.home_id)
    }

    pub(crate) fn uplinks(&self) -> String {
        format!("ek{}u*", self.home_id)
    }

    pub(crate) fn table(&self) -> String {
        format!("ekstra_{}", self.home_id)
    }

    /// What our rules in other people's tables carry.
    pub(crate) fn comment(&self) -> String {
        format!("ekstra-{}", self.home_id)
    }

    pub(crate) fn cgroup(&self) -> String {
        format!("ekstra-{}", self.home_id)
    }
}

/// Firewalls of others that packets of every home have to pass on this machine.
pub fn firewalls() -> Result<Vec<Firewall>, HostError> {
    firewall::survey(None)
}

/// This machine, on behalf of one home.
#[derive(Clone, Debug)]
pub struct LinuxHost {
    names: Names,
    /// Pid files live here.
    run: PathBuf,
    /// The program that implements `launch` ([`crate::launch_main`]).
    launcher: PathBuf,
    cgroups: cgroup::Hierarchies,
    /// Routers made by this process, and the namespaces that it made them in: making one takes many commands, and two
    /// at once would trip over each other.
    routers: Arc<Mutex<HashMap<String, (RouterSpec, netns::Identity)>>>,
}

impl LinuxHost {
    pub fn new(names: Names, run: PathBuf, launcher: PathBuf) -> Result<Self, HostError> {
        std::fs::create_dir_all(&run).map_err(HostError::io("create", &run))?;
        let cgroups = cgroup::Hierarchies::detect()?;
        Ok(Self { names, run, launcher, cgroups, routers: Arc::default() })
    }

    pub fn names(&self) -> &Names {
        &self.names
    }

    fn forget_router(&self, namespace: &str) {
        self.routers.lock().unwrap_or_else(PoisonError::into_inner).remove(namespace);
    }

    fn group(&self, id: &ChildId) -> cgroup::Group<'_> {
        self.cgroups.group(format!("{}/{}", self.names.cgroup(), id))
    }

    /// PID 1 of an instance that runs.
    fn instance(&self, id: &ChildId) -> Result<Option<Running>, HostError> {
        Ok(match child::status(&self.run, id)? {
            ChildStatus::Running(running) => Some(running),
            _ => None,
        })
    }

    fn mounted_by(&self, spec: &SnapshotSpec) -> Result<Option<Running>, HostError> {
        spec.instance.as_ref().map_or(Ok(None), |id| self.instance(id))
    }
}

impl Host for LinuxHost {
    fn child_status(&self, id: &ChildId) -> Result<ChildStatus, HostError> {
        child::status(&self.run, id)
    }

    fn ensure_child(&self, spec: &ChildSpec) -> Result<Running, HostError> {
        if let ChildStatus::Running(running) = child::status(&self.run, &spec.id)? {
            return Ok(running);
        }
        let lock = ChildLock::take(&self.run, &spec.id, LOCK_PATIENCE)?;
        // Whoever held it may have started the child.
        if let ChildStatus::Running(running) = child::status(&self.run, &spec.id)? {
            return Ok(running);
        }
        let group = self.group(&spec.id);
        group.kill_all(&spec.id, KILL_PATIENCE)?;
        group.create(&spec.limits)?;
        let started = child::start(&self.launcher, &self.run, spec, group.procs_files(), &lock);
        if started.is_err() {
            group.kill_all(&spec.id, KILL_PATIENCE)?;
        }
        started
    }

    fn remove_child(&self, id: &ChildId, grace: Duration) -> Result<(), HostError> {
        let group = self.group(id);
        let end = || child::stop(&self.run, id, grace).and_then(|()| group.kill_all(id, KILL_PATIENCE));
        // Once before the lock, since a launcher may hold it for as long as its child takes, and once behind it, since
        // a launcher may have started one.
        end()?;
        let lock = ChildLock::take(&self.run, id, LOCK_PATIENCE)?;
        end()?;
        group.remove()?;
        child::forget(&self.run, id)?;
        lock.retire()
    }

    fn children(&self) -> Result<Vec<ChildId>, HostError> {
        let mut ids = child::recorded(&self.run)?;
        ids.extend(self.cgroups.members(&self.names.cgroup())?.into_iter().map(ChildId));
        ids.sort();
        ids.dedup();
        Ok(ids)
    }

    fn ensure_namespace(&self, name: &str) -> Result<(), HostError> {
        network::ensure_namespace(name)
    }

    fn remove_namespace(&self, name: &str) -> Result<(), HostError> {
        self.forget_router(name);
        network::remove_namespace(name)
    }

    fn namespaces(&self) -> Result<Vec<String>, HostError> {
        network::namespaces(&self.names.namespace(""))
    }

    fn ensure_router(&self, spec: &RouterSpec) -> Result<(), HostError> {
        let mut made = self.routers.lock().unwrap_or_else(PoisonError::into_inner);
        let now = || netns::identity(&spec.namespace);
        if made.get(&spec.namespace).is_some_and(|(old, at)| old == spec && Some(*at) == now()) {
            return Ok(());
        }
        network::ensure_router(spec)?;
        if let Some(identity) = now() {
            made.insert(spec.namespace.clone(), (spec.clone(), identity));
        }
        Ok(())
    }

    fn remove_router(&self, spec: &RouterSpec) -> Result<(), HostError> {
        self.forget_router(&spec.namespace);
        network::remove_router(spec)
    }

    fn ensure_interface(&self, spec: &InterfaceSpec) -> Result<(), HostError> {
        network::ensure_interface(spec)
    }

    fn remove_interface(&self, router: &str, id: &str) -> Result<(), HostError> {
        network::remove_interface(router, id)
    }

    fn ensure_service_address(&self, spec: &ServiceAddress) -> Result<(), HostError> {
        network::ensure_service_address(&self.names, spec)
    }

    fn tend_service_address(&self, spec: &ServiceAddress) -> Result<(), HostError> {
        network::tend_service_address(&self.names, spec)
    }

    fn remove_service_address(&self, spec: &ServiceAddress) -> Result<(), HostError> {
        network::remove_uplinks(&self.names)?;
        network::remove_service_address(&self.names, spec)?;
        self.cgroups.group(self.names.cgroup()).remove()
    }

    fn ensure_balancer(&self, router: &RouterSpec, address: Ipv4Addr) -> Result<(), HostError> {
        network::ensure_balancer(router, address)
    }

    fn remove_balancer(&self, router: &RouterSpec, address: Ipv4Addr) -> Result<(), HostError> {
        network::remove_balancer(router, address)
    }

    fn ensure_disk(&self, spec: &DiskSpec) -> Result<(), HostError> {
        disk::ensure(spec)
    }

    fn ensure_volume(&self, spec: &VolumeSpec) -> Result<(), HostError> {
        volume::ensure(spec)
    }

    fn volume_bytes(&self, path: &Path) -> Result<Option<u64>, HostError> {
        volume::bytes(path)
    }

    fn remove_volume(&self, path: &Path) -> Result<(), HostError> {
        volume::remove(path)
    }

    fn volume_device(&self, spec: &AttachmentSpec) -> Result<Device, HostError> {
        volume::device(spec, self.instance(&spec.instance)?.as_ref())
    }

    fn attach_volume(&self, spec: &AttachmentSpec) -> Result<(), HostError> {
        let instance = self.instance(&spec.instance)?;
        let instance = instance.ok_or_else(|| HostError::NotRunning { id: spec.instance.clone() })?;
        volume::attach(spec, &instance, &self.group(&spec.instance))
    }

    fn detach_volume(&self, spec: &AttachmentSpec) -> Result<(), HostError> {
        volume::detach(spec, self.instance(&spec.instance)?.as_ref(), &self.group(&spec.instance))
    }

    fn detach_all_volumes(&self, below: &Path) -> Result<(), HostError> {
        volume::detach_all(below)
    }

    fn ensure_snapshot(&self, spec: &SnapshotSpec) -> Result<(), HostError> {
        volume::snapshot(&self.launcher, spec, self.mounted_by(spec)?.as_ref())
    }

    fn remove_snapshot(&self, spec: &SnapshotSpec) -> Result<(), HostError> {
        volume::remove(&spec.to)
    }

    fn remove_directory(&self, path: &Path) -> Result<(), HostError> {
        disk::remove_directory(path)
    }
}

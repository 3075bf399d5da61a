//! A machine that exists in memory only: for tests of whoever drives a [`Host`].
//!
//! It keeps the promises of the trait (idempotent, nothing half done that a second call does not finish) and can fail
//! at any chosen call, as if the service had been killed there.

use crate::{
    AttachmentSpec, ChildId, ChildSpec, ChildStatus, Device, DiskSpec, Host, HostError, InterfaceSpec,
    RouterSpec, Running, ServiceAddress, SnapshotSpec, VolumeSpec,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What there is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inventory {
    pub children: BTreeMap<ChildId, ChildStatus>,
    pub namespaces: BTreeSet<String>,
    /// By router and link.
    pub interfaces: BTreeSet<(String, String)>,
    pub disks: BTreeSet<PathBuf>,
    /// Load balancers', by router.
    pub balancers: BTreeSet<(String, Ipv4Addr)>,
    /// Volumes and snapshots, with their sizes.
    pub volumes: BTreeMap<PathBuf, u64>,
    /// Volumes that instances have.
    pub attached: BTreeMap<PathBuf, ChildId>,
}

#[derive(Debug, Default)]
struct State {
    inventory: Inventory,
    calls: usize,
    fail_at: Option<usize>,
}

/// A simulated machine.
#[derive(Debug, Default)]
pub struct SimHost {
    state: Mutex<State>,
}

impl SimHost {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn inventory(&self) -> Inventory {
        self.lock().inventory.clone()
    }

    /// The `n`th changing call from now on (0 is the next) does nothing and fails, once.
    pub fn fail_at(&self, n: usize) {
        let mut state = self.lock();
        state.calls = 0;
        state.fail_at = Some(n);
    }

    /// Whether the failure that was asked for has not happened.
    pub fn is_failure_pending(&self) -> bool {
        self.lock().fail_at.is_some()
    }

    /// The child ends by itself.
    pub fn end(&self, id: &ChildId) {
        self.lock().inventory.children.insert(id.clone(), ChildStatus::Exited);
    }

    fn change<T>(&self, body: impl FnOnce(&mut Inventory) -> T) -> Result<T, HostError> {
        let mut state = self.lock();
        let call = state.calls;
        state.calls += 1;
        if state.fail_at == Some(call) {
            state.fail_at = None;
            let source = std::io::Error::other("failed on purpose");
            return Err(HostError::Io { action: "simulate", path: PathBuf::new(), source });
        }
        Ok(body(&mut state.inventory))
    }
}

/// This process, which lives as long as a test wants to watch it.
fn own_process() -> Running {
    let pid = i32::try_from(std::process::id()).unwrap_or(i32::MAX);
    let start_ticks = crate::linux::start_ticks(pid).unwrap_or(0);
    Running { pid, start_ticks, boot_id: crate::boot_id() }
}

impl Host for SimHost {
    fn child_status(&self, id: &ChildId) -> Result<ChildStatus, HostError> {
        Ok(self.lock().inventory.children.get(id).cloned().unwrap_or(ChildStatus::Absent))
    }

    fn ensure_child(&self, spec: &ChildSpec) -> Result<Running, HostError> {
        let running = own_process();
        self.change(|i| i.children.insert(spec.id.clone(), ChildStatus::Running(running.clone())))?;
        Ok(running)
    }

    fn remove_child(&self, id: &ChildId, _: Duration) -> Result<(), HostError> {
        self.change(|i| i.children.remove(id)).map(drop)
    }

    fn children(&self) -> Result<Vec<ChildId>, HostError> {
        Ok(self.lock().inventory.children.keys().cloned().collect())
    }

    fn ensure_namespace(&self, name: &str) -> Result<(), HostError> {
        self.change(|i| i.namespaces.insert(name.to_owned())).map(drop)
    }

    fn remove_namespace(&self, name: &str) -> Result<(), HostError> {
        self.change(|i| i.namespaces.remove(name)).map(drop)
    }

    fn namespaces(&self) -> Result<Vec<String>, HostError> {
        Ok(self.lock().inventory.namespaces.iter().cloned().collect())
    }

    fn ensure_router(&self, spec: &RouterSpec) -> Result<(), HostError> {
        self.change(|i| i.namespaces.insert(spec.namespace.clone())).map(drop)
    }

    fn remove_router(&self, spec: &RouterSpec) -> Result<(), HostError> {
        self.change(|i| i.namespaces.remove(&spec.namespace)).map(drop)
    }

    fn ensure_interface(&self, spec: &InterfaceSpec) -> Result<(), HostError> {
        self.change(|i| i.interfaces.insert((spec.router.clone(), spec.id.clone()))).map(drop)
    }

    fn remove_interface(&self, router: &str, id: &str) -> Result<(), HostError> {
        self.change(|i| i.interfaces.remove(&(router.to_owned(), id.to_owned()))).map(drop)
    }

    fn ensure_service_address(&self, _: &ServiceAddress) -> Result<(), HostError> {
        Ok(())
    }

    fn tend_service_address(&self, _: &ServiceAddress) -> Result<(), HostError> {
        Ok(())
    }

    fn remove_service_address(&self, _: &ServiceAddress) -> Result<(), HostError> {
        Ok(())
    }

    fn ensure_balancer(&self, router: &RouterSpec, address: Ipv4Addr) -> Result<(), HostError> {
        self.change(|i| i.balancers.insert((router.namespace.clone(), address))).map(drop)
    }

    fn remove_balancer(&self, router: &RouterSpec, address: Ipv4Addr) -> Result<(), HostError> {
        self.change(|i| i.balancers.remove(&(router.namespace.clone(), address))).map(drop)
    }

    fn ensure_disk(&self, spec: &DiskSpec) -> Result<(), HostError> {
        self.change(|i| i.disks.insert(spec.path.clone())).map(drop)
    }

    fn ensure_volume(&self, spec: &VolumeSpec) -> Result<(), HostError> {
        self.change(|i| {
            let bytes = i.volumes.entry(spec.path.clone()).or_default();
            *bytes = spec.bytes.max(*bytes);
        })
    }

    fn volume_bytes(&self, path: &Path) -> Result<Option<u64>, HostError> {
        Ok(self.lock().inventory.volumes.get(path).copied())
    }

    fn remove_volume(&self, path: &Path) -> Result<(), HostError> {
        self.change(|i| i.volumes.remove(path)).map(drop)
    }

    fn volume_device(&self, spec: &AttachmentSpec) -> Result<Device, HostError> {
        let state = self.lock();
        let holder = state.inventory.attached.get(&spec.path);
        let runs = matches!(state.inventory.children.get(&spec.instance), Some(ChildStatus::Running(_)));
        Ok(match holder {
            None => Device::Absent,
            Some(holder) if *holder == spec.instance && runs => Device::InPlace,
            Some(_) => Device::Elsewhere,
        })
    }

    fn attach_volume(&self, spec: &AttachmentSpec) -> Result<(), HostError> {
        if !matches!(self.child_status(&spec.instance)?, ChildStatus::Running(_)) {
            return Err(HostError::NotRunning { id: spec.instance.clone() });
        }
        self.change(|i| i.attached.insert(spec.path.clone(), spec.instance.clone())).map(drop)
    }

    fn detach_volume(&self, spec: &AttachmentSpec) -> Result<(), HostError> {
        self.change(|i| i.attached.remove(&spec.path)).map(drop)
    }

    fn detach_all_volumes(&self, below: &Path) -> Result<(), HostError> {
        self.change(|i| i.attached.retain(|path, _| !path.starts_with(below)))
    }

    fn ensure_snapshot(&self, spec: &SnapshotSpec) -> Result<(), HostError> {
        self.change(|i| {
            let bytes = i.volumes.get(&spec.volume).copied().unwrap_or_default();
            i.volumes.insert(spec.to.clone(), bytes);
        })
    }

    fn remove_snapshot(&self, spec: &SnapshotSpec) -> Result<(), HostError> {
        self.remove_volume(&spec.to)
    }

    fn remove_directory(&self, path: &Path) -> Result<(), HostError> {
        self.change(|i| i.disks.retain(|disk| !disk.starts_with(path)))
    }
}

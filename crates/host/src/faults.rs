//! For tests of recovery: a service that is killed right after a chosen step, whatever else it is doing then.
//!
//! Steps are what changes the world: calls of [`Host`] that do something, and commits of the state
//! (`Store::on_commit`). Between two of them nothing is lost that a restart could miss. A launcher's are what it and the
//! child do before the child is the program that was asked for.

use crate::{
    AttachmentSpec, ChildId, ChildSpec, ChildStatus, Device, DiskSpec, Host, HostError, InterfaceSpec,
    RouterSpec, Running, ServiceAddress, SnapshotSpec, VolumeSpec,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Steps until the end; 0 is never.
static LEFT: AtomicU64 = AtomicU64::new(0);

/// From now on, the `steps`th step is the last.
pub fn arm(steps: u64) {
    LEFT.store(steps, Ordering::SeqCst);
}

/// One has been taken.
pub fn step() {
    let taken = LEFT.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
    if taken == Ok(1) {
        // Nothing of this process runs after it: no destructor, no other thread.
        let _ = kill(Pid::this(), Signal::SIGKILL);
        // PID 1 of a namespace does not die of its own signals.
        std::process::exit(137);
    }
}

/// A machine whose every change is a step.
#[derive(Debug)]
pub struct Faulty(pub Arc<dyn Host>);

fn after<T>(done: T) -> T {
    step();
    done
}

impl Host for Faulty {
    fn child_status(&self, id: &ChildId) -> Result<ChildStatus, HostError> {
        self.0.child_status(id)
    }

    fn ensure_child(&self, spec: &ChildSpec) -> Result<Running, HostError> {
        after(self.0.ensure_child(spec))
    }

    fn remove_child(&self, id: &ChildId, grace: Duration) -> Result<(), HostError> {
        after(self.0.remove_child(id, grace))
    }

    fn children(&self) -> Result<Vec<ChildId>, HostError> {
        self.0.children()
    }

    fn ensure_namespace(&self, name: &str) -> Result<(), HostError> {
        after(self.0.ensure_namespace(name))
    }

    fn remove_namespace(&self, name: &str) -> Result<(), HostError> {
        after(self.0.remove_namespace(name))
    }

    fn namespaces(&self) -> Result<Vec<String>, HostError> {
        self.0.namespaces()
    }

    fn ensure_router(&self, spec: &RouterSpec) -> Result<(), HostError> {
        after(self.0.ensure_router(spec))
    }

    fn remove_router(&self, spec: &RouterSpec) -> Result<(), HostError> {
        after(self.0.remove_router(spec))
    }

    fn ensure_interface(&self, spec: &InterfaceSpec) -> Result<(), HostError> {
        after(self.0.ensure_interface(spec))
    }

    fn remove_interface(&self, router: &str, id: &str) -> Result<(), HostError> {
        after(self.0.remove_interface(router, id))
    }

    fn ensure_service_address(&self, spec: &ServiceAddress) -> Result<(), HostError> {
        after(self.0.ensure_service_address(spec))
    }

    fn tend_service_address(&self, spec: &ServiceAddress) -> Result<(), HostError> {
        self.0.tend_service_address(spec)
    }

    fn remove_service_address(&self, spec: &ServiceAddress) -> Result<(), HostError> {
        after(self.0.remove_service_address(spec))
    }

    fn ensure_balancer(&self, router: &RouterSpec, address: Ipv4Addr) -> Result<(), HostError> {
        after(self.0.ensure_balancer(router, address))
    }

    fn remove_balancer(&self, router: &RouterSpec, address: Ipv4Addr) -> Result<(), HostError> {
        after(self.0.remove_balancer(router, address))
    }

    fn ensure_disk(&self, spec: &DiskSpec) -> Result<(), HostError> {
        after(self.0.ensure_disk(spec))
    }

    fn ensure_volume(&self, spec: &VolumeSpec) -> Result<(), HostError> {
        after(self.0.ensure_volume(spec))
    }

    fn volume_bytes(&self, path: &Path) -> Result<Option<u64>, HostError> {
        self.0.volume_bytes(path)
    }

    fn remove_volume(&self, path: &Path) -> Result<(), HostError> {
        after(self.0.remove_volume(path))
    }

    fn volume_device(&self, spec: &AttachmentSpec) -> Result<Device, HostError> {
        self.0.volume_device(spec)
    }

    fn attach_volume(&self, spec: &AttachmentSpec) -> Result<(), HostError> {
        after(self.0.attach_volume(spec))
    }

    fn detach_volume(&self, spec: &AttachmentSpec) -> Result<(), HostError> {
        after(self.0.detach_volume(spec))
    }

    fn detach_all_volumes(&self, below: &Path) -> Result<(), HostError> {
        after(self.0.detach_all_volumes(below))
    }

    fn ensure_snapshot(&self, spec: &SnapshotSpec) -> Result<(), HostError> {
        after(self.0.ensure_snapshot(spec))
    }

    fn remove_snapshot(&self, spec: &SnapshotSpec) -> Result<(), HostError> {
        after(self.0.remove_snapshot(spec))
    }

    fn remove_directory(&self, path: &Path) -> Result<(), HostError> {
        after(self.0.remove_directory(path))
    }
}

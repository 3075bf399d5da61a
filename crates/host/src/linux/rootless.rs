//! This machine, for a service that is not root: its user's processes and files, and nothing else.
//!
//! Invariant: no group holds a child together, so a child is its process alone. That is enough: the launcher records it
//! before it runs any code (`launch.rs`), and none of a control plane's programs starts another.

use super::child;
use super::lock::ChildLock;
use super::{LOCK_PATIENCE, disk, volume};
use crate::{
    AttachmentSpec, ChildId, ChildSpec, ChildStatus, Device, DiskSpec, Host, HostError, InterfaceSpec,
    RouterSpec, Running, ServiceAddress, SnapshotSpec, VolumeSpec,
};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The machine as one of its users sees it. What needs root is refused by name ([`HostError::NeedsRoot`]); what only
/// root could have made is never there.
#[derive(Clone, Debug)]
pub struct RootlessHost {
    /// Pid files live here.
    run: PathBuf,
    /// The program that implements `launch` ([`crate::launch_main`]).
    launcher: PathBuf,
}

impl RootlessHost {
    pub fn new(run: PathBuf, launcher: PathBuf) -> Result<Self, HostError> {
        std::fs::create_dir_all(&run).map_err(HostError::io("create", &run))?;
        Ok(Self { run, launcher })
    }
}

fn refused<T>(what: &'static str) -> Result<T, HostError> {
    Err(HostError::NeedsRoot { what })
}

impl Host for RootlessHost {
    fn child_status(&self, id: &ChildId) -> Result<ChildStatus, HostError> {
        child::status(&self.run, id)
    }

    fn ensure_child(&self, spec: &ChildSpec) -> Result<Running, HostError> {
        if spec.namespace.is_some() || spec.sandbox.is_some() {
            return refused("a child in namespaces of its own");
        }
        if let ChildStatus::Running(running) = child::status(&self.run, &spec.id)? {
            return Ok(running);
        }
        let lock = ChildLock::take(&self.run, &spec.id, LOCK_PATIENCE)?;
        // Whoever held it may have started the child.
        if let ChildStatus::Running(running) = child::status(&self.run, &spec.id)? {
            return Ok(running);
        }
        let started = child::start(&self.launcher, &self.run, spec, Vec::new(), &lock);
        if started.is_err() {
            child::stop(&self.run, &spec.id, Duration::ZERO)?;
        }
        started
    }

    fn remove_child(&self, id: &ChildId, grace: Duration) -> Result<(), HostError> {
        // Once before the lock, since a launcher may hold it for as long as its child takes, and once behind it, since
        // a launcher may have started one.
        child::stop(&self.run, id, grace)?;
        let lock = ChildLock::take(&self.run, id, LOCK_PATIENCE)?;
        child::stop(&self.run, id, grace)?;
        child::forget(&self.run, id)?;
        lock.retire()
    }

    fn children(&self) -> Result<Vec<ChildId>, HostError> {
        let mut ids = child::recorded(&self.run)?;
        ids.sort();
        Ok(ids)
    }

    fn ensure_namespace(&self, _: &str) -> Result<(), HostError> {
        refused("a network namespace")
    }

    fn remove_namespace(&self, _: &str) -> Result<(), HostError> {
        Ok(())
    }

    fn namespaces(&self) -> Result<Vec<String>, HostError> {
        Ok(Vec::new())
    }

    fn ensure_router(&self, _: &RouterSpec) -> Result<(), HostError> {
        refused("the router of a VPC")
    }

    fn remove_router(&self, _: &RouterSpec) -> Result<(), HostError> {
        Ok(())
    }

    fn ensure_interface(&self, _: &InterfaceSpec) -> Result<(), HostError> {
        refused("a network interface")
    }

    fn remove_interface(&self, _: &str, _: &str) -> Result<(), HostError> {
        Ok(())
    }

    /// It is the loopback's own.
    fn ensure_service_address(&self, _: &ServiceAddress) -> Result<(), HostError> {
        Ok(())
    }

    fn tend_service_address(&self, _: &ServiceAddress) -> Result<(), HostError> {
        Ok(())
    }

    fn remove_service_address(&self, _: &ServiceAddress) -> Result<(), HostError> {
        Ok(())
    }

    fn ensure_balancer(&self, _: &RouterSpec, _: Ipv4Addr) -> Result<(), HostError> {
        refused("the address of a load balancer")
    }

    fn remove_balancer(&self, _: &RouterSpec, _: Ipv4Addr) -> Result<(), HostError> {
        Ok(())
    }

    fn ensure_disk(&self, _: &DiskSpec) -> Result<(), HostError> {
        refused("the disk of an instance")
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

    fn volume_device(&self, _: &AttachmentSpec) -> Result<Device, HostError> {
        refused("a block device")
    }

    fn attach_volume(&self, _: &AttachmentSpec) -> Result<(), HostError> {
        refused("a block device")
    }

    fn detach_volume(&self, _: &AttachmentSpec) -> Result<(), HostError> {
        Ok(())
    }

    fn detach_all_volumes(&self, _: &Path) -> Result<(), HostError> {
        Ok(())
    }

    fn ensure_snapshot(&self, spec: &SnapshotSpec) -> Result<(), HostError> {
        volume::snapshot(&self.launcher, spec, None)
    }

    fn remove_snapshot(&self, spec: &SnapshotSpec) -> Result<(), HostError> {
        volume::remove(&spec.to)
    }

    fn remove_directory(&self, path: &Path) -> Result<(), HostError> {
        disk::remove_directory(path)
    }
}

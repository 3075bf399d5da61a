//! The node part of the storage driver `ebs.csi.aws.com`: what the kubelet asks to have a volume formatted, mounted
//! for a pod, grown, and measured. Attaching is done before, from outside: the device appears in `/dev`.
//!
//! Invariant: every call may come again, after any crash, and finds what an earlier one did in the kernel's tables, not
//! in memory.

mod device;
mod generated;
mod registration;
mod server;
mod service;

use crate::metadata::Metadata;
use std::io;
use std::path::Path;
use tokio::net::UnixListener;

/// As the driver of AWS is called, so that what was written for it works.
pub(crate) const DRIVER: &str = "ebs.csi.aws.com";
const SOCKET: &str = "/var/lib/kubelet/plugins/ebs.csi.aws.com/csi.sock";
/// Where kubelets look for plugins.
const REGISTRATION: &str = "/var/lib/kubelet/plugins_registry/ebs.csi.aws.com-reg.sock";

/// Serves until it is killed.
pub(crate) fn run() -> io::Result<()> {
    let metadata = Metadata::connect()?;
    let facts = service::Facts {
        instance: metadata.require("meta-data/instance-id")?,
        zone: metadata.require("meta-data/placement/availability-zone")?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let driver = server::serve(listen(SOCKET)?, facts);
        let registration = registration::serve(listen(REGISTRATION)?);
        tokio::join!(driver, registration);
        Ok(())
    })
}

/// The name may be taken by a predecessor's socket.
fn listen(path: &str) -> io::Result<UnixListener> {
    let path = Path::new(path);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(path)
}

//! Instance disks: sparse ext4 images, mounted only inside the instance.
//!
//! Invariant: a file of the right name is a whole file system, also after a crash of the machine.

use super::command::run_within;
use crate::{DiskSpec, HostError};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// The journal is written through to a disk that others keep busy.
const LIMIT: Duration = Duration::from_secs(60);

/// Made under another name, written through, and renamed.
pub(crate) fn ensure(spec: &DiskSpec) -> Result<(), HostError> {
    if spec.path.exists() {
        return Ok(());
    }
    if let Some(parent) = spec.path.parent() {
        fs::create_dir_all(parent).map_err(HostError::io("create", parent))?;
    }
    let partial = spec.path.with_extension("partial");
    let file = fs::File::create(&partial).map_err(HostError::io("create", &partial))?;
    file.set_len(spec.bytes).map_err(HostError::io("size", &partial))?;
    drop(file);
    let name = partial.to_string_lossy();
    // Inode tables are zeroed by nobody (the file is sparse), the journal is small: tens of milliseconds for any size.
    let options = "lazy_itable_init=1,lazy_journal_init=1,nodiscard";
    let args = ["-q", "-F", "-m", "0", "-J", "size=16", "-E", options, &name];
    run_within(LIMIT, "mkfs.ext4", "e2fsprogs", &args, "")?;
    let written = fs::File::open(&partial).and_then(|file| file.sync_all());
    written.map_err(HostError::io("sync", &partial))?;
    fs::rename(&partial, &spec.path).map_err(HostError::io("rename", &spec.path))
}

/// Everything below, or nothing if it is not there.
pub(crate) fn remove_directory(path: &Path) -> Result<(), HostError> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(HostError::io("remove", path)(error)),
    }
}

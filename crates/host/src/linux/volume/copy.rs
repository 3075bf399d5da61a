//! Copies of volumes: snapshots, and volumes that begin as one.
//!
//! Invariant: what has its final name is whole, and of one moment; a copy that failed leaves nothing behind.

use super::freeze::Frozen;
use super::{Loop, find, partial, remove, sync_directory};
use crate::linux::command::run_within;
use crate::{HostError, Running, SnapshotSpec};
use nix::sys::statvfs::statvfs;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// Copying what a volume holds, at the speed of a slow disk.
const LIMIT: Duration = Duration::from_secs(30 * 60);
/// What a copy leaves free for everything else that lives on this disk.
const RESERVE: u64 = 512 << 20;
/// A volume that nobody has mounted may be mounted while it is copied; then it is copied again.
const ATTEMPTS: usize = 5;

/// Copies while nothing is written: what is in the snapshot is what a power failure at that moment would have left.
pub(in crate::linux) fn snapshot(
    launcher: &Path,
    spec: &SnapshotSpec,
    instance: Option<&Running>,
) -> Result<(), HostError> {
    if spec.to.exists() {
        return Ok(());
    }
    if let Some(parent) = spec.to.parent() {
        fs::create_dir_all(parent).map_err(HostError::io("create", parent))?;
    }
    let partial = partial(&spec.to);
    for _ in 0..ATTEMPTS {
        let device = find(&spec.volume)?;
        let frozen = match (&device, instance) {
            (Some(device), Some(instance)) => {
                Frozen::freeze(launcher, instance, device).map_err(HostError::io("freeze", &spec.volume))?
            }
            _ => None,
        };
        if frozen.is_none() {
            sync(&spec.volume, device.as_ref())?;
        }
        let before = written(&spec.volume)?;
        copy(&spec.volume, &partial)?;
        if frozen.is_some() || written(&spec.volume)? == before {
            drop(frozen);
            return publish(&partial, &spec.to);
        }
    }
    let _ = remove(&spec.to);
    let source = std::io::Error::other("it is written to all the time though nobody has mounted it");
    Err(HostError::io("copy", &spec.volume)(source))
}

fn sync(file: &Path, device: Option<&Loop>) -> Result<(), HostError> {
    let path = device.map_or(file, |device| &device.path);
    File::open(path).and_then(|opened| opened.sync_all()).map_err(HostError::io("sync", path))
}

/// Changes with every write, also with one through a loop device.
fn written(file: &Path) -> Result<(i64, i64, i64, i64), HostError> {
    let found = fs::metadata(file).map_err(HostError::io("look at", file))?;
    Ok((found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec()))
}

/// Holes stay holes.
pub(super) fn copy(from: &Path, partial: &Path) -> Result<(), HostError> {
    // Of a copy that still runs though whoever started it was killed, this is another file then.
    match fs::remove_file(partial) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(HostError::io("remove", partial)(error));
        }
        _ => {}
    }
    check_room(from, partial)?;
    let (source, target) = (from.to_string_lossy(), partial.to_string_lossy());
    let args = ["--sparse=always", "--reflink=auto", "--", &source, &target];
    let copied = run_within(LIMIT, "cp", "coreutils", &args, "").map(drop);
    if copied.is_err() {
        let _ = fs::remove_file(partial);
    }
    copied
}

/// A full disk would take etcd, the service's state and every other volume along.
fn check_room(from: &Path, partial: &Path) -> Result<(), HostError> {
    const BLOCK: u64 = 512;
    let needed = fs::metadata(from).map_err(HostError::io("look at", from))?.blocks() * BLOCK;
    let directory = partial.parent().unwrap_or(Path::new("/"));
    let there = statvfs(directory).map_err(|errno| HostError::io("look at", directory)(errno.into()))?;
    #[expect(clippy::useless_conversion, reason = "they are as wide as the machine's words")]
    let free = u64::from(there.blocks_available()).saturating_mul(u64::from(there.fragment_size()));
    if free < needed.saturating_add(RESERVE) {
        return Err(HostError::NoRoom { path: directory.to_owned(), needed, free });
    }
    Ok(())
}

pub(super) fn publish(partial: &Path, to: &Path) -> Result<(), HostError> {
    File::open(partial).and_then(|file| file.sync_all()).map_err(HostError::io("sync", partial))?;
    fs::rename(partial, to).map_err(HostError::io("rename", to))?;
    sync_directory(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_that_has_no_room_is_not_begun() {
        let home = std::env::temp_dir().join(format!("ekstra-room-{}", std::process::id()));
        fs::create_dir_all(&home).expect("made");
        let (from, to) = (home.join("vol-1"), home.join("snap-1"));
        fs::write(&from, "x").expect("written");
        copy(&from, &partial(&to)).expect("there is room");
        assert!(partial(&to).exists());
        assert!(copy(&home.join("missing"), &partial(&to)).is_err());
        assert!(!partial(&to).exists(), "nothing is left of one that failed");
        fs::remove_dir_all(home).expect("removed");
    }
}

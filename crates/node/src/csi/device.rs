//! Block devices and the file systems on them, by the tools of the node image.
//!
//! Invariant: a device that holds anything at all is never formatted.

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statvfs::{FsFlags, statvfs};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Between the controller's word that a volume is attached and its device.
const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);
const FILE_SYSTEMS: [&str; 3] = ["ext4", "ext3", "ext2"];

#[derive(Debug, thiserror::Error)]
pub(super) enum DeviceError {
    #[error("{0} is not attached to this instance")]
    NotAttached(String),
    #[error("file system {0} is not supported here; there is ext4, ext3, ext2")]
    FileSystem(String),
    #[error("{} is not there", .0.display())]
    NoSuchPath(PathBuf),
    /// The kernel wants CAP_SYS_RESOURCE for it, which a machine that is a container itself may not have.
    #[error("this machine may not grow a file system that is mounted; it grows when the pod is started anew")]
    InUse,
    #[error("{command}: {output}")]
    Tool { command: String, output: String },
    #[error("{what} {}: {source}", .path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
}

fn io_error<E: Into<io::Error>>(what: &'static str, path: &Path) -> impl FnOnce(E) -> DeviceError {
    let path = path.to_owned();
    move |error| DeviceError::Io { what, path, source: error.into() }
}

/// The device of a volume, by its serial number alone: where an attachment says that it is, another may be by now.
pub(super) fn wait_for(volume: &str) -> Result<PathBuf, DeviceError> {
    let serial = volume.replace('-', "");
    let by_id = PathBuf::from(format!("/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_{serial}"));
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Ok(device) = fs::canonicalize(&by_id) {
            return Ok(device);
        }
        if Instant::now() > deadline {
            return Err(DeviceError::NotAttached(volume.to_owned()));
        }
        std::thread::sleep(POLL);
    }
}

fn run(program: &str, args: &[&str], accepted: &[i32]) -> Result<(i32, String), DeviceError> {
    let command = format!("{program} {}", args.join(" "));
    let fail = |output: String| DeviceError::Tool { command: command.clone(), output };
    let done = Command::new(program).args(args).output().map_err(|error| fail(error.to_string()))?;
    let code = done.status.code().unwrap_or(-1);
    if accepted.contains(&code) {
        return Ok((code, String::from_utf8_lossy(&done.stdout).trim().to_owned()));
    }
    let told = [&done.stdout, &done.stderr].map(|text| String::from_utf8_lossy(text).trim().to_owned());
    Err(fail(format!("{} ({code})", told.join(" ").trim())))
}

/// What is on the device; `None`: nothing.
fn content(device: &str) -> Result<Option<String>, DeviceError> {
    // 2: nothing was recognised.
    match run("blkid", &["-p", "-o", "value", "-s", "TYPE", "-s", "PTTYPE", device], &[0, 2])? {
        (0, found) if !found.is_empty() => Ok(Some(found)),
        _ => Ok(None),
    }
}

/// Formats what is empty, and mounts.
pub(super) fn stage(device: &Path, to: &Path, kind: &str, flags: &[String]) -> Result<(), DeviceError> {
    if !FILE_SYSTEMS.contains(&kind) {
        return Err(DeviceError::FileSystem(kind.to_owned()));
    }
    if is_mounted(to)? {
        return Ok(());
    }
    let (name, at) = (device.to_string_lossy(), to.to_string_lossy());
    let kind = match content(&name)? {
        None => {
            // As the EBS CSI driver does; tables are zeroed by nobody, since the device reads as zeros.
            let lazy = "lazy_itable_init=1,lazy_journal_init=1,nodiscard";
            run(&format!("mkfs.{kind}"), &["-q", "-F", "-m", "0", "-E", lazy, &name], &[0])?;
            kind.to_owned()
        }
        Some(found) if FILE_SYSTEMS.contains(&found.as_str()) => {
            check_and_fit(&name)?;
            found
        }
        Some(found) => return Err(DeviceError::FileSystem(found)),
    };
    fs::create_dir_all(to).map_err(io_error("create", to))?;
    let options = if flags.is_empty() { "defaults".to_owned() } else { flags.join(",") };
    run("mount", &["-t", &kind, "-o", &options, &name, &at], &[0]).map(drop)
}

/// Before it is mounted, a file system can be made as large as its device anywhere; it is larger when the volume grew, or
/// was filled from a smaller snapshot.
fn check_and_fit(device: &str) -> Result<(), DeviceError> {
    // 1: errors were corrected.
    if fills(device)? {
        return run("e2fsck", &["-p", device], &[0, 1]).map(drop);
    }
    run("e2fsck", &["-f", "-p", device], &[0, 1])?;
    run("resize2fs", &[device], &[0]).map(drop)
}

/// Whether less than a block of the device is left over.
fn fills(device: &str) -> Result<bool, DeviceError> {
    let (_, head) = run("dumpe2fs", &["-h", device], &[0])?;
    let number = |name: &str| -> Option<u64> {
        head.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok()
    };
    let (blocks, size) = (number("Block count:").unwrap_or(0), number("Block size:").unwrap_or(1));
    Ok(bytes_of(device)?.saturating_sub(blocks * size) < size)
}

fn bytes_of(device: &str) -> Result<u64, DeviceError> {
    let (_, bytes) = run("blockdev", &["--getsize64", device], &[0])?;
    Ok(bytes.parse().unwrap_or(0))
}

pub(super) fn publish(from: &Path, to: &Path, read_only: bool) -> Result<(), DeviceError> {
    if !is_mounted(from)? {
        return Err(DeviceError::NoSuchPath(from.to_owned()));
    }
    const NONE: Option<&str> = None;
    if !is_mounted(to)? {
        fs::create_dir_all(to).map_err(io_error("create", to))?;
        mount(Some(from), to, NONE, MsFlags::MS_BIND, NONE).map_err(io_error("mount", to))?;
    }
    if read_only {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        let kept = flags_of(to).map_err(io_error("look at", to))?;
        mount(NONE, to, NONE, flags | kept, NONE).map_err(io_error("make read-only", to))?;
    }
    Ok(())
}

/// What a mount may not do, which a remount forgets unless it is told again.
fn flags_of(at: &Path) -> nix::Result<MsFlags> {
    let has = statvfs(at)?.flags();
    let pairs = [
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
        (FsFlags::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
        (FsFlags::ST_RELATIME, MsFlags::MS_RELATIME),
    ];
    Ok(pairs.into_iter().filter(|(flag, _)| has.contains(*flag)).map(|(_, flag)| flag).collect())
}

pub(super) fn unmount(at: &Path) -> Result<(), DeviceError> {
    while is_mounted(at)? {
        umount2(at, MntFlags::empty()).map_err(io_error("unmount", at))?;
    }
    Ok(())
}

pub(super) fn unpublish(at: &Path) -> Result<(), DeviceError> {
    unmount(at)?;
    match fs::remove_dir(at) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", at)(error)),
        _ => Ok(()),
    }
}

/// The file system as large as its device; answers that size in bytes.
pub(super) fn grow(device: &Path, at: &Path) -> Result<i64, DeviceError> {
    if !at.exists() {
        return Err(DeviceError::NoSuchPath(at.to_owned()));
    }
    let name = device.to_string_lossy();
    if !fills(&name)? {
        run("resize2fs", &[&name], &[0]).map_err(|error| match error {
            DeviceError::Tool { output, .. } if output.contains("Permission denied") => DeviceError::InUse,
            other => other,
        })?;
    }
    Ok(i64::try_from(bytes_of(&name)?).unwrap_or(i64::MAX))
}

/// Of bytes or inodes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Use {
    pub(super) total: i64,
    pub(super) used: i64,
    pub(super) available: i64,
}

/// Bytes and inodes of the file system at a path.
pub(super) fn measure(at: &Path) -> Result<(Use, Use), DeviceError> {
    if !at.exists() {
        return Err(DeviceError::NoSuchPath(at.to_owned()));
    }
    let found = nix::sys::statvfs::statvfs(at).map_err(io_error("measure", at))?;
    let unit = found.fragment_size();
    let of = |total: u64, free: u64, available: u64, unit: u64| {
        let number = |count: u64| i64::try_from(count.saturating_mul(unit)).unwrap_or(i64::MAX);
        Use { total: number(total), used: number(total.saturating_sub(free)), available: number(available) }
    };
    let bytes = of(found.blocks(), found.blocks_free(), found.blocks_available(), unit);
    Ok((bytes, of(found.files(), found.files_free(), found.files_available(), 1)))
}

fn is_mounted(at: &Path) -> Result<bool, DeviceError> {
    let table = Path::new("/proc/self/mountinfo");
    let mounts = fs::read_to_string(table).map_err(io_error("read", table))?;
    // What the kubelet calls things has no spaces in it, which is all that this table escapes.
    Ok(mounts.lines().any(|line| line.split(' ').nth(4) == at.to_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_that_the_image_cannot_make_are_refused_by_name() {
        let refused = stage(Path::new("/dev/null"), Path::new("/nowhere"), "xfs", &[]).expect_err("refused");
        assert!(refused.to_string().contains("xfs") && refused.to_string().contains("ext4"), "{refused}");
    }

    #[test]
    fn tools_are_quoted() {
        let told =
            run("sh", &["-c", "echo this; echo that >&2; exit 3"], &[0]).expect_err("fails").to_string();
        assert!(told.ends_with("this that (3)"), "{told}");
        assert_eq!(run("sh", &["-c", "echo this; exit 2"], &[0, 2]).expect("accepted"), (2, "this".into()));
    }

    #[test]
    fn this_file_system_is_measured() {
        let (bytes, _) = measure(Path::new("/")).expect("measured");
        assert!(bytes.total > 0 && bytes.used + bytes.available <= bytes.total, "{bytes:?}");
        assert!(is_mounted(Path::new("/proc")).expect("looked at"));
        assert!(!is_mounted(Path::new("/no/such")).expect("looked at"));
    }
}

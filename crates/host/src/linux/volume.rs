//! Block volumes: sparse files, given to instances through loop devices.
//!
//! Invariant: a volume's device is found by its file, so whoever comes after a crash finds what there is. A file of the
//! right name is whole: copies are made beside it and renamed.
//!
//! What is touched inside an instance is reached from its root with links resolved in there ([`open_inside`]): its pods
//! may have put links anywhere.

mod copy;
mod freeze;

pub(super) use copy::snapshot;
pub use freeze::freeze_main;

use super::cgroup::Group;
use super::command::run;
use crate::{AttachmentSpec, Device, HostError, Running, VolumeSpec};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, SFlag, fstatat, makedev, mkdirat, mknodat};
use nix::unistd::{UnlinkatFlags, symlinkat, unlinkat};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

const DEVICES: &str = "dev";
const DISK: &str = "dev/disk";
const ALIASES: &str = "dev/disk/by-id";

/// A loop device.
#[derive(Debug)]
struct Loop {
    /// `/dev/loop3`.
    path: PathBuf,
    number: (u64, u64),
}

pub(super) fn ensure(spec: &VolumeSpec) -> Result<(), HostError> {
    match bytes(&spec.path)? {
        None => create(spec)?,
        Some(bytes) if bytes < spec.bytes => resize(&spec.path, spec.bytes)?,
        Some(_) => {}
    }
    // Also when the file was large enough already: a predecessor may have been killed between the two.
    match find(&spec.path)? {
        Some(found) => losetup(&["--set-capacity", &found.path.to_string_lossy()]).map(drop),
        None => Ok(()),
    }
}

fn create(spec: &VolumeSpec) -> Result<(), HostError> {
    if let Some(parent) = spec.path.parent() {
        fs::create_dir_all(parent).map_err(HostError::io("create", parent))?;
    }
    let partial = partial(&spec.path);
    match &spec.source {
        Some(source) => copy::copy(source, &partial)?,
        None => drop(File::create(&partial).map_err(HostError::io("create", &partial))?),
    }
    if let Err(error) = resize(&partial, spec.bytes) {
        let _ = fs::remove_file(&partial);
        return Err(error);
    }
    copy::publish(&partial, &spec.path)
}

/// A name is on disk when its directory is.
fn sync_directory(file: &Path) -> Result<(), HostError> {
    let directory = file.parent().unwrap_or(Path::new("."));
    File::open(directory).and_then(|opened| opened.sync_all()).map_err(HostError::io("sync", directory))
}

fn partial(path: &Path) -> PathBuf {
    path.with_extension("partial")
}

fn resize(path: &Path, bytes: u64) -> Result<(), HostError> {
    let file = File::options().write(true).open(path).map_err(HostError::io("open", path))?;
    let length = file.metadata().map_err(HostError::io("size", path))?.len();
    file.set_len(bytes.max(length)).and_then(|()| file.sync_all()).map_err(HostError::io("size", path))
}

pub(super) fn bytes(path: &Path) -> Result<Option<u64>, HostError> {
    match fs::metadata(path) {
        Ok(found) => Ok(Some(found.len())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(HostError::io("look at", path)(error)),
    }
}

pub(super) fn remove(path: &Path) -> Result<(), HostError> {
    for path in [partial(path), path.to_owned()] {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(HostError::io("remove", path)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

fn losetup(args: &[&str]) -> Result<String, HostError> {
    run("losetup", "mount", args, "")
}

/// The loop devices of this machine, with their files.
fn loops() -> Result<Vec<(PathBuf, Loop)>, HostError> {
    let blocks = Path::new("/sys/block");
    let entries = match fs::read_dir(blocks) {
        Ok(entries) => entries,
        // A machine without block devices has no loop devices either.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(HostError::io("list", blocks)(error)),
    };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let (name, sys) = (entry.file_name(), entry.path());
        let Ok(file) = fs::read_to_string(sys.join("loop/backing_file")) else { continue };
        let Some(number) = fs::read_to_string(sys.join("dev")).ok().and_then(|n| parse_number(&n)) else {
            continue;
        };
        // The kernel says so of a file that has no name any more.
        let file = file.trim_end_matches('\n').trim_end_matches(" (deleted)");
        found.push((file.into(), Loop { path: Path::new("/dev").join(name), number }));
    }
    Ok(found)
}

fn parse_number(text: &str) -> Option<(u64, u64)> {
    let (major, minor) = text.trim().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn find(file: &Path) -> Result<Option<Loop>, HostError> {
    // What the kernel tells has no links in it.
    let file = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    Ok(loops()?.into_iter().find(|(backing, _)| *backing == file).map(|(_, found)| found))
}

pub(super) fn device(spec: &AttachmentSpec, instance: Option<&Running>) -> Result<Device, HostError> {
    let Some(found) = find(&spec.path)? else { return Ok(Device::Absent) };
    let Some(instance) = instance else { return Ok(Device::Elsewhere) };
    let number = open_inside(instance, DEVICES).and_then(|dev| block_number(dev.as_fd(), &spec.device));
    let is_there = number.is_ok_and(|number| number == Some(found.number));
    Ok(if is_there { Device::InPlace } else { Device::Elsewhere })
}

pub(super) fn attach(spec: &AttachmentSpec, instance: &Running, group: &Group<'_>) -> Result<(), HostError> {
    if find(&spec.path)?.is_none() {
        losetup(&["--find", &spec.path.to_string_lossy()])?;
    }
    let missing = || io::Error::other("has no loop device though it was given one");
    let found = find(&spec.path)?.ok_or_else(|| HostError::io("attach", &spec.path)(missing()))?;
    group.set_block_device(found.number, true)?;
    let inside = || -> nix::Result<()> {
        let dev = open_inside(instance, DEVICES)?;
        unlink(dev.as_fd(), &spec.device)?;
        let number = makedev(found.number.0, found.number.1);
        mknodat(&dev, spec.device.as_str(), SFlag::S_IFBLK, Mode::from_bits_truncate(0o660), number)?;
        make_directory(dev.as_fd(), "disk")?;
        let disk = open_inside(instance, DISK)?;
        make_directory(disk.as_fd(), "by-id")?;
        let aliases = open_inside(instance, ALIASES)?;
        unlink(aliases.as_fd(), &spec.alias)?;
        symlinkat(format!("../../{}", spec.device).as_str(), &aliases, spec.alias.as_str())
    };
    inside().map_err(|errno| HostError::io("attach", &spec.path)(errno.into()))
}

pub(super) fn detach(
    spec: &AttachmentSpec,
    instance: Option<&Running>,
    group: &Group<'_>,
) -> Result<(), HostError> {
    let found = find(&spec.path)?;
    if let Some(instance) = instance {
        if let Some(found) = &found
            && is_mounted(instance, found)
        {
            return Err(HostError::VolumeInUse { path: spec.path.clone(), id: spec.instance.clone() });
        }
        let inside = || -> nix::Result<()> {
            unlink(open_inside(instance, DEVICES)?.as_fd(), &spec.device)?;
            match open_inside(instance, ALIASES) {
                Ok(aliases) => unlink(aliases.as_fd(), &spec.alias),
                Err(Errno::ENOENT) => Ok(()),
                Err(errno) => Err(errno),
            }
        };
        // An instance that ends meanwhile needs nothing taken from it.
        if let Err(errno) = inside() {
            tracing::info!(instance = %spec.instance, device = spec.device, %errno, "not taken out of the instance");
        }
    }
    let Some(found) = found else { return Ok(()) };
    group.set_block_device(found.number, false)?;
    release(&found)?;
    // Someone has it open still; the kernel lets go with the last of them.
    match find(&spec.path)? {
        Some(_) => Err(HostError::VolumeInUse { path: spec.path.clone(), id: spec.instance.clone() }),
        None => Ok(()),
    }
}

fn release(found: &Loop) -> Result<(), HostError> {
    losetup(&["--detach", &found.path.to_string_lossy()]).map(drop)
}

pub(super) fn detach_all(below: &Path) -> Result<(), HostError> {
    let below = fs::canonicalize(below).unwrap_or_else(|_| below.to_owned());
    loops()?.iter().filter(|(file, _)| file.starts_with(&below)).try_for_each(|(_, found)| release(found))
}

/// The last component of the name is no link, so nobody can lead this elsewhere.
fn make_directory(parent: BorrowedFd<'_>, name: &str) -> nix::Result<()> {
    match mkdirat(parent, name, Mode::from_bits_truncate(0o755)) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// A directory of an instance, whose links lead to where they lead for the instance. A FIFO that was put there is not
/// waited for.
fn open_inside(instance: &Running, path: &str) -> nix::Result<OwnedFd> {
    let root = File::open(format!("/proc/{}/root", instance.pid)).map_err(|e| errno(&e))?;
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_DIRECTORY | OFlag::O_NONBLOCK)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let opened = openat2(&root, path, how)?;
    // Its pid may be another's by now.
    match super::start_ticks(instance.pid) == Some(instance.start_ticks) {
        true => Ok(opened),
        false => Err(Errno::ESRCH),
    }
}

fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

fn unlink(directory: BorrowedFd<'_>, name: &str) -> nix::Result<()> {
    match unlinkat(directory, name, UnlinkatFlags::NoRemoveDir) {
        Err(Errno::ENOENT) => Ok(()),
        other => other,
    }
}

/// Of a block device; `None` when there is no such thing.
fn block_number(directory: BorrowedFd<'_>, name: &str) -> nix::Result<Option<(u64, u64)>> {
    let found = match fstatat(directory, name, nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW) {
        Err(Errno::ENOENT) => return Ok(None),
        found => found?,
    };
    let is_block = SFlag::from_bits_truncate(found.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFBLK;
    let number = (nix::sys::stat::major(found.st_rdev), nix::sys::stat::minor(found.st_rdev));
    Ok(is_block.then_some(number))
}

/// Where the instance has mounted it, relative to its root.
fn mount_points(instance: &Running, device: &Loop) -> Vec<String> {
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", instance.pid)).unwrap_or_default();
    let number = format!("{}:{}", device.number.0, device.number.1);
    let point = |line: &str| {
        let mut fields = line.split(' ').skip(2);
        (fields.next()? == number).then(|| fields.nth(1).map(unescape)).flatten()
    };
    mounts.lines().filter_map(point).collect()
}

/// `\040` is how mountinfo writes a space.
fn unescape(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((head, tail)) = rest.split_once('\\') {
        plain.push_str(head);
        let code = tail.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => plain.push(char::from(code)),
            None => plain.push('\\'),
        }
        rest = if code.is_some() { &tail[3..] } else { tail };
    }
    plain + rest
}

fn is_mounted(instance: &Running, device: &Loop) -> bool {
    !mount_points(instance, device).is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SnapshotSpec;
    use std::io::{Read, Seek, SeekFrom, Write};

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("ekstra-volume-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("made");
        path
    }

    #[test]
    fn volumes_grow_and_never_shrink_and_copies_keep_their_content() {
        let home = directory("files");
        let (path, copy) = (home.join("vol-1"), home.join("vol-2"));
        assert_eq!(bytes(&path).expect("looked at"), None);
        let of = |path: &Path, bytes, source: Option<&Path>| VolumeSpec {
            path: path.to_owned(),
            bytes,
            source: source.map(Path::to_owned),
        };
        ensure(&of(&path, 1 << 20, None)).expect("made");
        let mut file = File::options().write(true).open(&path).expect("opens");
        file.seek(SeekFrom::Start(4096)).expect("seeks");
        file.write_all(b"kept").expect("written");
        ensure(&of(&path, 1 << 19, None)).expect("is there");
        assert_eq!(bytes(&path).expect("looked at"), Some(1 << 20), "not smaller");
        ensure(&of(&path, 1 << 21, None)).expect("grown");
        ensure(&of(&copy, 1 << 22, Some(&path))).expect("copied");
        assert_eq!(bytes(&copy).expect("looked at"), Some(1 << 22));
        let mut content = [0; 4];
        let mut file = File::open(&copy).expect("opens");
        file.seek(SeekFrom::Start(4096)).expect("seeks");
        file.read_exact(&mut content).expect("read");
        assert_eq!(&content, b"kept");
        fs::write(partial(&copy), "of an interrupted copy").expect("written");
        remove(&copy).expect("removed");
        remove(&copy).expect("is not there");
        assert!(!copy.exists() && !partial(&copy).exists());
        fs::remove_dir_all(home).expect("removed");
    }

    #[test]
    fn a_snapshot_is_of_its_moment() {
        let home = directory("snapshot");
        let (volume, to) = (home.join("vol-1"), home.join("snap-1"));
        fs::write(&volume, "before").expect("written");
        let spec = SnapshotSpec { volume: volume.clone(), to: to.clone(), instance: None };
        let launcher = Path::new("/nobody/freezes/what/is/not/mounted");
        snapshot(launcher, &spec, None).expect("made");
        fs::write(&volume, "after").expect("written");
        snapshot(launcher, &spec, None).expect("is there");
        assert_eq!(fs::read_to_string(&to).expect("read"), "before");
        remove(&to).expect("removed");
        assert!(!to.exists());
        fs::remove_dir_all(home).expect("removed");
    }

    #[test]
    fn devices_are_found_by_their_file_and_let_go() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: loop devices need root");
            return;
        }
        let home = directory("loop");
        let path = home.join("vol-1");
        ensure(&VolumeSpec { path: path.clone(), bytes: 1 << 20, source: None }).expect("made");
        losetup(&["--find", &path.to_string_lossy()]).expect("attached");
        let found = find(&path).expect("looked").expect("found");
        assert!(found.number.0 == 7 && found.path.exists(), "{found:?}");
        ensure(&VolumeSpec { path: path.clone(), bytes: 1 << 21, source: None }).expect("grown");
        let size = fs::read_to_string(
            Path::new("/sys/block").join(found.path.file_name().expect("named")).join("size"),
        );
        assert_eq!(size.expect("read").trim(), ((1 << 21) / 512).to_string(), "the device follows");
        detach_all(&home).expect("let go");
        assert!(find(&path).expect("looked").is_none());
        fs::remove_dir_all(home).expect("removed");
    }

    #[test]
    fn mount_points_are_unescaped() {
        assert_eq!(unescape(r"/var/lib/a\040b\134c"), r"/var/lib/a b\c");
        assert_eq!(unescape(r"/plain"), "/plain");
        assert_eq!(unescape(r"/odd\9"), r"/odd\9");
    }
}

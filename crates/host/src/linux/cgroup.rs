//! Control groups, version 1 (a hierarchy a controller) and version 2 (one hierarchy).
//!
//! Invariant: a child's group exists before the child does, under its id in every hierarchy; so whatever runs on the
//! child's behalf can be found by name alone.

use crate::{ChildId, HostError, Limits};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const ROOT: &str = "/sys/fs/cgroup";
/// Controllers of version 1 that a node's kubelet and container runtime use.
const CONTROLLERS: [&str; 9] =
    ["cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd"];
/// What a container host opens: null, zero, full, random, urandom, tty, console, ptmx, pts, kmsg, fuse, tun; and
/// making nodes of any kind, which a container runtime grants its containers.
const DEVICES: [&str; 14] = [
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:1 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
    "c 1:11 rwm",
    "c 10:229 rwm",
    "c 10:200 rwm",
];

/// Whether this is the `cgroup.procs` file of version 1's device controller.
pub(crate) fn is_device_group(procs: &Path) -> bool {
    procs.starts_with(Path::new(ROOT).join("devices"))
}

#[derive(Clone, Debug)]
pub(crate) struct Hierarchies {
    /// Mount points; one for version 2.
    mounts: Vec<(String, PathBuf)>,
    unified: bool,
}

/// One group, in every hierarchy.
#[derive(Debug)]
pub(crate) struct Group<'a> {
    hierarchies: &'a Hierarchies,
    name: String,
}

impl Hierarchies {
    pub(crate) fn detect() -> Result<Self, HostError> {
        let root = Path::new(ROOT);
        if root.join("cgroup.controllers").exists() {
            return Ok(Self { mounts: vec![("unified".into(), root.to_owned())], unified: true });
        }
        let mounted = |name: &&&str| root.join(name).join("cgroup.procs").exists();
        let mounts: Vec<_> =
            CONTROLLERS.iter().filter(mounted).map(|n| ((*n).to_owned(), root.join(n))).collect();
        if mounts.is_empty() {
            let source = std::io::Error::other("neither cgroup v2 nor v1 controllers are mounted");
            return Err(HostError::io("find", root)(source));
        }
        Ok(Self { mounts, unified: false })
    }

    pub(crate) fn group(&self, name: String) -> Group<'_> {
        Group { hierarchies: self, name }
    }

    /// Names of the groups directly under `parent`.
    pub(crate) fn members(&self, parent: &str) -> Result<BTreeSet<String>, HostError> {
        let mut names = BTreeSet::new();
        for (_, mount) in &self.mounts {
            names.extend(directories(&mount.join(parent))?);
        }
        Ok(names)
    }
}

impl Group<'_> {
    fn paths(&self) -> impl Iterator<Item = (&str, PathBuf)> {
        self.hierarchies.mounts.iter().map(|(name, mount)| (name.as_str(), mount.join(&self.name)))
    }

    /// `cgroup.procs` of every hierarchy, for whoever wants to join.
    pub(crate) fn procs_files(&self) -> Vec<PathBuf> {
        self.paths().map(|(_, path)| path.join("cgroup.procs")).collect()
    }

    pub(crate) fn create(&self, limits: &Limits) -> Result<(), HostError> {
        for (controller, path) in self.paths() {
            fs::create_dir_all(&path).map_err(HostError::io("create", &path))?;
            if self.hierarchies.unified {
                delegate(&path)?;
                limit_unified(&path, limits)?;
            } else {
                limit_v1(controller, &path, limits)?;
            }
        }
        Ok(())
    }

    /// Ends everything in the group and below it.
    pub(crate) fn kill_all(&self, id: &ChildId, patience: Duration) -> Result<(), HostError> {
        let deadline = Instant::now() + patience;
        loop {
            let mut pids = BTreeSet::new();
            for (_, path) in self.paths() {
                collect_pids(&path, &mut pids);
            }
            if pids.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(HostError::Immortal { id: id.clone() });
            }
            for pid in pids {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn remove(&self) -> Result<(), HostError> {
        for (_, path) in self.paths() {
            remove_tree(&path)?;
        }
        Ok(())
    }
}

fn directories(path: &Path) -> Result<Vec<String>, HostError> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(HostError::io("list", path)(error)),
    };
    let directory = |e: &fs::DirEntry| e.file_type().is_ok_and(|t| t.is_dir());
    Ok(entries.flatten().filter(directory).map(|e| e.file_name().to_string_lossy().into_owned()).collect())
}

fn collect_pids(path: &Path, pids: &mut BTreeSet<i32>) {
    let listed = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    pids.extend(listed.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
    for child in directories(path).unwrap_or_default() {
        collect_pids(&path.join(child), pids);
    }
}

/// Groups vanish with `rmdir` from the leaves up; a group whose last process is still being reaped is busy a moment.
fn remove_tree(path: &Path) -> Result<(), HostError> {
    for child in directories(path)? {
        remove_tree(&path.join(child))?;
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(HostError::io("remove", path)(error)),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn write(path: &Path, file: &str, value: &str) -> Result<(), HostError> {
    let path = path.join(file);
    fs::write(&path, value).map_err(HostError::io("write", path))
}

fn limit_v1(controller: &str, path: &Path, limits: &Limits) -> Result<(), HostError> {
    match controller {
        "cpuset" => inherit_cpuset(path),
        "memory" => {
            write(path, "memory.use_hierarchy", "1").or_else(ignore_busy)?;
            limits.memory_bytes.map_or(Ok(()), |b| write(path, "memory.limit_in_bytes", &b.to_string()))
        }
        "cpu" => limits.cpu_millis.map_or(Ok(()), |millis| {
            write(path, "cpu.cfs_period_us", "100000")?;
            write(path, "cpu.cfs_quota_us", &(u64::from(millis) * 100).to_string())
        }),
        "pids" => limits.pids.map_or(Ok(()), |pids| write(path, "pids.max", &pids.to_string())),
        "devices" if limits.restrict_devices => {
            write(path, "devices.deny", "a")?;
            DEVICES.iter().try_for_each(|device| write(path, "devices.allow", device))
        }
        _ => Ok(()),
    }
}

/// Already set, or not settable any more: the kernel's default is hierarchical by now.
fn ignore_busy(_: HostError) -> Result<(), HostError> {
    Ok(())
}

/// A new cpuset is empty until told; the parent's values are copied down, from the first ancestor that has any.
fn inherit_cpuset(path: &Path) -> Result<(), HostError> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let own = fs::read_to_string(path.join(file)).unwrap_or_default();
        if !own.trim().is_empty() {
            continue;
        }
        let Some(parent) = path.parent() else { continue };
        if fs::read_to_string(parent.join(file)).is_ok_and(|v| v.trim().is_empty()) {
            inherit_cpuset(parent)?;
        }
        let value =
            fs::read_to_string(parent.join(file)).map_err(HostError::io("read", parent.join(file)))?;
        write(path, file, value.trim())?;
    }
    Ok(())
}

/// Version 2: controllers must be enabled in every ancestor.
fn delegate(path: &Path) -> Result<(), HostError> {
    let mut ancestors: Vec<&Path> = path.ancestors().skip(1).collect();
    ancestors.reverse();
    for ancestor in ancestors.into_iter().filter(|a| a.starts_with(ROOT)) {
        for controller in ["cpu", "cpuset", "memory", "pids", "io"] {
            // An absent controller is seen where a limit needs it.
            let _ = fs::write(ancestor.join("cgroup.subtree_control"), format!("+{controller}"));
        }
    }
    Ok(())
}

fn limit_unified(path: &Path, limits: &Limits) -> Result<(), HostError> {
    if let Some(bytes) = limits.memory_bytes {
        write(path, "memory.max", &bytes.to_string())?;
    }
    if let Some(millis) = limits.cpu_millis {
        write(path, "cpu.max", &format!("{} 100000", u64::from(millis) * 100))?;
    }
    limits.pids.map_or(Ok(()), |pids| write(path, "pids.max", &pids.to_string()))
}

//! What differs between the two versions of control groups, and nothing else.

use crate::{HostError, Limits};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

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

/// Controllers of version 2 that a child's group and the groups below it use.
const DELEGATED: [&str; 5] = ["cpu", "cpuset", "memory", "pids", "io"];

/// Version 1 has a hierarchy a controller, version 2 one hierarchy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V2,
}

impl Version {
    /// `controller` is whose hierarchy `path` is in; there is one for all in version 2.
    pub(super) fn limit(
        self,
        root: &Path,
        controller: &str,
        path: &Path,
        limits: &Limits,
    ) -> Result<(), HostError> {
        match self {
            Self::V1 => limit_v1(controller, path, limits),
            Self::V2 => limit_v2(root, path, limits),
        }
    }

    /// Everything in the group and below it ends at one stroke. `false` where there is no such file: version 1, and
    /// kernels before 5.14.
    pub(super) fn kill_at_once(self, path: &Path) -> bool {
        self == Self::V2 && set(path, "cgroup.kill", "1").is_ok()
    }

    /// Of the group itself; what is frozen below it stays so. Does nothing where no freezer is.
    pub(super) fn set_frozen(self, path: &Path, frozen: bool) {
        let _ = match self {
            Self::V1 => set(path, "freezer.state", if frozen { "FROZEN" } else { "THAWED" }),
            Self::V2 => set(path, "cgroup.freeze", if frozen { "1" } else { "0" }),
        };
    }
}

/// Control files are the kernel's: one that is not there is not made.
fn set(path: &Path, file: &str, value: &str) -> io::Result<()> {
    fs::OpenOptions::new().write(true).truncate(true).open(path.join(file))?.write_all(value.as_bytes())
}

fn write(path: &Path, file: &str, value: &str) -> Result<(), HostError> {
    set(path, file, value).map_err(HostError::io("write", path.join(file)))
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

fn limit_v2(root: &Path, path: &Path, limits: &Limits) -> Result<(), HostError> {
    let refused = delegate(root, path);
    // A controller that nobody may have matters where a limit needs it, and the reason is what was refused.
    let limit = |controller: &str, value: String| {
        let file = format!("{controller}.max");
        let reason = || refused.iter().find(|r| r.controller == controller);
        set(path, &file, &value).map_err(|source| match reason() {
            Some(r) if source.kind() == io::ErrorKind::NotFound => HostError::Io {
                action: "enable a controller in",
                path: r.file.clone(),
                source: io::Error::new(r.source.kind(), format!("+{controller}: {}", r.source)),
            },
            _ => HostError::io("write", path.join(&file))(source),
        })
    };
    if let Some(bytes) = limits.memory_bytes {
        limit("memory", bytes.to_string())?;
        // An instance has no swap. The file is there when the machine has any.
        if path.join("memory.swap.max").exists() {
            write(path, "memory.swap.max", "0")?;
        }
    }
    if let Some(millis) = limits.cpu_millis {
        limit("cpu", format!("{} 100000", u64::from(millis) * 100))?;
    }
    limits.pids.map_or(Ok(()), |pids| limit("pids", pids.to_string()))
}

struct Refused {
    controller: &'static str,
    file: PathBuf,
    source: io::Error,
}

/// Controllers must be enabled in every ancestor. The root of the machine allows that with processes in it; the root
/// that a container sees does not.
fn delegate(root: &Path, path: &Path) -> Vec<Refused> {
    let mut ancestors: Vec<&Path> = path.ancestors().skip(1).take_while(|a| a.starts_with(root)).collect();
    ancestors.reverse();
    let mut refused = Vec::new();
    for ancestor in ancestors {
        for controller in DELEGATED {
            if let Err(source) = set(ancestor, "cgroup.subtree_control", &format!("+{controller}")) {
                refused.push(Refused { controller, file: ancestor.join("cgroup.subtree_control"), source });
            }
        }
    }
    refused
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree that stands for the kernel's: `files` in every directory from the root down to the group.
    fn tree(name: &str, files: &[&str]) -> (PathBuf, PathBuf) {
        let root = std::env::temp_dir().join(format!("ekstra-{name}-{}", std::process::id()));
        let group = root.join("ekstra-beef/i-1");
        fs::create_dir_all(&group).expect("made");
        for directory in [&root, &root.join("ekstra-beef"), &group] {
            for file in files {
                fs::write(directory.join(file), "").expect("written");
            }
        }
        (root, group)
    }

    fn read(path: &Path, file: &str) -> String {
        fs::read_to_string(path.join(file)).unwrap_or_else(|e| format!("{file}: {e}"))
    }

    fn limits() -> Limits {
        Limits { memory_bytes: Some(1 << 30), cpu_millis: Some(1500), pids: Some(10), restrict_devices: true }
    }

    #[test]
    fn version_2_limits_memory_without_swap_processors_and_processes() {
        let files =
            ["cgroup.subtree_control", "memory.max", "memory.swap.max", "cpu.max", "pids.max", "cgroup.kill"];
        let (root, group) = tree("v2", &files);
        Version::V2.limit(&root, "unified", &group, &limits()).expect("limited");
        assert_eq!(read(&group, "memory.max"), "1073741824");
        assert_eq!(read(&group, "memory.swap.max"), "0");
        assert_eq!(read(&group, "cpu.max"), "150000 100000");
        assert_eq!(read(&group, "pids.max"), "10");
        assert_eq!(read(&root, "cgroup.subtree_control"), "+io");
        assert_eq!(read(&group, "cgroup.subtree_control"), "", "is the child's own affair");
        assert!(Version::V2.kill_at_once(&group));
        assert_eq!(read(&group, "cgroup.kill"), "1");
        assert!(!Version::V1.kill_at_once(&group));
        fs::remove_dir_all(root).expect("removed");
    }

    #[test]
    fn version_2_without_swap_has_nothing_to_limit() {
        let (root, group) = tree("no-swap", &["cgroup.subtree_control", "memory.max", "cpu.max", "pids.max"]);
        Version::V2.limit(&root, "unified", &group, &limits()).expect("limited");
        assert!(!group.join("memory.swap.max").exists());
        fs::remove_dir_all(root).expect("removed");
    }

    #[test]
    fn version_2_says_which_group_refused_a_controller() {
        let (root, group) = tree("refused", &[]);
        fs::create_dir(root.join("cgroup.subtree_control")).expect("in the way");
        let error = Version::V2.limit(&root, "unified", &group, &limits()).expect_err("no controllers");
        let expected = format!("enable a controller in {}", root.join("cgroup.subtree_control").display());
        assert!(error.to_string().starts_with(&expected), "{error}");
        assert!(error.to_string().contains("+memory"), "{error}");
        fs::remove_dir_all(root).expect("removed");
    }

    #[test]
    fn each_version_freezes_in_its_own_words() {
        let (root, group) = tree("freezer", &["freezer.state", "cgroup.freeze"]);
        Version::V1.set_frozen(&group, true);
        Version::V2.set_frozen(&group, true);
        assert_eq!(
            (read(&group, "freezer.state"), read(&group, "cgroup.freeze")),
            ("FROZEN".into(), "1".into())
        );
        Version::V1.set_frozen(&group, false);
        Version::V2.set_frozen(&group, false);
        assert_eq!(
            (read(&group, "freezer.state"), read(&group, "cgroup.freeze")),
            ("THAWED".into(), "0".into())
        );
        fs::remove_dir_all(root).expect("removed");
    }
}

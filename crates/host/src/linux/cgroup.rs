//! Control groups: one group a child, in every hierarchy. What differs between versions 1 and 2 is in `version.rs`.
//!
//! Invariant: a child's group exists before the child does, under its id in every hierarchy; so whatever runs on the
//! child's behalf can be found by name alone.

mod version;

use crate::{ChildId, HostError, Limits};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use version::Version;

const ROOT: &str = "/sys/fs/cgroup";
/// Controllers of version 1 that a node's kubelet and container runtime use.
const CONTROLLERS: [&str; 9] =
    ["cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd"];

/// Whether this is the `cgroup.procs` file of version 1's device controller.
pub(crate) fn is_device_group(procs: &Path) -> bool {
    procs.starts_with(Path::new(ROOT).join("devices"))
}

#[derive(Clone, Debug)]
pub(crate) struct Hierarchies {
    root: PathBuf,
    version: Version,
    /// Controller and mount point; one for version 2.
    mounts: Vec<(String, PathBuf)>,
}

/// One group, in every hierarchy.
#[derive(Debug)]
pub(crate) struct Group<'a> {
    hierarchies: &'a Hierarchies,
    name: String,
}

impl Hierarchies {
    pub(crate) fn detect() -> Result<Self, HostError> {
        Self::at(Path::new(ROOT))
    }

    fn at(root: &Path) -> Result<Self, HostError> {
        let root = root.to_owned();
        if root.join("cgroup.controllers").exists() {
            let mounts = vec![("unified".into(), root.clone())];
            return Ok(Self { root, version: Version::V2, mounts });
        }
        let mounted = |name: &&&str| root.join(name).join("cgroup.procs").exists();
        let mounts: Vec<_> =
            CONTROLLERS.iter().filter(mounted).map(|n| ((*n).to_owned(), root.join(n))).collect();
        if mounts.is_empty() {
            let source = std::io::Error::other("neither cgroup v2 nor v1 controllers are mounted");
            return Err(HostError::io("find", root)(source));
        }
        Ok(Self { root, version: Version::V1, mounts })
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
        let Hierarchies { root, version, .. } = self.hierarchies;
        for (controller, path) in self.paths() {
            fs::create_dir_all(&path).map_err(HostError::io("create", &path))?;
            // One that was left frozen would stop whoever joins.
            version.set_frozen(&path, false);
            version.limit(root, controller, &path, limits)?;
        }
        Ok(())
    }

    /// Lets the group's own processes use a block device, or no longer. Groups below it, which are pods', keep what they
    /// had. Version 2 restricts no devices.
    pub(crate) fn set_block_device(&self, number: (u64, u64), allowed: bool) -> Result<(), HostError> {
        let Some((_, path)) = self.paths().find(|(controller, _)| *controller == "devices") else {
            return Ok(());
        };
        let path = path.join(if allowed { "devices.allow" } else { "devices.deny" });
        let written = fs::write(&path, format!("b {}:{} rw", number.0, number.1));
        match written {
            Err(error) if !allowed && error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            written => written.map_err(HostError::io("write", &path)),
        }
    }

    fn pids(&self) -> BTreeSet<i32> {
        let mut pids = BTreeSet::new();
        self.paths().for_each(|(_, path)| collect_pids(&path, &mut pids));
        pids
    }

    /// Ends everything in the group and below it, frozen or not, however fast it multiplies.
    pub(crate) fn kill_all(&self, id: &ChildId, patience: Duration) -> Result<(), HostError> {
        let deadline = Instant::now() + patience;
        loop {
            let pids = self.pids();
            if pids.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(HostError::Immortal { id: id.clone(), survivors: describe(&pids) });
            }
            self.kill_once();
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn kill_once(&self) {
        let version = self.hierarchies.version;
        if self.paths().all(|(_, path)| version.kill_at_once(&path)) {
            return;
        }
        // Who is frozen makes no children while the list is being read. Version 1 delivers the signal after the thaw.
        self.paths().for_each(|(_, path)| version.set_frozen(&path, true));
        for pid in self.pids() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        self.paths().for_each(|(_, path)| thaw_tree(version, &path));
    }

    pub(crate) fn remove(&self) -> Result<(), HostError> {
        for (_, path) in self.paths() {
            remove_tree(&path)?;
        }
        Ok(())
    }
}

/// A container runtime freezes groups of its own below ours.
fn thaw_tree(version: Version, path: &Path) {
    version.set_frozen(path, false);
    for child in directories(path).unwrap_or_default() {
        thaw_tree(version, &path.join(child));
    }
}

/// The first few, with their names.
pub(super) fn describe(pids: &BTreeSet<i32>) -> String {
    const SHOWN: usize = 5;
    let name = |pid: &i32| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        format!("{pid} ({})", name.trim())
    };
    let mut text = pids.iter().take(SHOWN).map(name).collect::<Vec<_>>().join(", ");
    if pids.len() > SHOWN {
        text.push_str(&format!(" and {} more", pids.len() - SHOWN));
    }
    text
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command, Stdio};

    fn unified() -> Option<Hierarchies> {
        let root = [Path::new(ROOT), Path::new("/sys/fs/cgroup/unified")]
            .into_iter()
            .find(|root| root.join("cgroup.controllers").exists())?;
        Some(Hierarchies::at(root).expect("is there"))
    }

    /// Every kind of group that this machine has.
    fn machine() -> Vec<Hierarchies> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: control groups need root");
            return Vec::new();
        }
        let mut found: Vec<_> = Hierarchies::detect().into_iter().chain(unified()).collect();
        found.dedup_by_key(|h| h.version);
        found
    }

    fn join(group: &Group<'_>, script: &str) -> Child {
        let files: Vec<_> = group.procs_files().iter().map(|f| f.display().to_string()).collect();
        let script = format!("for f in {}; do echo 0 > $f; done; {script}", files.join(" "));
        Command::new("sh").args(["-c", &script]).stdin(Stdio::null()).spawn().expect("sh runs")
    }

    fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !done() {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn id(name: &str) -> (ChildId, String) {
        (ChildId(name.into()), format!("ekstra-test-{}-{name}", std::process::id()))
    }

    fn end(group: &Group<'_>, id: &ChildId, mut child: Child) {
        let reaper = std::thread::spawn(move || child.wait().expect("ended"));
        group.kill_all(id, Duration::from_secs(10)).expect("everything ends");
        assert!(group.pids().is_empty());
        assert!(!reaper.join().expect("reaped").success());
        group.remove().expect("removed");
    }

    #[test]
    fn a_frozen_group_is_killed_with_what_is_frozen_below_it() {
        for hierarchies in machine() {
            let (id, name) = id("frozen");
            let (group, below) =
                (hierarchies.group(name.clone()), hierarchies.group(format!("{name}/below")));
            below.create(&Limits::default()).expect("made");
            let child = join(&below, "exec sleep 600");
            wait_until("it sleeps", || !below.pids().is_empty());
            for frozen in [&group, &below] {
                frozen.paths().for_each(|(_, path)| hierarchies.version.set_frozen(&path, true));
            }
            end(&group, &id, child);
        }
    }

    #[test]
    fn a_group_that_multiplies_is_killed() {
        for hierarchies in machine() {
            let (id, name) = id("bomb");
            let group = hierarchies.group(name);
            // Bounded where it can be, so that a failure of this test is not one of the machine.
            group
                .create(&Limits { pids: Some(200), ..Limits::default() })
                .or_else(|_| group.create(&Limits::default()))
                .expect("made");
            let child =
                join(&group, "f() { while :; do sh -c 'sleep 0.2' & sleep 0.02; done; }; f & f & f & wait");
            wait_until("it multiplies", || group.pids().len() > 20);
            end(&group, &id, child);
        }
    }

    #[test]
    fn survivors_are_named() {
        let own = i32::try_from(std::process::id()).expect("fits");
        let named = describe(&BTreeSet::from([own]));
        assert!(named.starts_with(&format!("{own} (")) && named.len() > format!("{own} ()").len(), "{named}");
        let many = describe(&(1..=8).collect());
        assert!(many.ends_with(" and 3 more"), "{many}");
    }
}

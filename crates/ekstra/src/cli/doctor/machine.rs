//! What is looked at. Nothing here judges.

use crate::home::transits;
use crate::privilege::{find, is_root};
use crate::proxies::is_loopback;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Tool, what to install for it, what it is for.
pub(in crate::cli) type Known = (&'static str, &'static str, &'static str);

/// Without these no service starts.
pub(in crate::cli) const RUNTIME: [Known; 4] = [
    ("ip", "iproute2", "networks"),
    ("nft", "nftables", "firewall and NAT of VPCs"),
    ("mkfs.ext4", "e2fsprogs", "instance disks"),
    ("mount", "mount", "instance disks"),
];
/// Without these nothing is built; prebuilt components need none of them.
pub(in crate::cli) const PACKAGED_BUILD: [Known; 4] = [
    ("mmdebstrap", "mmdebstrap", "the node image"),
    ("gcc", "gcc libc6-dev", "building runc"),
    ("pkg-config", "pkg-config", "building runc"),
    (LIBSECCOMP, "libseccomp-dev", "building runc"),
];
/// A library that is linked, not a program.
const LIBSECCOMP: &str = "libseccomp";
const GO: Known = ("go", "Go 1.26 from go.dev", "building the components");
const PROXIES: [&str; 6] =
    ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];

#[derive(Clone, Debug)]
pub(super) struct Tool {
    pub(super) name: &'static str,
    pub(super) package: &'static str,
    pub(super) purpose: &'static str,
    /// A path; of a library, its version.
    pub(super) at: Option<String>,
}

/// Versions of control groups, and the controllers there are.
#[derive(Clone, Debug)]
pub(super) enum Groups {
    None,
    V1(Vec<String>),
    V2(Vec<String>),
}

#[derive(Clone, Debug)]
pub(super) struct Machine {
    pub(super) tools: Vec<Tool>,
    pub(super) is_root: bool,
    pub(super) has_sudo: bool,
    /// The user that root of this user namespace is outside of it, when it is another one.
    pub(super) root_is: Option<u32>,
    pub(super) in_container: bool,
    pub(super) groups: Groups,
    pub(super) has_loop_devices: bool,
    pub(super) has_overlay: bool,
    pub(super) inotify_instances: u64,
    /// Whether sysctls can be written.
    pub(super) may_set: bool,
    /// Bytes available.
    pub(super) memory_bytes: u64,
    /// Directory and bytes free.
    pub(super) disks: Vec<(String, u64)>,
    /// Firewalls of others, and what is done about each.
    pub(super) firewalls: Vec<(String, String)>,
    /// The link of the default route, and its MTU.
    pub(super) uplink: Option<(String, u32)>,
    /// Names of the variables that are set, and whether that proxy is on the loopback.
    pub(super) proxies: Vec<(&'static str, bool)>,
    pub(super) resolvers: Vec<IpAddr>,
}

impl Machine {
    pub(super) fn look() -> Self {
        let known = RUNTIME.into_iter().chain(PACKAGED_BUILD).chain([GO]);
        let tools = known.map(|(name, package, purpose)| Tool { name, package, purpose, at: found(name) });
        let firewalls = ekstra_host::firewalls().unwrap_or_default();
        Self {
            tools: tools.collect(),
            is_root: is_root(),
            has_sudo: find("sudo").is_some(),
            root_is: root_outside(&text("/proc/self/uid_map")),
            in_container: Path::new("/.dockerenv").exists() || Path::new("/run/.containerenv").exists(),
            groups: groups(Path::new("/sys/fs/cgroup")),
            has_loop_devices: Path::new("/dev/loop-control").exists(),
            // The kernel loads it by itself where it is a module.
            has_overlay: text("/proc/filesystems").contains("\toverlay\n") || has_module("overlay"),
            inotify_instances: text("/proc/sys/fs/inotify/max_user_instances").trim().parse().unwrap_or(0),
            may_set: !is_root()
                || fs::OpenOptions::new().write(true).open("/proc/sys/fs/inotify/max_user_instances").is_ok(),
            memory_bytes: available(&text("/proc/meminfo")).unwrap_or(u64::MAX),
            disks: disks(),
            firewalls: firewalls.iter().map(|f| (f.to_string(), f.remedy(transits()))).collect(),
            uplink: crate::home::uplink(),
            proxies: PROXIES
                .into_iter()
                .filter_map(|name| Some((name, std::env::var(name).ok().filter(|v| !v.is_empty())?)))
                .map(|(name, value)| (name, is_loopback(&value)))
                .collect(),
            resolvers: resolvers(&text("/etc/resolv.conf")),
        }
    }
}

/// Where a tool is.
pub(in crate::cli) fn found(tool: &str) -> Option<String> {
    if tool == LIBSECCOMP {
        return ekstra_components::library_version(LIBSECCOMP);
    }
    find(tool).map(|path| path.display().to_string())
}

fn text(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn root_outside(map: &str) -> Option<u32> {
    let lines =
        map.lines().map(|line| line.split_whitespace().filter_map(|n| n.parse().ok()).collect::<Vec<u32>>());
    let of_root = lines.into_iter().find(|line| line.first() == Some(&0))?;
    of_root.get(1).copied().filter(|outside| *outside != 0)
}

fn groups(root: &Path) -> Groups {
    let words = |text: String| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    if let Ok(controllers) = fs::read_to_string(root.join("cgroup.controllers")) {
        return Groups::V2(words(controllers));
    }
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    let mounted = entries.filter(|entry| entry.path().join("cgroup.procs").exists());
    let names: Vec<String> = mounted.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    if names.is_empty() { Groups::None } else { Groups::V1(names) }
}

fn has_module(name: &str) -> bool {
    let release = text("/proc/sys/kernel/osrelease");
    let list = format!("/lib/modules/{}/modules.dep", release.trim());
    text(&list)
        .lines()
        .any(|line| line.split(':').next().is_some_and(|path| path.contains(&format!("/{name}.ko"))))
}

fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
}

/// Of the cache, and of where homes are.
fn disks() -> Vec<(String, u64)> {
    let mut found: Vec<(String, u64)> = Vec::new();
    let places = [ekstra_components::default_cache_dir(), std::env::var_os("HOME").map(PathBuf::from)];
    for place in places.into_iter().flatten() {
        let Some(there) = place.ancestors().find(|path| path.exists()) else { continue };
        let Ok(stat) = nix::sys::statvfs::statvfs(there) else { continue };
        let free = stat.blocks_available() * stat.fragment_size();
        if !found.iter().any(|(_, known)| *known == free) {
            found.push((there.display().to_string(), free));
        }
    }
    found
}

fn resolvers(configuration: &str) -> Vec<IpAddr> {
    let named = configuration.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let address = (words.next() == Some("nameserver")).then(|| words.next())??;
        address.split('%').next()?.parse().ok()
    });
    named.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_kernel_are_read() {
        assert_eq!(root_outside("         0          0 4294967295\n"), None);
        assert_eq!(
            root_outside("         0       1000          1\n         1     100000      65536\n"),
            Some(1000)
        );
        assert_eq!(available("MemTotal: 100 kB\nMemAvailable:    2048 kB\n"), Some(2 << 20));
        let addresses =
            resolvers("# x\nsearch a\nnameserver 127.0.0.53\nnameserver fe80::1%eth0\noptions edns0\n");
        assert_eq!(addresses.len(), 2);
        assert!(addresses[0].is_loopback());
    }

    #[test]
    fn controllers_of_either_version() {
        let root = tempfile::tempdir().expect("tempdir");
        assert!(matches!(groups(root.path()), Groups::None));
        for name in ["cpu", "memory"] {
            fs::create_dir(root.path().join(name)).expect("made");
            fs::write(root.path().join(name).join("cgroup.procs"), "").expect("written");
        }
        assert!(matches!(groups(root.path()), Groups::V1(names) if names.len() == 2));
        fs::write(root.path().join("cgroup.controllers"), "cpu io memory pids\n").expect("written");
        assert!(matches!(groups(root.path()), Groups::V2(names) if names.len() == 4));
    }
}

//! The root file system of a container instance, assembled inside its own mount namespace.
//!
//! Invariant: nothing is mounted in the host's namespace. The disk's loop device clears itself when the last mount
//! goes, which is when the instance's last process ends.

use super::command::run;
use crate::Sandbox;
use crate::faults::step;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, makedev, mknod, umask};
use nix::unistd::{chdir, pivot_root, sethostname};
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

const NONE: Option<&str> = None;
/// Host-wide settings that a kubelet insists on. The instance sees these values and cannot change the host's.
const TUNABLES: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];
/// Taken from the instance: modules, clock, raw I/O, security policy, audit, wake alarms. Numbers from `capability.h`.
const DROPPED_CAPABILITIES: [u64; 8] = [16, 17, 25, 30, 32, 33, 35, 36];

fn at<T>(what: impl std::fmt::Display, result: nix::Result<T>) -> io::Result<T> {
    step();
    result.map_err(|errno| io::Error::other(format!("{what}: {errno}")))
}

/// Leaves the caller (PID 1 of new namespaces) in the finished root.
pub(super) fn enter_sandbox(sandbox: &Sandbox, root: &Path) -> io::Result<()> {
    umask(Mode::empty());
    mount_proc(root, sandbox)?;
    mount_sys(root, sandbox)?;
    mount_dev(root)?;
    for (directory, options) in [("run", "mode=755"), ("tmp", "mode=1777")] {
        mount_tmpfs(&root.join(directory), options)?;
    }
    at("set the host name", sethostname(&sandbox.hostname))?;
    at("enter the root", chdir(root))?;
    at("pivot_root", pivot_root(".", "."))?;
    at("leave the old root", umount2(".", MntFlags::MNT_DETACH))?;
    at("enter the root", chdir("/"))?;
    umask(Mode::from_bits_truncate(0o022));
    drop_capabilities()
}

/// Lays a directory over the host's `/etc`, for the caller alone. Not a file over a file: a mount on a file ends when the
/// host renames another to its place, as whoever writes `resolv.conf` does.
pub(super) fn lay_over_etc(layer: &Path) -> io::Result<()> {
    at("a mount namespace of its own", unshare(CloneFlags::CLONE_NEWNS))?;
    // What the host mounts and unmounts later is so here, too, and nothing from here is there.
    at("/", mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_SLAVE, NONE))?;
    let options = format!("lowerdir={}:/etc", layer.display());
    let flags = MsFlags::MS_RDONLY;
    at("/etc", mount(Some("overlay"), "/etc", Some("overlay"), flags, Some(options.as_str())))
}

fn bind(from: &Path, to: &Path) -> io::Result<()> {
    at(to.display(), mount(Some(from), to, NONE, MsFlags::MS_BIND, NONE))
}

fn mount_tmpfs(path: &Path, options: &str) -> io::Result<()> {
    fs::create_dir_all(path)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    at(path.display(), mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some(options)))
}

/// `nobarrier`: a container store syncs every layer, and each sync would wait for the host's disk. What that gives up
/// is the file system after a power failure of the host, from which an instance is replaced anyway.
///
/// The image's layers below, the instance's disk above; container storage directly on the disk, because overlayfs
/// does not stack on itself.
pub(super) fn mount_root(sandbox: &Sandbox) -> io::Result<PathBuf> {
    at("make mounts private", mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE))?;
    let top = &sandbox.mountpoint;
    fs::create_dir_all(top)?;
    let (disk, at_top) = (sandbox.disk.to_string_lossy(), top.to_string_lossy());
    let args = ["-t", "ext4", "-o", "loop,noatime,nobarrier", &disk, &at_top];
    run("mount", "mount", &args, "").map_err(io::Error::other)?;
    let (upper, work, root) = (top.join("upper"), top.join("work"), top.join("root"));
    for directory in [&upper, &work, &root] {
        fs::create_dir_all(directory)?;
    }
    let layers: Vec<_> = sandbox.layers.iter().map(|l| l.to_string_lossy().into_owned()).collect();
    let options =
        format!("lowerdir={},upperdir={},workdir={}", layers.join(":"), upper.display(), work.display());
    let overlay = mount(Some("overlay"), &root, Some("overlay"), MsFlags::empty(), Some(options.as_str()));
    at("overlay root", overlay)?;
    for directory in ["var/lib/containerd", "var/lib/kubelet", "var/log/pods"] {
        let own = top.join("data").join(directory);
        fs::create_dir_all(&own)?;
        fs::create_dir_all(root.join(directory))?;
        bind(&own, &root.join(directory))?;
    }
    at("share the root", mount(NONE, &root, NONE, MsFlags::MS_REC | MsFlags::MS_SHARED, NONE))?;
    // pivot_root wants a root that is not shared; what the instance mounts below it propagates to its pods.
    at("unshare the root", mount(NONE, &root, NONE, MsFlags::MS_PRIVATE, NONE))?;
    Ok(root)
}

fn mount_proc(root: &Path, sandbox: &Sandbox) -> io::Result<()> {
    let proc = root.join("proc");
    fs::create_dir_all(&proc)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    at("proc", mount(Some("proc"), &proc, Some("proc"), flags, NONE))?;
    let sys = proc.join("sys");
    bind(&sys, &sys)?;
    bind(&sys.join("net"), &sys.join("net"))?;
    let read_only = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | flags;
    at("proc/sys read-only", mount(NONE, &sys, NONE, read_only, NONE))?;
    let shown = sandbox.mountpoint.join("data/shown");
    fs::create_dir_all(&shown)?;
    for (number, (key, value)) in TUNABLES.iter().enumerate() {
        show(&shown.join(number.to_string()), value, &sys.join(key))?;
    }
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    show(&shown.join("meminfo"), &limited_meminfo(&meminfo, sandbox.memory_bytes), &proc.join("meminfo"))?;
    let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
    show(&shown.join("cpuinfo"), &limited_cpuinfo(&cpuinfo, sandbox.cpus), &proc.join("cpuinfo"))
}

fn show(file: &Path, content: &str, over: &Path) -> io::Result<()> {
    fs::write(file, format!("{content}\n"))?;
    bind(file, over)
}

/// The host's memory, no more of it than the instance type has.
fn limited_meminfo(host: &str, limit: u64) -> String {
    let line = |line: &str| {
        let (name, rest) = line.split_once(':')?;
        let kib: u64 = rest.split_whitespace().next()?.parse().ok()?;
        let shown = match name {
            "SwapTotal" | "SwapFree" => 0,
            _ => kib.min(limit / 1024),
        };
        Some(format!("{name}:{shown:>16} kB"))
    };
    host.lines().filter_map(line).collect::<Vec<_>>().join("\n")
}

fn limited_cpuinfo(host: &str, cpus: u32) -> String {
    host.split("\n\n").filter(|s| !s.trim().is_empty()).take(cpus as usize).collect::<Vec<_>>().join("\n\n")
        + "\n"
}

/// The first processors of a list such as `0-3,6`.
fn limited_processors(host: &str, cpus: u32) -> String {
    let mut left = cpus;
    let mut shown = Vec::new();
    for range in host.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>()) else { continue };
        let count = (last.saturating_sub(first) + 1).min(left);
        left -= count;
        match count {
            0 => {}
            1 => shown.push(first.to_string()),
            _ => shown.push(format!("{first}-{}", first + count - 1)),
        }
    }
    shown.join(",")
}

fn mount_sys(root: &Path, sandbox: &Sandbox) -> io::Result<()> {
    let sys = root.join("sys");
    fs::create_dir_all(&sys)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    at("sys", mount(Some("sysfs"), &sys, Some("sysfs"), flags | MsFlags::MS_RDONLY, NONE))?;
    // Where a kubelet counts processors; those in the other files of /sys are not more.
    let online = Path::new("devices/system/cpu/online");
    let host = fs::read_to_string(Path::new("/sys").join(online))?;
    let shown = sandbox.mountpoint.join("data/shown/online");
    show(&shown, &limited_processors(host.trim(), sandbox.cpus), &sys.join(online))?;
    let groups = sys.join("fs/cgroup");
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        return at("cgroup2", mount(Some("cgroup2"), &groups, Some("cgroup2"), flags, NONE));
    }
    at("cgroup", mount(Some("tmpfs"), &groups, Some("tmpfs"), flags, Some("mode=755")))?;
    for line in fs::read_to_string("/proc/self/cgroup")?.lines() {
        let controllers = line.split(':').nth(1).unwrap_or_default();
        if !controllers.is_empty() {
            mount_controller(&groups, controllers, flags)?;
        }
    }
    Ok(())
}

fn mount_controller(groups: &Path, controllers: &str, flags: MsFlags) -> io::Result<()> {
    let name = controllers.strip_prefix("name=").unwrap_or(controllers);
    let directory = groups.join(name);
    fs::create_dir_all(&directory)?;
    let options = if name == controllers { controllers.to_owned() } else { format!("none,{controllers}") };
    at(name, mount(Some("cgroup"), &directory, Some("cgroup"), flags, Some(options.as_str())))?;
    // Controllers that share a hierarchy are also looked for under their own names.
    for single in name.split(',').filter(|_| name.contains(',')) {
        symlink(name, groups.join(single))?;
    }
    Ok(())
}

fn mount_dev(root: &Path) -> io::Result<()> {
    let dev = root.join("dev");
    fs::create_dir_all(&dev)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_STRICTATIME;
    at("dev", mount(Some("tmpfs"), &dev, Some("tmpfs"), flags, Some("mode=755,size=64k")))?;
    let nodes: [(&str, u64, u64, u32); 8] = [
        ("null", 1, 3, 0o666),
        ("zero", 1, 5, 0o666),
        ("full", 1, 7, 0o666),
        ("random", 1, 8, 0o666),
        ("urandom", 1, 9, 0o666),
        ("tty", 5, 0, 0o666),
        ("kmsg", 1, 11, 0o400),
        ("fuse", 10, 229, 0o666),
    ];
    for (name, major, minor, mode) in nodes {
        let mode = Mode::from_bits_truncate(mode);
        at(name, mknod(&dev.join(name), SFlag::S_IFCHR, mode, makedev(major, minor)))?;
    }
    for (link, target) in [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "fd/0"),
        ("stdout", "fd/1"),
        ("stderr", "fd/2"),
    ] {
        symlink(target, dev.join(link))?;
    }
    for directory in ["pts", "shm", "mqueue"] {
        fs::create_dir_all(dev.join(directory))?;
    }
    let options = "newinstance,ptmxmode=0666,mode=620,gid=5";
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    at("pts", mount(Some("devpts"), &dev.join("pts"), Some("devpts"), quiet, Some(options)))?;
    at("mqueue", mount(Some("mqueue"), &dev.join("mqueue"), Some("mqueue"), quiet, NONE))?;
    mount_tmpfs(&dev.join("shm"), "mode=1777")
}

#[expect(unsafe_code, reason = "prctl(PR_CAPBSET_DROP) has no safe wrapper in nix 0.31")]
fn drop_capabilities() -> io::Result<()> {
    for capability in DROPPED_CAPABILITIES {
        // SAFETY: takes integers only.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_shows_no_more_than_the_type_has() {
        let host = "MemTotal:       24591880 kB\nMemFree:          901234 kB\nSwapTotal:       100 kB\n";
        let shown = limited_meminfo(host, 4 << 30);
        assert_eq!(shown.lines().next(), Some("MemTotal:         4194304 kB"));
        assert!(shown.contains("MemFree:          901234 kB"), "{shown}");
        assert!(shown.ends_with("SwapTotal:               0 kB"), "{shown}");
    }

    #[test]
    fn no_more_processors_are_online_than_the_type_has() {
        let cases = [
            ("0-7", 2, "0-1"),
            ("0-1", 4, "0-1"),
            ("0", 2, "0"),
            ("0,2-3,6", 3, "0,2-3"),
            ("0-3,6", 2, "0-1"),
        ];
        for (host, cpus, shown) in cases {
            assert_eq!(limited_processors(host, cpus), shown, "{host} for {cpus}");
        }
    }

    #[test]
    fn cpuinfo_shows_the_first_processors() {
        assert_eq!(limited_cpuinfo("processor: 0\na\n\nprocessor: 1\nb\n\n", 1), "processor: 0\na\n");
    }
}

//! Making room for the kubelet's groups, where control groups are version 2.
//!
//! Version 2 lets a group have processes or controllers for its children, not both; the kubelet wants the children's.
//! So every process leaves the root group for one of its own, and then the controllers are enabled.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

const ROOT: &str = "/sys/fs/cgroup";
/// Where the processes go that were in the root group.
const LEAF: &str = "init";
/// A process that is ending cannot be moved, and is in the way until it has ended.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) fn leave_root_group() -> io::Result<()> {
    let root = Path::new(ROOT);
    let Ok(controllers) = fs::read_to_string(root.join("cgroup.controllers")) else { return Ok(()) };
    let leaf = root.join(LEAF);
    fs::create_dir_all(&leaf).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", leaf.display())))?;
    let deadline = Instant::now() + PATIENCE;
    let again = || {
        std::thread::sleep(Duration::from_millis(5));
        Instant::now() < deadline
    };
    delegate(root, &controllers, |path, value| fs::write(path, value), again)
}

/// `again` waits a moment, and says no when it has been long enough.
fn delegate(
    root: &Path,
    controllers: &str,
    mut write: impl FnMut(&Path, &str) -> io::Result<()>,
    mut again: impl FnMut() -> bool,
) -> io::Result<()> {
    let (procs, leaf) = (root.join("cgroup.procs"), root.join(LEAF).join("cgroup.procs"));
    let control = root.join("cgroup.subtree_control");
    for controller in controllers.split_whitespace() {
        loop {
            // Who has ended since the list was read cannot be moved; who was started since is in the next list.
            for pid in fs::read_to_string(&procs)?.lines() {
                let _ = write(&leaf, pid);
            }
            match write(&control, &format!("+{controller}")) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    if !again() {
                        let left =
                            fs::read_to_string(&procs)?.split_whitespace().collect::<Vec<_>>().join(", ");
                        let message = format!("+{controller}: {error}; processes in the way: {left}");
                        return Err(io::Error::new(error.kind(), message));
                    }
                }
                // A controller that cannot be had is missed by whoever needs it, in its own words.
                Ok(()) | Err(_) => break,
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    /// A directory that stands for the kernel's, with these processes in its root group.
    fn tree(name: &str, procs: &str) -> PathBuf {
        let root = std::env::temp_dir().join(format!("ekstra-node-{name}-{}", std::process::id()));
        fs::create_dir_all(&root).expect("made");
        fs::write(root.join("cgroup.procs"), procs).expect("written");
        root
    }

    fn busy() -> io::Error {
        io::Error::from_raw_os_error(libc::EBUSY)
    }

    #[test]
    fn every_process_is_moved_and_a_busy_group_is_tried_again() {
        let root = tree("busy", "1\n7\n");
        let (mut moved, mut enabled, mut refusals) = (Vec::new(), Vec::new(), 3);
        let write = |path: &Path, value: &str| {
            if path.starts_with(root.join(LEAF)) {
                moved.push(value.to_owned());
                return fs::write(root.join("cgroup.procs"), "");
            }
            if refusals > 0 {
                refusals -= 1;
                // Somebody was started meanwhile.
                fs::write(root.join("cgroup.procs"), format!("{}\n", 100 + refusals))?;
                return Err(busy());
            }
            enabled.push(value.to_owned());
            Ok(())
        };
        delegate(&root, "cpu memory\n", write, || true).expect("enabled in the end");
        assert_eq!(moved, ["1", "7", "102", "101", "100"]);
        assert_eq!(enabled, ["+cpu", "+memory"]);
        fs::remove_dir_all(root).expect("removed");
    }

    #[test]
    fn who_stays_in_the_way_is_named_in_the_end() {
        let root = tree("stays", "1\n42\n");
        let write = |path: &Path, _: &str| {
            if path.ends_with("cgroup.subtree_control") { Err(busy()) } else { Ok(()) }
        };
        let mut left = 3;
        let again = || {
            left -= 1;
            left > 0
        };
        let error = delegate(&root, "memory", write, again).expect_err("never free");
        assert!(error.to_string().starts_with("+memory: "), "{error}");
        assert!(error.to_string().ends_with("processes in the way: 1, 42"), "{error}");
        fs::remove_dir_all(root).expect("removed");
    }

    #[test]
    fn a_controller_that_cannot_be_had_stops_nobody() {
        let root = tree("refused", "");
        let mut enabled = Vec::new();
        let write = |_: &Path, value: &str| {
            if value == "+rdma" {
                return Err(io::Error::from_raw_os_error(libc::ENOENT));
            }
            enabled.push(value.to_owned());
            Ok(())
        };
        delegate(&root, "rdma pids", write, || false).expect("goes on");
        assert_eq!(enabled, ["+pids"]);
        fs::remove_dir_all(root).expect("removed");
    }
}

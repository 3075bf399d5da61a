//! Facts and settings of the machine as a whole.

use crate::HostError;
use std::fs;

/// Changes with every boot.
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|s| s.trim().to_owned()).unwrap_or_default()
}

/// A kubelet takes about 50 inotify instances and the kernel's default is 128 for all of root's processes.
/// Returns the settings as they were, when they had to be raised.
pub fn raise_inotify_limits() -> Result<Vec<(String, String)>, HostError> {
    let wanted = [("max_user_instances", 8192_u64), ("max_user_watches", 524_288)];
    let mut before = Vec::new();
    for (name, least) in wanted {
        let path = format!("/proc/sys/fs/inotify/{name}");
        let old = fs::read_to_string(&path).map_err(HostError::io("read", &path))?;
        if old.trim().parse::<u64>().is_ok_and(|value| value >= least) {
            continue;
        }
        fs::write(&path, least.to_string()).map_err(HostError::io("write", &path))?;
        before.push((path, old.trim().to_owned()));
    }
    Ok(before)
}

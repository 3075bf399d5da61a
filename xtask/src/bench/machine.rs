//! What processes and control groups use, read from /proc.

use anyhow::{Context, Result};
use std::fs;
use std::path::Path;

/// Of USER_HZ, which is 100 wherever Linux runs.
const TICKS: f64 = 100.0;

/// Every process of a group and of the groups below it.
fn members(group: &Path) -> Result<Vec<u32>> {
    let listed = fs::read_to_string(group.join("cgroup.procs"))?;
    let mut pids: Vec<u32> = listed.lines().filter_map(|l| l.parse().ok()).collect();
    for entry in fs::read_dir(group)?.flatten() {
        if entry.file_type()?.is_dir() {
            pids.extend(members(&entry.path())?);
        }
    }
    Ok(pids)
}

/// Sum of RssAnon, in the MiB that the goal is given in (`design.md` §8).
pub(super) fn anonymous_mebibytes(group: &Path) -> Result<f64> {
    let anonymous = |pid: u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:"))?;
        line.trim().trim_end_matches(" kB").parse::<f64>().ok()
    };
    // A process that ended meanwhile uses nothing.
    let kilobytes: f64 = members(group)?.into_iter().filter_map(anonymous).sum();
    Ok(kilobytes / 1024.0)
}

/// Sum of user and system time of what lives now.
pub(super) fn cpu_seconds(group: &Path) -> Result<f64> {
    let used = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // Fields after the name, which may contain anything: state is the third of proc(5).
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = |index: usize| fields.get(index)?.parse::<f64>().ok();
        Some((ticks(11)? + ticks(12)?) / TICKS)
    };
    Ok(members(group)?.into_iter().filter_map(used).sum())
}

/// Those whose arguments after the program begin so.
pub(super) fn processes_like(args: &[&str]) -> Result<Vec<u32>> {
    let matches = |pid: &u32| {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let given: Vec<&str> = line.split('\0').skip(1).take(args.len()).collect();
        given == args
    };
    let listed = fs::read_dir("/proc")?.flatten();
    let pids = listed.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok());
    Ok(pids.filter(matches).collect())
}

/// Everything that processes hold in memory, what they share with others by its part (Pss of smaps_rollup), in megabytes.
pub(super) fn proportional_megabytes(pids: &[u32]) -> Result<f64> {
    let mut kibibytes = 0.0;
    for pid in pids {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = fs::read_to_string(&path).context(path)?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss")?;
        kibibytes += line.trim().trim_end_matches(" kB").parse::<f64>().context("Pss")?;
    }
    Ok(kibibytes * 1024.0 / 1e6)
}

//! Children that outlive the service: starting through the launcher, recognising them again, ending them.
//!
//! Invariant: the pid file is written before the child runs any code of its own (`launch.rs`), and names its start
//! time and this boot; so a recorded process is never confused with another one.

use super::cgroup::Group;
use super::launch::LaunchRequest;
use super::machine::boot_id;
use crate::{ChildId, ChildSpec, ChildStatus, HostError, Running};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub(super) fn pid_file(run: &Path, id: &ChildId) -> PathBuf {
    run.join(format!("{id}.pid"))
}

pub(crate) fn status(run: &Path, id: &ChildId) -> Result<ChildStatus, HostError> {
    let path = pid_file(run, id);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(ChildStatus::Absent),
        Err(error) => return Err(HostError::io("read", path)(error)),
    };
    let Ok(running) = serde_json::from_slice::<Running>(&text) else {
        return Ok(ChildStatus::Exited);
    };
    if running.boot_id != boot_id() {
        return Ok(ChildStatus::BeforeBoot);
    }
    let alive = start_ticks(running.pid) == Some(running.start_ticks);
    Ok(if alive { ChildStatus::Running(running) } else { ChildStatus::Exited })
}

/// When the process started; `None` if there is none or it is a zombie.
pub(crate) fn start_ticks(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold spaces; fields count from behind it: state is the first, start time the 20th.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    if matches!(fields.first(), Some(&"Z" | &"X")) {
        return None;
    }
    fields.get(19)?.parse().ok()
}

pub(crate) fn start(
    launcher: &Path,
    run: &Path,
    spec: &ChildSpec,
    group: &Group<'_>,
) -> Result<Running, HostError> {
    let fail = |detail: String| HostError::Launch { id: spec.id.clone(), detail };
    let request =
        LaunchRequest { spec: spec.clone(), procs: group.procs_files(), pid_file: pid_file(run, &spec.id) };
    let encoded = serde_json::to_vec(&request).map_err(|e| fail(e.to_string()))?;
    let mut shim = Command::new(launcher)
        .arg("launch")
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(HostError::io("run", launcher))?;
    if let Some(mut stdin) = shim.stdin.take() {
        stdin.write_all(&encoded).map_err(|e| fail(e.to_string()))?;
    }
    let output = shim.wait_with_output().map_err(|e| fail(e.to_string()))?;
    if !output.status.success() {
        return Err(fail(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    serde_json::from_slice(&output.stdout).map_err(|e| fail(format!("the launcher answered no pid: {e}")))
}

pub(crate) fn stop(run: &Path, id: &ChildId, grace: Duration) -> Result<(), HostError> {
    let deadline = Instant::now() + grace;
    let mut signal = Signal::SIGTERM;
    let mut sent = false;
    while let ChildStatus::Running(running) = status(run, id)? {
        if !sent {
            let _ = kill(Pid::from_raw(running.pid), signal);
            sent = true;
        } else if Instant::now() > deadline && signal == Signal::SIGTERM {
            signal = Signal::SIGKILL;
            sent = false;
        } else if Instant::now() > deadline + Duration::from_secs(10) {
            return Err(HostError::Immortal { id: id.clone() });
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

pub(crate) fn forget(run: &Path, id: &ChildId) -> Result<(), HostError> {
    let path = pid_file(run, id);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(HostError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

pub(crate) fn recorded(run: &Path) -> Result<Vec<ChildId>, HostError> {
    let entries = fs::read_dir(run).map_err(HostError::io("list", run))?;
    let names = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    Ok(names.filter_map(|n| n.strip_suffix(".pid").map(|id| ChildId(id.to_owned()))).collect())
}

/// Completes when the process has ended. It need not be our child.
#[expect(unsafe_code, reason = "AsyncFd::register wants a promise about the descriptor")]
pub async fn exit(running: &Running) -> std::io::Result<()> {
    let Some(descriptor) = open_pidfd(running)? else {
        return Ok(());
    };
    // SAFETY: an OwnedFd's descriptor stays the same and open for as long as the OwnedFd lives.
    let watched = unsafe { tokio::io::unix::AsyncFd::register(descriptor) }?;
    watched.readable().await.map(drop)
}

#[expect(unsafe_code, reason = "pidfd_open has no safe wrapper in nix 0.31")]
fn open_pidfd(running: &Running) -> std::io::Result<Option<OwnedFd>> {
    // SAFETY: pidfd_open takes two integers and returns a new descriptor or -1; it is owned from here on.
    let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, running.pid, libc::PIDFD_NONBLOCK) };
    if descriptor < 0 {
        let error = std::io::Error::last_os_error();
        return if error.raw_os_error() == Some(libc::ESRCH) { Ok(None) } else { Err(error) };
    }
    // SAFETY: as above.
    let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor as i32) };
    debug_assert!(descriptor.as_raw_fd() >= 0);
    // The pid may have been reused before it was opened.
    Ok((start_ticks(running.pid) == Some(running.start_ticks)).then_some(descriptor))
}

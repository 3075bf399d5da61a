//! Children that outlive the service: starting through the launcher, recognising them again, ending them.
//!
//! Invariant: the pid file is written before the child runs any code of its own (`launch.rs`), and names its start
//! time and this boot; so a recorded process is never confused with another one. It appears by rename, and only the
//! boot in which it was written believes it: one that the machine's crash tore is from before the boot.

use super::cgroup::describe;
use super::command::finish;
use super::launch::LaunchRequest;
use super::lock::ChildLock;
use super::machine::boot_id;
use crate::{ChildId, ChildSpec, ChildStatus, HostError, Running};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A sandbox's root is assembled in a tenth of a second; a machine that is short of everything takes longer.
const LAUNCH_LIMIT: Duration = Duration::from_secs(60);
/// For a child that was told to end and could not be asked.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

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
        return Ok(ChildStatus::BeforeBoot);
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

/// The command line of a process that still runs, without the program.
pub fn arguments(running: &Running) -> Option<Vec<String>> {
    let words = fs::read(format!("/proc/{}/cmdline", running.pid)).ok()?;
    if running.boot_id != boot_id() || start_ticks(running.pid) != Some(running.start_ticks) {
        return None;
    }
    let words = words.strip_suffix(&[0])?.split(|byte| *byte == 0).skip(1);
    Some(words.map(|word| String::from_utf8_lossy(word).into_owned()).collect())
}

/// `procs`: the `cgroup.procs` files that the child joins. Whatever an error left of it is the caller's to end.
pub(crate) fn start(
    launcher: &Path,
    run: &Path,
    spec: &ChildSpec,
    procs: Vec<PathBuf>,
    lock: &ChildLock,
) -> Result<Running, HostError> {
    let fail = |detail: String| HostError::Launch { id: spec.id.clone(), detail };
    let request = LaunchRequest { spec: spec.clone(), procs, pid_file: pid_file(run, &spec.id) };
    let encoded = serde_json::to_vec(&request).map_err(|e| fail(e.to_string()))?;
    let shim = Command::new(launcher)
        .arg("launch")
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin")
        .stdin(lock.with_request(&encoded).map_err(|e| fail(e.to_string()))?)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(HostError::io("run", launcher))?;
    let ended = finish(shim, &[], LAUNCH_LIMIT).map_err(|e| fail(e.to_string()))?;
    lock.clear().map_err(|e| fail(e.to_string()))?;
    if ended.overdue {
        return Err(fail(format!("its set-up took more than {} s", LAUNCH_LIMIT.as_secs())));
    }
    if !ended.status.success() {
        return Err(fail(ended.stderr_text()));
    }
    serde_json::from_slice(&ended.stdout).map_err(|e| fail(format!("the launcher answered no pid: {e}")))
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
        } else if Instant::now() > deadline + KILL_PATIENCE {
            let survivors = describe(&BTreeSet::from([running.pid]));
            return Err(HostError::Immortal { id: id.clone(), survivors });
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

fn open_pidfd(running: &Running) -> std::io::Result<Option<OwnedFd>> {
    let descriptor = pidfd(running.pid)?;
    // The pid may have been reused before it was opened.
    Ok(descriptor.filter(|_| start_ticks(running.pid) == Some(running.start_ticks)))
}

/// Readable when the process has ended; `None` when there is none.
#[expect(unsafe_code, reason = "pidfd_open has no safe wrapper in nix 0.31")]
pub(super) fn pidfd(pid: i32) -> std::io::Result<Option<OwnedFd>> {
    // SAFETY: pidfd_open takes two integers and returns a new descriptor or -1.
    let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, libc::PIDFD_NONBLOCK) };
    if descriptor < 0 {
        let error = std::io::Error::last_os_error();
        return if error.raw_os_error() == Some(libc::ESRCH) { Ok(None) } else { Err(error) };
    }
    // SAFETY: the descriptor is new and nobody else's.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(descriptor as i32) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn a_running_process_has_a_command_line() {
        let mut command = Command::new("cat");
        command.args(["-", "-u"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("runs");
        // `spawn` returns while the kernel still replaces the program: until that has ended there is no command line.
        child.stdin.as_mut().expect("piped").write_all(b"a").expect("reads");
        child.stdout.as_mut().expect("piped").read_exact(&mut [0]).expect("answers");
        let pid = i32::try_from(child.id()).expect("fits");
        let running = Running { pid, start_ticks: start_ticks(pid).expect("runs"), boot_id: boot_id() };
        assert_eq!(arguments(&running), Some(vec!["-".to_owned(), "-u".to_owned()]));
        let another = Running { start_ticks: running.start_ticks + 1, ..running.clone() };
        assert_eq!(arguments(&another), None);
        child.kill().expect("ends");
        child.wait().expect("ends");
        assert_eq!(arguments(&running), None);
    }

    #[test]
    fn a_torn_pid_file_is_from_before_the_boot() {
        let run = std::env::temp_dir().join(format!("ekstra-torn-{}", std::process::id()));
        fs::create_dir_all(&run).expect("made");
        let id = ChildId("a".into());
        assert_eq!(status(&run, &id).expect("read"), ChildStatus::Absent);
        let pid = i32::try_from(std::process::id()).expect("fits");
        let start_ticks = start_ticks(pid).expect("runs");
        let running = Running { pid, start_ticks, boot_id: boot_id() };
        let whole = serde_json::to_vec(&running).expect("encodes");
        for length in 0..whole.len() {
            fs::write(pid_file(&run, &id), &whole[..length]).expect("written");
            assert_eq!(status(&run, &id).expect("read"), ChildStatus::BeforeBoot, "{length} bytes");
        }
        fs::write(pid_file(&run, &id), vec![0; whole.len()]).expect("written");
        assert_eq!(status(&run, &id).expect("read"), ChildStatus::BeforeBoot, "zeros");
        fs::write(pid_file(&run, &id), whole).expect("written");
        assert_eq!(status(&run, &id).expect("read"), ChildStatus::Running(running));
        fs::remove_dir_all(run).expect("removed");
    }
}

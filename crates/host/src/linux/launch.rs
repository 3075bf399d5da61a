//! The launcher: a short-lived, single-threaded process between the service and a child.
//!
//! It opens the log, enters the namespaces, forks, records the pid, and lets the child go on. Killed anywhere, it
//! leaves nothing running: the child waits for the word that its pid is recorded, and ends when the launcher does
//! before that. Only the child joins the child's cgroup: with a second process in it, version 2 would not let an
//! instance's PID 1 give controllers to groups of its own.
//!
//! Its standard input is the request and the child's lock (`lock.rs`), which both of them hold until the child is the
//! program that was asked for.

use super::machine::boot_id;
use super::{cgroup, child, mounts};
use crate::descriptors::raise_descriptors;
use crate::faults::step;
use crate::{ChildSpec, Running, netns};
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{ForkResult, Pid, dup2_stderr, dup2_stdin, dup2_stdout, fork, pipe2, setsid};
use serde::{Deserialize, Serialize};
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

/// What the service writes to the launcher's standard input.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct LaunchRequest {
    pub(super) spec: ChildSpec,
    /// `cgroup.procs` files to join.
    pub(super) procs: Vec<PathBuf>,
    pub(super) pid_file: PathBuf,
}

/// The whole life of `ekstra launch`; must run before any thread exists. Returns the exit code.
pub fn launch_main() -> i32 {
    match run() {
        Ok(running) => {
            let report = serde_json::to_string(&running).unwrap_or_default();
            println!("{report}");
            0
        }
        Err(error) => {
            eprintln!("{error}");
            1
        }
    }
}

/// A sandbox may not open loop devices, but its disk is mounted through one.
fn joins_late(spec: &ChildSpec, procs: &Path) -> bool {
    spec.sandbox.is_some() && spec.limits.restrict_devices && cgroup::is_device_group(procs)
}

fn context(what: impl std::fmt::Display) -> impl FnOnce(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{what}: {error}"))
}

fn run() -> io::Result<Running> {
    let request: LaunchRequest = serde_json::from_reader(io::stdin().lock()).map_err(io::Error::other)?;
    let spec = &request.spec;
    setsid()?;
    raise_descriptors()?;
    step();
    if let Some(name) = &spec.namespace {
        let namespace = File::open(netns::path(name)).map_err(context(name))?;
        setns(&namespace, CloneFlags::CLONE_NEWNET)?;
        step();
    }
    let log = open_log(&spec.log)?;
    step();
    if spec.sandbox.is_some() {
        unshare(
            CloneFlags::CLONE_NEWNS
                | CloneFlags::CLONE_NEWUTS
                | CloneFlags::CLONE_NEWIPC
                | CloneFlags::CLONE_NEWPID,
        )?;
        step();
    }
    fork_child(&request, &log)
}

/// Opens a log, which belongs to whoever owns the directory it lies in. That may be a user, and this be root: a link, a
/// FIFO or somebody's other file by that name is refused.
pub fn open_log(path: &Path) -> io::Result<File> {
    let parent = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(context(parent.display()))?;
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let mut options = OpenOptions::new();
    let options = options.create(true).append(true).mode(0o600).custom_flags(flags.bits());
    let log = options.open(path).map_err(context(path.display()))?;
    let (found, owner) = (log.metadata()?, fs::metadata(parent)?);
    if !found.is_file() || found.nlink() != 1 {
        return Err(io::Error::other(format!("{} is not a log; move it away", path.display())));
    }
    if found.mode() & 0o777 != 0o600 {
        log.set_permissions(fs::Permissions::from_mode(0o600))?;
    }
    if (found.uid(), found.gid()) != (owner.uid(), owner.gid()) {
        fchown(&log, Some(owner.uid()), Some(owner.gid()))?;
    }
    Ok(log)
}

#[expect(unsafe_code, reason = "fork")]
fn fork_child(request: &LaunchRequest, log: &File) -> io::Result<Running> {
    let (go_reader, go_writer) = pipe2(OFlag::O_CLOEXEC)?;
    let (failure_reader, failure_writer) = pipe2(OFlag::O_CLOEXEC)?;
    // SAFETY: this process has one thread.
    match unsafe { fork() }? {
        ForkResult::Child => {
            drop((go_writer, failure_reader));
            let mut word = [0];
            if File::from(go_reader).read(&mut word).unwrap_or(0) == 1 {
                let Err(error) = become_child(request, log);
                let _ = write!(File::from(failure_writer), "{error}");
            }
            std::process::exit(127);
        }
        ForkResult::Parent { child } => {
            drop((go_reader, failure_writer));
            step();
            let running = record(request, child)?;
            step();
            File::from(go_writer).write_all(b"g")?;
            step();
            let mut failure = String::new();
            // Closed without a word by a successful exec.
            File::from(failure_reader).read_to_string(&mut failure)?;
            if failure.is_empty() { Ok(running) } else { Err(io::Error::other(failure)) }
        }
    }
}

fn record(request: &LaunchRequest, pid: Pid) -> io::Result<Running> {
    let start_ticks =
        child::start_ticks(pid.as_raw()).ok_or_else(|| io::Error::other("the child is gone"))?;
    let running = Running { pid: pid.as_raw(), start_ticks, boot_id: boot_id() };
    let partial = request.pid_file.with_extension("partial");
    fs::write(&partial, serde_json::to_vec(&running).map_err(io::Error::other)?)
        .inspect(|()| step())
        .and_then(|()| fs::rename(&partial, &request.pid_file))
        .map_err(context(request.pid_file.display()))?;
    Ok(running)
}

fn become_child(request: &LaunchRequest, log: &File) -> io::Result<std::convert::Infallible> {
    let spec = &request.spec;
    step();
    for file in request.procs.iter().filter(|file| !joins_late(spec, file)) {
        fs::write(file, "0").map_err(context(file.display()))?;
        step();
    }
    if let Some(layer) = &spec.etc
        && let Err(error) = mounts::lay_over_etc(layer)
    {
        // A file system that cannot be laid over: it runs all the same, with the host's files.
        let mut log = log;
        let _ = writeln!(log, "{}: {error}", layer.display());
    }
    if let Some(sandbox) = &spec.sandbox {
        let root = mounts::mount_root(sandbox)?;
        for file in request.procs.iter().filter(|file| joins_late(spec, file)) {
            fs::write(file, "0").map_err(context(file.display()))?;
            step();
        }
        // The groups joined are the roots of what the sandbox sees.
        unshare(CloneFlags::CLONE_NEWCGROUP)?;
        mounts::enter_sandbox(sandbox, &root)?;
    }
    dup2_stdin(File::open("/dev/null")?)?;
    dup2_stdout(log)?;
    dup2_stderr(log)?;
    step();
    let text = |s: &str| CString::new(s).map_err(io::Error::other);
    let program = CString::new(spec.program.as_os_str().as_bytes()).map_err(io::Error::other)?;
    let mut args = vec![program.clone()];
    for arg in &spec.args {
        args.push(text(arg)?);
    }
    let env = spec.env.iter().map(|(k, v)| text(&format!("{k}={v}"))).collect::<io::Result<Vec<_>>>()?;
    nix::unistd::execve(&program, &args, &env).map_err(|e| context(spec.program.display())(e.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_private_and_no_other_file() {
        let directory = std::env::temp_dir().join(format!("ekstra-logs-{}", std::process::id()));
        let path = directory.join("logs/serve.log");
        drop(open_log(&path).expect("opens"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("is ours");
        open_log(&path).expect("opens again").write_all(b"x").expect("writes");
        assert_eq!(fs::metadata(&path).expect("is there").mode() & 0o777, 0o600);
        let victim = directory.join("victim");
        fs::write(&victim, "").expect("writes");
        let (link, hard) = (directory.join("logs/link"), directory.join("logs/hard"));
        std::os::unix::fs::symlink(&victim, &link).expect("links");
        fs::hard_link(&victim, &hard).expect("links");
        assert!(open_log(&link).is_err() && open_log(&hard).is_err());
        fs::remove_dir_all(&directory).expect("removes");
    }
}

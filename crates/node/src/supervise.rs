//! The programs of a node, kept running, and everybody's orphans, reaped.
//!
//! Invariant: only this module waits for children. PID 1 inherits every orphan of the instance, so it waits for any.

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A program that should always run.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) name: &'static str,
    pub(crate) program: &'static str,
    pub(crate) args: Vec<String>,
    pid: Option<Pid>,
    started: Instant,
    failures: u32,
    next_start: Option<Instant>,
}

impl Service {
    pub(crate) fn new(name: &'static str, program: &'static str, args: Vec<String>) -> Self {
        Self { name, program, args, pid: None, started: Instant::now(), failures: 0, next_start: None }
    }

    fn start(&mut self) -> io::Result<()> {
        let mut command = Command::new(self.program);
        command
            .args(&self.args)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", "/root")
            // A node's programs matter less than its pods' memory.
            .env("GOGC", "60")
            .stdin(Stdio::null())
            .process_group(0);
        unblock_signals(&mut command);
        let child =
            command.spawn().map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", self.program)))?;
        self.pid = Some(Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?));
        self.started = Instant::now();
        self.next_start = None;
        Ok(())
    }

    /// Waits 0.1 s after a first failure, up to 10 s after many in a row.
    fn ended(&mut self, status: &WaitStatus) {
        eprintln!("ekstra-node: {} ended: {status:?}", self.name);
        self.pid = None;
        self.failures = if self.started.elapsed() > Duration::from_secs(60) { 0 } else { self.failures + 1 };
        let delay = Duration::from_millis(100 << self.failures.min(7)).min(Duration::from_secs(10));
        self.next_start = Some(Instant::now() + delay);
    }
}

#[expect(unsafe_code, reason = "pre_exec; the child must not inherit PID 1's blocked signals")]
fn unblock_signals(command: &mut Command) {
    // SAFETY: sigprocmask is async-signal-safe.
    unsafe {
        command.pre_exec(|| Ok(SigSet::all().thread_unblock()?));
    }
}

/// Signals that PID 1 is told about instead of being interrupted by.
pub(crate) fn block_signals() -> io::Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT] {
        set.add(signal);
    }
    set.thread_block()?;
    Ok(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

#[derive(Debug)]
pub(crate) struct Supervisor {
    signals: SignalFd,
    services: Vec<Service>,
    stopping: bool,
}

impl Supervisor {
    pub(crate) fn new(signals: SignalFd) -> Self {
        Self { signals, services: Vec::new(), stopping: false }
    }

    pub(crate) fn start(&mut self, mut service: Service) -> io::Result<()> {
        service.start()?;
        self.services.push(service);
        Ok(())
    }

    /// Reaps, restarts and takes signals until `done` says so or the instance is told to stop.
    pub(crate) fn run_until(&mut self, mut done: impl FnMut() -> bool) -> io::Result<bool> {
        loop {
            self.reap();
            self.restart_due()?;
            if self.stopping {
                return Ok(false);
            }
            if done() {
                return Ok(true);
            }
            self.wait(Duration::from_millis(20))?;
        }
    }

    /// Runs until the instance is told to stop.
    pub(crate) fn run(&mut self) -> io::Result<()> {
        while !self.stopping {
            self.reap();
            self.restart_due()?;
            self.wait(Duration::from_secs(2))?;
        }
        Ok(())
    }

    fn wait(&mut self, at_most: Duration) -> io::Result<()> {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        use std::os::fd::AsFd;
        let due = self.services.iter().filter_map(|s| s.next_start).min();
        let wait = due.map_or(at_most, |at| at.saturating_duration_since(Instant::now()).min(at_most));
        let timeout = PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        while let Some(signal) = self.signals.read_signal()? {
            if signal.ssi_signo != Signal::SIGCHLD as u32 {
                self.stopping = true;
            }
        }
        Ok(())
    }

    fn reap(&mut self) {
        while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            let Some(pid) = status.pid() else { return };
            if let Some(service) = self.services.iter_mut().find(|s| s.pid == Some(pid)) {
                service.ended(&status);
            }
        }
    }

    fn restart_due(&mut self) -> io::Result<()> {
        let due = |s: &&mut Service| s.pid.is_none() && s.next_start.is_some_and(|at| at <= Instant::now());
        if self.stopping {
            return Ok(());
        }
        self.services.iter_mut().filter(due).try_for_each(Service::start)
    }

    /// Everything in the instance is told to end, and has `grace` to do so.
    pub(crate) fn stop_all(&mut self, grace: Duration) {
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            // From PID 1, -1 means everyone in this PID namespace but itself.
            let _ = kill(Pid::from_raw(-1), signal);
            let deadline = Instant::now() + grace;
            while Instant::now() < deadline {
                match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                    Err(Errno::ECHILD) => return,
                    Ok(WaitStatus::StillAlive) | Err(_) => std::thread::sleep(Duration::from_millis(10)),
                    Ok(_) => {}
                }
            }
        }
    }
}

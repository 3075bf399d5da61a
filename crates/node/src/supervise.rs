//! The programs of a node, kept running, and everybody's orphans, reaped.
//!
//! Invariant: only this module waits for children. PID 1 inherits every orphan of the instance, so it waits for any.

use crate::health::Alarm;
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// After the second failure in a row, the first being no reason to wait; doubled by each one that follows.
const FIRST_DELAY: Duration = Duration::from_secs(1);
const LONGEST_DELAY: Duration = Duration::from_secs(30);
/// Who has run for so long, or has answered, was not one that cannot run.
const HEALTHY: Duration = Duration::from_secs(60);

/// A program that should always run.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) name: &'static str,
    pub(crate) program: String,
    pub(crate) args: Vec<String>,
    environment: Vec<(String, String)>,
    pid: Option<Pid>,
    started: Instant,
    failures: u32,
    next_start: Option<Instant>,
    /// Goes off when it runs but does not answer.
    alarm: Option<Alarm>,
}

impl Service {
    pub(crate) fn new(name: &'static str, program: &str, args: Vec<String>) -> Self {
        Self {
            name,
            program: program.to_owned(),
            args,
            environment: Vec::new(),
            pid: None,
            started: Instant::now(),
            failures: 0,
            next_start: None,
            alarm: None,
        }
    }

    pub(crate) fn with_environment(self, environment: Vec<(String, String)>) -> Self {
        Self { environment, ..self }
    }

    pub(crate) fn with_alarm(self, alarm: Alarm) -> Self {
        Self { alarm: Some(alarm), ..self }
    }

    /// Ends it if it hangs; that it has ended is then seen as ever. Who has just been started, perhaps after a long
    /// silence, is given time.
    fn end_if_hung(&self, now: Instant) {
        let is_hung = self.alarm.as_ref().is_some_and(Alarm::take);
        let Some(pid) = self.pid.filter(|_| now.saturating_duration_since(self.started) >= HEALTHY) else {
            return;
        };
        if is_hung {
            say!("ekstra-node: {} does not answer: ending it", self.name);
            let _ = kill(pid, Signal::SIGKILL);
        }
    }

    /// One that cannot be started is a failure like any other: this is PID 1, which may not end for it.
    fn start(&mut self) {
        self.next_start = None;
        self.started = Instant::now();
        if let Some(alarm) = &self.alarm {
            alarm.reset();
        }
        match self.spawn() {
            Ok(pid) => self.pid = Some(pid),
            Err(error) => self.failed(&format!("cannot be started: {error}"), Instant::now()),
        }
    }

    fn spawn(&self) -> io::Result<Pid> {
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", "/root")
            // A node's programs matter less than its pods' memory.
            .env("GOGC", "60")
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .process_group(0);
        unblock_signals(&mut command);
        let child =
            command.spawn().map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", self.program)))?;
        Ok(Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?))
    }

    fn failed(&mut self, how: &str, now: Instant) {
        self.pid = None;
        let has_worked = self.alarm.as_ref().is_some_and(Alarm::has_answered);
        if has_worked || now.saturating_duration_since(self.started) >= HEALTHY {
            self.failures = 0;
        }
        let delay = match self.failures {
            0 => Duration::ZERO,
            before => FIRST_DELAY.saturating_mul(1 << (before - 1).min(16)).min(LONGEST_DELAY),
        };
        self.failures += 1;
        self.next_start = Some(now + delay);
        say!("ekstra-node: {} {how}; again in {} s", self.name, delay.as_secs());
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

    pub(crate) fn start(&mut self, mut service: Service) {
        service.start();
        self.services.push(service);
    }

    /// Reaps, restarts and takes signals until `done` says so or the instance is told to stop.
    pub(crate) fn run_until(&mut self, mut done: impl FnMut() -> bool) -> io::Result<bool> {
        loop {
            self.reap();
            self.restart_due();
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
            self.restart_due();
            self.services.iter().for_each(|service| service.end_if_hung(Instant::now()));
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
                service.failed(&format!("ended: {status:?}"), Instant::now());
            }
        }
    }

    fn restart_due(&mut self) {
        let due = |s: &&mut Service| s.pid.is_none() && s.next_start.is_some_and(|at| at <= Instant::now());
        if !self.stopping {
            self.services.iter_mut().filter(due).for_each(Service::start);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn delay(service: &Service, now: Instant) -> u64 {
        service.next_start.expect("it is to be started again").saturating_duration_since(now).as_secs()
    }

    #[test]
    fn the_wait_doubles_up_to_half_a_minute_and_health_ends_it() {
        let mut service = Service::new("kubelet", "/bin/false", Vec::new());
        let mut delays = Vec::new();
        for _ in 0..40 {
            service.failed("ended", service.started);
            delays.push(delay(&service, service.started));
        }
        assert_eq!(delays[..8], [0, 1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(delays[39], 30);
        let later = service.started + HEALTHY;
        service.failed("ended", later);
        assert_eq!(delay(&service, later), 0);
    }

    #[test]
    fn one_that_answered_before_it_ended_is_started_at_once_each_time() {
        let alarm = Alarm::default();
        let mut service = Service::new("kubelet", "/bin/false", Vec::new()).with_alarm(alarm.clone());
        for _ in 0..5 {
            alarm.note_answer(alarm.starts());
            service.failed("ended", service.started);
            assert_eq!(delay(&service, service.started), 0);
            alarm.reset();
        }
        service.failed("ended", service.started);
        assert_eq!(delay(&service, service.started), 1, "this one has never answered");
    }

    #[test]
    fn one_that_hangs_is_ended_and_started_again() {
        let mut supervisor = Supervisor::new(SignalFd::new(&SigSet::empty()).expect("a descriptor"));
        let alarm = Alarm::default();
        let sleeping = Service::new("kubelet", "/bin/sleep", vec!["600".into()]).with_alarm(alarm.clone());
        supervisor.start(sleeping);
        let first = supervisor.services[0].pid.expect("runs");
        kill(first, Signal::SIGSTOP).expect("stopped");
        let later = Instant::now() + HEALTHY;
        let lives = || matches!(waitpid(first, Some(WaitPidFlag::WNOHANG)), Ok(WaitStatus::StillAlive));
        supervisor.services[0].end_if_hung(later);
        assert!(lives(), "nobody complained");
        alarm.raise();
        supervisor.services[0].end_if_hung(Instant::now());
        supervisor.services[0].end_if_hung(later);
        assert!(lives(), "the complaint was about the one before it");
        alarm.raise();
        supervisor.services[0].end_if_hung(later);
        assert!(matches!(waitpid(first, None), Ok(WaitStatus::Signaled(_, Signal::SIGKILL, _))));
        assert!(!alarm.take(), "it is told once");
    }

    #[test]
    fn a_program_that_cannot_be_started_is_tried_again_and_nothing_else_suffers() {
        let mut supervisor = Supervisor::new(SignalFd::new(&SigSet::empty()).expect("a descriptor"));
        supervisor.start(Service::new("gone", "/no/such/program", Vec::new()));
        supervisor.start(Service::new("there", "/bin/sleep", vec!["600".into()]));
        assert_eq!(supervisor.services[0].failures, 1);
        supervisor.services[0].next_start = Some(Instant::now());
        supervisor.restart_due();
        assert_eq!(supervisor.services[0].failures, 2);
        assert!(supervisor.services[0].next_start > Some(Instant::now()), "later, not at once");
        let pid = supervisor.services[1].pid.expect("runs");
        kill(pid, Signal::SIGKILL).expect("killed");
        waitpid(pid, None).expect("reaped");
    }
}

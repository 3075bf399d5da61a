//! Running the machine's own tools (`ip`, `nft`, `mkfs.ext4`), with their words in the error.
//!
//! Invariant: every call ends. A tool that takes longer than its limit is killed, and the error says so.

use super::child::pidfd;
use crate::HostError;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// `ip` and `nft` take milliseconds; on a machine that is short of everything, seconds.
const LIMIT: Duration = Duration::from_secs(20);

/// What a program left when it ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
    /// It was killed because its time was over.
    pub(super) overdue: bool,
}

impl Ended {
    pub(super) fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).trim().to_owned()
    }
}

/// Feeds a child whose three streams are pipes (or absent), until it ends or its time is over.
pub(super) fn finish(mut child: Child, input: &[u8], limit: Duration) -> io::Result<Ended> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    std::thread::scope(|scope| {
        if let Some(mut stdin) = stdin {
            // A tool that stops reading says why in its own words.
            scope.spawn(move || stdin.write_all(input));
        }
        let stdout = scope.spawn(move || read_all(stdout));
        let stderr = scope.spawn(move || read_all(stderr));
        let ended = wait(&mut child, limit);
        if !matches!(ended, Ok(true)) {
            let _ = child.kill();
        }
        let status = child.wait()?;
        let text = |reader: std::thread::ScopedJoinHandle<'_, Vec<u8>>| reader.join().unwrap_or_default();
        Ok(Ended { status, stdout: text(stdout), stderr: text(stderr), overdue: !ended? })
    })
}

fn read_all(stream: Option<impl Read>) -> Vec<u8> {
    let mut text = Vec::new();
    if let Some(mut stream) = stream {
        let _ = stream.read_to_end(&mut text);
    }
    text
}

/// `false` when it still runs.
fn wait(child: &mut Child, limit: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + limit;
    let Some(descriptor) = pidfd(i32::try_from(child.id()).map_err(io::Error::other)?)? else {
        return Ok(true);
    };
    loop {
        if child.try_wait()?.is_some() {
            return Ok(true);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        // Rounded up: a wait of no milliseconds would spin.
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(descriptor.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Runs to the end; the tool's standard output on success.
pub(super) fn run(
    program: &str,
    package: &'static str,
    args: &[&str],
    input: &str,
) -> Result<String, HostError> {
    run_within(LIMIT, program, package, args, input)
}

/// The same, for a tool that may take longer.
pub(super) fn run_within(
    limit: Duration,
    program: &str,
    package: &'static str,
    args: &[&str],
    input: &str,
) -> Result<String, HostError> {
    let missing = |source| HostError::Missing { program: program.to_owned(), package, source };
    let child = Command::new(program)
        .args(args)
        .env("LC_ALL", "C")
        .env("PATH", search_path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(missing)?;
    let ended = finish(child, input.as_bytes(), limit).map_err(HostError::io("wait for", program))?;
    if ended.status.success() {
        return Ok(String::from_utf8_lossy(&ended.stdout).into_owned());
    }
    let status = match ended.overdue {
        true => format!("killed after {} s", limit.as_secs_f32()),
        false => ended.status.to_string(),
    };
    let output = ended.stderr_text();
    Err(HostError::Command { program: format!("{program} {}", args.join(" ")), status, output })
}

/// The caller's, and where Debian keeps administration tools even when a user's PATH does not.
fn search_path() -> String {
    format!("{}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin", std::env::var("PATH").unwrap_or_default())
}

pub(crate) fn ip(args: &[&str]) -> Result<String, HostError> {
    run("ip", "iproute2", args, "")
}

/// Several `ip` commands inside one namespace (`None`: the host's), in one process; the first failure ends it.
pub(crate) fn ip_batch(namespace: Option<&str>, commands: &[String]) -> Result<(), HostError> {
    let batch = commands.join("\n") + "\n";
    let mut args = Vec::new();
    if let Some(name) = namespace {
        args.extend(["-netns", name]);
    }
    args.extend(["-batch", "-"]);
    run("ip", "iproute2", &args, &batch).map(drop).map_err(|error| with_line(error, commands))
}

/// `ip` names the failed line by number only.
fn with_line(error: HostError, commands: &[String]) -> HostError {
    let HostError::Command { program, status, output } = error else {
        return error;
    };
    let number = output.rsplit(':').next().and_then(|n| n.trim().parse::<usize>().ok());
    let line = number.and_then(|n| commands.get(n.saturating_sub(1))).cloned().unwrap_or_default();
    HostError::Command { program, status, output: format!("{output} (ip {line})") }
}

/// A tool inside a namespace, or on the host.
pub(super) fn in_namespace(
    namespace: Option<&str>,
    program: &str,
    package: &'static str,
    args: &[&str],
    input: &str,
) -> Result<String, HostError> {
    match namespace {
        Some(name) => run("ip", "iproute2", &[&["netns", "exec", name, program], args].concat(), input),
        None => run(program, package, args, input),
    }
}

pub(super) fn nft_output(namespace: Option<&str>, args: &[&str], input: &str) -> Result<String, HostError> {
    in_namespace(namespace, "nft", "nftables", args, input)
}

/// Loads a ruleset in one transaction.
pub(crate) fn nft(namespace: Option<&str>, ruleset: &str) -> Result<(), HostError> {
    nft_output(namespace, &["-f", "-"], ruleset).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_that_hangs_is_killed_and_quoted() {
        let script = "cat; echo 'half a word' >&2; exec sleep 60";
        let begun = Instant::now();
        let error = run_within(Duration::from_millis(300), "sh", "dash", &["-c", script], "in")
            .expect_err("does not end by itself");
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        assert_eq!(error.to_string(), format!("sh -c {script} failed (killed after 0.3 s): half a word"));
    }

    #[test]
    fn more_than_a_pipe_holds_goes_in_and_out() {
        let input = "line\n".repeat(100_000);
        assert_eq!(run("cat", "coreutils", &[], &input).expect("echoed"), input);
    }

    #[test]
    fn a_missing_tool_names_its_package() {
        let error = run("ekstra-no-such-tool", "imaginary", &[], "").expect_err("is not there");
        assert!(error.to_string().contains("apt-get install imaginary"), "{error}");
    }
}

//! Running the machine's own tools (`ip`, `nft`, `mkfs.ext4`), with their words in the error.

use crate::HostError;
use std::io::Write;
use std::process::{Command, Stdio};

/// Runs to the end; the tool's standard output on success.
pub(crate) fn run(
    program: &str,
    package: &'static str,
    args: &[&str],
    input: &str,
) -> Result<String, HostError> {
    let missing = |source| HostError::Missing { program: program.to_owned(), package, source };
    let mut child = Command::new(program)
        .args(args)
        .env("LC_ALL", "C")
        .env("PATH", search_path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(missing)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A tool that stops reading says why in its own words.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(HostError::io("wait for", program))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(HostError::Command {
        program: format!("{program} {}", args.join(" ")),
        status: output.status.to_string(),
        output: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
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

/// Loads a ruleset in one transaction.
pub(crate) fn nft(namespace: Option<&str>, ruleset: &str) -> Result<(), HostError> {
    match namespace {
        Some(name) => run("ip", "iproute2", &["netns", "exec", name, "nft", "-f", "-"], ruleset).map(drop),
        None => run("nft", "nftables", &["-f", "-"], ruleset).map(drop),
    }
}

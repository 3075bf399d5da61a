//! `cargo xtask test [--fast] [--faults] [--all-versions] [-k EXPR]`: every test, in phases, with the minutes that each
//! took. Of the Kubernetes minors that are not the default, the newest one's control plane is built and tried;
//! `--all-versions` has nodes of each as well. `--faults` adds what takes many minutes: a kill after every single step,
//! kills under load, five minutes without the service, an emulated machine.
//!
//! Invariant: a phase that fails does not hide the ones after it, except where these need its result; the exit status
//! and the last line tell of any failure.

use crate::{python, workspace};
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What `cargo xtask test` was asked for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    /// Without the end-to-end cases.
    fast: bool,
    /// With the faults that take many minutes.
    faults: bool,
    /// With nodes of every Kubernetes minor.
    all_versions: bool,
    /// pytest's `-k`.
    select: Option<String>,
}

/// How many tests of a phase passed and failed, by its own account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
}

struct Phase {
    name: &'static str,
    took: Duration,
    succeeded: bool,
    count: Count,
}

/// The entry point of the chore.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let options = parse(args)?;
    let mut phases = Vec::new();
    checks(&mut phases)?;
    let built = phase(
        &mut phases,
        "build",
        cargo(&["build", "--release", "-p", "ekstra", "-p", "ekstra-sdk-client"]),
        no_tests,
    )?;
    if !options.fast && built {
        end_to_end(&mut phases, &options)?;
    }
    report(&phases, !options.fast && !built)
}

fn parse(args: &[String]) -> Result<Options> {
    let mut options = Options::default();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        match arg.as_str() {
            "--fast" => options.fast = true,
            "--faults" => options.faults = true,
            "--all-versions" => options.all_versions = true,
            "-k" => options.select = Some(rest.next().context("-k: an expression")?.clone()),
            other => bail!(
                "test: unknown argument {other:?}; expected --fast, --faults, --all-versions or -k EXPR"
            ),
        }
    }
    Ok(options)
}

fn checks(phases: &mut Vec<Phase>) -> Result<()> {
    phase(phases, "format", cargo(&["fmt", "--all", "--check"]), no_tests)?;
    let clippy = ["clippy", "--release", "--workspace", "--all-targets", "--", "-D", "warnings"];
    phase(phases, "clippy", cargo(&clippy), no_tests)?;
    let mut codegen = Command::new(std::env::current_exe()?);
    codegen.args(["codegen", "--check"]);
    phase(phases, "codegen", codegen, no_tests)?;
    // Minutes to build, so only where it is.
    if cargo(&["deny", "--version"]).output().is_ok_and(|deny| deny.status.success()) {
        let deny = ["deny", "--offline", "check", "bans", "licenses", "sources"];
        phase(phases, "cargo deny", cargo(&deny), no_tests)?;
    } else {
        println!("== cargo deny: not installed, deny.toml is not checked");
    }
    // No crate has tests in its docs: looking for them takes a compiler's run for each.
    let tests = ["test", "--release", "--workspace", "--lib", "--bins", "--tests", "--no-fail-fast"];
    phase(phases, "cargo test", cargo(&tests), count_cargo)?;
    // Whatever breaks at once; `cargo xtask fuzz` goes on for longer.
    let mut fuzz = Command::new(std::env::current_exe()?);
    fuzz.args(["fuzz", "--seconds", "5"]);
    phase(phases, "fuzz", fuzz, no_tests)?;
    Ok(())
}

fn end_to_end(phases: &mut Vec<Phase>, options: &Options) -> Result<()> {
    let ekstra = workspace::ekstra()?;
    let mut components = Command::new(&ekstra);
    components.args(["components", "ensure"]);
    let python = python::environment("e2e-venv", "tests/e2e/requirements.txt")?;
    if !phase(phases, "components", components, no_tests)? {
        return Ok(());
    }
    let mut pytest = Command::new(python);
    pytest.args(["-m", "pytest", "-q", "--tb=short"]);
    pytest.current_dir(workspace::root().join("tests/e2e"));
    pytest.env("EKSTRA_BIN", &ekstra).env("E2E_SDK_CLIENT", ekstra.with_file_name("ekstra-sdk-client"));
    pytest.env("PYTHONDONTWRITEBYTECODE", "1").env("PYTHONUNBUFFERED", "1");
    for (variable, wanted) in [
        ("E2E_FAULTS", options.faults),
        ("E2E_LONG", options.faults),
        ("E2E_ALL_VERSIONS", options.all_versions),
    ] {
        if wanted {
            pytest.env(variable, "1");
        }
    }
    if let Some(expression) = &options.select {
        pytest.args(["-k", expression]);
    }
    phase(phases, "end to end", pytest, count_pytest)?;
    Ok(())
}

fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(workspace::root());
    command
}

/// Runs one, showing what it says, and records how it went.
fn phase(
    phases: &mut Vec<Phase>,
    name: &'static str,
    mut command: Command,
    count: fn(&str) -> Count,
) -> Result<bool> {
    println!("== {name}");
    let started = Instant::now();
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("{command:?}"))?;
    let output = child.stdout.take().context("the output is piped")?;
    let mut total = Count::default();
    let mut stdout = std::io::stdout();
    for line in BufReader::new(output).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        writeln!(stdout, "{line}")?;
        let more = count(&line);
        total.passed += more.passed;
        total.failed += more.failed;
    }
    let succeeded = child.wait()?.success();
    let took = started.elapsed();
    println!("== {name}: {}, {:.1} min", if succeeded { "ok" } else { "FAILED" }, minutes(took));
    phases.push(Phase { name, took, succeeded, count: total });
    Ok(succeeded)
}

fn minutes(duration: Duration) -> f64 {
    duration.as_secs_f64() / 60.0
}

fn no_tests(_: &str) -> Count {
    Count::default()
}

/// `test result: ok. 12 passed; 0 failed; …`
fn count_cargo(line: &str) -> Count {
    if !line.starts_with("test result: ") {
        return Count::default();
    }
    let words: Vec<&str> = line.split([' ', ';']).filter(|w| !w.is_empty()).collect();
    Count { passed: before(&words, "passed"), failed: before(&words, "failed") }
}

/// `=== 1 failed, 21 passed, 2 skipped, 1 error in 96.53s (0:01:36) ===`. An expected failure is neither.
fn count_pytest(line: &str) -> Count {
    let words: Vec<&str> = line.split([' ', ',', '=']).filter(|w| !w.is_empty()).collect();
    let summary = words.windows(2).any(|w| w[0] == "in" && w[1].ends_with('s'));
    if !summary || words.first().is_none_or(|w| w.parse::<u64>().is_err()) {
        return Count::default();
    }
    let errors = before(&words, "error") + before(&words, "errors");
    Count { passed: before(&words, "passed"), failed: before(&words, "failed") + errors }
}

/// The number before a word.
fn before(words: &[&str], word: &str) -> u64 {
    words.windows(2).find(|w| w[1] == word).and_then(|w| w[0].parse().ok()).unwrap_or(0)
}

/// A failed phase that names no failed test counts as one failure.
fn report(phases: &[Phase], skipped: bool) -> Result<()> {
    println!("\n{:<12} {:>8} {:>8} {:>8}", "phase", "minutes", "passed", "failed");
    let mut total = Count::default();
    for phase in phases {
        let failed = phase.count.failed.max(u64::from(!phase.succeeded));
        println!("{:<12} {:>8.1} {:>8} {:>8}", phase.name, minutes(phase.took), phase.count.passed, failed);
        total.passed += phase.count.passed;
        total.failed += failed;
    }
    let all: Duration = phases.iter().map(|p| p.took).sum();
    println!("{:<12} {:>8.1}", "all", minutes(all));
    if skipped {
        println!("end to end: not run, since nothing was built");
    }
    println!("{} passed, {} failed", total.passed, total.failed);
    std::io::stdout().flush()?;
    if total.failed > 0 {
        std::process::exit(1);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_s_results_are_counted() {
        let line =
            "test result: ok. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        assert_eq!(count_cargo(line), Count { passed: 12, failed: 3 });
        assert_eq!(count_cargo("test passed; fine"), Count::default());
    }

    #[test]
    fn pytest_s_results_are_counted() {
        let line = "======= 2 failed, 21 passed, 1 skipped, 3 errors in 96.53s (0:01:36) =======";
        assert_eq!(count_pytest(line), Count { passed: 21, failed: 5 });
        assert_eq!(count_pytest("5 passed, 1 xfailed in 0.25s"), Count { passed: 5, failed: 0 });
        assert_eq!(count_pytest("FAILED test_a.py::b - not within 5 s"), Count::default());
    }

    #[test]
    fn arguments() {
        let args = |list: &[&str]| parse(&list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        assert_eq!(
            args(&["--fast", "-k", "dns"]).expect("parses"),
            Options { fast: true, select: Some("dns".into()), ..Options::default() }
        );
        assert!(args(&["--slow"]).is_err());
        assert!(args(&["-k"]).is_err());
    }
}

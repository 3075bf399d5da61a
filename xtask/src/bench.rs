//! `cargo xtask bench [--components-cold] [--only front-door|clusters] [--rounds N]`: how fast and how large, as a table and
//! as `target/bench.json`.
//!
//! Invariant: everything is measured from outside, through the AWS API, kubectl and /proc, by a service of its own that
//! is gone afterwards with its home, also after Ctrl-C and SIGTERM. Goals (`design.md` §8, and of the issue that asked for the figure) stand beside the figures; missing one is shown, not an error.

use crate::workspace;
use anyhow::{Context, Result, bail};
use std::process::Command;
use std::time::Instant;
use tokio::signal::unix::{SignalKind, signal};

mod aws;
mod clusters;
mod figure;
mod front_door;
mod machine;
mod moto;
mod service;
mod workloads;

use figure::Figure;

const REGION: &str = "us-east-1";

/// What `cargo xtask bench` was asked for.
struct Options {
    components_cold: bool,
    front_door: bool,
    clusters: bool,
    rounds: usize,
}

/// The entry point of the chore.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let options = parse(args)?;
    build()?;
    let mut figures = Vec::new();
    if options.components_cold {
        figures.push(components_cold()?);
    }
    ensure_components()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // Whichever ends first drops the other, and with it what it has started.
        tokio::select! {
            measured = measure(&options, &mut figures) => measured,
            told = told_to_end() => told,
        }
    })?;
    figure::show(&figures);
    figure::write(&figures)
}

async fn measure(options: &Options, figures: &mut Vec<Figure>) -> Result<()> {
    if options.front_door {
        front_door::measure(figures, options.rounds).await?;
    }
    if options.clusters {
        clusters::measure(figures, options.rounds).await?;
    }
    Ok(())
}

/// By the terminal or by a time limit. A process that dies of the signal drops nothing, and its service lived on.
async fn told_to_end() -> Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => bail!("interrupted"),
        _ = terminate.recv() => bail!("terminated"),
    }
}

fn parse(args: &[String]) -> Result<Options> {
    let mut options = Options { components_cold: false, front_door: true, clusters: true, rounds: 5 };
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        match arg.as_str() {
            "--components-cold" => options.components_cold = true,
            "--only" => match rest.next().map(String::as_str) {
                Some("front-door") => options.clusters = false,
                Some("clusters") => options.front_door = false,
                _ => bail!("--only: front-door or clusters"),
            },
            "--rounds" => {
                options.rounds = rest.next().and_then(|n| n.parse().ok()).context("--rounds: a number")?;
            }
            other => {
                bail!("bench: unknown argument {other:?}; expected --components-cold, --only or --rounds N")
            }
        }
    }
    Ok(options)
}

fn build() -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--release", "--quiet", "-p", "ekstra"]).current_dir(workspace::root());
    service::succeed(&mut command)
}

fn ensure_components() -> Result<()> {
    service::succeed(Command::new(workspace::ekstra()?).args(["components", "ensure"]))
}

/// Everything built from nothing, the Go toolchain's own cache included; modules are downloaded already.
fn components_cold() -> Result<Figure> {
    let cache = tempfile::tempdir_in("/var/tmp")?;
    let started = Instant::now();
    let mut command = Command::new(workspace::ekstra()?);
    command.args(["components", "ensure"]);
    command.env("EKSTRA_CACHE", cache.path().join("ekstra")).env("GOCACHE", cache.path().join("go"));
    service::succeed(&mut command)?;
    let samples = vec![started.elapsed().as_secs_f64() / 60.0];
    Ok(Figure::new("components, cold", "min", samples))
}

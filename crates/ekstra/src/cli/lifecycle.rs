//! `serve|start|stop|status`: the life of the service.

use super::components::Prebuilt;
use super::words::Region;
use crate::client::Client;
use crate::gate_keeper::GATE;
use crate::home::Home;
use crate::serve::Options;
use crate::takedown::take_down;
use anyhow::{Context, Result, bail};
use clap::Args;
use ekstra_host::{ChildId, ChildStatus, Host, LinuxHost};
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A stop that was interrupted is finished first, which takes seconds.
const START_PATIENCE: Duration = Duration::from_secs(40);

#[derive(Debug, Args)]
pub(super) struct Serve {
    /// Port of the AWS endpoint, at the first start [default: 4566, or the next that no other home has]
    #[arg(long = "listen", env = "EKSTRA_LISTEN", value_parser = parse_listen)]
    listen: Option<u16>,
    /// The region of requests that name none
    #[command(flatten)]
    region: Region,
    /// Seconds that a node has to be drained before it is terminated all the same [default: 900]
    #[arg(long, env = "EKSTRA_DRAIN_LIMIT")]
    drain_limit: Option<i64>,
    #[command(flatten)]
    components: Prebuilt,
}

/// A port, or 127.0.0.1:port.
fn parse_listen(text: &str) -> Result<u16, String> {
    let port = text.strip_prefix("127.0.0.1:").or_else(|| text.strip_prefix("localhost:")).unwrap_or(text);
    port.parse().map_err(|_| format!("{text} is not a port, such as 4566 or 127.0.0.1:4566"))
}

impl Serve {
    pub(super) fn options(self, home: Home) -> Result<Options> {
        Ok(Options {
            home,
            listen: self.listen,
            region: self.region.region,
            drain_limit_seconds: self.drain_limit,
            components: self.components.checked()?,
        })
    }
}

#[derive(Debug, Args)]
pub(super) struct Start {
    #[command(flatten)]
    components: Prebuilt,
}

impl Start {
    pub(super) async fn run(self, home: &Home) -> Result<()> {
        ensure_service(home, self.components.checked()?.as_deref()).await?;
        status(home).await.map(drop)
    }
}

/// The version of the service that answers for this home.
async fn running(home: &Home) -> Option<String> {
    let settings = home.settings()?;
    let (version, root) = Client::health(&format!("127.0.0.1:{}", settings.port)).await?;
    (root == home.root.display().to_string()).then_some(version)
}

/// For commands about what there is already: they make no home.
pub(super) async fn ensure_known_service(home: &Home) -> Result<()> {
    home.known()?;
    ensure_service(home, None).await
}

/// Starts the service unless it answers; tells when it is older than this program. `components` is for a service that
/// is started now.
pub(super) async fn ensure_service(home: &Home, components: Option<&Path>) -> Result<()> {
    if let Some(version) = running(home).await {
        if version != env!("CARGO_PKG_VERSION") {
            eprintln!(
                "note: the service is ekstra {version}, this is {}; `ekstra stop && ekstra start` upgrades it, clusters go on",
                env!("CARGO_PKG_VERSION")
            );
        }
        return Ok(());
    }
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "the service needs root for network namespaces and nodes; start it with `sudo -E {} start`",
            own_name()
        );
    }
    home.create()?;
    home.install_program()?;
    let log = fs::OpenOptions::new().create(true).append(true).open(home.log("serve"))?;
    let mut command = Command::new(home.program());
    command.arg("--home").arg(&home.root).arg("serve").stdin(Stdio::null());
    if let Some(components) = components {
        command.arg("--components").arg(components);
    }
    command.stdout(log.try_clone()?).stderr(log).process_group(0);
    let mut child = command.spawn().with_context(|| home.program().display().to_string())?;
    let deadline = Instant::now() + START_PATIENCE;
    loop {
        if running(home).await.is_some() {
            return Ok(());
        }
        // Another command's may have been first; then that one is waited for.
        if let Some(status) = child.try_wait()?
            && home.serving_process()?.is_none()
        {
            bail!("the service did not start ({status}): {}", last_line(home));
        }
        if Instant::now() > deadline {
            bail!("the service does not answer after {} s; see `ekstra logs`", START_PATIENCE.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
}

fn own_name() -> String {
    std::env::current_exe().map(|p| p.display().to_string()).unwrap_or_else(|_| "ekstra".into())
}

fn last_line(home: &Home) -> String {
    let log = fs::read_to_string(home.log("serve")).unwrap_or_default();
    log.lines().last().unwrap_or_default().trim_start_matches("ekstra: ").to_owned()
}

pub(super) async fn stop(home: &Home, all: bool) -> Result<()> {
    if !home.root.exists() {
        bail!("no service has been started in {}", home.root.display());
    }
    if let Some(pid) = home.serving_process()? {
        let process = nix::unistd::Pid::from_raw(pid);
        nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGTERM)?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while nix::sys::signal::kill(process, None).is_ok() && !is_zombie(pid) {
            if Instant::now() > deadline {
                bail!("the service (pid {pid}) does not end");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    if !all {
        println!("stopped; clusters go on running (`ekstra stop --all` ends them too)");
        return Ok(());
    }
    let Some(settings) = home.settings() else {
        return Ok(());
    };
    let names = home.names(&settings);
    let host = LinuxHost::new(names, home.path("run"), home.program())?;
    let _lock = home.lock_to_stop()?;
    take_down(home, &host, &settings)?;
    println!("stopped, with every cluster; `ekstra start` brings them back");
    Ok(())
}

fn is_zombie(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z'))
}

pub(super) async fn status(home: &Home) -> Result<i32> {
    let Some(settings) = home.settings() else {
        println!("no service has been started in {}", home.root.display());
        return Ok(3);
    };
    let Some(version) = running(home).await else {
        println!("the service in {} does not run; `ekstra start` starts it", home.root.display());
        return Ok(3);
    };
    println!("ekstra {version} serves {}", home.root.display());
    println!("endpoint  http://127.0.0.1:{port}  http://{}:{port}", settings.address, port = settings.port);
    let host = LinuxHost::new(home.names(&settings), home.path("run"), home.program())?;
    let running = |id: &ChildId| matches!(host.child_status(id), Ok(ChildStatus::Running(_)));
    let children = host.children()?;
    let count = |prefix: &str| children.iter().filter(|id| id.0.starts_with(prefix) && running(id)).count();
    println!("gate      {}", if running(&ChildId(GATE.into())) { "running" } else { "not running" });
    println!("running   {} control plane processes, {} instances", count("cp-"), count("i-"));
    Ok(0)
}

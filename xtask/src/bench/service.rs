//! A service in a home of its own, ended and removed when dropped.

use super::aws::Aws;
use super::{REGION, machine};
use crate::workspace;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fs;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const NODES_PATIENCE: Duration = Duration::from_secs(120);

pub(super) struct Service {
    home: TempDir,
    program: PathBuf,
    port: u16,
}

impl Service {
    /// With an empty home; not started.
    pub(super) fn new() -> Result<Self> {
        let home = tempfile::Builder::new().prefix("ekb").tempdir_in("/tmp")?;
        Ok(Self { home, program: workspace::ekstra()?, port: free_port()? })
    }

    pub(super) async fn start() -> Result<Self> {
        let service = Self::new()?;
        service.ekstra(&["start"]).await?;
        Ok(service)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--home").arg(self.home.path()).args(args);
        command.env("EKSTRA_LISTEN", self.port.to_string()).env("EKSTRA_DRAIN_LIMIT", "5");
        command
            .stdin(Stdio::null())
            .env("KUBECONFIG", self.path("bench-kubeconfig"))
            .env("AWS_REGION", REGION);
        command
    }

    pub(super) async fn ekstra(&self, args: &[&str]) -> Result<String> {
        let mut command = tokio::process::Command::from(self.command(args));
        command.kill_on_drop(true);
        let output = command.output().await.with_context(|| format!("{command:?}"))?;
        if !output.status.success() {
            bail!("{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Through the service's own command, which becomes it.
    pub(super) async fn kubectl(&self, args: &[&str]) -> Result<String> {
        let mut all = vec!["kubectl"];
        all.extend(args);
        self.ekstra(&all).await
    }

    /// With the credentials of its home, which may do everything.
    pub(super) fn aws(&self) -> Result<Aws> {
        let stored: Value = serde_json::from_slice(&fs::read(self.path("credentials.json"))?)?;
        let text = |name: &str| stored[name].as_str().map(str::to_owned).context("credentials.json");
        Ok(Aws::new(self.port, text("access_key_id")?, text("secret_access_key")?, text("account")?))
    }

    /// Its two processes: of the API, and of the data side.
    pub(super) fn processes(&self) -> Result<Vec<u32>> {
        let home = self.home.path().to_string_lossy();
        let own = |what| machine::processes_like(&["--home", &home, what]);
        let found = [own("serve")?, own("gate")?].concat();
        if found.len() != 2 {
            bail!("the service is not two processes, but {found:?}")
        }
        Ok(found)
    }

    /// Until so many nodes of a group are Ready.
    pub(super) async fn wait_nodes(&self, group: &str, number: usize) -> Result<()> {
        let selector = format!("eks.amazonaws.com/nodegroup={group}");
        let ready = r#"jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}"#;
        let deadline = Instant::now() + NODES_PATIENCE;
        loop {
            let seen = self.kubectl(&["get", "nodes", "-l", &selector, "-o", ready]).await?;
            if seen.split_whitespace().filter(|s| *s == "True").count() == number {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{group}: {number} nodes are not Ready; last seen: {seen:?}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The control groups of the children: of the control plane's processes and of the nodes.
    pub(super) fn groups(&self) -> Result<Vec<PathBuf>> {
        let settings: Value = serde_json::from_slice(&fs::read(self.path("service.json"))?)?;
        let id = settings["home_id"].as_str().context("service.json: home_id")?;
        let one = |root: &str| Path::new(root).join(format!("ekstra-{id}"));
        // Version 1 has a hierarchy a controller; the same groups are in each.
        let all = [one("/sys/fs/cgroup"), one("/sys/fs/cgroup/pids")];
        let own = all.iter().find(|p| p.exists()).context("no control group of the service")?;
        let mut groups = Vec::new();
        for entry in fs::read_dir(own)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type()?.is_dir() && (name.starts_with("i-") || name.starts_with("cp-")) {
                groups.push(entry.path());
            }
        }
        Ok(groups)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Not in the terminal's process group: another Ctrl-C does not end it.
        let mut command = self.command(&["stop", "--all"]);
        if let Err(error) = succeed(command.stdout(Stdio::null()).process_group(0)) {
            self.home.disable_cleanup(true);
            eprintln!(
                "the service of the benchmark may be left in {}: {error:#}",
                self.home.path().display()
            );
        }
    }
}

/// With a free successor, which becomes the registry's.
pub(super) fn free_port() -> Result<u16> {
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    (15_566..16_400).step_by(10).find(|p| free(*p) && free(*p + 1)).context("no free port")
}

/// Shows what it says.
pub(super) fn succeed(command: &mut Command) -> Result<()> {
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("{command:?}"))?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}

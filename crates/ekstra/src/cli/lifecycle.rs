//! `serve|start|stop|status|env|doctor|logs|token`.

use crate::client::Client;
use crate::credentials::StoredCredentials;
use crate::gate_keeper::GATE;
use crate::home::Home;
use crate::serve::Options;
use crate::takedown::take_down;
use anyhow::{Context, Result, bail};
use clap::Args;
use ekstra_host::{ChildId, ChildStatus, Host, LinuxHost};
use ekstra_wire::sigv4;
use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A stop that was interrupted is finished first, which takes seconds.
const START_PATIENCE: Duration = Duration::from_secs(40);

#[derive(Debug, Args)]
pub(super) struct Serve {
    /// Port of the AWS endpoint, at the first start [default: 4566, or the next that no other home has]
    #[arg(long = "listen", env = "EKSTRA_LISTEN", value_parser = parse_listen)]
    listen: Option<u16>,
    /// The region of requests that name none
    #[arg(long, env = "AWS_REGION", default_value = ekstra_domain::names::DEFAULT_REGION)]
    region: String,
    /// Seconds that a node has to be drained before it is terminated all the same [default: 900]
    #[arg(long, env = "EKSTRA_DRAIN_LIMIT")]
    drain_limit: Option<i64>,
}

/// A port, or 127.0.0.1:port.
fn parse_listen(text: &str) -> Result<u16, String> {
    let port = text.strip_prefix("127.0.0.1:").or_else(|| text.strip_prefix("localhost:")).unwrap_or(text);
    port.parse().map_err(|_| format!("{text} is not a port, such as 4566 or 127.0.0.1:4566"))
}

impl Serve {
    pub(super) fn options(self, home: Home) -> Options {
        Options { home, listen: self.listen, region: self.region, drain_limit_seconds: self.drain_limit }
    }
}

#[derive(Debug, Args)]
pub(super) struct Start {}

impl Start {
    pub(super) async fn run(self, home: &Home) -> Result<()> {
        ensure_service(home).await?;
        status(home).await.map(drop)
    }
}

/// The version of the service that answers for this home.
async fn running(home: &Home) -> Option<String> {
    let settings = home.settings()?;
    let (version, root) = Client::health(&format!("127.0.0.1:{}", settings.port)).await?;
    (root == home.root.display().to_string()).then_some(version)
}

/// Starts the service unless it answers; tells when it is older than this program.
pub(super) async fn ensure_service(home: &Home) -> Result<()> {
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

pub(super) fn env(home: &Home) -> Result<()> {
    let settings = home.settings().context("no service has been started in this home; run `ekstra start`")?;
    let stored = StoredCredentials::load(home)?;
    let no_proxy = std::env::var("NO_PROXY").unwrap_or_default();
    let mut hosts: Vec<String> = no_proxy.split(',').filter(|h| !h.is_empty()).map(str::to_owned).collect();
    for own in ["127.0.0.1".to_owned(), "localhost".to_owned(), settings.address.to_string()] {
        if !hosts.contains(&own) {
            hosts.push(own);
        }
    }
    let hosts = hosts.join(",");
    let mut out = std::io::stdout().lock();
    writeln!(out, "export AWS_ENDPOINT_URL=http://127.0.0.1:{}", settings.port)?;
    writeln!(out, "export AWS_ACCESS_KEY_ID={}", stored.access_key_id)?;
    writeln!(out, "export AWS_SECRET_ACCESS_KEY={}", stored.secret_access_key)?;
    writeln!(out, "unset AWS_SESSION_TOKEN AWS_PROFILE")?;
    writeln!(out, "export AWS_REGION={0} AWS_DEFAULT_REGION={0}", settings.region)?;
    writeln!(out, "export NO_PROXY={hosts} no_proxy={hosts}")?;
    Ok(())
}

pub(super) fn doctor() -> Result<i32> {
    let tools = [
        ("ip", "iproute2", "networks"),
        ("nft", "nftables", "firewall and NAT of VPCs"),
        ("mkfs.ext4", "e2fsprogs", "instance disks"),
        ("mount", "mount", "instance disks"),
        ("mmdebstrap", "mmdebstrap", "the node image"),
        ("go", "Go 1.26 from go.dev", "building the components"),
        ("gcc", "gcc libc6-dev", "building runc"),
        ("pkg-config", "pkg-config libseccomp-dev", "building runc"),
    ];
    let mut missing = 0;
    for (tool, package, purpose) in tools {
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
        let found = std::env::split_paths(&path).map(|d| d.join(tool)).find(|p| p.exists());
        match found {
            Some(path) => println!("ok       {tool:<11} {}", path.display()),
            None => {
                missing += 1;
                println!("missing  {tool:<11} needed for {purpose}; Debian: apt-get install {package}");
            }
        }
    }
    if !nix::unistd::geteuid().is_root() {
        missing += 1;
        println!("missing  root        needed for nodes; run with sudo");
    }
    Ok(i32::from(missing > 0))
}

pub(super) fn logs(home: &Home, name: &str) -> Result<()> {
    let entries = fs::read_dir(home.path("logs")).context("no service has been started in this home")?;
    let mut files: Vec<_> = entries.flatten().map(|e| e.path()).collect();
    files.sort();
    let matches =
        |p: &std::path::PathBuf| p.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with(name));
    let found: Vec<_> = files.iter().filter(|p| matches(p)).collect();
    if found.is_empty() {
        let names: Vec<_> = files.iter().filter_map(|p| p.file_stem()?.to_str()).collect();
        bail!("no log begins with {name}; there is {}", names.join(", "));
    }
    for path in found {
        std::io::copy(&mut fs::File::open(path)?, &mut std::io::stdout().lock())?;
    }
    Ok(())
}

/// The exec plugin of kubeconfigs; needs the home and nothing else, so it works when the service is down.
pub(super) fn token(home: &Home, cluster: &str, region: &str) -> Result<()> {
    let stored = StoredCredentials::load(home)?;
    let settings = home.settings().context("the home has no settings")?;
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?;
    let endpoint = format!("https://{}:{}", settings.address, settings.port);
    let token = sigv4::make_eks_token(&stored.signing(), region, &endpoint, cluster, now);
    let expires = ekstra_wire::iso8601((now + 14 * 60) * 1000);
    println!(
        "{}",
        serde_json::json!({
            "apiVersion": "client.authentication.k8s.io/v1",
            "kind": "ExecCredential",
            "spec": {"interactive": false},
            "status": {"token": token, "expirationTimestamp": expires},
        })
    );
    Ok(())
}

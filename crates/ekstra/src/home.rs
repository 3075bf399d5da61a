//! The home: one directory with all state of one service, and the facts that were decided at its first start.
//!
//! Invariant: what several services of one machine could quarrel about (id, address, ports, transit range) is chosen
//! under one lock, against what the other homes have.

use anyhow::{Context, Result, bail};
use ekstra_cloud::Settings;
use ekstra_domain::iam::MasterKey;
use ekstra_domain::prefix::Prefix;
use ekstra_engine::Env;
use ekstra_host::Names;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// LocalStack's port, which people's configurations already name.
const FIRST_PORT: u16 = 4566;
/// Below Linux's range of ephemeral ports, a thousand for each home.
const FIRST_CLUSTER_PORT: u16 = 16_443;
/// As many homes as fit under the ephemeral ports.
const MOST_HOMES: u16 = 16;
const REGISTRY: &str = "homes.json";

#[derive(Clone, Debug)]
pub(crate) struct Home {
    pub(crate) root: PathBuf,
}

/// What each home of the machine has taken.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Claim {
    home: PathBuf,
    settings: Settings,
}

impl Home {
    /// `--home`, `EKSTRA_HOME`, or `~/.ekstra`.
    pub(crate) fn locate(given: Option<PathBuf>) -> Result<Self> {
        let root = match given {
            Some(path) => std::path::absolute(path)?,
            None => user_home()?.join(".ekstra"),
        };
        // UNIX socket paths end at 108 bytes.
        if root.as_os_str().len() > 70 {
            bail!(
                "the home {} is too long a path; choose one under 70 characters with --home",
                root.display()
            );
        }
        Ok(Self { root })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(crate) fn state_file(&self) -> PathBuf {
        self.path("state.db")
    }

    /// The copy of the program that children and kubeconfigs name, wherever it was started from.
    pub(crate) fn program(&self) -> PathBuf {
        self.path("bin/ekstra")
    }

    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.path("logs").join(format!("{name}.log"))
    }

    pub(crate) fn create(&self) -> Result<()> {
        for directory in ["", "bin", "logs", "run", "images"] {
            let path = self.root.join(directory);
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
            made.with_context(|| format!("the home {} cannot be made", path.display()))?;
        }
        // Also when somebody made it before: secrets lie in it.
        fs::set_permissions(&self.root, fs::Permissions::from_mode(0o700))?;
        Ok(())
    }

    pub(crate) fn settings(&self) -> Option<Settings> {
        serde_json::from_slice(&fs::read(self.path("service.json")).ok()?).ok()
    }

    /// The settings of an earlier start, or new ones.
    pub(crate) fn settle(&self, env: &Env, listen: Option<u16>, region: &str) -> Result<Settings> {
        if let Some(settings) = self.settings() {
            if let Some(port) = listen.filter(|port| *port != settings.port) {
                let now = settings.port;
                bail!(
                    "this home has listened on port {now} since its first start; unset EKSTRA_LISTEN={port}, or use another home"
                );
            }
            return Ok(settings);
        }
        let directory = registry_directory()?;
        let lock = fs::OpenOptions::new().create(true).append(true).open(directory.join("lock"))?;
        let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
        let path = directory.join(REGISTRY);
        let mut claims: Vec<Claim> =
            fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        claims.retain(|claim| claim.home.join("service.json").exists() && claim.home != self.root);
        let taken: Vec<&Settings> = claims.iter().map(|c| &c.settings).collect();
        let settings = choose(env, &taken, listen, region)?;
        write_private(&self.path("service.json"), &serde_json::to_vec_pretty(&settings)?)?;
        claims.push(Claim { home: self.root.clone(), settings: settings.clone() });
        write_private(&path, &serde_json::to_vec_pretty(&claims)?)?;
        Ok(settings)
    }

    pub(crate) fn names(&self, settings: &Settings) -> Names {
        Names { home_id: settings.home_id.clone() }
    }

    /// 32 random bytes from which session credentials follow; made once.
    pub(crate) fn master_key(&self, env: &Env) -> Result<MasterKey> {
        let path = self.path("master.key");
        if !path.exists() {
            write_private(&path, &env.random_bytes(32))?;
        }
        let bytes = fs::read(&path)?;
        let key = bytes.try_into().map_err(|_| anyhow::anyhow!("{} is damaged", path.display()))?;
        Ok(MasterKey(key))
    }

    /// Copies the running program into the home, if it is another one.
    pub(crate) fn install_program(&self) -> Result<()> {
        let own = std::env::current_exe()?;
        let target = self.program();
        if own == target || same_content(&own, &target) {
            return Ok(());
        }
        let partial = target.with_extension("partial");
        fs::copy(&own, &partial)?;
        // A running program cannot be written to, but its name can be given to another file.
        Ok(fs::rename(&partial, &target)?)
    }

    /// Held by `serve` while it runs; names its process.
    pub(crate) fn lock(&self) -> Result<Flock<fs::File>> {
        let mut lock = self.try_lock()?.with_context(|| {
            format!("a service already runs in {}; `ekstra status` shows it", self.root.display())
        })?;
        lock.set_len(0)?;
        write!(lock, "{}", std::process::id())?;
        Ok(lock)
    }

    /// The process that holds the lock.
    pub(crate) fn serving_process(&self) -> Result<Option<i32>> {
        if self.try_lock()?.is_some() {
            return Ok(None);
        }
        let text = fs::read_to_string(self.path("serve.lock"))?;
        Ok(Some(text.trim().parse().context("the service's lock names no process")?))
    }

    fn try_lock(&self) -> Result<Option<Flock<fs::File>>> {
        let file = fs::OpenOptions::new().create(true).append(true).open(self.path("serve.lock"))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(lock)),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, errno)) => Err(errno.into()),
        }
    }
}

fn user_home() -> Result<PathBuf> {
    std::env::var_os("HOME").map(PathBuf::from).context("HOME is not set; say --home DIR")
}

fn same_content(a: &Path, b: &Path) -> bool {
    let length = |p: &Path| fs::metadata(p).map(|m| m.len()).ok();
    length(a).is_some() && length(a) == length(b) && fs::read(a).ok() == fs::read(b).ok()
}

/// Shared by all homes of the machine, or of the user where there is no root.
pub(crate) fn registry_directory() -> Result<PathBuf> {
    let directory = if nix::unistd::geteuid().is_root() {
        PathBuf::from("/var/lib/ekstra")
    } else {
        user_home()?.join(".local/state/ekstra")
    };
    fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
    Ok(directory)
}

/// What the uplinks of all homes have their addresses of, a /24 each.
pub(crate) fn transits() -> Prefix {
    Prefix::new(Ipv4Addr::new(198, 18, 0, 0), 20)
}

fn choose(env: &Env, taken: &[&Settings], listen: Option<u16>, region: &str) -> Result<Settings> {
    let home_id = loop {
        let id = env.hex(2);
        if !taken.iter().any(|s| s.home_id == id) {
            break id;
        }
    };
    let number = (0..MOST_HOMES)
        .find(|n| !taken.iter().any(|s| s.first_cluster_port == FIRST_CLUSTER_PORT + 1000 * n))
        .context("there are 16 homes on this machine already; delete one")?;
    let port = listen.unwrap_or(FIRST_PORT + 10 * number);
    if let Some(other) = taken.iter().find(|s| s.port == port) {
        bail!(
            "port {port} belongs to the service with id {}; set EKSTRA_LISTEN to another port",
            other.home_id
        );
    }
    // A port that is taken now would be this home's for ever.
    std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).with_context(|| port_in_use(port))?;
    // 198.18.0.0/15 is for benchmarks of network devices (RFC 2544): nobody routes it.
    let transit = Prefix::new(Ipv4Addr::new(198, 18, u8::try_from(number)?, 0), 24);
    Ok(Settings {
        home_id,
        address: Ipv4Addr::new(169, 254, 80, u8::try_from(number)? + 1),
        port,
        registry_port: port + 1,
        first_cluster_port: FIRST_CLUSTER_PORT + 1000 * number,
        transit,
        mtu: uplink_mtu(),
        region: region.to_owned(),
    })
}

pub(crate) fn port_in_use(port: u16) -> String {
    format!("port {port} is in use by another program; set EKSTRA_LISTEN to a free port")
}

/// Of the link with the default route, at most Ethernet's.
fn uplink_mtu() -> u32 {
    let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let default = routes.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace();
        let (device, destination) = (fields.next()?, fields.next()?);
        (destination == "00000000").then(|| device.to_owned())
    });
    let mtu = default.and_then(|d| fs::read_to_string(format!("/sys/class/net/{d}/mtu")).ok());
    mtu.and_then(|m| m.trim().parse::<u32>().ok()).unwrap_or(1500).min(1500)
}

/// Readable by the owner only, whole or not at all.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> Result<()> {
    let partial = path.with_extension("partial");
    let mut options = fs::OpenOptions::new();
    let mut file = options.create(true).write(true).truncate(true).mode(0o600).open(&partial)?;
    file.write_all(content)?;
    file.sync_data()?;
    fs::rename(&partial, path).with_context(|| path.display().to_string())
}

//! The machine's registry of homes: what several services of one machine could quarrel about (id, address, ports,
//! transit range) is chosen under one lock, against what the other homes have.
//!
//! Invariant: a claim is on disk before the home knows what it has claimed. Killed in between, the home finds its own
//! claim again. A claim goes when its home does.

use super::files::write_private;
use anyhow::{Context, Result, bail};
use ekstra_cloud::Settings;
use ekstra_domain::prefix::Prefix;
use ekstra_engine::Env;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// LocalStack's port, which people's configurations already name.
const FIRST_PORT: u16 = 4566;
/// Below Linux's range of ephemeral ports, a thousand for each home.
const FIRST_CLUSTER_PORT: u16 = 16_443;
/// As many homes as fit under the ephemeral ports.
const MOST_HOMES: u16 = 16;

/// What each home of the machine has taken.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Claim {
    home: PathBuf,
    settings: Settings,
}

/// What a home wants at its first start.
pub(crate) struct Wish<'a> {
    pub(crate) env: &'a Env,
    pub(crate) listen: Option<u16>,
    pub(crate) region: &'a str,
    pub(crate) rootless: bool,
}

/// Shared by all homes of the machine, or of the user where there is no root.
pub(crate) fn directory() -> Result<PathBuf> {
    if nix::unistd::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/ekstra"));
    }
    let given = std::env::var_os("XDG_STATE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    let state = match given {
        Some(path) => path,
        None => super::user_home()
            .context("homes without root are counted in XDG_STATE_HOME or ~/.local/state; set either")?
            .join(".local/state"),
    };
    Ok(state.join("ekstra"))
}

/// What the uplinks of all homes have their addresses of, a /24 each.
pub(crate) fn transits() -> Prefix {
    Prefix::new(Ipv4Addr::new(198, 18, 0, 0), 20)
}

/// Makes the registry agree with what the home has (`known`), or claims what it shall have.
pub(super) fn claim(
    directory: &Path,
    root: &Path,
    known: Option<Settings>,
    wish: &Wish<'_>,
) -> Result<Settings> {
    fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    let lock = fs::OpenOptions::new().create(true).append(true).open(directory.join("lock"))?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
    let path = directory.join("homes.json");
    let mut claims = read(&path)?;
    // A home may be reached by several names.
    let root = fs::canonicalize(root).with_context(|| root.display().to_string())?;
    let is_own = |claim: &Claim| fs::canonicalize(&claim.home).is_ok_and(|home| home == root);
    let own = claims.iter().position(is_own).map(|at| claims.remove(at));
    claims.retain(|claim| claim.home.is_dir());
    let taken: Vec<&Settings> = claims.iter().map(|claim| &claim.settings).collect();
    let settings = match known.or(own.map(|claim| claim.settings)) {
        Some(settings) => settings,
        None => choose(&taken, wish)?,
    };
    if let Some(other) = claims.iter().find(|claim| collides(&claim.settings, &settings)) {
        bail!(
            "this home and {} have the same ports or networks, as a copied home has; delete one of the two",
            other.home.display()
        );
    }
    claims.push(Claim { home: root, settings: settings.clone() });
    write_private(&path, &serde_json::to_vec_pretty(&claims)?)?;
    Ok(settings)
}

fn read(path: &Path) -> Result<Vec<Claim>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    serde_json::from_slice(&bytes).map_err(|error| {
        anyhow::anyhow!(
            "{} is damaged ({error}): remove it, then start the service of each home that has been used before any new one",
            path.display()
        )
    })
}

fn collides(a: &Settings, b: &Settings) -> bool {
    a.home_id == b.home_id
        || a.port == b.port
        || (a.address == b.address && !a.rootless)
        || a.first_cluster_port == b.first_cluster_port
        || a.transit == b.transit
}

fn choose(taken: &[&Settings], wish: &Wish<'_>) -> Result<Settings> {
    let home_id = loop {
        let id = wish.env.hex(2);
        if !taken.iter().any(|s| s.home_id == id) {
            break id;
        }
    };
    let is_free = |number: &u16| {
        let first = FIRST_CLUSTER_PORT + 1000 * number;
        !taken.iter().any(|s| s.first_cluster_port == first)
            // Homes of other users are in registries that this one does not see.
            && is_unused(first).is_ok()
            && (!wish.rootless || is_unused(FIRST_PORT + 10 * number).is_ok())
    };
    let number =
        (0..MOST_HOMES).find(is_free).context("there are 16 homes on this machine already; delete one")?;
    let port = wish.listen.unwrap_or(FIRST_PORT + 10 * number);
    if let Some(other) = taken.iter().find(|s| s.port == port) {
        bail!(
            "port {port} belongs to the service with id {}; set EKSTRA_LISTEN to another port",
            other.home_id
        );
    }
    // A port that is taken now would be this home's for ever.
    is_unused(port)?;
    let number = u8::try_from(number)?;
    Ok(Settings {
        home_id,
        rootless: wish.rootless,
        address: if wish.rootless { Ipv4Addr::LOCALHOST } else { Ipv4Addr::new(169, 254, 80, number + 1) },
        port,
        registry_port: port + 1,
        first_cluster_port: FIRST_CLUSTER_PORT + 1000 * u16::from(number),
        // 198.18.0.0/15 is for benchmarks of network devices (RFC 2544): nobody routes it.
        transit: Prefix::new(Ipv4Addr::new(198, 18, number, 0), 24),
        mtu: uplink_mtu(),
        region: wish.region.to_owned(),
    })
}

fn is_unused(port: u16) -> Result<()> {
    let bound = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    bound.map(drop).with_context(|| super::port_in_use(port))
}

/// Of the uplink, at most Ethernet's.
fn uplink_mtu() -> u32 {
    uplink().map_or(1500, |(_, mtu)| mtu.min(1500))
}

/// The link with the default route, and its MTU.
pub(crate) fn uplink() -> Option<(String, u32)> {
    let routes = fs::read_to_string("/proc/net/route").ok()?;
    let device = routes.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace();
        let (device, destination) = (fields.next()?, fields.next()?);
        (destination == "00000000").then(|| device.to_owned())
    })?;
    let mtu = fs::read_to_string(format!("/sys/class/net/{device}/mtu")).ok()?;
    Some((device, mtu.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Machine {
        directory: tempfile::TempDir,
        env: Env,
    }

    impl Machine {
        fn new() -> Self {
            Self { directory: tempfile::tempdir().expect("tempdir"), env: Env::system() }
        }

        fn home(&self, name: &str) -> PathBuf {
            let path = self.directory.path().join(name);
            fs::create_dir_all(&path).expect("makes");
            path
        }

        fn claim(&self, name: &str, known: Option<Settings>) -> Result<Settings> {
            let free = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("binds");
            let listen = free.local_addr().ok().map(|address| address.port());
            drop(free);
            let wish = Wish { env: &self.env, listen, region: "us-east-1", rootless: false };
            claim(&self.registry(), &self.home(name), known, &wish)
        }

        fn registry(&self) -> PathBuf {
            self.directory.path().join("registry")
        }
    }

    #[test]
    fn a_home_that_was_killed_before_it_knew_finds_its_own_claim() {
        let machine = Machine::new();
        let first = machine.claim("a", None).expect("claims");
        let other = machine.claim("b", None).expect("claims");
        assert!(!collides(&first, &other));
        let again = machine.claim("a", None).expect("finds it");
        assert_eq!((again.home_id, again.port), (first.home_id, first.port));
    }

    #[test]
    fn a_claim_goes_with_its_home_and_comes_back_with_it() {
        let machine = Machine::new();
        let first = machine.claim("a", None).expect("claims");
        fs::remove_dir(machine.home("a")).expect("removes");
        let second = machine.claim("b", None).expect("claims");
        assert_eq!(second.first_cluster_port, first.first_cluster_port, "it is free again");
        let refused = machine.claim("a", Some(first)).expect_err("somebody else has them").to_string();
        assert!(refused.contains("same ports"), "{refused}");
        fs::remove_file(machine.registry().join("homes.json")).expect("removes");
        machine.claim("b", Some(second.clone())).expect("claims what it has");
        assert!(!collides(&machine.claim("c", None).expect("claims"), &second));
    }

    #[test]
    fn a_damaged_registry_is_told_in_one_line_and_left_alone() {
        let machine = Machine::new();
        machine.claim("a", None).expect("claims");
        let path = machine.registry().join("homes.json");
        fs::write(&path, "[{\"home\": 3").expect("writes");
        let told = format!("{:#}", machine.claim("b", None).expect_err("is refused"));
        assert!(told.contains("homes.json is damaged") && !told.contains('\n'), "{told}");
        assert_eq!(fs::read_to_string(&path).expect("reads"), "[{\"home\": 3");
    }
}

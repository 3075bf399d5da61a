//! The home: one directory with all state of one service, and the facts that were decided at its first start.
//!
//! Invariant: whoever changes what the home holds has its lock: `serve` while it runs, or `stop --all` after it.

mod claims;
mod files;

pub(crate) use claims::{Wish, directory as registry_directory, transits, uplink};
pub(crate) use files::{same_content, sync, sync_directory, write_private};

use crate::privilege::{self, Owner};
use anyhow::{Context, Result, bail};
use ekstra_cloud::Settings;
use ekstra_domain::iam::MasterKey;
use ekstra_engine::Env;
use ekstra_host::{Host, LinuxHost, Names, RootlessHost};
use nix::fcntl::{Flock, FlockArg};
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Directories of the service alone, and their modes: the owner's programs reach the socket in `run`.
const PRIVATE: [(&str, u32); 7] = [
    ("run", 0o711),
    ("images", 0o700),
    ("slots", 0o700),
    ("instances", 0o700),
    ("layers", 0o700),
    ("volumes", 0o700),
    ("snapshots", 0o700),
];
/// The home's copy of its claim.
const SETTINGS: &str = "service.json";
/// The path of a directory.
const PROGRAMS: &str = "components";
/// Others look for a moment whether the lock is taken by taking it.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);
/// In the lock file, before the pid: it is not a service that holds it.
const STOPPING: &str = "stopping ";

#[derive(Clone, Debug)]
pub(crate) struct Home {
    pub(crate) root: PathBuf,
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

    /// Who may use it.
    pub(crate) fn owner(&self) -> Result<Owner> {
        Owner::of(&self.root)
    }

    /// The directories. Those of the service alone are made by the service alone.
    pub(crate) fn create(&self) -> Result<()> {
        let wrap = || format!("the home {} cannot be made", self.root.display());
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.root).with_context(wrap)?;
        let owner = self.owner()?;
        let own = nix::unistd::geteuid().as_raw();
        if owner.uid != own && !privilege::is_root() {
            bail!("the home {} is another user's; choose one with --home", self.root.display());
        }
        // Also when somebody made it before: secrets lie in it.
        fs::set_permissions(&self.root, fs::Permissions::from_mode(0o700)).with_context(wrap)?;
        if privilege::is_root() {
            self.create_parts()?;
        }
        if owner.uid != own {
            privilege::check_parts(&self.root, &PRIVATE)?;
        }
        for name in ["bin", "logs"] {
            files::make_directory(&self.path(name), owner).with_context(wrap)?;
        }
        Ok(())
    }

    /// The directories of the service alone.
    pub(crate) fn create_parts(&self) -> Result<()> {
        privilege::make_parts(&self.root, &PRIVATE)
    }

    /// Writes a file that the home's owner needs; the others are root's.
    pub(crate) fn write_for_owner(&self, name: &str, content: &[u8]) -> Result<()> {
        files::write_for(&self.path(name), content, self.owner()?)
    }

    pub(crate) fn settings(&self) -> Option<Settings> {
        serde_json::from_slice(&fs::read(self.path(SETTINGS)).ok()?).ok()
    }

    /// The settings of an earlier start, for those who need one.
    pub(crate) fn known(&self) -> Result<Settings> {
        if let Err(error) = fs::metadata(self.path(SETTINGS))
            && error.kind() == std::io::ErrorKind::PermissionDenied
        {
            bail!(
                "the home {} is another user's: only they and root can use it; choose one with --home",
                self.root.display()
            );
        }
        self.settings().with_context(|| {
            format!("no service has been started in {}; `ekstra start` starts one", self.root.display())
        })
    }

    /// The settings of an earlier start, or new ones.
    pub(crate) fn settle(&self, wish: &Wish<'_>) -> Result<Settings> {
        self.settle_with(&claims::directory()?, wish)
    }

    fn settle_with(&self, registry: &Path, wish: &Wish<'_>) -> Result<Settings> {
        let known = self.settings();
        let is_known = known.is_some();
        let settings = claims::claim(registry, &self.root, known, wish)?;
        if let Some(port) = wish.listen.filter(|port| *port != settings.port) {
            let now = settings.port;
            bail!(
                "this home has listened on port {now} since its first start; unset EKSTRA_LISTEN={port}, or use another home"
            );
        }
        if settings.rootless != wish.rootless {
            bail!(
                "the service of this home has run {} root since its first start; use another home",
                if settings.rootless { "without" } else { "as" }
            );
        }
        if !is_known {
            self.write_for_owner(SETTINGS, &serde_json::to_vec_pretty(&settings)?)?;
        }
        Ok(settings)
    }

    pub(crate) fn names(&self, settings: &Settings) -> Names {
        Names { home_id: settings.home_id.clone() }
    }

    /// Whether its service runs without root, since its first start.
    pub(crate) fn is_rootless(&self) -> bool {
        self.settings().is_some_and(|settings| settings.rootless)
    }

    /// Whether this process can be its service, or do what that does.
    pub(crate) fn may_serve(&self) -> bool {
        privilege::is_root() || self.is_rootless()
    }

    /// The machine, on its behalf.
    pub(crate) fn host(&self, settings: &Settings) -> Result<Arc<dyn Host>> {
        let (run, launcher) = (self.path("run"), self.program());
        if settings.rootless {
            return Ok(Arc::new(RootlessHost::new(run, launcher)?));
        }
        Ok(Arc::new(LinuxHost::new(self.names(settings), run, launcher)?))
    }

    /// Where programs lie that are taken instead of built ones, as was said when the service was last started with such.
    pub(crate) fn programs_directory(&self) -> Option<PathBuf> {
        fs::read(self.programs_file()).ok().map(|path| OsString::from_vec(path).into())
    }

    pub(crate) fn programs_file(&self) -> PathBuf {
        self.path(PROGRAMS)
    }

    pub(crate) fn remember_programs_directory(&self, directory: &Path) -> Result<()> {
        self.write_for_owner(PROGRAMS, directory.as_os_str().as_bytes())
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
        // A program that was replaced while it ran has nothing to copy.
        if own == target || same_content(&own, &target) || (!own.exists() && target.exists()) {
            return Ok(());
        }
        files::copy_program(&own, &target)
    }

    /// Held by `serve` while it runs; names its process.
    pub(crate) fn lock(&self) -> Result<Flock<fs::File>> {
        self.take_lock(&std::process::id().to_string())?.with_context(|| {
            format!("a service already runs in {}; `ekstra status` shows it", self.root.display())
        })
    }

    /// Held by `stop --all`, so that nothing starts what it ends.
    pub(crate) fn lock_to_stop(&self) -> Result<Flock<fs::File>> {
        self.take_lock(&format!("{STOPPING}{}", std::process::id()))?
            .with_context(|| format!("a service has just been started in {}; try again", self.root.display()))
    }

    fn take_lock(&self, holder: &str) -> Result<Option<Flock<fs::File>>> {
        let deadline = Instant::now() + LOCK_PATIENCE;
        loop {
            if let Some(mut lock) = self.try_lock()? {
                lock.set_len(0)?;
                // Its owner looks whether it is held.
                lock.set_permissions(fs::Permissions::from_mode(0o644))?;
                write!(lock, "{holder}")?;
                return Ok(Some(lock));
            }
            if Instant::now() > deadline {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The process that holds the lock.
    pub(crate) fn serving_process(&self) -> Result<Option<i32>> {
        if self.try_lock()?.is_some() {
            return Ok(None);
        }
        let text = fs::read_to_string(self.path("serve.lock"))?;
        if text.starts_with(STOPPING) {
            bail!("another `ekstra stop` is under way in {}", self.root.display());
        }
        Ok(Some(text.trim().parse().context("the service's lock names no process")?))
    }

    /// How long ago whoever holds the lock took it; nothing, where a clock was set back since.
    pub(crate) fn locked_for(&self) -> Result<Duration> {
        let taken = fs::metadata(self.path("serve.lock"))?.modified()?;
        Ok(taken.elapsed().unwrap_or_default())
    }

    fn try_lock(&self) -> Result<Option<Flock<fs::File>>> {
        let path = self.path("serve.lock");
        let mut options = fs::OpenOptions::new();
        options.custom_flags(nix::fcntl::OFlag::O_NOFOLLOW.bits()).mode(0o644);
        let file = match options.clone().create(true).append(true).open(&path) {
            // Of a service that runs as root: to look is enough.
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                options.read(true).open(&path)
            }
            other => other,
        };
        let file = file.with_context(|| path.display().to_string())?;
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

pub(crate) fn port_in_use(port: u16) -> String {
    format!("port {port} is in use by another program; set EKSTRA_LISTEN to a free port")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_claimed_before_a_kill_is_what_the_home_gets() {
        let directory = tempfile::tempdir().expect("tempdir");
        let home = Home { root: directory.path().join("home") };
        home.create().expect("makes");
        let free =
            std::net::TcpListener::bind("127.0.0.1:0").expect("binds").local_addr().expect("bound").port();
        let env = Env::system();
        let wish = claims::Wish { env: &env, listen: Some(free), region: "us-east-1", rootless: false };
        let registry = directory.path().join("registry");
        let first = home.settle_with(&registry, &wish).expect("settles");
        for torn in [None, Some(""), Some("{\"home_id\":")] {
            match torn {
                None => fs::remove_file(home.path(SETTINGS)).expect("removes"),
                Some(text) => fs::write(home.path(SETTINGS), text).expect("writes"),
            }
            let again = home.settle_with(&registry, &wish).expect("settles again");
            assert_eq!((&again.home_id, again.transit), (&first.home_id, first.transit), "{torn:?}");
            assert!(home.settings().is_some());
        }
    }

    #[test]
    fn a_moment_s_look_at_the_lock_does_not_stop_a_service_from_starting() {
        let directory = tempfile::tempdir().expect("tempdir");
        let home = Home { root: directory.path().to_owned() };
        let look = home.try_lock().expect("opens").expect("is free");
        let waiting = std::thread::spawn({
            let home = home.clone();
            move || home.lock().map(drop)
        });
        drop(look);
        waiting.join().expect("ends").expect("gets it");
        let stopping = home.lock_to_stop().expect("is free");
        assert!(home.serving_process().expect_err("nothing serves").to_string().contains("under way"));
        drop(stopping);
        assert_eq!(home.serving_process().expect("looks"), None);
    }
}

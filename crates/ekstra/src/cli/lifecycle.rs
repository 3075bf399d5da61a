//! `serve|start|stop|status`: the life of the service.

use super::components::Given;
use super::words::Region;
use super::{mistakes, show};
use crate::client::Client;
use crate::control::Control;
use crate::home::{Home, same_content};
use crate::privilege::{as_root, is_root};
use crate::proxies;
use crate::serve::Options;
use crate::takedown;
use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, Parser};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Whoever does not take a request within it hangs.
const ASK_PATIENCE: Duration = Duration::from_secs(5);
const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// The kernel ends the threads of a killed process one by one: the last lets the home go.
const END_PATIENCE: Duration = Duration::from_secs(2);
/// Everything has its grace, and the service finishes what it is doing.
const STOP_ALL_PATIENCE: Duration = Duration::from_secs(60);
/// A stop that was interrupted is finished first, which takes seconds.
const START_PATIENCE: Duration = Duration::from_secs(40);

#[derive(Debug, Args)]
pub(super) struct Serve {
    /// Port of the AWS endpoint, at the first start [default: 4566, or the next that no other home has]
    #[arg(long, env = "EKSTRA_LISTEN", value_parser = parse_listen)]
    listen: Option<u16>,
    #[command(flatten)]
    region: Region,
    /// Seconds that a node has to be drained before it is terminated all the same [default: 900]
    #[arg(long, env = "EKSTRA_DRAIN_LIMIT")]
    drain_limit: Option<i64>,
    #[command(flatten)]
    components: Given,
    /// Another user's component cache, whose builds are used
    #[arg(long, hide = true)]
    lender: Option<PathBuf>,
    /// Without root or sudo: control planes on the loopback, and no nodes; at the first start
    #[arg(long)]
    rootless: bool,
    /// Leave the terminal
    #[arg(long, hide = true)]
    detached: bool,
}

/// A port, or 127.0.0.1:port.
fn parse_listen(text: &str) -> Result<u16, String> {
    let port = text.strip_prefix("127.0.0.1:").or_else(|| text.strip_prefix("localhost:")).unwrap_or(text);
    // The same port for the life of a home: one that the kernel picks anew would be another one each time.
    let port = port.parse().ok().filter(|port| *port != 0);
    port.ok_or_else(|| format!("{text} is not a port, such as 4566 or 127.0.0.1:4566"))
}

impl Serve {
    pub(super) fn options(self, home: Home) -> Result<Options> {
        Ok(Options {
            listen: self.listen,
            region: self.region.of(&home),
            rootless: self.rootless,
            drain_limit_seconds: self.drain_limit,
            components: self.components.checked(&home)?,
            lender: self.lender,
            detached: self.detached,
            home,
        })
    }

    /// What the environment says, for commands that start the service by the way.
    pub(super) fn of_environment(components: Given, rootless: bool) -> Result<Self> {
        Ok(Self { components, rootless, ..Self::of_words([])? })
    }

    fn of_words(words: impl IntoIterator<Item = OsString>) -> Result<Self> {
        #[derive(Parser)]
        struct Alone {
            #[command(flatten)]
            serve: Serve,
        }
        let words = std::iter::once(OsString::from("ekstra")).chain(words);
        let alone = Alone::try_parse_from(words).map_err(|error| anyhow!("{}", mistakes::line(&error)))?;
        Ok(alone.serve)
    }

    /// What the service that runs was started with holds as long as nothing else is said.
    fn or_as_before(self, home: &Home) -> Result<Self> {
        let Some(pid) = home.serving_process()? else { return Ok(self) };
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        // Another version may have had flags that this one has not: then they are not known.
        let Ok(before) = Self::of_words(own_words(&line)) else { return Ok(self) };
        let drain_limit = self.drain_limit.or(before.drain_limit);
        Ok(Self { drain_limit, lender: self.lender.or(before.lender), ..self })
    }

    /// The same as words: sudo drops the environment.
    fn words(&self, home: &Home) -> Result<Vec<OsString>> {
        let mut words: Vec<OsString> = vec!["--region".into(), self.region.of(home).into()];
        let mut add = |flag: &str, value: Option<OsString>| {
            words.extend(value.into_iter().flat_map(|value| [flag.into(), value]));
        };
        add("--listen", self.listen.map(|port| port.to_string().into()));
        add("--drain-limit", self.drain_limit.map(|limit| limit.to_string().into()));
        add("--components", self.components.clone().checked(home)?.map(|prebuilt| prebuilt.to_word()));
        add("--lender", self.lender.clone().map(Into::into));
        words.extend(self.rootless.then(|| "--rootless".into()));
        Ok(words)
    }
}

#[derive(Debug, Args)]
pub(super) struct Start {
    #[command(flatten)]
    serve: Serve,
}

impl Start {
    pub(super) async fn run(self, home: &Home) -> Result<()> {
        ensure_service(home, &self.serve).await?;
        status(home).await.map(drop)
    }

    /// Of whatever runs, or nothing. What would keep it from starting is found out before anything is stopped.
    pub(super) async fn again(self, home: &Home) -> Result<()> {
        home.known()?;
        let serve = self.serve.or_as_before(home)?;
        serve.words(home)?;
        if !home.is_rootless() {
            show::check_tools()?;
        }
        if !home.may_serve() {
            tokio::task::block_in_place(|| as_root(home, &["env".into()]))?;
        }
        home.install_program()?;
        end_service(home, false).await?;
        Self { serve }.run(home).await
    }
}

/// What stands behind `serve` in the command line of a process.
fn own_words(line: &[u8]) -> Vec<OsString> {
    let words = line.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    words
        .skip_while(|word| *word != b"serve")
        .skip(1)
        .map(|word| OsStr::from_bytes(word).to_owned())
        .collect()
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
    ensure_service(home, &Serve::of_environment(Given::default(), false)?).await
}

/// Starts the service unless it answers; tells when it is older than this program.
pub(super) async fn ensure_service(home: &Home, serve: &Serve) -> Result<()> {
    let words = serve.words(home)?;
    if serve.rootless && home.settings().is_some_and(|settings| !settings.rootless) {
        bail!("the service in {} runs as root since its first start; use another home", home.root.display());
    }
    if let Some(version) = running(home).await {
        if serve.components.is_given() {
            eprintln!("note: the service runs already; --components counts when it is started");
        }
        if version != env!("CARGO_PKG_VERSION") {
            eprintln!(
                "note: the service is ekstra {version}, this is {}; `ekstra restart` upgrades it, clusters go on",
                env!("CARGO_PKG_VERSION")
            );
        } else if runs_another_build(home) {
            eprintln!(
                "note: the service runs another build of ekstra; `ekstra restart` replaces it, clusters go on"
            );
        }
        return Ok(());
    }
    refuse_hung(home).await?;
    let rootless = serve.rootless || home.is_rootless();
    if !rootless {
        show::check_tools()?;
    }
    home.create()?;
    home.install_program()?;
    // Through sudo there is no environment: the user's own process has remembered it.
    if serve.lender.is_none() {
        proxies::remember(home)?;
    }
    if rootless || is_root() {
        return spawn(home, &words).await;
    }
    // The programs were built by this user; root uses them, and builds none.
    let cache = ekstra_components::default_cache_dir().context("neither EKSTRA_CACHE nor HOME is set")?;
    let lender = ["--lender".into(), std::path::absolute(cache)?.into()];
    let start = std::iter::once("start".into()).chain(words).chain(lender).collect::<Vec<OsString>>();
    tokio::task::block_in_place(|| as_root(home, &start))
}

/// Told of one that holds the home, and does not answer.
fn hangs(pid: i32) -> anyhow::Error {
    anyhow!(
        "the service (pid {pid}) does not answer; if that lasts, `ekstra restart` ends it and starts it anew, clusters go on"
    )
}

/// Nobody gets past a service that has had the time to start and does not answer, unless it is about to be gone.
async fn refuse_hung(home: &Home) -> Result<()> {
    match home.serving_process() {
        Ok(Some(pid))
            if home.locked_for()? > START_PATIENCE
                && wait_unlocked(home, END_PATIENCE).await.is_err()
                && home.serving_process()? == Some(pid) =>
        {
            Err(hangs(pid))
        }
        _ => Ok(()),
    }
}

/// Of the same version, as after `cargo build`. Who may not look does not know.
fn runs_another_build(home: &Home) -> bool {
    let Ok(Some(pid)) = home.serving_process() else { return false };
    let running = PathBuf::from(format!("/proc/{pid}/exe"));
    std::env::current_exe().is_ok_and(|own| fs::metadata(&running).is_ok() && !same_content(&own, &running))
}

/// Starts the service in the background and waits until it answers.
async fn spawn(home: &Home, words: &[OsString]) -> Result<()> {
    let log = ekstra_host::open_log(&home.log("serve"))?;
    let mut command = Command::new(home.program());
    command.arg("--home").arg(&home.root).args(["serve", "--detached"]).args(words);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let mut child = command.spawn().with_context(|| home.program().display().to_string())?;
    let deadline = Instant::now() + START_PATIENCE;
    loop {
        if running(home).await.is_some() {
            // One that came second would serve as soon as the first is stopped.
            let own = i32::try_from(child.id()).ok();
            if home.serving_process()? != own {
                let _ = child.kill().and_then(|()| child.wait());
            }
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

fn last_line(home: &Home) -> String {
    let log = fs::read_to_string(home.log("serve")).unwrap_or_default();
    log.lines().last().unwrap_or_default().trim_start_matches("ekstra: ").to_owned()
}

pub(super) async fn stop(home: &Home, all: bool) -> Result<()> {
    if !home.root.exists() {
        bail!("no service has been started in {}", home.root.display());
    }
    end_service(home, all).await?;
    if !all {
        println!("stopped; clusters go on running (`ekstra stop --all` ends them too)");
        return Ok(());
    }
    if takedown::is_begun(home) {
        bail!("not everything could be ended, see `ekstra logs`; `ekstra stop --all` tries again");
    }
    println!("stopped, with every cluster; `ekstra start` brings them back");
    Ok(())
}

async fn end_service(home: &Home, all: bool) -> Result<()> {
    if let Some(service) = Control::connect(home).await?
        && let Ok(asked) = tokio::time::timeout(ASK_PATIENCE, service.stop(all)).await
    {
        asked?;
        return wait_unlocked(home, if all { STOP_ALL_PATIENCE } else { STOP_PATIENCE }).await;
    }
    if home.may_serve() {
        return stop_directly(home, all).await;
    }
    if all || home.serving_process()?.is_some() {
        let words: Vec<OsString> =
            ["stop"].into_iter().chain(all.then_some("--all")).map(Into::into).collect();
        return tokio::task::block_in_place(|| as_root(home, &words));
    }
    Ok(())
}

/// Of a service that does not answer, or none. Whatever it was doing, the next one goes on from there.
async fn stop_directly(home: &Home, all: bool) -> Result<()> {
    if let Some(pid) = home.serving_process()? {
        let process = Pid::from_raw(pid);
        kill(process, Signal::SIGTERM)?;
        if wait_unlocked(home, STOP_PATIENCE).await.is_err() && home.serving_process()? == Some(pid) {
            kill(process, Signal::SIGKILL)?;
            wait_unlocked(home, STOP_PATIENCE).await?;
        }
    }
    let Some(settings) = home.settings().filter(|_| all) else {
        return Ok(());
    };
    let host = home.host(&settings)?;
    let _lock = home.lock_to_stop()?;
    takedown::take_down(home, &*host, &settings)?;
    takedown::restore_machine(home, &settings)
}

/// Until the service that has the home has it no longer.
async fn wait_unlocked(home: &Home, patience: Duration) -> Result<()> {
    let deadline = Instant::now() + patience;
    let first = home.serving_process()?;
    while let Some(pid) = home.serving_process()?
        && first == Some(pid)
    {
        if Instant::now() > deadline {
            bail!("the service (pid {pid}) does not end");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

pub(super) async fn status(home: &Home) -> Result<i32> {
    let Some(settings) = home.settings() else {
        println!("no service has been started in {}", home.root.display());
        return Ok(3);
    };
    let (Some(version), Some(service)) = (running(home).await, Control::connect(home).await?) else {
        if let Ok(Some(pid)) = home.serving_process() {
            return Err(hangs(pid));
        }
        println!("the service in {} does not run; `ekstra start` starts it", home.root.display());
        return Ok(3);
    };
    let status = service.status().await?;
    println!("ekstra {version} serves {}", home.root.display());
    let own = format!("http://127.0.0.1:{}", settings.port);
    if settings.rootless {
        println!("endpoint  {own}");
        println!("root      none: control planes on the loopback, no nodes");
    } else {
        println!("endpoint  {own}  http://{}:{}", settings.address, settings.port);
    }
    println!("gate      {}", if status["gate"] == true { "running" } else { "not running" });
    let (programs, instances) = (&status["controlPlaneProcesses"], &status["instances"]);
    println!("running   {programs} control plane processes, {instances} instances");
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_s_words_are_read_again() {
        let line =
            b"/h/bin/ekstra\0--home\0/h\0serve\0--detached\0--region\0eu-west-1\0--drain-limit\x0012\0";
        let serve = Serve::of_words(own_words(line)).expect("known flags");
        assert_eq!((serve.drain_limit, serve.detached), (Some(12), true));
        assert!(Serve::of_words([OsString::from("--from-the-future")]).is_err());
        assert!(own_words(b"/h/bin/ekstra\0gate\0").is_empty());
    }

    #[tokio::test]
    async fn one_that_ends_is_waited_for_and_one_that_hangs_is_told() {
        let directory = tempfile::tempdir().expect("tempdir");
        let home = Home { root: directory.path().to_owned() };
        let lock = home.lock().expect("is free");
        let taken = std::time::SystemTime::now() - 2 * START_PATIENCE;
        lock.set_modified(taken).expect("is ours");
        let hung = refuse_hung(&home).await.expect_err("nobody answers");
        assert!(hung.to_string().contains(&format!("pid {}", std::process::id())), "{hung}");
        let ending = std::thread::spawn(move || {
            std::thread::sleep(END_PATIENCE / 10);
            drop(lock);
        });
        refuse_hung(&home).await.expect("has ended");
        ending.join().expect("ends");
    }
}

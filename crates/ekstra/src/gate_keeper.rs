//! Keeps `gate` running, in the version of this program. It is a child like any other and outlives this process.
//!
//! Invariant: a gate of an older version is left to itself once a newer one runs: it hands over, finishes what is under
//! way, and ends. It is ended only when the newer one could not take over.

use crate::home::Home;
use ekstra_host::{ChildId, ChildSpec, ChildStatus, Host, HostError, Limits, Running, child_exit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The children that run `ekstra gate`: two, so that one can take over from the other.
pub(crate) const CHILDREN: [&str; 2] = ["gate", "gate-2"];

const FIRST_DELAY: Duration = Duration::from_millis(50);
const LAST_DELAY: Duration = Duration::from_secs(5);
/// One that lived this long did not end because of how it starts: that takes a tenth of a second.
const SOUND: Duration = Duration::from_millis(250);
/// How often a gate is asked whether it is there, and how many silences in a row are too many.
const LOOK: Duration = Duration::from_secs(10);
const SILENCES: u32 = 3;
/// How long the one of another version may take to end.
const GRACE: Duration = Duration::from_secs(5);

/// Keeps a gate running, in the version of this program; it is a child like any other and outlives this process.
pub(crate) async fn keep(host: Arc<dyn Host>, home: Home) {
    let mut gently = true;
    let mut delays = Delays::default();
    loop {
        let begun = Instant::now();
        let (settling, homely) = (host.clone(), home.clone());
        match tokio::task::spawn_blocking(move || settle(&*settling, &homely, gently)).await {
            Ok(Ok(gates)) => {
                tokio::select! {
                    watched = child_exit(&gates.present) => {
                        tracing::warn!(pid = gates.present.pid, ?watched, "gate ended; starting it again");
                        // Perhaps for want of what an older one would not give.
                        gently = false;
                        tokio::time::sleep(delays.after(begun.elapsed())).await;
                    }
                    // The next round clears up after it.
                    () = ended(gates.retiring) => gently = true,
                    () = hung(&home) => {
                        tracing::warn!(pid = gates.present.pid, "gate does not answer; ending it");
                        let _ = kill(Pid::from_raw(gates.present.pid), Signal::SIGKILL);
                        let _ = child_exit(&gates.present).await;
                        gently = false;
                    }
                }
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "gate cannot be started; trying again");
                tokio::time::sleep(delays.after(begun.elapsed())).await;
            }
            Err(error) => {
                tracing::error!(%error, "gate cannot be started; trying again");
                tokio::time::sleep(delays.after(begun.elapsed())).await;
            }
        }
    }
}

struct Gates {
    present: Running,
    /// Of an older version.
    retiring: Option<Running>,
}

/// Completes when the gate has been silent several times in a row.
async fn hung(home: &Home) {
    let mut silences = 0;
    while silences < SILENCES {
        tokio::time::sleep(LOOK).await;
        let root = home.root.clone();
        let silent = tokio::task::spawn_blocking(move || ekstra_gate::is_silent(&root)).await;
        silences = if silent.unwrap_or(false) { silences + 1 } else { 0 };
    }
}

async fn ended(gate: Option<Running>) {
    match gate {
        Some(gate) => drop(child_exit(&gate).await),
        None => std::future::pending().await,
    }
}

/// One gate of this version, and at most one older one besides, if it is one to take over from and `gently` is said.
fn settle(host: &dyn Host, home: &Home, gently: bool) -> Result<Gates, HostError> {
    let (mut present, mut older) = (None, Vec::new());
    for id in CHILDREN.map(|id| ChildId(id.into())) {
        match host.child_status(&id)? {
            ChildStatus::Running(gate) if runs(gate.pid, &home.program()) => present = Some(gate),
            ChildStatus::Running(gate) => older.push((id, gate)),
            ChildStatus::Absent => {}
            ChildStatus::Exited | ChildStatus::BeforeBoot => host.remove_child(&id, Duration::ZERO)?,
        }
    }
    // The youngest is the one that has the listeners, if this version has not got them yet.
    older.sort_by_key(|(_, gate)| gate.start_ticks);
    let kept = older.pop_if(|_| gently && ekstra_gate::hands_over(&home.root));
    for (id, _) in &older {
        host.remove_child(id, GRACE)?;
    }
    let present = match present {
        Some(gate) => gate,
        None => {
            let taken = |id: &&str| kept.as_ref().is_some_and(|(other, _)| other.0 == **id);
            let free = CHILDREN.iter().find(|id| !taken(id)).expect("two ids, at most one of them kept");
            host.ensure_child(&spec(home, free))?
        }
    };
    Ok(Gates { present, retiring: kept.map(|(_, gate)| gate) })
}

fn spec(home: &Home, id: &str) -> ChildSpec {
    ChildSpec {
        id: ChildId(id.into()),
        program: home.program(),
        args: vec!["--home".into(), home.root.display().to_string(), "gate".into()],
        env: std::env::vars().filter(|(name, _)| name == "RUST_LOG" || name == "PATH").collect(),
        namespace: None,
        log: home.log("gate"),
        limits: Limits::default(),
        etc: None,
        sandbox: None,
    }
}

/// Whether the process runs the file that has this name now: a program that was replaced is another file. Paths say
/// nothing, since a home can be reached by several.
fn runs(pid: i32, program: &Path) -> bool {
    let file = |path: &Path| std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
    let running = file(Path::new(&format!("/proc/{pid}/exe")));
    running.is_some() && running == file(program)
}

/// Between one start and the next.
#[derive(Debug, Default)]
struct Delays {
    last: Duration,
}

impl Delays {
    fn after(&mut self, lived: Duration) -> Duration {
        let grown = if lived >= SOUND { FIRST_DELAY } else { self.last * 2 };
        self.last = grown.clamp(FIRST_DELAY, LAST_DELAY);
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ekstra_host::sim::SimHost;

    fn children(host: &SimHost) -> Vec<String> {
        host.inventory().children.into_keys().map(|id| id.0).collect()
    }

    #[test]
    fn an_older_gate_is_kept_beside_the_new_one_if_it_can_hand_over() {
        let directory = tempfile::tempdir().expect("a directory");
        let home = Home { root: directory.path().to_owned() };
        let host = SimHost::default();
        // Simulated children run no program: to this one they are of an older version.
        assert!(settle(&host, &home, true).expect("started").retiring.is_none());
        assert_eq!(children(&host), ["gate"]);
        assert!(settle(&host, &home, true).expect("replaced").retiring.is_none());
        assert_eq!(children(&host), ["gate"], "it could not have handed over");
        std::fs::create_dir(home.path("run")).expect("a directory");
        std::fs::write(home.path("run/gate.sock"), "").expect("written");
        assert!(settle(&host, &home, true).expect("started").retiring.is_some());
        assert_eq!(children(&host), ["gate", "gate-2"]);
        assert!(settle(&host, &home, true).expect("started").retiring.is_some());
        assert_eq!(children(&host), ["gate", "gate-2"], "one older one at most");
        assert!(settle(&host, &home, false).expect("started").retiring.is_none());
        assert_eq!(children(&host).len(), 1, "none, if it would not give");
    }

    #[test]
    fn a_gate_that_ends_at_once_is_started_less_and_less_often() {
        let mut delays = Delays::default();
        let quick: Vec<u128> = (0..9).map(|_| delays.after(Duration::from_millis(100)).as_millis()).collect();
        assert_eq!(quick, [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(delays.after(SOUND), FIRST_DELAY);
        assert_eq!(delays.after(Duration::ZERO), FIRST_DELAY * 2);
    }

    #[test]
    fn the_running_program_is_known_by_its_file() {
        let directory = tempfile::tempdir().expect("tempdir");
        let own = std::env::current_exe().expect("has one");
        let pid = i32::try_from(std::process::id()).expect("fits");
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(own.parent().expect("has one"), &link).expect("links");
        assert!(runs(pid, &link.join(own.file_name().expect("has one"))), "by another path");
        let copy = directory.path().join("copy");
        std::fs::write(&copy, "another file of the same name").expect("writes");
        assert!(!runs(pid, &copy));
        assert!(!runs(pid, &directory.path().join("missing")));
    }
}

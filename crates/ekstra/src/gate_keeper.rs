//! Keeps `gate` running, in the version of this program. It is a child like any other and outlives this process.

use crate::home::Home;
use ekstra_host::{ChildId, ChildSpec, ChildStatus, Host, HostError, Limits, Running, child_exit};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The child that runs `ekstra gate`.
pub(crate) const GATE: &str = "gate";
const FIRST_DELAY: Duration = Duration::from_millis(50);
const LAST_DELAY: Duration = Duration::from_secs(5);
/// One that lived this long did not end because of how it starts.
const SOUND: Duration = Duration::from_secs(30);
/// How long the one of another version may take to end.
const GRACE: Duration = Duration::from_secs(5);

pub(crate) async fn keep(host: Arc<dyn Host>, home: Home) {
    let spec = spec(&home);
    let mut delays = Delays::default();
    loop {
        let begun = Instant::now();
        let (on_host, wanted) = (host.clone(), spec.clone());
        match tokio::task::spawn_blocking(move || ensure(&*on_host, &wanted)).await {
            Ok(Ok(running)) => {
                let watched = child_exit(&running).await;
                tracing::warn!(pid = running.pid, ?watched, "gate ended; starting it again");
            }
            Ok(Err(error)) => tracing::error!(%error, "gate cannot be started; trying again"),
            Err(error) => tracing::error!(%error, "gate cannot be started; trying again"),
        }
        tokio::time::sleep(delays.after(begun.elapsed())).await;
    }
}

fn spec(home: &Home) -> ChildSpec {
    ChildSpec {
        id: ChildId(GATE.into()),
        program: home.program(),
        args: vec!["--home".into(), home.root.display().to_string(), "gate".into()],
        env: std::env::vars().filter(|(name, _)| name == "RUST_LOG" || name == "PATH").collect(),
        namespace: None,
        log: home.log(GATE),
        limits: Limits::default(),
        sandbox: None,
    }
}

fn ensure(host: &dyn Host, spec: &ChildSpec) -> Result<Running, HostError> {
    match host.child_status(&spec.id)? {
        ChildStatus::Running(running) if runs(running.pid, &spec.program) => Ok(running),
        _ => {
            host.remove_child(&spec.id, GRACE)?;
            host.ensure_child(spec)
        }
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

    #[test]
    fn a_gate_that_ends_at_once_is_started_less_and_less_often() {
        let mut delays = Delays::default();
        let quick: Vec<u128> = (0..9).map(|_| delays.after(Duration::from_secs(1)).as_millis()).collect();
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

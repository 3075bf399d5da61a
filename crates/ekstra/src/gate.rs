//! `ekstra gate`: the composition of the data side, and how `serve` keeps one running in its own version.
//!
//! Invariant: a gate of an older version is left to itself once a newer one runs: it hands over, finishes what is under
//! way, and ends. It is ended only when the newer one could not take over.

use crate::home::Home;
use anyhow::{Context, Result};
use ekstra_engine::Env;
use ekstra_gate::{Facts, Gate};
use ekstra_host::{ChildId, ChildSpec, ChildStatus, Host, HostError, Limits, Running, child_exit};
use ekstra_images::ImageStore;
use ekstra_images::registry::{Policy, Registry};
use ekstra_store::Follower;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// The children that run `ekstra gate`: two, so that one can take over from the other.
pub(crate) const CHILDREN: [&str; 2] = ["gate", "gate-2"];

pub(crate) async fn run(home: Home) -> Result<()> {
    let settings = home.settings().context("no service has been started in this home")?;
    let follower = Follower::open(&home.state_file())?;
    let gate = Gate {
        view: follower.view().clone(),
        master: home.master_key(&Env::system())?,
        facts: Arc::new(Facts {
            address: settings.address,
            port: settings.port,
            registry_port: settings.registry_port,
            namespace_prefix: home.names(&settings).namespace(""),
            home: home.root.clone(),
        }),
        images: Registry::new(ImageStore::open(home.path("images"))?, Policy::read_only()),
    };
    let (stop, shutdown) = watch::channel(false);
    let mut term = signal(SignalKind::terminate())?;
    tokio::select! {
        ended = ekstra_gate::run(gate, follower.head(), shutdown) => ended?,
        _ = term.recv() => { stop.send_replace(true); }
    }
    Ok(())
}

/// Keeps a gate running, in the version of this program; it is a child like any other and outlives this process.
pub(crate) async fn keep(host: Arc<dyn Host>, home: Home) {
    let mut gently = true;
    loop {
        let (settling, home) = (host.clone(), home.clone());
        match tokio::task::spawn_blocking(move || settle(&*settling, &home, gently)).await {
            Ok(Ok(gates)) => {
                tokio::select! {
                    _ = child_exit(&gates.present) => {
                        tracing::warn!("gate ended; starting it again");
                        // Perhaps for want of what an older one would not give.
                        gently = false;
                    }
                    // The next round clears up after it.
                    () = ended(gates.retiring) => gently = true,
                }
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "gate");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Err(_) => return,
        }
    }
}

struct Gates {
    present: Running,
    /// Of an older version.
    retiring: Option<Running>,
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
            ChildStatus::Running(gate) if runs(&gate, &home.program()) => present = Some(gate),
            ChildStatus::Running(gate) => older.push((id, gate)),
            ChildStatus::Absent => {}
            ChildStatus::Exited | ChildStatus::BeforeBoot => host.remove_child(&id, Duration::ZERO)?,
        }
    }
    // The youngest is the one that has the listeners, if this version has not got them yet.
    older.sort_by_key(|(_, gate)| gate.start_ticks);
    let kept = older.pop_if(|_| gently && ekstra_gate::hands_over(&home.root));
    for (id, _) in &older {
        host.remove_child(id, Duration::from_secs(5))?;
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

/// A program that was replaced is another file under the same name; its old one shows as deleted.
fn runs(running: &Running, program: &Path) -> bool {
    std::fs::read_link(format!("/proc/{}/exe", running.pid)).is_ok_and(|exe| exe == program)
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
        sandbox: None,
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
}

//! `ekstra gate`: the composition of the data side. Who keeps it running: `gate_keeper.rs`.

use crate::home::Home;
use anyhow::{Context, Result};
use ekstra_engine::Env;
use ekstra_gate::{Facts, Gate};
use ekstra_images::ImageStore;
use ekstra_images::registry::{Policy, Registry, Upstream};
use ekstra_store::Follower;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

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
        images: Registry::new(
            ImageStore::open(home.path("images"))?,
            Policy { upstream: Upstream::WhenMissing, ..Policy::read_only() },
        ),
    };
    let (stop, shutdown) = watch::channel(false);
    let mut term = signal(SignalKind::terminate())?;
    tokio::select! {
        ended = ekstra_gate::run(gate, follower.head(), shutdown) => ended?,
        _ = term.recv() => { stop.send_replace(true); }
    }
    Ok(())
}

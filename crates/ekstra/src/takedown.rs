//! `stop --all`: everything of a home that the kernel holds (processes, groups, namespaces, links, rules) is ended.
//!
//! Invariant: that it was begun is on disk before the first process ends, and until everything has; `serve` finishes it
//! before its reconcilers look. They would take a machine that was ended here for one that ended by itself, and
//! replace it; one that is gone without a trace they boot again, with its disk.

use crate::home::{Home, registry_directory, sync_directory, write_private};
use anyhow::{Context, Result};
use ekstra_cloud::Settings;
use ekstra_host::{Host, ServiceAddress};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// How long a child may take to end by itself.
const GRACE: Duration = Duration::from_secs(5);

pub(crate) fn service_address(settings: &Settings) -> ServiceAddress {
    ServiceAddress { address: settings.address, transit: settings.transit, balancers: settings.balancers() }
}

/// Whether something is left to do.
pub(crate) fn is_begun(home: &Home) -> bool {
    intent(home).exists()
}

fn intent(home: &Home) -> PathBuf {
    home.path("run/stopping")
}

/// The caller holds the home's lock: no service runs.
pub(crate) fn take_down(home: &Home, host: &dyn Host, settings: &Settings) -> Result<()> {
    let intent = intent(home);
    write_private(&intent, b"")?;
    end_all(home, host, settings)?;
    fs::remove_file(&intent).with_context(|| intent.display().to_string())?;
    sync_directory(&intent)
}

/// Gives the machine its settings back, unless another home still needs what was raised.
pub(crate) fn restore_machine(home: &Home, settings: &Settings) -> Result<()> {
    if settings.rootless {
        return Ok(());
    }
    for change in ekstra_host::restore_settings(&registry_directory()?, &home.root)? {
        tracing::info!(setting = %change.setting.display(), now = change.now, "as it was before");
    }
    Ok(())
}

/// What an interrupted [`take_down`] has left to do.
pub(crate) fn finish(home: &Home, host: &dyn Host, settings: &Settings) -> Result<()> {
    if !is_begun(home) {
        return Ok(());
    }
    tracing::info!("finishing the stop that was interrupted; every cluster is started again");
    take_down(home, host, settings)
}

fn end_all(home: &Home, host: &dyn Host, settings: &Settings) -> Result<()> {
    // All at once: nodes and control planes have nothing to tell each other any more.
    let children = host.children()?;
    std::thread::scope(|scope| {
        let ends: Vec<_> =
            children.iter().map(|id| scope.spawn(move || host.remove_child(id, GRACE))).collect();
        ends.into_iter().try_for_each(|end| end.join().unwrap_or(Ok(())))
    })?;
    host.detach_all_volumes(&home.root)?;
    for namespace in host.namespaces()? {
        host.remove_namespace(&namespace)?;
    }
    Ok(host.remove_service_address(&service_address(settings))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ekstra_host::sim::SimHost;
    use ekstra_host::{ChildId, ChildSpec, ChildStatus, Limits};

    fn settings() -> Settings {
        Settings {
            home_id: "beef".into(),
            rootless: false,
            address: [169, 254, 80, 1].into(),
            port: 4566,
            registry_port: 4567,
            first_cluster_port: 16443,
            transit: ekstra_domain::prefix::Prefix::new([198, 18, 0, 0].into(), 24),
            mtu: 1500,
            region: "us-east-1".into(),
        }
    }

    fn start(host: &SimHost, id: &str) {
        let spec = ChildSpec {
            id: ChildId(id.into()),
            program: "/x".into(),
            args: Vec::new(),
            env: Vec::new(),
            namespace: None,
            log: "/x".into(),
            limits: Limits::default(),
            etc: None,
            sandbox: None,
        };
        host.ensure_child(&spec).expect("starts");
    }

    /// Wherever it is interrupted: after it is finished no child looks as if it had ended by itself.
    #[test]
    fn what_was_begun_is_finished_at_the_next_start() {
        for fail_at in 0.. {
            let directory = tempfile::tempdir().expect("tempdir");
            let home = Home { root: directory.path().to_owned() };
            home.create().expect("makes");
            fs::create_dir_all(home.path("run")).expect("makes");
            fs::create_dir_all(home.path("run")).expect("makes");
            let host = SimHost::default();
            ["i-1", "i-2", "cp-1-etcd", "gate"].iter().for_each(|id| start(&host, id));
            host.ensure_namespace("ekstra-beef-vpc").expect("makes");
            // Ended by its signal, but not forgotten yet: the state that a kill leaves.
            host.end(&ChildId("i-1".into()));
            host.fail_at(fail_at);
            let outcome = take_down(&home, &host, &settings());
            assert_eq!(outcome.is_err(), !host.is_failure_pending());
            assert_eq!(intent(&home).exists(), outcome.is_err(), "known until it is done");
            finish(&home, &host, &settings()).expect("finishes");
            assert_eq!(host.inventory(), Default::default(), "interrupted at {fail_at}");
            assert!(!intent(&home).exists());
            if outcome.is_ok() {
                assert_eq!(fail_at, 6, "four children, volumes, one namespace");
                return;
            }
        }
    }

    #[test]
    fn nothing_begun_is_nothing_to_finish() {
        let directory = tempfile::tempdir().expect("tempdir");
        let home = Home { root: directory.path().to_owned() };
        home.create().expect("makes");
        fs::create_dir_all(home.path("run")).expect("makes");
        let host = SimHost::default();
        start(&host, "i-1");
        finish(&home, &host, &settings()).expect("looks");
        let status = host.child_status(&ChildId("i-1".into())).expect("looks");
        assert!(matches!(status, ChildStatus::Running(_)));
    }
}

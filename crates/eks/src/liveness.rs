//! Ends programs of control planes that run but do not answer; the cluster's reconciler starts them again.
//!
//! Invariant: a program is ended only when it took connections and said nothing, several times in a row. One that refuses
//! them is starting, and one that answers anything at all is not hung: what it complains of, a restart may not mend.

mod probe;

use crate::Eks;
use ekstra_cloud::on_host;
use ekstra_domain::eks::{CONTROL_PLANE_PROGRAMS, Cluster, ControlPlaneSlot};
use ekstra_domain::names::keys;
use ekstra_engine::{Next, Reconciler};
use ekstra_host::{ChildId, ChildStatus, HostError, Running};
use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use probe::{Answer, Prober};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

const PERIOD: Duration = Duration::from_secs(10);
/// Silences in a row, each as long as a probe's patience.
const SILENCES: u32 = 3;

/// Looks after the programs of every control plane.
#[derive(Debug)]
pub struct Liveness {
    eks: Eks,
    prober: Prober,
    /// By child: the process, and how often it has been silent.
    silent: Mutex<HashMap<ChildId, (Running, u32)>>,
}

impl Liveness {
    pub fn new(eks: Eks) -> Self {
        Self { eks, prober: Prober::default(), silent: Mutex::default() }
    }

    async fn look(&self, slot: &ControlPlaneSlot) -> Result<(), HostError> {
        let programs = running(&self.eks, slot).await?;
        let files = self.eks.files(&slot.id);
        let probes = programs.iter().map(|(program, ..)| self.prober.ask(&slot.site, &files, program));
        let answers = join_all(probes).await;
        for ((program, id, process), answer) in programs.into_iter().zip(answers) {
            if !self.note(&id, &process, answer) {
                continue;
            }
            tracing::warn!(slot = slot.id, program, pid = process.pid, "does not answer: ending it");
            // Another one may have taken its place meanwhile.
            on_host(&self.eks.host, move |host| match host.child_status(&id)? {
                ChildStatus::Running(now) if now == process => host.remove_child(&id, Duration::ZERO),
                _ => Ok(()),
            })
            .await?;
        }
        Ok(())
    }

    /// Whether that was one silence too many.
    fn note(&self, id: &ChildId, process: &Running, answer: Answer) -> bool {
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        if answer != Answer::Silence {
            silent.remove(id);
            return false;
        }
        let (known, count) = silent.entry(id.clone()).or_insert_with(|| (process.clone(), 0));
        if known != process {
            (*known, *count) = (process.clone(), 0);
        }
        *count += 1;
        let is_hung = *count >= SILENCES;
        if is_hung {
            silent.remove(id);
        }
        is_hung
    }
}

type Program = (&'static str, ChildId, Running);

async fn running(eks: &Eks, slot: &ControlPlaneSlot) -> Result<Vec<Program>, HostError> {
    let ids = CONTROL_PLANE_PROGRAMS.map(|program| (program, ChildId(slot.child(program))));
    on_host(&eks.host, move |host| {
        let mut found = Vec::new();
        for (program, id) in ids {
            if let ChildStatus::Running(process) = host.child_status(&id)? {
                found.push((program, id, process));
            }
        }
        Ok(found)
    })
    .await
}

impl Reconciler for Liveness {
    type Error = HostError;

    fn name(&self) -> &'static str {
        "liveness"
    }

    fn keys(&self) -> Vec<String> {
        self.eks.cluster_keys()
    }

    /// Time alone.
    fn affected(&self, _: &str) -> Vec<String> {
        Vec::new()
    }

    fn reconcile(&self, key: String) -> BoxFuture<'_, Result<Next, HostError>> {
        async move {
            let view = self.eks.cloud.store.view();
            let cluster = view.get_as::<Cluster>(&key);
            let slot = cluster.and_then(|c| view.get_as::<ControlPlaneSlot>(&keys::slot(&c.slot)));
            let Some(slot) = slot else {
                return Ok(Next::OnChange);
            };
            self.look(&slot).await?;
            Ok(Next::After(PERIOD))
        }
        .boxed()
    }
}

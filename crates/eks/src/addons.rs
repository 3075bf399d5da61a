//! Add-ons: the reconciler that writes their objects into clusters and looks after what becomes of them.
//!
//! # Guarantees
//! - Objects are written when something is asked for, never to undo what somebody has changed since; but for replicas that
//!   follow the size of the cluster, where that is asked for.
//! - With `NONE` either all objects are written or, if others have set fields of any, none.
//!
//! # Assumptions
//! - Its objects belong to the field manager `eks`, also those that the cluster began with: an add-on takes over what
//!   nobody managed before.

mod autoscaling;
pub(crate) mod catalogue;
pub(crate) mod configuration;
mod fields;
mod objects;
mod workload;

use crate::bootstrap::Facts;
use crate::controller::{Reached, down, reach};
use crate::{Eks, updates};
use autoscaling::Demands;
use catalogue::NAMESPACE;
use ekstra_domain::eks::{
    ADDON_PATIENCE_MS, Addon, AddonAction, AddonStatus, Cluster, HealthIssue, UpdateOf, Workload, plan_addon,
};
use ekstra_domain::names::keys;
use ekstra_engine::{Next, Reconciler, Waits};
use ekstra_store::{CommitError, Txn};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::apps::v1::DaemonSet;
use kube::Client;
use kube::api::Api;
use kube::runtime::watcher;
use objects::{Place, Refused};
use std::convert::Infallible;
use std::pin::pin;
use std::time::Duration;

const AT_ONCE: Next = Next::After(Duration::from_millis(1));
/// How often one that is not healthy is asked whether that is still to be borne.
const TICK: Duration = Duration::from_secs(1);

/// What a new cluster has of them (`bootstrapSelfManagedAddons`).
pub(crate) fn manifests() -> Vec<&'static str> {
    catalogue::all()
        .iter()
        .filter(|definition| definition.is_initial)
        .map(|definition| definition.manifest)
        .collect()
}

/// Whether new nodes may count on the network add-on: it is there, or about to be.
pub(crate) async fn gives_network(
    eks: &Eks,
    cluster: &Cluster,
    client: &Client,
) -> Result<bool, kube::Error> {
    let key = keys::addon(&cluster.scope, &cluster.name, catalogue::NETWORK);
    let addon: Option<Addon> = eks.cloud.store.view().get_as(&key);
    if addon.is_some_and(|addon| addon.status != AddonStatus::Deleting) {
        return Ok(true);
    }
    let daemons: Api<DaemonSet> = Api::namespaced(client.clone(), NAMESPACE);
    Ok(daemons.get_opt(catalogue::NETWORK_DAEMON).await?.is_some())
}

/// Keeps every add-on as its record says.
#[derive(Debug)]
pub struct AddonReconciler {
    eks: Eks,
    waits: Waits,
    demands: Demands,
}

#[derive(Debug, thiserror::Error)]
pub enum AddonError {
    #[error(transparent)]
    Store(#[from] CommitError),
    #[error("client: {0}")]
    Client(String),
    #[error("{0}")]
    Cluster(String),
}

impl Reconciler for AddonReconciler {
    type Error = AddonError;

    fn name(&self) -> &'static str {
        "addon"
    }

    fn keys(&self) -> Vec<String> {
        self.eks.cloud.store.view().list(keys::ADDONS).into_iter().map(|(key, _)| key.to_string()).collect()
    }

    fn affected(&self, changed: &str) -> Vec<String> {
        if changed.starts_with(keys::ADDONS) {
            return vec![changed.to_owned()];
        }
        // Those of a cluster that comes up.
        let Some(cluster) = changed.strip_prefix(keys::CLUSTERS) else { return Vec::new() };
        let prefix = format!("{}{cluster}/", keys::ADDONS);
        self.eks.cloud.store.view().list(&prefix).into_iter().map(|(key, _)| key.to_string()).collect()
    }

    fn reconcile(&self, key: String) -> BoxFuture<'_, Result<Next, AddonError>> {
        async move {
            let view = self.eks.cloud.store.view();
            // First, so that it is never newer than what is read of it.
            let revision = view.get(&key).map(|entry| entry.revision);
            let Some(addon) = view.get_as::<Addon>(&key) else {
                self.waits.end(&key);
                self.demands.forget(&key);
                return Ok(Next::OnChange);
            };
            let cluster_key = keys::cluster(&addon.scope, &addon.cluster);
            let reached =
                reach(&self.eks, &cluster_key).await.map_err(|e| AddonError::Client(e.to_string()))?;
            let (Some(Reached { cluster, slot, client }), Some(definition)) =
                (reached, catalogue::find(&addon.name))
            else {
                return Ok(Next::OnChange);
            };
            let facts = Facts::of(&self.eks, &cluster, &slot);
            let place = Place { key: &key, addon: &addon, revision, definition, client, facts };
            tokio::select! {
                next = self.tend(&place) => next,
                () = down(&self.eks, &cluster_key) => Ok(AT_ONCE),
            }
        }
        .boxed()
    }
}

impl AddonReconciler {
    pub fn new(eks: Eks) -> Self {
        Self { eks, waits: Waits::default(), demands: Demands::default() }
    }

    async fn tend(&self, place: &Place<'_>) -> Result<Next, AddonError> {
        // What there is to write or to remove does not depend on what the cluster shows.
        let actions = plan_addon(place.addon, Workload::Missing, 0);
        for action in &actions {
            match action {
                AddonAction::Apply => self.apply(place).await?,
                AddonAction::Remove if !self.remove(place).await? => return Ok(AT_ONCE),
                AddonAction::Remove => {}
                AddonAction::Forget => self.forget(place).await?,
                AddonAction::MarkActive | AddonAction::MarkDegraded | AddonAction::NoteIssues => {
                    return self.watch(place).await;
                }
            }
            tracing::info!(cluster = place.addon.cluster, addon = place.addon.name, ?action);
        }
        match place.addon.status {
            _ if !actions.is_empty() => Ok(AT_ONCE),
            AddonStatus::CreateFailed | AddonStatus::DeleteFailed => Ok(Next::OnChange),
            // What was refused leaves it as it is, and its cluster may grow.
            AddonStatus::UpdateFailed => tokio::select! {
                () = self.changed(place) => Ok(AT_ONCE),
                never = self.scale(place) => match never {},
            },
            _ => self.watch(place).await,
        }
    }

    /// Until its record changes or has to.
    async fn watch(&self, place: &Place<'_>) -> Result<Next, AddonError> {
        let mut changed = pin!(self.changed(place));
        let mut scaling = pin!(self.scale(place));
        let mut events = workload::watch(place.definition, place.client.clone()).boxed();
        let (mut found, mut known) = (None, None);
        loop {
            if let Some(workload) = known {
                let actions = plan_addon(place.addon, workload, self.unhealthy_ms(place, workload));
                for action in &actions {
                    tracing::info!(cluster = place.addon.cluster, addon = place.addon.name, ?action);
                    self.mark(place, action, workload).await?;
                }
                if !actions.is_empty() {
                    return Ok(AT_ONCE);
                }
            }
            let tick = async {
                match known {
                    Some(workload) if !workload.is_healthy() => tokio::time::sleep(TICK).await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                event = events.next() => match event {
                    Some(Ok(watcher::Event::Init)) => found = None,
                    Some(Ok(watcher::Event::InitApply(object))) => found = Some(object),
                    Some(Ok(watcher::Event::InitDone)) => known = Some(workload::read(place.definition.kind, found.take())),
                    Some(Ok(watcher::Event::Apply(object))) => known = Some(workload::read(place.definition.kind, Some(object))),
                    Some(Ok(watcher::Event::Delete(_))) => known = Some(Workload::Missing),
                    Some(Err(error)) => tracing::debug!(addon = place.addon.name, %error, "watching"),
                    None => return Ok(AT_ONCE),
                },
                () = &mut changed => return Ok(AT_ONCE),
                () = tick => {}
                never = &mut scaling => match never {},
            }
        }
    }

    async fn changed(&self, place: &Place<'_>) {
        let store = &self.eks.cloud.store;
        store.until(|view| view.get(place.key).map(|entry| entry.revision) != place.revision).await;
    }

    /// Keeps its replicas by the size of the cluster, if it is configured so.
    async fn scale(&self, place: &Place<'_>) -> Infallible {
        let Some(bounds) = objects::values(place).ok().as_ref().and_then(autoscaling::bounds) else {
            self.demands.forget(place.key);
            return std::future::pending().await;
        };
        let wanted = |size: (i64, i64), current: i64| {
            self.demands.replicas(&self.eks.cloud.env, place.key, size, current, bounds)
        };
        autoscaling::keep(place.definition, &place.client, wanted).await
    }

    fn unhealthy_ms(&self, place: &Place<'_>, workload: Workload) -> i64 {
        if workload.is_healthy() {
            self.waits.end(place.key);
            return 0;
        }
        self.waits.elapsed_ms(&self.eks.cloud.env, place.key)
    }

    async fn apply(&self, place: &Place<'_>) -> Result<(), AddonError> {
        self.waits.end(place.key);
        let written = match objects::check(place).await {
            // Whoever deletes it from now on deletes its objects.
            Ok(prepared) => {
                let touch = |addon: &mut Addon, _: &mut Txn| {
                    addon.touched = true;
                    Ok(())
                };
                if !self.change(place, touch).await? {
                    return Ok(());
                }
                objects::write(place, prepared).await
            }
            Err(refused) => Err(refused),
        };
        let issue = self.issue(place, written)?;
        let settle = |addon: &mut Addon, txn: &mut Txn| {
            let Some(issue) = &issue else {
                addon.applied = Some(addon.generation);
                return Ok(());
            };
            addon.status = match addon.status {
                AddonStatus::Creating => AddonStatus::CreateFailed,
                _ => AddonStatus::UpdateFailed,
            };
            addon.issues = vec![issue.clone()];
            let updates = keys::updates(&addon.scope, &addon.cluster);
            updates::fail(txn, &updates, UpdateOf::Addon(&addon.name), issue)
        };
        self.change(place, settle).await.map(drop)
    }

    /// `false` when that is refused for good, which its record says then.
    async fn remove(&self, place: &Place<'_>) -> Result<bool, AddonError> {
        let removed = objects::remove(place).await;
        let Some(issue) = self.issue(place, removed)? else { return Ok(true) };
        let failed = |addon: &mut Addon, _: &mut Txn| {
            addon.status = AddonStatus::DeleteFailed;
            addon.issues = vec![issue.clone()];
            Ok(())
        };
        self.change(place, failed).await?;
        Ok(false)
    }

    /// What its user is to be told. What may pass is tried again, but not for ever.
    fn issue(
        &self,
        place: &Place<'_>,
        outcome: Result<(), Refused>,
    ) -> Result<Option<HealthIssue>, AddonError> {
        let tries = format!("{} tries", place.key);
        let issue = match outcome {
            Ok(()) => None,
            Err(Refused::For(issue)) => Some(issue),
            Err(Refused::Passing(error)) => {
                let message = error.to_string();
                if self.waits.elapsed_ms(&self.eks.cloud.env, &tries) < ADDON_PATIENCE_MS {
                    return Err(AddonError::Cluster(message));
                }
                Some(HealthIssue { code: "ClusterUnreachable".into(), message, resource_ids: Vec::new() })
            }
        };
        self.waits.end(&tries);
        Ok(issue)
    }

    async fn mark(
        &self,
        place: &Place<'_>,
        action: &AddonAction,
        workload: Workload,
    ) -> Result<(), AddonError> {
        self.change(place, |addon, txn| {
            let updates = keys::updates(&addon.scope, &addon.cluster);
            let of = UpdateOf::Addon(&place.addon.name);
            addon.issues = workload.issue().into_iter().collect();
            match action {
                AddonAction::MarkActive => {
                    addon.status = AddonStatus::Active;
                    updates::finish(txn, &updates, of)
                }
                AddonAction::MarkDegraded => {
                    addon.status = AddonStatus::Degraded;
                    addon.issues.iter().try_for_each(|issue| updates::fail(txn, &updates, of, issue))
                }
                _ => Ok(()),
            }
        })
        .await
        .map(drop)
    }

    /// Changes the record, unless something else is asked for by now; whether it did.
    async fn change(
        &self,
        place: &Place<'_>,
        change: impl Fn(&mut Addon, &mut Txn) -> Result<(), CommitError>,
    ) -> Result<bool, AddonError> {
        let now = self.eks.cloud.env.now_ms();
        let body = |txn: &mut Txn| {
            let Some(mut addon) = txn.get::<Addon>(place.key)? else { return Ok(false) };
            let seen = place.addon;
            if (&addon.uid, addon.generation, addon.status) != (&seen.uid, seen.generation, seen.status) {
                return Ok(false);
            }
            change(&mut addon, txn)?;
            addon.modified_ms = now;
            txn.put(place.key, &addon)?;
            Ok::<_, CommitError>(true)
        };
        Ok(self.eks.cloud.store.transact(body).await?)
    }

    async fn forget(&self, place: &Place<'_>) -> Result<(), AddonError> {
        let addon = place.addon;
        let updates = keys::updates(&addon.scope, &addon.cluster);
        updates::forget(&self.eks.cloud.store, &updates, UpdateOf::Addon(&addon.name)).await?;
        let body = |txn: &mut Txn| {
            if txn.get::<Addon>(place.key)?.is_some_and(|now| now.uid == addon.uid) {
                txn.delete(place.key);
            }
            Ok::<_, CommitError>(())
        };
        Ok(self.eks.cloud.store.transact(body).await?)
    }
}

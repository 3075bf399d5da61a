//! Controllers of objects inside clusters: one of each kind for every cluster that is up.
//!
//! # Guarantees
//! - A step gets an object's name and nothing else; it looks at what is there, does one thing, and is called again.
//! - An object that changes, or whose step failed or waits, comes again. Nothing is remembered over a restart.
//!
//! # Assumptions
//! - A step may be dropped at any await, and is short: what takes long is asked for in the store and waited for.

use crate::Eks;
use crate::kubernetes::ClientError;
use ekstra_cloud::api::Refusal;
use ekstra_domain::eks::{Cluster, ControlPlaneSlot};
use ekstra_domain::names::keys;
use ekstra_engine::{Next, Reconciler};
use ekstra_store::{CommitError, Store};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use kube::Client;
use kube::runtime::watcher;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Who waits for a commit is looked at this often all the same.
const WAIT: Duration = Duration::from_secs(5);
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// The cluster that a controller works in.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) eks: Eks,
    pub(crate) cluster: Cluster,
    pub(crate) slot: Arc<ControlPlaneSlot>,
    pub(crate) client: Client,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Until the object changes.
    Settled,
    /// Until a commit that [`Controller::concerns`], or a while.
    Waiting,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    #[error("API server: {0}")]
    Kube(#[from] kube::Error),
    #[error(transparent)]
    Store(#[from] CommitError),
    /// For whoever made the object.
    #[error("{0}")]
    Refused(String),
}

impl Trouble {
    pub(crate) fn refused(why: impl Into<String>) -> Self {
        Self::Refused(why.into())
    }
}

impl From<Refusal> for Trouble {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Api(error) => Self::Refused(error.message),
            Refusal::Store(error) => Self::Store(error),
        }
    }
}

pub(crate) trait Controller: Send + Sync + Sized + 'static {
    type Key: Clone + Debug + Ord + Send + Sync;
    const NAME: &'static str;

    fn new(place: Place) -> Self;
    /// Objects that are there or have changed. Ends never; errors are tried again by it.
    fn watch(&self) -> BoxStream<'static, Result<Self::Key, watcher::Error>>;
    fn step(&self, key: Self::Key) -> BoxFuture<'_, Result<Outcome, Trouble>>;
    /// Whether the change of this store key may be what a step waits for.
    fn concerns(changed: &str) -> bool;
}

/// Keeps a `C` in every cluster that is up.
#[derive(Debug)]
pub(crate) struct Controllers<C> {
    eks: Eks,
    kind: PhantomData<fn() -> C>,
}

#[derive(Debug, thiserror::Error)]
#[error("client: {0}")]
pub(crate) struct ControllerError(String);

impl<C> Controllers<C> {
    pub(crate) fn new(eks: Eks) -> Self {
        Self { eks, kind: PhantomData }
    }
}

impl<C: Controller> Reconciler for Controllers<C> {
    type Error = ControllerError;

    fn name(&self) -> &'static str {
        C::NAME
    }

    fn keys(&self) -> Vec<String> {
        self.eks.cluster_keys()
    }

    fn affected(&self, changed: &str) -> Vec<String> {
        if changed.starts_with(keys::CLUSTERS) { vec![changed.to_owned()] } else { Vec::new() }
    }

    fn reconcile(&self, key: String) -> BoxFuture<'_, Result<Next, ControllerError>> {
        async move {
            let reached = reach(&self.eks, &key).await.map_err(|e| ControllerError(e.to_string()))?;
            let Some(Reached { cluster, slot, client }) = reached else { return Ok(Next::OnChange) };
            let controller = C::new(Place { eks: self.eks.clone(), cluster, slot, client });
            tokio::select! {
                () = work(&controller, &self.eks.cloud.store) => Ok(Next::After(FIRST_RETRY)),
                () = down(&self.eks, &key) => Ok(Next::After(Duration::from_millis(1))),
            }
        }
        .boxed()
    }
}

/// The cluster, when its API server can be expected to answer.
pub(crate) fn up(eks: &Eks, key: &str) -> Option<Cluster> {
    let cluster: Cluster = eks.cloud.store.view().get_as(key)?;
    cluster.status.is_up().then_some(cluster)
}

/// A cluster that is up, and the way to its API server.
pub(crate) struct Reached {
    pub(crate) cluster: Cluster,
    pub(crate) slot: Arc<ControlPlaneSlot>,
    pub(crate) client: Client,
}

/// `None` of one that is not up.
pub(crate) async fn reach(eks: &Eks, key: &str) -> Result<Option<Reached>, ClientError> {
    let Some(cluster) = up(eks, key) else { return Ok(None) };
    let Some(slot) = eks.slot(&cluster) else { return Ok(None) };
    let client = eks.clients.get(&slot).await?;
    Ok(Some(Reached { cluster, slot, client }))
}

/// Completes when the cluster is no longer up.
pub(crate) async fn down(eks: &Eks, key: &str) {
    eks.cloud.store.until(|_| up(eks, key).is_none()).await;
}

/// What is due, and when.
struct Agenda<K> {
    due: BTreeMap<K, Instant>,
    waiting: BTreeSet<K>,
    failures: BTreeMap<K, u32>,
}

impl<K: Clone + Ord> Agenda<K> {
    fn new() -> Self {
        Self { due: BTreeMap::new(), waiting: BTreeSet::new(), failures: BTreeMap::new() }
    }

    fn at(&mut self, key: K, at: Instant) {
        let due = self.due.entry(key).or_insert(at);
        *due = at.min(*due);
    }

    fn take(&mut self, now: Instant) -> Option<K> {
        let (key, _) = self.due.iter().filter(|(_, at)| **at <= now).min_by_key(|(_, at)| **at)?;
        let key = key.clone();
        self.due.remove(&key);
        self.waiting.remove(&key);
        Some(key)
    }

    fn wake_waiting(&mut self, now: Instant) {
        for key in std::mem::take(&mut self.waiting) {
            self.at(key, now);
        }
    }

    fn note(&mut self, key: K, outcome: &Result<Outcome, Trouble>, now: Instant) {
        match outcome {
            Ok(outcome) => {
                self.failures.remove(&key);
                if *outcome == Outcome::Waiting {
                    self.waiting.insert(key.clone());
                    self.at(key, now + WAIT);
                }
            }
            Err(_) => {
                let count = self.failures.entry(key.clone()).or_default();
                let delay = FIRST_RETRY.saturating_mul(1 << (*count).min(16)).min(LAST_RETRY);
                *count += 1;
                self.at(key, now + delay);
            }
        }
    }
}

async fn work<C: Controller>(controller: &C, store: &Store) {
    let mut agenda = Agenda::<C::Key>::new();
    let mut head = store.head();
    let mut seen = *head.borrow_and_update();
    let mut events = controller.watch();
    loop {
        if let Some(key) = agenda.take(Instant::now()) {
            let outcome = controller.step(key.clone()).await;
            if let Err(trouble) = &outcome {
                tracing::info!(controller = C::NAME, ?key, %trouble, "trying again");
            }
            agenda.note(key, &outcome, Instant::now());
        }
        let wake = agenda.due.values().min().copied();
        let sleep = async {
            match wake {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(key)) => agenda.at(key, Instant::now()),
                Some(Err(error)) => tracing::debug!(controller = C::NAME, %error, "watching"),
                None => return,
            },
            changed = head.changed() => {
                if changed.is_err() {
                    return;
                }
                let now = *head.borrow_and_update();
                let concerns = store.view().changed_since(seen).is_none_or(|c| c.iter().any(|key| C::concerns(key)));
                if concerns {
                    agenda.wake_waiting(Instant::now());
                }
                seen = now;
            }
            () = sleep => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_comes_in_order_and_what_fails_comes_later() {
        let start = Instant::now();
        let mut agenda = Agenda::new();
        agenda.at("b", start);
        agenda.at("a", start + Duration::from_secs(1));
        agenda.at("a", start + Duration::from_secs(3));
        assert_eq!(agenda.take(start), Some("b"));
        assert_eq!(agenda.take(start), None);
        let refused = Err(Trouble::refused("no"));
        let mut delays = Vec::new();
        for _ in 0..10 {
            agenda.note("b", &refused, start);
            delays.push(agenda.due["b"] - start);
            agenda.due.remove("b");
        }
        assert_eq!(delays[..2], [FIRST_RETRY, FIRST_RETRY * 2]);
        assert_eq!(delays[9], LAST_RETRY);
        agenda.note("b", &Ok(Outcome::Settled), start);
        assert!(agenda.failures.is_empty() && !agenda.due.contains_key("b"));
        assert_eq!(agenda.take(start + Duration::from_secs(1)), Some("a"), "the earlier time holds");
    }

    #[test]
    fn a_commit_wakes_what_waits() {
        let start = Instant::now();
        let mut agenda = Agenda::new();
        agenda.note("a", &Ok(Outcome::Waiting), start);
        assert_eq!(agenda.take(start), None);
        agenda.wake_waiting(start);
        assert_eq!(agenda.take(start), Some("a"));
        assert!(agenda.waiting.is_empty());
    }
}

//! The mirror of the state in memory, shared by writer and followers.
//!
//! Invariant: it holds exactly the commits up to `revision`, and `recent` the keys of the newest of them without a gap.

use crate::Revision;
use serde::de::DeserializeOwned;
use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// How many commits [`View::changed_since`] can look back.
const RECENT_COMMITS: usize = 4096;

/// One stored record.
#[derive(Clone, Debug)]
pub struct Entry {
    pub value: Arc<[u8]>,
    /// The commit that wrote this value.
    pub revision: Revision,
    /// The value as its first reader of [`View::shared`] took it; one that is written later is another entry.
    decoded: Arc<OnceLock<Arc<dyn Any + Send + Sync>>>,
}

impl Entry {
    pub(crate) fn new(value: Arc<[u8]>, revision: Revision) -> Self {
        Self { value, revision, decoded: Arc::default() }
    }

    fn shared<T: DeserializeOwned + Send + Sync + 'static>(&self, key: &str) -> Option<Arc<T>> {
        if let Some(known) = self.decoded.get().and_then(|known| known.clone().downcast().ok()) {
            return Some(known);
        }
        let read: Arc<T> = Arc::new(decode(key, self)?);
        // Another type's reader may have been first: then each reader of this one decodes for itself.
        let _ = self.decoded.set(read.clone());
        Some(read)
    }
}

/// One write of a commit; no value is a deletion.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Change {
    pub(crate) key: Arc<str>,
    pub(crate) value: Option<Arc<[u8]>>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) revision: Revision,
    entries: BTreeMap<Arc<str>, Entry>,
    recent: VecDeque<(Revision, Vec<Arc<str>>)>,
    /// Everything up to here may have fallen out of `recent`.
    forgotten: Revision,
}

impl State {
    pub(crate) fn loaded(revision: Revision, entries: BTreeMap<Arc<str>, Entry>) -> Self {
        Self { revision, entries, recent: VecDeque::new(), forgotten: revision }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.get(key)
    }

    pub(crate) fn apply(&mut self, revision: Revision, changes: &[Change]) {
        for change in changes {
            match &change.value {
                Some(value) => {
                    self.entries.insert(change.key.clone(), Entry::new(value.clone(), revision));
                }
                None => {
                    self.entries.remove(&change.key);
                }
            }
        }
        self.revision = revision;
        self.recent.push_back((revision, changes.iter().map(|c| c.key.clone()).collect()));
        if self.recent.len() > RECENT_COMMITS
            && let Some((old, _)) = self.recent.pop_front()
        {
            self.forgotten = old;
        }
    }

    /// Keys written or deleted after `since`; `None` if that is too long ago to know.
    pub(crate) fn changed_since(&self, since: Revision) -> Option<Vec<Arc<str>>> {
        if since < self.forgotten {
            return None;
        }
        let newer = self.recent.iter().filter(|(revision, _)| *revision > since);
        Some(newer.flat_map(|(_, keys)| keys.iter().cloned()).collect())
    }

    fn range<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a Arc<str>, &'a Entry)> {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        self.entries.range::<str, _>(from).take_while(move |(key, _)| key.starts_with(prefix))
    }
}

/// Reads of the current state; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct View {
    state: Arc<RwLock<State>>,
}

impl View {
    pub(crate) fn new(state: State) -> Self {
        Self { state: Arc::new(RwLock::new(state)) }
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn revision(&self) -> Revision {
        self.read().revision
    }

    pub fn get(&self, key: &str) -> Option<Entry> {
        self.read().get(key).cloned()
    }

    /// The record at `key`; `None` if absent or of another shape (which only a newer ekstra could have written).
    pub fn get_as<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        let entry = self.get(key)?;
        decode(key, &entry)
    }

    /// The record at `key`, decoded once for all who read it so: for what every request looks at.
    pub fn shared<T: DeserializeOwned + Send + Sync + 'static>(&self, key: &str) -> Option<Arc<T>> {
        self.get(key)?.shared(key)
    }

    /// Every record under `prefix`, in key order, each decoded once.
    pub fn list_shared<T: DeserializeOwned + Send + Sync + 'static>(
        &self,
        prefix: &str,
    ) -> Vec<(Arc<str>, Arc<T>)> {
        let entries = self.list(prefix);
        entries.into_iter().filter_map(|(key, entry)| entry.shared(&key).map(|v| (key, v))).collect()
    }

    /// Every record under `prefix`, in key order.
    pub fn list(&self, prefix: &str) -> Vec<(Arc<str>, Entry)> {
        self.read().range(prefix).map(|(k, e)| (k.clone(), e.clone())).collect()
    }

    pub fn list_as<T: DeserializeOwned>(&self, prefix: &str) -> Vec<(Arc<str>, T)> {
        let entries = self.list(prefix);
        entries.into_iter().filter_map(|(key, entry)| decode(&key, &entry).map(|v| (key, v))).collect()
    }

    pub fn changed_since(&self, since: Revision) -> Option<Vec<Arc<str>>> {
        self.read().changed_since(since)
    }
}

fn decode<T: DeserializeOwned>(key: &str, entry: &Entry) -> Option<T> {
    serde_json::from_slice(&entry.value)
        .inspect_err(|error| tracing::error!(key, %error, "a record of an unknown shape is left alone"))
        .ok()
}

//! A transaction: what it read, what it will write.
//!
//! Invariant: every value that influenced the writes is in the read set, because reading goes through the
//! transaction itself.

use crate::Revision;
use crate::memory::{Change, State, View};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The most writes one transaction may hold (etcd's limit is 128; one store must not promise more than another).
pub const MAX_WRITES: usize = 100;

/// Why a transaction could not be built.
#[derive(Debug, thiserror::Error)]
pub enum TxnError {
    #[error("record {key} has a shape that this version does not know: {source}")]
    Shape { key: String, source: serde_json::Error },
    #[error("record {key} cannot be written: {source}")]
    Encode { key: String, source: serde_json::Error },
}

/// Reads from one state, remembers what it read, and collects writes.
#[derive(Debug)]
pub struct Txn {
    view: View,
    base: Revision,
    reads: Vec<(Arc<str>, Option<Revision>)>,
    prefixes: Vec<String>,
    writes: BTreeMap<Arc<str>, Option<Arc<[u8]>>>,
}

impl Txn {
    pub(crate) fn new(view: View) -> Self {
        let base = view.revision();
        Self { view, base, reads: Vec::new(), prefixes: Vec::new(), writes: BTreeMap::new() }
    }

    /// The record at `key`, this transaction's own write first.
    pub fn get<T: DeserializeOwned>(&mut self, key: &str) -> Result<Option<T>, TxnError> {
        if let Some(written) = self.writes.get(key) {
            return written.as_deref().map(|bytes| parse(key, bytes)).transpose();
        }
        let entry = self.view.get(key);
        self.reads.push((key.into(), entry.as_ref().map(|e| e.revision)));
        entry.map(|e| parse(key, &e.value)).transpose()
    }

    pub fn exists(&mut self, key: &str) -> bool {
        if let Some(written) = self.writes.get(key) {
            return written.is_some();
        }
        let entry = self.view.get(key);
        self.reads.push((key.into(), entry.as_ref().map(|e| e.revision)));
        entry.is_some()
    }

    /// Every record under `prefix` in key order, this transaction's own writes applied.
    pub fn list<T: DeserializeOwned>(&mut self, prefix: &str) -> Result<Vec<(Arc<str>, T)>, TxnError> {
        self.prefixes.push(prefix.to_owned());
        let stored = self.view.list(prefix).into_iter().map(|(key, entry)| (key, Some(entry.value)));
        let mut found: BTreeMap<Arc<str>, Option<Arc<[u8]>>> = stored.collect();
        let own = self.writes.iter().filter(|(key, _)| key.starts_with(prefix));
        found.extend(own.map(|(key, value)| (key.clone(), value.clone())));
        let present = found.into_iter().filter_map(|(key, value)| Some((key, value?)));
        present.map(|(key, value)| parse(&key, &value).map(|record| (key, record))).collect()
    }

    pub fn put<T: Serialize + ?Sized>(&mut self, key: &str, value: &T) -> Result<(), TxnError> {
        let encoded =
            serde_json::to_vec(value).map_err(|source| TxnError::Encode { key: key.to_owned(), source })?;
        self.writes.insert(key.into(), Some(encoded.into()));
        Ok(())
    }

    pub fn delete(&mut self, key: &str) {
        self.writes.insert(key.into(), None);
    }

    pub fn is_read_only(&self) -> bool {
        self.writes.is_empty()
    }

    pub(crate) fn write_count(&self) -> usize {
        self.writes.len()
    }

    pub(crate) fn changes(&self) -> Vec<Change> {
        self.writes.iter().map(|(key, value)| Change { key: key.clone(), value: value.clone() }).collect()
    }

    /// Whether a write of `key` could have changed this transaction's mind.
    pub(crate) fn depends_on(&self, key: &str) -> bool {
        self.reads.iter().any(|(read, _)| &**read == key)
            || self.prefixes.iter().any(|prefix| key.starts_with(prefix.as_str()))
    }

    /// The first key whose state is no longer what this transaction read.
    pub(crate) fn conflict(&self, state: &State) -> Option<Arc<str>> {
        if state.revision == self.base {
            return None;
        }
        let stale = |(key, seen): &&(Arc<str>, Option<Revision>)| state.get(key).map(|e| e.revision) != *seen;
        if let Some((key, _)) = self.reads.iter().find(stale) {
            return Some(key.clone());
        }
        if self.prefixes.is_empty() {
            return None;
        }
        let Some(changed) = state.changed_since(self.base) else {
            return Some(self.prefixes[0].as_str().into());
        };
        changed.into_iter().find(|key| self.prefixes.iter().any(|prefix| key.starts_with(prefix.as_str())))
    }
}

fn parse<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T, TxnError> {
    serde_json::from_slice(bytes).map_err(|source| TxnError::Shape { key: key.to_owned(), source })
}

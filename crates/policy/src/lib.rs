//! The IAM policy language: parse, evaluate, explain.
//!
//! Source: IAM User Guide, "IAM JSON policy elements reference" and "Policy evaluation logic".
//!
//! Invariant: no I/O, no clock; everything that a decision depends on is in its arguments. **Invariant:** what is not
//! understood is refused when a policy is parsed, and never skipped when it is evaluated.

mod condition;
mod document;
mod evaluate;
mod pattern;

pub use document::{Kind, MalformedPolicy, Policy, Principals};
pub use evaluate::{Decision, Layer, Named, Policies, Reason, Request, decide};

use std::collections::BTreeMap;

/// What is known of a request, by condition key. Keys do not care about case.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Context(BTreeMap<String, Vec<String>>);

impl Context {
    pub fn set(&mut self, key: &str, value: impl Into<String>) {
        self.0.insert(key.to_lowercase(), vec![value.into()]);
    }

    /// A key with several values, such as `aws:TagKeys`; without any it is not there.
    pub fn set_all(&mut self, key: &str, values: impl IntoIterator<Item = String>) {
        let values: Vec<String> = values.into_iter().collect();
        if !values.is_empty() {
            self.0.insert(key.to_lowercase(), values);
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&[String]> {
        self.0.get(&key.to_lowercase()).map(Vec::as_slice)
    }

    /// A variable has the value of a key that has one value.
    pub(crate) fn variable(&self, key: &str) -> Option<&str> {
        match self.get(key)? {
            [one] => Some(one),
            _ => None,
        }
    }
}

//! What becomes of updates: DescribeUpdate follows them, reconcilers settle them.
//!
//! Invariant: an update leaves InProgress in the transaction that writes what it waited for.

use ekstra_domain::eks::{HealthIssue, Update, UpdateOf, UpdateStatus};
use ekstra_store::{CommitError, MAX_WRITES, Store, Txn};

/// Updates that were waiting for what is now true.
pub(crate) fn finish(txn: &mut Txn, prefix: &str, of: UpdateOf<'_>) -> Result<(), CommitError> {
    settle(txn, prefix, of, |update| update.status = UpdateStatus::Successful)
}

/// Updates that were waiting for what will not be.
pub(crate) fn fail(
    txn: &mut Txn,
    prefix: &str,
    of: UpdateOf<'_>,
    issue: &HealthIssue,
) -> Result<(), CommitError> {
    settle(txn, prefix, of, |update| {
        update.status = UpdateStatus::Failed;
        update.errors.push((update_code(&issue.code).to_owned(), issue.message.clone()));
    })
}

/// The code that an update has for a health issue (`ErrorCode` in the EKS API reference).
fn update_code(issue: &str) -> &str {
    match issue {
        "InsufficientFreeAddresses"
        | "NodeCreationFailure"
        | "InsufficientNumberOfReplicas"
        | "ConfigurationConflict"
        | "AdmissionRequestDenied"
        | "K8sResourceNotFound"
        | "ClusterUnreachable" => issue,
        _ => "Unknown",
    }
}

fn settle(
    txn: &mut Txn,
    prefix: &str,
    of: UpdateOf<'_>,
    change: impl Fn(&mut Update),
) -> Result<(), CommitError> {
    for (key, mut update) in txn.list::<Update>(prefix)? {
        if update.status == UpdateStatus::InProgress && update.concerns() == of {
            change(&mut update);
            txn.put(&key, &update)?;
        }
    }
    Ok(())
}

/// How many settled updates of one thing are kept. They carry whole configurations.
const KEPT: usize = 20;

/// Removes the oldest that are settled.
pub(crate) fn keep_few(txn: &mut Txn, prefix: &str, of: UpdateOf<'_>) -> Result<(), CommitError> {
    let all = txn.list::<Update>(prefix)?.into_iter();
    let mut settled: Vec<_> =
        all.filter(|(_, u)| u.concerns() == of && u.status != UpdateStatus::InProgress).collect();
    settled.sort_by_key(|(_, update)| update.created_ms);
    // What is too much for one transaction goes with those that come.
    let surplus = settled.len().saturating_sub(KEPT).min(MAX_WRITES / 2);
    settled.iter().take(surplus).for_each(|(key, _)| txn.delete(key));
    Ok(())
}

/// Removes everything under a prefix, a transaction's worth at a time.
pub(crate) async fn forget_all(store: &Store, prefix: &str) -> Result<(), CommitError> {
    loop {
        let body = |txn: &mut Txn| {
            let all = txn.list::<serde_json::Value>(prefix)?;
            let found: Vec<_> = all.into_iter().take(MAX_WRITES).collect();
            found.iter().for_each(|(key, _)| txn.delete(key));
            Ok::<_, CommitError>(found.len())
        };
        if store.transact(body).await? < MAX_WRITES {
            return Ok(());
        }
    }
}

/// Removes the updates of a cluster and of all that it has, or of one part of it, a transaction's worth at a time: whoever
/// makes another of the same name must not find them.
pub(crate) async fn forget(store: &Store, prefix: &str, of: UpdateOf<'_>) -> Result<(), CommitError> {
    while store.transact(|txn| forget_some(txn, prefix, of)).await? == MAX_WRITES {}
    Ok(())
}

/// Removes as many as a transaction has room for; answers how many.
pub(crate) fn forget_some(txn: &mut Txn, prefix: &str, of: UpdateOf<'_>) -> Result<usize, CommitError> {
    let goes = |update: &Update| of == UpdateOf::Cluster || update.concerns() == of;
    let all = txn.list::<Update>(prefix)?;
    let found: Vec<_> = all.into_iter().filter(|(_, update)| goes(update)).take(MAX_WRITES).collect();
    found.iter().for_each(|(key, _)| txn.delete(key));
    Ok(found.len())
}

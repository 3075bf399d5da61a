//! What becomes of updates: DescribeUpdate follows them, reconcilers settle them.
//!
//! Invariant: an update leaves InProgress in the transaction that writes what it waited for.

use ekstra_domain::eks::{HealthIssue, Update, UpdateStatus};
use ekstra_store::{CommitError, MAX_WRITES, Store, Txn};

/// Updates that were waiting for what is now true.
pub(crate) fn finish(txn: &mut Txn, prefix: &str, nodegroup: Option<&str>) -> Result<(), CommitError> {
    settle(txn, prefix, nodegroup, |update| update.status = UpdateStatus::Successful)
}

/// Updates that were waiting for what will not be.
pub(crate) fn fail(
    txn: &mut Txn,
    prefix: &str,
    nodegroup: Option<&str>,
    issue: &HealthIssue,
) -> Result<(), CommitError> {
    settle(txn, prefix, nodegroup, |update| {
        update.status = UpdateStatus::Failed;
        update.errors.push((update_code(&issue.code).to_owned(), issue.message.clone()));
    })
}

/// The code that an update has for a node group's health issue (`ErrorCode` in the EKS API reference).
fn update_code(issue: &str) -> &str {
    match issue {
        "InsufficientFreeAddresses" | "NodeCreationFailure" => issue,
        _ => "Unknown",
    }
}

fn settle(
    txn: &mut Txn,
    prefix: &str,
    nodegroup: Option<&str>,
    change: impl Fn(&mut Update),
) -> Result<(), CommitError> {
    for (key, mut update) in txn.list::<Update>(prefix)? {
        if update.status == UpdateStatus::InProgress && update.nodegroup.as_deref() == nodegroup {
            change(&mut update);
            txn.put(&key, &update)?;
        }
    }
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

/// Removes the updates of a cluster, or of one of its node groups, a transaction's worth at a time: whoever makes
/// another of the same name must not find them.
pub(crate) async fn forget(store: &Store, prefix: &str, nodegroup: Option<&str>) -> Result<(), CommitError> {
    loop {
        let body = |txn: &mut Txn| {
            let all = txn.list::<Update>(prefix)?;
            let of_group = |update: &Update| nodegroup.is_none() || update.nodegroup.as_deref() == nodegroup;
            let found: Vec<_> = all.into_iter().filter(|(_, u)| of_group(u)).take(MAX_WRITES).collect();
            found.iter().for_each(|(key, _)| txn.delete(key));
            Ok::<_, CommitError>(found.len())
        };
        if store.transact(body).await? < MAX_WRITES {
            return Ok(());
        }
    }
}

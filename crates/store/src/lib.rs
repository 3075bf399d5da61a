//! The state of one ekstra service: ordered keys with revisions.
//!
//! [`Store`] is the only writer (`ekstra serve`); [`Follower`] is a reader in another process (`ekstra gate`)
//! that follows the commit log. Both answer reads from memory.
//!
//! # Guarantees
//! - A transaction is a read set and at most [`MAX_WRITES`] writes; it commits only if nothing that it read has
//!   changed, and is on disk (SQLite, WAL, `synchronous=FULL`) before [`Store::commit`] returns.
//! - Revisions are strictly increasing; every commit has one.
//! - A follower applies whole commits, in order.
//!
//! # Caveats
//! - The whole state is held in memory; values are small JSON records, not blobs.
//! - A file that fails SQLite's check is refused and never written to.

mod disk;
mod follower;
mod memory;
mod store;
mod txn;

pub use disk::{OpenError, check};
pub use follower::Follower;
pub use memory::{Entry, View};
pub use store::{CommitError, Store};
pub use txn::{MAX_WRITES, Txn, TxnError};

/// The position of a commit in the log; 0 is before the first.
pub type Revision = u64;

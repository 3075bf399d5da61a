//! Backups: what of a home cannot be made again, in one file; and a home made of one.
//!
//! In it: the state, keys and credentials, the keys of every control plane and a snapshot of its data, images that were
//! loaded. Not in it: nodes' disks (nodes boot anew), volumes and their snapshots, logs.
//!
//! Invariant: what a restore replaces is moved aside, never deleted; and until it is finished no service starts.

mod archive;
mod restore;
mod state;

pub(crate) use archive::create;
pub(crate) use restore::{is_begun, is_rootless, restore, restore_state};
pub(crate) use state::{keep, newest};

/// Below the home: copies of the state.
const DIRECTORY: &str = "backups";

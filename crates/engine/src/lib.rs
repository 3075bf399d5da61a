//! What every part of the service runs on: the environment (clock, ids) and the reconcile driver.
//!
//! Invariant: no operation and no reconciler reads the clock or makes an id by itself.

mod blocking;
mod env;
mod reconcile;
mod waits;

pub use blocking::blocking;
pub use env::{Chance, Clock, Env, SystemChance, SystemClock};
pub use reconcile::{Next, Reconciler, Shutdown, drive};
pub use waits::Waits;

//! The crate from outside, on real files. One program, so that it links once. Invariant: no test needs a
//! network, root, or anything that another test leaves behind.

mod import;
mod pack;
mod registry;
mod store;
mod support;

//! Images without a registry elsewhere: what nodes pull, where it is kept, and how it gets there.
//!
//! - [`reference`]: image names as people and nodes write them
//! - [`digest`], [`manifest`]: content addresses, and the two documents that tie blobs together
//! - [`store`]: the only owner of the files on disk
//! - [`import`]: archives and layouts into the store
//! - [`pack`]: a root file system into the store, the same bytes each time
//! - [`registry`]: the OCI distribution API over the store, without sockets
//!
//! Invariant: this crate opens no socket, starts no task and is synchronous throughout; an async caller
//! runs it on a blocking thread. Blobs and manifests are kept byte for byte as they came.

pub mod digest;
pub mod import;
pub mod manifest;
pub mod pack;
pub mod reference;
pub mod registry;
mod spool;
pub mod store;

pub use digest::Digest;
pub use manifest::Descriptor;
pub use reference::{Reference, Repository};
pub use store::ImageStore;

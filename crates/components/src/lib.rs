//! The upstream programs that ekstra runs but does not write: which ones, at which pinned version, how they
//! are built, and where they lie once they are.
//!
//! - [`recipe`]: what there is, as data (`components/recipes.toml`)
//! - [`Store`]: the content-addressed cache; `ensure` builds what is missing
//! - [`NodeImage`]: the root file system of a node, as overlay layers
//! - [`system_image`]: the container images every node needs, as OCI archives
//! - [`bundle`]: all of it in one file, for machines that build nothing
//! - [`relock`]: renews the node image's package lock
//!
//! Invariant: whatever has its final name in the cache is complete. Builds happen under `tmp/` and are
//! renamed into place.

mod build;
pub mod bundle;
mod cache;
mod embedded;
mod ensure;
mod error;
mod key;
pub mod node_image;
mod progress;
pub mod recipe;
mod store;
pub mod system_image;
mod tools;

pub use bundle::{Bundle, BundleError, Packed, Prebuilt};
pub use cache::default_cache_dir;
pub use error::EnsureError;
pub use node_image::NodeImage;
pub use node_image::relock::relock;
pub use progress::{Progress, Silent};
pub use recipe::{Component, Group, KubernetesVersion, Recipes};
pub use store::{Listed, Paths, State, Store};

/// The version of a C library that can be linked on this machine.
pub fn library_version(library: &str) -> Option<String> {
    tools::Tools::of_environment().library_version(library)
}

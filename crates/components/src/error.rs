//! What can go wrong on the way to a component, told so that the reader knows what to type next.

use std::io;
use std::path::{Path, PathBuf};

use crate::recipe::Component;

/// Why a component could not be had. The variant is the step that failed.
#[derive(Debug, thiserror::Error)]
pub enum EnsureError {
    #[error("there is no component {0}")]
    Unknown(Component),
    #[error("{0} is not built")]
    Missing(Component),
    #[error("the cache at {path}: {source}")]
    Cache { path: PathBuf, source: io::Error },
    #[error("{tool} is needed {purpose} and was not found; install it: {install}")]
    MissingTool { tool: String, purpose: String, install: String },
    #[error(
        "Go {needed} or newer is needed to build {component}, and {found} is installed; install it: {install}"
    )]
    OldGo { component: Component, needed: String, found: String, install: String },
    #[error("could not run {program}: {source}")]
    Spawn { program: PathBuf, source: io::Error },
    #[error("building {component} failed; the last lines are\n{tail}\nand the whole log is {log}")]
    Build { component: Component, tail: String, log: PathBuf },
}

impl EnsureError {
    /// For `map_err` on a file operation under the cache.
    pub(crate) fn cache(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Cache { path, source }
    }
}

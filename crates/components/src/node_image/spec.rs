//! What the base consists of, as `components/node-image/image.toml` says.

use std::sync::LazyLock;

use serde::Deserialize;

use crate::embedded;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Spec {
    /// Debian release by code name.
    pub(crate) suite: String,
    /// On top of Debian's essential set.
    pub(crate) packages: Vec<String>,
    /// dpkg path patterns left out.
    pub(crate) exclude: Vec<String>,
    /// Exceptions to `exclude`.
    pub(crate) keep: Vec<String>,
    /// Relative to the root.
    pub(crate) directories: Vec<String>,
}

impl Spec {
    pub(crate) fn get() -> &'static Self {
        static SPEC: LazyLock<Spec> = LazyLock::new(|| {
            toml::from_str(embedded::NODE_IMAGE).expect("the embedded image parses: a test reads it")
        });
        &SPEC
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_image_parses() {
        let spec = Spec::get();
        assert!(spec.packages.iter().any(|package| package == "nftables"));
        assert!(spec.directories.iter().all(|dir| !dir.starts_with('/')));
    }
}

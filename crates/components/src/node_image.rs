//! The root file system of a node ("AMI"), as read-only directories to be laid over each other: a Debian base
//! of locked packages, the runtime programs, the kubelet of one Kubernetes release.
//! Invariant: a layer never changes once it has its name; nodes mount them while others are being made.

mod apt;
mod base;
mod error;
mod lock;
pub mod relock;
mod spec;

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

pub use error::NodeImageError;

use crate::cache::Cache;
use crate::error::EnsureError;
use crate::key::KeyHasher;
use crate::progress::Progress;
use crate::recipe::{Component, Group, KubernetesVersion};
use crate::store::{Paths, Store};

/// What a node mounts as its root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeImage {
    /// For overlayfs's `lowerdir=`, topmost first: kubelet, runtime programs, base.
    pub lowers: Vec<PathBuf>,
}

impl NodeImage {
    /// The value of overlayfs's `lowerdir` option.
    pub fn lowerdir(&self) -> String {
        let dirs: Vec<_> = self.lowers.iter().map(|dir| dir.to_string_lossy()).collect();
        dirs.join(":")
    }
}

impl Store {
    /// The node image for one Kubernetes release, made if it is not there. Making the base needs root.
    pub fn node_image(
        &self,
        kubernetes: &KubernetesVersion,
        progress: &dyn Progress,
    ) -> Result<NodeImage, NodeImageError> {
        let components = self.recipes.group(Group::Node, kubernetes);
        let paths = self.ensure(&components, progress)?;
        let base = self.node_base(progress)?;
        let (of_release, shared): (Vec<_>, Vec<_>) =
            components.iter().partition(|component| self.is_of_release(component));
        let kubelet = self.program_layer(&format!("kubelet-{}", kubernetes.version), &of_release, &paths)?;
        let programs = self.program_layer("programs", &shared, &paths)?;
        Ok(NodeImage { lowers: vec![kubelet, programs, base] })
    }

    /// Whether the base is there, or everything that making it needs.
    pub fn check_node_base(&self) -> Result<(), NodeImageError> {
        base::check_makeable(self)
    }

    /// The base alone: a directory with the locked Debian packages.
    pub fn node_base(&self, progress: &dyn Progress) -> Result<PathBuf, NodeImageError> {
        base::ensure(self, progress)
    }

    fn is_of_release(&self, component: &Component) -> bool {
        self.recipes.find(component).is_some_and(|recipe| recipe.kubernetes.is_some())
    }

    /// A directory with the programs of `components` where a node looks for them.
    fn program_layer(
        &self,
        name: &str,
        components: &[&Component],
        paths: &Paths,
    ) -> Result<PathBuf, NodeImageError> {
        let files = self.placed(components, paths);
        let target = self.cache.dir("node-images").join(format!("{name}-{}", layer_key(&files)?));
        publish_layer(&self.cache, &files, &target).map_err(EnsureError::cache(&target))?;
        Ok(target)
    }

    /// Where each program lies, and where it goes, relative to the node's root.
    fn placed(&self, components: &[&Component], paths: &Paths) -> Vec<(PathBuf, PathBuf)> {
        let programs = paths.iter().filter(|(component, ..)| components.contains(component));
        let placed = programs.filter_map(|(component, name, path)| {
            let place = self.recipes.find(component)?.place.as_ref()?;
            Some((path.to_owned(), Path::new(place).join(name)))
        });
        placed.collect()
    }
}

/// Where the base of this release of ekstra has its place.
#[cfg(test)]
pub(crate) fn base_directory(store: &Store) -> Result<PathBuf, NodeImageError> {
    base::place(store)
}

/// Built programs are known by their path; those that the user gave may change under theirs.
fn layer_key(files: &[(PathBuf, PathBuf)]) -> Result<String, EnsureError> {
    let mut hasher = KeyHasher::default();
    for (from, to) in files {
        let file = fs::metadata(from).map_err(EnsureError::cache(from))?;
        hasher.add(from.as_os_str().as_encoded_bytes()).add(to.as_os_str().as_encoded_bytes());
        hasher.add(format!("{} {}", file.len(), file.mtime()));
    }
    Ok(hasher.key())
}

fn publish_layer(cache: &Cache, files: &[(PathBuf, PathBuf)], target: &Path) -> io::Result<()> {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let _lock = cache.lock(&name, || ())?;
    if target.exists() {
        return Ok(());
    }
    let scratch = cache.scratch()?;
    let layer = scratch.path().join("layer");
    for (from, to) in files {
        let to = layer.join(to);
        to.parent().map_or(Ok(()), fs::create_dir_all)?;
        link_or_copy(from, &to)?;
    }
    scratch.publish(&layer, target)
}

/// The same file twice where that works, else a copy.
fn link_or_copy(from: &Path, to: &Path) -> io::Result<()> {
    let from = from.canonicalize()?;
    let copy = || fs::copy(&from, to).map(drop);
    // A link to another user's file would be theirs to change.
    match fs::metadata(&from)?.uid() == fs::metadata("/proc/self")?.uid() {
        true => fs::hard_link(&from, to).or_else(|_| copy()),
        false => copy(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_has_the_tree_of_a_node() {
        let home = tempfile::tempdir().expect("tmp");
        let cache = Cache::open(home.path()).expect("opens");
        let program = home.path().join("ptp");
        fs::write(&program, "ptp").expect("writable");
        let files = vec![(program, PathBuf::from("opt/cni/bin/ptp"))];
        let target = cache.dir("node-images").join("programs-x");
        publish_layer(&cache, &files, &target).expect("made");
        publish_layer(&cache, &files, &target).expect("there already");
        assert_eq!(fs::read_to_string(target.join("opt/cni/bin/ptp")).expect("there"), "ptp");
    }

    #[test]
    fn lowerdir_is_topmost_first() {
        let image = NodeImage { lowers: vec!["/a".into(), "/b".into()] };
        assert_eq!(image.lowerdir(), "/a:/b");
    }
}

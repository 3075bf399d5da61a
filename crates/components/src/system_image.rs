//! The container images that every node needs (pause, kube-proxy, CoreDNS), as OCI archives that
//! `ctr images import` and `docker load` take. Made without a daemon or a registry.
//! Invariant: the same programs give the same bytes.

mod archive;
mod closure;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use serde::Deserialize;

use crate::embedded;
use crate::error::EnsureError;
use crate::key::KeyHasher;
use crate::node_image::NodeImageError;
use crate::progress::Progress;
use crate::recipe::{Component, KubernetesVersion, Recipe};
use crate::store::{Paths, Store};
use archive::{Contents, Image};

/// Raised when [`archive`] writes other bytes.
const RECIPE: &str = "1";

/// Why an image could not be had. The variant is the step that failed.
#[derive(Debug, thiserror::Error)]
pub enum SystemImageError {
    #[error(transparent)]
    Ensure(#[from] EnsureError),
    #[error("the image {image} takes programs from the node image: {source}")]
    NodeImage { image: String, source: Box<NodeImageError> },
    #[error("the image {image} names a component that there is not: {component}")]
    Recipe { image: String, component: String },
    #[error("finding the shared libraries of {program}: {reason}")]
    Libraries { program: PathBuf, reason: String },
    #[error("writing the image {image}: {source}")]
    Write { image: String, source: io::Error },
}

/// One image on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemImage {
    /// Every reference it answers to, the main one first: `registry.k8s.io/pause:3.10`.
    pub names: Vec<String>,
    /// An OCI layout in a tar, with docker's `manifest.json` besides.
    pub archive: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Images {
    image: Vec<RawImage>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawImage {
    name: String,
    #[serde(default)]
    also: Vec<String>,
    component: String,
    /// Path in the image to program of the component.
    files: BTreeMap<String, String>,
    #[serde(default)]
    from_node: Vec<String>,
    entrypoint: Vec<String>,
}

impl RawImage {
    fn all() -> &'static [Self] {
        static IMAGES: LazyLock<Images> = LazyLock::new(|| {
            toml::from_str(embedded::IMAGES).expect("the embedded images parse: a test reads them")
        });
        &IMAGES.image
    }

    fn names(&self, recipe: &Recipe) -> Vec<String> {
        let names = [&self.name].into_iter().chain(&self.also);
        names.map(|name| name.replace("{version}", &recipe.component.version)).collect()
    }
}

impl Store {
    /// The archives of all system images for one Kubernetes release, made if they are not there. Needs root
    /// when the node image's base is not there yet.
    pub fn system_images(
        &self,
        kubernetes: &KubernetesVersion,
        progress: &dyn Progress,
    ) -> Result<Vec<SystemImage>, SystemImageError> {
        let recipes = RawImage::all().iter().map(|raw| self.image_recipe(raw, kubernetes));
        let recipes = recipes.collect::<Result<Vec<_>, _>>()?;
        let components: Vec<Component> = recipes.iter().map(|recipe| recipe.component.clone()).collect();
        let paths = self.ensure(&components, progress)?;
        let images = RawImage::all().iter().zip(recipes);
        images.map(|(raw, recipe)| self.system_image(raw, recipe, &paths, progress)).collect()
    }

    fn image_recipe(
        &self,
        raw: &RawImage,
        kubernetes: &KubernetesVersion,
    ) -> Result<&Recipe, SystemImageError> {
        self.recipes.named(&raw.component, kubernetes).ok_or_else(|| SystemImageError::Recipe {
            image: raw.name.clone(),
            component: raw.component.clone(),
        })
    }

    fn system_image(
        &self,
        raw: &RawImage,
        recipe: &Recipe,
        paths: &Paths,
        progress: &dyn Progress,
    ) -> Result<SystemImage, SystemImageError> {
        let names = raw.names(recipe);
        let write = |source| SystemImageError::Write { image: names[0].clone(), source };
        let mut contents = Contents::default();
        for (path, program) in &raw.files {
            let unknown = || SystemImageError::Recipe { image: raw.name.clone(), component: program.clone() };
            let from = paths.of(&recipe.component, program).ok_or_else(unknown)?;
            contents.file(path, from, 0o755);
        }
        self.add_from_node(raw, &mut contents, progress)?;
        let key = image_key(raw, &names, &contents).map_err(write)?;
        let archive = self.cache.dir("images").join(format!("{}-{key}.tar", recipe.component.name));
        let image = Image { names: &names, entrypoint: &raw.entrypoint, contents: &contents };
        self.publish_image(&image, &archive).map_err(write)?;
        Ok(SystemImage { names, archive })
    }

    fn add_from_node(
        &self,
        raw: &RawImage,
        contents: &mut Contents,
        progress: &dyn Progress,
    ) -> Result<(), SystemImageError> {
        if raw.from_node.is_empty() {
            return Ok(());
        }
        let no_base =
            |source| SystemImageError::NodeImage { image: raw.name.clone(), source: Box::new(source) };
        let rootfs = self.node_base(progress).map_err(no_base)?;
        // Debian's merged /usr: the program interpreter is /lib64/….
        for dir in ["bin", "lib", "lib64", "sbin"] {
            if rootfs.join(dir).is_symlink() {
                contents.link(dir, &format!("usr/{dir}"));
            }
        }
        for program in &raw.from_node {
            for file in closure::of(&rootfs, program)? {
                contents.file(&file, &rootfs.join(&file), 0o755);
            }
        }
        Ok(())
    }

    fn publish_image(&self, image: &Image<'_>, target: &Path) -> io::Result<()> {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let _lock = self.cache.lock(&name, || ())?;
        if target.exists() {
            return Ok(());
        }
        let scratch = self.cache.scratch()?;
        let archive = image.write(scratch.path())?;
        scratch.publish(&archive, target)
    }
}

/// By path and size of every file: builds are known by their path, which carries their own key.
fn image_key(raw: &RawImage, names: &[String], contents: &Contents) -> io::Result<String> {
    let mut hasher = KeyHasher::default();
    hasher.add(RECIPE).add(names.join(" ")).add(raw.entrypoint.join(" "));
    contents.files().try_for_each(|(path, from)| {
        let file = fs::metadata(from)?;
        hasher.add(path).add(from.as_os_str().as_encoded_bytes()).add(file.len().to_le_bytes());
        let modified = file.modified()?.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        hasher.add(modified.as_secs().to_le_bytes());
        io::Result::Ok(())
    })?;
    Ok(hasher.key())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Recipes;

    #[test]
    fn every_image_is_of_a_component_that_provides_its_files() {
        let recipes = Recipes::get();
        for raw in RawImage::all() {
            let recipe = recipes.named(&raw.component, recipes.default_kubernetes()).expect("offered");
            for program in raw.files.values() {
                assert!(recipe.programs.contains_key(program), "{program} is not of {}", raw.component);
            }
            assert!(raw.names(recipe).iter().all(|name| name.contains(':') && !name.contains('{')));
            assert!(raw.files.contains_key(raw.entrypoint[0].trim_start_matches('/')));
        }
    }
}

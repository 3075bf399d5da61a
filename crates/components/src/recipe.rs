//! What there is to build, read from `components/recipes.toml`.
//! Invariant: a recipe is complete; every placeholder is filled in before anybody sees it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::LazyLock;

use serde::Deserialize;

use crate::embedded;

/// Who needs a component. Builds run in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Group {
    ControlPlane,
    Node,
    Images,
    Client,
}

/// A Kubernetes release on offer: `1.36` is its minor, `1.36.3` its version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
pub struct KubernetesVersion {
    /// As EKS spells it: `1.36`.
    pub minor: String,
    /// The release behind it, without the `v`.
    pub version: String,
    released: String,
    #[serde(default)]
    default: bool,
}

impl fmt::Display for KubernetesVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.minor)
    }
}

/// The name of one thing to have: `kubelet` of `1.36.3`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Component {
    pub name: String,
    /// Without the `v`.
    pub version: String,
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.version)
    }
}

/// How one component is built.
#[derive(Debug, Clone)]
pub struct Recipe {
    pub component: Component,
    /// The Kubernetes minor it belongs to, if any.
    pub kubernetes: Option<String>,
    pub group: Group,
    /// Directory of `components/`.
    pub module: String,
    /// The requirement of its go.mod that carries the version; empty for our own program.
    pub pin: String,
    /// File name to Go package.
    pub programs: BTreeMap<String, String>,
    /// Program to its further names.
    pub links: BTreeMap<String, Vec<String>>,
    /// Directory on a node, relative to its root.
    pub place: Option<String>,
    pub tags: Vec<String>,
    pub cgo: bool,
    pub ldflags: String,
    /// CPU seconds of a cold build.
    pub cost: u32,
}

impl Recipe {
    /// Every file name the component provides: its programs, then their further names.
    pub fn provides(&self) -> impl Iterator<Item = &str> {
        self.programs.keys().chain(self.links.values().flatten()).map(String::as_str)
    }

    /// Whether clusters of that Kubernetes release use it.
    fn serves(&self, kubernetes: &KubernetesVersion) -> bool {
        self.kubernetes.as_ref().is_none_or(|minor| *minor == kubernetes.minor)
    }
}

/// Everything on offer.
#[derive(Debug)]
pub struct Recipes {
    all: Vec<Recipe>,
    kubernetes: Vec<KubernetesVersion>,
}

impl Recipes {
    /// The recipes compiled in.
    pub fn get() -> &'static Self {
        static RECIPES: LazyLock<Recipes> = LazyLock::new(|| {
            Recipes::parse(embedded::RECIPES).expect("the embedded recipes parse: a test reads them")
        });
        &RECIPES
    }

    pub(crate) fn parse(text: &str) -> Result<Self, toml::de::Error> {
        let raw: RawRecipes = toml::from_str(text)?;
        let mut all: Vec<Recipe> = raw.component.iter().flat_map(|one| one.expand(&raw.kubernetes)).collect();
        all.sort_by_key(|recipe| recipe.group);
        Ok(Self { all, kubernetes: raw.kubernetes })
    }

    /// Every recipe, in the order of need.
    pub fn all(&self) -> &[Recipe] {
        &self.all
    }

    /// The Kubernetes releases on offer.
    pub fn kubernetes(&self) -> &[KubernetesVersion] {
        &self.kubernetes
    }

    /// What a cluster gets that names no version.
    pub fn default_kubernetes(&self) -> &KubernetesVersion {
        self.kubernetes.iter().find(|one| one.default).unwrap_or(&self.kubernetes[0])
    }

    /// The release for `1.36`, or for exactly `1.36.3`.
    pub fn find_kubernetes(&self, version: &str) -> Option<&KubernetesVersion> {
        self.kubernetes.iter().find(|one| one.minor == version || one.version == version)
    }

    /// The recipe of a component.
    pub fn find(&self, component: &Component) -> Option<&Recipe> {
        self.all.iter().find(|recipe| recipe.component == *component)
    }

    /// A component by name: that of the given Kubernetes release, or the one that belongs to none.
    pub fn named(&self, name: &str, kubernetes: &KubernetesVersion) -> Option<&Recipe> {
        self.all.iter().find(|recipe| recipe.component.name == name && recipe.serves(kubernetes))
    }

    /// What a group needs under a Kubernetes release, in the order of need.
    pub fn group(&self, group: Group, kubernetes: &KubernetesVersion) -> Vec<Component> {
        let of_group = self.all.iter().filter(|recipe| recipe.group == group && recipe.serves(kubernetes));
        of_group.map(|recipe| recipe.component.clone()).collect()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRecipes {
    kubernetes: Vec<KubernetesVersion>,
    component: Vec<RawRecipe>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRecipe {
    name: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    module: String,
    #[serde(default)]
    pin: String,
    #[serde(default)]
    kubernetes: bool,
    group: Group,
    programs: BTreeMap<String, String>,
    #[serde(default)]
    links: BTreeMap<String, Vec<String>>,
    place: Option<String>,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    cgo: bool,
    #[serde(default)]
    ldflags: String,
    cost: u32,
}

impl RawRecipe {
    /// One recipe; for a component of Kubernetes, one for each release on offer.
    fn expand(&self, releases: &[KubernetesVersion]) -> Vec<Recipe> {
        if !self.kubernetes {
            let ldflags = self.ldflags.replace("{version}", &self.version);
            return vec![self.recipe(&self.version, &self.module, None, ldflags)];
        }
        releases.iter().map(|release| self.of_release(release)).collect()
    }

    fn of_release(&self, release: &KubernetesVersion) -> Recipe {
        let ldflags = format!("{} {}", self.ldflags, version_flags(release)).trim().to_owned();
        let module = format!("kubernetes-{}", release.minor);
        self.recipe(&release.version, &module, Some(release.minor.clone()), ldflags)
    }

    fn recipe(&self, version: &str, module: &str, kubernetes: Option<String>, ldflags: String) -> Recipe {
        Recipe {
            component: Component { name: self.name.clone(), version: version.to_owned() },
            kubernetes,
            group: self.group,
            module: module.to_owned(),
            pin: self.pin.clone(),
            programs: self.programs.clone(),
            links: self.links.clone(),
            place: self.place.clone(),
            tags: self.tags.clone(),
            cgo: self.cgo,
            ldflags,
            cost: self.cost,
        }
    }
}

/// What upstream's release scripts tell the linker (hack/lib/version.sh), with fixed values: builds repeat.
/// The commit stays empty, since a module's archive does not carry it.
fn version_flags(release: &KubernetesVersion) -> String {
    let (major, minor) = release.minor.split_once('.').unwrap_or((&release.minor, ""));
    let values = [
        ("gitVersion", format!("v{}", release.version)),
        ("gitMajor", major.to_owned()),
        ("gitMinor", minor.to_owned()),
        ("gitCommit", String::new()),
        ("gitTreeState", "clean".to_owned()),
        ("buildDate", release.released.clone()),
    ];
    let packages = ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"];
    let flags = packages.iter().flat_map(|package| {
        values.iter().map(move |(variable, value)| format!("-X {package}.{variable}={value}"))
    });
    flags.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn go_mod(module: &str) -> &'static str {
        embedded::module(module).expect("embedded").files[0].1
    }

    #[test]
    fn every_recipe_is_what_its_go_mod_pins() {
        for recipe in Recipes::get().all() {
            let text = go_mod(&recipe.module);
            if recipe.pin.is_empty() {
                assert!(!text.contains("require"), "{} has dependencies but no pin", recipe.component);
                continue;
            }
            let wanted = format!("{} v{}", recipe.pin, recipe.component.version);
            let pinned = text.lines().any(|line| {
                let line = line.trim().trim_start_matches("require ").trim_end_matches(" // indirect");
                line == wanted
            });
            assert!(pinned, "components/{}/go.mod does not require {wanted}", recipe.module);
        }
    }

    #[test]
    fn staging_modules_are_of_the_same_release() {
        for release in Recipes::get().kubernetes() {
            let staging = format!("v0.{}", release.version.trim_start_matches("1."));
            for line in go_mod(&format!("kubernetes-{}", release.minor)).lines().filter(|l| l.contains("=>"))
            {
                assert!(line.ends_with(&staging), "{line}");
            }
        }
    }

    #[test]
    fn the_control_plane_comes_first_and_every_name_is_provided_once() {
        let recipes = Recipes::get();
        assert_eq!(recipes.all()[0].group, Group::ControlPlane);
        let release = recipes.default_kubernetes();
        let mut names: Vec<&str> =
            recipes.all().iter().filter(|one| one.serves(release)).flat_map(Recipe::provides).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(names.contains(&"kube-apiserver"));
    }

    #[test]
    fn versions_are_found_by_minor_and_by_release() {
        let recipes = Recipes::get();
        assert_eq!(recipes.find_kubernetes("1.36").expect("offered").version, "1.36.3");
        assert_eq!(recipes.find_kubernetes("1.36.3"), recipes.find_kubernetes("1.36"));
        assert_eq!(recipes.find_kubernetes("1.2"), None);
        let minors: Vec<&str> = recipes.kubernetes().iter().map(|one| one.minor.as_str()).collect();
        assert_eq!(minors, ["1.37", "1.36", "1.35", "1.34"], "the newest first");
    }

    #[test]
    fn placeholders_are_filled_in() {
        for recipe in Recipes::get().all() {
            assert!(!recipe.ldflags.contains('{'), "{}", recipe.ldflags);
        }
        let kubelet = Recipes::get().named("kubelet", Recipes::get().default_kubernetes()).expect("there");
        assert!(kubelet.ldflags.contains("-X k8s.io/component-base/version.gitVersion=v1.36.3 "));
    }
}

//! The store of components: what is there, what is missing, and where each program lies.
//! Invariant: a path handed out is that of a complete build, or of a program the user gave.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use crate::build;
use crate::bundle::MARK;
use crate::cache::{Cache, size_of};
use crate::embedded::{self, Module};
use crate::error::EnsureError;
use crate::key::{self, KeyHasher};
use crate::progress::Progress;
use crate::recipe::{Component, Recipe, Recipes};
use crate::tools::{Go, Tools};

/// The file that says what a cached build is.
pub(crate) const MANIFEST: &str = "component.json";

/// The components of this machine. Cheap to open; any number of processes may share one cache.
#[derive(Debug)]
pub struct Store {
    pub(crate) cache: Cache,
    pub(crate) overrides: Option<PathBuf>,
    /// Another user's cache, whose complete builds are as good as one's own.
    pub(crate) lender: Option<PathBuf>,
    pub(crate) tools: Tools,
    pub(crate) recipes: &'static Recipes,
    /// `go env` is asked once.
    pub(crate) go: Mutex<Option<Go>>,
}

/// Where the programs of the ensured components lie.
#[derive(Debug, Clone, Default)]
pub struct Paths(pub(crate) BTreeMap<Component, BTreeMap<String, PathBuf>>);

impl Paths {
    /// A program by file name: `kube-apiserver`, `etcd`, `ptp`. With several Kubernetes releases in one
    /// answer, that of the lowest; use [`Paths::of`] then.
    pub fn program(&self, name: &str) -> Option<&Path> {
        self.0.values().find_map(|programs| programs.get(name)).map(PathBuf::as_path)
    }

    /// A program of exactly this component.
    pub fn of(&self, component: &Component, program: &str) -> Option<&Path> {
        self.0.get(component)?.get(program).map(PathBuf::as_path)
    }

    /// Every program: component, file name, path.
    pub fn iter(&self) -> impl Iterator<Item = (&Component, &str, &Path)> {
        self.0.iter().flat_map(|(component, programs)| {
            programs.iter().map(move |(name, path)| (component, name.as_str(), path.as_path()))
        })
    }
}

/// Whether a component is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Built,
    Missing,
    /// Given by the user.
    Prebuilt,
    /// Came in a bundle.
    Bundled,
}

/// One line of [`Store::list`].
#[derive(Debug, Clone)]
pub struct Listed {
    pub component: Component,
    pub state: State,
    /// The directory of its programs; where it will be when it is missing and Go is there to say.
    pub path: Option<PathBuf>,
    /// Bytes on disk.
    pub size: u64,
}

/// What [`MANIFEST`] holds.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) name: String,
    pub(crate) version: String,
    /// Key of the recipe alone.
    pub(crate) recipe: String,
    /// Who built it.
    pub(crate) go: String,
}

/// Where one component is or will be.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) recipe: &'static Recipe,
    pub(crate) module: &'static Module,
    pub(crate) hasher: KeyHasher,
}

impl Store {
    /// Opens the cache (creating it) and removes what interrupted builds left. `overrides` holds programs by
    /// name that are taken instead of building; those of one Kubernetes minor may lie in `<overrides>/1.36/`.
    pub fn open(cache_dir: impl AsRef<Path>, overrides: Option<PathBuf>) -> Result<Self, EnsureError> {
        Self::with_tools(cache_dir.as_ref(), overrides, Tools::of_environment())
    }

    pub(crate) fn with_tools(
        cache_dir: &Path,
        overrides: Option<PathBuf>,
        tools: Tools,
    ) -> Result<Self, EnsureError> {
        let cache = Cache::open(cache_dir).map_err(EnsureError::cache(cache_dir))?;
        Ok(Self { cache, overrides, lender: None, tools, recipes: Recipes::get(), go: Mutex::new(None) })
    }

    /// Also takes complete builds from the cache in that directory; nothing is written to it.
    pub fn borrowing(self, cache_dir: impl Into<PathBuf>) -> Self {
        Self { lender: Some(cache_dir.into()), ..self }
    }

    /// The cache's directory.
    pub fn cache_dir(&self) -> &Path {
        self.cache.root()
    }

    /// Makes sure that all of `what` is there, building what is not, in the order of need and at most two at
    /// once, and says where the programs lie. Waits for another process that builds the same.
    pub fn ensure(&self, what: &[Component], progress: &dyn Progress) -> Result<Paths, EnsureError> {
        crate::ensure::ensure(self, what, progress)
    }

    /// Whether everything is there that building what is missing of `what` needs; the error names what is not.
    pub fn check(&self, what: &[Component]) -> Result<(), EnsureError> {
        crate::ensure::check(self, what)
    }

    /// Every component on offer and whether it is there. Builds nothing.
    pub fn list(&self) -> Result<Vec<Listed>, EnsureError> {
        let go = self.go().ok();
        self.recipes.all().iter().map(|recipe| self.listed(recipe, go.as_ref())).collect()
    }

    fn listed(&self, recipe: &'static Recipe, go: Option<&Go>) -> Result<Listed, EnsureError> {
        let component = recipe.component.clone();
        if let Some(programs) = self.prebuilt(recipe) {
            let path = programs.values().next().and_then(|path| path.parent()).map(Path::to_owned);
            let size = programs.values().map(|path| path.metadata().map_or(0, |file| file.len())).sum();
            return Ok(Listed { component, state: State::Prebuilt, path, size });
        }
        let site = self.site(&component)?;
        if let Some(dir) = self.built(&site, go) {
            let state = if is_bundled(&dir) { State::Bundled } else { State::Built };
            let (path, size) = (Some(dir.join("bin")), size_of(&dir));
            return Ok(Listed { component, state, path, size });
        }
        let path = go.map(|go| self.final_dir(&site, go).join("bin"));
        Ok(Listed { component, state: State::Missing, path, size: 0 })
    }

    /// The toolchain, asked for its version once.
    pub(crate) fn go(&self) -> Result<Go, EnsureError> {
        let mut known = self.go.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(go) = &*known {
            return Ok(go.clone());
        }
        let go = self.tools.go()?;
        *known = Some(go.clone());
        Ok(go)
    }

    pub(crate) fn site(&self, component: &Component) -> Result<Site, EnsureError> {
        let unknown = || EnsureError::Unknown(component.clone());
        let recipe = self.recipes.find(component).ok_or_else(unknown)?;
        let module = embedded::module(&recipe.module).ok_or_else(unknown)?;
        Ok(Site { recipe, module, hasher: key::recipe_hasher(recipe, module, build::FLAGS) })
    }

    /// Where a build by this Go release has its place.
    pub(crate) fn final_dir(&self, site: &Site, go: &Go) -> PathBuf {
        let Component { name, version } = &site.recipe.component;
        let key = key::build_key(&site.hasher, &go.identity);
        self.cache.dir("components").join(format!("{name}-{version}-{key}"))
    }

    /// The complete build, if there is one. On a machine without Go, one by any Go release will do; so will one from a
    /// bundle.
    pub(crate) fn built(&self, site: &Site, go: Option<&Go>) -> Option<PathBuf> {
        let own = self.cache.dir("components");
        let made_here = match go {
            Some(go) => Some(self.final_dir(site, go)).filter(|dir| dir.join(MANIFEST).exists()),
            None => built_by_any(&own, site).next(),
        };
        let bundled = || built_by_any(&own, site).find(|dir| is_bundled(dir));
        let lent = || built_by_any(&self.lender.as_ref()?.join("components"), site).next();
        made_here.or_else(bundled).or_else(lent)
    }
}

fn built_by_any(builds: &Path, site: &Site) -> impl Iterator<Item = PathBuf> {
    let recipe = site.hasher.key();
    let dirs = fs::read_dir(builds).into_iter().flatten().flatten().map(|entry| entry.path());
    dirs.filter(move |dir| read_manifest(dir).is_some_and(|manifest| manifest.recipe == recipe))
}

fn is_bundled(dir: &Path) -> bool {
    dir.join(MARK).exists()
}

impl Store {
    /// The user's own programs for this component: all of them or none.
    pub(crate) fn prebuilt(&self, recipe: &Recipe) -> Option<BTreeMap<String, PathBuf>> {
        let root = self.overrides.as_ref()?;
        let of_minor = recipe.kubernetes.iter().map(|minor| root.join(minor));
        of_minor.chain([root.clone()]).find_map(|dir| prebuilt_in(&dir, recipe))
    }
}

fn read_manifest(dir: &Path) -> Option<Manifest> {
    serde_json::from_slice(&fs::read(dir.join(MANIFEST)).ok()?).ok()
}

/// A multi-call program is given under each of its further names; they may be links to one file.
fn prebuilt_in(dir: &Path, recipe: &Recipe) -> Option<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    for program in recipe.programs.keys() {
        let links = recipe.links.get(program).map_or(&[][..], Vec::as_slice);
        let names = links.iter().chain(links.is_empty().then_some(program));
        for name in names {
            found.insert(name.clone(), Some(dir.join(name)).filter(|path| path.is_file())?);
        }
    }
    Some(found)
}

/// The programs of a build, by name.
pub(crate) fn programs_in(dir: &Path, recipe: &Recipe) -> BTreeMap<String, PathBuf> {
    let bin = dir.join("bin");
    recipe.provides().map(|name| (name.to_owned(), bin.join(name))).collect()
}

//! The upstream programs and machine images, from the component cache.

use crate::home::Home;
use anyhow::{Context, Result, anyhow, bail};
use ekstra_cloud::ec2::instances::MachineImages;
use ekstra_components::{
    Group, KubernetesVersion, Listed, Prebuilt, Progress, Recipes, Silent, State, Store,
};
use ekstra_eks::{OfferedVersion, Programs};
use ekstra_images::import::{ImportOptions, import_path};
use ekstra_images::{ImageStore, Reference};
use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Components of this machine as the service uses them.
#[derive(Clone, Debug)]
pub(crate) struct Components {
    store: Arc<Store>,
    home: Home,
    /// Answers that do not change: looking them up asks the Go toolchain.
    found: Arc<Mutex<HashMap<String, Vec<PathBuf>>>>,
    /// One at a time makes what is missing; the others wait for it.
    making: Arc<Mutex<()>>,
}

/// `EKSTRA_CACHE`, or the user's cache directory; with what is given instead of built programs, failing that by
/// `EKSTRA_COMPONENTS`, failing that when the home's service was last started with such.
pub(crate) fn open_store(home: &Home, prebuilt: Option<Prebuilt>, progress: &dyn Progress) -> Result<Store> {
    let cache = ekstra_components::default_cache_dir().context("neither EKSTRA_CACHE nor HOME is set")?;
    let of_environment = || std::env::var_os("EKSTRA_COMPONENTS").filter(|word| !word.is_empty());
    let prebuilt = match (prebuilt, of_environment()) {
        (None, Some(word)) => Some(parse_prebuilt(&word)?),
        (None, None) => remembered(home)?,
        (given, _) => given,
    };
    match prebuilt {
        Some(Prebuilt::Directory(directory)) => {
            check_directory(&directory)?;
            Ok(Store::open(cache, Some(directory))?)
        }
        Some(Prebuilt::Bundle(bundle)) => {
            let store = Store::open(cache, None)?;
            store.take(&bundle, progress)?;
            Ok(store)
        }
        None => Ok(Store::open(cache, None)?),
    }
}

/// What the service was last started with.
fn remembered(home: &Home) -> Result<Option<Prebuilt>> {
    let Some(directory) = home.programs_directory() else { return Ok(None) };
    check_directory(&directory).with_context(|| {
        let file = home.programs_file();
        format!("the service was last started with these programs; `rm {}` forgets them", file.display())
    })?;
    Ok(Some(Prebuilt::Directory(directory)))
}

/// What `--components` says.
pub(crate) fn parse_prebuilt(word: &OsStr) -> Result<Prebuilt> {
    Prebuilt::parse(word).map_err(|reason| anyhow!("--components: {reason}"))
}

/// Programs that are not there are built: a wrong directory would be found out minutes later, if at all.
fn check_directory(directory: &Path) -> Result<()> {
    let recipes = Recipes::get().all();
    let names: BTreeSet<&str> = recipes.iter().flat_map(|recipe| recipe.provides()).collect();
    let minors = Recipes::get().kubernetes().iter().map(|version| directory.join(&version.minor));
    let mut places = minors.chain([directory.to_owned()]);
    if places.any(|place| names.iter().any(|name| place.join(name).is_file())) {
        return Ok(());
    }
    let some = ["etcd", "kubelet", "containerd"].join(", ");
    bail!(
        "--components {}: there is no program in it that clusters are made of ({some} ...)",
        directory.display()
    )
}

impl Components {
    pub(crate) fn open(home: &Home, prebuilt: Option<Prebuilt>, lender: Option<PathBuf>) -> Result<Self> {
        match &prebuilt {
            Some(Prebuilt::Directory(directory)) => home.remember_programs_directory(directory)?,
            // A bundle is in the cache from now on.
            Some(Prebuilt::Bundle(_)) => drop(fs::remove_file(home.programs_file())),
            None => {}
        }
        let own = open_store(home, prebuilt, &Silent)?;
        let store = match lender {
            Some(cache) => own.borrowing(cache),
            None => own,
        };
        Ok(Self::of_store(home, store))
    }

    pub(crate) fn of_store(home: &Home, store: Store) -> Self {
        Self { store: Arc::new(store), home: home.clone(), found: Arc::default(), making: Arc::default() }
    }

    fn remember(
        &self,
        what: &str,
        find: impl FnOnce() -> Result<Vec<PathBuf>, String>,
    ) -> Result<Vec<PathBuf>, String> {
        let lock = || self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = lock().get(what).filter(|paths| paths.iter().all(|p| p.exists())) {
            return Ok(known.clone());
        }
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = lock().get(what).filter(|paths| paths.iter().all(|p| p.exists())) {
            return Ok(known.clone());
        }
        let paths = find()?;
        lock().insert(what.to_owned(), paths.clone());
        Ok(paths)
    }

    fn control_program(&self, name: &str, version: &KubernetesVersion) -> Result<PathBuf, String> {
        let found = self.remember(&format!("{name} {}", version.minor), || {
            let components = Recipes::get().group(Group::ControlPlane, version);
            let paths = self.store.ensure(&components, &Silent).map_err(|e| e.to_string())?;
            let program = paths.program(name).ok_or_else(|| format!("no component provides {name}"))?;
            Ok(vec![program.to_owned()])
        })?;
        Ok(found[0].clone())
    }
}

fn version(minor: &str) -> Result<&'static KubernetesVersion, String> {
    Recipes::get().find_kubernetes(minor).ok_or_else(|| format!("Kubernetes {minor} is not offered"))
}

impl Programs for Components {
    fn versions(&self) -> Vec<OfferedVersion> {
        let offered = |v: &KubernetesVersion| OfferedVersion {
            minor: v.minor.clone(),
            patch: v.version.clone(),
            default: v.minor == Recipes::get().default_kubernetes().minor,
        };
        Recipes::get().kubernetes().iter().map(offered).collect()
    }

    fn control_plane(&self, program: &str, minor: &str) -> Result<PathBuf, String> {
        self.control_program(program, version(minor)?)
    }
}

impl MachineImages for Components {
    fn layers(&self, kubernetes_version: &str) -> Result<Vec<PathBuf>, String> {
        let version = version(kubernetes_version)?;
        self.remember(&format!("layers {}", version.minor), || {
            let image = self.store.node_image(version, &Silent).map_err(|e| e.to_string())?;
            let own = own_layer(&self.home).map_err(|e| format!("{e:#}"))?;
            self.offer_system_images(version).map_err(|e| format!("{e:#}"))?;
            Ok(std::iter::once(own).chain(image.lowers).collect())
        })
    }
}

impl Components {
    /// Nodes pull the system images from `gate` as they pull any other: an image that no pod of theirs needs costs
    /// them nothing, and joining does not wait for it.
    fn offer_system_images(&self, version: &KubernetesVersion) -> Result<()> {
        let images = ImageStore::open(self.home.path("images"))?;
        for image in self.store.system_images(version, &Silent)? {
            let known = |name: &String| images.resolve(&Reference::parse(name)?).map_err(anyhow::Error::from);
            let offered = image.names.iter().map(known).collect::<Result<Vec<_>>>()?;
            if offered.iter().any(Option::is_none) {
                import_path(&images, &image.archive, &ImportOptions { name: None })?;
            }
        }
        Ok(())
    }

    /// Prepares what the first node will need, if that takes no building.
    pub(crate) fn prefetch(&self) {
        let version = Recipes::get().default_kubernetes();
        let needed = [Group::Node, Group::Images].map(|group| Recipes::get().group(group, version)).concat();
        let is_built = |l: &Listed| l.state != State::Missing || !needed.contains(&l.component);
        if self.store.list().is_ok_and(|listed| listed.iter().all(is_built))
            && let Err(error) = self.layers(&version.minor)
        {
            tracing::warn!(error, "the node image is not ready");
        }
    }
}

/// The layer that is ekstra's own: PID 1.
fn own_layer(home: &Home) -> Result<PathBuf> {
    let program = home.program();
    let metadata = fs::metadata(&program)?;
    let modified = metadata.modified()?.duration_since(std::time::UNIX_EPOCH)?.as_nanos();
    let layer = home.path("layers").join(format!("node-{:x}-{modified:x}", metadata.len()));
    if layer.exists() {
        return Ok(layer);
    }
    let partial = layer.with_extension("partial");
    let _ = fs::remove_dir_all(&partial);
    let bin = partial.join("usr/local/bin");
    fs::create_dir_all(&bin)?;
    link_or_copy(&program, &bin.join("ekstra-node"))?;
    fs::rename(&partial, &layer)?;
    Ok(layer)
}

fn link_or_copy(from: &Path, to: &Path) -> Result<()> {
    // A link to another user's file would be theirs to change.
    let is_own = fs::metadata(from)?.uid() == nix::unistd::geteuid().as_raw();
    if !is_own || fs::hard_link(from, to).is_err() {
        fs::copy(from, to).with_context(|| format!("{} to {}", from.display(), to.display()))?;
    }
    Ok(())
}

/// The programs that a cluster without nodes needs.
pub(crate) fn ensure_control_plane(
    store: &Store,
    version: &KubernetesVersion,
    progress: &dyn Progress,
) -> Result<()> {
    ensure_groups(store, version, progress, &[Group::ControlPlane, Group::Client])
}

/// The programs that a first cluster with nodes needs.
pub(crate) fn ensure_programs(
    store: &Store,
    version: &KubernetesVersion,
    progress: &dyn Progress,
) -> Result<()> {
    let groups = [Group::ControlPlane, Group::Node, Group::Images, Group::Client];
    ensure_groups(store, version, progress, &groups)
}

fn ensure_groups(
    store: &Store,
    version: &KubernetesVersion,
    progress: &dyn Progress,
    groups: &[Group],
) -> Result<()> {
    let groups: Vec<_> = groups.iter().map(|group| Recipes::get().group(*group, version)).collect();
    // A tool that only the last group needs is told before the first has been built for minutes.
    store.check(&groups.concat())?;
    groups.iter().try_for_each(|group| store.ensure(group, progress).map(drop))?;
    Ok(())
}

/// The same, and what nodes boot from; that needs root.
pub(crate) fn ensure_all(store: &Store, version: &KubernetesVersion, progress: &dyn Progress) -> Result<()> {
    store.check_node_base()?;
    ensure_programs(store, version, progress)?;
    store.node_image(version, progress)?;
    store.system_images(version, progress)?;
    Ok(())
}

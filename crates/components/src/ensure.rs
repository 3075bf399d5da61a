//! The order of builds: what is there is taken, what is missing is checked for its tools, then built by two
//! workers.
//! Invariant: two builds of one module never run at once, here or in another process. They share most packages,
//! and two Go processes would compile each of them twice.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::build::Build;
use crate::error::EnsureError;
use crate::progress::{Job, Progress};
use crate::recipe::Component;
use crate::store::{MANIFEST, Manifest, Paths, Site, Store, programs_in};
use crate::tools::Go;

/// Builds at once. Each uses every core; the second, at lower priority but for the control plane, fills the
/// gaps that linking leaves.
const WORKERS: usize = 2;

/// As [`Store::ensure`] says.
pub(crate) fn ensure(
    store: &Store,
    what: &[Component],
    progress: &dyn Progress,
) -> Result<Paths, EnsureError> {
    let Survey { mut paths, missing } = survey(store, what)?;
    if !missing.is_empty() {
        build_all(store, missing, &store.go()?, progress, &mut paths)?;
    }
    Ok(paths)
}

/// As [`Store::check`] says.
pub(crate) fn check(store: &Store, what: &[Component]) -> Result<(), EnsureError> {
    let missing = survey(store, what)?.missing;
    if missing.is_empty() {
        return Ok(());
    }
    let go = store.go()?;
    missing.iter().try_for_each(|site| store.tools.check(site.recipe, site.module, &go))
}

/// What is there, and what has to be built.
#[derive(Default)]
struct Survey {
    paths: Paths,
    missing: Vec<Site>,
}

fn survey(store: &Store, what: &[Component]) -> Result<Survey, EnsureError> {
    let mut survey = Survey::default();
    // Asked for when something has to be looked up that was built with it.
    let mut go = None;
    for component in what {
        let site = store.site(component)?;
        if let Some(programs) = store.prebuilt(site.recipe) {
            survey.paths.0.insert(component.clone(), programs);
            continue;
        }
        match store.built(&site, go.get_or_insert_with(|| store.go().ok()).as_ref()) {
            Some(dir) => {
                survey.paths.0.insert(component.clone(), programs_in(&dir, site.recipe));
            }
            None => survey.missing.push(site),
        }
    }
    Ok(survey)
}

fn build_all(
    store: &Store,
    mut missing: Vec<Site>,
    go: &Go,
    progress: &dyn Progress,
    paths: &mut Paths,
) -> Result<(), EnsureError> {
    missing.sort_by_key(|site| site.recipe.group);
    missing.dedup_by(|a, b| a.recipe.component == b.recipe.component);
    missing.iter().try_for_each(|site| store.tools.check(site.recipe, site.module, go))?;
    let queue = Queue::new(missing);
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| work(store, go, progress, &queue));
        }
    });
    let finished = queue.into_result()?;
    paths.0.extend(finished.0);
    Ok(())
}

fn work(store: &Store, go: &Go, progress: &dyn Progress, queue: &Queue) {
    while let Some(site) = queue.next() {
        let result = build_one(store, &site, go, progress);
        queue.done(&site, result);
    }
}

fn build_one(store: &Store, site: &Site, go: &Go, progress: &dyn Progress) -> Result<PathBuf, EnsureError> {
    let Component { name, version } = &site.recipe.component;
    let (begun, dir) = (Instant::now(), store.final_dir(site, go));
    progress.started(name, version, estimate(site));
    let job = Job::new(name, progress);
    let waiting = || job.note("another process builds it: waiting");
    let lock_name = dir.file_name().unwrap_or_default().to_string_lossy();
    let _lock = store.cache.lock(&lock_name, waiting).map_err(EnsureError::cache(&dir))?;
    if store.built(site, Some(go)).is_none() {
        build_into(store, site, go, &job, &dir)?;
    }
    job.at(1.0, "done");
    progress.finished(name, begun.elapsed());
    Ok(dir)
}

fn build_into(store: &Store, site: &Site, go: &Go, job: &Job<'_>, dir: &Path) -> Result<(), EnsureError> {
    let waiting = || job.note("another process builds from the same module: waiting");
    let module_lock = format!("module-{}", site.recipe.module);
    let _module = store.cache.lock(&module_lock, waiting).map_err(EnsureError::cache(dir))?;
    let scratch = store.cache.scratch().map_err(EnsureError::cache(dir))?;
    let tools = (&store.tools, go);
    let out = Build::new(site.recipe, site.module, tools, job, &store.cache)?.run(scratch.path())?;
    let manifest = Manifest {
        name: site.recipe.component.name.clone(),
        version: site.recipe.component.version.clone(),
        recipe: site.hasher.key(),
        go: go.identity.clone(),
    };
    let text = serde_json::to_vec_pretty(&manifest).map_err(|error| EnsureError::cache(dir)(error.into()))?;
    fs::write(out.join(MANIFEST), text).map_err(EnsureError::cache(&out))?;
    scratch.publish(&out, dir).map_err(EnsureError::cache(dir))
}

/// A first guess: the CPU seconds over the cores that one of two builds gets.
fn estimate(site: &Site) -> Duration {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Duration::from_secs(u64::from(site.recipe.cost)).div_f64((cores as f64 * 0.75).max(1.0))
}

/// What is left to build, in order, and what came of the rest.
struct Queue {
    state: Mutex<Progressing>,
    changed: Condvar,
}

struct Progressing {
    left: Vec<Site>,
    busy: BTreeSet<String>,
    finished: Paths,
    failed: Option<EnsureError>,
}

impl Queue {
    fn new(left: Vec<Site>) -> Self {
        let state = Progressing { left, busy: BTreeSet::new(), finished: Paths::default(), failed: None };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// The first whose module is free; waits while there are only others. `None` when nothing is left or
    /// something failed.
    fn next(&self) -> Option<Site> {
        let mut state = self.lock();
        loop {
            if state.left.is_empty() || state.failed.is_some() {
                return None;
            }
            let free = state.left.iter().position(|site| !state.busy.contains(&site.recipe.module));
            if let Some(index) = free {
                let site = state.left.remove(index);
                state.busy.insert(site.recipe.module.clone());
                return Some(site);
            }
            state = self.changed.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }

    fn done(&self, site: &Site, result: Result<PathBuf, EnsureError>) {
        let mut state = self.lock();
        state.busy.remove(&site.recipe.module);
        match result {
            Ok(dir) => {
                let programs = programs_in(&dir, site.recipe);
                state.finished.0.insert(site.recipe.component.clone(), programs);
            }
            Err(error) => {
                state.failed.get_or_insert(error);
            }
        }
        self.changed.notify_all();
    }

    fn into_result(self) -> Result<Paths, EnsureError> {
        let state = self.state.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        state.failed.map_or(Ok(state.finished), Err)
    }

    fn lock(&self) -> MutexGuard<'_, Progressing> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests;

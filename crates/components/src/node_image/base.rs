//! The base: locked packages, fetched and checked one by one, then put together by mmdebstrap from a local
//! repository that holds nothing else.
//! Invariant: no package is unpacked before its digest has been compared with the lock's.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::apt::{Apt, architecture, package_of, run_logged};
use super::lock::{Lock, Package};
use super::spec::Spec;
use super::{NodeImageError, link_or_copy};
use crate::cache::Scratch;
use crate::embedded;
use crate::error::EnsureError;
use crate::key::KeyHasher;
use crate::progress::{Job, Progress};
use crate::store::Store;

const UNLOCKED: &str = "EKSTRA_NODE_IMAGE_UNLOCKED";
const NAME: &str = "node-image";
const ESTIMATE: Duration = Duration::from_secs(60);
/// Raised when [`finish`] changes.
const RECIPE: &str = "1";
/// File times in the base: it repeats.
const EPOCH: &str = "1700000000";
/// mmdebstrap's steps and how far each is.
const STEPS: [(&str, f32); 5] = [
    ("downloading packages", 0.25),
    ("extracting archives", 0.3),
    ("installing essential", 0.4),
    ("installing remaining", 0.6),
    ("cleaning", 0.95),
];

/// The base's root directory, made if it is not there.
pub(crate) fn ensure(store: &Store, progress: &dyn Progress) -> Result<PathBuf, NodeImageError> {
    if std::env::var_os(UNLOCKED).is_some_and(|value| value == "1") {
        tracing::warn!("{UNLOCKED}=1: the node image takes current package versions, whatever the lock says");
        let lock = current(store, architecture())?;
        return ensure_locked(store, &lock, progress);
    }
    ensure_locked(store, &Lock::committed(architecture())?, progress)
}

fn ensure_locked(store: &Store, lock: &Lock, progress: &dyn Progress) -> Result<PathBuf, NodeImageError> {
    let dir = directory(store, lock);
    if dir.exists() {
        return Ok(dir.join("rootfs"));
    }
    need_root()?;
    let begun = Instant::now();
    let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    progress.started(NAME, &name, ESTIMATE);
    let job = Job::new(NAME, progress);
    let waiting = || job.note("another process makes it: waiting");
    let _lock = store.cache.lock(&name, waiting).map_err(EnsureError::cache(&dir))?;
    if !dir.exists() {
        let scratch = store.cache.scratch().map_err(EnsureError::cache(&dir))?;
        make(store, lock, &scratch, &job)?;
        scratch.publish(&scratch.path().join("out"), &dir).map_err(EnsureError::cache(&dir))?;
    }
    job.at(1.0, "done");
    progress.finished(NAME, begun.elapsed());
    Ok(dir.join("rootfs"))
}

#[cfg(test)]
pub(super) fn place(store: &Store) -> Result<PathBuf, NodeImageError> {
    Ok(directory(store, &Lock::committed(architecture())?))
}

fn directory(store: &Store, lock: &Lock) -> PathBuf {
    store.cache.dir("node-images").join(format!("{}-{}", Spec::get().suite, key(lock)))
}

fn key(lock: &Lock) -> String {
    let mut hasher = KeyHasher::default();
    hasher.add(lock.render(&Spec::get().suite)).add(embedded::NODE_IMAGE).add(EPOCH).add(RECIPE);
    hasher.key()
}

/// What making the base would fail for, told without making it.
pub(super) fn check_makeable(store: &Store) -> Result<(), NodeImageError> {
    let lock = Lock::committed(architecture())?;
    if directory(store, &lock).exists() {
        return Ok(());
    }
    need_root()?;
    unshare(store)?;
    Ok(mmdebstrap(store).map(drop)?)
}

fn mmdebstrap(store: &Store) -> Result<PathBuf, EnsureError> {
    store.tools.need("mmdebstrap", "for the node image", "apt-get install mmdebstrap")
}

fn unshare(store: &Store) -> Result<PathBuf, EnsureError> {
    store.tools.need("unshare", "for the node image", "apt-get install util-linux")
}

fn need_root() -> Result<(), NodeImageError> {
    let owner =
        fs::metadata("/proc/self").map_err(NodeImageError::files("looking", Path::new("/proc/self")))?;
    if owner.uid() == 0 { Ok(()) } else { Err(NodeImageError::NeedsRoot) }
}

fn make(store: &Store, lock: &Lock, scratch: &Scratch, job: &Job<'_>) -> Result<(), NodeImageError> {
    let log = store.cache.log(NAME);
    let _ = fs::remove_file(&log);
    let mmdebstrap = mmdebstrap(store)?;
    job.at(0.02, "fetching packages");
    fetch(store, &lock.packages, scratch, &log)?;
    job.at(0.2, "writing the local repository");
    let repository = scratch.path().join("repository");
    write_repository(store, &lock.packages, &repository, &log)?;
    let out = scratch.path().join("out");
    fs::create_dir(&out).map_err(NodeImageError::files("making a directory", &out))?;
    let rootfs = out.join("rootfs");
    // What it mounts goes with it, however it ends: /proc and /sys are not to be met by whoever removes the cache.
    let mut command = store.tools.command(&unshare(store)?);
    command.args(["--mount", "--"]).arg(&mmdebstrap).args(arguments(&rootfs, &repository));
    command.env("SOURCE_DATE_EPOCH", EPOCH).env("LC_ALL", "C");
    run_logged("mmdebstrap", &mut command, &log, |line| report(job, line))?;
    finish(&rootfs).map_err(NodeImageError::files("finishing the node image", &rootfs))
}

fn report(job: &Job<'_>, line: &str) {
    let Some(step) = line.strip_prefix("I: ") else {
        return;
    };
    if let Some((_, fraction)) = STEPS.iter().find(|(name, _)| step.starts_with(name)) {
        job.at(*fraction, step);
    }
}

fn arguments(rootfs: &Path, repository: &Path) -> Vec<String> {
    let spec = Spec::get();
    let mut arguments = vec!["--variant=essential".to_owned(), "--mode=root".to_owned()];
    arguments.extend(spec.exclude.iter().map(|pattern| format!("--dpkgopt=path-exclude={pattern}")));
    arguments.extend(spec.keep.iter().map(|pattern| format!("--dpkgopt=path-include={pattern}")));
    arguments.push("--aptopt=APT::Sandbox::User \"root\"".to_owned());
    arguments.push(format!("--include={}", spec.packages.join(",")));
    arguments.extend([spec.suite.clone(), rootfs.display().to_string()]);
    arguments.push(format!("deb [trusted=yes] copy://{} ./", repository.display()));
    arguments
}

/// Sees that every locked package lies in the cache, as the lock says it is.
fn fetch(store: &Store, packages: &[Package], scratch: &Scratch, log: &Path) -> Result<(), NodeImageError> {
    let debs = store.cache.dir("debs");
    let is_missing = |package: &&Package| check(&debs, package).is_err();
    let missing: Vec<&Package> = packages.iter().filter(is_missing).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let fetched = scratch.path().join("fetched");
    fs::create_dir(&fetched).map_err(NodeImageError::files("making a directory", &fetched))?;
    let apt = Apt::new(&store.tools, &scratch.path().join("apt"), log, &Spec::get().suite, architecture())?;
    let exactly: Vec<String> = missing.iter().map(|package| package.exactly()).collect();
    apt.download(&exactly, &fetched)?;
    for package in missing {
        check(&fetched, package)?;
        let (from, to) = (fetched.join(package.file_name()), debs.join(package.file_name()));
        scratch.publish(&from, &to).map_err(EnsureError::cache(&to))?;
    }
    Ok(())
}

fn check(dir: &Path, package: &Package) -> Result<(), NodeImageError> {
    let file = dir.join(package.file_name());
    let found = digest(&file).map_err(NodeImageError::files("reading a package", &file))?;
    if found == package.sha256 {
        return Ok(());
    }
    Err(NodeImageError::Digest { file, found, locked: package.sha256.clone() })
}

fn digest(file: &Path) -> io::Result<String> {
    let mut hasher = Sha256::new();
    io::copy(&mut File::open(file)?, &mut HashWriter(&mut hasher))?;
    Ok(hex::encode(hasher.finalize()))
}

struct HashWriter<'a>(&'a mut Sha256);

impl io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A flat apt repository with exactly these packages. It needs no signature: they have been checked.
fn write_repository(
    store: &Store,
    packages: &[Package],
    repository: &Path,
    log: &Path,
) -> Result<(), NodeImageError> {
    let files = |path: &Path| NodeImageError::files("writing the local repository", path);
    let dpkg_deb = store.tools.need("dpkg-deb", "for the node image", "a Debian or Ubuntu machine has it")?;
    fs::create_dir(repository).map_err(files(repository))?;
    let mut index = String::new();
    for package in packages {
        let (name, from) = (package.file_name(), store.cache.dir("debs").join(package.file_name()));
        link_or_copy(&from, &repository.join(&name)).map_err(files(&from))?;
        let control = store.tools.command(&dpkg_deb).arg("-f").arg(&from).output().map_err(files(&from))?;
        if !control.status.success() {
            let tail = String::from_utf8_lossy(&control.stderr).into_owned();
            return Err(NodeImageError::Command {
                step: format!("dpkg-deb -f {name}"),
                tail,
                log: log.into(),
            });
        }
        let size = fs::metadata(&from).map_err(files(&from))?.len();
        index.push_str(String::from_utf8_lossy(&control.stdout).trim_end());
        index.push_str(&format!("\nFilename: ./{name}\nSize: {size}\nSHA256: {}\n\n", package.sha256));
    }
    let suite = &Spec::get().suite;
    let release = format!("Suite: {suite}\nCodename: {suite}\n");
    fs::write(repository.join("Packages"), index).map_err(files(repository))?;
    fs::write(repository.join("Release"), release).map_err(files(repository))
}

/// Removes what building left and the host's identity, adds what nodes need.
fn finish(rootfs: &Path) -> io::Result<()> {
    for dir in ["var/cache/apt", "var/lib/apt/lists", "var/log/apt", "etc/apt/sources.list"] {
        match rootfs.join(dir) {
            path if path.is_dir() => fs::remove_dir_all(path)?,
            path if path.exists() => fs::remove_file(path)?,
            _ => {}
        }
    }
    for file in ["etc/hostname", "etc/resolv.conf", "etc/machine-id"] {
        fs::write(rootfs.join(file), "")?;
    }
    Spec::get().directories.iter().try_for_each(|dir| fs::create_dir_all(rootfs.join(dir)))
}

/// The lock as of now: the host's sources resolved, every package fetched into the cache and hashed.
pub(crate) fn current(store: &Store, architecture: &str) -> Result<Lock, NodeImageError> {
    let (spec, log) = (Spec::get(), store.cache.log(NAME));
    let scratch = store.cache.scratch().map_err(EnsureError::cache(store.cache.root()))?;
    let fetched = scratch.path().join("fetched");
    fs::create_dir(&fetched).map_err(NodeImageError::files("making a directory", &fetched))?;
    let apt = Apt::new(&store.tools, &scratch.path().join("apt"), &log, &spec.suite, architecture)?;
    apt.download(&apt.resolve(&spec.packages)?, &fetched)?;
    let mut packages = Vec::new();
    for entry in fs::read_dir(&fetched).map_err(NodeImageError::files("reading", &fetched))?.flatten() {
        let file = entry.path();
        let sha256 = digest(&file).map_err(NodeImageError::files("reading a package", &file))?;
        packages.extend(package_of(&entry.file_name().to_string_lossy(), sha256));
        let kept = store.cache.dir("debs").join(entry.file_name());
        scratch.publish(&file, &kept).map_err(EnsureError::cache(&kept))?;
    }
    Ok(Lock::new(packages))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_that_differs_from_the_lock_is_refused() {
        let dir = tempfile::tempdir().expect("tmp");
        let package = package_of("tool_1_all.deb", "0".repeat(64)).expect("reads");
        fs::write(dir.path().join(package.file_name()), "other bytes").expect("writable");
        let told = check(dir.path(), &package).expect_err("differs").to_string();
        assert!(told.contains("relock") && told.contains(UNLOCKED), "{told}");
    }

    #[test]
    fn the_key_follows_the_lock() {
        let lock = |sha256: String| Lock::new(package_of("tool_1_all.deb", sha256).into_iter().collect());
        assert_eq!(key(&lock("0".repeat(64))), key(&lock("0".repeat(64))));
        assert_ne!(key(&lock("0".repeat(64))), key(&lock("1".repeat(64))));
    }

    #[test]
    fn finishing_takes_the_hosts_identity_away() {
        let root = tempfile::tempdir().expect("tmp");
        fs::create_dir_all(root.path().join("etc")).expect("writable");
        fs::write(root.path().join("etc/resolv.conf"), "nameserver 10.0.0.1").expect("writable");
        finish(root.path()).expect("finishes");
        assert_eq!(fs::read_to_string(root.path().join("etc/resolv.conf")).expect("there"), "");
        assert!(root.path().join("opt/cni/bin").is_dir());
    }
}

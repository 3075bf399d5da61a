//! Where things lie on disk, and the locks around them.
//!
//! ```text
//! components/<name>-<version>-<key>/bin/   complete builds
//! node-images/ images/ debs/               complete artefacts, downloaded packages
//! bundles/                                 which bundles were taken, and what came in each
//! logs/ locks/                             last build log of each; flock files
//! tmp/                                     builds under way
//! ```
//! Invariant: a directory under `tmp/` is alive exactly as long as somebody holds the lock beside it; what
//! nobody holds is swept. Locks are released by the kernel, so a killed process leaves none behind.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// `$EKSTRA_CACHE`, else `$XDG_CACHE_HOME/ekstra`, else `~/.cache/ekstra`. `None` without any of the three.
pub fn default_cache_dir() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("EKSTRA_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|dir| dir.join("ekstra")))
        .or_else(|| variable("HOME").map(|dir| dir.join(".cache/ekstra")))
}

#[derive(Debug)]
pub(crate) struct Cache {
    root: PathBuf,
}

impl Cache {
    /// Opens or creates the cache, and removes what interrupted builds left.
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        let cache = Self { root: root.canonicalize()? };
        for dir in ["components", "node-images", "images", "debs", "bundles", "logs", "locks", "tmp"] {
            fs::create_dir_all(cache.root.join(dir))?;
        }
        cache.sweep()?;
        Ok(cache)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.root.join("logs").join(format!("{name}.log"))
    }

    /// Takes the lock of that name; when another holds it, calls `waiting` once and waits.
    pub(crate) fn lock(&self, name: &str, waiting: impl FnOnce()) -> io::Result<File> {
        let file = lock_file(&self.root.join("locks").join(format!("{name}.lock")))?;
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => waiting(),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        file.lock()?;
        Ok(file)
    }

    /// A fresh directory under `tmp/`, removed when dropped.
    pub(crate) fn scratch(&self) -> io::Result<Scratch> {
        let _registry = self.lock("tmp", || ())?;
        let dir = self.root.join("tmp").join(unique_name());
        let lock = lock_file(&beside(&dir))?;
        lock.lock()?;
        fs::create_dir(&dir)?;
        Ok(Scratch { dir, _lock: lock })
    }

    fn sweep(&self) -> io::Result<()> {
        let _registry = self.lock("tmp", || ())?;
        for entry in fs::read_dir(self.root.join("tmp"))? {
            let path = entry?.path();
            if path.is_dir() && lock_file(&beside(&path))?.try_lock().is_ok() {
                tracing::debug!(dir = %path.display(), "removing what an interrupted build left");
                fs::remove_dir_all(&path)?;
                fs::remove_file(beside(&path))?;
            }
        }
        Ok(())
    }
}

/// A build's directory under `tmp/`.
#[derive(Debug)]
pub(crate) struct Scratch {
    dir: PathBuf,
    _lock: File,
}

impl Scratch {
    pub(crate) fn path(&self) -> &Path {
        &self.dir
    }

    /// Gives a finished file or directory of this scratch its name in the cache, all at once.
    /// Its bytes are on disk before its name is.
    pub(crate) fn publish(&self, from: &Path, to: &Path) -> io::Result<()> {
        sync_tree(from)?;
        fs::rename(from, to)?;
        to.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            tracing::warn!(dir = %self.dir.display(), %error, "could not remove a build directory");
            return;
        }
        let _ = fs::remove_file(beside(&self.dir));
    }
}

fn lock_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

fn beside(dir: &Path) -> PathBuf {
    dir.with_extension("lock")
}

fn unique_name() -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_nanos());
    format!("{}-{now:x}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed))
}

fn sync_tree(path: &Path) -> io::Result<()> {
    let kind = fs::symlink_metadata(path)?.file_type();
    if kind.is_dir() {
        for entry in fs::read_dir(path)? {
            sync_tree(&entry?.path())?;
        }
    }
    if kind.is_dir() || kind.is_file() {
        File::open(path)?.sync_all()?;
    }
    Ok(())
}

/// Bytes of all files under `path`; 0 where it cannot be read.
pub(crate) fn size_of(path: &Path) -> u64 {
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return 0;
    };
    if !metadata.is_dir() {
        return metadata.len();
    }
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|entry| size_of(&entry.path())).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_scratch_leaves_nothing() {
        let home = tempfile::tempdir().expect("tmp");
        let cache = Cache::open(home.path()).expect("opens");
        drop(cache.scratch().expect("scratch"));
        assert_eq!(fs::read_dir(cache.dir("tmp")).expect("there").count(), 0);
    }

    #[test]
    fn only_stale_directories_are_swept() {
        let home = tempfile::tempdir().expect("tmp");
        let cache = Cache::open(home.path()).expect("opens");
        let alive = cache.scratch().expect("scratch");
        let stale = cache.dir("tmp").join("1-2-3");
        fs::create_dir(&stale).expect("writable");
        fs::write(stale.join("half"), "half").expect("writable");
        Cache::open(home.path()).expect("opens again");
        assert!(alive.path().exists());
        assert!(!stale.exists());
    }
}

//! Makes a bundle of what the cache has.

use super::{BundleError, Hashing, MANIFEST, MARK, Manifest, digest_of};
use crate::error::EnsureError;
use crate::progress::{Job, Progress};
use crate::recipe::{Group, KubernetesVersion};
use crate::store::Store;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The best that is still fast: half a minute of two cores.
const LEVEL: i32 = 12;
const NAME: &str = "bundle";
const ESTIMATE: Duration = Duration::from_secs(45);

/// A bundle on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    pub path: PathBuf,
    /// SHA-256 of the file, in hex.
    pub digest: String,
    /// Bytes.
    pub size: u64,
}

impl Store {
    /// Packs everything that clusters of one Kubernetes release need into `target`, which appears when it is whole.
    /// All of it has to be there already.
    pub fn bundle(
        &self,
        kubernetes: &KubernetesVersion,
        target: &Path,
        progress: &dyn Progress,
    ) -> Result<Packed, BundleError> {
        let begun = Instant::now();
        progress.started(NAME, &kubernetes.version, ESTIMATE);
        let job = Job::new(NAME, progress);
        let mut manifest = Manifest::new(kubernetes);
        manifest.directories = self.bundled(kubernetes, progress)?;
        let entries = entries(self.cache_dir(), &manifest.directories)?;
        for path in &entries {
            let full = self.cache_dir().join(path);
            if fs::symlink_metadata(&full).map_err(BundleError::file(&full))?.is_file() {
                let digest = File::open(&full).and_then(digest_of).map_err(BundleError::file(&full))?;
                manifest.files.insert(path.to_string_lossy().into_owned(), digest);
            }
        }
        job.at(0.1, "compressing");
        let partial = beside(target);
        let written = write(self.cache_dir(), &manifest, &entries, &partial, &job);
        if written.is_err() {
            let _ = fs::remove_file(&partial);
        }
        let (digest, size) = written.map_err(BundleError::file(&partial))?;
        fs::rename(&partial, target).map_err(BundleError::file(target))?;
        progress.finished(NAME, begun.elapsed());
        Ok(Packed { path: target.to_owned(), digest, size })
    }

    /// The directories under the cache that a release needs.
    fn bundled(
        &self,
        kubernetes: &KubernetesVersion,
        progress: &dyn Progress,
    ) -> Result<Vec<String>, BundleError> {
        let groups = [Group::ControlPlane, Group::Node, Group::Images, Group::Client];
        let go = self.go().ok();
        let mut directories = Vec::new();
        for component in groups.iter().flat_map(|group| self.recipes.group(*group, kubernetes)) {
            let site = self.site(&component)?;
            let missing = || EnsureError::Missing(component.clone());
            directories.push(self.built(&site, go.as_ref()).ok_or_else(missing)?);
        }
        let base = self.node_base(progress)?;
        directories.extend(base.parent().map(Path::to_owned));
        let own = |directory: &PathBuf| {
            let path = directory.strip_prefix(self.cache_dir()).ok()?;
            Some(path.to_string_lossy().into_owned())
        };
        let mut own: Vec<String> = directories.iter().filter_map(own).collect();
        own.sort();
        own.dedup();
        Ok(own)
    }
}

fn beside(target: &Path) -> PathBuf {
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    target.with_file_name(name)
}

/// Everything in the directories but devices and pipes, sorted, parents first.
fn entries(root: &Path, directories: &[String]) -> Result<Vec<PathBuf>, BundleError> {
    let mut found = Vec::new();
    let mut left: Vec<PathBuf> = directories.iter().map(PathBuf::from).collect();
    while let Some(path) = left.pop() {
        let full = root.join(&path);
        let kind = fs::symlink_metadata(&full).map_err(BundleError::file(&full))?.file_type();
        let special = kind.is_block_device() || kind.is_char_device() || kind.is_fifo() || kind.is_socket();
        if special || path.file_name().is_some_and(|name| name == MARK) {
            continue;
        }
        if kind.is_dir() {
            for entry in fs::read_dir(&full).map_err(BundleError::file(&full))? {
                left.push(path.join(entry.map_err(BundleError::file(&full))?.file_name()));
            }
        }
        found.push(path);
    }
    found.sort();
    Ok(found)
}

/// The digest and the size of what was written.
fn write(
    root: &Path,
    manifest: &Manifest,
    entries: &[PathBuf],
    target: &Path,
    job: &Job<'_>,
) -> io::Result<(String, u64)> {
    let mut encoder = zstd::Encoder::new(Hashing::new(BufWriter::new(File::create(target)?)), LEVEL)?;
    encoder.multithread(std::thread::available_parallelism().map_or(1, usize::from) as u32)?;
    let mut tar = tar::Builder::new(encoder);
    tar.follow_symlinks(false);
    tar.sparse(false);
    let text = serde_json::to_vec_pretty(manifest)?;
    let mut header = tar::Header::new_gnu();
    header.set_size(text.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, MANIFEST, text.as_slice())?;
    for (index, path) in entries.iter().enumerate() {
        tar.append_path_with_name(root.join(path), path)?;
        job.at(0.1 + 0.9 * index as f32 / entries.len() as f32, "compressing");
    }
    let mut hashing = tar.into_inner()?.finish()?;
    hashing.flush()?;
    let file = hashing.inner.get_ref();
    file.sync_all()?;
    // As readable as what is in it.
    file.set_permissions(fs::Permissions::from_mode(0o644))?;
    let size = file.metadata()?.len();
    Ok((hashing.digest(), size))
}

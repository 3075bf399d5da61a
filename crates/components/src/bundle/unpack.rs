//! Takes a bundle into the cache.

use super::{Bundle, BundleError, FORMAT, MANIFEST, MARK, Manifest, Origin, digest_of};
use crate::cache::Scratch;
use crate::error::EnsureError;
use crate::progress::{Job, Progress};
use crate::store::Store;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::{Component as Part, Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

const NAME: &str = "bundle";
const ESTIMATE: Duration = Duration::from_secs(10);
/// What only root can make as it was.
const NODE_IMAGES: &str = "node-images";
/// Where it is written down which bundles the cache has.
const TAKEN: &str = "bundles";
/// Of a manifest; a hundred times what one has.
const LONGEST_MANIFEST: u64 = 64 << 20;

impl Store {
    /// Makes sure that what is in the bundle is in the cache. Who is not root has its programs alone. Nothing is read
    /// when that bundle was taken before.
    pub fn take(&self, bundle: &Bundle, progress: &dyn Progress) -> Result<(), BundleError> {
        let record = self.record(bundle);
        if self.has(&record) {
            return Ok(());
        }
        // One that is not there is told without the announcement of a long job.
        if let Origin::File(path) = &bundle.origin {
            fs::metadata(path).map_err(BundleError::file(path))?;
        }
        let begun = Instant::now();
        progress.started(NAME, &bundle.digest[..12], ESTIMATE);
        let job = Job::new(NAME, progress);
        let waiting = || job.note("another process takes it: waiting");
        let lock = self.cache.lock(&format!("{NAME}-{}", bundle.digest), waiting);
        let _lock = lock.map_err(EnsureError::cache(&record))?;
        if !self.has(&record) {
            let scratch = self.cache.scratch().map_err(EnsureError::cache(&record))?;
            let mut file = self.open_bundle(bundle, &scratch, &job)?;
            check_digest(bundle, &mut file)?;
            let manifest = unpack(bundle, &mut file, scratch.path(), is_root(), &job)?;
            self.publish_bundle(&manifest, bundle, &scratch, &record)?;
        }
        job.at(1.0, "done");
        progress.finished(NAME, begun.elapsed());
        Ok(())
    }

    fn record(&self, bundle: &Bundle) -> PathBuf {
        let what = if is_root() { "" } else { "-programs" };
        self.cache.dir(TAKEN).join(format!("{}{what}.json", bundle.digest))
    }

    /// It was taken, and nobody has removed anything since.
    fn has(&self, record: &Path) -> bool {
        let directories = fs::read(record).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let directories: Vec<String> = directories.unwrap_or_default();
        !directories.is_empty() && directories.iter().all(|directory| self.cache.dir(directory).exists())
    }

    fn open_bundle(&self, bundle: &Bundle, scratch: &Scratch, job: &Job<'_>) -> Result<File, BundleError> {
        match &bundle.origin {
            Origin::File(path) => File::open(path).map_err(BundleError::file(path)),
            Origin::Url(url) => {
                let path = scratch.path().join("fetched");
                job.note("fetching");
                self.fetch(url, &path)?;
                File::open(&path).map_err(BundleError::file(&path))
            }
        }
    }

    /// By curl, which knows proxies and the machine's authorities.
    fn fetch(&self, url: &str, target: &Path) -> Result<(), BundleError> {
        let curl = self.tools.need("curl", "to fetch a bundle", "apt-get install curl")?;
        let mut command = self.tools.command(&curl);
        command.args(["--fail", "--location", "--silent", "--show-error", "--proto", "=http,https"]);
        command.args(["--connect-timeout", "30", "--speed-limit", "1000", "--speed-time", "60"]);
        command.arg("--output").arg(target).arg("--").arg(url).stderr(Stdio::piped());
        let output = command.output().map_err(|source| EnsureError::Spawn { program: curl, source })?;
        if output.status.success() {
            return Ok(());
        }
        let reason = String::from_utf8_lossy(&output.stderr).trim().replace('\n', " ");
        Err(BundleError::Fetch { url: url.to_owned(), reason })
    }

    fn publish_bundle(
        &self,
        manifest: &Manifest,
        bundle: &Bundle,
        scratch: &Scratch,
        record: &Path,
    ) -> Result<(), BundleError> {
        let out = scratch.path().join("out");
        let mut taken = Vec::new();
        for directory in &manifest.directories {
            let (from, to) = (out.join(directory), self.cache.dir(directory));
            if !from.exists() {
                continue;
            }
            taken.push(directory);
            let name = to.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let _lock = self.cache.lock(&name, || ()).map_err(EnsureError::cache(&to))?;
            if to.exists() {
                continue;
            }
            if !directory.starts_with(NODE_IMAGES) {
                fs::write(from.join(MARK), &bundle.digest).map_err(BundleError::file(&from))?;
            }
            scratch.publish(&from, &to).map_err(EnsureError::cache(&to))?;
        }
        let text = serde_json::to_vec_pretty(&taken).map_err(io::Error::from);
        let draft = scratch.path().join("record");
        text.and_then(|text| fs::write(&draft, text)).map_err(BundleError::file(&draft))?;
        Ok(scratch.publish(&draft, record).map_err(EnsureError::cache(record))?)
    }
}

pub(super) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

fn check_digest(bundle: &Bundle, file: &mut File) -> Result<(), BundleError> {
    let origin = bundle.origin.to_string();
    let found = digest_of(&mut *file).map_err(BundleError::file(Path::new(&origin)))?;
    if found != bundle.digest {
        return Err(BundleError::Digest { origin, found, given: bundle.digest.clone() });
    }
    file.rewind().map_err(BundleError::file(Path::new(&origin)))
}

/// Unpacks into `<scratch>/out`, comparing each file's digest.
fn unpack(
    bundle: &Bundle,
    file: &mut File,
    scratch: &Path,
    whole: bool,
    job: &Job<'_>,
) -> Result<Manifest, BundleError> {
    let origin = bundle.origin.to_string();
    let malformed = |reason: &dyn std::fmt::Display| BundleError::Malformed {
        origin: origin.clone(),
        reason: reason.to_string(),
    };
    let decoder = zstd::Decoder::new(file).map_err(|e| malformed(&e))?;
    let mut archive = tar::Archive::new(decoder);
    let mut entries = archive.entries().map_err(|e| malformed(&e))?;
    let first = entries.next().ok_or_else(|| malformed(&"it is empty"))?.map_err(|e| malformed(&e))?;
    let manifest = manifest(first).map_err(|e| malformed(&e))?;
    if manifest.architecture != std::env::consts::ARCH {
        let found = manifest.architecture;
        return Err(BundleError::Architecture { origin, found, own: std::env::consts::ARCH });
    }
    let out = scratch.join("out");
    fs::create_dir(&out).map_err(BundleError::file(&out))?;
    let mut unpacking = Unpacking { manifest: &manifest, out: &out, seen: 0, modes: BTreeMap::new() };
    for entry in entries {
        let mut entry = entry.map_err(|e| malformed(&e))?;
        let path = entry.path().map_err(|e| malformed(&e))?.into_owned();
        if path.starts_with(NODE_IMAGES) && !whole {
            continue;
        }
        unpacking.one(&mut entry, &path).map_err(|e| malformed(&e))?;
        job.at(unpacking.seen as f32 / manifest.files.len().max(1) as f32, "unpacking");
    }
    let wanted = manifest.files.keys().filter(|path| whole || !path.starts_with(NODE_IMAGES)).count();
    if unpacking.seen != wanted {
        return Err(malformed(&format_args!("{} of {wanted} files are in it", unpacking.seen)));
    }
    unpacking.finish().map_err(BundleError::file(&out))?;
    Ok(manifest)
}

fn manifest(entry: tar::Entry<'_, impl Read>) -> io::Result<Manifest> {
    if entry.path()? != Path::new(MANIFEST) {
        return Err(io::Error::other(format!("{MANIFEST} is not its first file")));
    }
    let manifest: Manifest = serde_json::from_reader(entry.take(LONGEST_MANIFEST))?;
    if manifest.format != FORMAT {
        return Err(io::Error::other(format!("its format is {}, known is {FORMAT}", manifest.format)));
    }
    let strange = manifest.directories.iter().find(|directory| {
        let parts: Vec<_> = Path::new(directory).components().collect();
        let known = ["components", NODE_IMAGES].iter().any(|root| Path::new(directory).starts_with(root));
        parts.len() != 2 || !known || parts.iter().any(|part| !matches!(part, Part::Normal(_)))
    });
    match strange {
        Some(directory) => Err(io::Error::other(format!("{directory} has no place in a cache"))),
        None => Ok(manifest),
    }
}

struct Unpacking<'a> {
    manifest: &'a Manifest,
    out: &'a Path,
    /// Regular files so far.
    seen: usize,
    /// Directories get their modes last: what is in them could not be written otherwise.
    modes: BTreeMap<PathBuf, u32>,
}

impl Unpacking<'_> {
    fn one(&mut self, entry: &mut tar::Entry<'_, impl Read>, path: &Path) -> io::Result<()> {
        let listed = self.manifest.directories.iter().any(|directory| path.starts_with(directory));
        if !listed {
            return Err(io::Error::other(format!("{} is in none of its directories", path.display())));
        }
        entry.set_preserve_permissions(false);
        entry.set_preserve_mtime(true);
        let to = self.out.join(path);
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent)?;
        }
        // `unpack_in` refuses to leave `out`, by `..` and through links as well.
        let placed = |done: bool| match done {
            true => Ok(()),
            false => Err(io::Error::other(format!("{} leads out of it", path.display()))),
        };
        match entry.header().entry_type() {
            tar::EntryType::Directory => {
                placed(entry.unpack_in(self.out)?)?;
                own(entry.header(), &to)?;
                self.modes.insert(to, entry.header().mode()?);
            }
            tar::EntryType::Symlink => {
                placed(entry.unpack_in(self.out)?)?;
                own(entry.header(), &to)?;
            }
            tar::EntryType::Regular => {
                placed(entry.unpack_in(self.out)?)?;
                self.seen += 1;
                self.check(path, &to)?;
                // The mode after the owner: a change of the owner takes set-user-ID away.
                own(entry.header(), &to)?;
                set_mode(&to, entry.header().mode()?)?;
            }
            other => return Err(io::Error::other(format!("{} is a {other:?}", path.display()))),
        }
        Ok(())
    }

    fn check(&self, path: &Path, to: &Path) -> io::Result<()> {
        let wanted = self.manifest.files.get(&*path.to_string_lossy());
        let found = digest_of(File::open(to)?)?;
        match wanted == Some(&found) {
            true => Ok(()),
            false => Err(io::Error::other(format!("{} is not what its list says", path.display()))),
        }
    }

    fn finish(self) -> io::Result<()> {
        let mut deepest_first = self.modes.iter().rev();
        deepest_first.try_for_each(|(directory, mode)| set_mode(directory, *mode))
    }
}

fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o7777))
}

/// By number; only root can give files away.
fn own(header: &tar::Header, path: &Path) -> io::Result<()> {
    if !is_root() {
        return Ok(());
    }
    let id = |id: u64| u32::try_from(id).map_err(io::Error::other);
    lchown(path, Some(id(header.uid()?)?), Some(id(header.gid()?)?))
}

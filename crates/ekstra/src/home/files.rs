//! Files that appear whole or not at all.
//!
//! Invariant: a file has its bytes on disk before it has its name, and the name is on disk when the function returns
//! (a program's: see [`copy_program`]); any number of processes may write the same one, and the last wins.

use crate::privilege::Owner;
use anyhow::{Context, Result};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, fchown, lchown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Readable by this process's user only.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> Result<()> {
    appear(path, 0o600, |file| file.write_all(content))
}

/// Readable by `owner` only.
pub(super) fn write_for(path: &Path, content: &[u8], owner: Owner) -> Result<()> {
    appear(path, 0o600, |file| {
        file.write_all(content)?;
        fchown(&*file, Some(owner.uid), Some(owner.gid))
    })
}

/// A directory of `owner` alone; one that is there already has its mode.
pub(super) fn make_directory(path: &Path, owner: Owner) -> std::io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        made => made.and_then(|()| lchown(path, Some(owner.uid), Some(owner.gid))),
    }
}

/// A program, readable by the owner only. One that runs cannot be written to, but its name can be given to another
/// file. Nobody waits until it is on disk: `serve` sees to that ([`sync`]), and every start puts a whole one in the place of
/// one that a power cut has torn.
pub(crate) fn copy_program(from: &Path, to: &Path) -> Result<()> {
    let mut source = fs::File::open(from).with_context(|| from.display().to_string())?;
    replace(to, 0o700, |file| std::io::copy(&mut source, file).map(drop))
}

/// Makes a file last through a power cut, under its name.
pub(crate) fn sync(path: &Path) -> Result<()> {
    fs::File::open(path).and_then(|file| file.sync_all()).with_context(|| path.display().to_string())?;
    sync_directory(path)
}

/// Whether two files are the same program.
pub(crate) fn same_content(a: &Path, b: &Path) -> bool {
    let length = |path: &Path| fs::metadata(path).map(|metadata| metadata.len());
    let same = || Ok::<_, std::io::Error>(length(a)? == length(b)? && same_bytes(a, b)?);
    same().unwrap_or(false)
}

fn same_bytes(a: &Path, b: &Path) -> std::io::Result<bool> {
    const CHUNK: usize = 256 << 10;
    let open = |path: &Path| Ok::<_, std::io::Error>(BufReader::with_capacity(CHUNK, fs::File::open(path)?));
    let (mut a, mut b) = (open(a)?, open(b)?);
    loop {
        let (ours, theirs) = (a.fill_buf()?, b.fill_buf()?);
        let common = ours.len().min(theirs.len());
        if ours[..common] != theirs[..common] {
            return Ok(false);
        }
        if common == 0 {
            return Ok(ours.len() == theirs.len());
        }
        a.consume(common);
        b.consume(common);
    }
}

fn appear(path: &Path, mode: u32, fill: impl FnOnce(&mut fs::File) -> std::io::Result<()>) -> Result<()> {
    replace(path, mode, |file| fill(file).and_then(|()| file.sync_all()))?;
    sync_directory(path)
}

fn replace(path: &Path, mode: u32, fill: impl FnOnce(&mut fs::File) -> std::io::Result<()>) -> Result<()> {
    let partial = partial(path);
    let write = || {
        // Refuses whatever has the name already, a link too.
        let mut file = fs::OpenOptions::new().create_new(true).write(true).mode(mode).open(&partial)?;
        // The mode at creation loses what the umask has.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        fill(&mut file)?;
        // A program that is open for writing anywhere cannot be started.
        drop(file);
        fs::rename(&partial, path)
    };
    write().inspect_err(|_| drop(fs::remove_file(&partial))).with_context(|| path.display().to_string())
}

/// Beside the file, and nobody else's.
fn partial(path: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    path.with_file_name(format!(".{name}.{}-{count}.partial", std::process::id()))
}

/// Makes the names in the file's directory last through a power cut.
pub(crate) fn sync_directory(path: &Path) -> Result<()> {
    let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) else {
        return Ok(());
    };
    fs::File::open(parent).and_then(|d| d.sync_all()).with_context(|| parent.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writers_of_one_file_do_not_meet() {
        let directory = tempfile::tempdir().expect("tempdir");
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        fs::write(&from, vec![7; 1 << 20]).expect("writes");
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..8).map(|_| scope.spawn(|| copy_program(&from, &to))).collect();
            for writer in writers {
                writer.join().expect("ends").expect("copies");
            }
        });
        assert_eq!(fs::read(&to).expect("reads"), vec![7; 1 << 20]);
        assert_eq!(fs::read_dir(directory.path()).expect("lists").count(), 2, "nothing partial is left");
        assert_eq!(fs::metadata(&to).expect("is there").permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn programs_are_told_apart_by_every_byte() {
        let directory = tempfile::tempdir().expect("tempdir");
        let long = vec![7; (1 << 20) + 1];
        let mut last = long.clone();
        last[1 << 20] = 8;
        let cases = [long.clone(), last, long[..1 << 20].to_vec(), Vec::new(), long];
        let paths: Vec<PathBuf> = (0..cases.len()).map(|n| directory.path().join(n.to_string())).collect();
        for (path, content) in paths.iter().zip(&cases) {
            fs::write(path, content).expect("writes");
        }
        for (a, content) in paths.iter().zip(&cases) {
            for (b, other) in paths.iter().zip(&cases) {
                assert_eq!(same_content(a, b), content == other, "{} {}", a.display(), b.display());
            }
        }
        assert!(!same_content(&paths[0], &directory.path().join("none")));
    }
}

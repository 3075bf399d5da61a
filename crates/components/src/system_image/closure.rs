//! The shared libraries that a program of the node image needs, as the node image's own loader finds them.
//! Invariant: answers lie inside the root file system; nothing of the host's libraries gets into an image.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::SystemImageError;

/// Loader and library directories, per architecture.
const LOADERS: [(&str, &str); 2] = [
    ("usr/lib64/ld-linux-x86-64.so.2", "x86_64-linux-gnu"),
    ("usr/lib/ld-linux-aarch64.so.1", "aarch64-linux-gnu"),
];

/// The program, its loader and its libraries, as paths relative to `rootfs`.
pub(crate) fn of(rootfs: &Path, program: &str) -> Result<BTreeSet<String>, SystemImageError> {
    let path = rootfs.join(program);
    let fail = |reason: String| SystemImageError::Libraries { program: path.clone(), reason };
    let loader = LOADERS.iter().find(|(loader, _)| rootfs.join(loader).exists());
    let (loader, triplet) = loader.ok_or_else(|| fail("the root file system has no known loader".into()))?;
    let output = list(rootfs, loader, triplet, &path).map_err(|error| fail(error.to_string()))?;
    if !output.status.success() {
        return Err(fail(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    let mut files = BTreeSet::from([program.to_owned(), (*loader).to_owned()]);
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        match library(line) {
            Listed::At(found) => drop(files.insert(inside(rootfs, &found).map_err(&fail)?)),
            Listed::Missing(name) => return Err(fail(format!("{name} is not there"))),
            Listed::Other => {}
        }
    }
    Ok(files)
}

fn list(rootfs: &Path, loader: &str, triplet: &str, program: &Path) -> std::io::Result<Output> {
    let dirs = ["usr/lib", "lib"].map(|lib| rootfs.join(lib).join(triplet).display().to_string());
    let mut command = Command::new(rootfs.join(loader));
    command.args(["--inhibit-cache", "--library-path", &dirs.join(":"), "--list"]).arg(program);
    command.env_clear().output()
}

enum Listed {
    At(PathBuf),
    Missing(String),
    /// The kernel's own page, or the loader.
    Other,
}

/// `\tlibmnl.so.0 => <rootfs>/usr/lib/libmnl.so.0 (0x…)`.
fn library(line: &str) -> Listed {
    let Some((name, found)) = line.trim().split_once(" => ") else {
        return Listed::Other;
    };
    if found.starts_with("not found") {
        return Listed::Missing(name.to_owned());
    }
    if name.contains('/') {
        return Listed::Other;
    }
    let path = found.rsplit_once(" (0x").map_or(found, |(path, _)| path);
    Listed::At(PathBuf::from(path))
}

fn inside(rootfs: &Path, found: &Path) -> Result<String, String> {
    let relative = found.strip_prefix(rootfs).ok().and_then(Path::to_str);
    relative.map(str::to_owned).ok_or_else(|| format!("{} lies outside the node image", found.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loaders_lines_are_read() {
        let line = "\tlibmnl.so.0 => /r (1)/usr/lib/libmnl.so.0 (0x00007f06f90c7000)";
        assert!(matches!(library(line), Listed::At(path) if path == Path::new("/r (1)/usr/lib/libmnl.so.0")));
        assert!(matches!(library("\tlibx.so => not found"), Listed::Missing(name) if name == "libx.so"));
        assert!(matches!(library("\tlinux-vdso.so.1 (0x00007f06f93de000)"), Listed::Other));
    }

    #[test]
    fn a_library_of_the_host_is_refused() {
        assert!(inside(Path::new("/root-fs"), Path::new("/usr/lib/libc.so.6")).is_err());
    }
}

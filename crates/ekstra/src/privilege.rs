//! Who the home belongs to, and how a user who is not root starts the service, which must be.
//!
//! Invariant: the home belongs to whoever owns its directory. The service alone runs as root; what the owner needs
//! (credentials, settings, certificates, the program, logs) is the owner's, everything else is root's.
//! Caveat: whoever may start the service by `sudo` can do what root can. The checks in [`check_parts`] keep root from
//! writing through a link that lies in a user's directory; they do not make that user less than root.

use crate::home::Home;
use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::fs;
use std::io::IsTerminal;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A user of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Owner {
    /// Who runs this process.
    pub(crate) fn own() -> Self {
        Self { uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() }
    }

    pub(crate) fn of(path: &Path) -> Result<Self> {
        let metadata = fs::symlink_metadata(path).with_context(|| path.display().to_string())?;
        Ok(Self { uid: metadata.uid(), gid: metadata.gid() })
    }
}

pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Makes the directories of the service alone.
pub(crate) fn make_parts(root: &Path, private: &[(&str, u32)]) -> Result<()> {
    for (name, mode) in private {
        let path = root.join(name);
        match fs::DirBuilder::new().mode(*mode).create(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(error).with_context(|| path.display().to_string());
            }
            _ => {}
        }
    }
    Ok(())
}

/// In a home of somebody else, root has directories of its own where its own things are, and there are no links.
pub(crate) fn check_parts(root: &Path, private: &[(&str, u32)]) -> Result<()> {
    for entry in fs::read_dir(root).with_context(|| root.display().to_string())? {
        let entry = entry?;
        if entry.file_type()?.is_symlink() {
            bail!("{} is a link, which has no place in a home; remove it", entry.path().display());
        }
    }
    let own = nix::unistd::geteuid().as_raw();
    for (name, mode) in private {
        let path = root.join(name);
        let found = fs::symlink_metadata(&path)?;
        if !found.is_dir() || found.uid() != own {
            bail!("{} is not the service's own directory; move it away", path.display());
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(*mode))?;
    }
    Ok(())
}

/// Runs this program as root, with nothing of the environment; waits for its end.
pub(crate) fn as_root(home: &Home, words: &[OsString]) -> Result<()> {
    let mut all: Vec<OsString> = vec![home.program().into(), "--home".into(), home.root.clone().into()];
    all.extend(words.iter().cloned());
    let shown: Vec<String> = all.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let shown = shown.join(" ");
    let Some(sudo) = find("sudo") else {
        bail!(
            "the service needs root, and there is no sudo on this machine; as root, run: {shown}{}",
            otherwise(home)
        );
    };
    let mut command = Command::new(sudo);
    // A password is asked for on the terminal itself; where there is none, sudo would wait for ever.
    if !std::io::stdin().is_terminal() {
        command.arg("-n");
    }
    command.arg("--").args(&all).stdout(Stdio::null()).stderr(Stdio::piped());
    let output = command.spawn().and_then(|child| child.wait_with_output()).context("sudo")?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.trim().lines().last().unwrap_or_default();
    match last.strip_prefix("ekstra: ") {
        Some(own) => bail!("{own}"),
        None => bail!(
            "the service needs root, and sudo refused ({last}); as root, run: {shown}{}",
            otherwise(home)
        ),
    }
}

/// What can be had without root, in a home for which nothing is decided yet.
fn otherwise(home: &Home) -> &'static str {
    match home.settings() {
        Some(_) => "",
        None => {
            "; without root there are clusters without nodes: create cluster --without-nodegroup --rootless"
        }
    }
}

/// A program on the PATH, or where distributions put root's.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    std::env::split_paths(&path).map(|directory| directory.join(program)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_does_not_follow_what_a_user_put_into_the_home() {
        let home = tempfile::tempdir().expect("tempdir");
        let parts = [("run", 0o711), ("slots", 0o700)];
        make_parts(home.path(), &parts).expect("makes them");
        check_parts(home.path(), &parts).expect("finds them");
        let mode = fs::metadata(home.path().join("run")).expect("is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o711);
        fs::remove_dir(home.path().join("slots")).expect("removes");
        std::os::unix::fs::symlink("/etc", home.path().join("slots")).expect("links");
        let told = check_parts(home.path(), &parts).expect_err("is refused").to_string();
        assert!(told.contains("is a link"), "{told}");
        fs::remove_file(home.path().join("slots")).expect("removes");
        fs::write(home.path().join("slots"), "").expect("writes");
        assert!(check_parts(home.path(), &parts).is_err(), "a file is no directory");
    }
}

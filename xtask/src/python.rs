//! Pinned Python packages, each list of them in an environment of its own under `target`.

use crate::workspace;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The interpreter of an environment with the packages of a list (a path in the checkout), installed when it has changed.
pub(crate) fn environment(name: &str, list: &str) -> Result<PathBuf> {
    let wanted = workspace::root().join(list);
    let directory = workspace::target()?.join(name);
    let (python, installed) = (directory.join("bin/python"), directory.join("requirements.txt"));
    let packages = fs::read(&wanted).with_context(|| wanted.display().to_string())?;
    if python.exists() && fs::read(&installed).ok().as_ref() == Some(&packages) {
        return Ok(python);
    }
    println!("== installing {}", wanted.display());
    done(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&directory))?;
    let quiet = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"];
    done(Command::new(&python).args(quiet).arg(&wanted))?;
    fs::write(&installed, packages)?;
    Ok(python)
}

fn done(command: &mut Command) -> Result<()> {
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("{command:?}"))?;
    if !status.success() {
        bail!("{}: {status}", Path::new(command.get_program()).display());
    }
    Ok(())
}

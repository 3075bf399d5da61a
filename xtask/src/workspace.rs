//! Where things lie: the checkout, the build directory this program was built into, the program under test.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}

/// `target/<triple>/release`: beside this program, whatever `CARGO_TARGET_DIR` says.
fn release() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    Ok(own.parent().context("a program lies in a directory")?.to_path_buf())
}

/// `target`.
pub(crate) fn target() -> Result<PathBuf> {
    let release = release()?;
    let target = release.ancestors().nth(2).context("xtask runs from target/<triple>/release")?;
    Ok(target.to_path_buf())
}

/// The program that `cargo build --release -p ekstra` makes.
pub(crate) fn ekstra() -> Result<PathBuf> {
    Ok(release()?.join("ekstra"))
}

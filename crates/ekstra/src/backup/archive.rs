//! A home into a file.

use crate::home::Home;
use anyhow::{Context, Result};
use ekstra_store::Store;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::os::unix::fs::{OpenOptionsExt, chown};
use std::path::{Path, PathBuf};

pub(super) const MANIFEST: &str = "manifest.json";
pub(super) const STATE: &str = "state.db";
/// Of the layout of the archive.
pub(super) const FORMAT: u32 = 1;
/// What is made again, is another's, or is put in by other ways.
const LEFT_OUT: [&str; 13] = [
    "run",
    "logs",
    "bin",
    "layers",
    "instances",
    "volumes",
    "snapshots",
    "backups",
    "state.db",
    "state.db-wal",
    "state.db-shm",
    "serve.lock",
    "restoring",
];

/// What the archive is of.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) format: u32,
    pub(super) version: String,
    pub(super) home_id: String,
    pub(super) created_ms: i64,
}

/// Writes the archive into the home, as its owner's file; whoever asked for it moves it.
pub(crate) fn create(home: &Home, store: &Store, created_ms: i64) -> Result<PathBuf> {
    let directory = home.path(super::DIRECTORY);
    fs::create_dir_all(&directory)?;
    let state = directory.join("state.partial");
    store.copy_to(&state)?;
    let manifest = Manifest {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").into(),
        home_id: home.known()?.home_id,
        created_ms,
    };
    // Beside the home's own files: a user may move it out of a directory that is theirs, not out of root's.
    let path = home.path(&format!("backup-{created_ms}.partial"));
    let written = write(home, &state, &manifest, &path);
    let _ = fs::remove_file(&state);
    written.inspect_err(|_| drop(fs::remove_file(&path)))?;
    let owner = home.owner()?;
    chown(&path, Some(owner.uid), Some(owner.gid))?;
    Ok(path)
}

fn write(home: &Home, state: &Path, manifest: &Manifest, path: &Path) -> Result<()> {
    let _ = fs::remove_file(path);
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let file = file.with_context(|| path.display().to_string())?;
    let mut tar = tar::Builder::new(GzEncoder::new(file, Compression::fast()));
    tar.follow_symlinks(false);
    let text = serde_json::to_vec_pretty(manifest)?;
    let mut header = tar::Header::new_gnu();
    header.set_size(text.len() as u64);
    header.set_mode(0o600);
    header.set_mtime(u64::try_from(manifest.created_ms / 1000).unwrap_or(0));
    tar.append_data(&mut header, MANIFEST, text.as_slice())?;
    for file in files(home)? {
        let name = file.strip_prefix(&home.root)?;
        match tar.append_path_with_name(&file, name) {
            // Something that was being written, or cleared up, meanwhile.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            added => added.with_context(|| file.display().to_string())?,
        }
    }
    tar.append_path_with_name(state, STATE)?;
    let file: File = tar.into_inner()?.finish()?;
    Ok(file.sync_all()?)
}

/// Every file that belongs in, in a fixed order.
fn files(home: &Home) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in sorted(&home.root)? {
        let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if LEFT_OUT.contains(&name.as_str()) || name.ends_with(".partial") || name.starts_with("replaced-") {
            continue;
        }
        if name == "slots" {
            for slot in sorted(&entry)? {
                collect(&slot.join("pki"), &mut found)?;
                found.extend(sorted(&slot.join("snapshots"))?.into_iter().rfind(|s| s.extension().is_some()));
            }
        } else {
            collect(&entry, &mut found)?;
        }
    }
    Ok(found)
}

fn collect(path: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let Ok(kind) = fs::symlink_metadata(path).map(|metadata| metadata.file_type()) else { return Ok(()) };
    if kind.is_dir() {
        return sorted(path)?.iter().try_for_each(|entry| collect(entry, found));
    }
    if kind.is_file() {
        found.push(path.to_owned());
    }
    Ok(())
}

/// Names of snapshots are times of equal length, so the last is the newest.
fn sorted(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| directory.display().to_string())?,
    };
    let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    found.sort();
    Ok(found)
}

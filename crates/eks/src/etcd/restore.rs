//! etcd's data from its last snapshot.
//!
//! Invariant: at every instruction there is either the damaged data or the restored one under etcd's directory, or the
//! restored one waits beside it for its name ([`finish`]).

use super::snapshots::{is_whole, list};
use super::{EtcdError, file_error, rename};
use crate::control_plane::Files;
use ekstra_domain::eks::{Listener, Site};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Kubernetes must never see a revision twice with different content: what was lost had fewer commits than this.
const REVISIONS_LOST: &str = "1000000000";

fn restored(files: &Files) -> PathBuf {
    files.root.join("etcd.restored")
}

/// Moves the damaged data aside and puts the newest whole snapshot in its place; answers that snapshot's time, or `None`
/// when there is none. etcd does not run. Blocks.
pub(crate) fn restore(
    files: &Files,
    site: &Site,
    etcdutl: &Path,
    now_ms: i64,
) -> Result<Option<i64>, EtcdError> {
    let whole = |(_, path): &&(i64, PathBuf)| is_whole(path).unwrap_or(false);
    let all = list(files);
    let Some((at, snapshot)) = all.iter().rev().find(whole) else { return Ok(None) };
    let peer = format!("https://{}", site.address(Listener::EtcdPeers));
    let partial = files.root.join("etcd.partial");
    remove(&partial)?;
    let ended = Command::new(etcdutl)
        .args(["snapshot", "restore"])
        .arg(snapshot)
        .arg("--data-dir")
        .arg(&partial)
        .args(["--name", "default", "--initial-cluster", &format!("default={peer}")])
        .args(["--initial-advertise-peer-urls", &peer])
        .args(["--bump-revision", REVISIONS_LOST, "--mark-compacted"])
        .output()
        .map_err(file_error(etcdutl))?;
    if !ended.status.success() {
        let told = String::from_utf8_lossy(&ended.stderr);
        return Err(EtcdError::Tool(told.lines().last().unwrap_or_default().to_owned()));
    }
    remove(&restored(files))?;
    rename(&partial, &restored(files))?;
    let data = files.etcd_data();
    if data.exists() {
        rename(&data, &files.root.join(format!("etcd.damaged-{now_ms}")))?;
    }
    finish(files)?;
    Ok(Some(*at))
}

/// What a restore that was interrupted has left to do. Blocks.
pub(crate) fn finish(files: &Files) -> Result<(), EtcdError> {
    let (data, restored) = (files.etcd_data(), restored(files));
    if !data.exists() && restored.exists() { rename(&restored, &data) } else { Ok(()) }
}

fn remove(directory: &Path) -> Result<(), EtcdError> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(file_error(directory)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupted_restore_is_finished_and_nothing_else_is_touched() {
        let home = tempfile::tempdir().expect("tempdir");
        let files = Files { root: home.path().to_owned() };
        finish(&files).expect("nothing to do");
        fs::create_dir_all(restored(&files)).expect("made");
        finish(&files).expect("finished");
        assert!(files.etcd_data().exists() && !restored(&files).exists());
        fs::create_dir_all(restored(&files)).expect("made");
        finish(&files).expect("the data has its name");
        assert!(restored(&files).exists(), "of a restore that was killed before it moved the damaged data");
        let site = Site::Apart { namespace: "n".into() };
        let none = restore(&files, &site, Path::new("/no/etcdutl"), 1).expect("no snapshot");
        assert_eq!(none, None);
        assert!(files.etcd_data().exists());
    }
}

//! Snapshots of every cluster's etcd, taken while it runs; the newest few are kept.

use super::{DIRECTORY, EtcdError, client, file_error, rename};
use crate::Eks;
use crate::control_plane::Files;
use crate::controller::up;
use ekstra_domain::eks::ControlPlaneSlot;
use ekstra_domain::names::keys;
use ekstra_engine::{Next, Reconciler, blocking};
use futures::FutureExt;
use futures::future::BoxFuture;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// What is lost at most when etcd's data is damaged.
const PERIOD_MS: i64 = 10 * 60 * 1000;
/// A new cluster gets its first one when it has settled.
const FIRST: Duration = Duration::from_secs(60);
const KEPT: usize = 3;
/// For one snapshot; etcd sends gigabytes in this time.
const PATIENCE: Duration = Duration::from_secs(120);
const PARTIAL: &str = "partial-";
/// etcd's sum of what is before it.
const SUM: u64 = 32;

/// Takes snapshots of every cluster that is up.
#[derive(Debug)]
pub struct EtcdSnapshots {
    eks: Eks,
}

impl EtcdSnapshots {
    pub fn new(eks: Eks) -> Self {
        Self { eks }
    }
}

impl Reconciler for EtcdSnapshots {
    type Error = EtcdError;

    fn name(&self) -> &'static str {
        "etcd-snapshots"
    }

    fn keys(&self) -> Vec<String> {
        self.eks.cluster_keys()
    }

    /// Time alone.
    fn affected(&self, _: &str) -> Vec<String> {
        Vec::new()
    }

    fn reconcile(&self, key: String) -> BoxFuture<'_, Result<Next, EtcdError>> {
        async move {
            let Some(cluster) = up(&self.eks, &key) else { return Ok(Next::OnChange) };
            let view = self.eks.cloud.store.view();
            let Some(slot) = view.get_as::<ControlPlaneSlot>(&keys::slot(&cluster.slot)) else {
                return Ok(Next::OnChange);
            };
            let now = self.eks.cloud.env.now_ms();
            let files = self.eks.files(&slot.id);
            let newest = list(&files).last().map(|(at, _)| *at);
            let due = match newest {
                // One from the future: the clock was set back.
                Some(at) => !(0..PERIOD_MS).contains(&(now - at)),
                None => now - cluster.created_ms >= i64::try_from(FIRST.as_millis()).unwrap_or(0),
            };
            if due {
                take(&self.eks, &slot).await?;
            }
            // The driver looks at every key now and then.
            Ok(Next::OnChange)
        }
        .boxed()
    }
}

/// By time, the newest last.
pub(super) fn list(files: &Files) -> Vec<(i64, PathBuf)> {
    let entries = fs::read_dir(files.root.join(DIRECTORY)).into_iter().flatten().flatten();
    let at = |path: &Path| path.file_name()?.to_str()?.strip_suffix(".db")?.parse().ok();
    let mut found: Vec<(i64, PathBuf)> =
        entries.filter_map(|entry| Some((at(&entry.path())?, entry.path()))).collect();
    found.sort();
    found
}

/// One as of now.
pub(crate) async fn take(eks: &Eks, slot: &ControlPlaneSlot) -> Result<PathBuf, EtcdError> {
    let files = eks.files(&slot.id);
    let directory = files.root.join(DIRECTORY);
    let path = directory.join(format!("{}.db", eks.cloud.env.now_ms()));
    fs::create_dir_all(&directory).map_err(file_error(&directory))?;
    // Nobody else's: a backup may be made at the same time.
    let partial = tempfile::Builder::new().prefix(PARTIAL).tempfile_in(&directory);
    let partial = partial.map_err(file_error(&directory))?.into_temp_path();
    let mut file = tokio::fs::File::create(&partial).await.map_err(file_error(&partial))?;
    let received = client::snapshot(&slot.site, &files, &mut file);
    let late = || EtcdError::Answer(format!("no snapshot within {} s", PATIENCE.as_secs()));
    tokio::time::timeout(PATIENCE, received).await.map_err(|_| late())??;
    file.flush().await.map_err(file_error(&partial))?;
    file.sync_all().await.map_err(file_error(&partial))?;
    drop(file);
    let to = path.clone();
    blocking(move || publish(&files, &partial, &to)).await?;
    Ok(path)
}

fn publish(files: &Files, partial: &Path, to: &Path) -> Result<(), EtcdError> {
    if !is_whole(partial).map_err(file_error(partial))? {
        return Err(EtcdError::Answer("a snapshot whose sum is wrong".into()));
    }
    rename(partial, to)?;
    let all = list(files);
    for (_, old) in all.iter().rev().skip(KEPT) {
        fs::remove_file(old).map_err(file_error(old))?;
    }
    let directory = files.root.join(DIRECTORY);
    clear(&directory).map_err(file_error(&directory))
}

/// What was being received when the service was killed.
fn clear(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)?.flatten() {
        let is_partial = entry.file_name().to_string_lossy().starts_with(PARTIAL);
        let age = entry.metadata()?.modified()?.elapsed().unwrap_or_default();
        if is_partial && age > PATIENCE * 2 {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Whether etcd's sum at the end is right.
pub(super) fn is_whole(path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    // etcd's pages are larger than its sum.
    if length % 512 != SUM {
        return Ok(false);
    }
    let mut sum = Sha256::new();
    let mut content = (&mut file).take(length - SUM);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match content.read(&mut buffer)? {
            0 => break,
            read => sum.update(&buffer[..read]),
        }
    }
    let mut told = [0; SUM as usize];
    file.seek(SeekFrom::Start(length - SUM))?;
    file.read_exact(&mut told)?;
    Ok(sum.finalize().as_slice() == told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_known_by_its_sum_and_the_newest_are_kept() {
        let home = tempfile::tempdir().expect("tempdir");
        let files = Files { root: home.path().to_owned() };
        let partial = home.path().join(DIRECTORY).join("partial");
        fs::create_dir_all(home.path().join(DIRECTORY)).expect("made");
        let mut whole = vec![7; 4096];
        let sum = Sha256::digest(&whole);
        whole.extend_from_slice(&sum);
        for at in [5, 10, 200, 1000] {
            fs::write(&partial, &whole).expect("written");
            publish(&files, &partial, &home.path().join(DIRECTORY).join(format!("{at}.db"))).expect("whole");
        }
        let kept: Vec<i64> = list(&files).into_iter().map(|(at, _)| at).collect();
        assert_eq!(kept, [10, 200, 1000]);
        for broken in [&whole[..100], &whole[..4096], &[&[8], &whole[1..]].concat()] {
            fs::write(&partial, broken).expect("written");
            assert!(publish(&files, &partial, &home.path().join(DIRECTORY).join("2000.db")).is_err());
        }
        assert_eq!(list(&files).len(), 3);
    }
}

//! Copies of the state, made while the service runs.

use super::DIRECTORY;
use crate::home::{Home, sync_directory};
use anyhow::{Context, Result};
use ekstra_engine::Env;
use ekstra_store::{Revision, Store};
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What is lost at most when the state is damaged.
const PERIOD: Duration = Duration::from_secs(10 * 60);
/// The first one of a service: after what is done first has been done.
const FIRST: Duration = Duration::from_secs(60);
const KEPT: usize = 3;

/// Makes a copy now and then, if anything has changed.
pub(crate) async fn keep(store: Store, home: Home, env: Env) {
    let mut last: Option<Revision> = None;
    let mut wait = FIRST;
    loop {
        tokio::time::sleep(wait).await;
        wait = PERIOD;
        let revision = store.view().revision();
        if last == Some(revision) {
            continue;
        }
        let (store, home, now) = (store.clone(), home.clone(), env.now_ms());
        match tokio::task::spawn_blocking(move || copy(&store, &home, now)).await {
            Ok(Ok(_)) => last = Some(revision),
            Ok(Err(error)) => tracing::warn!(error = format!("{error:#}"), "the state was not copied"),
            Err(error) => tracing::warn!(%error, "the state was not copied"),
        }
    }
}

/// By time, the newest last.
fn list(home: &Home) -> Vec<(i64, PathBuf)> {
    let entries = fs::read_dir(home.path(DIRECTORY)).into_iter().flatten().flatten();
    let at =
        |path: &Path| path.file_name()?.to_str()?.strip_prefix("state-")?.strip_suffix(".db")?.parse().ok();
    let mut found: Vec<(i64, PathBuf)> =
        entries.filter_map(|entry| Some((at(&entry.path())?, entry.path()))).collect();
    found.sort();
    found
}

/// The newest, and when it was made.
pub(crate) fn newest(home: &Home) -> Option<(i64, PathBuf)> {
    list(home).pop()
}

fn copy(store: &Store, home: &Home, now_ms: i64) -> Result<PathBuf> {
    let directory = home.path(DIRECTORY);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
    let (partial, path) = (directory.join("partial"), directory.join(format!("state-{now_ms}.db")));
    store.copy_to(&partial)?;
    fs::rename(&partial, &path).with_context(|| path.display().to_string())?;
    sync_directory(&path)?;
    for (_, old) in list(home).iter().rev().skip(KEPT) {
        fs::remove_file(old).with_context(|| old.display().to_string())?;
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ekstra_store::CommitError;

    #[tokio::test]
    async fn the_newest_copies_are_kept_and_each_is_a_state() {
        let directory = tempfile::tempdir().expect("tempdir");
        let home = Home { root: directory.path().to_owned() };
        let store = Store::open(&home.state_file()).expect("opens");
        for now in 1..=5 {
            store.transact::<_, CommitError>(|txn| Ok(txn.put("now", &now)?)).await.expect("commits");
            copy(&store, &home, now).expect("copied");
        }
        let all: Vec<i64> = list(&home).into_iter().map(|(at, _)| at).collect();
        assert_eq!(all, [3, 4, 5]);
        let copied = Store::open(&list(&home)[1].1).expect("is a state");
        assert_eq!(copied.view().get_as::<i64>("now"), Some(4));
    }
}

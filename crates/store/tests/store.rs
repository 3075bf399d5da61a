//! The store against its promises: conflicts, order, durability, following, and a damaged file.

use ekstra_store::{CommitError, Follower, OpenError, Store};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn open(dir: &tempfile::TempDir) -> Store {
    Store::open(&dir.path().join("state.db")).expect("opens")
}

#[tokio::test]
async fn a_transaction_commits_only_if_what_it_read_is_unchanged() {
    let dir = tempfile::tempdir().expect("tempdir");
    let store = open(&dir);
    let mut first = store.begin();
    assert_eq!(first.get::<String>("a").expect("reads"), None);
    first.put("a", "one").expect("encodes");
    let mut second = store.begin();
    assert_eq!(second.get::<String>("a").expect("reads"), None);
    second.put("a", "two").expect("encodes");
    store.commit(first).await.expect("commits");
    let refused = store.commit(second).await;
    assert!(matches!(refused, Err(CommitError::Conflict { key }) if &*key == "a"));
    assert_eq!(store.view().get_as::<String>("a").as_deref(), Some("one"));
}

#[tokio::test]
async fn a_listed_prefix_is_part_of_the_read_set() {
    let dir = tempfile::tempdir().expect("tempdir");
    let store = open(&dir);
    let mut count = store.begin();
    assert!(count.list::<String>("ng/").expect("lists").is_empty());
    count.delete("cluster");
    let mut add = store.begin();
    add.put("ng/one", "x").expect("encodes");
    store.commit(add).await.expect("commits");
    assert!(matches!(store.commit(count).await, Err(CommitError::Conflict { .. })));
}

#[tokio::test]
async fn a_shared_record_is_decoded_once_until_it_is_written_again() {
    let dir = tempfile::tempdir().expect("tempdir");
    let store = open(&dir);
    let write = async |text: &str| {
        let mut txn = store.begin();
        txn.put("part/a", text).expect("encodes");
        store.commit(txn).await.expect("commits");
    };
    write("one").await;
    let first = store.view().shared::<String>("part/a").expect("there");
    let (_, listed) = store.view().list_shared::<String>("part/").remove(0);
    assert!(Arc::ptr_eq(&first, &listed));
    let other = store.view().shared::<serde_json::Value>("part/a").expect("as another type");
    assert_eq!((first.as_str(), other.as_str()), ("one", Some("one")));
    assert_eq!(store.view().shared::<u32>("part/a"), None);
    write("two").await;
    assert_eq!(store.view().shared::<String>("part/a").expect("there").as_str(), "two");
    assert_eq!(first.as_str(), "one");
}

#[tokio::test]
async fn concurrent_increments_are_all_counted() {
    let dir = tempfile::tempdir().expect("tempdir");
    let store = open(&dir);
    let mut tasks = Vec::new();
    for _ in 0..20 {
        let store = store.clone();
        tasks.push(tokio::spawn(async move {
            store
                .transact::<_, CommitError>(|txn| {
                    let n = txn.get::<u32>("n")?.unwrap_or(0);
                    Ok(txn.put("n", &(n + 1))?)
                })
                .await
        }));
    }
    for task in tasks {
        task.await.expect("joins").expect("commits");
    }
    assert_eq!(store.view().get_as::<u32>("n"), Some(20));
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_reopening() {
    let dir = tempfile::tempdir().expect("tempdir");
    let store = open(&dir);
    store.transact::<_, CommitError>(|txn| Ok(txn.put("k", &vec![1, 2, 3])?)).await.expect("commits");
    store.transact::<_, CommitError>(|txn| Ok(txn.put("gone", &1)?)).await.expect("commits");
    store
        .transact::<_, CommitError>(|txn| {
            txn.delete("gone");
            Ok(())
        })
        .await
        .expect("commits");
    let revision = store.view().revision();
    drop(store);
    let again = open(&dir);
    assert_eq!(again.view().get_as::<Vec<u8>>("k"), Some(vec![1, 2, 3]));
    assert!(again.view().get("gone").is_none());
    assert_eq!(again.view().revision(), revision);
}

#[tokio::test]
async fn a_follower_keeps_up() {
    let dir = tempfile::tempdir().expect("tempdir");
    let store = open(&dir);
    let follower = Follower::open(&dir.path().join("state.db")).expect("follows");
    for n in 0..50_u32 {
        store.transact::<_, CommitError>(|txn| Ok(txn.put(&format!("k{n}"), &n)?)).await.expect("commits");
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut head = follower.head();
    while follower.view().revision() < store.view().revision() {
        assert!(Instant::now() < deadline, "follower is at {}", follower.view().revision());
        let _ = tokio::time::timeout(Duration::from_secs(1), head.changed()).await;
    }
    assert_eq!(follower.view().list("k").len(), 50);
}

#[test]
fn a_damaged_file_is_refused_untouched() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("state.db");
    std::fs::write(&path, vec![0x5a; 8192]).expect("writes");
    let refused = Store::open(&path);
    assert!(matches!(refused, Err(OpenError::Corrupt { .. })), "{refused:?}");
    assert_eq!(std::fs::read(&path).expect("reads"), vec![0x5a; 8192]);
}

/// Leaves what a killed service leaves: commits that are in the log beside the file only.
async fn killed(dir: &Path) -> PathBuf {
    let living = tempfile::tempdir().expect("tempdir");
    let store = open(&living);
    for n in 0..200_u32 {
        store.transact::<_, CommitError>(|txn| Ok(txn.put(&format!("k{n}"), &n)?)).await.expect("commits");
    }
    for name in ["state.db", "state.db-wal"] {
        std::fs::copy(living.path().join(name), dir.join(name)).expect("copies");
    }
    dir.join("state.db")
}

fn contents(dir: &Path) -> Vec<(String, Vec<u8>)> {
    ["state.db", "state.db-wal"]
        .map(|name| (name.to_owned(), std::fs::read(dir.join(name)).unwrap_or_default()))
        .to_vec()
}

#[tokio::test]
async fn commits_in_the_log_beside_the_file_are_there_after_a_kill() {
    let dir = tempfile::tempdir().expect("tempdir");
    killed(dir.path()).await;
    assert_eq!(open(&dir).view().list("k").len(), 200);
}

#[tokio::test]
async fn a_damaged_file_with_a_log_beside_it_is_refused_untouched() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = killed(dir.path()).await;
    // Past the header: pages of the log that replace these must not be written over them before all is well.
    let mut bytes = std::fs::read(&path).expect("reads");
    bytes.resize(8192.max(bytes.len()), 0);
    bytes[100..4096].fill(0x5a);
    std::fs::write(&path, &bytes).expect("writes");
    let mut log = std::fs::read(dir.path().join("state.db-wal")).expect("reads");
    log.truncate(32 + 24 + 1000);
    std::fs::write(dir.path().join("state.db-wal"), &log).expect("writes");
    let before = contents(dir.path());
    let refused = Store::open(&path);
    assert!(matches!(refused, Err(OpenError::Corrupt { .. })), "{refused:?}");
    assert!(contents(dir.path()) == before, "both files are as they were");
}

#[tokio::test]
async fn files_are_the_owners_alone() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("state.db");
    std::fs::write(&path, "").expect("writes");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("is ours");
    let store = open(&dir);
    store.transact::<_, CommitError>(|txn| Ok(txn.put("k", &1)?)).await.expect("commits");
    for name in ["state.db", "state.db-wal", "state.db-shm"] {
        let mode = std::fs::metadata(dir.path().join(name)).expect(name).permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

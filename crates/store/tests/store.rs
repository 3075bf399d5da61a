//! The store against its promises: conflicts, order, durability, following, and a damaged file.

use ekstra_store::{CommitError, Follower, OpenError, Store};
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

//! The store: what is verified, what survives gc, and many writers at once.

use std::time::{Duration, SystemTime};

use ekstra_images::store::{Children, Deleted, StoreError};
use ekstra_images::{Digest, ImageStore, Repository};

use crate::support::{describe, image, index, name, put, store};

fn soon() -> SystemTime {
    SystemTime::now() + Duration::from_secs(60)
}

fn names(store: &ImageStore) -> Vec<String> {
    store.list().expect("a list").iter().map(|image| image.reference.to_string()).collect()
}

#[test]
fn a_blob_that_is_not_what_was_declared_leaves_nothing() {
    let (dir, store) = store();
    let other = Digest::of(b"other");
    let error = store.copy_blob(&b"bytes"[..], &other, None).expect_err("another digest");
    assert!(matches!(error, StoreError::DigestMismatch { .. }), "{error}");
    let error = store.copy_blob(&b"bytes"[..], &Digest::of(b"bytes"), Some(4)).expect_err("another size");
    assert!(matches!(error, StoreError::SizeMismatch { expected: 4, actual: 5, .. }), "{error}");
    assert_eq!(store.blob_size(&other).expect("readable"), None);
    let left = std::fs::read_dir(dir.path().join("images/tmp")).expect("a directory").count();
    assert_eq!(left, 0, "temporary files");
}

#[test]
fn tags_and_repositories_may_share_their_names() {
    let (_dir, store) = store();
    put(&store, "docker.io/a:b", b"1");
    put(&store, "docker.io/library/a/b:latest", b"2");
    put(&store, "localhost:5000/z:1", b"3");
    assert_eq!(
        names(&store),
        ["docker.io/library/a:b", "docker.io/library/a/b:latest", "localhost:5000/z:1"]
    );
    assert!(store.delete(&name("a:b")).expect("deleted"));
    assert!(!store.delete(&name("a:b")).expect("nothing to delete"));
    assert_eq!(names(&store), ["docker.io/library/a/b:latest", "localhost:5000/z:1"]);
    assert!(store.delete(&name("library/a/b")).expect("deleted"));
    assert!(!store.dir().join("refs/docker.io").exists(), "empty directories go too");
}

#[test]
fn a_tag_moves_and_a_digest_stays() {
    let (_dir, store) = store();
    let first = put(&store, "app:1", b"first").descriptor;
    let second = put(&store, "app:1", b"second").descriptor;
    let resolve = |text: &str| store.resolve(&name(text)).expect("readable").map(|found| found.digest);
    assert_eq!(resolve("app:1"), Some(second.digest));
    assert_eq!(resolve(&format!("app@{}", first.digest)), Some(first.digest));
    assert_eq!(resolve("app:2"), None);
    assert_eq!(resolve(&format!("app@{}", Digest::of(b"nothing"))), None);
    let error = store.tag(&name(&format!("app:1@{}", first.digest)), &second).expect_err("contradiction");
    assert!(matches!(error, StoreError::DigestMismatch { .. }), "{error}");
}

#[test]
fn gc_keeps_what_a_name_leads_to() {
    let (_dir, store) = store();
    let kept = put(&store, "kept:1", b"kept");
    let by_index = image(b"in an index");
    for blob in &by_index.blobs {
        store.put_blob(blob).expect("a blob");
    }
    let top = store
        .put_manifest(&index(std::slice::from_ref(&by_index.descriptor)), None, Children::All)
        .expect("an index");
    store.tag(&name(&format!("multi@{}", top.digest)), &top).expect("a digest as name");
    let gone = put(&store, "gone:1", b"gone");
    let loose = store.put_blob(b"loose").expect("a blob");
    store.delete(&name("gone:1")).expect("deleted");

    assert_eq!(store.gc(SystemTime::UNIX_EPOCH).expect("gc").blobs, 0, "everything is too young");
    assert_eq!(store.gc(soon()).expect("gc").blobs, 4, "three of `gone` and the loose one");
    for blob in kept.blobs.iter().chain(&by_index.blobs) {
        assert!(store.blob_size(&Digest::of(blob)).expect("readable").is_some());
    }
    assert!(store.manifest(&top.digest).expect("readable").is_some());
    for digest in [loose, gone.descriptor.digest] {
        assert_eq!(store.blob_size(&digest).expect("readable"), None);
    }
}

#[test]
fn gc_removes_nothing_while_the_index_is_damaged() {
    let (_dir, store) = store();
    put(&store, "app:1", b"app");
    let loose = store.put_blob(b"loose").expect("a blob");
    let entry = store.dir().join("refs/docker.io/library/app/_tags/1");
    std::fs::write(entry, b"{").expect("damage");
    let error = store.gc(soon()).expect_err("refused");
    assert!(matches!(error, StoreError::CorruptRef { .. }), "{error}");
    assert!(store.blob_size(&loose).expect("readable").is_some());
}

#[test]
fn a_blob_in_use_is_not_deleted() {
    let (_dir, store) = store();
    let app = put(&store, "app:1", b"app");
    let layer = Digest::of(&app.blobs[0]);
    assert_eq!(store.delete_blob(&layer).expect("decided"), Deleted::InUse);
    store.delete(&name("app:1")).expect("deleted");
    assert_eq!(store.delete_blob(&layer).expect("decided"), Deleted::Gone);
    assert_eq!(store.delete_blob(&layer).expect("decided"), Deleted::Absent);
}

#[test]
fn a_manifest_needs_its_children() {
    let (_dir, store) = store();
    let app = image(b"app");
    let manifest = &app.blobs[2];
    let error = store.put_manifest(manifest, None, Children::AnyPlatform).expect_err("no blobs yet");
    assert!(matches!(error, StoreError::MissingChild { .. }), "{error}");
    store.put_manifest(manifest, None, Children::Later).expect("they come later");

    let absent = describe(ekstra_images::manifest::OCI_MANIFEST, b"absent");
    let sparse = index(&[absent.clone(), app.descriptor.clone()]);
    let error = store.put_manifest(&sparse, None, Children::All).expect_err("one is missing");
    assert!(matches!(error, StoreError::MissingChild { child, .. } if child == absent.digest), "{error}");
    store.put_manifest(&sparse, None, Children::AnyPlatform).expect("one is here");
}

#[test]
fn many_writers_of_one_blob_and_one_tag_agree() {
    let (_dir, store) = store();
    let content = vec![7; 1 << 20];
    let app = image(b"app");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            // Each with a store of its own, as processes have.
            let store = ImageStore::open(store.dir()).expect("the same store");
            let (content, app) = (&content, &app);
            scope.spawn(move || {
                for _ in 0..5 {
                    assert_eq!(store.put_blob(content).expect("a blob"), Digest::of(content));
                    for blob in &app.blobs {
                        store.put_blob(blob).expect("a blob");
                    }
                    store.tag(&name("app:1"), &app.descriptor).expect("a tag");
                    store.gc(SystemTime::UNIX_EPOCH).expect("gc");
                }
            });
        }
    });
    assert_eq!(names(&store), ["docker.io/library/app:1"]);
    assert_eq!(std::fs::read(store.blob_path(&Digest::of(&content))).expect("the blob"), content);
    let repository = Repository::new("docker.io", "app").expect("a repository");
    assert_eq!(store.tags(&repository).expect("tags"), ["1"]);
}

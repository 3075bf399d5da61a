//! Packing: the same bytes each time, from a directory and from a tar.

use std::fs::{self, Permissions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use ekstra_images::manifest::{Content, OCI_LAYER, OCI_MANIFEST};
use ekstra_images::pack::{PackError, PackOptions, pack};
use ekstra_images::{Digest, ImageStore};

use crate::support::{file, gzip, header, link, name, store};

/// Fixed for ever: when it changes, so does every image that users packed before.
const GOLDEN: &str = "sha256:9f3dffd794c9261e11b35a057ec8e30bc583c5cc3047b670620debff864fab6f";

fn rootfs(dir: &Path) -> PathBuf {
    let root = dir.join("rootfs");
    fs::create_dir_all(root.join("bin")).expect("a directory");
    fs::create_dir_all(root.join("etc")).expect("a directory");
    for (path, content, mode) in
        [("etc/motd", "hello\n", 0o644), ("bin/su", "#!su", 0o4755), ("etc-file", "sorts between", 0o600)]
    {
        fs::write(root.join(path), content).expect("a file");
        fs::set_permissions(root.join(path), Permissions::from_mode(mode)).expect("a mode");
    }
    for directory in ["bin", "etc"] {
        fs::set_permissions(root.join(directory), Permissions::from_mode(0o755)).expect("a mode");
    }
    fs::hard_link(root.join("bin/su"), root.join("bin/sudo")).expect("a hard link");
    symlink("../etc/motd", root.join("bin/motd")).expect("a link");
    let long = format!("etc/{}", "n".repeat(150));
    symlink("t".repeat(150), root.join(long)).expect("a link");
    root
}

/// The same root file system as a tar in another order, with another name of the hard link first.
fn rootfs_tar() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut regular = |path: &str, content: &[u8], mode| {
        let mut header = header(path, tar::EntryType::Regular);
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        header.set_mtime(12345);
        header.set_cksum();
        builder.append(&header, content).expect("memory does not fail");
    };
    regular("./etc/motd", b"hello\n", 0o644);
    regular("./bin/sudo", b"#!su", 0o4755);
    regular("/etc-file", b"sorts between", 0o600);
    let mut linked = header("./bin/su", tar::EntryType::Link);
    linked.set_mode(0o4755);
    linked.set_link_name_literal("./bin/sudo").expect("a short target");
    linked.set_cksum();
    builder.append(&linked, std::io::empty()).expect("memory does not fail");
    for directory in ["./", "./etc/", "bin/"] {
        let mut header = header(directory, tar::EntryType::Directory);
        header.set_mode(0o755);
        header.set_cksum();
        builder.append(&header, std::io::empty()).expect("memory does not fail");
    }
    link(&mut builder, tar::EntryType::Symlink, "bin/motd", "../etc/motd");
    let mut long = tar::Header::new_gnu();
    long.set_uid(0);
    long.set_gid(0);
    long.set_mode(0o777);
    long.set_entry_type(tar::EntryType::Symlink);
    long.set_size(0);
    let path = format!("etc/{}", "n".repeat(150));
    builder.append_link(&mut long, path, "t".repeat(150)).expect("memory does not fail");
    link(&mut builder, tar::EntryType::Char, "dev-null", "");
    builder.into_inner().expect("memory does not fail")
}

fn options() -> PackOptions {
    PackOptions {
        entrypoint: vec!["/bin/su".to_owned()],
        cmd: vec!["-".to_owned()],
        env: vec!["PATH=/bin".to_owned()],
        workdir: Some("/etc".to_owned()),
        user: Some("65532:65532".to_owned()),
        exposed_ports: vec!["80".to_owned(), "53/udp".to_owned()],
        labels: [("a".to_owned(), "b".to_owned())].into(),
        architecture: "amd64".to_owned(),
        // Who runs the test is not to matter.
        owner: Some((0, 0)),
        ..PackOptions::new(name("packed:1"))
    }
}

fn layer(store: &ImageStore, manifest: &Digest) -> (Vec<u8>, serde_json::Value) {
    let (manifest, _) = store.manifest(manifest).expect("readable").expect("stored");
    assert_eq!(manifest.media_type, OCI_MANIFEST);
    let Content::Image { config, layers } = manifest.content else { panic!("not an image") };
    assert_eq!((layers.len(), layers[0].media_type.as_str()), (1, OCI_LAYER));
    let read = |digest| fs::read(store.blob_path(digest)).expect("a blob");
    (read(&layers[0].digest), serde_json::from_slice(&read(&config.digest)).expect("JSON"))
}

fn listing(layer: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(layer);
    let entries = archive.entries().expect("a tar");
    let mut lines = Vec::new();
    for entry in entries {
        let mut entry = entry.expect("an entry");
        let (kind, header) = (entry.header().entry_type(), entry.header().clone());
        assert_eq!(header.mtime().expect("a time"), 0);
        let path = entry.path().expect("a path").display().to_string();
        let target = entry.link_name().expect("a link").map(|t| format!(" -> {}", t.display()));
        let mut content = String::new();
        entry.read_to_string(&mut content).expect("text");
        let mode = header.mode().expect("a mode");
        let mode = if kind.is_symlink() { String::new() } else { format!("{mode:o}") };
        lines.push(format!("{kind:?} {mode} {path}{} {content:?}", target.unwrap_or_default()));
    }
    lines
}

#[test]
fn a_directory_packs_to_the_golden_digest() {
    let (dir, store) = store();
    let root = rootfs(dir.path());
    let first = pack(&store, &root, &options()).expect("packed");
    assert_eq!(first.digest.to_string(), GOLDEN);
    fs::remove_dir_all(&root).expect("removed");
    let again = pack(&store, &rootfs(dir.path()), &options()).expect("packed");
    assert_eq!(again, first);
    assert_eq!(store.resolve(&name("packed:1")).expect("readable").map(|t| t.digest), Some(first.digest));

    let (layer, config) = layer(&store, &first.digest);
    let long = format!("Symlink  etc/{} -> {} \"\"", "n".repeat(150), "t".repeat(150));
    let expected = [
        "Directory 755 bin/ \"\"",
        "Symlink  bin/motd -> ../etc/motd \"\"",
        "Regular 4755 bin/su \"#!su\"",
        "Link 4755 bin/sudo -> bin/su \"\"",
        "Directory 755 etc/ \"\"",
        "Regular 600 etc-file \"sorts between\"",
        "Regular 644 etc/motd \"hello\\n\"",
        &long,
    ];
    assert_eq!(listing(&layer), expected);
    assert_eq!(config["rootfs"]["diff_ids"][0], Digest::of(&layer).to_string());
    assert_eq!(
        config["config"],
        serde_json::json!({
            "User": "65532:65532", "ExposedPorts": { "80/tcp": {}, "53/udp": {} }, "Env": ["PATH=/bin"],
            "Entrypoint": ["/bin/su"], "Cmd": ["-"], "WorkingDir": "/etc", "Labels": { "a": "b" },
        })
    );
}

#[test]
fn a_tar_in_any_order_packs_to_the_same_layer() {
    let (dir, store) = store();
    let of_dir = pack(&store, &rootfs(dir.path()), &options()).expect("packed");
    for (file_name, bytes) in [("rootfs.tar", rootfs_tar()), ("rootfs.tgz", gzip(&rootfs_tar()))] {
        let path = dir.path().join(file_name);
        fs::write(&path, bytes).expect("a file");
        let of_tar = pack(&store, &path, &options()).expect("packed");
        assert_eq!(of_tar.skipped, [Path::new("dev-null")]);
        let lists = [&of_dir, &of_tar].map(|packed| listing(&layer(&store, &packed.digest).0));
        assert_eq!(lists[0], lists[1], "{file_name}");
    }
}

#[test]
fn owners_are_kept_unless_one_is_given() {
    let (dir, store) = store();
    let root = rootfs(dir.path());
    let owner = fs::metadata(root.join("etc/motd")).expect("a file").uid();
    let packed = pack(&store, &root, &PackOptions { owner: None, ..options() }).expect("packed");
    let (layer, _) = layer(&store, &packed.digest);
    for entry in tar::Archive::new(layer.as_slice()).entries().expect("a tar") {
        assert_eq!(entry.expect("an entry").header().uid().expect("a uid"), u64::from(owner));
    }
}

#[test]
fn what_cannot_be_packed_is_refused_by_name() {
    let (dir, store) = store();
    let root = rootfs(dir.path());
    let refuse = |change: &dyn Fn(&mut PackOptions)| {
        let mut options = options();
        change(&mut options);
        match pack(&store, &root, &options) {
            Err(PackError::Option { option, .. }) => option,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refuse(&|o| o.env = vec!["PATH".to_owned()]), "env");
    assert_eq!(refuse(&|o| o.workdir = Some("etc".to_owned())), "workdir");
    assert_eq!(refuse(&|o| o.user = Some(String::new())), "user");
    assert_eq!(refuse(&|o| o.exposed_ports = vec!["0".to_owned()]), "exposed port");
    assert_eq!(refuse(&|o| o.name = name(&format!("a@{}", Digest::of(b"")))), "name");

    let tar = dir.path().join("bad.tar");
    let pack_tar = |make: &dyn Fn(&mut tar::Builder<Vec<u8>>)| {
        let mut builder = tar::Builder::new(Vec::new());
        make(&mut builder);
        fs::write(&tar, builder.into_inner().expect("memory does not fail")).expect("a file");
        pack(&store, &tar, &options()).expect_err("refused")
    };
    let error = pack_tar(&|b| file(b, "a/../../b", b""));
    assert!(matches!(error, PackError::Traversal(_)), "{error}");
    let error = pack_tar(&|b| link(b, tar::EntryType::Link, "a", "nowhere"));
    assert!(matches!(error, PackError::HardLink(_)), "{error}");
    let error = pack_tar(&|b| file(b, "a/.wh.b", b""));
    assert!(matches!(error, PackError::Whiteout(_)), "{error}");
}

//! Archives as other programs write them, and as nobody should.

use ekstra_images::import::{ImportError, ImportOptions, SpoolError, import_path, import_reader};
use ekstra_images::manifest::{Content, DOCKER_LAYER, DOCKER_MANIFEST, OCI_INDEX};
use ekstra_images::{Digest, ImageStore, Reference};

use crate::support::{
    annotated, config, describe, file, gzip, header, image, index, layout, link, name, store, tar, tar_of,
};

const FULL: &str = "io.containerd.image.name";
const REF: &str = "org.opencontainers.image.ref.name";

fn load(store: &ImageStore, bytes: &[u8]) -> Result<Vec<String>, ImportError> {
    load_as(store, bytes, None)
}

fn load_as(store: &ImageStore, bytes: &[u8], name: Option<Reference>) -> Result<Vec<String>, ImportError> {
    let images = import_reader(store, bytes, &ImportOptions { name })?;
    Ok(images.iter().map(|image| image.reference.to_string()).collect())
}

/// What `docker save` wrote for years: two layers, the second a link to the first's file.
fn docker_archive(tags: &str) -> (Vec<u8>, Vec<u8>) {
    let layer = tar(&[("hello", b"world")]);
    let config = config(&[Digest::of(&layer), Digest::of(&layer)]);
    let name = format!("{}.json", Digest::of(&config).hex());
    let manifest =
        format!(r#"[{{"Config":"{name}","RepoTags":{tags},"Layers":["a/layer.tar","b/layer.tar"]}}]"#);
    let mut builder = tar::Builder::new(Vec::new());
    file(&mut builder, &name, &config);
    file(&mut builder, "a/layer.tar", &layer);
    link(&mut builder, tar::EntryType::Symlink, "b/layer.tar", "../a/layer.tar");
    file(&mut builder, "manifest.json", manifest.as_bytes());
    (builder.into_inner().expect("memory does not fail"), layer)
}

#[test]
fn a_docker_archive_keeps_its_layers_and_all_its_names() {
    let (_dir, store) = store();
    let (archive, layer) = docker_archive(r#"["nginx:1.27","registry.k8s.io/nginx:x"]"#);
    let expected = ["docker.io/library/nginx:1.27", "registry.k8s.io/nginx:x"];
    assert_eq!(load(&store, &archive).expect("loaded"), expected);
    assert_eq!(load(&store, &gzip(&archive)).expect("loaded compressed"), expected);

    let target = store.resolve(&name("nginx:1.27")).expect("readable").expect("tagged");
    let (manifest, _) = store.manifest(&target.digest).expect("readable").expect("stored");
    assert_eq!(manifest.media_type, DOCKER_MANIFEST);
    let Content::Image { layers, .. } = manifest.content else { panic!("not an image") };
    assert_eq!(layers, vec![describe(DOCKER_LAYER, &layer); 2]);
    assert_eq!(std::fs::read(store.blob_path(&Digest::of(&layer))).expect("the layer"), layer);
}

#[test]
fn a_docker_archive_without_a_name_needs_one() {
    let (_dir, store) = store();
    let (archive, _) = docker_archive("null");
    assert!(matches!(load(&store, &archive), Err(ImportError::NoName { .. })));
    let loaded = load_as(&store, &archive, Some(name("mine:2"))).expect("loaded");
    assert_eq!(loaded, ["docker.io/library/mine:2"]);
}

#[test]
fn compressed_layers_of_a_docker_archive_are_kept_and_checked() {
    let (_dir, store) = store();
    let layer = tar(&[("hello", b"world")]);
    let archive = |diff_id| {
        let manifest = r#"[{"Config":"c","RepoTags":["a"],"Layers":["l.tar.gz"]}]"#;
        tar(&[
            ("manifest.json", manifest.as_bytes()),
            ("c", &config(&[diff_id])),
            ("l.tar.gz", &gzip(&layer)),
        ])
    };
    load(&store, &archive(Digest::of(&layer))).expect("loaded");
    assert!(store.blob_size(&Digest::of(&gzip(&layer))).expect("readable").is_some());
    let error = load(&store, &archive(Digest::of(b"other"))).expect_err("another layer");
    assert!(matches!(error, ImportError::DigestMismatch { .. }), "{error}");
}

#[test]
fn a_layout_loads_from_tar_gzip_and_directory() {
    let (dir, store) = store();
    let app = image(b"app");
    let blobs: Vec<&[u8]> = app.blobs.iter().map(Vec::as_slice).collect();
    let files = layout(&[annotated(app.descriptor.clone(), FULL, "ghcr.io/me/app:v1")], &blobs);
    let root = dir.path().join("layout");
    for (path, content) in &files {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        std::fs::write(path, content).expect("a file");
    }
    let packed = dir.path().join("layout.tar.gz");
    std::fs::write(&packed, gzip(&tar_of(&files))).expect("a file");

    let options = ImportOptions::default();
    for path in [&root, &packed] {
        let images = import_path(&store, path, &options).expect("loaded");
        assert_eq!(images.len(), 1);
        assert_eq!(images[0].reference.to_string(), "ghcr.io/me/app:v1");
        assert_eq!(images[0].target, app.descriptor);
    }
    assert_eq!(load(&store, &tar_of(&files)).expect("loaded"), ["ghcr.io/me/app:v1"]);
}

#[test]
fn names_of_layouts_come_from_annotations_or_the_caller() {
    let (_dir, store) = store();
    let app = image(b"app");
    let blobs: Vec<&[u8]> = app.blobs.iter().map(Vec::as_slice).collect();
    let with = |top: &[_]| tar_of(&layout(top, &blobs));
    let plain = app.descriptor.clone();

    let whole = with(&[annotated(plain.clone(), REF, "docker.io/library/app:v1")]);
    assert_eq!(load(&store, &whole).expect("loaded"), ["docker.io/library/app:v1"]);
    let both = annotated(annotated(plain.clone(), REF, "v2"), FULL, "docker.io/library/app:v2");
    assert_eq!(load(&store, &with(&[both])).expect("loaded"), ["docker.io/library/app:v2"]);
    let bare = with(&[annotated(plain.clone(), REF, "v3")]);
    let error = load(&store, &bare).expect_err("no repository");
    assert!(error.to_string().contains("only the tag `v3`"), "{error}");
    assert_eq!(load_as(&store, &bare, Some(name("x:1"))).expect("loaded"), ["docker.io/library/x:1"]);

    let twice = with(&[annotated(plain.clone(), FULL, "a:1"), annotated(plain, FULL, "a:2")]);
    let names = ["docker.io/library/a:1", "docker.io/library/a:2"];
    assert_eq!(load(&store, &twice).expect("loaded"), names);
}

#[test]
fn a_hybrid_archive_has_the_layouts_digest_and_dockers_names() {
    let (_dir, store) = store();
    let app = image(b"app");
    let blobs: Vec<&[u8]> = app.blobs.iter().map(Vec::as_slice).collect();
    let mut files = layout(std::slice::from_ref(&app.descriptor), &blobs);
    let config = Digest::of(&app.blobs[1]).hex();
    let saved = format!(r#"[{{"Config":"blobs/sha256/{config}","RepoTags":["app:9"],"Layers":[]}}]"#);
    files.push(("manifest.json".to_owned(), saved.into_bytes()));
    assert_eq!(load(&store, &tar_of(&files)).expect("loaded"), ["docker.io/library/app:9"]);
    assert_eq!(store.resolve(&name("app:9")).expect("readable"), Some(app.descriptor));
}

#[test]
fn an_index_may_lack_platforms_but_not_all() {
    let (_dir, store) = store();
    let (here, absent) = (image(b"here"), image(b"absent"));
    let top = index(&[absent.descriptor.clone(), here.descriptor.clone()]);
    let named = annotated(describe(OCI_INDEX, &top), FULL, "multi");
    // Of the absent platform the manifest is there, its layer is not.
    let mut blobs: Vec<&[u8]> = here.blobs.iter().map(Vec::as_slice).collect();
    blobs.extend([absent.blobs[2].as_slice(), &top]);
    load(&store, &tar_of(&layout(std::slice::from_ref(&named), &blobs))).expect("loaded");
    let empty = layout(&[named], &[absent.blobs[2].as_slice(), &top]);
    let error = load(&crate::support::store().1, &tar_of(&empty)).expect_err("no platform is whole");
    assert!(matches!(error, ImportError::Missing { .. } | ImportError::Store(_)), "{error}");
}

#[test]
fn several_images_cannot_have_one_name() {
    let (_dir, store) = store();
    let (one, two) = (image(b"1"), image(b"2"));
    let blobs: Vec<&[u8]> = one.blobs.iter().chain(&two.blobs).map(Vec::as_slice).collect();
    let archive = tar_of(&layout(&[one.descriptor, two.descriptor], &blobs));
    assert!(matches!(load_as(&store, &archive, Some(name("x"))), Err(ImportError::NameForMany(2))));
}

#[test]
fn hostile_layouts_are_refused_and_leave_no_name() {
    use ImportError as E;
    let (_dir, store) = store();
    let app = image(b"app");
    let [layer, config, manifest] = [0, 1, 2].map(|at| app.blobs[at].as_slice());
    let top = annotated(app.descriptor.clone(), FULL, "app");
    let whole = || layout(std::slice::from_ref(&top), &[layer, config, manifest]);
    let replaced = |blob: &[u8], content: &[u8]| {
        let mut files = whole();
        let path = format!("blobs/sha256/{}", Digest::of(blob).hex());
        files.iter_mut().filter(|(name, _)| *name == path).for_each(|(_, bytes)| *bytes = content.to_vec());
        tar_of(&files)
    };
    let mut bit = layer.to_vec();
    bit[0] ^= 1;
    let mut huge = whole();
    huge[1].1 = vec![b' '; (4 << 20) + 1];
    let mut version = whole();
    version[0].1 = br#"{"imageLayoutVersion":"9"}"#.to_vec();
    let mut sized = top.clone();
    sized.size += 1;

    type Is = fn(&E) -> bool;
    let table: [(&str, Vec<u8>, Is); 9] = [
        ("a changed layer", replaced(layer, &bit), |e| matches!(e, E::Store(_))),
        ("a short layer", replaced(layer, b"x"), |e| matches!(e, E::SizeMismatch { .. })),
        ("a changed manifest", replaced(manifest, b"{}"), |e| matches!(e, E::DigestMismatch { .. })),
        ("a missing layer", tar_of(&layout(std::slice::from_ref(&top), &[config, manifest])), |e| {
            matches!(e, E::Missing { .. })
        }),
        ("a huge index", tar_of(&huge), |e| matches!(e, E::TooLarge { .. })),
        ("a wrong size", tar_of(&layout(&[sized], &[layer, config, manifest])), |e| {
            matches!(e, E::SizeMismatch { .. })
        }),
        ("another version", tar_of(&version), |e| matches!(e, E::LayoutVersion(_))),
        ("no image", tar(&[("readme", b"hi")]), |e| matches!(e, E::NotAnImage)),
        ("no tar", vec![b'x'; 2048], |e| matches!(e, E::NotTar(_))),
    ];
    for (what, archive, is) in table {
        let error = load(&store, &archive).expect_err(what);
        assert!(is(&error), "{what}: {error:?}");
    }
    assert_eq!(store.list().expect("a list"), []);
}

#[test]
fn hostile_members_are_refused() {
    use ImportError as E;
    let (_dir, store) = store();
    let made = |make: &dyn Fn(&mut tar::Builder<Vec<u8>>)| {
        let mut builder = tar::Builder::new(Vec::new());
        make(&mut builder);
        builder.into_inner().expect("memory does not fail")
    };
    let symlink = tar::EntryType::Symlink;
    type Is = fn(&E) -> bool;
    let table: [(&str, Vec<u8>, Is); 7] = [
        ("traversal", made(&|b| file(b, "../etc/passwd", b"x")), |e| matches!(e, E::Traversal { .. })),
        ("absolute", made(&|b| file(b, "/etc/passwd", b"x")), |e| matches!(e, E::Traversal { .. })),
        ("symlink outside", made(&|b| link(b, symlink, "manifest.json", "../../etc/passwd")), |e| {
            matches!(e, E::LinkOutside { .. })
        }),
        (
            "hard link outside",
            made(&|b| link(b, tar::EntryType::Link, "manifest.json", "/etc/passwd")),
            |e| matches!(e, E::LinkOutside { .. }),
        ),
        ("a circle", made(&|b| link(b, symlink, "manifest.json", "manifest.json")), |e| {
            matches!(e, E::LinkLoop { .. })
        }),
        ("a device", made(&|b| link(b, tar::EntryType::Char, "manifest.json", "")), |e| {
            matches!(e, E::NotRegular { .. })
        }),
        (
            "a name that fills memory",
            made(&|b| {
                let mut long = header("././@LongLink", tar::EntryType::GNULongName);
                long.set_size(2 << 20);
                long.set_cksum();
                b.append(&long, vec![b'a'; 2 << 20].as_slice()).expect("memory does not fail");
            }),
            |e| matches!(e, E::NotTar(_)),
        ),
    ];
    for (what, archive, is) in table {
        let error = load(&store, &archive).expect_err(what);
        assert!(is(&error), "{what}: {error:?}");
    }
}

#[test]
fn hostile_docker_archives_are_refused() {
    use ImportError as E;
    let (_dir, store) = store();
    let layer = tar(&[("hello", b"world")]);
    let good = config(&[Digest::of(&layer)]);
    let hex = format!("{}.json", Digest::of(b"other").hex());
    let archive = |config_name: &str, layers: &str, tag: &str| {
        let manifest = format!(r#"[{{"Config":"{config_name}","RepoTags":["{tag}"],"Layers":{layers}}}]"#);
        tar(&[("manifest.json", manifest.as_bytes()), (config_name, &good), ("l", &layer), ("bad", b"bad")])
    };
    type Is = fn(&E) -> bool;
    let table: [(&str, Vec<u8>, Is); 6] = [
        ("a missing layer", archive("c", r#"["nowhere"]"#, "a"), |e| matches!(e, E::Missing { .. })),
        ("another layer", archive("c", r#"["bad"]"#, "a"), |e| matches!(e, E::DigestMismatch { .. })),
        ("too many layers", archive("c", r#"["l","l"]"#, "a"), |e| matches!(e, E::LayerCount { .. })),
        ("another config", archive(&hex, r#"["l"]"#, "a"), |e| matches!(e, E::DigestMismatch { .. })),
        ("a bad name", archive("c", r#"["l"]"#, "../a"), |e| matches!(e, E::BadName { .. })),
        ("a layer outside", archive("c", r#"["../../etc/passwd"]"#, "a"), |e| {
            matches!(e, E::Traversal { .. })
        }),
    ];
    for (what, archive, is) in table {
        let error = load(&store, &archive).expect_err(what);
        assert!(is(&error), "{what}: {error:?}");
    }
    assert_eq!(store.list().expect("a list"), []);
}

#[test]
fn a_link_out_of_a_layout_directory_is_refused() {
    let (dir, store) = store();
    let root = dir.path().join("layout");
    std::fs::create_dir(&root).expect("a directory");
    std::fs::write(dir.path().join("secret"), b"{}").expect("a file");
    std::fs::write(root.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#).expect("a file");
    std::os::unix::fs::symlink("../secret", root.join("index.json")).expect("a link");
    let error = import_path(&store, &root, &ImportOptions::default()).expect_err("refused");
    assert!(matches!(error, ImportError::LinkOutside { .. }), "{error}");
}

#[test]
fn truncated_and_otherwise_compressed_inputs_are_refused() {
    let (_dir, store) = store();
    let (archive, _) = docker_archive(r#"["a"]"#);
    assert!(matches!(load(&store, &archive[..1500]), Err(ImportError::NotTar(_))));
    let error = load(&store, b"\x28\xb5\x2f\xfdrest").expect_err("zstd");
    assert!(matches!(error, ImportError::Spool(SpoolError::Compressed("zstd"))), "{error}");
    assert!(matches!(load(&store, &gzip(&archive)[..100]), Err(ImportError::Spool(_))));
}

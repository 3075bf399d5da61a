//! Stores, images and archives made by hand. Invariant: everything here is made byte for byte the same
//! each time.

use std::io::Write;

use ekstra_images::manifest::{OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST};
use ekstra_images::{Descriptor, Digest, ImageStore, Reference};
use tempfile::TempDir;

pub(crate) fn store() -> (TempDir, ImageStore) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = ImageStore::open(dir.path().join("images")).expect("a store");
    (dir, store)
}

pub(crate) fn name(text: &str) -> Reference {
    Reference::parse(text).expect("a name")
}

/// A tar of these files.
pub(crate) fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        file(&mut builder, path, content);
    }
    builder.into_inner().expect("memory does not fail")
}

/// Adds a file under any name, even one that the tar crate would not write.
pub(crate) fn file(builder: &mut tar::Builder<Vec<u8>>, path: &str, content: &[u8]) {
    let mut header = header(path, tar::EntryType::Regular);
    header.set_size(content.len() as u64);
    header.set_cksum();
    builder.append(&header, content).expect("memory does not fail");
}

pub(crate) fn link(builder: &mut tar::Builder<Vec<u8>>, kind: tar::EntryType, path: &str, target: &str) {
    let mut header = header(path, kind);
    header.set_link_name_literal(target).expect("a short target");
    header.set_cksum();
    builder.append(&header, std::io::empty()).expect("memory does not fail");
}

pub(crate) fn header(path: &str, kind: tar::EntryType) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    header.set_cksum();
    header
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("memory does not fail")
}

/// An OCI image of one layer: its blobs, the last of them the manifest.
pub(crate) struct Image {
    pub(crate) blobs: Vec<Vec<u8>>,
    pub(crate) descriptor: Descriptor,
}

pub(crate) fn image(content: &[u8]) -> Image {
    let layer = tar(&[("file", content)]);
    let config = config(&[Digest::of(&layer)]);
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": describe(OCI_CONFIG, &config),
        "layers": [describe(OCI_LAYER, &layer)],
    });
    let manifest = manifest.to_string().into_bytes();
    Image { descriptor: describe(OCI_MANIFEST, &manifest), blobs: vec![layer, config, manifest] }
}

pub(crate) fn config(diff_ids: &[Digest]) -> Vec<u8> {
    serde_json::json!({
        "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": diff_ids },
    })
    .to_string()
    .into_bytes()
}

pub(crate) fn describe(media_type: &str, bytes: &[u8]) -> Descriptor {
    Descriptor::new(media_type, Digest::of(bytes), bytes.len() as u64)
}

pub(crate) fn annotated(mut descriptor: Descriptor, key: &str, value: &str) -> Descriptor {
    descriptor.annotations.get_or_insert_default().insert(key.to_owned(), value.to_owned());
    descriptor
}

pub(crate) fn index(members: &[Descriptor]) -> Vec<u8> {
    let index = serde_json::json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": members });
    index.to_string().into_bytes()
}

/// The files of an OCI layout.
pub(crate) fn layout(top: &[Descriptor], blobs: &[&[u8]]) -> Vec<(String, Vec<u8>)> {
    let mut files = vec![
        ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        ("index.json".to_owned(), index(top)),
    ];
    files.extend(blobs.iter().map(|b| (format!("blobs/sha256/{}", Digest::of(b).hex()), b.to_vec())));
    files
}

pub(crate) fn tar_of(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let files: Vec<_> = files.iter().map(|(path, content)| (path.as_str(), content.as_slice())).collect();
    tar(&files)
}

/// Stores an image and names it.
pub(crate) fn put(store: &ImageStore, reference: &str, content: &[u8]) -> Image {
    let image = image(content);
    for blob in &image.blobs {
        store.put_blob(blob).expect("a blob");
    }
    store.tag(&name(reference), &image.descriptor).expect("a tag");
    image
}

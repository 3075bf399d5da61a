//! Writes an image as an OCI layout in a tar, with docker's `manifest.json` besides.
//! Invariant: deterministic. Entries are sorted, owned by root, without times; the layer is not compressed,
//! since it is read far more often than it is moved.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

const CREATED: &str = "1970-01-01T00:00:00Z";
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The files of an image, by path without leading slash.
#[derive(Debug, Default)]
pub(crate) struct Contents(BTreeMap<String, Entry>);

#[derive(Debug)]
enum Entry {
    File { from: PathBuf, mode: u32 },
    Link { target: String },
}

impl Contents {
    pub(crate) fn file(&mut self, path: &str, from: &Path, mode: u32) {
        self.0.insert(path.to_owned(), Entry::File { from: from.to_owned(), mode });
    }

    pub(crate) fn link(&mut self, path: &str, target: &str) {
        self.0.insert(path.to_owned(), Entry::Link { target: target.to_owned() });
    }

    /// Path in the image and source of every regular file.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.0.iter().filter_map(|(path, entry)| match entry {
            Entry::File { from, .. } => Some((path.as_str(), from.as_path())),
            Entry::Link { .. } => None,
        })
    }

    /// Every directory above an entry.
    fn directories(&self) -> BTreeSet<String> {
        let parents = self.0.keys().flat_map(|path| Path::new(path).ancestors().skip(1));
        let named = parents.filter_map(Path::to_str).filter(|dir| !dir.is_empty());
        named.map(|dir| format!("{dir}/")).collect()
    }
}

/// An image to be written.
#[derive(Debug)]
pub(crate) struct Image<'a> {
    pub(crate) names: &'a [String],
    pub(crate) entrypoint: &'a [String],
    pub(crate) contents: &'a Contents,
}

/// A blob of the layout.
struct Blob {
    media_type: &'static str,
    digest: String,
    size: u64,
}

impl Blob {
    fn of(media_type: &'static str, bytes: &[u8]) -> Self {
        Self { media_type, digest: hex::encode(Sha256::digest(bytes)), size: bytes.len() as u64 }
    }

    fn descriptor(&self) -> Value {
        let digest = format!("sha256:{}", self.digest);
        json!({ "mediaType": self.media_type, "digest": digest, "size": self.size })
    }

    fn path(&self) -> String {
        format!("blobs/sha256/{}", self.digest)
    }
}

impl Image<'_> {
    /// Writes the archive into a directory of the caller's and returns its path.
    pub(crate) fn write(&self, scratch: &Path) -> io::Result<PathBuf> {
        let layer_file = scratch.join("layer.tar");
        let layer = self.write_layer(&layer_file)?;
        let config_bytes = self.config(&layer).to_string().into_bytes();
        let config = Blob::of("application/vnd.oci.image.config.v1+json", &config_bytes);
        let manifest_bytes = manifest(&config, &layer).to_string().into_bytes();
        let manifest = Blob::of("application/vnd.oci.image.manifest.v1+json", &manifest_bytes);
        let archive = scratch.join("image.tar");
        let mut tar = Builder::new(BufWriter::new(File::create(&archive)?));
        ["blobs/", "blobs/sha256/"].iter().try_for_each(|dir| directory(&mut tar, dir))?;
        bytes(&mut tar, &config.path(), &config_bytes)?;
        bytes(&mut tar, &manifest.path(), &manifest_bytes)?;
        file(&mut tar, &layer.path(), &layer_file, 0o644)?;
        bytes(&mut tar, "index.json", self.index(&manifest).to_string().as_bytes())?;
        bytes(&mut tar, "manifest.json", self.docker_manifest(&config, &layer).to_string().as_bytes())?;
        bytes(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        tar.into_inner()?.flush()?;
        fs::remove_file(layer_file)?;
        Ok(archive)
    }

    fn write_layer(&self, path: &Path) -> io::Result<Blob> {
        let output = BufWriter::new(File::create(path)?);
        let mut tar = Builder::new(Hashing { output, hasher: Sha256::new(), size: 0 });
        for dir in self.contents.directories() {
            directory(&mut tar, &dir)?;
        }
        for (path, entry) in &self.contents.0 {
            match entry {
                Entry::File { from, mode } => file(&mut tar, path, from, *mode)?,
                Entry::Link { target } => link(&mut tar, path, target)?,
            }
        }
        let mut hashing = tar.into_inner()?;
        hashing.flush()?;
        let digest = hex::encode(hashing.hasher.finalize());
        Ok(Blob { media_type: "application/vnd.oci.image.layer.v1.tar", digest, size: hashing.size })
    }

    fn config(&self, layer: &Blob) -> Value {
        json!({
            "architecture": architecture(),
            "os": "linux",
            "created": CREATED,
            "config": { "Entrypoint": self.entrypoint, "Env": [PATH], "WorkingDir": "/" },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", layer.digest)] },
            "history": [{ "created": CREATED, "created_by": "ekstra" }],
        })
    }

    /// One entry a name: containerd names images by the annotation.
    fn index(&self, manifest: &Blob) -> Value {
        let entries = self.names.iter().map(|name| {
            let mut entry = manifest.descriptor();
            let tag = name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
            entry["platform"] = json!({ "architecture": architecture(), "os": "linux" });
            entry["annotations"] =
                json!({ "io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag });
            entry
        });
        json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": entries.collect::<Vec<_>>(),
        })
    }

    fn docker_manifest(&self, config: &Blob, layer: &Blob) -> Value {
        json!([{ "Config": config.path(), "RepoTags": self.names, "Layers": [layer.path()] }])
    }
}

fn manifest(config: &Blob, layer: &Blob) -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config.descriptor(),
        "layers": [layer.descriptor()],
    })
}

/// As OCI calls it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Hashes and counts what passes through.
struct Hashing<W> {
    output: W,
    hasher: Sha256,
    size: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.output.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn directory(tar: &mut Builder<impl Write>, path: &str) -> io::Result<()> {
    tar.append_data(&mut header(EntryType::Directory, 0o755, 0), path, io::empty())
}

fn link(tar: &mut Builder<impl Write>, path: &str, target: &str) -> io::Result<()> {
    tar.append_link(&mut header(EntryType::Symlink, 0o777, 0), path, target)
}

fn file(tar: &mut Builder<impl Write>, path: &str, from: &Path, mode: u32) -> io::Result<()> {
    let input = File::open(from)?;
    let size = input.metadata()?.len();
    tar.append_data(&mut header(EntryType::Regular, mode, size), path, BufReader::new(input).take(size))
}

fn bytes(tar: &mut Builder<impl Write>, path: &str, content: &[u8]) -> io::Result<()> {
    tar.append_data(&mut header(EntryType::Regular, 0o644, content.len() as u64), path, content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path) -> Vec<u8> {
        fs::write(dir.join("program"), "program").expect("writable");
        let mut contents = Contents::default();
        contents.file("usr/sbin/nft", &dir.join("program"), 0o755);
        contents.link("sbin", "usr/sbin");
        let names = ["registry.k8s.io/x:1".to_owned(), "registry.k8s.io/x:2".to_owned()];
        let image = Image { names: &names, entrypoint: &["/usr/sbin/nft".to_owned()], contents: &contents };
        fs::read(image.write(dir).expect("writes")).expect("there")
    }

    fn members(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut tar = tar::Archive::new(archive);
        let entries = tar.entries().expect("a tar").map(|entry| {
            let mut entry = entry.expect("an entry");
            let path = entry.path().expect("a path").to_string_lossy().into_owned();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).expect("readable");
            (path, content)
        });
        entries.collect()
    }

    #[test]
    fn the_same_files_give_the_same_bytes() {
        let (one, two) = (tempfile::tempdir().expect("tmp"), tempfile::tempdir().expect("tmp"));
        assert_eq!(write(one.path()), write(two.path()));
    }

    #[test]
    fn every_digest_is_that_of_its_blob() {
        let dir = tempfile::tempdir().expect("tmp");
        let members = members(&write(dir.path()));
        let blobs =
            members.iter().filter(|(path, content)| path.starts_with("blobs/") && !content.is_empty());
        for (path, content) in blobs {
            assert_eq!(*path, format!("blobs/sha256/{}", hex::encode(Sha256::digest(content))));
        }
    }

    #[test]
    fn every_name_leads_to_the_layer() {
        let dir = tempfile::tempdir().expect("tmp");
        let members = members(&write(dir.path()));
        let read = |path: &str| -> Value { serde_json::from_slice(&members[path]).expect("JSON") };
        let blob = |digest: &Value| digest.as_str().expect("text").replace("sha256:", "blobs/sha256/");
        let index = read("index.json");
        let entries = index["manifests"].as_array().expect("a list");
        let names: Vec<_> =
            entries.iter().map(|one| &one["annotations"]["io.containerd.image.name"]).collect();
        assert_eq!(names, ["registry.k8s.io/x:1", "registry.k8s.io/x:2"]);
        let manifest = read(&blob(&entries[0]["digest"]));
        let layer = blob(&manifest["layers"][0]["digest"]);
        assert_eq!(read("manifest.json")[0]["Layers"][0], layer);
        let mut tar = tar::Archive::new(&members[&layer][..]);
        let entries = tar.entries().expect("a tar");
        let paths: Vec<_> =
            entries.map(|one| one.expect("an entry").path().expect("path").into_owned()).collect();
        assert_eq!(paths, ["usr/", "usr/sbin/", "sbin", "usr/sbin/nft"].map(PathBuf::from));
    }
}

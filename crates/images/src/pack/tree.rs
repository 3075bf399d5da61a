//! A root file system in order, wherever it comes from. Invariant: nodes are sorted by name, no name is
//! absolute or has `..`, and names of one file (hard links) share its `content`.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use tar::EntryType;

use super::{PackError, as_path};
use crate::spool::{Slice, Spooled, check_tar};
use crate::store::ImageStore;

#[derive(Debug)]
pub(super) struct Tree {
    pub(super) nodes: Vec<Node>,
    /// Devices and sockets.
    pub(super) skipped: Vec<PathBuf>,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Dir(PathBuf),
    Tar(Spooled),
}

#[derive(Debug)]
pub(super) struct Node {
    /// Without slashes at the ends.
    pub(super) name: Vec<u8>,
    mode: u32,
    uid: u64,
    gid: u64,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone)]
pub(super) enum Kind {
    Dir,
    /// `content` is device and inode, or offset and 0 in a tar; `size` is in bytes.
    File {
        content: (u64, u64),
        size: u64,
    },
    Symlink(Vec<u8>),
    Fifo,
}

impl Node {
    pub(super) fn path(&self) -> PathBuf {
        as_path(&self.name).to_owned()
    }

    /// A header without type and size, all that is not to be the same each time left at zero.
    pub(super) fn header(&self, owner: Option<(u64, u64)>) -> tar::Header {
        let (uid, gid) = owner.unwrap_or((self.uid, self.gid));
        let mut header = tar::Header::new_gnu();
        header.set_mode(self.mode & 0o7777);
        header.set_uid(uid);
        header.set_gid(gid);
        header.set_mtime(0);
        header.set_size(0);
        header
    }
}

impl Tree {
    pub(super) fn of_dir(root: &Path) -> Result<Self, PackError> {
        let read = |path: &Path| {
            let path = path.to_owned();
            move |source| PackError::Read { path, source }
        };
        let root = root.canonicalize().map_err(read(root))?;
        let (mut nodes, mut skipped) = (BTreeMap::new(), Vec::new());
        let mut todo = vec![root.clone()];
        while let Some(dir) = todo.pop() {
            for entry in fs::read_dir(&dir).map_err(read(&dir))? {
                let path = entry.map_err(read(&dir))?.path();
                let meta = path.symlink_metadata().map_err(read(&path))?;
                if meta.is_dir() {
                    todo.push(path.clone());
                }
                let name = path.strip_prefix(&root).unwrap_or(&path).as_os_str().as_bytes().to_vec();
                match kind_of(&path, &meta).map_err(read(&path))? {
                    None => skipped.push(as_path(&name).to_owned()),
                    Some(kind) => {
                        let (uid, gid) = (u64::from(meta.uid()), u64::from(meta.gid()));
                        nodes.insert(name.clone(), Node { name, mode: meta.mode(), uid, gid, kind });
                    }
                }
            }
        }
        Self::new(nodes, skipped, Source::Dir(root))
    }

    pub(super) fn of_tar(store: &ImageStore, path: &Path) -> Result<Self, PackError> {
        let input = Spooled::open(store, path)?;
        let not_tar = |source| PackError::NotTar { path: path.to_owned(), source };
        check_tar(input.file()).map_err(not_tar)?;
        let (mut nodes, mut skipped) = (BTreeMap::new(), Vec::new());
        let mut file = input.file();
        file.seek(SeekFrom::Start(0)).map_err(not_tar)?;
        let mut archive = tar::Archive::new(file);
        for entry in archive.entries_with_seek().map_err(not_tar)? {
            let entry = entry.map_err(not_tar)?;
            let name = clean(&entry.path_bytes())?;
            if name.is_empty() || entry.header().entry_type() == EntryType::XGlobalHeader {
                continue;
            }
            match kind_of_entry(&entry, &nodes)? {
                None => skipped.push(as_path(&name).to_owned()),
                Some(kind) => {
                    let node = entry_node(&entry, name, kind).map_err(not_tar)?;
                    nodes.insert(node.name.clone(), node);
                }
            }
        }
        Self::new(nodes, skipped, Source::Tar(input))
    }

    fn new(
        nodes: BTreeMap<Vec<u8>, Node>,
        mut skipped: Vec<PathBuf>,
        source: Source,
    ) -> Result<Self, PackError> {
        let whiteout =
            |node: &&Node| node.name.rsplit(|&b| b == b'/').next().is_some_and(|n| n.starts_with(b".wh."));
        if let Some(node) = nodes.values().find(whiteout) {
            return Err(PackError::Whiteout(node.path()));
        }
        skipped.sort();
        Ok(Self { nodes: nodes.into_values().collect(), skipped, source })
    }

    /// The content of a file; other nodes have none.
    pub(super) fn open(&self, node: &Node) -> io::Result<Box<dyn Read + '_>> {
        let Kind::File { content, size } = node.kind else {
            return Ok(Box::new(io::empty()));
        };
        match &self.source {
            Source::Tar(input) => Ok(Box::new(Slice::new(input.file(), content.0, size))),
            Source::Dir(root) => {
                let file = File::open(root.join(node.path()))?;
                let meta = file.metadata()?;
                // Something else was put in its place since, perhaps a link to a secret.
                if (meta.dev(), meta.ino()) != content {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "the file was replaced"));
                }
                Ok(Box::new(file))
            }
        }
    }
}

fn kind_of(path: &Path, meta: &Metadata) -> io::Result<Option<Kind>> {
    let kind = meta.file_type();
    Ok(Some(if kind.is_dir() {
        Kind::Dir
    } else if kind.is_file() {
        Kind::File { content: (meta.dev(), meta.ino()), size: meta.len() }
    } else if kind.is_symlink() {
        Kind::Symlink(fs::read_link(path)?.into_os_string().into_vec())
    } else if kind.is_fifo() {
        Kind::Fifo
    } else {
        return Ok(None);
    }))
}

fn kind_of_entry<R: Read>(
    entry: &tar::Entry<'_, R>,
    before: &BTreeMap<Vec<u8>, Node>,
) -> Result<Option<Kind>, PackError> {
    let target = entry.link_name_bytes().unwrap_or_default();
    Ok(Some(match entry.header().entry_type() {
        EntryType::Directory => Kind::Dir,
        EntryType::Regular | EntryType::Continuous => {
            Kind::File { content: (entry.raw_file_position(), 0), size: entry.size() }
        }
        EntryType::Symlink => Kind::Symlink(target.into_owned()),
        EntryType::Fifo => Kind::Fifo,
        EntryType::Link => match before.get(&clean(&target)?) {
            Some(Node { kind, .. }) if !matches!(kind, Kind::Dir) => kind.clone(),
            _ => return Err(PackError::HardLink(as_path(&entry.path_bytes()).to_owned())),
        },
        _ => return Ok(None),
    }))
}

fn entry_node<R: Read>(entry: &tar::Entry<'_, R>, name: Vec<u8>, kind: Kind) -> io::Result<Node> {
    let header = entry.header();
    Ok(Node { name, mode: header.mode()?, uid: header.uid()?, gid: header.gid()?, kind })
}

/// A name in a tar without `./`, doubled slashes and slashes at the ends.
fn clean(raw: &[u8]) -> Result<Vec<u8>, PackError> {
    let parts: Vec<&[u8]> = raw.split(|&b| b == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
    if parts.contains(&b"..".as_slice()) {
        return Err(PackError::Traversal(as_path(raw).to_owned()));
    }
    Ok(parts.join(&b'/'))
}

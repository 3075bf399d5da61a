//! A directory or tar whose members are read by name. Invariant: no name, symlink or hard link leads out
//! of the bundle, and only regular files are ever opened.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use tar::EntryType;

use super::ImportError;
use crate::manifest::MAX_MANIFEST;
use crate::spool::{Slice, Spooled, check_tar};
use crate::store::present;

const MAX_LINKS: usize = 8;

/// A member's bytes and how many there are.
pub(super) type Content<'a> = (Box<dyn Read + 'a>, u64);

#[derive(Debug)]
pub(super) enum Bundle {
    Dir(PathBuf),
    Tar { input: Spooled, members: BTreeMap<String, Member> },
}

#[derive(Debug)]
pub(super) enum Member {
    File { offset: u64, len: u64 },
    Link(String),
    Other,
}

/// What the disk says is told; what the archive's own bytes made of an error message is not.
fn not_tar(error: io::Error) -> ImportError {
    ImportError::NotTar(match error.raw_os_error() {
        Some(_) => error,
        None => io::Error::new(error.kind(), "its headers are damaged, or it is something else"),
    })
}

impl Bundle {
    pub(super) fn dir(path: &Path) -> Result<Self, ImportError> {
        path.canonicalize().map(Self::Dir).map_err(ImportError::read(path.display()))
    }

    pub(super) fn tar(input: Spooled) -> Result<Self, ImportError> {
        check_tar(input.file()).map_err(not_tar)?;
        let mut members = BTreeMap::new();
        let mut file = input.file();
        file.seek(SeekFrom::Start(0)).map_err(not_tar)?;
        let mut archive = tar::Archive::new(file);
        for entry in archive.entries_with_seek().map_err(not_tar)? {
            let entry = entry.map_err(not_tar)?;
            if let Some((name, member)) = member(&entry)? {
                members.insert(name, member);
            }
        }
        Ok(Self::Tar { input, members })
    }

    pub(super) fn has(&self, name: &str) -> Result<bool, ImportError> {
        Ok(self.open(name)?.is_some())
    }

    /// The member's content and size in bytes; `None` when there is none of that name.
    pub(super) fn open(&self, name: &str) -> Result<Option<Content<'_>>, ImportError> {
        let name = inside("", name).ok_or_else(|| ImportError::Traversal { name: name.to_owned() })?;
        match self {
            Self::Dir(root) => open_in_dir(root, &name),
            Self::Tar { input, members } => open_in_tar(input, members, &name),
        }
    }

    /// The same, for a member that `wanted_by` says there is.
    pub(super) fn need(&self, name: &str, wanted_by: &str) -> Result<Content<'_>, ImportError> {
        let missing = || ImportError::Missing { name: name.to_owned(), wanted_by: wanted_by.to_owned() };
        self.open(name)?.ok_or_else(missing)
    }

    /// A small document, whole.
    pub(super) fn read(&self, name: &str, wanted_by: &str) -> Result<Vec<u8>, ImportError> {
        let (content, size) = self.need(name, wanted_by)?;
        if size > MAX_MANIFEST {
            return Err(ImportError::TooLarge { name: name.to_owned(), size });
        }
        let mut bytes = Vec::with_capacity(size as usize);
        content.take(MAX_MANIFEST + 1).read_to_end(&mut bytes).map_err(ImportError::read(name))?;
        Ok(bytes)
    }

    pub(super) fn json<T: DeserializeOwned>(&self, name: &str) -> Result<T, ImportError> {
        let bytes = self.read(name, "the archive's format")?;
        serde_json::from_slice(&bytes).map_err(|source| ImportError::Json { name: name.to_owned(), source })
    }
}

fn open_in_dir<'a>(root: &Path, name: &str) -> Result<Option<Content<'a>>, ImportError> {
    let path = root.join(name);
    let found = present(path.canonicalize()).map_err(ImportError::read(path.display()))?;
    let Some(target) = found else { return Ok(None) };
    if !target.starts_with(root) {
        return Err(ImportError::LinkOutside { name: name.to_owned(), target: target.display().to_string() });
    }
    let meta = target.metadata().map_err(ImportError::read(target.display()))?;
    if !meta.is_file() {
        return Err(ImportError::NotRegular { name: name.to_owned() });
    }
    let file = File::open(&target).map_err(ImportError::read(target.display()))?;
    Ok(Some((Box::new(file), meta.len())))
}

fn open_in_tar<'a>(
    input: &'a Spooled,
    members: &BTreeMap<String, Member>,
    name: &str,
) -> Result<Option<Content<'a>>, ImportError> {
    let mut at = name;
    for _ in 0..MAX_LINKS {
        match members.get(at) {
            None => return Ok(None),
            Some(Member::Link(target)) => at = target,
            Some(Member::Other) => return Err(ImportError::NotRegular { name: at.to_owned() }),
            Some(&Member::File { offset, len }) => {
                return Ok(Some((Box::new(Slice::new(input.file(), offset, len)), len)));
            }
        }
    }
    Err(ImportError::LinkLoop { name: name.to_owned() })
}

/// One tar entry as a member, with its name; directories are none.
fn member<R: Read>(entry: &tar::Entry<'_, R>) -> Result<Option<(String, Member)>, ImportError> {
    let raw = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
    let name = inside("", &raw).ok_or_else(|| ImportError::Traversal { name: raw.clone() })?;
    let link_from = |dir: &str| {
        let target = String::from_utf8_lossy(&entry.link_name_bytes().unwrap_or_default()).into_owned();
        inside(dir, &target)
            .map(Member::Link)
            .ok_or_else(|| ImportError::LinkOutside { name: raw.clone(), target: target.clone() })
    };
    let member = match entry.header().entry_type() {
        EntryType::Directory | EntryType::XGlobalHeader => return Ok(None),
        EntryType::Regular | EntryType::Continuous => {
            Member::File { offset: entry.raw_file_position(), len: entry.size() }
        }
        EntryType::Symlink => link_from(name.rsplit_once('/').map_or("", |(dir, _)| dir))?,
        EntryType::Link => link_from("")?,
        _ => Member::Other,
    };
    Ok(Some((name, member)))
}

/// `path`, read from directory `dir`, without `.` and `..`; `None` when it is absolute or leads outside.
fn inside(dir: &str, path: &str) -> Option<String> {
    if path.starts_with('/') {
        return None;
    }
    let mut parts: Vec<&str> = dir.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::inside;

    #[test]
    fn names_stay_inside_or_are_none() {
        let table = [
            ("", "./a//b", Some("a/b")),
            ("a/b", "../c/layer.tar", Some("a/c/layer.tar")),
            ("a", "../../etc/passwd", None),
            ("", "..", None),
            ("", "a/../../b", None),
            ("a", "/etc/passwd", None),
        ];
        for (dir, path, expected) in table {
            assert_eq!(inside(dir, path).as_deref(), expected, "{path} from {dir:?}");
        }
    }
}

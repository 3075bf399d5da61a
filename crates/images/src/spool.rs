//! Making any input a plain file that can be read at any offset. Invariant: what comes from outside is
//! bounded in size when unpacked, and a spool file never outlives its owner.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use flate2::read::MultiGzDecoder;

use crate::store::{ImageStore, StoreError, Temp};

/// Most bytes an input may have when unpacked: far more than any image, far less than a gzip bomb.
pub(crate) const MAX_UNPACKED: u64 = 64 << 30;
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Why an input cannot be used as a plain file.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    #[error("cannot read {what}")]
    Read { what: String, source: io::Error },
    #[error("the input is compressed with {0}; only gzip is unpacked, so unpack it first")]
    Compressed(&'static str),
    #[error("the input is larger than {0} bytes when unpacked")]
    TooLarge(u64),
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn read_error(what: impl ToString) -> impl FnOnce(io::Error) -> SpoolError {
    move |source| SpoolError::Read { what: what.to_string(), source }
}

/// A plain file, either the caller's or a temporary one.
#[derive(Debug)]
pub(crate) enum Spooled {
    Own(File),
    Temp(Temp),
}

impl Spooled {
    /// Opens a file, unpacking it first if it is gzip.
    pub(crate) fn open(store: &ImageStore, path: &Path) -> Result<Self, SpoolError> {
        let mut file = File::open(path).map_err(read_error(path.display()))?;
        let seekable = file.metadata().map_err(read_error(path.display()))?.is_file();
        if !seekable {
            return Self::receive(store, file);
        }
        let head = read_head(&mut file).map_err(read_error(path.display()))?;
        file.seek(SeekFrom::Start(0)).map_err(read_error(path.display()))?;
        if head.starts_with(&GZIP) {
            return Self::receive(store, file);
        }
        check_compression(&head)?;
        Ok(Self::Own(file))
    }

    /// Takes in a stream, unpacking it if it is gzip.
    pub(crate) fn receive(store: &ImageStore, mut input: impl Read) -> Result<Self, SpoolError> {
        let head = read_head(&mut input).map_err(read_error("the input"))?;
        check_compression(&head)?;
        let whole = head.as_slice().chain(input);
        let mut temp = store.temp()?;
        let copied = if head.starts_with(&GZIP) {
            io::copy(&mut MultiGzDecoder::new(whole).take(MAX_UNPACKED + 1), &mut temp.file)
        } else {
            io::copy(&mut whole.take(MAX_UNPACKED + 1), &mut temp.file)
        };
        match copied.map_err(read_error("the input"))? {
            too_many if too_many > MAX_UNPACKED => Err(SpoolError::TooLarge(MAX_UNPACKED)),
            _ => Ok(Self::Temp(temp)),
        }
    }

    pub(crate) fn file(&self) -> &File {
        match self {
            Self::Own(file) => file,
            Self::Temp(temp) => &temp.file,
        }
    }
}

/// The first bytes, as many as tell compressions apart.
fn read_head(input: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    input.take(6).read_to_end(&mut head)?;
    Ok(head)
}

fn check_compression(head: &[u8]) -> Result<(), SpoolError> {
    let known: [(&[u8], _); 3] = [(b"\x28\xb5\x2f\xfd", "zstd"), (b"BZh", "bzip2"), (b"\xfd7zXZ\0", "xz")];
    match known.into_iter().find(|(magic, _)| head.starts_with(magic)) {
        Some((_, name)) => Err(SpoolError::Compressed(name)),
        None => Ok(()),
    }
}

/// A part of a file, read without moving the file's own position.
#[derive(Debug)]
pub(crate) struct Slice<'a> {
    file: &'a File,
    pos: u64,
    end: u64,
}

impl<'a> Slice<'a> {
    pub(crate) fn new(file: &'a File, offset: u64, len: u64) -> Self {
        Self { file, pos: offset, end: offset.saturating_add(len) }
    }
}

impl Read for Slice<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.pos).unwrap_or(usize::MAX);
        let want = buffer.len().min(left);
        let count = self.file.read_at(&mut buffer[..want], self.pos)?;
        if count == 0 && want > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.pos += count as u64;
        Ok(count)
    }
}

/// Checks a tar's headers for extension records that a reader would have to hold in memory, and its
/// members for a size the file does not have. To be called before anything else reads the tar.
pub(crate) fn check_tar(file: &File) -> io::Result<()> {
    const MAX_MEMBERS: usize = 1 << 21;
    const MAX_EXTENSION: u64 = 1 << 20;
    let invalid = |text: &str| io::Error::new(io::ErrorKind::InvalidData, text.to_owned());
    let length = file.metadata()?.len();
    let mut seekable = file;
    seekable.seek(SeekFrom::Start(0))?;
    let mut archive = tar::Archive::new(seekable);
    for (count, entry) in archive.entries_with_seek()?.raw(true).enumerate() {
        let entry = entry?;
        let kind = entry.header().entry_type();
        let extension = !(kind.is_file() || kind.is_contiguous());
        let size = entry.header().entry_size()?;
        if extension && size > MAX_EXTENSION {
            return Err(invalid("a tar member that is no plain file holds more than 1 MiB"));
        }
        if entry.raw_file_position().saturating_add(size) > length {
            return Err(invalid("the tar is cut short"));
        }
        if count >= MAX_MEMBERS {
            return Err(invalid("the tar has too many members"));
        }
    }
    Ok(())
}

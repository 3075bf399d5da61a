//! Writing one blob. Invariant: bytes reach their final name only after they were hashed on the way in
//! and synced; a writer that is dropped leaves nothing.

use std::io::{self, Write};

use super::{ImageStore, StoreError, Temp};
use crate::digest::{Digest, Digester};

/// A blob on its way into the store.
#[derive(Debug)]
pub struct BlobWriter {
    store: ImageStore,
    temp: Temp,
    digester: Digester,
    len: u64,
}

impl BlobWriter {
    pub(super) fn new(store: ImageStore) -> Result<Self, StoreError> {
        let temp = store.temp()?;
        Ok(Self { store, temp, digester: Digester::default(), len: 0 })
    }

    /// Bytes so far.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing was written yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Writes all of `bytes`.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let result = self.write_all(bytes);
        result.map_err(StoreError::io("write", &self.temp.path))
    }

    /// Publishes the blob under its digest, which must be `expected` where that is given. Returns the
    /// digest and the size in bytes.
    pub fn commit(self, expected: Option<&Digest>) -> Result<(Digest, u64), StoreError> {
        let Self { store, temp, digester, len } = self;
        let actual = digester.finish();
        if let Some(&expected) = expected.filter(|&&expected| expected != actual) {
            return Err(StoreError::DigestMismatch { expected, actual });
        }
        // Synced before the lock, so that no other writer waits for this disk write.
        temp.file.sync_all().map_err(StoreError::io("sync", &temp.path))?;
        let _lock = store.lock_shared()?;
        temp.publish(&store.blob_path(&actual))?;
        Ok((actual, len))
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.temp.file.write(bytes)?;
        self.digester.update(&bytes[..count]);
        self.len += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.temp.file.flush()
    }
}

//! One start or removal of a child at a time, whichever processes ask for it.
//!
//! Invariant: the lock is an open file that the launcher inherits as its standard input. So a service that is killed
//! leaves it with the launcher that it started, and the next service waits for what that one does.

use crate::{ChildId, HostError};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

#[derive(Debug)]
pub(super) struct ChildLock {
    path: PathBuf,
    file: File,
}

impl ChildLock {
    pub(super) fn take(run: &Path, id: &ChildId, patience: Duration) -> Result<Self, HostError> {
        let path = run.join(format!("{id}.lock"));
        let deadline = Instant::now() + patience;
        loop {
            let mut options = OpenOptions::new();
            let options = options.create(true).truncate(false).read(true).write(true).mode(0o600);
            let file = options.open(&path).map_err(HostError::io("open", &path))?;
            match file.try_lock() {
                Ok(()) if is_at(&file, &path) => return Ok(Self { path, file }),
                // Its last holder removed it.
                Ok(()) => {}
                Err(TryLockError::WouldBlock) if Instant::now() > deadline => {
                    return Err(HostError::Busy { id: id.clone() });
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(5)),
                Err(TryLockError::Error(error)) => return Err(HostError::io("lock", &path)(error)),
            }
        }
    }

    /// For the launcher: it reads the request from the file and holds the lock by doing so.
    pub(super) fn with_request(&self, request: &[u8]) -> io::Result<Stdio> {
        let mut file = &self.file;
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(request)?;
        file.rewind()?;
        Ok(self.file.try_clone()?.into())
    }

    /// What the launcher has read may hold secrets.
    pub(super) fn clear(&self) -> io::Result<()> {
        self.file.set_len(0)
    }

    /// For a child that is no more.
    pub(super) fn retire(self) -> Result<(), HostError> {
        fs::remove_file(&self.path).map_err(HostError::io("remove", &self.path))
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let key = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    file.metadata().ok().map(key) == fs::metadata(path).ok().map(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("ekstra-lock-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("made");
        path
    }

    #[test]
    fn who_inherits_the_request_holds_the_lock() {
        let (run, id) = (directory("inherit"), ChildId("a".into()));
        let lock = ChildLock::take(&run, &id, Duration::ZERO).expect("free");
        let stdin = lock.with_request(b"words").expect("written");
        let mut launcher = Command::new("sh")
            .args(["-c", "sleep 0.3; [ \"$(cat)\" = words ]"])
            .stdin(stdin)
            .spawn()
            .expect("runs");
        drop(lock);
        assert!(matches!(ChildLock::take(&run, &id, Duration::ZERO), Err(HostError::Busy { .. })));
        ChildLock::take(&run, &id, Duration::from_secs(20)).expect("free when the launcher is gone");
        assert!(launcher.wait().expect("ended").success(), "it read the request");
        fs::remove_dir_all(run).expect("removed");
    }

    #[test]
    fn a_lock_on_a_removed_file_is_worth_nothing() {
        let (run, id) = (directory("retire"), ChildId("a".into()));
        let first = ChildLock::take(&run, &id, Duration::ZERO).expect("free");
        let waiting = std::thread::spawn({
            let (run, id) = (run.clone(), id.clone());
            move || ChildLock::take(&run, &id, Duration::from_secs(20)).expect("comes free")
        });
        first.retire().expect("removed");
        let second = waiting.join().expect("no panic");
        assert!(matches!(ChildLock::take(&run, &id, Duration::ZERO), Err(HostError::Busy { .. })));
        second.retire().expect("removed");
        assert_eq!(fs::read_dir(&run).expect("listed").count(), 0);
        fs::remove_dir_all(run).expect("removed");
    }
}

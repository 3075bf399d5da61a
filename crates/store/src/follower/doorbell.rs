//! Tells when another process writes to the state file or its log.
//!
//! Invariant: it watches the directory, since SQLite makes the log anew when it likes. A ring says that something is
//! being written, and not that it can be read yet.

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

#[derive(Debug)]
pub(super) struct Doorbell {
    watch: Inotify,
    /// Of the state file; its log's begins with it.
    name: OsString,
}

impl Doorbell {
    pub(super) fn of(file: &Path) -> io::Result<Self> {
        let directory = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = file.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        let watch = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        watch.add_watch(directory, AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE)?;
        Ok(Self { watch, name })
    }

    /// Whether it has rung since it was last asked.
    pub(super) fn rung(&self) -> bool {
        let mut rung = false;
        loop {
            match self.watch.read_events() {
                // An event without a name says that some were lost.
                Ok(events) => {
                    rung |= events.iter().any(|event| event.name.as_ref().is_none_or(|n| self.is_of(n)))
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return rung,
                Err(_) => return true,
            }
        }
    }

    fn is_of(&self, name: &OsString) -> bool {
        name.as_bytes().starts_with(self.name.as_bytes())
    }

    /// Until it rings, at most so long.
    pub(super) fn wait(&self, most: Duration) {
        let timeout = PollTimeout::try_from(most).unwrap_or(PollTimeout::MAX);
        // Woken for whatever reason, the caller looks.
        let _ = poll(&mut [PollFd::new(self.watch.as_fd(), PollFlags::POLLIN)], timeout);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rings_for_the_file_and_its_log_only() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        let bell = Doorbell::of(&path("state.db")).expect("watches");
        assert!(!bell.rung());
        std::fs::write(path("other"), "x").expect("written");
        assert!(!bell.rung());
        for name in ["state.db", "state.db-wal"] {
            std::fs::write(path(name), "x").expect("written");
            bell.wait(Duration::from_secs(5));
            assert!(bell.rung(), "{name}");
            assert!(!bell.rung());
        }
    }
}

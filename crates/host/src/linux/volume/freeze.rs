//! A file system that takes no writes for a while.
//!
//! A short-lived process holds it frozen, and lets go when whoever asked for it does, has ended, or takes too long. So a
//! service that is killed over a copy does not leave pods hanging.
//!
//! Invariant: only the file system of the device that was named is ever frozen: what an instance has put where it was
//! mounted is not believed.

use super::{Loop, mount_points, open_inside};
use crate::Running;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{fstat, makedev};
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// Longer than any copy may take.
const LONGEST: Duration = Duration::from_secs(31 * 60);
/// What the holder says when the file system is frozen.
const FROZEN: &str = "frozen\n";

/// `FIFREEZE` and `FITHAW` of `linux/fs.h`: `_IOWR('X', 119, int)`, `_IOWR('X', 120, int)`.
const FREEZE: libc::c_ulong = 0xc004_5877;
const THAW: libc::c_ulong = 0xc004_5878;

/// Thawed when it is dropped.
#[derive(Debug)]
pub(super) struct Frozen {
    holder: Child,
    /// Closed to make it end.
    words: Option<BufReader<ChildStdout>>,
    file_system: OwnedFd,
}

impl Frozen {
    /// `None` when the instance has not mounted the device.
    pub(super) fn freeze(launcher: &Path, instance: &Running, device: &Loop) -> io::Result<Option<Self>> {
        let Some(directory) = mounted(instance, device)? else { return Ok(None) };
        let mut holder = Command::new(launcher)
            .arg("freeze")
            .env_clear()
            .stdin(directory.try_clone()?)
            .stdout(Stdio::piped())
            .spawn()?;
        let words = holder.stdout.take().map(BufReader::new);
        let mut frozen = Self { holder, words, file_system: directory };
        let mut word = String::new();
        if let Some(words) = &mut frozen.words {
            words.read_line(&mut word)?;
        }
        if word == FROZEN { Ok(Some(frozen)) } else { Err(io::Error::other(word.trim().to_owned())) }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.words = None;
        let _ = self.holder.wait();
        // If it was killed it left it frozen. Not frozen (EINVAL) is what it shall be.
        let _ = set_frozen(self.file_system.as_fd(), THAW);
    }
}

/// Where the instance has mounted it. One that it is just letting go is not mounted.
fn mounted(instance: &Running, device: &Loop) -> io::Result<Option<OwnedFd>> {
    let wanted = makedev(device.number.0, device.number.1);
    for point in mount_points(instance, device) {
        match open_inside(instance, &point) {
            Ok(directory) if fstat(&directory)?.st_dev == wanted => return Ok(Some(directory)),
            Ok(_) | Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ESRCH) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(None)
}

#[expect(unsafe_code, reason = "FIFREEZE and FITHAW have no safe wrapper")]
fn set_frozen(file_system: BorrowedFd<'_>, request: libc::c_ulong) -> nix::Result<()> {
    // SAFETY: both requests ignore their argument, and the descriptor is open.
    Errno::result(unsafe { libc::ioctl(file_system.as_raw_fd(), request as _, 0) }).map(drop)
}

/// The whole life of `ekstra freeze`: its standard input is a directory of the file system; it holds it frozen until
/// nobody reads its standard output any more. Returns the exit code.
pub fn freeze_main() -> i32 {
    match hold() {
        Ok(()) => 0,
        Err(error) => {
            println!("{error}");
            1
        }
    }
}

fn hold() -> io::Result<()> {
    let (stdin, stdout) = (io::stdin(), io::stdout());
    // Of a terminal, or of whoever started it, signals are not for this.
    nix::unistd::setsid()?;
    set_frozen(stdin.as_fd(), FREEZE)?;
    let deadline = Instant::now() + LONGEST;
    let told = stdout.lock().write_all(FROZEN.as_bytes()).and_then(|()| stdout.lock().flush());
    while told.is_ok() && Instant::now() < deadline {
        let wait = PollTimeout::try_from(deadline.saturating_duration_since(Instant::now()))
            .unwrap_or(PollTimeout::MAX);
        // No events are asked for: POLLERR, that the reader is gone, is always told.
        let mut watched = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
        match poll(&mut watched, wait) {
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) | Err(_) => break,
        }
    }
    Ok(set_frozen(stdin.as_fd(), THAW)?)
}

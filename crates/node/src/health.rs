//! Whether a program that runs still answers. One that hangs is worse than one that ended: nobody starts it again.
//!
//! Each check has a thread of its own, since PID 1 must never wait for anybody.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

const PERIOD: Duration = Duration::from_secs(10);
/// Between checks of one that has not answered since it was started.
const STARTING_PERIOD: Duration = Duration::from_millis(250);
/// For one answer. A machine that is short of everything is slow, not dead.
const PATIENCE: Duration = Duration::from_secs(10);
/// One that has not answered for so long counts as hung.
const SILENCE: Duration = Duration::from_secs(50);

/// Set by a check, read by the supervisor.
#[derive(Clone, Debug, Default)]
pub(crate) struct Alarm(Arc<Marks>);

#[derive(Debug, Default)]
struct Marks {
    hung: AtomicBool,
    answered: AtomicBool,
    /// Counts starts: an answer that was asked for before one is another program's.
    starts: AtomicU32,
}

impl Alarm {
    /// Whether it went off since the last look.
    pub(crate) fn take(&self) -> bool {
        self.0.hung.swap(false, Ordering::Relaxed)
    }

    pub(crate) fn raise(&self) {
        self.0.hung.store(true, Ordering::Relaxed);
    }

    /// The program is started: nothing is known of this one yet.
    pub(crate) fn reset(&self) {
        self.0.starts.fetch_add(1, Ordering::Relaxed);
        self.0.hung.store(false, Ordering::Relaxed);
        self.0.answered.store(false, Ordering::Relaxed);
    }

    /// Whether it has answered since it was started.
    pub(crate) fn has_answered(&self) -> bool {
        self.0.answered.load(Ordering::Relaxed)
    }

    pub(crate) fn starts(&self) -> u32 {
        self.0.starts.load(Ordering::Relaxed)
    }

    /// Of the program that was the last one when so many had been started.
    pub(crate) fn note_answer(&self, starts: u32) {
        if self.starts() == starts {
            self.0.answered.store(true, Ordering::Relaxed);
        }
    }
}

/// Checks for as long as this process lives.
pub(crate) fn watch(check: impl Fn() -> io::Result<()> + Send + 'static) -> io::Result<Alarm> {
    let alarm = Alarm::default();
    let raised = alarm.clone();
    let rounds = move || {
        let mut verdict = Verdict::default();
        loop {
            let began = Instant::now();
            std::thread::sleep(if raised.has_answered() { PERIOD } else { STARTING_PERIOD });
            let starts = raised.starts();
            let answered = check().is_ok();
            if answered {
                raised.note_answer(starts);
            }
            if verdict.is_hung(answered, began.elapsed()) {
                raised.raise();
            }
        }
    };
    std::thread::Builder::new().name("health".into()).stack_size(64 * 1024).spawn(rounds)?;
    Ok(alarm)
}

#[derive(Debug, Default)]
struct Verdict {
    silent: Duration,
}

impl Verdict {
    /// Says so once; the program that is started in its place has as much time.
    fn is_hung(&mut self, answered: bool, waited: Duration) -> bool {
        self.silent = if answered { Duration::ZERO } else { self.silent + waited };
        if self.silent < SILENCE {
            return false;
        }
        self.silent = Duration::ZERO;
        true
    }
}

pub(crate) fn kubelet(address: SocketAddr) -> io::Result<()> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    is_ok(stream)
}

fn is_ok(mut stream: impl Read + Write) -> io::Result<()> {
    stream.write_all(b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut line = [0; 12];
    stream.read_exact(&mut line)?;
    match &line[9..] {
        b"200" => Ok(()),
        status => Err(io::Error::other(format!("answers {}", String::from_utf8_lossy(status)))),
    }
}

pub(crate) fn containerd() -> io::Result<()> {
    let stream = UnixStream::connect(crate::config::CONTAINERD_SOCKET)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    speaks_http2(stream)
}

/// RFC 9113 §3.4: whoever serves HTTP/2, and so gRPC, begins with its settings.
fn speaks_http2(mut stream: impl Read + Write) -> io::Result<()> {
    const SETTINGS: u8 = 4;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")?;
    let mut header = [0; 9];
    stream.read_exact(&mut header)?;
    if header[3] == SETTINGS { Ok(()) } else { Err(io::Error::other("does not speak HTTP/2")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the other side says, and what it was told.
    struct Peer {
        says: io::Cursor<Vec<u8>>,
        heard: Vec<u8>,
    }

    fn peer(says: &[u8]) -> Peer {
        Peer { says: io::Cursor::new(says.to_vec()), heard: Vec::new() }
    }

    impl Read for &mut Peer {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.says.read(buffer)
        }
    }

    impl Write for &mut Peer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.heard.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_long_silence_is_a_hang_and_then_it_starts_over() {
        let mut verdict = Verdict::default();
        let answers = [false, false, true, false, false, false, false, false, false, true];
        let hung: Vec<bool> =
            answers.into_iter().map(|answered| verdict.is_hung(answered, PERIOD + PATIENCE)).collect();
        assert_eq!(hung, [false, false, false, false, false, true, false, false, true, false]);
    }

    #[test]
    fn only_200_is_health() {
        let mut well = peer(b"HTTP/1.0 200 OK\r\n\r\nok");
        is_ok(&mut well).expect("healthy");
        assert!(well.heard.starts_with(b"GET /healthz HTTP/1.0\r\n"));
        assert!(is_ok(&mut peer(b"HTTP/1.0 500 Internal Server Error\r\n")).is_err());
        assert!(is_ok(&mut peer(b"")).is_err(), "closed without a word");
    }

    #[test]
    fn settings_are_what_a_grpc_server_begins_with() {
        speaks_http2(&mut peer(&[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 5, 0, 0, 64, 0])).expect("healthy");
        assert!(speaks_http2(&mut peer(b"HTTP/1.1 400 Bad Request")).is_err());
        assert!(speaks_http2(&mut peer(b"")).is_err());
    }
}

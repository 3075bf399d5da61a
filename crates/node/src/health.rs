//! Whether a program that runs still answers. One that hangs is worse than one that ended: nobody starts it again.
//!
//! Each check has a thread of its own, since PID 1 must never wait for anybody.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const PERIOD: Duration = Duration::from_secs(10);
/// For one answer. A machine that is short of everything is slow, not dead.
const PATIENCE: Duration = Duration::from_secs(10);
/// Checks in a row that fail before a program counts as hung.
const FAILURES: u32 = 3;

/// Set by a check, taken by the supervisor.
#[derive(Clone, Debug, Default)]
pub(crate) struct Alarm(Arc<AtomicBool>);

impl Alarm {
    /// Whether it went off since the last look.
    pub(crate) fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }

    pub(crate) fn raise(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Checks for as long as this process lives.
pub(crate) fn watch(check: impl Fn() -> io::Result<()> + Send + 'static) -> io::Result<Alarm> {
    let alarm = Alarm::default();
    let raised = alarm.clone();
    let rounds = move || {
        let mut verdict = Verdict::default();
        loop {
            std::thread::sleep(PERIOD);
            if verdict.is_hung(check().is_ok()) {
                raised.raise();
            }
        }
    };
    std::thread::Builder::new().name("health".into()).stack_size(64 * 1024).spawn(rounds)?;
    Ok(alarm)
}

#[derive(Debug, Default)]
struct Verdict {
    failures: u32,
}

impl Verdict {
    /// Says so once; the program that is started in its place has as many tries.
    fn is_hung(&mut self, answered: bool) -> bool {
        self.failures = if answered { 0 } else { self.failures + 1 };
        if self.failures < FAILURES {
            return false;
        }
        self.failures = 0;
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
    fn three_silences_in_a_row_are_a_hang_and_then_it_starts_over() {
        let mut verdict = Verdict::default();
        let answers = [false, false, true, false, false, false, false, false, false, true];
        let hung: Vec<bool> = answers.into_iter().map(|answered| verdict.is_hung(answered)).collect();
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

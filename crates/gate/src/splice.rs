//! Bytes between two TCP connections, both ways.
//!
//! # Guarantees
//! - A connection on which nothing moves is left open for as long as both sides are there (a watch is silent for
//!   hours), holds no buffer, and TCP keepalive tells when a side is not there any more.
//! - When one direction has ended the other may go on for as long as something moves, and ends after [`LAST_WORDS`] of
//!   silence; it is not half open for ever.

use nix::sys::socket::{setsockopt, sockopt};
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

const BUFFER: usize = 64 * 1024;
const LAST_WORDS: Duration = Duration::from_secs(60);
/// Seconds of silence before the first probe, and between probes; a peer is gone after two minutes.
const PROBE_AFTER: u32 = 60;
const PROBE_EVERY: u32 = 15;
const PROBES: u32 = 4;

pub(crate) async fn splice(client: TcpStream, server: TcpStream) {
    between(client, server, LAST_WORDS).await;
}

async fn between(mut client: TcpStream, mut server: TcpStream, last_words: Duration) {
    for stream in [&client, &server] {
        // Without it the connection works all the same.
        let _ = keep_alive(stream);
    }
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let (risen, fallen) = (AtomicU64::new(0), AtomicU64::new(0));
    let (up, down) = (pump(from_client, to_server, &risen), pump(from_server, to_client, &fallen));
    tokio::pin!(up, down);
    // A side that breaks off is how connections end; then both are closed.
    tokio::select! {
        ended = &mut up => if ended.is_ok() {
            while_moving(down, &fallen, last_words).await;
        },
        ended = &mut down => if ended.is_ok() {
            while_moving(up, &risen, last_words).await;
        },
    }
}

/// Until it ends, or nothing has moved for so long.
async fn while_moving(
    mut pump: impl Future<Output = io::Result<()>> + Unpin,
    moved: &AtomicU64,
    silence: Duration,
) {
    loop {
        let before = moved.load(Ordering::Relaxed);
        let ended = tokio::time::timeout(silence, &mut pump).await.is_ok();
        if ended || moved.load(Ordering::Relaxed) == before {
            return;
        }
    }
}

async fn pump(from: ReadHalf<'_>, mut to: WriteHalf<'_>, moved: &AtomicU64) -> io::Result<()> {
    loop {
        from.readable().await?;
        // Made when there is something to carry, and kept for as long as more comes at once.
        let mut buffer = Vec::with_capacity(BUFFER);
        loop {
            buffer.clear();
            match from.try_read_buf(&mut buffer) {
                Ok(0) => return to.shutdown().await,
                Ok(_) => {
                    to.write_all(&buffer).await?;
                    moved.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
    }
}

fn keep_alive(stream: &TcpStream) -> nix::Result<()> {
    let socket = stream.as_fd();
    setsockopt(&socket, sockopt::TcpKeepIdle, &PROBE_AFTER)?;
    setsockopt(&socket, sockopt::TcpKeepInterval, &PROBE_EVERY)?;
    setsockopt(&socket, sockopt::TcpKeepCount, &PROBES)?;
    setsockopt(&socket, sockopt::KeepAlive, &true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("bound");
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        (near.expect("connected"), far.expect("accepted").0)
    }

    async fn spliced(last_words: Duration) -> (TcpStream, TcpStream) {
        let ((client, outside), (inside, server)) = (pair().await, pair().await);
        tokio::spawn(between(outside, inside, last_words));
        (client, server)
    }

    #[tokio::test]
    async fn bytes_and_ends_arrive_on_the_other_side() {
        let (mut client, mut server) = spliced(LAST_WORDS).await;
        let sent: Vec<u8> = (0..3 * BUFFER).map(|n| (n % 251) as u8).collect();
        let (mut got, mut answer) = (Vec::new(), Vec::new());
        let ask = async {
            client.write_all(&sent).await.expect("sent");
            client.shutdown().await.expect("ended");
            client.read_to_end(&mut answer).await.expect("answered");
        };
        let reply = async {
            server.read_to_end(&mut got).await.expect("received");
            server.write_all(b"all of it").await.expect("answered");
            server.shutdown().await.expect("ended");
        };
        tokio::join!(ask, reply);
        assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
        assert_eq!(answer, b"all of it");
    }

    #[tokio::test]
    async fn a_half_open_connection_is_closed() {
        let (mut client, server) = spliced(Duration::from_millis(50)).await;
        // The server ends its side; the client neither ends nor speaks.
        let mut server = server;
        server.shutdown().await.expect("ended");
        assert_eq!(client.read(&mut [0]).await.expect("end"), 0);
        let gone = tokio::time::timeout(Duration::from_secs(5), server.read(&mut [0])).await;
        assert!(matches!(gone.expect("closed"), Ok(0) | Err(_)));
    }

    #[tokio::test]
    async fn an_answer_that_takes_long_arrives_whole() {
        let (mut client, mut server) = spliced(Duration::from_millis(200)).await;
        client.shutdown().await.expect("ended");
        let answer = async {
            for _ in 0..20 {
                server.write_all(b"x").await.expect("sent");
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
            server.shutdown().await.expect("ended");
        };
        let mut got = Vec::new();
        let (_, read) = tokio::join!(answer, client.read_to_end(&mut got));
        read.expect("read");
        assert_eq!(got.len(), 20);
    }

    #[tokio::test]
    async fn both_sides_are_probed() {
        let (near, _far) = pair().await;
        keep_alive(&near).expect("set");
        assert!(nix::sys::socket::getsockopt(&near.as_fd(), sockopt::KeepAlive).expect("read"));
    }
}

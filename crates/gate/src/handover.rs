//! One gate's sockets to the next: so that a newer program takes over and nobody who connects meanwhile is refused.
//!
//! The successor connects to a UNIX socket in the home's `run`, gets each socket with its [`Place`], accepts on all of
//! them, and says so. Until then the predecessor accepts too: whoever of the two is first has the connection.
//!
//! Invariant: a predecessor that has not heard [`TAKEN`] goes on as if nothing had been.

use crate::listeners::Place;
use ekstra_host::descriptors::{receive, send};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixListener;

/// For each step; both are on this machine and have nothing else to do.
const PATIENCE: Duration = Duration::from_secs(5);
/// What whoever connects wants: to take over, or to see that somebody is there.
const TAKE: u8 = b'g';
const PING: u8 = b'p';
/// What a successor says when it accepts on everything.
const TAKEN: u8 = b't';

/// A socket, and what it is for.
pub(crate) type Given = (Place, OwnedFd);

/// Where a gate waits for its successor.
pub(crate) fn path(home: &Path) -> PathBuf {
    home.join("run/gate.sock")
}

/// In place of a predecessor's, whose successors are ours from now on.
pub(crate) fn listen(path: &Path) -> io::Result<UnixListener> {
    let partial = path.with_extension("partial");
    match std::fs::remove_file(&partial) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // The directory is the owner's alone, so there is no moment in which others could connect.
    let listener = UnixListener::bind(&partial)?;
    std::fs::set_permissions(&partial, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&partial, path)?;
    Ok(listener)
}

/// A predecessor that has sent what it has and waits to hear that it was taken.
#[derive(Debug)]
pub(crate) struct Predecessor(UnixStream);

impl Predecessor {
    /// What a predecessor has; `None` if there is none. Blocks.
    pub(crate) fn ask(path: &Path) -> io::Result<Option<(Self, Vec<Given>)>> {
        let stream = match UnixStream::connect(path) {
            Ok(stream) => stream,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        be_patient(&stream)?;
        (&stream).write_all(&[TAKE])?;
        let mut sockets = Vec::new();
        loop {
            match receive(&stream)? {
                // What another version has and this one does not know is closed.
                (place, Some(socket)) => {
                    sockets.extend(serde_json::from_slice(&place).ok().map(|place| (place, socket)));
                }
                (_, None) => return Ok(Some((Self(stream), sockets))),
            }
        }
    }

    pub(crate) fn taken(mut self) -> io::Result<()> {
        self.0.write_all(&[TAKEN])
    }
}

/// Sends everything and waits to hear that it was taken; `false` if the other only wanted to see that somebody is
/// there. Blocks.
pub(crate) fn give(mut stream: UnixStream, sockets: &[Given]) -> io::Result<bool> {
    stream.set_nonblocking(false)?;
    be_patient(&stream)?;
    let mut asked = [0];
    stream.read_exact(&mut asked)?;
    match asked {
        [PING] => return stream.write_all(&[PING]).map(|()| false),
        [TAKE] => {}
        _ => return Err(ErrorKind::InvalidData.into()),
    }
    for (place, socket) in sockets {
        send(&stream, &serde_json::to_vec(place)?, Some(socket.as_fd()))?;
    }
    send(&stream, &[], None)?;
    let mut answer = [0];
    stream.read_exact(&mut answer)?;
    if answer == [TAKEN] { Ok(true) } else { Err(ErrorKind::InvalidData.into()) }
}

/// Whether a gate answers there: an error of kind `TimedOut` or `WouldBlock` says that one is there and does not. Blocks.
pub(crate) fn ping(path: &Path) -> io::Result<()> {
    let mut stream = UnixStream::connect(path)?;
    be_patient(&stream)?;
    stream.write_all(&[PING])?;
    stream.read_exact(&mut [0])
}

fn be_patient(stream: &UnixStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Fixture;
    use std::net::SocketAddr;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use tokio::net::TcpStream;
    use tokio::sync::watch;
    use tokio::task::JoinHandle;

    /// A gate that runs until it has handed over.
    fn start(fixture: &Fixture) -> JoinHandle<io::Result<()>> {
        let (gate, head) = (fixture.gate.clone(), fixture.head());
        tokio::spawn(async move {
            let (_stop, shutdown) = watch::channel(false);
            crate::run(gate, head, shutdown).await
        })
    }

    async fn within<T>(what: &str, done: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(20), done)
            .await
            .unwrap_or_else(|_| panic!("{what}: too late"))
    }

    async fn answering(door: SocketAddr) {
        while TcpStream::connect(door).await.is_err() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nobody_is_refused_while_one_gate_follows_another() {
        let fixture = Fixture::new();
        let port =
            std::net::TcpListener::bind("127.0.0.2:0").and_then(|l| l.local_addr()).expect("bound").port();
        fixture.put_cluster(port).await;
        let door = SocketAddr::from(([127, 0, 0, 2], port));
        let mut running = start(&fixture);
        within("the first door", answering(door)).await;
        let (stop, connected) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, count) = (stop.clone(), connected.clone());
        let client = tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                TcpStream::connect(door).await?;
                count.fetch_add(1, Ordering::Relaxed);
            }
            io::Result::Ok(())
        });
        for generation in 0..5 {
            let before = connected.load(Ordering::Relaxed);
            let successor = start(&fixture);
            within("the predecessor's end", running).await.expect("no panic").expect("handed over");
            running = successor;
            let more = async {
                while connected.load(Ordering::Relaxed) < before + 10 && !client.is_finished() {
                    tokio::task::yield_now().await;
                }
            };
            within("connections afterwards", more).await;
            assert!(!client.is_finished(), "refused at generation {generation}");
        }
        stop.store(true, Ordering::Relaxed);
        client.await.expect("no panic").expect("never refused");
        running.abort();
    }

    #[tokio::test]
    async fn who_only_asks_takes_nothing() {
        let fixture = Fixture::new();
        let running = start(&fixture);
        let path = path(&fixture.gate.facts.home);
        let asked = async || {
            let path = path.clone();
            tokio::task::spawn_blocking(move || ping(&path)).await.expect("no panic")
        };
        let answered = async {
            while asked().await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        within("an answer", answered).await;
        asked().await.expect("answers again");
        assert!(!running.is_finished());
        running.abort();
    }

    #[tokio::test]
    async fn a_successor_that_dies_while_it_takes_over_changes_nothing() {
        let fixture = Fixture::new();
        let port =
            std::net::TcpListener::bind("127.0.0.2:0").and_then(|l| l.local_addr()).expect("bound").port();
        fixture.put_cluster(port).await;
        let door = SocketAddr::from(([127, 0, 0, 2], port));
        let running = start(&fixture);
        within("the door", answering(door)).await;
        let path = path(&fixture.gate.facts.home);
        let asked = tokio::task::spawn_blocking(move || Predecessor::ask(&path));
        let (predecessor, sockets) = asked.await.expect("no panic").expect("answers").expect("is there");
        assert!(!sockets.is_empty());
        drop((predecessor, sockets));
        within("the same door", answering(door)).await;
        assert!(!running.is_finished());
        let successor = start(&fixture);
        within("a better successor", running).await.expect("no panic").expect("handed over");
        answering(door).await;
        successor.abort();
    }
}

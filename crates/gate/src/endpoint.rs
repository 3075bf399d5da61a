//! The AWS endpoint for nodes and pods: their connections are given to the service as they are, so that it knows who calls.
//!
//! Invariant: the service holds the other end of the socket for as long as it has the connection, so a peer has its share
//! here until then.

use crate::accept::{self, Terms};
use crate::door::speaks;
use ekstra_host::descriptors::{blocking, send};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::time::timeout;

/// For the service to take it. Clients try again by themselves; without a service they are told so at once.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) async fn serve(terms: Terms, service: PathBuf, listener: Arc<TcpListener>) {
    accept::run(terms, listener, |stream, _| {
        let service = service.clone();
        Some(async move {
            // Who hangs up, or comes while the service is being started, is no trouble of ours.
            let _ = give(stream, &service).await;
        })
    })
    .await;
}

async fn give(client: TcpStream, service: &Path) -> io::Result<()> {
    if !speaks(&client).await {
        return Ok(());
    }
    let service = timeout(PATIENCE, UnixStream::connect(service)).await??;
    let given = move |service: &std::os::unix::net::UnixStream| send(service, &[], Some(client.as_fd()));
    let (mut service, ()) = blocking(service, PATIENCE, given).await?;
    // Nothing is ever said: this is its end.
    service.read(&mut [0]).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ekstra_host::descriptors::receive;
    use std::net::SocketAddr;
    use tokio::io::AsyncWriteExt;
    use tokio::net::UnixListener;

    async fn door(service: &Path) -> (tokio::sync::watch::Sender<bool>, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let at = listener.local_addr().expect("bound");
        let (drain, terms) = crate::accept::tests::terms(1024);
        tokio::spawn(serve(terms, service.to_owned(), Arc::new(listener)));
        (drain, at)
    }

    #[tokio::test]
    async fn the_service_has_the_client_itself() {
        let home = tempfile::tempdir().expect("tempdir");
        let path = home.path().join("endpoint.sock");
        let listener = UnixListener::bind(&path).expect("bound");
        let (_drain, at) = door(&path).await;
        let mut client = TcpStream::connect(at).await.expect("connected");
        client.write_all(b"hello").await.expect("sent");
        let (given, _) = listener.accept().await.expect("given");
        let given = given.into_std().expect("is one");
        given.set_nonblocking(false).expect("set");
        let received = tokio::task::spawn_blocking(move || receive(&given).map(|(_, it)| (given, it)));
        let (_given, it) = received.await.expect("no panic").expect("received");
        let mut stream = std::net::TcpStream::from(it.expect("with a connection"));
        assert_eq!(stream.peer_addr().expect("known"), client.local_addr().expect("known"));
        stream.set_nonblocking(false).expect("set");
        let mut said = [0; 5];
        std::io::Read::read_exact(&mut stream, &mut said).expect("what was said meanwhile");
        assert_eq!(&said, b"hello");
    }

    #[tokio::test]
    async fn without_a_service_the_client_is_told_at_once() {
        let home = tempfile::tempdir().expect("tempdir");
        let (_drain, at) = door(&home.path().join("endpoint.sock")).await;
        let mut client = TcpStream::connect(at).await.expect("connected");
        client.write_all(b"hello").await.expect("sent");
        let read = timeout(Duration::from_secs(5), client.read(&mut [0])).await.expect("in time");
        assert!(read.map_or(true, |length| length == 0));
    }
}

//! Connections of strangers, which are not kept for whoever neither speaks nor listens.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// A connection whose writes fail when the other side takes nothing for too long, and whose reads fail when it does not say
/// as much as a server has to hear before its own limits begin.
#[derive(Debug)]
pub struct Watched<S> {
    stream: S,
    stalled: Duration,
    /// While something waits to be taken.
    deadline: Option<Pin<Box<Sleep>>>,
    /// Bytes that have yet to come, and until when.
    opening: Option<(usize, Pin<Box<Sleep>>)>,
}

impl<S> Watched<S> {
    pub fn new(stream: S, stalled: Duration) -> Self {
        Self { stream, stalled, deadline: None, opening: None }
    }

    /// So many bytes have to come within this time.
    pub fn opening(self, bytes: usize, patience: Duration) -> Self {
        Self { opening: Some((bytes, Box::pin(tokio::time::sleep(patience)))), ..self }
    }

    fn watch<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.deadline = None;
            return written;
        }
        let stalled = self.stalled;
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(stalled)));
        deadline.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    /// What was read, against what has to come.
    fn note(
        &mut self,
        context: &mut Context<'_>,
        read: Poll<io::Result<()>>,
        got: usize,
    ) -> Poll<io::Result<()>> {
        let Some((missing, deadline)) = &mut self.opening else { return read };
        if read.is_pending() {
            return deadline.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()));
        }
        *missing = missing.saturating_sub(got);
        if *missing == 0 {
            self.opening = None;
        }
        read
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.note(context, read, buffer.filled().len() - before)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.watch(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.watch(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = Pin::new(&mut self.stream).poll_shutdown(context);
        self.watch(context, ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// As TLS does: it takes what is written, and cannot be rid of it.
    struct Taking;

    impl AsyncWrite for Taking {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn what_was_written_has_to_be_taken_by_the_other_side() {
        let mut server = Watched::new(Taking, Duration::from_millis(50));
        server.write_all(b"an answer").await.expect("is taken in between");
        for ended in [server.flush().await, server.shutdown().await] {
            assert_eq!(ended.expect_err("nobody takes it").kind(), io::ErrorKind::TimedOut);
        }
    }

    #[tokio::test]
    async fn who_does_not_say_enough_is_given_up_and_who_does_is_not() {
        let patience = Duration::from_millis(50);
        for (said, enough) in [(&b"PRI"[..], false), (&b"PRI *"[..], true)] {
            let (client, server) = tokio::io::duplex(64);
            let mut server = Watched::new(server, patience).opening(5, patience);
            let (_read, mut write) = tokio::io::split(client);
            write.write_all(said).await.expect("sent");
            let mut got = Vec::new();
            let read = tokio::time::timeout(patience * 20, server.read_to_end(&mut got)).await;
            let given_up = read.is_ok_and(|read| read.is_err_and(|e| e.kind() == io::ErrorKind::TimedOut));
            assert_eq!((given_up, got.as_slice()), (!enough, said));
        }
    }
}

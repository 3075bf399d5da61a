//! A stream of bytes between the asynchronous side, which talks HTTP, and the synchronous one, which reads and writes
//! archives.
//!
//! Invariant: a stream that breaks off ends with an error, never as if it were complete.

use bytes::{Buf, Bytes};
use hyper::body::Frame;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// Pieces under way.
const DEPTH: usize = 8;

type Piece = io::Result<Bytes>;

pub(super) fn channel() -> (mpsc::Sender<Piece>, Reader) {
    let (feed, pieces) = mpsc::channel(DEPTH);
    (feed, Reader { pieces, piece: Bytes::new() })
}

/// For a blocking thread.
pub(super) struct Reader {
    pieces: mpsc::Receiver<Piece>,
    piece: Bytes,
}

impl io::Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.piece = piece?,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

/// For a blocking thread.
pub(super) struct Writer(mpsc::Sender<Piece>);

impl io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = Ok(Bytes::copy_from_slice(bytes));
        self.0.blocking_send(piece).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The body of a request that is written as it is sent.
pub(super) struct Body(mpsc::Receiver<Piece>);

impl Body {
    /// `write` runs on a blocking thread; its error breaks the request off.
    pub(super) fn of(write: impl FnOnce(&mut dyn io::Write) -> io::Result<()> + Send + 'static) -> Self {
        let (feed, pieces) = mpsc::channel(DEPTH);
        tokio::task::spawn_blocking(move || {
            let mut writer = io::BufWriter::with_capacity(1 << 16, Writer(feed.clone()));
            if let Err(error) = write(&mut writer).and_then(|()| io::Write::flush(&mut writer)) {
                let _ = feed.blocking_send(Err(error));
            }
        });
        Self(pieces)
    }

    pub(super) fn empty() -> Self {
        Self(mpsc::channel(1).1)
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}

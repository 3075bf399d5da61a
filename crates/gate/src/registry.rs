//! The image registry that nodes use: `ekstra_images` decides, this streams.

use crate::Gate;
use crate::accept::{self, Terms};
use crate::http::{Body, Patience, serve as serve_connection};
use bytes::Bytes;
use ekstra_images::registry::{Action, Body as Content, Registry};
use futures::TryStreamExt;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Request, Response, StatusCode};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use tokio::net::TcpListener;

/// What is read from a blob at once.
const CHUNK: usize = 256 * 1024;

pub(crate) async fn serve(terms: Terms, gate: Gate, listener: Arc<TcpListener>) {
    accept::run(terms, listener, |stream, _| {
        let images = gate.images.clone();
        Some(serve_connection(stream, Patience::STRANGERS, move |request| answer(images.clone(), request)))
    })
    .await;
}

async fn answer(images: Registry, request: Request<Incoming>) -> Response<Body> {
    let (head, _) = request.into_parts();
    let action = tokio::task::spawn_blocking(move || images.handle(&head)).await;
    match action {
        Ok(Action::Respond(response)) => response.map(body),
        // Nodes only pull; images are loaded by the command line.
        Ok(_) => crate::http::full(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "read only"),
        Err(_) => crate::http::full(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", "try again"),
    }
}

fn body(content: Content) -> Body {
    match content {
        Content::Full(bytes) => Full::new(bytes).map_err(|never| match never {}).boxed(),
        Content::File { file, offset, len, .. } => {
            let chunks = futures::stream::try_unfold((Some(file), offset, len), next_chunk);
            BodyExt::boxed(StreamBody::new(chunks.map_ok(Frame::data)))
        }
    }
}

/// A blocking thread is taken for each chunk and not for the whole blob: a client that reads slowly holds none.
async fn next_chunk(
    (file, offset, left): (Option<File>, u64, u64),
) -> io::Result<Option<(Bytes, (Option<File>, u64, u64))>> {
    let Some(file) = file.filter(|_| left > 0) else {
        return Ok(None);
    };
    let size = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
    let read = tokio::task::spawn_blocking(move || {
        let mut chunk = vec![0; size];
        file.read_exact_at(&mut chunk, offset).map(|()| (file, chunk))
    });
    // The client sees the stream break off, which no length then hides.
    let (file, chunk) = read.await.map_err(io::Error::other)??;
    let read = size as u64;
    Ok(Some((chunk.into(), (Some(file), offset + read, left - read))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    async fn streamed(file: File, offset: u64, len: u64) -> io::Result<Vec<u8>> {
        let content = Content::File { path: "blob".into(), file, offset, len };
        body(content).collect().await.map(|all| all.to_bytes().to_vec())
    }

    #[tokio::test]
    async fn a_range_of_a_blob_is_streamed_and_a_short_file_breaks_off() {
        let blob: Vec<u8> = (0..3 * CHUNK + 5).map(|n| (n % 253) as u8).collect();
        let mut file = tempfile::tempfile().expect("made");
        file.write_all(&blob).expect("written");
        let (offset, len) = (7, 2 * CHUNK + 9);
        let got = streamed(file.try_clone().expect("cloned"), offset, len as u64).await.expect("read");
        assert!(got == blob[7..7 + len]);
        assert!(streamed(file, 0, blob.len() as u64 + 1).await.is_err());
    }
}

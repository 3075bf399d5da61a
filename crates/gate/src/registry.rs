//! The image registry that nodes use: `ekstra_images` decides, this streams.

use crate::Gate;
use crate::http::{Body, serve as serve_connection};
use bytes::Bytes;
use ekstra_images::registry::{Action, Body as Content, Registry};
use futures::TryStreamExt;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Request, Response, StatusCode};
use std::io::{self, Read, Seek, SeekFrom};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// What is read from a blob at once.
const CHUNK: usize = 256 * 1024;

pub(crate) async fn serve(gate: Gate, listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        let images = gate.images.clone();
        tokio::spawn(serve_connection(stream, move |request| answer(images.clone(), request)));
    }
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
            let (sender, mut receiver) = mpsc::channel(4);
            tokio::task::spawn_blocking(move || read_into(file, offset, len, &sender));
            let chunks = futures::stream::poll_fn(move |context| receiver.poll_recv(context));
            BodyExt::boxed(StreamBody::new(chunks.map_ok(Frame::data)))
        }
    }
}

fn read_into(file: std::fs::File, offset: u64, len: u64, sender: &mpsc::Sender<io::Result<Bytes>>) {
    let sent = send_chunks(file, offset, len, sender);
    if let Err(error) = sent {
        // The client sees the stream break off, which no length then hides.
        let _ = sender.blocking_send(Err(error));
    }
}

fn send_chunks(
    mut file: std::fs::File,
    offset: u64,
    len: u64,
    sender: &mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<()> {
    file.seek(SeekFrom::Start(offset))?;
    let mut left = len;
    while left > 0 {
        let size = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        let mut chunk = vec![0; size];
        file.read_exact(&mut chunk)?;
        left -= size as u64;
        if sender.blocking_send(Ok(chunk.into())).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

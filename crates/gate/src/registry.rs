//! The image registry that nodes use: `ekstra_images` decides, this streams.
//!
//! What is not here, nodes look for at its own registry themselves. Where that has no address, they are told so in words,
//! or all that a pod's events said would be "not found".
//!
//! Invariant: nothing here connects to where a client names: pods are clients, and this process stands on the host.
//! Names are looked up, which pods can have done anyway.

use crate::Gate;
use crate::accept::{self, Terms};
use crate::http::{Body, Patience, serve as serve_connection};
use bytes::Bytes;
use ekstra_images::registry::{Action, Body as Content, Registry, Wanted};
use futures::TryStreamExt;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::http::request::Parts;
use hyper::{Request, Response, StatusCode};
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinError;

/// A resolver that says nothing for so long is as good as none.
const LOOKUP: Duration = Duration::from_secs(3);
const HTTPS: u16 = 443;
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
    let registry = images.clone();
    let handled = tokio::task::spawn_blocking(move || (registry.handle(&head), head)).await;
    let action = match handled {
        Ok((Action::FetchUpstream(wanted), head)) => elsewhere(images, wanted, head).await,
        Ok((action, _)) => Ok(action),
        Err(error) => Err(error),
    };
    match action {
        Ok(Action::Respond(response)) => response.map(body),
        // Nodes only pull; images are loaded by the command line.
        Ok(_) => crate::http::full(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "read only"),
        Err(_) => crate::http::full(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", "try again"),
    }
}

/// That it is not here; in words, when it cannot be anywhere else either.
async fn elsewhere(images: Registry, wanted: Wanted, head: Parts) -> Result<Action, JoinError> {
    if let Wanted::Manifest(reference) = &wanted
        && let Some(name) = host(reference.registry())
        && !resolves(&name).await
    {
        let why = format!("{} cannot be asked: {name} has no address here", reference.registry());
        return Ok(Action::Respond(images.out_of_reach(reference, &why)));
    }
    tokio::task::spawn_blocking(move || images.handle_stored(&head)).await
}

/// The name behind which a registry is; `None` for an address.
fn host(registry: &str) -> Option<String> {
    let name = registry.rsplit_once(':').map_or(registry, |(name, _)| name);
    let is_address = name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    match name {
        "docker.io" => Some("registry-1.docker.io".to_owned()),
        _ => (!is_address).then(|| name.to_owned()),
    }
}

async fn resolves(name: &str) -> bool {
    let looked = tokio::time::timeout(LOOKUP, tokio::net::lookup_host((name, HTTPS))).await;
    looked.is_ok_and(|found| found.is_ok_and(|mut addresses| addresses.next().is_some()))
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

    #[test]
    fn registries_are_behind_names_or_addresses() {
        assert_eq!(host("docker.io").as_deref(), Some("registry-1.docker.io"));
        assert_eq!(host("quay.io").as_deref(), Some("quay.io"));
        assert_eq!(host("registry.local:5000").as_deref(), Some("registry.local"));
        for address in ["10.0.0.1:5000", "10.0.0.1", "[fd00::1]:5000"] {
            assert_eq!(host(address), None, "{address}");
        }
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

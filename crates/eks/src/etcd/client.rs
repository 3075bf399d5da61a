//! etcd's maintenance API over its JSON gateway: the one call that is needed.

use super::EtcdError;
use crate::control_plane::Files;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ekstra_domain::eks::{Listener, Site};
use ekstra_engine::blocking;
use ekstra_host::netns;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// A line of the answer: a part of the snapshot, base64. etcd sends 32 KiB at a time.
const LONGEST_LINE: usize = 1 << 20;

#[derive(Deserialize)]
struct Line {
    result: Option<Part>,
    error: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Part {
    #[serde(default)]
    blob: String,
}

/// Writes a snapshot, with etcd's sum at its end.
pub(super) async fn snapshot(
    site: &Site,
    files: &Files,
    to: &mut (impl AsyncWrite + Unpin),
) -> Result<(), EtcdError> {
    let stream = connect(site, files).await.map_err(EtcdError::Connect)?;
    let answer = |error: &dyn std::fmt::Display| EtcdError::Answer(error.to_string());
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| answer(&e))?;
    let exchange = async {
        let request = http::Request::post("/v3/maintenance/snapshot")
            .header("host", "localhost")
            .body(Full::new(bytes::Bytes::from_static(b"{}")))
            .map_err(|e| answer(&e))?;
        let response = sender.send_request(request).await.map_err(|e| answer(&e))?;
        if !response.status().is_success() {
            return Err(EtcdError::Answer(response.status().to_string()));
        }
        let mut body = response.into_body();
        let mut lines = Lines::default();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|e| answer(&e))?.into_data() else { continue };
            for part in lines.feed(&data)? {
                to.write_all(&part).await.map_err(EtcdError::Connect)?;
            }
        }
        lines.end()
    };
    tokio::select! {
        done = exchange => done,
        // Ends with the exchange, or before it when etcd goes.
        ended = connection => Err(answer(&ended.err().map_or("hung up".to_owned(), |e| e.to_string()))),
    }
}

/// Parts out of bytes as they come.
#[derive(Default)]
struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    fn feed(&mut self, data: &[u8]) -> Result<Vec<Vec<u8>>, EtcdError> {
        self.rest.extend_from_slice(data);
        let mut parts = Vec::new();
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            parts.push(part(&line)?);
        }
        if self.rest.len() > LONGEST_LINE {
            return Err(EtcdError::Answer("a line without end".into()));
        }
        Ok(parts)
    }

    fn end(self) -> Result<(), EtcdError> {
        if self.rest.is_empty() { Ok(()) } else { Err(EtcdError::Answer("the answer broke off".into())) }
    }
}

fn part(line: &[u8]) -> Result<Vec<u8>, EtcdError> {
    let line: Line = serde_json::from_slice(line).map_err(|e| EtcdError::Answer(e.to_string()))?;
    match (line.result, line.error) {
        (Some(part), None) => STANDARD.decode(part.blob).map_err(|e| EtcdError::Answer(e.to_string())),
        (_, error) => Err(EtcdError::Answer(error.unwrap_or_default().to_string())),
    }
}

/// With the service's own certificate, the one that etcd asks for.
pub(crate) async fn connect(site: &Site, files: &Files) -> io::Result<TlsStream<tokio::net::TcpStream>> {
    let files = files.clone();
    let config = blocking(move || config(&files)).await?;
    let stream = netns::connect(site.namespace(), site.address(Listener::EtcdClients)).await?;
    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

fn config(files: &Files) -> io::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let read = |name: &str| std::fs::read(files.key(name));
    let certificates = |pem: &[u8]| -> io::Result<Vec<CertificateDer<'static>>> {
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(io::Error::other)
    };
    for authority in certificates(&read("etcd-ca.crt")?)? {
        roots.add(authority).map_err(io::Error::other)?;
    }
    let key = PrivateKeyDer::from_pem_slice(&read("etcd.key")?).map_err(io::Error::other)?;
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_client_auth_cert(certificates(&read("etcd.crt")?)?, key)
        .map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_in_any_pieces() {
        let text = b"{\"result\":{\"remaining_bytes\":\"3\",\"blob\":\"AQID\"}}\n{\"result\":{\"blob\":\"BA==\"}}\n{\"result\":{}}\n";
        for size in 1..text.len() {
            let mut lines = Lines::default();
            let parts: Vec<u8> =
                text.chunks(size).flat_map(|chunk| lines.feed(chunk).expect("parses")).flatten().collect();
            assert_eq!(parts, [1, 2, 3, 4]);
            lines.end().expect("whole");
        }
    }

    #[test]
    fn an_error_or_a_broken_answer_is_none() {
        let mut lines = Lines::default();
        assert!(
            lines
                .feed(b"{\"error\":{\"message\":\"no\"}}\n")
                .expect_err("refused")
                .to_string()
                .contains("no")
        );
        let mut lines = Lines::default();
        assert!(lines.feed(b"{\"result\":").expect("not yet").is_empty());
        assert!(lines.end().is_err());
    }
}

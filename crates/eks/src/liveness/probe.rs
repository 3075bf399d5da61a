//! One question to one program of a control plane.

use crate::control_plane::Files;
use crate::etcd;
use ekstra_domain::eks::{Listener, Site};
use ekstra_host::netns;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

/// For a whole answer. A machine that is short of everything is slow, not dead.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Any.
    Words,
    /// It does not listen, or hangs up.
    Refusal,
    /// It takes the connection, and nothing comes.
    Silence,
}

/// Asks programs whether they live.
#[derive(Clone)]
pub(super) struct Prober {
    tls: TlsConnector,
}

impl std::fmt::Debug for Prober {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prober").finish_non_exhaustive()
    }
}

impl Default for Prober {
    fn default() -> Self {
        let provider = Arc::new(ring::default_provider());
        let anybody = Arc::new(Anybody(provider.clone()));
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has the protocols' ciphers")
            .dangerous()
            .with_custom_certificate_verifier(anybody)
            .with_no_client_auth();
        Self { tls: TlsConnector::from(Arc::new(config)) }
    }
}

impl Prober {
    pub(super) async fn ask(&self, site: &Site, files: &Files, program: &str) -> Answer {
        let listener = match program {
            "etcd" => return answer(async { first_words(etcd::connect(site, files).await?).await }).await,
            "kube-apiserver" => Listener::ApiServer,
            "kube-controller-manager" => Listener::ControllerManager,
            _ => Listener::Scheduler,
        };
        answer(async {
            let stream = netns::connect(site.namespace(), site.address(listener)).await?;
            let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
            first_words(self.tls.connect(name, stream).await?).await
        })
        .await
    }
}

async fn answer(asked: impl Future<Output = io::Result<()>>) -> Answer {
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(())) => Answer::Words,
        Ok(Err(_)) => Answer::Refusal,
        Err(_) => Answer::Silence,
    }
}

async fn first_words(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    stream.flush().await?;
    let mut words = [0; 5];
    stream.read_exact(&mut words).await?;
    if &words == b"HTTP/" { Ok(()) } else { Err(ErrorKind::InvalidData.into()) }
}

/// As kubelets do for their probes: the other side is a program that this service started, on a loopback, and it is told
/// no secret.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

//! The service's own certificate authority and the certificate of its AWS endpoint.

use crate::home::{Home, write_private};
use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use std::fs;
use std::net::Ipv4Addr;
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Makes both at the first start. Clients that want https trust `ca.crt` (`AWS_CA_BUNDLE`).
pub(crate) fn acceptor(home: &Home, address: Ipv4Addr) -> Result<TlsAcceptor> {
    let (certificate, key) = (home.path("endpoint.crt"), home.path("endpoint.key"));
    if !certificate.exists() || !key.exists() {
        make(home, address)?;
    }
    let chain = CertificateDer::pem_slice_iter(&fs::read(&certificate)?).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(&fs::read(&key)?)?;
    let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn make(home: &Home, address: Ipv4Addr) -> Result<()> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, "ekstra");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let authority_key = KeyPair::generate()?;
    let authority = params.self_signed(&authority_key)?.pem();
    let issuer = Issuer::new(params, authority_key);
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), address.to_string()];
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, "ekstra endpoint");
    // Python asks for it since 3.13.
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?.pem();
    home.write_for_owner("ca.crt", authority.as_bytes())?;
    write_private(&home.path("endpoint.key"), key.serialize_pem().as_bytes())?;
    write_private(&home.path("endpoint.crt"), certificate.as_bytes())
}

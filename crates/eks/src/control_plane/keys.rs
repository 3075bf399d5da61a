//! Certificates and keys of one control plane, made once.
//!
//! Invariant: the directory appears whole (made aside and renamed), so a crash leaves either no keys or all of them.

use super::Files;
use crate::identity_providers::configuration;
use base64::Engine;
use ekstra_domain::eks::{Listener, Site};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rsa::pkcs8::{EncodePrivateKey, EncodePublicKey, LineEnding};
use serde_json::json;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// Clusters live shorter than this; rotation comes with its own operation.
const LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// A clock that is set back after a cluster was made, as in a time zone by mistake, must not make its keys keys of the future.
pub(crate) const BACKDATED: Duration = Duration::from_secs(26 * 3600);
/// Where the API server asks about what RBAC does not allow.
pub(crate) const AUTHORIZER: &str = "authorization-webhook.json";
/// Which identity providers the API server knows; it reads the file again when it changes.
pub(crate) const AUTHENTICATION: &str = "authentication.json";
/// Who the service itself is to the API server.
pub(crate) const SERVICE_USER: &str = "eks:ekstra";

#[derive(Debug, thiserror::Error)]
pub(crate) enum KeysError {
    #[error("certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("service account key: {0}")]
    Rsa(String),
    #[error("keys: {0}")]
    Io(#[from] io::Error),
}

/// What the API server is called.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    /// DNS names and addresses for the API server's certificate.
    pub(crate) server: Vec<String>,
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
    key: String,
}

impl Authority {
    fn make(name: &str) -> Result<Self, KeysError> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        validity(&mut params);
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self { key: key.serialize_pem(), certificate, issuer: Issuer::new(params, key) })
    }

    /// A certificate and its key, PEM.
    fn issue(&self, name: &str, groups: &[&str], sans: Vec<String>) -> Result<(String, String), KeysError> {
        let mut params = CertificateParams::new(sans)?;
        params.distinguished_name.push(DnType::CommonName, name);
        for group in groups {
            params.distinguished_name.push(DnType::OrganizationName, *group);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        // Python asks for it since 3.13.
        params.use_authority_key_identifier_extension = true;
        validity(&mut params);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok((certificate, key.serialize_pem()))
    }
}

/// A clock that is a little behind must not refuse a new cluster.
fn validity(params: &mut CertificateParams) {
    let now = SystemTime::now();
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + LIFETIME).into();
}

/// Makes everything unless it is there. Takes a few hundred milliseconds, most of them for the RSA key.
pub(crate) fn ensure(files: &Files, names: &Names, site: &Site) -> Result<(), KeysError> {
    if files.pki().exists() {
        return Ok(());
    }
    let partial = files.root.join("pki.partial");
    let _ = fs::remove_dir_all(&partial);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&partial)?;
    let authority = Authority::make("kubernetes")?;
    write(&partial, "ca.crt", &authority.certificate)?;
    write(&partial, "ca.key", &authority.key)?;
    write_pair(&partial, "apiserver", authority.issue("kube-apiserver", &[], names.server.clone())?)?;
    let kubelet_client = authority.issue("kube-apiserver-kubelet-client", &["system:masters"], vec![])?;
    write_pair(&partial, "kubelet-client", kubelet_client)?;
    for (file, user, groups) in [
        ("controller-manager", "system:kube-controller-manager", &[][..]),
        ("scheduler", "system:kube-scheduler", &[][..]),
        ("service", SERVICE_USER, &["system:masters"][..]),
    ] {
        let pair = authority.issue(user, groups, vec![])?;
        write(&partial, &format!("{file}.kubeconfig"), &kubeconfig(&authority.certificate, &pair, site))?;
    }
    let etcd = Authority::make("etcd")?;
    write(&partial, "etcd-ca.crt", &etcd.certificate)?;
    write_pair(&partial, "etcd", etcd.issue("etcd", &[], vec!["127.0.0.1".into(), "localhost".into()])?)?;
    let front = Authority::make("front-proxy")?;
    write(&partial, "front-proxy-ca.crt", &front.certificate)?;
    write_pair(&partial, "front-proxy", front.issue("front-proxy-client", &[], vec![])?)?;
    write_service_account_key(&partial)?;
    write(&partial, "encryption.json", &encryption_config())?;
    write(&partial, AUTHENTICATION, &configuration(Vec::new()))?;
    for (name, path) in [("token-webhook.json", "authenticate"), (AUTHORIZER, "authorize")] {
        write(&partial, name, &webhook_config(site, path, &authority.certificate))?;
    }
    fs::File::open(&partial)?.sync_all()?;
    Ok(fs::rename(&partial, files.pki())?)
}

/// What a control plane that an earlier version made has not got.
pub(crate) fn complete(files: &Files, site: &Site) -> Result<(), KeysError> {
    if !files.key(AUTHORIZER).exists() {
        let ca = fs::read_to_string(files.key("ca.crt"))?;
        replace(&files.key(AUTHORIZER), &webhook_config(site, "authorize", &ca))?;
    }
    if !files.key(AUTHENTICATION).exists() {
        replace(&files.key(AUTHENTICATION), &configuration(Vec::new()))?;
    }
    Ok(())
}

/// Sees that the file is so; one that is stays as it is.
pub(crate) fn ensure_file(file: &Path, content: &str) -> io::Result<()> {
    match fs::read_to_string(file) {
        Ok(found) if found == content => Ok(()),
        _ => replace(file, content),
    }
}

/// Whoever reads it sees what it was or what it is.
fn replace(file: &Path, content: &str) -> io::Result<()> {
    use std::io::Write;
    /// More than one may write at a time.
    static WRITTEN: AtomicU64 = AtomicU64::new(0);
    let number = WRITTEN.fetch_add(1, Ordering::Relaxed);
    let partial = file.with_extension(format!("{}-{number}.partial", std::process::id()));
    let mut options = fs::OpenOptions::new();
    let mut written = options.create(true).write(true).truncate(true).mode(0o600).open(&partial)?;
    written.write_all(content.as_bytes())?;
    written.sync_data()?;
    fs::rename(&partial, file)
}

fn write(directory: &Path, name: &str, content: &str) -> Result<(), KeysError> {
    use std::io::Write;
    let mut options = fs::OpenOptions::new();
    let mut file = options.create(true).write(true).truncate(true).mode(0o600).open(directory.join(name))?;
    file.write_all(content.as_bytes())?;
    Ok(file.sync_data()?)
}

fn write_pair(directory: &Path, name: &str, (certificate, key): (String, String)) -> Result<(), KeysError> {
    write(directory, &format!("{name}.crt"), &certificate)?;
    write(directory, &format!("{name}.key"), &key)
}

/// RSA, because clients of IAM roles for service accounts expect RS256.
fn write_service_account_key(directory: &Path) -> Result<(), KeysError> {
    let fail = |e: &dyn std::fmt::Display| KeysError::Rsa(e.to_string());
    let key = rsa::PrivateKey::new(&mut rand::rng(), 2048).map_err(|e| fail(&e))?;
    let private = key.to_pkcs8_pem(LineEnding::LF).map_err(|e| fail(&e))?;
    write(directory, "service-account.key", &private)?;
    let public = key.to_public_key().to_public_key_pem(LineEnding::LF).map_err(|e| fail(&e))?;
    write(directory, "service-account.pub", &public)
}

/// For the control plane's own programs.
fn kubeconfig(ca: &str, (certificate, key): &(String, String), site: &Site) -> String {
    let encode = |pem: &str| base64::engine::general_purpose::STANDARD.encode(pem);
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "local", "cluster": {
            "server": format!("https://{}", site.address(Listener::ApiServer)),
            "certificate-authority-data": encode(ca),
        }}],
        "users": [{"name": "self", "user": {
            "client-certificate-data": encode(certificate),
            "client-key-data": encode(key),
        }}],
        "contexts": [{"name": "self", "context": {"cluster": "local", "user": "self"}}],
        "current-context": "self",
    })
    .to_string()
}

/// Nothing is encrypted until a key is associated; the file is there from the start, and reloaded, because an API
/// server that was started without one cannot be given one without a restart.
fn encryption_config() -> String {
    json!({
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "EncryptionConfiguration",
        "resources": [{"resources": ["secrets"], "providers": [{"identity": {}}]}],
    })
    .to_string()
}

/// The webhooks listen on the loopback of the control plane's own namespace, where nobody else is. On the host somebody
/// else could take their port and say who is who: there they have to have a key of this cluster's.
fn webhook_config(site: &Site, path: &str, ca: &str) -> String {
    let address = site.address(Listener::TokenWebhook);
    let cluster = match site {
        Site::Apart { .. } => json!({"server": format!("http://{address}/{path}")}),
        Site::OnHost { .. } => json!({
            "server": format!("https://{address}/{path}"),
            "certificate-authority-data": base64::engine::general_purpose::STANDARD.encode(ca),
        }),
    };
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "gate", "cluster": cluster}],
        "users": [{"name": "apiserver", "user": {}}],
        "contexts": [{"name": "gate", "context": {"cluster": "gate", "user": "apiserver"}}],
        "current-context": "gate",
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_made_whole_once_and_readable_by_their_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let home = tempfile::tempdir().expect("tempdir");
        let files = Files { root: home.path().join("slot") };
        let names = Names { server: vec!["127.0.0.1".into(), "kubernetes".into()] };
        let site = Site::Apart { namespace: "n".into() };
        ensure(&files, &names, &site).expect("made");
        let ca = fs::read_to_string(files.key("ca.crt")).expect("there");
        ensure(&files, &names, &site).expect("kept");
        assert_eq!(fs::read_to_string(files.key("ca.crt")).expect("there"), ca);
        for entry in fs::read_dir(files.pki()).expect("lists").flatten() {
            let mode = entry.metadata().expect("stat").permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{:?}", entry.path());
        }
    }
}

//! Signers of serving certificates: EKS's own for workloads, `beta.eks.amazonaws.com/app-serving` ("Secure workloads with
//! Kubernetes certificates" in the EKS user guide), and that of kubelets, which upstream's controller manager would sign
//! from five minutes ago on: a clock set back by more, and nobody could look into a node. What somebody has approved is
//! signed by the cluster's authority.
//!
//! Invariant: whatever is asked for, the certificate is of a server and of nothing else: no client, no authority.

use crate::control_plane::Files;
use crate::control_plane::keys::BACKDATED;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use rcgen::{
    CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use std::time::{Duration, SystemTime};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension};

pub(crate) const APP_SERVING: &str = "beta.eks.amazonaws.com/app-serving";
pub(crate) const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
/// What upstream's signers give to who asks for no other time, and the most that anybody gets.
const LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);

#[derive(Debug, thiserror::Error)]
pub(crate) enum SigningError {
    #[error("the request is not a PEM file")]
    NotText,
    #[error("the request cannot be signed: {0}")]
    Request(#[from] rcgen::Error),
    #[error("{0}")]
    NotOfKubelet(&'static str),
    #[error("the cluster's authority: {0}")]
    Authority(#[from] std::io::Error),
}

/// Whether it waits for this signer: approved, not denied or failed, and without a certificate.
pub(crate) fn is_due(request: &CertificateSigningRequest) -> bool {
    let Some(status) = &request.status else { return false };
    let has = |kind: &str| status.conditions.iter().flatten().any(|c| c.type_ == kind && c.status == "True");
    [APP_SERVING, KUBELET_SERVING].contains(&request.spec.signer_name.as_str())
        && status.certificate.is_none()
        && has("Approved")
        && !has("Denied")
        && !has("Failed")
}

/// The certificate, PEM.
pub(crate) fn sign(request: &CertificateSigningRequest, files: &Files) -> Result<String, SigningError> {
    let text = std::str::from_utf8(&request.spec.request.0).map_err(|_| SigningError::NotText)?;
    if request.spec.signer_name == KUBELET_SERVING {
        check_kubelet(text)?;
    }
    let mut asked = CertificateSigningRequestParams::from_pem(text)?;
    let authority = std::fs::read_to_string(files.key("ca.crt"))?;
    let key = KeyPair::from_pem(&std::fs::read_to_string(files.key("ca.key"))?)?;
    let issuer = Issuer::from_ca_cert_pem(&authority, key)?;
    let wanted = request.spec.expiration_seconds.and_then(|s| u64::try_from(s).ok()).map(Duration::from_secs);
    let now = SystemTime::now();
    asked.params.is_ca = IsCa::ExplicitNoCa;
    asked.params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    asked.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    asked.params.not_before = (now - BACKDATED).into();
    asked.params.not_after = (now + wanted.unwrap_or(LIFETIME).min(LIFETIME)).into();
    Ok(asked.signed_by(&issuer)?.pem())
}

/// What upstream's signer asks for, whoever has approved it (Kubernetes documentation, "Certificates and Certificate
/// Signing Requests", Kubernetes signers).
fn check_kubelet(pem: &str) -> Result<(), SigningError> {
    let refuse = |why| Err(SigningError::NotOfKubelet(why));
    let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(pem.as_bytes()) else {
        return Err(SigningError::NotText);
    };
    let Ok((_, request)) = X509CertificationRequest::from_der(&pem.contents) else {
        return Err(SigningError::NotText);
    };
    let subject = &request.certification_request_info.subject;
    let organizations: Vec<&str> = subject.iter_organization().filter_map(|o| o.as_str().ok()).collect();
    if organizations != ["system:nodes"] {
        return refuse("the subject's organization is not system:nodes");
    }
    let mut names = subject.iter_common_name().filter_map(|name| name.as_str().ok());
    if !names.next().is_some_and(|name| name.starts_with("system:node:")) {
        return refuse("the subject's common name does not begin with system:node:");
    }
    let mut served = 0;
    for extension in request.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
        let is_place =
            |name: &GeneralName<'_>| matches!(name, GeneralName::DNSName(_) | GeneralName::IPAddress(_));
        if !names.general_names.iter().all(is_place) {
            return refuse("a subject alternative name is neither a DNS name nor an address");
        }
        served += names.general_names.len();
    }
    if served == 0 { refuse("there is neither a DNS name nor an address in it") } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control_plane::keys;
    use k8s_openapi::ByteString;
    use k8s_openapi::api::certificates::v1::{
        CertificateSigningRequestCondition as Condition, CertificateSigningRequestStatus as Status,
    };
    use rcgen::{CertificateParams, DnType};
    use x509_parser::prelude::X509Certificate;

    fn request(signer: &str, conditions: &[&str]) -> CertificateSigningRequest {
        let mut params = CertificateParams::new(vec!["web.default.svc".to_owned()]).expect("valid");
        params.distinguished_name.push(DnType::CommonName, "web.default.svc");
        // More than anybody gets.
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("made");
        let mut made = CertificateSigningRequest::default();
        let pem = params.serialize_request(&key).expect("made").pem().expect("made");
        made.spec.request = ByteString(pem.into_bytes());
        made.spec.signer_name = signer.into();
        let condition =
            |kind: &&str| Condition { type_: (*kind).into(), status: "True".into(), ..Default::default() };
        let conditions = Some(conditions.iter().map(condition).collect());
        made.status = Some(Status { conditions, ..Default::default() });
        made
    }

    #[test]
    fn only_what_was_approved_is_due() {
        assert!(is_due(&request(APP_SERVING, &["Approved"])));
        assert!(!is_due(&request(APP_SERVING, &[])));
        assert!(!is_due(&request(APP_SERVING, &["Approved", "Failed"])));
        assert!(is_due(&request(KUBELET_SERVING, &["Approved"])));
        assert!(!is_due(&request("kubernetes.io/kube-apiserver-client", &["Approved"])));
        let mut done = request(APP_SERVING, &["Approved"]);
        done.status.as_mut().expect("there").certificate = Some(ByteString(b"PEM".to_vec()));
        assert!(!is_due(&done));
    }

    #[test]
    fn a_kubelet_is_known_by_its_subject() {
        let pem = |organization: &str, name: &str, names: &[&str]| {
            let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
            let mut params = CertificateParams::new(names).expect("valid");
            params.distinguished_name.push(DnType::OrganizationName, organization);
            params.distinguished_name.push(DnType::CommonName, name);
            let key = KeyPair::generate().expect("made");
            params.serialize_request(&key).expect("made").pem().expect("made")
        };
        check_kubelet(&pem("system:nodes", "system:node:a", &["a", "10.0.0.1"])).expect("a kubelet's");
        for (organization, name, names) in [
            ("system:masters", "system:node:a", &["a"][..]),
            ("system:nodes", "a", &["a"]),
            ("system:nodes", "system:node:a", &[]),
        ] {
            check_kubelet(&pem(organization, name, names)).expect_err(name);
        }
    }

    #[test]
    fn a_certificate_is_of_a_server_whatever_was_asked_for() {
        let home = tempfile::tempdir().expect("tempdir");
        let files = Files { root: home.path().to_owned() };
        let site = ekstra_domain::eks::Site::OnHost { first_port: 1 };
        keys::ensure(&files, &keys::Names { server: vec!["kubernetes".into()] }, &site).expect("keys");
        let mut asked = request(APP_SERVING, &["Approved"]);
        asked.spec.expiration_seconds = Some(3600);
        let pem = sign(&asked, &files).expect("signed");
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).expect("PEM");
        let (_, certificate) = X509Certificate::from_der(&pem.contents).expect("a certificate");
        let (_, authority) =
            x509_parser::pem::parse_x509_pem(&std::fs::read(files.key("ca.crt")).expect("there"))
                .expect("PEM");
        let (_, authority) = X509Certificate::from_der(&authority.contents).expect("a certificate");
        assert_eq!(certificate.issuer(), authority.subject());
        assert!(!certificate.is_ca());
        let usage = certificate.extended_key_usage().expect("readable").expect("there").value;
        assert!(usage.server_auth && !usage.client_auth && !usage.any);
        let names = &certificate.subject_alternative_name().expect("readable").expect("there").value;
        assert_eq!(names.general_names, [GeneralName::DNSName("web.default.svc")]);
        let lives =
            certificate.validity().not_after.timestamp() - certificate.validity().not_before.timestamp();
        assert_eq!(lives, 3600 + i64::try_from(BACKDATED.as_secs()).expect("fits"));
        asked.spec.signer_name = KUBELET_SERVING.into();
        let refused = sign(&asked, &files).expect_err("not a kubelet's").to_string();
        assert!(refused.contains("system:nodes"), "{refused}");
        asked.spec.request = ByteString(b"nonsense".to_vec());
        sign(&asked, &files).expect_err("not a request");
    }
}

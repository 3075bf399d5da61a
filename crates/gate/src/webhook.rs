//! The webhooks of a control plane: TokenReview in, user out; SubjectAccessReview in, what access policies say out
//! (`authorizer.rs`); AdmissionReview of a pod in, what it gets of its pod identity out (`admission.rs`).
//!
//! Invariant: a refusal is an error of HTTP (403, as EKS's). The API server answers both 401, but keeps
//! `authenticated: false` of a 200 for as long as a success, two minutes, and forgets an error at once (client-go's
//! cache, made with `cacheErrs` false, and a 403 is not tried again). So who is given access has it at the next request.
//!
//! Source: "Webhook Token Authentication" in the Kubernetes documentation; the user's shape is
//! aws-iam-authenticator's (`spec/eks-semantics.md` §3.8).

use crate::Gate;
use crate::accept::{self, Terms};
use crate::admission;
use crate::authorizer;
use crate::http::{Body, Patience, full, serve as serve_connection};
use crate::identity::{User, authenticate};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// A review holds one token of at most 4 KiB.
const LARGEST: usize = 64 * 1024;
/// The API server is the only client, and closes what it has not used for 90 s: after that, so that it never sends a
/// review into a connection that is being closed.
const PATIENCE: Patience = Patience { head: Duration::from_secs(120), stalled: Duration::from_secs(30) };
const BODY_PATIENCE: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
struct Review {
    spec: Spec,
}

#[derive(Deserialize)]
struct Spec {
    #[serde(default)]
    token: String,
}

pub(crate) async fn serve(
    terms: Terms,
    gate: Gate,
    slot: String,
    tls: Option<TlsAcceptor>,
    listener: Arc<TcpListener>,
) {
    accept::run(terms, listener, |stream, _| {
        let (gate, slot, tls) = (gate.clone(), slot.clone(), tls.clone());
        let respond = move |request| answer(gate.clone(), slot.clone(), request);
        Some(async move {
            match tls {
                None => serve_connection(stream, PATIENCE, respond).await,
                Some(tls) => {
                    if let Ok(Ok(stream)) = tokio::time::timeout(BODY_PATIENCE, tls.accept(stream)).await {
                        serve_connection(stream, PATIENCE, respond).await;
                    }
                }
            }
        })
    })
    .await;
}

/// On the host's loopback anybody could listen in its place, and say who is who: there the API server asks whoever has
/// the key of its own certificate.
pub(crate) fn acceptor(pki: &Path) -> io::Result<TlsAcceptor> {
    let read = |name: &str| fs::read(pki.join(name));
    let chain = CertificateDer::pem_slice_iter(&read("apiserver.crt")?).collect::<Result<Vec<_>, _>>();
    let key = PrivateKeyDer::from_pem_slice(&read("apiserver.key")?).map_err(io::Error::other)?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_single_cert(chain.map_err(io::Error::other)?, key)
        .map_err(io::Error::other)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn answer(gate: Gate, slot: String, request: Request<Incoming>) -> Response<Body> {
    if request.method() != Method::POST {
        return reply(StatusCode::METHOD_NOT_ALLOWED, json!({"authenticated": false}));
    }
    let path = request.uri().path().to_owned();
    let largest = if path == admission::PATH { admission::LARGEST } else { LARGEST };
    let body = Limited::new(request.into_body(), largest).collect();
    let Ok(Ok(body)) = tokio::time::timeout(BODY_PATIENCE, body).await else {
        return reply(StatusCode::BAD_REQUEST, json!({"authenticated": false}));
    };
    match path.as_str() {
        authorizer::PATH => return authorizer::answer(&gate, &slot, &body.to_bytes()),
        admission::PATH => return admission::answer(&gate, &slot, &body.to_bytes()),
        _ => {}
    }
    let Ok(review) = serde_json::from_slice::<Review>(&body.to_bytes()) else {
        return reply(StatusCode::BAD_REQUEST, json!({"authenticated": false}));
    };
    review_token(&gate, &slot, &review.spec.token)
}

fn review_token(gate: &Gate, slot: &str, token: &str) -> Response<Body> {
    let outcome = match &gate.cluster_of(slot) {
        Some(cluster) => authenticate(gate, cluster, token),
        None => Err("the cluster is gone".to_owned()),
    };
    match outcome {
        Ok(user) => reply(StatusCode::OK, describe(&user)),
        Err(why) => {
            tracing::info!(slot, why, "sign-in refused");
            reply(StatusCode::FORBIDDEN, json!({"authenticated": false}))
        }
    }
}

fn describe(user: &User) -> Value {
    let principal = &user.principal;
    let session = principal.session_name().unwrap_or_default();
    json!({
        "authenticated": true,
        "user": {
            "username": user.name,
            "uid": format!("aws-iam-authenticator:{}:{}", principal.account, principal.user_id),
            "groups": user.groups,
            "extra": {
                "arn": [principal.arn],
                "canonicalArn": [principal.canonical_arn()],
                "accessKeyId": [user.access_key],
                "principalId": [principal.user_id],
                "sessionName": [session],
                "sigs.k8s.io/aws-iam-authenticator/principalId": [principal.user_id],
            },
        },
    })
}

fn reply(status: StatusCode, review: Value) -> Response<Body> {
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": review});
    full(status, "application/json", body.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{ACCOUNT, Fixture, SLOT, USER, credentials};
    use ekstra_domain::names::keys;
    use ekstra_wire::sigv4::{Credentials, make_eks_token};

    async fn reviewed(gate: &Gate, token: &str) -> (StatusCode, Value) {
        let (head, body) = review_token(gate, SLOT, token).into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        let mut review: Value = serde_json::from_slice(&body).expect("a TokenReview");
        (head.status, review["status"].take())
    }

    fn token(credentials: &Credentials) -> String {
        make_eks_token(credentials, "us-east-1", "https://sts.us-east-1.amazonaws.com", "c", crate::now())
    }

    #[tokio::test]
    async fn a_refusal_is_not_to_be_kept_and_ends_when_access_is_given() {
        let fixture = Fixture::new();
        let token = token(&credentials());
        let refused = (StatusCode::FORBIDDEN, json!({"authenticated": false}));
        assert_eq!(reviewed(&fixture.gate, &token).await, refused, "no cluster");
        fixture.put_cluster(1).await;
        assert_eq!(reviewed(&fixture.gate, &token).await, refused, "no such key");
        assert_eq!(reviewed(&fixture.gate, "k8s-aws-v1.nonsense").await, refused);
        fixture.put_access_key().await;
        let (status, review) = reviewed(&fixture.gate, &token).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(review["authenticated"], true);
        assert_eq!(review["user"]["username"], USER);
        assert_eq!(review["user"]["groups"], json!(["system:masters"]));
        let other = Credentials { secret_access_key: "another".into(), ..credentials() };
        assert_eq!(reviewed(&fixture.gate, &self::token(&other)).await, refused, "a wrong secret");
        fixture.delete(&keys::user(ACCOUNT, "dev")).await;
        assert_eq!(reviewed(&fixture.gate, &token).await, refused, "whose user is gone");
    }
}

//! The token webhook of a control plane: TokenReview in, user out.
//!
//! Source: "Webhook Token Authentication" in the Kubernetes documentation; the user's shape is
//! aws-iam-authenticator's (`spec/eks-semantics.md` §3.8).

use crate::Gate;
use crate::http::{Body, full, serve as serve_connection};
use crate::identity::{User, authenticate};
use ekstra_domain::eks::{Cluster, ControlPlaneSlot};
use ekstra_domain::names::keys;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// A review holds one token of at most 4 KiB.
const LARGEST: usize = 64 * 1024;

#[derive(Deserialize)]
struct Review {
    spec: Spec,
}

#[derive(Deserialize)]
struct Spec {
    #[serde(default)]
    token: String,
}

pub(crate) async fn serve(gate: Gate, slot: String, listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        let (gate, slot) = (gate.clone(), slot.clone());
        tokio::spawn(serve_connection(stream, move |request| answer(gate.clone(), slot.clone(), request)));
    }
}

async fn answer(gate: Gate, slot: String, request: Request<Incoming>) -> Response<Body> {
    if request.method() != Method::POST {
        return reply(StatusCode::METHOD_NOT_ALLOWED, json!({"authenticated": false}));
    }
    let Ok(body) = Limited::new(request.into_body(), LARGEST).collect().await else {
        return reply(StatusCode::BAD_REQUEST, json!({"authenticated": false}));
    };
    let Ok(review) = serde_json::from_slice::<Review>(&body.to_bytes()) else {
        return reply(StatusCode::BAD_REQUEST, json!({"authenticated": false}));
    };
    let cluster = gate
        .view
        .get_as::<ControlPlaneSlot>(&keys::slot(&slot))
        .and_then(|slot| gate.view.get_as::<Cluster>(&slot.cluster));
    let outcome = match &cluster {
        Some(cluster) => authenticate(&gate, cluster, &review.spec.token),
        None => Err("the cluster is gone".to_owned()),
    };
    match outcome {
        Ok(user) => reply(StatusCode::OK, describe(&user)),
        Err(why) => {
            tracing::info!(slot, why, "sign-in refused");
            reply(StatusCode::OK, json!({"authenticated": false}))
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

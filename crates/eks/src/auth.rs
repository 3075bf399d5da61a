//! EKS Auth: a pod's token for credentials of the role that is associated with its service account. The agent of its node
//! asks, as the node.
//!
//! Invariant: a token is the API server's word (TokenReview), so one whose pod or service account is gone is none.
//!
//! Source: EKS Auth API reference; EKS User Guide, "Grant Pods access to AWS resources based on tags", "Access AWS
//! Resources using EKS Pod Identity Target IAM Roles".

use crate::Eks;
use crate::controller::reach;
use ekstra_cloud::access::{Access, Outsider, trusts};
use ekstra_cloud::api::{Call, Origin};
use ekstra_cloud::iam::find_role;
use ekstra_cloud::sts::session::{self, Started, Wish};
use ekstra_domain::eks::{Cluster, POD_IDENTITY_AUDIENCE, POD_IDENTITY_SERVICE, PodIdentityAssociation};
use ekstra_domain::iam::{Role, SessionTerms};
use ekstra_domain::names::keys;
use ekstra_model::Timestamp;
use ekstra_model::eks_auth::{self as model, errors};
use ekstra_wire::ApiError;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::Api;
use kube::api::PostParams;
use std::collections::BTreeMap;
use std::time::Duration;

/// Seconds of a pod's credentials; of those of a target role less, since it is assumed by a session.
const LIFETIME: i64 = 6 * 3600;
const CHAINED_LIFETIME: i64 = 3600;
/// Of a session's name.
const MOST_NAME: usize = 64;
/// For an API server.
const PATIENCE: Duration = Duration::from_secs(5);
const DENIED: &str = "Unauthorized Exception! EKS does not have permissions to assume the associated role.";

pub(crate) fn access(eks: &Eks, call: &Call, input: &model::AssumeRoleForPodIdentityRequest) -> Access {
    let name = input.cluster_name.clone().unwrap_or_default();
    let found: Option<Cluster> = eks.cloud.store.view().get_as(&keys::cluster(&call.scope, &name));
    let arn = call.scope.arn("eks", format_args!("cluster/{name}"));
    Access::on(arn).with_resource_tags(found.as_ref().map(|cluster| &cluster.tags))
}

/// Whose token it is.
#[derive(Clone, Debug, PartialEq)]
struct Subject {
    namespace: String,
    service_account: String,
    pod: String,
    pod_uid: String,
}

pub(crate) async fn assume_role_for_pod_identity(
    eks: Eks,
    call: Call,
    input: model::AssumeRoleForPodIdentityRequest,
) -> Result<model::AssumeRoleForPodIdentityResponse, ApiError> {
    let name = input.cluster_name.unwrap_or_default();
    let missing = |message: String| ApiError::new(&errors::RESOURCE_NOT_FOUND_EXCEPTION, message);
    let view = eks.cloud.store.view();
    let cluster: Cluster = view
        .get_as(&keys::cluster(&call.scope, &name))
        .ok_or_else(|| missing(format!("No cluster found for name: {name}.")))?;
    let token = input.token.unwrap_or_default();
    let reviewed = review(&eks, &cluster, token, POD_IDENTITY_AUDIENCE).await.map_err(|error| {
        tracing::info!(cluster = cluster.name, error, "no review of a pod's token");
        let message = "The cluster does not answer; try again later";
        ApiError::new(&errors::SERVICE_UNAVAILABLE_EXCEPTION, message)
    })?;
    let subject = read(reviewed)?;
    let all = view.list_as::<PodIdentityAssociation>(&keys::pod_identities(&call.scope, &name));
    let association = all
        .into_iter()
        .map(|(_, known)| known)
        .find(|known| known.is_for(&subject.namespace, &subject.service_account))
        .ok_or_else(|| {
            let Subject { namespace, service_account, .. } = &subject;
            missing(format!("No association found for service account {service_account} in namespace {namespace} of cluster {name}"))
        })?;
    let started = start(&eks, &call, &cluster, &association, &subject)?;
    Ok(present(started, association, subject))
}

fn present(
    started: Started,
    association: PodIdentityAssociation,
    subject: Subject,
) -> model::AssumeRoleForPodIdentityResponse {
    let Started { session, secret, token } = started;
    model::AssumeRoleForPodIdentityResponse {
        subject: Some(model::Subject {
            namespace: Some(subject.namespace),
            service_account: Some(subject.service_account),
        }),
        audience: Some(POD_IDENTITY_AUDIENCE.into()),
        pod_identity_association: Some(model::PodIdentityAssociation {
            association_arn: Some(association.arn()),
            association_id: Some(association.id),
        }),
        assumed_role_user: Some(model::AssumedRoleUser {
            arn: Some(session.principal.arn),
            assume_role_id: Some(session.principal.user_id),
        }),
        credentials: Some(model::Credentials {
            session_token: Some(token),
            secret_access_key: Some(secret.0),
            access_key_id: Some(session.access_key_id),
            expiration: Some(Timestamp::from_secs(session.expires)),
        }),
        workload_identity_provider_arn: None,
    }
}

/// What the cluster's API server says of a token that is for that audience. The error is for the log.
pub(crate) async fn review(
    eks: &Eks,
    cluster: &Cluster,
    token: String,
    audience: &str,
) -> Result<TokenReviewStatus, String> {
    let reached = reach(eks, &keys::cluster(&cluster.scope, &cluster.name)).await;
    let client = reached.map_err(|e| e.to_string())?.ok_or("the cluster is not up")?.client;
    let spec = TokenReviewSpec { token, audiences: Some(vec![audience.to_owned()]) };
    let asked = TokenReview { spec, ..TokenReview::default() };
    let api = Api::all(client);
    let answer = tokio::time::timeout(PATIENCE, api.create(&PostParams::default(), &asked)).await;
    let answer = answer.map_err(|_| "the API server does not answer")?;
    Ok(answer.map_err(|e| e.to_string())?.status.unwrap_or_default())
}

fn read(status: TokenReviewStatus) -> Result<Subject, ApiError> {
    let invalid = |why: &str| {
        let message = format!("The token included in the request is invalid: {why}");
        ApiError::new(&errors::INVALID_TOKEN_EXCEPTION, message)
    };
    let audiences = status.audiences.unwrap_or_default();
    let is_for_pods = audiences.iter().any(|audience| audience == POD_IDENTITY_AUDIENCE);
    if status.authenticated != Some(true) || !is_for_pods {
        let why = status.error.unwrap_or_default();
        if why.contains("expired") {
            let message = "The token included in the request has expired";
            return Err(ApiError::new(&errors::EXPIRED_TOKEN_EXCEPTION, message));
        }
        return Err(invalid(if why.is_empty() { "it is not for this audience" } else { &why }));
    }
    let user = status.user.unwrap_or_default();
    let name = user.username.unwrap_or_default();
    let account = name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
    let (namespace, service_account) = account.ok_or_else(|| invalid("it is not a service account's"))?;
    let extra = user.extra.unwrap_or_default();
    let one = |key: &str| match extra.get(&format!("authentication.kubernetes.io/{key}")).map(Vec::as_slice) {
        Some([value]) => Ok(value.clone()),
        _ => Err(invalid("it is not bound to a pod")),
    };
    Ok(Subject {
        namespace: namespace.to_owned(),
        service_account: service_account.to_owned(),
        pod: one("pod-name")?,
        pod_uid: one("pod-uid")?,
    })
}

/// A session of the role, or of the target role by one of the role.
fn start(
    eks: &Eks,
    call: &Call,
    cluster: &Cluster,
    association: &PodIdentityAssociation,
    subject: &Subject,
) -> Result<Started, ApiError> {
    let denied = || ApiError::new(&errors::ACCESS_DENIED_EXCEPTION, DENIED);
    let role = find_role(&eks.cloud, &association.role_arn).ok_or_else(denied)?;
    let mut terms = terms(cluster, association, subject);
    // What an association adds narrows the role that the pod has in the end.
    let policies: Vec<String> = association.policy.iter().cloned().collect();
    if association.target_role_arn.is_none() {
        terms.policies.clone_from(&policies);
    }
    let name = session_name(&cluster.name, &subject.pod, &eks.cloud.env.uuid());
    if !is_trusted(eks, call, &role, cluster, &name, &terms) {
        return Err(denied());
    }
    let started = session::start(&eks.cloud, &role, &name, LIFETIME, terms);
    let Some(target) = &association.target_role_arn else { return Ok(started) };
    let chained = Call {
        principal: started.session.principal,
        terms: started.session.terms,
        session_issued: Some(started.session.issued),
        // It is EKS that asks, not the agent.
        origin: Origin::of_service(),
        ..call.clone()
    };
    let wish = Wish {
        session_name: name,
        seconds: CHAINED_LIFETIME,
        external_id: association.external_id.clone(),
        packed: policies.iter().map(String::len).sum(),
        managed: Vec::new(),
        terms: SessionTerms { policies, ..SessionTerms::default() },
    };
    session::assume(&eks.cloud, &chained, target, wish).map_err(|refused| {
        ApiError::new(&errors::ACCESS_DENIED_EXCEPTION, format!("{DENIED} {}", refused.message))
    })
}

/// The tags by which a role can be for many pods, and tell them apart. All of them are handed on.
fn terms(cluster: &Cluster, association: &PodIdentityAssociation, subject: &Subject) -> SessionTerms {
    if association.disable_session_tags {
        return SessionTerms::default();
    }
    let tags: BTreeMap<String, String> = [
        ("eks-cluster-arn", cluster.arn()),
        ("eks-cluster-name", cluster.name.clone()),
        ("kubernetes-namespace", subject.namespace.clone()),
        ("kubernetes-service-account", subject.service_account.clone()),
        ("kubernetes-pod-name", subject.pod.clone()),
        ("kubernetes-pod-uid", subject.pod_uid.clone()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into();
    SessionTerms { transitive: tags.keys().cloned().collect(), tags, ..SessionTerms::default() }
}

fn is_trusted(
    eks: &Eks,
    call: &Call,
    role: &Role,
    cluster: &Cluster,
    name: &str,
    terms: &SessionTerms,
) -> bool {
    let mut known = session::context(name, terms);
    known.push(("aws:SourceArn".into(), vec![cluster.arn()]));
    let mut actions = std::iter::once("sts:AssumeRole").chain(session::further_actions(terms));
    let service = Outsider::Service(POD_IDENTITY_SERVICE);
    actions.all(|action| trusts(&eks.cloud, call, role, service, action, &known))
}

/// Whose it is as far as there is room, and nobody else's.
fn session_name(cluster: &str, pod: &str, unique: &str) -> String {
    let whose = format!("eks-{cluster}-{pod}");
    let room = MOST_NAME.saturating_sub(unique.len() + 1);
    format!("{}-{unique}", whose.chars().take(room).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::authentication::v1::UserInfo;

    fn status(username: &str) -> TokenReviewStatus {
        let extra = [("pod-name", "p"), ("pod-uid", "u")]
            .map(|(key, value)| (format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]));
        TokenReviewStatus {
            authenticated: Some(true),
            audiences: Some(vec![POD_IDENTITY_AUDIENCE.into()]),
            user: Some(UserInfo {
                username: Some(username.into()),
                extra: Some(extra.into()),
                ..UserInfo::default()
            }),
            error: None,
        }
    }

    fn code(status: TokenReviewStatus) -> String {
        read(status).expect_err("refused").code
    }

    #[test]
    fn a_token_is_a_pod_s_and_for_pod_identity() {
        let subject = read(status("system:serviceaccount:ns:sa")).expect("a pod's");
        let expected = ["ns", "sa", "p", "u"].map(str::to_owned);
        let Subject { namespace, service_account, pod, pod_uid } = subject;
        assert_eq!([namespace, service_account, pod, pod_uid], expected);
        assert_eq!(code(status("system:node:n")), "InvalidTokenException");
        let other = TokenReviewStatus { audiences: None, ..status("system:serviceaccount:ns:sa") };
        assert_eq!(code(other), "InvalidTokenException");
        let mut unbound = status("system:serviceaccount:ns:sa");
        unbound.user = unbound.user.map(|user| UserInfo { extra: None, ..user });
        assert_eq!(code(unbound), "InvalidTokenException");
        let expired = TokenReviewStatus {
            authenticated: Some(false),
            error: Some("[invalid bearer token, service account token has expired]".into()),
            ..TokenReviewStatus::default()
        };
        assert_eq!(code(expired), "ExpiredTokenException");
    }

    #[test]
    fn a_session_s_name_has_room_for_what_is_its_own() {
        let unique = "0f1c2d3e-4b5a-4697-8877-665544332211";
        assert_eq!(session_name("c", "p", unique), format!("eks-c-p-{unique}"));
        let long = session_name(&"c".repeat(100), "p", unique);
        assert_eq!(long.len(), MOST_NAME);
        assert!(long.ends_with(unique), "{long}");
    }
}

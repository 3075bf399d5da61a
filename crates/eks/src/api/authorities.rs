//! Certificate authorities of a cluster: its own, as it is, and a successor that is asked for. ekstra distributes no
//! successor, which its status says, and so none can be activated.

use super::list::page;
use super::{Repeat, find_cluster, invalid_parameter, invalid_request, kept_cluster, present};
use crate::Eks;
use ekstra_cloud::api::{Call, Refusal};
use ekstra_domain::eks::{Cluster, SuccessorAuthority, Update, UpdateOf, UpdateType};
use ekstra_domain::names::keys;
use ekstra_model::Timestamp;
use ekstra_model::eks::{self as model, errors};
use ekstra_store::Txn;
use ekstra_wire::ApiError;
use x509_parser::pem::parse_x509_pem;

const EKS: &str = "EKS";
const NOT_DISTRIBUTED: &str =
    "ekstra does not rotate certificate authorities: the successor is a record, and nothing trusts it";

fn missing(cluster: &str, id: &str) -> ApiError {
    let message = format!("No certificate authority found for ID: {id}");
    ApiError::new(&errors::RESOURCE_NOT_FOUND_EXCEPTION, message).with("clusterName", cluster)
}

/// The cluster's own has the cluster's id.
fn own(eks: &Eks, cluster: &Cluster) -> model::CertificateAuthority {
    let slot = eks.slot(cluster);
    let pem = slot.and_then(|slot| slot.certificate_authority.clone()).unwrap_or_default();
    let made = Some(Timestamp(cluster.created_ms));
    model::CertificateAuthority {
        id: Some(cluster.uid.clone()),
        created_at: made,
        created_by: Some(EKS.into()),
        activated_at: made,
        activated_by: Some(EKS.into()),
        signing_status: Some("IN_USE".into()),
        distribution_status: Some("COMPLETE".into()),
        validity: validity(&pem),
        scheduled_events: None,
        rollback_available: Some(false),
        data: (!pem.is_empty()).then(|| present::base64(&pem)),
    }
}

fn validity(pem: &str) -> Option<model::CertificateAuthorityValidity> {
    let (_, pem) = parse_x509_pem(pem.as_bytes()).ok()?;
    let certificate = pem.parse_x509().ok()?;
    let validity = certificate.validity();
    Some(model::CertificateAuthorityValidity {
        not_before: Some(Timestamp::from_secs(validity.not_before.timestamp())),
        not_after: Some(Timestamp::from_secs(validity.not_after.timestamp())),
    })
}

fn successor(known: SuccessorAuthority, distribution: &str) -> model::CertificateAuthority {
    model::CertificateAuthority {
        id: Some(known.id),
        created_at: Some(Timestamp(known.created_ms)),
        created_by: Some("CUSTOMER".into()),
        signing_status: Some("NOT_USED".into()),
        distribution_status: Some(distribution.into()),
        rollback_available: Some(false),
        ..Default::default()
    }
}

/// What there is of its kind.
const KEPT: &str = "FAILED";

fn summarize(known: model::CertificateAuthority) -> model::CertificateAuthoritySummary {
    model::CertificateAuthoritySummary {
        id: known.id,
        created_at: known.created_at,
        created_by: known.created_by,
        activated_at: known.activated_at,
        activated_by: known.activated_by,
        signing_status: known.signing_status,
        distribution_status: known.distribution_status,
    }
}

fn all(eks: &Eks, call: &Call, name: &str) -> Result<Vec<model::CertificateAuthority>, ApiError> {
    let cluster = find_cluster(eks, call, name)?;
    let prefix = keys::successor_authorities(&call.scope, name);
    let successors = eks.cloud.store.view().list_as::<SuccessorAuthority>(&prefix);
    let successors = successors.into_iter().map(|(_, known)| successor(known, KEPT));
    Ok(std::iter::once(own(eks, &cluster)).chain(successors).collect())
}

fn find(eks: &Eks, call: &Call, name: &str, id: &str) -> Result<model::CertificateAuthority, ApiError> {
    let found = all(eks, call, name)?.into_iter().find(|known| known.id.as_deref() == Some(id));
    found.ok_or_else(|| missing(name, id))
}

/// What an update of one is about.
fn params(id: &str) -> Vec<(String, String)> {
    vec![("CertificateAuthorityId".into(), id.to_owned())]
}

/// The one that an update was about.
fn of_update(update: &Update) -> SuccessorAuthority {
    let id = update.params.first().map(|(_, id)| id.clone()).unwrap_or_default();
    SuccessorAuthority { id, created_ms: update.created_ms }
}

pub(super) async fn create(
    eks: Eks,
    call: Call,
    mut input: model::CreateCertificateAuthorityRequest,
) -> Result<model::CreateCertificateAuthorityResponse, ApiError> {
    let repeat = Repeat::of(&eks, input.client_request_token.take(), &input);
    let name = input.cluster_name.unwrap_or_default();
    find_cluster(&eks, &call, &name)?;
    let new = SuccessorAuthority { id: eks.cloud.env.uuid(), created_ms: repeat.now };
    let prefix = keys::successor_authorities(&call.scope, &name);
    let body = |txn: &mut Txn| {
        kept_cluster(txn, &call.scope, &name)?;
        if let Some(update) = repeat.find(txn, &keys::updates(&call.scope, &name))? {
            let known = of_update(&update);
            return Ok((update, known));
        }
        let known = txn.list::<SuccessorAuthority>(&prefix)?.into_iter().next().map(|(_, known)| known);
        if let Some(known) = known {
            let message =
                format!("Cluster {name} already has the successor certificate authority {}", known.id);
            let refused = ApiError::new(&errors::RESOURCE_LIMIT_EXCEEDED_EXCEPTION, message);
            return Err(Refusal::Api(refused.with("clusterName", name.clone())));
        }
        txn.put(&keys::successor_authority(&call.scope, &name, &new.id), &new)?;
        let update = begin(txn, &call, &repeat, &name, &new.id)?;
        let failed = Err(("OperationNotPermitted", NOT_DISTRIBUTED.to_owned()));
        Ok((Repeat::end(txn, update, failed)?, new.clone()))
    };
    let (update, known) = eks.cloud.store.transact(body).await?;
    Ok(model::CreateCertificateAuthorityResponse {
        update: Some(present::update(&update)),
        certificate_authority: Some(summarize(successor(known, KEPT))),
    })
}

fn begin(txn: &mut Txn, call: &Call, repeat: &Repeat, name: &str, id: &str) -> Result<Update, Refusal> {
    let kind = UpdateType::CertificateAuthorityUpdate;
    repeat.begin(txn, (&call.scope, name), UpdateOf::Cluster, kind, params(id))
}

pub(super) async fn describe(
    eks: Eks,
    call: Call,
    input: model::DescribeCertificateAuthorityRequest,
) -> Result<model::DescribeCertificateAuthorityResponse, ApiError> {
    let (name, id) =
        (input.cluster_name.unwrap_or_default(), input.certificate_authority_id.unwrap_or_default());
    let found = find(&eks, &call, &name, &id)?;
    Ok(model::DescribeCertificateAuthorityResponse { certificate_authority: Some(found) })
}

pub(super) async fn list(
    eks: Eks,
    call: Call,
    input: model::ListCertificateAuthoritiesRequest,
) -> Result<model::ListCertificateAuthoritiesResponse, ApiError> {
    let all = all(&eks, &call, &input.cluster_name.unwrap_or_default())?;
    let key = |known: &model::CertificateAuthority| known.id.clone().unwrap_or_default();
    let page = page(all, key, input.next_token.as_deref(), input.max_results)?;
    Ok(model::ListCertificateAuthoritiesResponse {
        certificate_authorities: Some(page.items.into_iter().map(summarize).collect()),
        next_token: page.next,
    })
}

pub(super) async fn activate(
    eks: Eks,
    call: Call,
    input: model::ActivateCertificateAuthorityRequest,
) -> Result<model::ActivateCertificateAuthorityResponse, ApiError> {
    let (name, id) =
        (input.cluster_name.unwrap_or_default(), input.certificate_authority_id.unwrap_or_default());
    let found = find(&eks, &call, &name, &id)?;
    let message = match found.distribution_status.as_deref() {
        Some(KEPT) => format!("The certificate authority {id} is not distributed. {NOT_DISTRIBUTED}"),
        _ => format!("The certificate authority {id} is already in use"),
    };
    Err(invalid_parameter(message).with("clusterName", name))
}

pub(super) async fn delete(
    eks: Eks,
    call: Call,
    mut input: model::DeleteCertificateAuthorityRequest,
) -> Result<model::DeleteCertificateAuthorityResponse, ApiError> {
    let repeat = Repeat::of(&eks, input.client_request_token.take(), &input);
    let (name, id) =
        (input.cluster_name.unwrap_or_default(), input.certificate_authority_id.unwrap_or_default());
    if find_cluster(&eks, &call, &name)?.uid == id {
        let message = format!("The certificate authority {id} is in use and cannot be deleted");
        return Err(invalid_request(message).with("clusterName", name));
    }
    let key = keys::successor_authority(&call.scope, &name, &id);
    let body = |txn: &mut Txn| {
        if let Some(update) = repeat.find(txn, &keys::updates(&call.scope, &name))? {
            let known = of_update(&update);
            return Ok((update, known));
        }
        let known: SuccessorAuthority = txn.get(&key)?.ok_or_else(|| missing(&name, &id))?;
        txn.delete(&key);
        let update = begin(txn, &call, &repeat, &name, &id)?;
        Ok::<_, Refusal>((Repeat::end(txn, update, Ok(()))?, known))
    };
    let (update, known) = eks.cloud.store.transact(body).await?;
    Ok(model::DeleteCertificateAuthorityResponse {
        update: Some(present::update(&update)),
        certificate_authority: Some(summarize(successor(known, "DELETING"))),
    })
}

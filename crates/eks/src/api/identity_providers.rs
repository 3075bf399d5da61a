//! Identity provider configurations: OpenID Connect providers of a cluster's users. The API server learns of them by
//! [`crate::identity_providers`].

use super::list::page;
use super::{Repeat, find_cluster, in_use, invalid_parameter, invalid_request, no_cluster, present};
use crate::Eks;
use ekstra_cloud::api::{Call, Refusal};
use ekstra_domain::eks::{
    Cluster, IdentityProvider, ProviderStatus, Update, UpdateOf, UpdateType, check_identity_provider_name,
};
use ekstra_domain::names::keys;
use ekstra_model::eks::{self as model, errors};
use ekstra_store::Txn;
use ekstra_wire::ApiError;
use serde_json::json;

const OIDC: &str = "oidc";
/// EKS's quota.
const MOST_CLAIMS: usize = 5;

fn missing(cluster: &str, name: &str) -> ApiError {
    let message = format!("Identity provider config {name} not found in cluster {cluster}.");
    ApiError::new(&errors::RESOURCE_NOT_FOUND_EXCEPTION, message).with("clusterName", cluster)
}

fn present(provider: IdentityProvider) -> model::OidcIdentityProviderConfig {
    model::OidcIdentityProviderConfig {
        identity_provider_config_arn: Some(provider.arn()),
        identity_provider_config_name: Some(provider.name),
        cluster_name: Some(provider.cluster),
        issuer_url: Some(provider.issuer_url),
        client_id: Some(provider.client_id),
        username_claim: provider.username_claim,
        username_prefix: provider.username_prefix,
        groups_claim: provider.groups_claim,
        groups_prefix: provider.groups_prefix,
        required_claims: Some(provider.required_claims),
        tags: Some(provider.tags),
        status: Some(provider.status.wire().into()),
    }
}

/// As updates have it.
fn params(name: &str) -> Vec<(String, String)> {
    vec![("IdentityProviderConfig".into(), json!([{"type": OIDC, "name": name}]).to_string())]
}

/// What the API server would not take: it does not start with it.
fn check_issuer(url: &str) -> Result<(), ApiError> {
    let rest = url.strip_prefix("https://").unwrap_or_default();
    let is_plain = !rest.contains(['?', '#', '@', '\\', '%']) && !rest.contains(char::is_whitespace);
    let authority = rest.split('/').next().unwrap_or_default().parse::<http::uri::Authority>().ok();
    // To this parser a port that is none is not there.
    let is_whole = |authority: &http::uri::Authority| {
        let port = authority.port().map(|port| port.as_u16());
        !authority.host().is_empty()
            && port != Some(0)
            && (port.is_some() || authority.as_str().len() == authority.host().len())
    };
    if is_plain && authority.as_ref().is_some_and(is_whole) {
        return Ok(());
    }
    let message = "issuerUrl must be a valid https URL without query parameters and fragments";
    Err(invalid_parameter(message))
}

/// A cluster's own issuer signs for its service accounts.
fn check_foreign(eks: &Eks, cluster: &Cluster, issuer: &str) -> Result<(), ApiError> {
    let slot = eks.slot(cluster);
    match slot {
        Some(slot) if eks.issuer(&slot.issuer_id) == issuer.trim_end_matches('/') => {
            Err(invalid_parameter("issuerUrl cannot be the OIDC issuer of the cluster itself"))
        }
        _ => Ok(()),
    }
}

/// What is Kubernetes' own cannot come from outside.
fn check_prefix(what: &str, prefix: Option<&String>) -> Result<(), ApiError> {
    match prefix {
        Some(prefix) if prefix.contains("system:") => {
            Err(invalid_parameter(format!("{what} cannot contain system:")))
        }
        _ => Ok(()),
    }
}

fn draft(
    eks: &Eks,
    call: &Call,
    cluster: &str,
    oidc: model::OidcIdentityProviderConfigRequest,
) -> Result<IdentityProvider, ApiError> {
    let name = oidc.identity_provider_config_name.unwrap_or_default();
    check_identity_provider_name(&name).map_err(super::invalid)?;
    let issuer_url = oidc.issuer_url.unwrap_or_default();
    check_issuer(&issuer_url)?;
    let client_id = oidc.client_id.unwrap_or_default();
    if client_id.is_empty() {
        return Err(invalid_parameter("clientId cannot be empty"));
    }
    check_prefix("usernamePrefix", oidc.username_prefix.as_ref())?;
    check_prefix("groupsPrefix", oidc.groups_prefix.as_ref())?;
    let required_claims = oidc.required_claims.unwrap_or_default();
    if required_claims.len() > MOST_CLAIMS {
        return Err(invalid_parameter(format!("At most {MOST_CLAIMS} claims can be required")));
    }
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    Ok(IdentityProvider {
        scope: call.scope.clone(),
        cluster: cluster.to_owned(),
        name,
        uid: eks.cloud.env.uuid(),
        status: ProviderStatus::Creating,
        issuer_url,
        client_id,
        username_claim: given(oidc.username_claim),
        username_prefix: given(oidc.username_prefix),
        groups_claim: given(oidc.groups_claim),
        groups_prefix: given(oidc.groups_prefix),
        required_claims,
        tags: Default::default(),
    })
}

/// The cluster, if its API server can be told something now.
fn ready(txn: &mut Txn, call: &Call, name: &str) -> Result<Cluster, Refusal> {
    let cluster: Cluster = txn.get(&keys::cluster(&call.scope, name))?.ok_or_else(|| no_cluster(name))?;
    if cluster.status.is_up() {
        return Ok(cluster);
    }
    let message = format!("Cluster {name} is not ACTIVE");
    Err(in_use(message).with("clusterName", name.to_owned()).into())
}

pub(super) async fn associate(
    eks: Eks,
    call: Call,
    mut input: model::AssociateIdentityProviderConfigRequest,
) -> Result<model::AssociateIdentityProviderConfigResponse, ApiError> {
    let repeat = Repeat::of(&eks, input.client_request_token.take(), &input);
    let cluster = input.cluster_name.clone().unwrap_or_default();
    let record = find_cluster(&eks, &call, &cluster)?;
    let tags = input.tags.clone().unwrap_or_default();
    let provider = IdentityProvider { tags, ..draft(&eks, &call, &cluster, input.oidc.unwrap_or_default())? };
    check_foreign(&eks, &record, &provider.issuer_url)?;
    let body = |txn: &mut Txn| {
        if let Some(known) = repeat.find(txn, &keys::updates(&call.scope, &cluster))? {
            return Ok(known);
        }
        ready(txn, &call, &cluster)?;
        let known = txn.list::<IdentityProvider>(&keys::identity_providers(&call.scope, &cluster))?;
        if let Some((_, known)) = known.first() {
            let message =
                format!("Cluster {cluster} already has the identity provider config {}", known.name);
            return Err(in_use(message).with("clusterName", cluster.clone()).into());
        }
        txn.put(&keys::identity_provider(&call.scope, &cluster, &provider.name), &provider)?;
        let (of, kind) = (UpdateOf::Provider(&provider.name), UpdateType::AssociateIdentityProviderConfig);
        repeat.begin(txn, (&call.scope, &cluster), of, kind, params(&provider.name))
    };
    let update: Update = eks.cloud.store.transact(body).await?;
    Ok(model::AssociateIdentityProviderConfigResponse {
        update: Some(present::update(&update)),
        tags: Some(provider.tags),
    })
}

/// The name of one, if the type is what there is.
fn named(config: Option<model::IdentityProviderConfig>) -> Result<String, ApiError> {
    let config = config.unwrap_or_default();
    if config.r#type.as_deref() != Some(OIDC) {
        return Err(invalid_parameter("The type of an identity provider config must be oidc"));
    }
    Ok(config.name.unwrap_or_default())
}

pub(super) async fn describe(
    eks: Eks,
    call: Call,
    input: model::DescribeIdentityProviderConfigRequest,
) -> Result<model::DescribeIdentityProviderConfigResponse, ApiError> {
    let cluster = input.cluster_name.unwrap_or_default();
    find_cluster(&eks, &call, &cluster)?;
    let name = named(input.identity_provider_config)?;
    let key = keys::identity_provider(&call.scope, &cluster, &name);
    let found: Option<IdentityProvider> = eks.cloud.store.view().get_as(&key);
    let found = found.ok_or_else(|| missing(&cluster, &name))?;
    Ok(model::DescribeIdentityProviderConfigResponse {
        identity_provider_config: Some(model::IdentityProviderConfigResponse { oidc: Some(present(found)) }),
    })
}

pub(super) async fn list(
    eks: Eks,
    call: Call,
    input: model::ListIdentityProviderConfigsRequest,
) -> Result<model::ListIdentityProviderConfigsResponse, ApiError> {
    let cluster = input.cluster_name.unwrap_or_default();
    find_cluster(&eks, &call, &cluster)?;
    let prefix = keys::identity_providers(&call.scope, &cluster);
    let all = eks.cloud.store.view().list_as::<IdentityProvider>(&prefix);
    let names = all.into_iter().map(|(_, known)| known.name).collect();
    let page = page(names, String::clone, input.next_token.as_deref(), input.max_results)?;
    let one = |name| model::IdentityProviderConfig { r#type: Some(OIDC.into()), name: Some(name) };
    Ok(model::ListIdentityProviderConfigsResponse {
        identity_provider_configs: Some(page.items.into_iter().map(one).collect()),
        next_token: page.next,
    })
}

pub(super) async fn disassociate(
    eks: Eks,
    call: Call,
    mut input: model::DisassociateIdentityProviderConfigRequest,
) -> Result<model::DisassociateIdentityProviderConfigResponse, ApiError> {
    let repeat = Repeat::of(&eks, input.client_request_token.take(), &input);
    let cluster = input.cluster_name.clone().unwrap_or_default();
    find_cluster(&eks, &call, &cluster)?;
    let name = named(input.identity_provider_config)?;
    let key = keys::identity_provider(&call.scope, &cluster, &name);
    let body = |txn: &mut Txn| {
        if let Some(known) = repeat.find(txn, &keys::updates(&call.scope, &cluster))? {
            return Ok(known);
        }
        ready(txn, &call, &cluster)?;
        let mut provider: IdentityProvider = txn.get(&key)?.ok_or_else(|| missing(&cluster, &name))?;
        if provider.status != ProviderStatus::Active {
            let message = format!("Identity provider config {name} is in status {}", provider.status.wire());
            return Err(invalid_request(message).with("clusterName", cluster.clone()).into());
        }
        provider.status = ProviderStatus::Deleting;
        txn.put(&key, &provider)?;
        let (of, kind) = (UpdateOf::Provider(&name), UpdateType::DisassociateIdentityProviderConfig);
        repeat.begin(txn, (&call.scope, &cluster), of, kind, params(&name))
    };
    let update: Update = eks.cloud.store.transact(body).await?;
    Ok(model::DisassociateIdentityProviderConfigResponse { update: Some(present::update(&update)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn issuers_are_https_urls_that_end_with_their_path() {
        for good in ["https://issuer.example.com", "https://10.0.0.1:8443/realms/a"] {
            assert!(check_issuer(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "http://x",
            "https://",
            "https:///x",
            "https://x?y",
            "https://x#y",
            "https://a@b",
            "https://x y",
            "https://x:y",
            "https://x:99999",
            "https://x:0",
            "https://x:",
            "https://x%zz",
        ] {
            assert!(check_issuer(bad).is_err(), "{bad}");
        }
    }
}

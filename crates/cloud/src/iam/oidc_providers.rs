//! OpenID Connect providers: issuers whose tokens an account trusts.

use super::{Entity, already_exists, change, described, no_such_entity, tagging, tags_of, unit};
use crate::Cloud;
use crate::access::Access;
use crate::api::{Call, Refusal, Router};
use ekstra_domain::iam::{MOST_CLIENT_IDS, MOST_THUMBPRINTS, OidcProvider};
use ekstra_domain::names::keys;
use ekstra_model::iam::{self as model, errors, ops};
use ekstra_model::{Timestamp, Unit};
use ekstra_wire::ApiError;

const SCHEME: &str = "https://";
const LONGEST_URL: usize = 255;

/// Its name is its issuer.
impl Entity for OidcProvider {
    const KIND: &'static str = "oidc-provider";

    fn place(account: &str, issuer: &str) -> String {
        keys::oidc_provider(account, issuer)
    }

    arn_and_tags!(tags);

    fn missing(issuer: &str) -> ApiError {
        no_such_entity(format!("OpenIDConnect Provider not found for issuer {issuer}"))
    }

    /// The issuer of a provider of the caller's account.
    fn name(call: &Call, arn: &str) -> Result<String, ApiError> {
        let prefix = format!("arn:aws:iam::{}:{}/", call.scope.account, Self::KIND);
        let issuer = arn.strip_prefix(&prefix).map(str::to_owned);
        issuer.ok_or_else(|| no_such_entity(format!("OpenIDConnect Provider not found for arn {arn}")))
    }

    fn arn_meant(_: &Call, arn: &str) -> String {
        arn.to_owned()
    }
}

macro_rules! about {
    ($input:ident) => {
        |cloud: &Cloud, call: &Call, input: &model::$input| {
            OidcProvider::access(cloud, call, input.open_id_connect_provider_arn.as_ref())
        }
    };
}

pub(super) fn serve(router: &mut Router, cloud: &Cloud) {
    let creation = |_: &Cloud, call: &Call, input: &model::CreateOpenIDConnectProviderRequest| {
        // The very one that would be made; what is no issuer is refused afterwards.
        let issuer = check_url(input.url.as_deref().unwrap_or_default()).unwrap_or_default();
        let arn = format!("arn:aws:iam::{}:{}/{issuer}", call.scope.account, OidcProvider::KIND);
        Access::on(arn).made_with_tags(Some(&tags_of(input.tags.clone())), "iam:TagOpenIDConnectProvider")
    };
    let listing = |_: &Cloud, call: &Call, _: &model::ListOpenIDConnectProvidersRequest| {
        Access::on(format!("arn:aws:iam::{}:{}/*", call.scope.account, OidcProvider::KIND))
    };
    router.serve(ops::CreateOpenIDConnectProvider, cloud, creation, create);
    router.serve(ops::GetOpenIDConnectProvider, cloud, about!(GetOpenIDConnectProviderRequest), get);
    router.serve(ops::ListOpenIDConnectProviders, cloud, listing, list);
    router.serve(ops::DeleteOpenIDConnectProvider, cloud, about!(DeleteOpenIDConnectProviderRequest), delete);
    router.serve(
        ops::AddClientIDToOpenIDConnectProvider,
        cloud,
        about!(AddClientIDToOpenIDConnectProviderRequest),
        add_client,
    );
    router.serve(
        ops::RemoveClientIDFromOpenIDConnectProvider,
        cloud,
        about!(RemoveClientIDFromOpenIDConnectProviderRequest),
        remove_client,
    );
    router.serve(
        ops::UpdateOpenIDConnectProviderThumbprint,
        cloud,
        about!(UpdateOpenIDConnectProviderThumbprintRequest),
        update_thumbprints,
    );
}

fn limit(message: String) -> ApiError {
    ApiError::new(&errors::LIMIT_EXCEEDED_EXCEPTION, message)
}

fn check_clients(clients: &[String]) -> Result<(), ApiError> {
    if clients.len() > MOST_CLIENT_IDS {
        return Err(limit(format!(
            "Cannot exceed quota for ClientIdsPerOpenIdConnectProvider: {MOST_CLIENT_IDS}"
        )));
    }
    Ok(())
}

fn check_thumbprints(thumbprints: &[String]) -> Result<(), ApiError> {
    let invalid = |message: String| Err(ApiError::new(&errors::INVALID_INPUT_EXCEPTION, message));
    if thumbprints.len() > MOST_THUMBPRINTS {
        return invalid(format!("Thumbprint list must contain fewer than {MOST_THUMBPRINTS} entries."));
    }
    match thumbprints.iter().find(|text| !text.chars().all(|c| c.is_ascii_hexdigit())) {
        Some(text) => invalid(format!("Thumbprint {text} is not hexadecimal.")),
        None => Ok(()),
    }
}

/// Without the scheme; a slash at the end is none of the issuer's.
fn check_url(url: &str) -> Result<String, ApiError> {
    let issuer = url.strip_prefix(SCHEME).map(|rest| rest.trim_end_matches('/'));
    let is_issuer = |rest: &&str| {
        let host = rest.split('/').next().unwrap_or_default();
        !host.is_empty()
            && url.len() <= LONGEST_URL
            && rest.chars().all(|c| c.is_ascii_alphanumeric() || ".-_~/:".contains(c))
    };
    let issuer = issuer.filter(is_issuer).map(str::to_owned);
    issuer.ok_or_else(|| ApiError::client("ValidationError", 400, "Invalid Open ID Connect Provider URL"))
}

async fn create(
    cloud: Cloud,
    call: Call,
    input: model::CreateOpenIDConnectProviderRequest,
) -> Result<model::CreateOpenIDConnectProviderResponse, ApiError> {
    let issuer = check_url(&input.url.unwrap_or_default())?;
    let (mut client_ids, thumbprints) =
        (input.client_id_list.unwrap_or_default(), input.thumbprint_list.unwrap_or_default());
    check_clients(&client_ids)?;
    check_thumbprints(&thumbprints)?;
    client_ids.sort();
    client_ids.dedup();
    let provider = OidcProvider {
        issuer,
        account: call.scope.account.clone(),
        client_ids,
        thumbprints,
        created_ms: cloud.env.now_ms(),
        tags: tagging::read::<OidcProvider>(input.tags)?,
    };
    let key = keys::oidc_provider(&provider.account, &provider.issuer);
    cloud
        .store
        .transact(|txn| {
            if txn.exists(&key) {
                let message = format!("Provider with url {SCHEME}{} already exists.", provider.issuer);
                return Err(already_exists(message).into());
            }
            Ok::<_, Refusal>(txn.put(&key, &provider)?)
        })
        .await?;
    Ok(model::CreateOpenIDConnectProviderResponse {
        open_id_connect_provider_arn: Some(provider.arn()),
        tags: Some(described(&provider.tags)),
    })
}

async fn get(
    cloud: Cloud,
    call: Call,
    input: model::GetOpenIDConnectProviderRequest,
) -> Result<model::GetOpenIDConnectProviderResponse, ApiError> {
    let issuer = OidcProvider::name(&call, &input.open_id_connect_provider_arn.unwrap_or_default())?;
    let provider = OidcProvider::load(&cloud, &call, &issuer)?;
    Ok(model::GetOpenIDConnectProviderResponse {
        // As IAM answers it: without the scheme.
        url: Some(provider.issuer),
        client_id_list: Some(provider.client_ids),
        thumbprint_list: Some(provider.thumbprints),
        create_date: Some(Timestamp(provider.created_ms)),
        tags: Some(described(&provider.tags)),
    })
}

async fn list(
    cloud: Cloud,
    call: Call,
    _: model::ListOpenIDConnectProvidersRequest,
) -> Result<model::ListOpenIDConnectProvidersResponse, ApiError> {
    let all = cloud.store.view().list_as::<OidcProvider>(&keys::oidc_providers(&call.scope.account));
    let entry = |provider: OidcProvider| model::OpenIDConnectProviderListEntry { arn: Some(provider.arn()) };
    let entries = all.into_iter().map(|(_, provider)| entry(provider)).collect();
    Ok(model::ListOpenIDConnectProvidersResponse { open_id_connect_provider_list: Some(entries) })
}

/// One that is not there is as good as deleted, as IAM's reference has it.
async fn delete(
    cloud: Cloud,
    call: Call,
    input: model::DeleteOpenIDConnectProviderRequest,
) -> Result<Unit, ApiError> {
    let issuer = OidcProvider::name(&call, &input.open_id_connect_provider_arn.unwrap_or_default())?;
    let key = keys::oidc_provider(&call.scope.account, &issuer);
    cloud
        .store
        .transact(|txn| {
            txn.delete(&key);
            Ok::<_, Refusal>(())
        })
        .await?;
    unit()
}

async fn add_client(
    cloud: Cloud,
    call: Call,
    input: model::AddClientIDToOpenIDConnectProviderRequest,
) -> Result<Unit, ApiError> {
    let issuer = OidcProvider::name(&call, &input.open_id_connect_provider_arn.unwrap_or_default())?;
    let client = input.client_id.unwrap_or_default();
    let body = |provider: &mut OidcProvider| {
        if !provider.client_ids.contains(&client) {
            provider.client_ids.push(client.clone());
            provider.client_ids.sort();
        }
        check_clients(&provider.client_ids)
    };
    change(&cloud, &call, &issuer, body).await?;
    unit()
}

async fn remove_client(
    cloud: Cloud,
    call: Call,
    input: model::RemoveClientIDFromOpenIDConnectProviderRequest,
) -> Result<Unit, ApiError> {
    let issuer = OidcProvider::name(&call, &input.open_id_connect_provider_arn.unwrap_or_default())?;
    let client = input.client_id.unwrap_or_default();
    let body = |provider: &mut OidcProvider| {
        provider.client_ids.retain(|known| *known != client);
        Ok(())
    };
    change(&cloud, &call, &issuer, body).await?;
    unit()
}

async fn update_thumbprints(
    cloud: Cloud,
    call: Call,
    input: model::UpdateOpenIDConnectProviderThumbprintRequest,
) -> Result<Unit, ApiError> {
    let issuer = OidcProvider::name(&call, &input.open_id_connect_provider_arn.unwrap_or_default())?;
    let thumbprints = input.thumbprint_list.unwrap_or_default();
    check_thumbprints(&thumbprints)?;
    let body = |provider: &mut OidcProvider| {
        provider.thumbprints.clone_from(&thumbprints);
        Ok(())
    };
    change(&cloud, &call, &issuer, body).await?;
    unit()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issuer_is_a_url_without_its_scheme() {
        let issuer = |url: &str| check_url(url).ok();
        assert_eq!(
            issuer("https://oidc.eks.us-east-1.amazonaws.com/id/AB"),
            Some("oidc.eks.us-east-1.amazonaws.com/id/AB".into())
        );
        assert_eq!(issuer("https://169.254.80.1:16443/"), Some("169.254.80.1:16443".into()));
        for url in [
            "",
            "http://example.com",
            "https://",
            "https:///path",
            "https://e.com/?a=b",
            "https://u@e.com",
            "https://e.com/*",
        ] {
            assert_eq!(issuer(url), None, "{url}");
        }
        assert_eq!(issuer(&format!("https://e.com/{}", "x".repeat(250))), None);
    }
}

//! EKS Anywhere subscriptions: kept as they were asked for. There is no contract and there are no licenses, so that they
//! stay CREATING.

use super::list::{page, wants};
use super::{digest, in_use, invalid_parameter, remove};
use crate::Eks;
use ekstra_cloud::api::{Call, Refusal};
use ekstra_domain::eks::{Asked, Subscription};
use ekstra_domain::names::keys;
use ekstra_model::Timestamp;
use ekstra_model::eks::{self as model, errors};
use ekstra_store::Txn;
use ekstra_wire::ApiError;

/// What there is of its kind.
const KEPT: &str = "CREATING";
const MONTHS: &str = "MONTHS";
/// One year, or three.
const TERMS: [i32; 2] = [12, 36];
const MOST_LICENSES: i32 = 100;

fn missing(id: &str) -> ApiError {
    let message = format!("No EKS Anywhere subscription found with ID: {id}");
    ApiError::new(&errors::RESOURCE_NOT_FOUND_EXCEPTION, message).with("subscriptionId", id)
}

fn present(known: Subscription, status: &str) -> model::EksAnywhereSubscription {
    model::EksAnywhereSubscription {
        arn: Some(known.arn()),
        id: Some(known.id),
        created_at: Some(Timestamp(known.created_ms)),
        effective_date: None,
        expiration_date: None,
        license_quantity: Some(known.license_quantity),
        license_type: Some(known.license_type),
        term: Some(model::EksAnywhereSubscriptionTerm {
            duration: Some(known.months),
            unit: Some(MONTHS.into()),
        }),
        status: Some(status.into()),
        auto_renew: Some(known.auto_renew),
        license_arns: Some(Vec::new()),
        licenses: Some(Vec::new()),
        tags: Some(known.tags),
    }
}

pub(super) async fn create(
    eks: Eks,
    call: Call,
    mut input: model::CreateEksAnywhereSubscriptionRequest,
) -> Result<model::CreateEksAnywhereSubscriptionResponse, ApiError> {
    let token = input.client_request_token.take();
    let asked = Asked { token, digest: digest(&input) };
    let term = input.term.unwrap_or_default();
    let months = term.duration.unwrap_or_default();
    if !TERMS.contains(&months) {
        return Err(invalid_parameter("The duration of the term must be 12 or 36 months"));
    }
    let license_quantity = input.license_quantity.unwrap_or(1);
    if !(1..=MOST_LICENSES).contains(&license_quantity) {
        return Err(invalid_parameter(format!("The license quantity must be 1 to {MOST_LICENSES}")));
    }
    let new = Subscription {
        scope: call.scope.clone(),
        id: eks.cloud.env.uuid(),
        name: input.name.unwrap_or_default(),
        months,
        license_quantity,
        license_type: input.license_type.unwrap_or_else(|| "Cluster".into()),
        auto_renew: input.auto_renew.unwrap_or_default(),
        tags: input.tags.unwrap_or_default(),
        created_ms: eks.cloud.env.now_ms(),
        asked,
    };
    let body = |txn: &mut Txn| {
        let all = txn.list::<Subscription>(&keys::subscriptions(&call.scope))?;
        if let Some((_, known)) = all.into_iter().find(|(_, known)| known.name == new.name) {
            let taken = || in_use(format!("A subscription already exists with name: {}", new.name));
            return if new.asked.repeats(&known.asked) { Ok(known) } else { Err(taken().into()) };
        }
        txn.put(&keys::subscription(&call.scope, &new.id), &new)?;
        Ok::<_, Refusal>(new.clone())
    };
    let known = eks.cloud.store.transact(body).await?;
    Ok(model::CreateEksAnywhereSubscriptionResponse { subscription: Some(present(known, KEPT)) })
}

pub(super) async fn describe(
    eks: Eks,
    call: Call,
    input: model::DescribeEksAnywhereSubscriptionRequest,
) -> Result<model::DescribeEksAnywhereSubscriptionResponse, ApiError> {
    let id = input.id.unwrap_or_default();
    let found: Option<Subscription> = eks.cloud.store.view().get_as(&keys::subscription(&call.scope, &id));
    let found = found.ok_or_else(|| missing(&id))?;
    Ok(model::DescribeEksAnywhereSubscriptionResponse { subscription: Some(present(found, KEPT)) })
}

pub(super) async fn list(
    eks: Eks,
    call: Call,
    input: model::ListEksAnywhereSubscriptionsRequest,
) -> Result<model::ListEksAnywhereSubscriptionsResponse, ApiError> {
    let all = eks.cloud.store.view().list_as::<Subscription>(&keys::subscriptions(&call.scope));
    let all = if wants(input.include_status.as_ref(), KEPT) { all } else { Vec::new() };
    let all = all.into_iter().map(|(_, known)| known).collect();
    let page =
        page(all, |known: &Subscription| known.id.clone(), input.next_token.as_deref(), input.max_results)?;
    let subscriptions = page.items.into_iter().map(|known| present(known, KEPT)).collect();
    Ok(model::ListEksAnywhereSubscriptionsResponse {
        subscriptions: Some(subscriptions),
        next_token: page.next,
    })
}

pub(super) async fn update(
    eks: Eks,
    call: Call,
    input: model::UpdateEksAnywhereSubscriptionRequest,
) -> Result<model::UpdateEksAnywhereSubscriptionResponse, ApiError> {
    let id = input.id.unwrap_or_default();
    let key = keys::subscription(&call.scope, &id);
    let body = |txn: &mut Txn| {
        let mut known: Subscription = txn.get(&key)?.ok_or_else(|| missing(&id))?;
        known.auto_renew = input.auto_renew.unwrap_or_default();
        txn.put(&key, &known)?;
        Ok::<_, Refusal>(known)
    };
    let known = eks.cloud.store.transact(body).await?;
    Ok(model::UpdateEksAnywhereSubscriptionResponse { subscription: Some(present(known, KEPT)) })
}

pub(super) async fn delete(
    eks: Eks,
    call: Call,
    input: model::DeleteEksAnywhereSubscriptionRequest,
) -> Result<model::DeleteEksAnywhereSubscriptionResponse, ApiError> {
    let id = input.id.unwrap_or_default();
    let key = keys::subscription(&call.scope, &id);
    let known: Subscription = remove(&eks, &key, || missing(&id)).await?;
    Ok(model::DeleteEksAnywhereSubscriptionResponse { subscription: Some(present(known, "DELETING")) })
}

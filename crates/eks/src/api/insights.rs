//! ListInsights, DescribeInsight, StartInsightsRefresh, DescribeInsightsRefresh.

use super::list::{page, wants};
use super::{find_cluster, invalid_request, no_cluster};
use crate::Eks;
use ekstra_cloud::api::{Call, Refusal};
use ekstra_domain::eks::{Cluster, ClusterStatus, Insight, Insights, UPGRADE_READINESS, Verdict};
use ekstra_domain::names::keys;
use ekstra_model::Timestamp;
use ekstra_model::eks::{self as model, errors};
use ekstra_wire::ApiError;

/// Those of this very cluster; none before they are made for the first time.
fn find(eks: &Eks, cluster: &Cluster) -> Option<Insights> {
    let found: Option<Insights> =
        eks.cloud.store.view().get_as(&keys::insights(&cluster.scope, &cluster.name));
    found.filter(|insights| insights.uid == cluster.uid)
}

fn status(verdict: Verdict, reason: &str) -> model::InsightStatus {
    model::InsightStatus { status: Some(verdict.wire().into()), reason: Some(reason.to_owned()) }
}

fn summary(insight: &Insight) -> model::InsightSummary {
    model::InsightSummary {
        id: Some(insight.id.clone()),
        name: Some(insight.name.clone()),
        category: Some(UPGRADE_READINESS.into()),
        kubernetes_version: Some(insight.version.clone()),
        last_refresh_time: Some(Timestamp(insight.refreshed_ms)),
        last_transition_time: Some(Timestamp(insight.changed_ms)),
        description: Some(insight.description.clone()),
        insight_status: Some(status(insight.verdict, &insight.reason)),
    }
}

fn present(insight: &Insight) -> model::Insight {
    let resource = |resource: &ekstra_domain::eks::InsightResource| model::InsightResourceDetail {
        insight_status: Some(status(resource.verdict, &resource.reason)),
        kubernetes_resource_uri: resource.uri.clone(),
        arn: resource.arn.clone(),
    };
    let deprecation = |api: &ekstra_domain::eks::Deprecation| model::DeprecationDetail {
        usage: Some(api.usage.clone()),
        stop_serving_version: Some(api.removed_in.clone()),
        ..Default::default()
    };
    let addon = |addon: &ekstra_domain::eks::AddonCompatibility| model::AddonCompatibilityDetail {
        name: Some(addon.name.clone()),
        compatible_versions: Some(addon.compatible_versions.clone()),
    };
    let summary = summary(insight);
    model::Insight {
        id: summary.id,
        name: summary.name,
        category: summary.category,
        kubernetes_version: summary.kubernetes_version,
        last_refresh_time: summary.last_refresh_time,
        last_transition_time: summary.last_transition_time,
        description: summary.description,
        insight_status: summary.insight_status,
        recommendation: Some(insight.recommendation.clone()),
        additional_info: Some(Default::default()),
        resources: Some(insight.resources.iter().map(resource).collect()),
        category_specific_summary: Some(model::InsightCategorySpecificSummary {
            deprecation_details: Some(insight.deprecations.iter().map(deprecation).collect()),
            addon_compatibility_details: Some(insight.addons.iter().map(addon).collect()),
        }),
    }
}

pub(super) async fn list(
    eks: Eks,
    call: Call,
    input: model::ListInsightsRequest,
) -> Result<model::ListInsightsResponse, ApiError> {
    let all = find(&eks, &*find_cluster(&eks, &call, &input.cluster_name.unwrap_or_default())?);
    let filter = input.filter.unwrap_or_default();
    let chosen = all.into_iter().flat_map(|all| all.insights).filter(|insight| {
        wants(filter.categories.as_ref(), UPGRADE_READINESS)
            && wants(filter.kubernetes_versions.as_ref(), &insight.version)
            && wants(filter.statuses.as_ref(), insight.verdict.wire())
    });
    let key = |insight: &Insight| insight.id.clone();
    let page = page(chosen.collect(), key, input.next_token.as_deref(), input.max_results)?;
    Ok(model::ListInsightsResponse {
        insights: Some(page.items.iter().map(summary).collect()),
        next_token: page.next,
    })
}

pub(super) async fn describe(
    eks: Eks,
    call: Call,
    input: model::DescribeInsightRequest,
) -> Result<model::DescribeInsightResponse, ApiError> {
    let (cluster, id) = (input.cluster_name.unwrap_or_default(), input.id.unwrap_or_default());
    let all = find(&eks, &*find_cluster(&eks, &call, &cluster)?);
    let insight = all.iter().flat_map(|all| &all.insights).find(|insight| insight.id == id);
    let insight = insight.ok_or_else(|| {
        ApiError::new(&errors::RESOURCE_NOT_FOUND_EXCEPTION, format!("No insight found for ID: {id}"))
            .with("clusterName", cluster)
    })?;
    Ok(model::DescribeInsightResponse { insight: Some(present(insight)) })
}

const IN_PROGRESS: (&str, &str) = ("IN_PROGRESS", "Insights refresh is in progress");
const FAILED: (&str, &str) = ("FAILED", "Insights cannot be refreshed while the cluster is not ACTIVE");
const COMPLETED: (&str, &str) = ("COMPLETED", "Insights refresh completed successfully");

pub(super) async fn start_refresh(
    eks: Eks,
    call: Call,
    input: model::StartInsightsRefreshRequest,
) -> Result<model::StartInsightsRefreshResponse, ApiError> {
    let name = input.cluster_name.unwrap_or_default();
    let (cluster_key, key) = (keys::cluster(&call.scope, &name), keys::insights(&call.scope, &name));
    let now = eks.cloud.env.now_ms();
    eks.cloud
        .store
        .transact(|txn| {
            let cluster: Cluster = txn.get(&cluster_key)?.ok_or_else(|| no_cluster(&name))?;
            if !cluster.status.is_up() {
                return Err(Refusal::from(invalid_request(FAILED.1).with("clusterName", name.clone())));
            }
            let known = txn.get::<Insights>(&key)?.filter(|known| known.uid == cluster.uid);
            let mut record = known.unwrap_or_else(|| Insights::new(&cluster.uid, now));
            // One that is under way is the one that was asked for.
            if record.ended_ms.is_some() {
                (record.started_ms, record.ended_ms) = (now, None);
            }
            Ok::<_, Refusal>(txn.put(&key, &record)?)
        })
        .await?;
    Ok(model::StartInsightsRefreshResponse {
        message: Some(IN_PROGRESS.1.into()),
        status: Some(IN_PROGRESS.0.into()),
    })
}

pub(super) async fn describe_refresh(
    eks: Eks,
    call: Call,
    input: model::DescribeInsightsRefreshRequest,
) -> Result<model::DescribeInsightsRefreshResponse, ApiError> {
    let cluster = find_cluster(&eks, &call, &input.cluster_name.unwrap_or_default())?;
    let known = find(&eks, &cluster);
    let ended = known.as_ref().and_then(|known| known.ended_ms);
    let (status, message) = match ended {
        Some(_) => COMPLETED,
        // They are made as soon as there is a control plane to ask, unless it will never be there.
        None if matches!(cluster.status, ClusterStatus::Failed | ClusterStatus::Deleting) => FAILED,
        None => IN_PROGRESS,
    };
    Ok(model::DescribeInsightsRefreshResponse {
        message: Some(message.into()),
        status: Some(status.into()),
        started_at: known.map(|known| Timestamp(known.started_ms)),
        ended_at: ended.map(Timestamp),
    })
}

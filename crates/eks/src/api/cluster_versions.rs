//! DescribeClusterVersions: what this service can run, with EKS's support calendar.

use super::list::page;
use crate::{Eks, OfferedVersion};
use ekstra_cloud::api::Call;
use ekstra_model::Timestamp;
use ekstra_model::eks as model;
use ekstra_wire::{ApiError, parse_iso8601};

/// Release, end of standard support, end of extended support (`spec/eks-semantics.md` §3.2). EKS has no 1.37 yet.
const CALENDAR: [(&str, &str, &str, &str); 3] = [
    ("1.36", "2026-06-02", "2027-08-02", "2028-08-02"),
    ("1.35", "2026-01-28", "2027-03-27", "2028-03-27"),
    ("1.34", "2025-10-02", "2026-12-02", "2027-12-02"),
];

const CLUSTER_TYPE: &str = "eks";

pub(super) async fn handle(
    eks: Eks,
    _: Call,
    input: model::DescribeClusterVersionsRequest,
) -> Result<model::DescribeClusterVersionsResponse, ApiError> {
    let asked = input.cluster_versions.unwrap_or_default();
    let now = eks.cloud.env.now_ms();
    // Those of Anywhere and the like are others.
    let is_ours = input.cluster_type.as_deref().is_none_or(|kind| kind == CLUSTER_TYPE);
    let wanted = |v: &OfferedVersion| {
        is_ours
            && (asked.is_empty() || asked.contains(&v.minor))
            && (input.default_only != Some(true) || v.default)
    };
    let (status, older_status) = (input.version_status.clone(), input.status.clone());
    let found: Vec<model::ClusterVersionInformation> = eks
        .programs
        .versions()
        .into_iter()
        .filter(wanted)
        .map(|v| describe(&v, now))
        .filter(|v| status.is_none() || v.version_status == status)
        .filter(|v| older_status.is_none() || v.status == older_status)
        .collect();
    let key = |(place, _): &(usize, model::ClusterVersionInformation)| format!("{place:03}");
    let all = found.into_iter().enumerate().collect();
    let page = page(all, key, input.next_token.as_deref(), input.max_results)?;
    let cluster_versions = page.items.into_iter().map(|(_, version)| version).collect();
    Ok(model::DescribeClusterVersionsResponse {
        next_token: page.next,
        cluster_versions: Some(cluster_versions),
    })
}

fn describe(version: &OfferedVersion, now_ms: i64) -> model::ClusterVersionInformation {
    let dates = CALENDAR.iter().find(|(minor, ..)| *minor == version.minor);
    let date = |day: &str| parse_iso8601(&format!("{day}T00:00:00Z")).map(Timestamp);
    let standard_ends = dates.and_then(|(_, _, end, _)| date(end));
    let extended = standard_ends.is_some_and(|end| end.0 < now_ms);
    let support = if extended { "EXTENDED_SUPPORT" } else { "STANDARD_SUPPORT" };
    model::ClusterVersionInformation {
        cluster_version: Some(version.minor.clone()),
        cluster_type: Some(CLUSTER_TYPE.into()),
        default_platform_version: Some("eks.1".into()),
        default_version: Some(version.default),
        release_date: dates.and_then(|(_, release, ..)| date(release)),
        end_of_standard_support_date: standard_ends,
        end_of_extended_support_date: dates.and_then(|(.., end)| date(end)),
        status: Some(support.replace('_', "-").to_lowercase()),
        version_status: Some(support.into()),
        kubernetes_patch_version: Some(version.patch.clone()),
        ..Default::default()
    }
}

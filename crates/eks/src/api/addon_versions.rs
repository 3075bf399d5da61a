//! Which add-ons there are, for which clusters, and what can be said to them.

use super::list::{page, wants};
use super::{invalid_request, present};
use crate::addons::catalogue::{self, Definition, NAMESPACE};
use crate::{Eks, OfferedVersion};
use ekstra_cloud::api::Call;
use ekstra_domain::iam::AWS_MANAGED;
use ekstra_model::eks::{self as model, errors};
use ekstra_wire::ApiError;

pub(super) async fn all(
    eks: Eks,
    _: Call,
    input: model::DescribeAddonVersionsRequest,
) -> Result<model::DescribeAddonVersionsResponse, ApiError> {
    let mut offered = eks.programs.versions();
    if let Some(minor) = &input.kubernetes_version {
        offered.retain(|version| version.minor == *minor);
    }
    let chosen = catalogue::all().iter().filter(|definition| {
        input.addon_name.as_ref().is_none_or(|name| name == definition.name)
            && wants(input.types.as_ref(), definition.category)
            && wants(input.publishers.as_ref(), present::PUBLISHER)
            && wants(input.owners.as_ref(), present::OWNER)
            && !offered.is_empty()
    });
    let key = |definition: &&Definition| definition.name.to_owned();
    let page = page(chosen.collect(), key, input.next_token.as_deref(), input.max_results)?;
    let addons = page.items.into_iter().map(|definition| info(definition, &offered)).collect();
    Ok(model::DescribeAddonVersionsResponse { addons: Some(addons), next_token: page.next })
}

fn info(definition: &Definition, offered: &[OfferedVersion]) -> model::AddonInfo {
    let compatibility = |minor: String| model::Compatibility {
        cluster_version: Some(minor),
        platform_versions: Some(vec!["*".into()]),
        default_version: Some(true),
    };
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let version = |(version, clusters): (String, Vec<String>)| model::AddonVersionInfo {
        addon_version: Some(version),
        architecture: Some(vec![architecture.into()]),
        compute_types: Some(vec!["ec2".into()]),
        compatibilities: Some(clusters.into_iter().map(compatibility).collect()),
        requires_configuration: Some(false),
        requires_iam_permissions: Some(false),
    };
    model::AddonInfo {
        addon_name: Some(definition.name.into()),
        r#type: Some(definition.category.into()),
        addon_versions: Some(definition.versions(offered).into_iter().map(version).collect()),
        publisher: Some(present::PUBLISHER.into()),
        owner: Some(present::OWNER.into()),
        default_namespace: Some(NAMESPACE.into()),
        ..Default::default()
    }
}

pub(super) async fn configuration(
    eks: Eks,
    _: Call,
    input: model::DescribeAddonConfigurationRequest,
) -> Result<model::DescribeAddonConfigurationResponse, ApiError> {
    let (name, asked) = (input.addon_name.unwrap_or_default(), input.addon_version.unwrap_or_default());
    let absent = |what: String| {
        ApiError::new(&errors::RESOURCE_NOT_FOUND_EXCEPTION, what).with("addonName", name.clone())
    };
    let definition = catalogue::find(&name).ok_or_else(|| absent(format!("Addon {name} not found")))?;
    let versions = definition.versions(&eks.programs.versions());
    if !versions.iter().any(|(version, _)| *version == asked) {
        return Err(absent(format!("Addon {name} has no version {asked}")));
    }
    let schema = definition.schema().map_err(|error| invalid_request(error.to_string()))?;
    let identity = definition.identity.into_iter().map(|account| model::AddonPodIdentityConfiguration {
        service_account: Some(account.to_owned()),
        recommended_managed_policies: Some(vec![format!("{AWS_MANAGED}AmazonEKS_CNI_Policy")]),
    });
    Ok(model::DescribeAddonConfigurationResponse {
        addon_name: Some(name),
        addon_version: Some(asked),
        configuration_schema: Some(schema.to_string()),
        pod_identity_configuration: Some(identity.collect()),
    })
}

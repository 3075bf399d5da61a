//! Condition keys of EKS: what policies may ask of a request beside its resource.
//!
//! Source: Service Authorization Reference, "Actions, resources, and condition keys for Amazon Elastic Kubernetes Service".
//! Keys of settings that are refused by name have no values here.

use crate::Eks;
use crate::api::create_cluster::SUPPORT_TYPE as DEFAULT_SUPPORT;
use ekstra_cloud::access::Access;
use ekstra_domain::eks::{AccessEntry, AuthenticationMode};
use ekstra_model::eks as model;

const AUTHENTICATION_MODE: &str = "eks:authenticationMode";
const DELETION_PROTECTION: &str = "eks:deletionProtection";
const SUPPORT_TYPE: &str = "eks:supportType";

fn flag(access: Access, key: &str, value: Option<bool>) -> Access {
    access.with(key, value.map(|value| value.to_string()))
}

/// What a cluster is to be: of what the request leaves out, EKS's own choice.
pub(super) fn of_new_cluster(eks: &Eks, access: Access, input: &model::CreateClusterRequest) -> Access {
    let chosen = || eks.programs.versions().into_iter().find(|version| version.default).map(|v| v.minor);
    let version = input.version.clone().or_else(chosen);
    let admission = input.access_config.clone().unwrap_or_default();
    let mode =
        admission.authentication_mode.unwrap_or_else(|| AuthenticationMode::ConfigMap.wire().to_owned());
    let support = input.upgrade_policy.clone().and_then(|policy| policy.support_type);
    let vpc = input.resources_vpc_config.clone().unwrap_or_default();
    let mut access = access
        .with("eks:kubernetesVersion", version)
        .with(AUTHENTICATION_MODE, [mode])
        .with(SUPPORT_TYPE, [support.unwrap_or_else(|| DEFAULT_SUPPORT.to_owned())]);
    for (key, value, otherwise) in [
        (
            "eks:bootstrapClusterCreatorAdminPermissions",
            admission.bootstrap_cluster_creator_admin_permissions,
            true,
        ),
        ("eks:bootstrapSelfManagedAddons", input.bootstrap_self_managed_addons, true),
        (DELETION_PROTECTION, input.deletion_protection, false),
        ("eks:endpointPublicAccess", vpc.endpoint_public_access, true),
        ("eks:endpointPrivateAccess", vpc.endpoint_private_access, false),
    ] {
        access = flag(access, key, Some(value.unwrap_or(otherwise)));
    }
    let access = of_programs(
        access,
        input.kube_api_server_config.is_some(),
        input.kube_scheduler_config.is_some(),
        input.kube_controller_manager_config.is_some(),
    );
    of_encryption(of_logging(access, input.logging.as_ref()), input.encryption_config.as_ref())
}

/// What a cluster is to become, as far as the request says it.
pub(super) fn of_settings(access: Access, input: &model::UpdateClusterConfigRequest) -> Access {
    let vpc = input.resources_vpc_config.clone().unwrap_or_default();
    let mode = input.access_config.clone().and_then(|config| config.authentication_mode);
    let support = input.upgrade_policy.clone().and_then(|policy| policy.support_type);
    let access = access.with(AUTHENTICATION_MODE, mode).with(SUPPORT_TYPE, support);
    let access = flag(access, DELETION_PROTECTION, input.deletion_protection);
    let access = flag(access, "eks:endpointPublicAccess", vpc.endpoint_public_access);
    let access = flag(access, "eks:endpointPrivateAccess", vpc.endpoint_private_access);
    let access = of_programs(
        access,
        input.kube_api_server_config.is_some(),
        input.kube_scheduler_config.is_some(),
        input.kube_controller_manager_config.is_some(),
    );
    of_logging(access, input.logging.as_ref())
}

/// Whether the request has settings for these programs.
fn of_programs(access: Access, api_server: bool, scheduler: bool, controller_manager: bool) -> Access {
    access
        .with("eks:kubeApiServerConfig", [api_server.to_string()])
        .with("eks:kubeSchedulerConfig", [scheduler.to_string()])
        .with("eks:kubeControllerManagerConfig", [controller_manager.to_string()])
}

fn of_logging(mut access: Access, logging: Option<&model::Logging>) -> Access {
    for setup in logging.and_then(|logging| logging.cluster_logging.as_deref()).unwrap_or_default() {
        for name in setup.types.iter().flatten() {
            access = flag(access, &format!("eks:loggingType/{name}"), Some(setup.enabled == Some(true)));
        }
    }
    access
}

pub(super) fn of_encryption(access: Access, given: Option<&Vec<model::EncryptionConfig>>) -> Access {
    let keys = given.into_iter().flatten().filter_map(|config| config.provider.as_ref()?.key_arn.clone());
    access.with("eks:encryptionConfigProviderKeyArns", keys.collect::<Vec<_>>())
}

/// What the resource is.
pub(super) fn of_entry(access: Access, entry: &AccessEntry) -> Access {
    access
        .with("eks:accessEntryType", [entry.kind.clone()])
        .with("eks:clusterName", [entry.cluster.clone()])
        .with("eks:kubernetesGroups", entry.groups.clone())
        .with("eks:principalArn", [entry.principal_arn.clone()])
        .with("eks:username", [entry.username.clone()])
}

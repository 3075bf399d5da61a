//! Condition keys of EKS: what policies may ask of a request beside its resource.
//!
//! Source: Service Authorization Reference, "Actions, resources, and condition keys for Amazon Elastic Kubernetes Service".

use crate::Eks;
use crate::api::create_cluster::{SUPPORT_TYPE, default_version};
use crate::api::present::LOG_TYPES;
use crate::api::unserved::{EGRESS_MODE, Features, TIER};
use ekstra_cloud::access::Access;
use ekstra_domain::eks::{AccessEntry, AuthenticationMode};
use ekstra_model::eks as model;

fn flag(given: Option<bool>) -> Option<String> {
    given.map(|given| given.to_string())
}

/// What requests that make or change clusters say: the key, the value if there is one, and EKS's own choice.
macro_rules! settings {
    ($input:ident) => {{
        let features = Features::from($input);
        let vpc = $input.resources_vpc_config.as_ref();
        let mode = $input.access_config.as_ref().and_then(|config| config.authentication_mode.clone());
        let support = $input.upgrade_policy.as_ref().and_then(|policy| policy.support_type.clone());
        [
            ("eks:authenticationMode", mode, AuthenticationMode::ConfigMap.wire()),
            ("eks:supportType", support, SUPPORT_TYPE),
            ("eks:deletionProtection", flag($input.deletion_protection), "false"),
            ("eks:endpointPublicAccess", flag(vpc.and_then(|vpc| vpc.endpoint_public_access)), "true"),
            ("eks:endpointPrivateAccess", flag(vpc.and_then(|vpc| vpc.endpoint_private_access)), "false"),
            ("eks:controlPlaneEgressMode", features.egress_mode().cloned(), EGRESS_MODE),
            ("eks:controlPlaneScalingTier", features.tier().cloned(), TIER),
            ("eks:computeConfigEnabled", flag(features.computes()), "false"),
            ("eks:blockStorageEnabled", flag(features.stores_blocks()), "false"),
            ("eks:elasticLoadBalancingEnabled", flag(features.balances()), "false"),
            ("eks:zonalShiftEnabled", flag(features.shifts_zones()), "false"),
            // Whether there are settings for these programs.
            ("eks:kubeApiServerConfig", flag(Some($input.kube_api_server_config.is_some())), "false"),
            ("eks:kubeSchedulerConfig", flag(Some($input.kube_scheduler_config.is_some())), "false"),
            (
                "eks:kubeControllerManagerConfig",
                flag(Some($input.kube_controller_manager_config.is_some())),
                "false",
            ),
        ]
    }};
}

/// What a cluster is to be: of what the request leaves out, EKS's own choice.
pub(super) fn of_new_cluster(eks: &Eks, mut access: Access, input: &model::CreateClusterRequest) -> Access {
    for (key, given, otherwise) in settings!(input) {
        access = access.with(key, [given.unwrap_or_else(|| otherwise.to_owned())]);
    }
    let config = input.access_config.as_ref();
    let creator = config.and_then(|config| config.bootstrap_cluster_creator_admin_permissions);
    for (key, given) in [
        ("eks:bootstrapClusterCreatorAdminPermissions", creator),
        ("eks:bootstrapSelfManagedAddons", input.bootstrap_self_managed_addons),
    ] {
        access = access.with(key, [given.unwrap_or(true).to_string()]);
    }
    for name in LOG_TYPES {
        access = access.with(&format!("eks:loggingType/{name}"), ["false".to_owned()]);
    }
    let version = input.version.clone().or_else(|| default_version(eks));
    let access = access.with("eks:kubernetesVersion", version);
    of_encryption(of_logging(access, input.logging.as_ref()), input.encryption_config.as_ref())
}

/// What a cluster is to become, as far as the request says it.
pub(super) fn of_settings(mut access: Access, input: &model::UpdateClusterConfigRequest) -> Access {
    for (key, given, _) in settings!(input) {
        access = access.with(key, given);
    }
    of_logging(access, input.logging.as_ref())
}

fn of_logging(mut access: Access, logging: Option<&model::Logging>) -> Access {
    for setup in logging.and_then(|logging| logging.cluster_logging.as_deref()).unwrap_or_default() {
        let is_on = setup.enabled == Some(true);
        for name in setup.types.iter().flatten() {
            access = access.with(&format!("eks:loggingType/{name}"), [is_on.to_string()]);
        }
    }
    access
}

pub(super) fn of_encryption(access: Access, given: Option<&Vec<model::EncryptionConfig>>) -> Access {
    let keys = given.into_iter().flatten().filter_map(|config| config.provider.as_ref()?.key_arn.clone());
    access.with("eks:encryptionConfigProviderKeyArns", keys.collect::<Vec<_>>())
}

/// On an entry that is there, whoever asks what of it.
pub(super) fn on_entry(entry: &AccessEntry) -> Access {
    Access::on(entry.arn())
        .with_resource_tags(Some(&entry.tags))
        .with("eks:accessEntryType", [entry.kind.clone()])
        .with("eks:clusterName", [entry.cluster.clone()])
        .with("eks:kubernetesGroups", entry.groups.clone())
        .with("eks:principalArn", [entry.principal_arn.clone()])
        .with("eks:username", [entry.username.clone()])
}

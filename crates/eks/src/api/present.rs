//! Records in EKS's shapes.

use super::{pod_identity, tuning};
use crate::Eks;
use base64::Engine;
use ekstra_domain::eks::{Addon, Cluster, HealthIssue, Nodegroup, Update};
use ekstra_model::Timestamp;
use ekstra_model::eks as model;
use ekstra_wire::iso8601;

/// All log types, in EKS's order.
pub(super) const LOG_TYPES: [&str; 5] = ["api", "audit", "authenticator", "controllerManager", "scheduler"];

pub(super) fn cluster(eks: &Eks, cluster: &Cluster) -> model::Cluster {
    let slot = eks.slot(cluster);
    // As at AWS, the endpoint is known once there is something behind it to trust.
    let ready = slot.as_ref().filter(|s| s.certificate_authority.is_some());
    model::Cluster {
        name: Some(cluster.name.clone()),
        arn: Some(cluster.arn()),
        created_at: Some(Timestamp(cluster.created_ms)),
        version: Some(cluster.version.clone()),
        endpoint: ready.map(|s| eks.endpoint(s)),
        role_arn: Some(cluster.role_arn.clone()),
        resources_vpc_config: Some(vpc(cluster)),
        kubernetes_network_config: Some(model::KubernetesNetworkConfigResponse {
            service_ipv4_cidr: Some(cluster.service_cidr.to_string()),
            ip_family: Some("ipv4".into()),
            elastic_load_balancing: Some(model::ElasticLoadBalancing {
                enabled: Some(false),
                ..Default::default()
            }),
            ..Default::default()
        }),
        logging: Some(logging(cluster)),
        identity: slot
            .as_ref()
            .map(|s| model::Identity { oidc: Some(model::OIDC { issuer: Some(eks.issuer(&s.issuer_id)) }) }),
        status: Some(cluster.status.wire().into()),
        certificate_authority: Some(model::Certificate {
            data: ready.and_then(|s| s.certificate_authority.as_deref()).map(base64),
            active: Some(model::ActiveCertificateAuthority {
                id: Some(cluster.uid.clone()),
                activated_by: Some("EKS".into()),
            }),
        }),
        platform_version: Some(cluster.platform_version.clone()),
        tags: Some(cluster.tags.clone()),
        health: Some(model::ClusterHealth {
            issues: Some(issues(cluster, eks.cloud.env.now_ms()).iter().map(cluster_issue).collect()),
        }),
        access_config: Some(model::AccessConfigResponse {
            bootstrap_cluster_creator_admin_permissions: None,
            authentication_mode: Some(cluster.authentication_mode.wire().into()),
        }),
        upgrade_policy: Some(model::UpgradePolicyResponse {
            support_type: Some(cluster.support_type.clone()),
        }),
        deletion_protection: Some(cluster.deletion_protection),
        kube_api_server_config: Some(tuning::api_server(&cluster.tuning)),
        kube_scheduler_config: Some(tuning::scheduler(&cluster.tuning)),
        kube_controller_manager_config: Some(tuning::controller_manager(&cluster.tuning)),
        ..Default::default()
    }
}

/// As certificates travel.
pub(super) fn base64(pem: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(pem)
}

/// Also what was lost, for a day.
fn issues(cluster: &Cluster, now_ms: i64) -> Vec<HealthIssue> {
    const TOLD_FOR_MS: i64 = 24 * 60 * 60 * 1000;
    let lost = cluster.restored.as_ref().filter(|restored| now_ms - restored.at_ms < TOLD_FOR_MS);
    let lost = lost.map(|restored| HealthIssue {
        code: "InternalFailure".to_owned(),
        message: format!(
            "The data of the control plane were damaged. They are those of {}; later changes are lost",
            iso8601(restored.snapshot_ms)
        ),
        resource_ids: Vec::new(),
    });
    cluster.issues.iter().cloned().chain(lost).collect()
}

fn vpc(cluster: &Cluster) -> model::VpcConfigResponse {
    let vpc = &cluster.vpc;
    model::VpcConfigResponse {
        subnet_ids: Some(vpc.subnets.clone()),
        security_group_ids: Some(vpc.security_groups.clone()),
        cluster_security_group_id: Some(vpc.cluster_security_group.clone()),
        vpc_id: Some(vpc.vpc.clone()),
        endpoint_public_access: Some(vpc.public_access),
        endpoint_private_access: Some(vpc.private_access),
        public_access_cidrs: Some(vpc.public_cidrs.clone()),
        ..Default::default()
    }
}

pub(super) fn logging(cluster: &Cluster) -> model::Logging {
    let types = |enabled: bool| -> Vec<String> {
        let chosen = LOG_TYPES.iter().filter(|t| cluster.logging.enabled.iter().any(|e| e == *t) == enabled);
        chosen.map(|t| (*t).to_owned()).collect()
    };
    let setups = [true, false].map(|on| model::LogSetup { types: Some(types(on)), enabled: Some(on) });
    let present = setups.into_iter().filter(|s| s.types.as_ref().is_some_and(|t| !t.is_empty()));
    model::Logging { cluster_logging: Some(present.collect()) }
}

fn cluster_issue(issue: &ekstra_domain::eks::HealthIssue) -> model::ClusterIssue {
    model::ClusterIssue {
        code: Some(issue.code.clone()),
        message: Some(issue.message.clone()),
        resource_ids: Some(issue.resource_ids.clone()),
    }
}

pub(super) fn nodegroup(group: &Nodegroup) -> model::Nodegroup {
    let size = |n: u32| i32::try_from(n).ok();
    let taint = |t: &ekstra_domain::eks::Taint| model::Taint {
        key: Some(t.key.clone()),
        value: t.value.clone(),
        effect: Some(t.effect.clone()),
    };
    let issue = |i: &ekstra_domain::eks::HealthIssue| model::Issue {
        code: Some(i.code.clone()),
        message: Some(i.message.clone()),
        resource_ids: Some(i.resource_ids.clone()),
    };
    model::Nodegroup {
        nodegroup_name: Some(group.name.clone()),
        nodegroup_arn: Some(group.arn()),
        cluster_name: Some(group.cluster.clone()),
        version: Some(group.version.clone()),
        release_version: Some(group.release_version.clone()),
        created_at: Some(Timestamp(group.created_ms)),
        modified_at: Some(Timestamp(group.modified_ms)),
        status: Some(group.status.wire().into()),
        capacity_type: Some(group.capacity_type.clone()),
        scaling_config: Some(model::NodegroupScalingConfig {
            min_size: size(group.scaling.min),
            max_size: size(group.scaling.max),
            desired_size: size(group.scaling.desired),
        }),
        instance_types: Some(group.instance_types.clone()),
        subnets: Some(group.subnets.clone()),
        ami_type: Some(group.ami_type.clone()),
        node_role: Some(group.node_role.clone()),
        labels: Some(group.labels.clone()),
        taints: (!group.taints.is_empty()).then(|| group.taints.iter().map(taint).collect()),
        resources: Some(model::NodegroupResources::default()),
        disk_size: size(group.disk_gib),
        health: Some(model::NodegroupHealth { issues: Some(group.issues.iter().map(issue).collect()) }),
        update_config: Some(model::NodegroupUpdateConfig {
            max_unavailable: group.update_config.max_unavailable.and_then(|n| i32::try_from(n).ok()),
            max_unavailable_percentage: group
                .update_config
                .max_unavailable_percentage
                .and_then(|n| i32::try_from(n).ok()),
            ..Default::default()
        }),
        tags: Some(group.tags.clone()),
        ..Default::default()
    }
}

/// Who offers add-ons, and whose they are.
pub(super) const PUBLISHER: &str = "eks";
pub(super) const OWNER: &str = "aws";

pub(super) fn addon(eks: &Eks, addon: &Addon) -> model::Addon {
    let issue = |issue: &HealthIssue| model::AddonIssue {
        code: Some(issue.code.clone()),
        message: Some(issue.message.clone()),
        resource_ids: Some(issue.resource_ids.clone()),
    };
    model::Addon {
        addon_name: Some(addon.name.clone()),
        cluster_name: Some(addon.cluster.clone()),
        status: Some(addon.status.wire().into()),
        addon_version: Some(addon.version.clone()),
        health: Some(model::AddonHealth { issues: Some(addon.issues.iter().map(issue).collect()) }),
        addon_arn: Some(addon.arn()),
        created_at: Some(Timestamp(addon.created_ms)),
        modified_at: Some(Timestamp(addon.modified_ms)),
        service_account_role_arn: addon.service_account_role.clone(),
        tags: Some(addon.tags.clone()),
        configuration_values: addon.configuration.clone(),
        namespace_config: Some(model::AddonNamespaceConfigResponse {
            namespace: Some(addon.namespace.clone()),
        }),
        pod_identity_associations: Some(pod_identity::arns_of_addon(eks, addon)),
        ..Default::default()
    }
}

pub(super) fn update(update: &Update) -> model::Update {
    let param = |(name, value): &(String, String)| model::UpdateParam {
        r#type: Some(name.clone()),
        value: Some(value.clone()),
    };
    let error = |(code, message): &(String, String)| model::ErrorDetail {
        error_code: Some(code.clone()),
        error_message: Some(message.clone()),
        ..Default::default()
    };
    model::Update {
        id: Some(update.id.clone()),
        status: Some(update.status.wire().into()),
        r#type: Some(update.kind.wire().into()),
        params: Some(update.params.iter().map(param).collect()),
        created_at: Some(Timestamp(update.created_ms)),
        errors: Some(update.errors.iter().map(error).collect()),
        ..Default::default()
    }
}

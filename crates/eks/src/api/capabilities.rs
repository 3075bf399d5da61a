//! Capabilities (ACK, Argo CD, kro): checked and kept. None runs, which their status and health say.

use super::list::page;
use super::{
    Repeat, digest, find_cluster, in_use, insert, invalid, invalid_parameter, kept_cluster, present,
};
use crate::{Eks, updates};
use ekstra_cloud::access::trusts_service;
use ekstra_cloud::api::{Call, Refusal};
use ekstra_cloud::iam::find_role;
use ekstra_domain::eks::{Ack, ArgoCd, Asked, Capability, UpdateOf, UpdateType, check_capability_name};
use ekstra_domain::names::keys;
use ekstra_model::Timestamp;
use ekstra_model::eks::{self as model, errors};
use ekstra_store::Txn;
use ekstra_wire::ApiError;
use serde_json::json;
use std::collections::BTreeMap;

/// Who takes the roles of capabilities.
const SERVICE: &str = "capabilities.eks.amazonaws.com";
const NOT_RUN: &str =
    "ekstra runs no capabilities: this one is a record, and nothing of it is in the cluster";

type Mappings = BTreeMap<String, Vec<(String, String)>>;

fn missing(cluster: &str, name: &str) -> ApiError {
    let message = format!("No capability found with name: {name}.");
    ApiError::new(&errors::RESOURCE_NOT_FOUND_EXCEPTION, message).with("clusterName", cluster)
}

fn present_mappings(mappings: Mappings) -> Vec<model::ArgoCdRoleMapping> {
    let identity = |(id, kind)| model::SsoIdentity { id: Some(id), r#type: Some(kind) };
    let one = |(role, identities): (String, Vec<_>)| model::ArgoCdRoleMapping {
        role: Some(role),
        identities: Some(identities.into_iter().map(identity).collect()),
    };
    mappings.into_iter().map(one).collect()
}

fn present_argo_cd(known: ArgoCd) -> model::ArgoCdConfigResponse {
    model::ArgoCdConfigResponse {
        namespace: known.namespace,
        aws_idc: Some(model::ArgoCdAwsIdcConfigResponse {
            idc_instance_arn: Some(known.idc_instance_arn),
            idc_region: known.idc_region,
            idc_managed_application_arn: None,
        }),
        rbac_role_mappings: Some(present_mappings(known.role_mappings)),
        network_access: Some(model::ArgoCdNetworkAccessConfigResponse {
            vpce_ids: Some(known.vpc_endpoints),
        }),
        server_url: None,
        endpoint_prefix: known.endpoint_prefix,
    }
}

fn present_capability(known: Capability, status: &str) -> model::Capability {
    let issue =
        model::CapabilityIssue { code: Some("ClusterUnreachable".into()), message: Some(NOT_RUN.into()) };
    let arn = known.arn();
    let ack = known.ack.map(|ack| model::AckConfigResponse {
        enable_cross_namespace: ack.enable_cross_namespace,
        disabled_services: Some(ack.disabled_services),
    });
    let argo_cd = known.argo_cd.map(present_argo_cd);
    model::Capability {
        arn: Some(arn),
        capability_name: Some(known.name),
        cluster_name: Some(known.cluster),
        r#type: Some(known.kind),
        role_arn: Some(known.role_arn),
        status: Some(status.into()),
        version: None,
        configuration: Some(model::CapabilityConfigurationResponse { argo_cd, ack }),
        tags: Some(known.tags),
        health: Some(model::CapabilityHealth { issues: Some(vec![issue]) }),
        created_at: Some(Timestamp(known.created_ms)),
        modified_at: Some(Timestamp(known.modified_ms)),
        delete_propagation_policy: Some(known.delete_propagation),
    }
}

/// What there is of its kind.
const KEPT: &str = "DEGRADED";

fn check_role(eks: &Eks, call: &Call, cluster: &str, arn: &str) -> Result<(), ApiError> {
    let role = find_role(&eks.cloud, arn).filter(|role| role.account == call.scope.account);
    let source = call.scope.arn("eks", format_args!("cluster/{cluster}"));
    if role.is_some_and(|role| trusts_service(&eks.cloud, call, &role, SERVICE, Some(source))) {
        return Ok(());
    }
    let message = format!(
        "Role with arn: {arn}, could not be assumed because it does not exist or does not trust {SERVICE}"
    );
    Err(invalid_parameter(message))
}

fn read_mappings(asked: Option<Vec<model::ArgoCdRoleMapping>>) -> Mappings {
    let mut mappings = Mappings::new();
    for mapping in asked.unwrap_or_default() {
        let identities = mapping.identities.unwrap_or_default().into_iter();
        let identities = identities.map(|one| (one.id.unwrap_or_default(), one.r#type.unwrap_or_default()));
        mappings.entry(mapping.role.unwrap_or_default()).or_default().extend(identities);
    }
    mappings
}

fn read_argo_cd(asked: model::ArgoCdConfigRequest) -> ArgoCd {
    let idc = asked.aws_idc.unwrap_or_default();
    ArgoCd {
        namespace: asked.namespace,
        idc_instance_arn: idc.idc_instance_arn.unwrap_or_default(),
        idc_region: idc.idc_region,
        role_mappings: read_mappings(asked.rbac_role_mappings),
        vpc_endpoints: asked.network_access.and_then(|access| access.vpce_ids).unwrap_or_default(),
        endpoint_prefix: asked.endpoint_prefix,
    }
}

fn draft(
    eks: &Eks,
    call: &Call,
    asked: Asked,
    input: model::CreateCapabilityRequest,
) -> Result<Capability, ApiError> {
    let name = input.capability_name.unwrap_or_default();
    check_capability_name(&name).map_err(invalid)?;
    let (kind, role_arn) = (input.r#type.unwrap_or_default(), input.role_arn.unwrap_or_default());
    let cluster = input.cluster_name.unwrap_or_default();
    check_role(eks, call, &cluster, &role_arn)?;
    let configuration = input.configuration.unwrap_or_default();
    let argo_cd = configuration.argo_cd.map(read_argo_cd);
    let ack = configuration.ack.map(|ack| Ack {
        enable_cross_namespace: ack.enable_cross_namespace,
        disabled_services: ack.disabled_services.unwrap_or_default(),
    });
    if argo_cd.is_some() != (kind == "ARGOCD") || (ack.is_some() && kind != "ACK") {
        let message = format!("The configuration does not fit a capability of type {kind}");
        return Err(invalid_parameter(message));
    }
    let now = eks.cloud.env.now_ms();
    Ok(Capability {
        scope: call.scope.clone(),
        cluster,
        name,
        uid: eks.cloud.env.uuid(),
        kind,
        role_arn,
        argo_cd,
        ack,
        delete_propagation: input.delete_propagation_policy.unwrap_or_default(),
        tags: input.tags.unwrap_or_default(),
        created_ms: now,
        modified_ms: now,
        asked,
    })
}

pub(super) async fn create(
    eks: Eks,
    call: Call,
    mut input: model::CreateCapabilityRequest,
) -> Result<model::CreateCapabilityResponse, ApiError> {
    let token = input.client_request_token.take();
    let asked = Asked { token, digest: digest(&input) };
    let cluster = input.cluster_name.clone().unwrap_or_default();
    find_cluster(&eks, &call, &cluster)?;
    let new = draft(&eks, &call, asked, input)?;
    let body = |txn: &mut Txn| {
        kept_cluster(txn, &call.scope, &cluster)?;
        let taken = |message: String| in_use(message).with("clusterName", cluster.clone());
        let all = txn.list::<Capability>(&keys::capabilities(&call.scope, &cluster))?;
        if let Some((_, known)) =
            all.iter().find(|(_, known)| known.kind == new.kind && known.name != new.name)
        {
            let message = format!("A capability of type {} already exists: {}", known.kind, known.name);
            return Err(taken(message).into());
        }
        let key = keys::capability(&call.scope, &cluster, &new.name);
        let in_use = taken(format!("A capability already exists with name: {}", new.name));
        insert(txn, &key, &new, |known| &known.asked, in_use)
    };
    let capability = eks.cloud.store.transact(body).await?;
    Ok(model::CreateCapabilityResponse { capability: Some(present_capability(capability, KEPT)) })
}

pub(super) async fn describe(
    eks: Eks,
    call: Call,
    input: model::DescribeCapabilityRequest,
) -> Result<model::DescribeCapabilityResponse, ApiError> {
    let (cluster, name) = (input.cluster_name.unwrap_or_default(), input.capability_name.unwrap_or_default());
    find_cluster(&eks, &call, &cluster)?;
    let found: Option<Capability> =
        eks.cloud.store.view().get_as(&keys::capability(&call.scope, &cluster, &name));
    let found = found.ok_or_else(|| missing(&cluster, &name))?;
    Ok(model::DescribeCapabilityResponse { capability: Some(present_capability(found, KEPT)) })
}

pub(super) async fn list(
    eks: Eks,
    call: Call,
    input: model::ListCapabilitiesRequest,
) -> Result<model::ListCapabilitiesResponse, ApiError> {
    let cluster = input.cluster_name.unwrap_or_default();
    find_cluster(&eks, &call, &cluster)?;
    let all = eks.cloud.store.view().list_as::<Capability>(&keys::capabilities(&call.scope, &cluster));
    let all = all.into_iter().map(|(_, known)| known).collect();
    let page =
        page(all, |known: &Capability| known.name.clone(), input.next_token.as_deref(), input.max_results)?;
    let summary = |known: Capability| model::CapabilitySummary {
        arn: Some(known.arn()),
        capability_name: Some(known.name),
        r#type: Some(known.kind),
        status: Some(KEPT.into()),
        version: None,
        created_at: Some(Timestamp(known.created_ms)),
        modified_at: Some(Timestamp(known.modified_ms)),
    };
    Ok(model::ListCapabilitiesResponse {
        capabilities: Some(page.items.into_iter().map(summary).collect()),
        next_token: page.next,
    })
}

/// What of the settings is to be another; the update's parameters.
fn change(
    known: &mut Capability,
    input: &model::UpdateCapabilityRequest,
) -> Result<Vec<(String, String)>, ApiError> {
    let mut params = Vec::new();
    if let Some(role) = &input.role_arn {
        known.role_arn.clone_from(role);
        params.push(("RoleArn".into(), role.clone()));
    }
    if let Some(policy) = &input.delete_propagation_policy {
        known.delete_propagation.clone_from(policy);
    }
    let configuration = input.configuration.clone().unwrap_or_default();
    match (configuration.argo_cd, &mut known.argo_cd) {
        (None, _) => {}
        (Some(asked), Some(settings)) => change_argo_cd(settings, asked, &mut params),
        (Some(_), None) => return Err(invalid_parameter("The capability is not of type ARGOCD")),
    }
    if let Some(asked) = configuration.ack {
        if known.kind != "ACK" {
            return Err(invalid_parameter("The capability is not of type ACK"));
        }
        let settings = known.ack.get_or_insert_default();
        if let Some(enabled) = asked.enable_cross_namespace {
            settings.enable_cross_namespace = Some(enabled);
            params.push(("EnableCrossNamespace".into(), enabled.to_string()));
        }
        if let Some(services) = asked.disabled_services {
            params.push(("DisabledServices".into(), json!(services).to_string()));
            settings.disabled_services = services;
        }
    }
    Ok(params)
}

fn change_argo_cd(
    settings: &mut ArgoCd,
    asked: model::UpdateArgoCdConfig,
    params: &mut Vec<(String, String)>,
) {
    if let Some(mappings) = asked.rbac_role_mappings {
        let (set, removed) = (
            read_mappings(mappings.add_or_update_role_mappings),
            read_mappings(mappings.remove_role_mappings),
        );
        for (what, mappings) in [("RoleMappingsToAddOrUpdate", &set), ("RoleMappingsToRemove", &removed)] {
            if !mappings.is_empty() {
                params.push((what.into(), json!(mappings).to_string()));
            }
        }
        settings.role_mappings.extend(set);
        for (role, identities) in removed {
            if let Some(known) = settings.role_mappings.get_mut(&role) {
                known.retain(|identity| !identities.contains(identity));
            }
        }
        settings.role_mappings.retain(|_, identities| !identities.is_empty());
    }
    if let Some(access) = asked.network_access {
        settings.vpc_endpoints = access.vpce_ids.unwrap_or_default();
        params.push(("NetworkAccess".into(), json!(settings.vpc_endpoints).to_string()));
    }
}

pub(super) async fn update(
    eks: Eks,
    call: Call,
    mut input: model::UpdateCapabilityRequest,
) -> Result<model::UpdateCapabilityResponse, ApiError> {
    let repeat = Repeat::of(&eks, input.client_request_token.take(), &input);
    let (cluster, name) =
        (input.cluster_name.clone().unwrap_or_default(), input.capability_name.clone().unwrap_or_default());
    find_cluster(&eks, &call, &cluster)?;
    if let Some(role) = &input.role_arn {
        check_role(&eks, &call, &cluster, role)?;
    }
    let key = keys::capability(&call.scope, &cluster, &name);
    let body = |txn: &mut Txn| {
        if let Some(known) = repeat.find(txn, &keys::updates(&call.scope, &cluster))? {
            return Ok(known);
        }
        let mut known: Capability = txn.get(&key)?.ok_or_else(|| missing(&cluster, &name))?;
        let params = change(&mut known, &input)?;
        known.modified_ms = repeat.now;
        txn.put(&key, &known)?;
        let (of, kind) = (UpdateOf::Capability(&name), UpdateType::CapabilityUpdate);
        let begun = repeat.begin(txn, (&call.scope, &cluster), of, kind, params)?;
        // Of the record: what it is of does not run.
        Repeat::end(txn, begun, Ok(()))
    };
    let update = eks.cloud.store.transact(body).await?;
    Ok(model::UpdateCapabilityResponse { update: Some(present::update(&update)) })
}

pub(super) async fn delete(
    eks: Eks,
    call: Call,
    input: model::DeleteCapabilityRequest,
) -> Result<model::DeleteCapabilityResponse, ApiError> {
    let (cluster, name) = (input.cluster_name.unwrap_or_default(), input.capability_name.unwrap_or_default());
    find_cluster(&eks, &call, &cluster)?;
    let key = keys::capability(&call.scope, &cluster, &name);
    let prefix = keys::updates(&call.scope, &cluster);
    let body = |txn: &mut Txn| {
        let known: Capability = txn.get(&key)?.ok_or_else(|| missing(&cluster, &name))?;
        txn.delete(&key);
        // All of them are settled, of which few are kept.
        updates::forget_some(txn, &prefix, UpdateOf::Capability(&name))?;
        Ok::<_, Refusal>(known)
    };
    let known = eks.cloud.store.transact(body).await?;
    Ok(model::DeleteCapabilityResponse { capability: Some(present_capability(known, "DELETING")) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(role: &str, ids: &[&str]) -> model::ArgoCdRoleMapping {
        let one = |id: &&str| model::SsoIdentity { id: Some((*id).into()), r#type: Some("SSO_USER".into()) };
        model::ArgoCdRoleMapping { role: Some(role.into()), identities: Some(ids.iter().map(one).collect()) }
    }

    #[test]
    fn mappings_are_set_by_role_and_taken_away_by_identity() {
        let mut settings = ArgoCd {
            role_mappings: read_mappings(Some(vec![
                mapping("ADMIN", &["a", "b"]),
                mapping("VIEWER", &["c"]),
            ])),
            ..ArgoCd::default()
        };
        let asked = model::UpdateArgoCdConfig {
            rbac_role_mappings: Some(model::UpdateRoleMappings {
                add_or_update_role_mappings: Some(vec![mapping("EDITOR", &["d"])]),
                remove_role_mappings: Some(vec![mapping("ADMIN", &["a"]), mapping("VIEWER", &["c"])]),
            }),
            network_access: None,
        };
        let mut params = Vec::new();
        change_argo_cd(&mut settings, asked, &mut params);
        let expected = read_mappings(Some(vec![mapping("ADMIN", &["b"]), mapping("EDITOR", &["d"])]));
        assert_eq!(settings.role_mappings, expected);
        assert_eq!(params.len(), 2);
    }
}

//! CreateNodegroup.

use super::access::NODEGROUP_SERVICE;
use super::vpc_config::find_subnets;
use super::{access_entries, unserved};
use super::{digest, find_cluster, in_use, invalid, invalid_parameter, invalid_request, is_repeat, present};
use crate::Eks;
use ekstra_cloud::access::trusts_service;
use ekstra_cloud::api::{Call, Refusal};
use ekstra_cloud::iam::{find_role, service_linked_roles};
use ekstra_domain::ec2::instance_type;
use ekstra_domain::eks::{
    Cluster, Nodegroup, NodegroupStatus, Scaling, Taint, UpdateConfig, check_label, check_nodegroup_name,
    check_scaling, check_taint,
};
use ekstra_domain::names::keys;
use ekstra_model::eks as model;
use ekstra_wire::ApiError;
use std::collections::BTreeMap;

/// Who takes the role of nodes.
const INSTANCES: &str = "ec2.amazonaws.com";
/// What a service without root says to whoever wants nodes.
const WITHOUT_ROOT: &str = "This service runs without root, and nodes need it: their namespaces, cgroups and disks. \
                            A home whose service runs as root has nodes.";
/// EKS's defaults (`spec/eks-semantics.md` §2.1).
const INSTANCE_TYPE: &str = "t3.medium";
const DISK_GIB: i32 = 20;
const ONE_AT_A_TIME: UpdateConfig =
    UpdateConfig { max_unavailable: Some(1), max_unavailable_percentage: None };
/// Kinds of image that an ekstra node stands for, on this machine's architecture; the first is the default.
const AMI_TYPES: [&str; 2] = if cfg!(target_arch = "aarch64") {
    ["AL2023_ARM_64_STANDARD", "AL2_ARM_64"]
} else {
    ["AL2023_x86_64_STANDARD", "AL2_x86_64"]
};

pub(super) async fn handle(
    eks: Eks,
    call: Call,
    mut input: model::CreateNodegroupRequest,
) -> Result<model::CreateNodegroupResponse, ApiError> {
    let token = input.client_request_token.take();
    let asked = digest(&input);
    let cluster = find_cluster(&eks, &call, &input.cluster_name.clone().unwrap_or_default())?;
    if eks.cloud.settings.rootless {
        return Err(invalid_request(WITHOUT_ROOT));
    }
    let group = draft(&eks, &call, &cluster, input, token, asked)?;
    let cluster_key = keys::cluster(&call.scope, &cluster.name);
    let key = keys::nodegroup(&call.scope, &cluster.name, &group.name);
    let group = eks
        .cloud
        .store
        .transact(|txn| {
            if let Some(existing) = txn.get::<Nodegroup>(&key)? {
                let known = existing.request_token.as_ref();
                if is_repeat(
                    group.request_token.as_ref(),
                    &group.request_digest,
                    known,
                    &existing.request_digest,
                ) {
                    return Ok(existing);
                }
                let message = format!(
                    "NodeGroup already exists with name {} and cluster name {}",
                    group.name, group.cluster
                );
                return Err(Refusal::Api(in_use(message)));
            }
            let now = txn.get::<Cluster>(&cluster_key)?.filter(|now| now.uid == cluster.uid);
            let Some(now) = now.filter(|now| now.status.is_up()) else {
                let message = format!("Cluster '{}' is not in ACTIVE status", cluster.name);
                return Err(Refusal::Api(invalid_request(message)));
            };
            let account = &call.scope.account;
            service_linked_roles::ensure(&eks.cloud, account, NODEGROUP_SERVICE, txn)?;
            txn.put(&key, &group)?;
            if now.has_entries {
                access_entries::ensure_of_nodes(&eks, &now, &group.node_role, txn)?;
            }
            Ok::<_, Refusal>(group.clone())
        })
        .await?;
    Ok(model::CreateNodegroupResponse { nodegroup: Some(present::nodegroup(&group)) })
}

fn draft(
    eks: &Eks,
    call: &Call,
    cluster: &Cluster,
    input: model::CreateNodegroupRequest,
    request_token: Option<String>,
    request_digest: String,
) -> Result<Nodegroup, ApiError> {
    let name = input.nodegroup_name.clone().unwrap_or_default();
    check_nodegroup_name(&name).map_err(invalid)?;
    unserved::refuse_of_new_nodes(&input)?;
    check_version(eks, &input, cluster)?;
    let subnets = find_subnets(eks, &call.scope, &input.subnets.clone().unwrap_or_default())?;
    if subnets.is_empty() || subnets.iter().any(|s| s.vpc != cluster.vpc.vpc) {
        return Err(invalid_parameter("Subnets are required and must be in the cluster's VPC"));
    }
    let node_role = input.node_role.clone().unwrap_or_default();
    let role = find_role(&eks.cloud, &node_role)
        .filter(|role| role.account == call.scope.account)
        .ok_or_else(|| invalid_parameter(format!("The role with name {node_role} cannot be found.")))?;
    if !trusts_service(&eks.cloud, call, &role, INSTANCES, None) {
        return Err(invalid_parameter(format!(
            "Following required service principals [{INSTANCES}] were not found in the trust relationships of nodeRole {node_role}"
        )));
    }
    let now = eks.cloud.env.now_ms();
    Ok(Nodegroup {
        name,
        cluster: cluster.name.clone(),
        scope: call.scope.clone(),
        uid: eks.cloud.env.uuid(),
        status: NodegroupStatus::Creating,
        version: cluster.version.clone(),
        release_version: release_version(eks, &cluster.version),
        created_ms: now,
        modified_ms: now,
        scaling: scaling(input.scaling_config.as_ref())?,
        instance_types: instance_types(input.instance_types)?,
        subnets: subnets.into_iter().map(|s| s.id).collect(),
        node_role,
        ami_type: ami_type(input.ami_type)?,
        capacity_type: input.capacity_type.unwrap_or_else(|| "ON_DEMAND".into()),
        disk_gib: disk(input.disk_size)?,
        labels: labels(input.labels.unwrap_or_default())?,
        taints: taints(input.taints.unwrap_or_default())?,
        update_config: update_config(&input.update_config.unwrap_or_default(), &ONE_AT_A_TIME)?,
        tags: input.tags.unwrap_or_default(),
        request_token,
        request_digest,
        issues: Vec::new(),
        draining: Default::default(),
        unsynced: None,
    })
}

/// A group is of its cluster's version; older ones come with upgrades.
fn check_version(
    eks: &Eks,
    input: &model::CreateNodegroupRequest,
    cluster: &Cluster,
) -> Result<(), ApiError> {
    if let Some(version) = input.version.as_ref().filter(|v| **v != cluster.version) {
        let message = format!(
            "Requested Nodegroup release version {version} is invalid. Allowed release version is {}",
            cluster.version
        );
        return Err(invalid_parameter(message));
    }
    let allowed = release_version(eks, &cluster.version);
    if let Some(asked) = input.release_version.as_ref().filter(|asked| **asked != allowed) {
        let message = format!(
            "Requested Nodegroup release version {asked} is invalid. Allowed release version is {allowed}"
        );
        return Err(invalid_parameter(message));
    }
    Ok(())
}

/// How many nodes may be away at once: a number or a share, or as before if neither is given.
pub(super) fn update_config(
    asked: &model::NodegroupUpdateConfig,
    before: &UpdateConfig,
) -> Result<UpdateConfig, ApiError> {
    let max_unavailable = asked.max_unavailable.map(i64::from);
    let max_unavailable_percentage = asked.max_unavailable_percentage.map(i64::from);
    match (max_unavailable, max_unavailable_percentage) {
        (None, None) => Ok(before.clone()),
        (Some(_), Some(_)) => {
            let message = "Only one of maxUnavailable and maxUnavailablePercentage can be given";
            Err(invalid_parameter(message))
        }
        _ => Ok(UpdateConfig { max_unavailable, max_unavailable_percentage }),
    }
}

/// `1.36.3-20261101`: the shape that eksctl parses (`spec/clients.md` §1.6).
fn release_version(eks: &Eks, minor: &str) -> String {
    let patch = eks.offered(minor).map(|v| v.patch);
    format!("{}-20261101", patch.unwrap_or_else(|| minor.to_owned()))
}

/// EKS: two nodes when nothing is said.
fn scaling(asked: Option<&model::NodegroupScalingConfig>) -> Result<Scaling, ApiError> {
    let Some(asked) = asked else {
        return Ok(Scaling { min: 1, max: 2, desired: 2 });
    };
    let wide = |n: Option<i32>| n.map(i64::from);
    let desired = asked.desired_size.or(asked.min_size).unwrap_or(2);
    let before = Scaling {
        min: u32::try_from(asked.min_size.unwrap_or(desired).max(0)).unwrap_or(0),
        max: u32::try_from(asked.max_size.unwrap_or(desired).max(1)).unwrap_or(1),
        desired: u32::try_from(desired.max(0)).unwrap_or(0),
    };
    check_scaling(wide(asked.min_size), wide(asked.max_size), wide(asked.desired_size), before)
        .map_err(invalid)
}

fn instance_types(asked: Option<Vec<String>>) -> Result<Vec<String>, ApiError> {
    let types = asked.filter(|t| !t.is_empty()).unwrap_or_else(|| vec![INSTANCE_TYPE.to_owned()]);
    match types.iter().find(|t| instance_type(t).is_none()) {
        None => Ok(types),
        Some(unknown) => {
            Err(invalid_parameter(format!("The following supplied instance types do not exist: [{unknown}]")))
        }
    }
}

fn ami_type(asked: Option<String>) -> Result<String, ApiError> {
    let chosen = asked.unwrap_or_else(|| AMI_TYPES[0].to_owned());
    if AMI_TYPES.contains(&chosen.as_str()) {
        return Ok(chosen);
    }
    Err(invalid_parameter(format!(
        "amiType {chosen} is not supported by ekstra; it has {}",
        AMI_TYPES.join(", ")
    )))
}

fn disk(asked: Option<i32>) -> Result<u32, ApiError> {
    let gib = asked.unwrap_or(DISK_GIB);
    u32::try_from(gib)
        .ok()
        .filter(|n| (1..=16_384).contains(n))
        .ok_or_else(|| invalid_parameter(format!("diskSize {gib} must be between 1 and 16384 GiB")))
}

pub(super) fn labels(asked: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, ApiError> {
    asked.iter().try_for_each(|(key, value)| check_label(key, value)).map_err(invalid)?;
    Ok(asked)
}

pub(super) fn taints(asked: Vec<model::Taint>) -> Result<Vec<Taint>, ApiError> {
    let read = |taint: model::Taint| {
        let effect = taint.effect.unwrap_or_default();
        if !["NO_SCHEDULE", "NO_EXECUTE", "PREFER_NO_SCHEDULE"].contains(&effect.as_str()) {
            return Err(invalid_parameter(format!("Invalid taint effect {effect}")));
        }
        let key = taint.key.filter(|k| !k.is_empty());
        let key = key.ok_or_else(|| invalid_parameter("A taint needs a key"))?;
        check_taint(&key, taint.value.as_deref()).map_err(invalid)?;
        Ok(Taint { key, value: taint.value, effect })
    };
    let read: Vec<Taint> = asked.into_iter().map(read).collect::<Result<_, _>>()?;
    let twice = |(i, taint): &(usize, &Taint)| read[..*i].iter().any(|other| other.replaces(taint));
    match read.iter().enumerate().find(twice) {
        None => Ok(read),
        Some((_, taint)) => {
            let message =
                format!("Duplicate taint: a node has one of key {} and effect {}", taint.key, taint.effect);
            Err(invalid_parameter(message))
        }
    }
}

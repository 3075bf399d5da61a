//! Where a cluster's control plane stands, and who reaches it: what CreateCluster and UpdateClusterConfig check alike, and
//! what the latter changes.
//!
//! Rules: API reference, "VpcConfigRequest" and "UpdateClusterConfig"; User Guide, "Networking requirements for VPC and
//! subnets". Words of EKS's refusals: `spec/eks-semantics.md` §3.4, and what its users quote (aws/containers-roadmap#2258).

use super::invalid_parameter;
use crate::Eks;
use ekstra_cloud::api::Refusal;
use ekstra_domain::ec2::{Interface, SecurityGroup, Subnet};
use ekstra_domain::eks::{Cluster, ControlPlaneSlot, UpdateType, VpcAccess};
use ekstra_domain::names::{Scope, keys};
use ekstra_domain::prefix::Prefix;
use ekstra_model::eks as model;
use ekstra_store::Txn;
use ekstra_wire::ApiError;
use serde_json::json;
use std::collections::BTreeSet;

/// A control plane has interfaces in two zones.
pub(super) const ZONES: usize = 2;

/// What an update says that it changes.
pub(super) type Params = Vec<(String, String)>;

/// At most 40 (`spec/eks-semantics.md` §3.4); everybody when none are given.
pub(super) fn check_cidrs(asked: Option<Vec<String>>) -> Result<Vec<String>, ApiError> {
    let cidrs = asked.filter(|c| !c.is_empty()).unwrap_or_else(|| vec!["0.0.0.0/0".to_owned()]);
    let bad: Vec<String> = cidrs.iter().filter(|c| c.parse::<Prefix>().is_err()).cloned().collect();
    if !bad.is_empty() {
        let list = bad.join(", ");
        return Err(invalid_parameter(format!(
            "The following CIDRs are invalid in publicAccessCidrs: {list}"
        )));
    }
    if cidrs.len() > 40 {
        return Err(invalid_parameter("publicAccessCidrs can have at most 40 entries"));
    }
    Ok(cidrs)
}

pub(super) fn find_subnets(eks: &Eks, scope: &Scope, ids: &[String]) -> Result<Vec<Subnet>, ApiError> {
    let view = eks.cloud.store.view();
    let find = |id: &String| {
        view.get_as::<Subnet>(&keys::subnet(scope, id))
            .ok_or_else(|| invalid_parameter(format!("The subnet ID '{id}' does not exist")))
    };
    ids.iter().map(find).collect()
}

/// Those for a cluster: in one VPC and in zones enough.
pub(super) fn cluster_subnets(eks: &Eks, scope: &Scope, ids: &[String]) -> Result<Vec<Subnet>, ApiError> {
    let subnets = find_subnets(eks, scope, ids)?;
    if zones(&subnets).len() < ZONES {
        return Err(invalid_parameter("Subnets specified must be in at least two different AZs"));
    }
    if subnets.iter().any(|subnet| subnet.vpc != subnets[0].vpc) {
        return Err(invalid_parameter("Subnets specified must be in the same VPC"));
    }
    Ok(subnets)
}

fn no_such_group(id: &str) -> ApiError {
    invalid_parameter(format!("The security group ID '{id}' does not exist"))
}

fn zones(subnets: &[Subnet]) -> BTreeSet<&str> {
    subnets.iter().map(|subnet| subnet.zone.as_str()).collect()
}

/// Groups of a control plane's interfaces beside the cluster's own (`spec/eks-semantics.md` §3.11).
const MOST_GROUPS: usize = 4;

/// Further groups of a control plane's interfaces, each once.
pub(super) fn check_security_groups(
    eks: &Eks,
    scope: &Scope,
    vpc: &str,
    ids: &[String],
) -> Result<Vec<String>, ApiError> {
    let view = eks.cloud.store.view();
    let ids: BTreeSet<&String> = ids.iter().collect();
    if ids.len() > MOST_GROUPS {
        return Err(invalid_parameter(format!("A cluster can have at most {MOST_GROUPS} security groups")));
    }
    let mut strange = Vec::new();
    for id in &ids {
        let group: SecurityGroup =
            view.get_as(&keys::security_group(scope, id)).ok_or_else(|| no_such_group(id))?;
        if group.vpc != vpc {
            strange.push(id.as_str());
        }
    }
    if strange.is_empty() {
        return Ok(ids.into_iter().cloned().collect());
    }
    Err(invalid_parameter(format!(
        "Security group(s) [{}] are not in the same VPC as the subnets. Please specify a security group that is associated with the VPC: {vpc}.",
        strange.join(", ")
    )))
}

/// The groups that a control plane's interfaces are in.
pub(super) fn interface_groups(access: &VpcAccess) -> Vec<String> {
    [std::slice::from_ref(&access.cluster_security_group), &access.security_groups].concat()
}

/// What the call makes of the cluster's access: who reaches the endpoint, or where the interfaces are. One of them.
pub(super) fn change(
    eks: &Eks,
    cluster: &Cluster,
    asked: &model::VpcConfigRequest,
) -> Result<(UpdateType, Params, VpcAccess), ApiError> {
    let moves = asked.subnet_ids.is_some() || asked.security_group_ids.is_some();
    let opens = asked.endpoint_public_access.is_some()
        || asked.endpoint_private_access.is_some()
        || asked.public_access_cidrs.is_some();
    if moves && opens {
        return Err(invalid_parameter("Only one type of update can be allowed."));
    }
    let (kind, params, after) =
        if moves { placement(eks, cluster, asked)? } else { endpoint(&cluster.vpc, asked)? };
    if after == cluster.vpc {
        return Err(invalid_parameter("Cluster is already at the desired configuration"));
    }
    Ok((kind, params, after))
}

/// Enforced at the front door, which follows the record.
fn endpoint(
    before: &VpcAccess,
    asked: &model::VpcConfigRequest,
) -> Result<(UpdateType, Params, VpcAccess), ApiError> {
    let mut vpc = before.clone();
    vpc.public_access = asked.endpoint_public_access.unwrap_or(vpc.public_access);
    vpc.private_access = asked.endpoint_private_access.unwrap_or(vpc.private_access);
    if !vpc.public_access && !vpc.private_access {
        return Err(invalid_parameter("Private and public endpoint access cannot both be disabled"));
    }
    if asked.public_access_cidrs.is_some() {
        vpc.public_cidrs = check_cidrs(asked.public_access_cidrs.clone())?;
    }
    let params = vec![
        ("EndpointPublicAccess".to_owned(), vpc.public_access.to_string()),
        ("EndpointPrivateAccess".to_owned(), vpc.private_access.to_string()),
        ("PublicAccessCidrs".to_owned(), list(&vpc.public_cidrs)),
    ];
    Ok((UpdateType::EndpointAccessUpdate, params, vpc))
}

/// The zones stay those that the cluster was created in.
fn placement(
    eks: &Eks,
    cluster: &Cluster,
    asked: &model::VpcConfigRequest,
) -> Result<(UpdateType, Params, VpcAccess), ApiError> {
    let (scope, mut vpc) = (&cluster.scope, cluster.vpc.clone());
    if let Some(ids) = &asked.subnet_ids {
        let subnets = cluster_subnets(eks, scope, ids)?;
        if subnets[0].vpc != vpc.vpc {
            return Err(invalid_parameter(format!(
                "Provided subnets belong to the VPC {}. But they should belong to the VPC {} of the cluster.",
                subnets[0].vpc, vpc.vpc
            )));
        }
        let before = find_subnets(eks, scope, &vpc.subnets)?;
        let (had, has) = (zones(&before), zones(&subnets));
        if had != has {
            let text = |zones: BTreeSet<&str>| zones.into_iter().collect::<Vec<_>>().join(",");
            return Err(invalid_parameter(format!(
                "Provided subnets belong to the AZs '{}'. But they should belong to the exact set of AZs '{}' in which subnets were provided during cluster creation.",
                text(has),
                text(had)
            )));
        }
        let set = |ids: &[String]| ids.iter().cloned().collect::<BTreeSet<_>>();
        if set(ids) != set(&vpc.subnets) {
            return Err(invalid_parameter("ekstra cannot move a control plane to other subnets yet"));
        }
    }
    if let Some(ids) = &asked.security_group_ids {
        let own = &vpc.cluster_security_group;
        let further: Vec<String> = ids.iter().filter(|id| *id != own).cloned().collect();
        vpc.security_groups = check_security_groups(eks, scope, &vpc.vpc, &further)?;
    }
    let params = vec![
        ("Subnets".to_owned(), list(&vpc.subnets)),
        ("SecurityGroups".to_owned(), list(&vpc.security_groups)),
    ];
    Ok((UpdateType::VpcConfigUpdate, params, vpc))
}

/// As EKS puts lists into updates.
fn list(texts: &[String]) -> String {
    json!(texts).to_string()
}

/// Brings the interfaces of a cluster's control plane into its groups.
pub(super) fn regroup(cluster: &Cluster, txn: &mut Txn) -> Result<(), Refusal> {
    let Some(slot) = txn.get::<ControlPlaneSlot>(&keys::slot(&cluster.slot))? else { return Ok(()) };
    // One that has gone since it was looked at.
    for id in &cluster.vpc.security_groups {
        if !txn.exists(&keys::security_group(&cluster.scope, id)) {
            return Err(no_such_group(id).into());
        }
    }
    for id in &slot.interfaces {
        let key = keys::interface(&cluster.scope, id);
        if let Some(interface) = txn.get::<Interface>(&key)? {
            let security_groups = interface_groups(&cluster.vpc);
            txn.put(&key, &Interface { security_groups, ..interface })?;
        }
    }
    Ok(())
}

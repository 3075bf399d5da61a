//! Who a token's bearer is to a cluster.
//!
//! Source: `spec/eks-semantics.md` §3.8: access entries say who is who, where a cluster has them. Where it has not, the
//! creator is an administrator. After both comes the ConfigMap `aws-auth`, unless the mode is `API`. A node role's sessions
//! are nodes, named by their instance.

use crate::{Gate, now};
use ekstra_domain::ec2::Instance;
use ekstra_domain::eks::{AccessEntry, AuthenticationMode, AwsAuth, Bearer, Cluster, NODE_KINDS, Nodegroup};
use ekstra_domain::iam::{AccessKey, Credential, Principal};
use ekstra_domain::names::keys;
use ekstra_wire::sigv4::{self, SecretKey};

/// The user of a TokenReview.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) groups: Vec<String>,
    pub(crate) principal: Principal,
    pub(crate) access_key: String,
}

/// `Err` says why, for the log; the bearer is told nothing.
pub(crate) fn authenticate(gate: &Gate, cluster: &Cluster, token: &str) -> Result<User, String> {
    let lookup = |id: &str, session: Option<&str>| {
        let found = credential(gate, id, session)?;
        Some((SecretKey::new(found.secret.0).expiring(found.expires), found.principal))
    };
    let verified = sigv4::verify_eks_token(token, &cluster.name, lookup, now()).map_err(|e| e.to_string())?;
    let (_, principal) = verified.found;
    let (name, groups) = map(gate, cluster, &principal, &verified.access_key)
        .ok_or_else(|| format!("{} has no access", principal.arn))?;
    Ok(User { name, groups, principal, access_key: verified.access_key })
}

fn credential(gate: &Gate, id: &str, session: Option<&str>) -> Option<Credential> {
    gate.master.credential(id, session, |id| gate.view.shared::<AccessKey>(&keys::access_key(id)))
}

fn map(
    gate: &Gate,
    cluster: &Cluster,
    principal: &Principal,
    access_key: &str,
) -> Option<(String, Vec<String>)> {
    let canonical = principal.canonical_arn();
    let instance = instance_of(gate, cluster, principal, &canonical);
    // Whoever is of another account is known by the ConfigMap, if at all.
    if principal.account != cluster.scope.account {
        return by_config_map(gate, cluster, principal, access_key, None);
    }
    match entry_of(gate, cluster, &canonical).filter(|_| cluster.has_entries) {
        Some(entry) if !NODE_KINDS.contains(&entry.kind.as_str()) => {
            return Some((entry.username_of(principal.session_name()), entry.groups));
        }
        // Nodes are let in by their role's entry.
        Some(_) => return as_node(gate, cluster, &instance?),
        None => {}
    }
    if !cluster.has_entries && cluster.creator_is_admin && canonical == cluster.creator_arn {
        return Some((principal.arn.clone(), vec!["system:masters".into()]));
    }
    // Nodes of managed groups come before the map: it has no line for them, and may name the whole account.
    let node = instance.as_ref().filter(|_| !cluster.has_entries);
    node.and_then(|instance| as_node(gate, cluster, instance))
        .or_else(|| by_config_map(gate, cluster, principal, access_key, instance.as_ref()))
}

/// The instance that lives and whose role's own session this is. Who assumes the role and calls the session as the instance
/// is called has another principal behind the same name, but cannot be told from it: as at AWS, a role that nodes have is
/// theirs.
fn instance_of(gate: &Gate, cluster: &Cluster, principal: &Principal, canonical: &str) -> Option<Instance> {
    let instance: Instance = gate.view.get_as(&keys::instance(&cluster.scope, principal.session_name()?))?;
    let is_of_role = role_name(instance.role_arn.as_deref()?)? == role_name(canonical)?;
    (is_of_role && instance.state.is_alive()).then_some(instance)
}

fn by_config_map(
    gate: &Gate,
    cluster: &Cluster,
    principal: &Principal,
    access_key: &str,
    instance: Option<&Instance>,
) -> Option<(String, Vec<String>)> {
    if cluster.authentication_mode == AuthenticationMode::Api {
        return None;
    }
    let map: AwsAuth = gate.view.get_as(&keys::aws_auth(&cluster.scope, &cluster.name))?;
    map.user(&Bearer {
        canonical_arn: &principal.canonical_arn(),
        account: &principal.account,
        session: principal.session_name(),
        access_key,
        private_dns_name: instance.map(|instance| instance.private_dns_name.as_str()),
    })
}

/// Of a node group of this cluster.
fn as_node(gate: &Gate, cluster: &Cluster, instance: &Instance) -> Option<(String, Vec<String>)> {
    let groups = gate.view.list_as::<Nodegroup>(&keys::nodegroups(&cluster.scope, &cluster.name));
    let is_its = |group: &Nodegroup| {
        Some(&group.node_role) == instance.role_arn.as_ref()
            && instance.tags.get("ekstra:nodegroup-uid") == Some(&group.uid)
    };
    groups.iter().any(|(_, group)| is_its(group)).then(|| {
        let groups = vec!["system:bootstrappers".to_owned(), "system:nodes".to_owned()];
        (format!("system:node:{}", instance.private_dns_name), groups)
    })
}

/// The access entry of whom tokens call so.
pub(crate) fn entry_of(gate: &Gate, cluster: &Cluster, canonical_arn: &str) -> Option<AccessEntry> {
    let all = gate.view.list_as::<AccessEntry>(&keys::access_entries(&cluster.scope, &cluster.name));
    all.into_iter().map(|(_, entry)| entry).find(|entry| entry.is_of(canonical_arn))
}

fn role_name(arn: &str) -> Option<String> {
    arn.parse::<ekstra_domain::names::Arn>().ok()?.role_name().map(str::to_owned)
}

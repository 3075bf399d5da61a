//! Who a token's bearer is to a cluster.
//!
//! Source: `spec/eks-semantics.md` §3.8: access entries say who is who, where a cluster has them. Where it has not, the
//! creator is an administrator. A node role's sessions are nodes, named by their instance.

use crate::{Gate, now};
use ekstra_domain::ec2::Instance;
use ekstra_domain::eks::{AccessEntry, Cluster, NODE_KINDS, Nodegroup};
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
        credential(gate, id, session).map(|found| SecretKey::new(found.secret.0).expiring(found.expires))
    };
    let verified =
        sigv4::verify_eks_token(token, &cluster.name, &lookup, now()).map_err(|e| e.to_string())?;
    let principal = credential(gate, &verified.access_key, verified.session_token.as_deref())
        .ok_or_else(|| "the key is gone".to_owned())?
        .principal;
    if principal.account != cluster.scope.account {
        return Err(format!("{} is of another account", principal.arn));
    }
    let (name, groups) =
        map(gate, cluster, &principal).ok_or_else(|| format!("{} has no access", principal.arn))?;
    Ok(User { name, groups, principal, access_key: verified.access_key })
}

fn credential(gate: &Gate, id: &str, session: Option<&str>) -> Option<Credential> {
    gate.master.credential(id, session, |id| gate.view.get_as::<AccessKey>(&keys::access_key(id)))
}

fn map(gate: &Gate, cluster: &Cluster, principal: &Principal) -> Option<(String, Vec<String>)> {
    let canonical = principal.canonical_arn();
    let entry = if cluster.has_entries { entry_of(gate, cluster, &canonical) } else { None };
    match &entry {
        Some(entry) if !NODE_KINDS.contains(&entry.kind.as_str()) => {
            return Some((entry.username_of(principal.session_name()), entry.groups.clone()));
        }
        // Nodes are let in by their role's entry.
        None if cluster.has_entries => return None,
        None if cluster.creator_is_admin && canonical == cluster.creator_arn => {
            return Some((principal.arn.clone(), vec!["system:masters".into()]));
        }
        _ => {}
    }
    let instance: Instance = gate.view.get_as(&keys::instance(&cluster.scope, principal.session_name()?))?;
    let role_arn = instance.role_arn.as_deref()?;
    let same_role = role_name(role_arn)? == role_name(&canonical)?;
    let of_group =
        gate.view.list_as::<Nodegroup>(&keys::nodegroups(&cluster.scope, &cluster.name)).into_iter().any(
            |(_, group)| {
                group.node_role == role_arn && instance.tags.get("ekstra:nodegroup-uid") == Some(&group.uid)
            },
        );
    if !same_role || !of_group || !instance.state.is_alive() {
        return None;
    }
    let groups = vec!["system:bootstrappers".to_owned(), "system:nodes".to_owned()];
    Some((format!("system:node:{}", instance.private_dns_name), groups))
}

/// The access entry of whom tokens call so.
pub(crate) fn entry_of(gate: &Gate, cluster: &Cluster, canonical_arn: &str) -> Option<AccessEntry> {
    let all = gate.view.list_as::<AccessEntry>(&keys::access_entries(&cluster.scope, &cluster.name));
    all.into_iter().map(|(_, entry)| entry).find(|entry| entry.is_of(canonical_arn))
}

fn role_name(arn: &str) -> Option<String> {
    arn.parse::<ekstra_domain::names::Arn>().ok()?.role_name().map(str::to_owned)
}

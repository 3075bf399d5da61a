//! Who a token's bearer is to a cluster.
//!
//! Source: `spec/eks-semantics.md` §3.8: access entries say who is who, where a cluster has them. Where it has not, the
//! creator is an administrator. After both comes the ConfigMap `aws-auth`, unless the mode is `API`. A node role's sessions
//! are nodes, named by their instance.

use crate::{Gate, now};
use ekstra_domain::ec2::Instance;
use ekstra_domain::eks::{AccessEntry, AuthenticationMode, AwsAuth, Bearer, Cluster, Nodegroup};
use ekstra_domain::iam::{AccessKey, Credential, Principal, Role, User as UserRecord};
use ekstra_domain::names::{Arn, keys};
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
    if !is_there(gate, &principal) {
        return Err(format!("{} is no longer there", principal.arn));
    }
    let (name, groups) = map(gate, cluster, &principal, &verified.access_key)
        .ok_or_else(|| format!("{} has no access", principal.arn))?;
    Ok(User { name, groups, principal, access_key: verified.access_key })
}

fn credential(gate: &Gate, id: &str, session: Option<&str>) -> Option<Credential> {
    gate.master.credential(id, session, |id| gate.view.shared::<AccessKey>(&keys::access_key(id)))
}

/// Neither a user's session outlives the user, nor a role's the role.
fn is_there(gate: &Gate, principal: &Principal) -> bool {
    let Ok(arn) = principal.arn.parse::<Arn>() else { return false };
    let id = if let Some(name) = arn.user_name() {
        gate.view.shared::<UserRecord>(&keys::user(&principal.account, name)).map(|user| user.id.clone())
    } else if let Some(name) = arn.role_name() {
        gate.view.shared::<Role>(&keys::role(&principal.account, name)).map(|role| role.id.clone())
    } else {
        return principal.is_root();
    };
    id.as_deref() == Some(principal.unique_id())
}

fn map(
    gate: &Gate,
    cluster: &Cluster,
    principal: &Principal,
    access_key: &str,
) -> Option<(String, Vec<String>)> {
    let canonical = principal.canonical_arn();
    let instance = instance_of(gate, cluster, principal, &canonical);
    match entry_of(gate, cluster, &canonical, &principal.user_id).filter(|_| cluster.has_entries) {
        Some(entry) if !entry.is_of_nodes() => {
            return Some((entry.username_of(principal.session_name()), entry.groups));
        }
        // Nodes are let in by their role's entry.
        Some(_) => return as_node(gate, cluster, &instance?),
        None => {}
    }
    // Whoever is of another account and has no entry is known by the ConfigMap, if at all.
    if principal.account != cluster.scope.account {
        return by_config_map(gate, cluster, principal, access_key, None);
    }
    let is_creator = canonical == cluster.creator_arn
        && cluster.creator_id.as_deref().is_none_or(|id| id == principal.unique_id());
    if !cluster.has_entries && cluster.creator_is_admin && is_creator {
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
    let is_of_role = role_name(instance.role_arn.as_deref()?)? == role_name(canonical)?
        && instance.role_id.as_deref().is_none_or(|id| id == principal.unique_id());
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

/// The access entry of whom tokens call so, and whose id this is.
pub(crate) fn entry_of(gate: &Gate, cluster: &Cluster, canonical_arn: &str, id: &str) -> Option<AccessEntry> {
    let all = gate.view.list_as::<AccessEntry>(&keys::access_entries(&cluster.scope, &cluster.name));
    all.into_iter().map(|(_, entry)| entry).find(|entry| entry.is_of(canonical_arn) && entry.is_of_id(id))
}

fn role_name(arn: &str) -> Option<String> {
    arn.parse::<Arn>().ok()?.role_name().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{ACCOUNT, Fixture, USER};
    use ekstra_domain::names::Scope;
    use serde_json::json;

    const ROLE: &str = "arn:aws:iam::000000000000:role/team/worker";
    const NODE_ROLE: &str = "arn:aws:iam::000000000000:role/nodes";

    fn scope() -> Scope {
        Scope::new(ACCOUNT, "us-east-1")
    }

    fn user(arn: &str) -> Principal {
        Principal {
            account: arn.split(':').nth(4).unwrap_or_default().into(),
            arn: arn.into(),
            user_id: String::new(),
        }
    }

    fn session(role: &str, name: &str) -> Principal {
        let arn = format!("arn:aws:sts::{ACCOUNT}:assumed-role/{role}/{name}");
        Principal { user_id: format!("AROATEST:{name}"), ..user(&arn) }
    }

    async fn entry(fixture: &Fixture, arn: &str, kind: &str, name: &str) {
        let id = if arn.contains(":user/") { "AIDATEST" } else { "AROATEST" };
        let entry = json!({
            "principal_id": id,
            "cluster": "c", "scope": scope(), "uid": "e", "principal_arn": arn, "kind": kind, "username": name,
            "groups": ["readers"], "tags": {}, "created_ms": 0, "modified_ms": 0, "request_token": null,
            "request_digest": "",
        });
        fixture.put(&keys::access_entry(&scope(), "c", arn), &entry).await;
    }

    /// One that lives and one that is gone, both with the role of nodes, and the group of the one that lives.
    async fn nodes(fixture: &Fixture) {
        for (id, state) in [("i-1", "running"), ("i-2", "terminated")] {
            let instance = json!({
                "id": id, "scope": scope(), "image": "", "instance_type": "", "interface": "", "address": "10.0.0.1",
                "private_dns_name": format!("{id}.ec2.internal"), "zone": "", "subnet": "", "vpc": "", "disk_gib": 1,
                "user_data": "", "role_arn": NODE_ROLE, "role_id": "AROATEST", "metadata_hop_limit": 1, "kubernetes_version": "",
                "state": state, "state_reason": null, "launched_ms": 0, "state_since_ms": 0,
                "tags": {"ekstra:nodegroup-uid": "g"},
            });
            fixture.put(&keys::instance(&scope(), id), &instance).await;
        }
        let group = json!({
            "name": "ng", "cluster": "c", "scope": scope(), "uid": "g", "status": "ACTIVE", "version": "",
            "release_version": "", "created_ms": 0, "modified_ms": 0, "scaling": {"min": 1, "max": 1, "desired": 1},
            "instance_types": [], "subnets": [], "node_role": NODE_ROLE, "ami_type": "", "capacity_type": "",
            "disk_gib": 1, "labels": {}, "taints": [], "tags": {}, "request_token": null, "request_digest": "",
            "update_config": {"max_unavailable": 1, "max_unavailable_percentage": null}, "issues": [], "draining": {},
        });
        fixture.put(&keys::nodegroup(&scope(), "c", "ng"), &group).await;
    }

    async fn config_map(fixture: &Fixture) {
        let map = json!({
            "roles": [
                {"arn": "arn:aws:iam::000000000000:role/worker", "username": "mapped:{{SessionName}}", "groups": ["mapped"]},
                {"arn": NODE_ROLE, "username": "system:node:{{EC2PrivateDNSName}}", "groups": ["system:nodes"]},
            ],
            "users": [{"arn": USER, "username": "mapped", "groups": []}],
            "accounts": ["111122223333"],
        });
        fixture.put(&keys::aws_auth(&scope(), "c"), &map).await;
    }

    /// With entries or as clusters of earlier versions are.
    fn cluster(fixture: &Fixture, mode: AuthenticationMode, has_entries: bool) -> Cluster {
        let cluster: Cluster = fixture.gate.view.get_as(&keys::cluster(&scope(), "c")).expect("is there");
        Cluster { authentication_mode: mode, has_entries, ..cluster }
    }

    #[tokio::test]
    async fn who_is_who_in_every_mode() {
        let fixture = Fixture::new();
        fixture.put_cluster(16443).await;
        nodes(&fixture).await;
        config_map(&fixture).await;
        entry(&fixture, ROLE, "STANDARD", "entry:{{SessionName}}").await;
        let (creator, stranger) = (user(USER), user("arn:aws:iam::000000000000:user/stranger"));
        let abroad = user("arn:aws:iam::111122223333:user/abroad");
        let (worker, node, gone) =
            (session("worker", "ada@home"), session("nodes", "i-1"), session("nodes", "i-2"));
        let impostor = session("worker", "i-1");
        use AuthenticationMode::{Api, ApiAndConfigMap, ConfigMap};
        const MASTER: Option<(&str, &str)> = Some((USER, "system:masters"));
        const NODE: Option<(&str, &str)> =
            Some(("system:node:i-1.ec2.internal", "system:bootstrappers system:nodes"));
        let table = [
            // Entries say it: the creator and the nodes have none here.
            (Api, true, &worker, Some(("entry:ada@home", "readers"))),
            (Api, true, &creator, None),
            (Api, true, &node, None),
            (Api, true, &abroad, None),
            (Api, true, &impostor, Some(("entry:i-1", "readers"))),
            // The map comes after them.
            (ApiAndConfigMap, true, &worker, Some(("entry:ada@home", "readers"))),
            (ApiAndConfigMap, true, &creator, Some(("mapped", ""))),
            (ApiAndConfigMap, true, &node, Some(("system:node:i-1.ec2.internal", "system:nodes"))),
            (ApiAndConfigMap, true, &gone, None),
            (ApiAndConfigMap, true, &abroad, Some(("arn:aws:iam::111122223333:user/abroad", ""))),
            (ApiAndConfigMap, true, &stranger, None),
            // Without entries: the creator is an administrator, nodes are those of the cluster's groups.
            (Api, false, &creator, MASTER),
            (Api, false, &node, NODE),
            (Api, false, &gone, None),
            (Api, false, &worker, None),
            (ConfigMap, false, &creator, MASTER),
            (ConfigMap, false, &worker, Some(("mapped:ada-home", "mapped"))),
            (ConfigMap, false, &node, NODE),
            (ConfigMap, false, &impostor, Some(("mapped:i-1", "mapped"))),
            (ConfigMap, false, &abroad, Some(("arn:aws:iam::111122223333:user/abroad", ""))),
            (ConfigMap, false, &stranger, None),
        ];
        for (mode, has_entries, who, expected) in table {
            let found = map(&fixture.gate, &cluster(&fixture, mode, has_entries), who, "AKIATEST");
            let told = found.as_ref().map(|(name, groups)| (name.as_str(), groups.join(" ")));
            let expected = expected.map(|(name, groups)| (name, groups.to_owned()));
            assert_eq!(told, expected, "{mode:?}, entries: {has_entries}, {}", who.arn);
        }
        // Whose name is given anew has no entry.
        entry(&fixture, "arn:aws:iam::000000000000:user/stranger", "STANDARD", "known").await;
        let with_entries = cluster(&fixture, Api, true);
        for (id, expected) in [("AIDATEST", Some("known")), ("AIDALATER", None)] {
            let who = Principal { user_id: id.into(), ..stranger.clone() };
            let found = map(&fixture.gate, &with_entries, &who, "AKIATEST");
            assert_eq!(found.as_ref().map(|(name, _)| name.as_str()), expected, "{id}");
        }
        // One of another account, too.
        entry(&fixture, "arn:aws:iam::111122223333:user/abroad", "STANDARD", "guest").await;
        let guest = Principal { user_id: "AIDATEST".into(), ..abroad };
        let found = map(&fixture.gate, &with_entries, &guest, "AKIATEST").map(|(name, _)| name);
        assert_eq!(found.as_deref(), Some("guest"));
        let unowned = Cluster { creator_is_admin: false, ..cluster(&fixture, Api, false) };
        assert_eq!(map(&fixture.gate, &unowned, &creator, "AKIATEST"), None);
        // Nor is who comes later the creator, or a node.
        let owned = Cluster { creator_id: Some("AIDATEST".into()), ..cluster(&fixture, Api, false) };
        for (who, id, is_known) in [
            (&creator, "AIDATEST", true),
            (&creator, "AIDALATER", false),
            (&node, "AROATEST:i-1", true),
            (&node, "AROALATER:i-1", false),
        ] {
            let who = Principal { user_id: id.into(), ..who.clone() };
            assert_eq!(map(&fixture.gate, &owned, &who, "AKIATEST").is_some(), is_known, "{id}");
        }
        // Of another cluster's group: a node of that one.
        let mut elsewhere = cluster(&fixture, Api, false);
        elsewhere.name = "d".into();
        assert_eq!(map(&fixture.gate, &elsewhere, &node, "AKIATEST"), None);
        // Nodes are let in by their role's entry, whatever name it has, and nobody else who has the role.
        entry(&fixture, NODE_ROLE, "EC2_LINUX", "unused").await;
        let (name, groups) = map(&fixture.gate, &with_entries, &node, "AKIATEST").expect("a node");
        assert_eq!((name.as_str(), groups.join(" ").as_str()), NODE.expect("it is one"));
        for other in [&gone, &session("nodes", "somebody")] {
            assert_eq!(map(&fixture.gate, &with_entries, other, "AKIATEST"), None, "{}", other.arn);
        }
    }
}

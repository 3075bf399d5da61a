//! What a managed node group needs next.
//!
//! Invariant: an instance is terminated only when it is drained or its time is up; a node that never became Ready, or
//! whose instance ended by itself, needs no draining.

use super::{DRAIN_LIMIT_SECONDS, Nodegroup, NodegroupStatus};

/// Instances that have not joined after so long make their group, or the update that asked for them, fail.
const JOIN_LIMIT_MS: i64 = 15 * 60 * 1000;

/// A refused eviction may be let through a moment later, once another pod is there.
const REFUSED_MS: i64 = 10 * 1000;

/// One of the group's instances that is not terminated yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    pub instance: String,
    pub zone: String,
    pub launched_ms: i64,
    /// How long it has been draining.
    pub draining_for_ms: i64,
    /// Running or about to; `false` once it shuts down.
    pub alive: bool,
    pub node_ready: bool,
    /// Pods that eviction has not removed yet; `None` when the API server does not say.
    pub pods_left: Option<usize>,
    /// Those of them that a disruption budget has kept at the last try.
    pub pods_kept: usize,
    /// Volumes of pods that the instance still has: a node that is gone before they are let go would keep them from
    /// their pods for minutes.
    pub volumes_left: usize,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct ObservedNodegroup {
    pub members: Vec<Member>,
    /// How long the group has been what it is: CREATING, UPDATING.
    pub unsettled_for_ms: i64,
    /// Replaces [`DRAIN_LIMIT_SECONDS`], for tests and impatient people.
    pub drain_limit_seconds: Option<i64>,
    /// No other node of the cluster could take pods.
    pub last_nodes: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodegroupAction {
    Launch {
        count: u32,
    },
    /// Cordon the node and record when draining began.
    BeginDrain {
        instance: String,
    },
    /// Evict what is still there.
    Evict {
        instance: String,
    },
    Terminate {
        instance: String,
    },
    /// Tell nodes which are there of labels and taints that an update changed.
    SyncNodes,
    MarkActive,
    /// The nodes did not join in time.
    MarkUnjoined {
        missing: u32,
    },
    Forget,
}

pub fn plan_nodegroup(group: &Nodegroup, observed: &ObservedNodegroup) -> Vec<NodegroupAction> {
    // As at AWS, a group that could not be created waits for its deletion.
    if group.status == NodegroupStatus::CreateFailed {
        return Vec::new();
    }
    let deleting = group.status == NodegroupStatus::Deleting;
    let desired = if deleting { 0 } else { group.scaling.desired };
    let mut actions = Vec::new();
    let alive: Vec<&Member> = observed.members.iter().filter(|m| m.alive).collect();
    let draining = |m: &&&Member| group.draining.contains_key(&m.instance);
    let leaving: Vec<&Member> = alive.iter().filter(draining).copied().collect();
    let mut staying: Vec<&Member> = alive.iter().filter(|m| !draining(m)).copied().collect();
    for member in &leaving {
        actions.push(drain_step(observed, member, deleting));
    }
    let surplus = staying.len().saturating_sub(desired as usize);
    sort_for_removal(&mut staying);
    for member in staying.iter().take(surplus) {
        actions.push(NodegroupAction::BeginDrain { instance: member.instance.clone() });
    }
    let missing = desired.saturating_sub(u32::try_from(staying.len()).unwrap_or(u32::MAX));
    if missing > 0 {
        actions.push(NodegroupAction::Launch { count: missing });
    }
    if deleting && observed.members.is_empty() {
        actions.push(NodegroupAction::Forget);
    }
    let ready = staying.iter().filter(|m| m.node_ready).count();
    let settled = ready >= desired as usize && surplus == 0 && missing == 0;
    actions.extend(next_status(group, observed, settled && leaving.is_empty(), ready));
    actions
}

fn next_status(
    group: &Nodegroup,
    observed: &ObservedNodegroup,
    settled: bool,
    ready: usize,
) -> Option<NodegroupAction> {
    let limit = match group.status {
        NodegroupStatus::Creating | NodegroupStatus::Updating => JOIN_LIMIT_MS,
        NodegroupStatus::Degraded => i64::MAX,
        _ => return None,
    };
    if settled && group.unsynced.is_some() {
        return Some(NodegroupAction::SyncNodes);
    }
    if settled {
        return Some(NodegroupAction::MarkActive);
    }
    let missing = group.scaling.desired.saturating_sub(u32::try_from(ready).unwrap_or(u32::MAX));
    let late = observed.unsettled_for_ms > limit;
    (late && missing > 0).then_some(NodegroupAction::MarkUnjoined { missing })
}

fn drain_step(observed: &ObservedNodegroup, member: &Member, deleting: bool) -> NodegroupAction {
    let instance = member.instance.clone();
    let limit = observed.drain_limit_seconds.unwrap_or(DRAIN_LIMIT_SECONDS);
    let late = member.draining_for_ms >= limit * 1000;
    // Budgets wait for pods to be elsewhere, and there is no elsewhere: the end is the same, minutes earlier.
    let in_vain = deleting
        && observed.last_nodes
        && member.draining_for_ms >= REFUSED_MS
        && member.pods_kept > 0
        && member.pods_left == Some(member.pods_kept);
    if late || in_vain || (member.pods_left == Some(0) && member.volumes_left == 0) {
        NodegroupAction::Terminate { instance }
    } else {
        NodegroupAction::Evict { instance }
    }
}

/// First those that do not work, then from the zone with the most, then the oldest (EC2 Auto Scaling's default
/// termination policy, without launch templates).
fn sort_for_removal(members: &mut [&Member]) {
    let zones: Vec<String> = members.iter().map(|m| m.zone.clone()).collect();
    let crowd = |zone: &str| zones.iter().filter(|z| z.as_str() == zone).count();
    members.sort_by_key(|m| (m.node_ready, usize::MAX - crowd(&m.zone), m.launched_ms, m.instance.clone()));
}

#[cfg(test)]
mod tests {
    use super::super::{Scaling, UpdateConfig};
    use super::*;
    use crate::names::Scope;
    use std::collections::BTreeMap;

    fn group(status: NodegroupStatus, desired: u32) -> Nodegroup {
        Nodegroup {
            name: "ng".into(),
            cluster: "c".into(),
            scope: Scope::new("000000000000", "us-east-1"),
            uid: "u".into(),
            status,
            version: "1.36".into(),
            release_version: String::new(),
            created_ms: 900_000,
            modified_ms: 900_000,
            scaling: Scaling { min: 0, max: 9, desired },
            instance_types: vec!["t3.medium".into()],
            subnets: vec![],
            node_role: String::new(),
            ami_type: "AL2023_x86_64_STANDARD".into(),
            capacity_type: "ON_DEMAND".into(),
            disk_gib: 20,
            labels: BTreeMap::new(),
            taints: vec![],
            update_config: UpdateConfig { max_unavailable: Some(1), max_unavailable_percentage: None },
            tags: BTreeMap::new(),
            request_token: None,
            request_digest: String::new(),
            issues: vec![],
            draining: BTreeMap::new(),
            unsynced: None,
        }
    }

    fn member(instance: &str, zone: &str, launched_ms: i64) -> Member {
        Member {
            instance: instance.into(),
            zone: zone.into(),
            launched_ms,
            draining_for_ms: 0,
            alive: true,
            node_ready: true,
            pods_left: Some(1),
            pods_kept: 0,
            volumes_left: 0,
        }
    }

    fn observed(members: Vec<Member>) -> ObservedNodegroup {
        ObservedNodegroup { members, ..ObservedNodegroup::default() }
    }

    #[test]
    fn a_new_group_launches_and_is_active_when_its_nodes_are_ready() {
        let creating = group(NodegroupStatus::Creating, 2);
        assert_eq!(plan_nodegroup(&creating, &observed(vec![])), [NodegroupAction::Launch { count: 2 }]);
        let mut late = member("i-2", "b", 2);
        late.node_ready = false;
        let members = vec![member("i-1", "a", 1), late];
        assert!(plan_nodegroup(&creating, &observed(members)).is_empty());
        let members = vec![member("i-1", "a", 1), member("i-2", "b", 2)];
        assert_eq!(plan_nodegroup(&creating, &observed(members.clone())), [NodegroupAction::MarkActive]);
        assert!(plan_nodegroup(&group(NodegroupStatus::Active, 2), &observed(members)).is_empty());
    }

    #[test]
    fn scaling_down_drains_the_oldest_of_the_fullest_zone_then_terminates() {
        let members = vec![member("i-1", "a", 1), member("i-2", "b", 2), member("i-3", "b", 3)];
        let mut updating = group(NodegroupStatus::Updating, 2);
        let plan = plan_nodegroup(&updating, &observed(members.clone()));
        assert_eq!(plan, [NodegroupAction::BeginDrain { instance: "i-2".into() }]);
        updating.draining.insert("i-2".into(), 999_000);
        let plan = plan_nodegroup(&updating, &observed(members.clone()));
        assert_eq!(plan, [NodegroupAction::Evict { instance: "i-2".into() }]);
        let mut drained = members.clone();
        drained[1].pods_left = Some(0);
        drained[1].volumes_left = 1;
        let plan = plan_nodegroup(&updating, &observed(drained.clone()));
        assert_eq!(plan, [NodegroupAction::Evict { instance: "i-2".into() }], "its volumes are let go first");
        drained[1].volumes_left = 0;
        let plan = plan_nodegroup(&updating, &observed(drained));
        assert_eq!(plan, [NodegroupAction::Terminate { instance: "i-2".into() }]);
        let mut gone = members;
        gone[1].alive = false;
        assert_eq!(plan_nodegroup(&updating, &observed(gone)), [NodegroupAction::MarkActive]);
    }

    #[test]
    fn a_drain_that_takes_too_long_ends_in_termination() {
        let mut deleting = group(NodegroupStatus::Deleting, 1);
        deleting.draining.insert("i-1".into(), 999_000);
        let slow = Member { draining_for_ms: DRAIN_LIMIT_SECONDS * 1000, ..member("i-1", "a", 1) };
        let plan = plan_nodegroup(&deleting, &observed(vec![slow]));
        assert_eq!(plan, [NodegroupAction::Terminate { instance: "i-1".into() }]);
    }

    #[test]
    fn the_last_nodes_of_a_cluster_do_not_wait_for_budgets() {
        let mut deleting = group(NodegroupStatus::Deleting, 1);
        deleting.draining.insert("i-1".into(), 999_000);
        let kept =
            Member { draining_for_ms: REFUSED_MS, pods_left: Some(2), pods_kept: 2, ..member("i-1", "a", 1) };
        let plan = |group: &Nodegroup, member: &Member, last_nodes: bool| {
            plan_nodegroup(group, &ObservedNodegroup { last_nodes, ..observed(vec![member.clone()]) })
        };
        let (terminate, evict) = (
            [NodegroupAction::Terminate { instance: "i-1".into() }],
            [NodegroupAction::Evict { instance: "i-1".into() }],
        );
        assert_eq!(plan(&deleting, &kept, true), terminate);
        assert_eq!(plan(&deleting, &kept, false), evict, "another node may take them");
        let ending = Member { pods_kept: 1, ..kept.clone() };
        assert_eq!(plan(&deleting, &ending, true), evict, "one is still ending in peace");
        let early = Member { draining_for_ms: REFUSED_MS - 1, ..kept.clone() };
        assert_eq!(plan(&deleting, &early, true), evict);
        let mut scaling = deleting.clone();
        (scaling.status, scaling.scaling.desired) = (NodegroupStatus::Updating, 0);
        assert_eq!(plan(&scaling, &kept, true), evict, "a group that stays may get nodes again");
    }

    #[test]
    fn nodes_hear_of_changed_labels_before_the_update_is_done() {
        let mut updating = group(NodegroupStatus::Updating, 1);
        updating.unsynced = Some(Default::default());
        let members = vec![member("i-1", "a", 1)];
        assert_eq!(plan_nodegroup(&updating, &observed(members.clone())), [NodegroupAction::SyncNodes]);
        updating.unsynced = None;
        assert_eq!(plan_nodegroup(&updating, &observed(members)), [NodegroupAction::MarkActive]);
    }

    #[test]
    fn nodes_that_never_join_are_not_awaited_for_ever() {
        let mut late = member("i-1", "a", 1);
        late.node_ready = false;
        let mut seen = observed(vec![late.clone()]);
        seen.unsettled_for_ms = JOIN_LIMIT_MS;
        assert!(plan_nodegroup(&group(NodegroupStatus::Creating, 1), &seen).is_empty());
        seen.unsettled_for_ms += 1;
        let unjoined = [NodegroupAction::MarkUnjoined { missing: 1 }];
        assert_eq!(plan_nodegroup(&group(NodegroupStatus::Creating, 1), &seen), unjoined);
        assert_eq!(plan_nodegroup(&group(NodegroupStatus::Updating, 1), &seen), unjoined);
        // The group goes on trying, and is well again when it succeeds.
        let degraded = group(NodegroupStatus::Degraded, 1);
        assert!(plan_nodegroup(&degraded, &seen).is_empty());
        late.node_ready = true;
        seen.members = vec![late];
        assert_eq!(plan_nodegroup(&degraded, &seen), [NodegroupAction::MarkActive]);
    }

    #[test]
    fn deletion_ends_when_no_instance_is_left() {
        let deleting = group(NodegroupStatus::Deleting, 2);
        let mut ending = member("i-1", "a", 1);
        ending.alive = false;
        assert!(plan_nodegroup(&deleting, &observed(vec![ending])).is_empty());
        assert_eq!(plan_nodegroup(&deleting, &observed(vec![])), [NodegroupAction::Forget]);
    }

    #[test]
    fn an_instance_that_ended_by_itself_is_replaced() {
        let mut ended = member("i-1", "a", 1);
        ended.alive = false;
        let active = group(NodegroupStatus::Active, 1);
        assert_eq!(plan_nodegroup(&active, &observed(vec![ended])), [NodegroupAction::Launch { count: 1 }]);
    }
}

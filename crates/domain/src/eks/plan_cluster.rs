//! What a control plane needs next. Pure: the reconciler observes, asks, applies, and asks again.
//!
//! Invariant: a converged cluster plans nothing; a deleted one plans until nothing of it is left, and the record goes
//! last.

use super::{CONTROL_PLANE_PROGRAMS, Cluster, ClusterStatus};

/// A new control plane that is not ready for so long has failed. Ten times what a slow machine needs.
const READY_LIMIT_MS: i64 = 10 * 60 * 1000;

/// What the machine shows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ObservedCluster {
    pub keys_on_disk: bool,
    pub networked: bool,
    /// Programs that run.
    pub running: Vec<String>,
    /// Of those, while the cluster is updated: programs that were started with other settings than it has now.
    pub outdated: Vec<String>,
    /// The API server takes requests of administrators: it still makes its own roles and priority classes.
    pub serving: bool,
    /// The API server answers `/readyz`. Implies `serving`.
    pub ready: bool,
    /// Built-in objects (CoreDNS, kube-proxy, roles) are applied.
    pub bootstrapped: bool,
    /// Programs of which anything is left: a process, a cgroup, a pid file.
    pub remains: Vec<String>,
    /// Interfaces, namespace or directory are left.
    pub leftovers: bool,
    pub has_nodegroups: bool,
    /// etcd ends again and again, and says that its data are damaged.
    pub data_damaged: bool,
    /// Of a new one that is not ready.
    pub unready_for_ms: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterAction {
    MakeKeys,
    MakeNetwork,
    Start(&'static str),
    /// Puts the last snapshot in the place of etcd's damaged data.
    RestoreData,
    /// Nothing to do but wait for the API server.
    AwaitReady,
    Bootstrap,
    MarkActive,
    /// The cluster was not ready in time: it is given up and waits for its deletion.
    MarkFailed,
    /// Ends the program and waits until it is gone.
    Stop(&'static str),
    RemoveLeftovers,
    Forget,
}

/// Actions that may be applied now, in order; those behind an await come with the next plan.
pub fn plan_cluster(cluster: &Cluster, observed: &ObservedCluster) -> Vec<ClusterAction> {
    match cluster.status {
        ClusterStatus::Deleting => plan_deletion(observed),
        // What failed holds nothing but its record, its logs and its keys.
        ClusterStatus::Failed => plan_stop(observed),
        ClusterStatus::Creating if !observed.ready && observed.unready_for_ms > READY_LIMIT_MS => {
            vec![ClusterAction::MarkFailed]
        }
        ClusterStatus::Creating | ClusterStatus::Active | ClusterStatus::Updating => {
            plan_running(cluster, observed)
        }
    }
}

fn plan_running(cluster: &Cluster, observed: &ObservedCluster) -> Vec<ClusterAction> {
    let mut actions = Vec::new();
    if !observed.keys_on_disk {
        actions.push(ClusterAction::MakeKeys);
    }
    if !observed.networked {
        actions.push(ClusterAction::MakeNetwork);
    }
    if observed.data_damaged {
        // What they remember of the lost data must not meet what is restored.
        let clients =
            CONTROL_PLANE_PROGRAMS.iter().rev().filter(|p| observed.running.iter().any(|r| r == **p));
        actions.extend(clients.map(|program| ClusterAction::Stop(program)));
        actions.push(ClusterAction::RestoreData);
        return actions;
    }
    let missing = |program: &&&str| !observed.running.iter().any(|r| r == **program);
    let start =
        |programs: &'static [&'static str]| programs.iter().filter(missing).map(|p| ClusterAction::Start(p));
    // The clients of the API server come after it: starting, they would take the cores from it. Once it serves, it
    // sleeps a second before it makes its roles: the time for what needs none.
    let (servers, clients) = CONTROL_PLANE_PROGRAMS.split_at(2);
    actions.extend(start(servers));
    if !observed.serving {
        actions.push(ClusterAction::AwaitReady);
        return actions;
    }
    if !observed.bootstrapped {
        actions.push(ClusterAction::Bootstrap);
    }
    actions.extend(start(clients));
    if !observed.ready {
        actions.push(ClusterAction::AwaitReady);
        return actions;
    }
    // One after another, while all the others run.
    let is_outdated = |program: &&&str| observed.outdated.iter().any(|other| other == **program);
    if let Some(program) = CONTROL_PLANE_PROGRAMS.iter().find(is_outdated) {
        actions.push(ClusterAction::Stop(program));
        return actions;
    }
    if matches!(cluster.status, ClusterStatus::Creating | ClusterStatus::Updating) {
        actions.push(ClusterAction::MarkActive);
    }
    actions
}

fn plan_deletion(observed: &ObservedCluster) -> Vec<ClusterAction> {
    if observed.has_nodegroups {
        return Vec::new();
    }
    let mut actions = plan_stop(observed);
    if observed.leftovers {
        actions.push(ClusterAction::RemoveLeftovers);
    }
    actions.push(ClusterAction::Forget);
    actions
}

fn plan_stop(observed: &ObservedCluster) -> Vec<ClusterAction> {
    let remains = |program: &&&str| observed.remains.iter().any(|r| r == **program);
    // etcd last: the others would fill their logs with complaints.
    CONTROL_PLANE_PROGRAMS.iter().rev().filter(remains).map(|p| ClusterAction::Stop(p)).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::{AuthenticationMode, Logging, VpcAccess};
    use super::*;
    use crate::names::Scope;

    pub(crate) fn cluster(status: ClusterStatus) -> Cluster {
        Cluster {
            name: "c".into(),
            scope: Scope::new("000000000000", "us-east-1"),
            uid: "u".into(),
            status,
            version: "1.36".into(),
            platform_version: "eks.1".into(),
            role_arn: String::new(),
            created_ms: 0,
            vpc: VpcAccess {
                vpc: "vpc-1".into(),
                subnets: vec![],
                security_groups: vec![],
                cluster_security_group: String::new(),
                public_access: true,
                private_access: false,
                public_cidrs: vec![],
            },
            service_cidr: "10.100.0.0/16".parse().expect("valid"),
            authentication_mode: AuthenticationMode::ConfigMap,
            creator_is_admin: true,
            creator_arn: String::new(),
            creator_id: None,
            logging: Logging::default(),
            deletion_protection: false,
            support_type: "EXTENDED".into(),
            tags: Default::default(),
            request_token: None,
            request_digest: String::new(),
            slot: "00000001".into(),
            issues: vec![],
            progress: None,
            unready_since_ms: None,
            restored: None,
            has_entries: false,
            self_managed_addons: true,
            network_by_addon: true,
            tuning: Default::default(),
        }
    }

    /// What applying an action does to what is observed next.
    fn apply(action: &ClusterAction, cluster: &mut Cluster, observed: &mut ObservedCluster) {
        match action {
            ClusterAction::MakeKeys => observed.keys_on_disk = true,
            ClusterAction::MakeNetwork => observed.networked = true,
            ClusterAction::Start(program) => observed.running.push((*program).to_owned()),
            ClusterAction::RestoreData => observed.data_damaged = false,
            ClusterAction::AwaitReady => {
                observed.ready = observed.serving;
                observed.serving = true;
            }
            ClusterAction::Bootstrap => observed.bootstrapped = true,
            ClusterAction::MarkActive => cluster.status = ClusterStatus::Active,
            ClusterAction::MarkFailed => cluster.status = ClusterStatus::Failed,
            ClusterAction::Stop(program) => {
                observed.remains.retain(|r| r != program);
                observed.running.retain(|r| r != program);
            }
            ClusterAction::RemoveLeftovers => observed.leftovers = false,
            ClusterAction::Forget => {}
        }
    }

    #[test]
    fn creation_converges_though_interrupted_after_every_action() {
        let mut cluster = cluster(ClusterStatus::Creating);
        let mut observed = ObservedCluster::default();
        let mut trace = Vec::new();
        while let Some(action) = plan_cluster(&cluster, &observed).into_iter().next() {
            apply(&action, &mut cluster, &mut observed);
            trace.push(action);
            assert!(trace.len() < 20, "{trace:?}");
        }
        assert_eq!(cluster.status, ClusterStatus::Active);
        assert_eq!(trace.first(), Some(&ClusterAction::MakeKeys));
        assert_eq!(trace.last(), Some(&ClusterAction::MarkActive));
        assert_eq!(trace.len(), 10);
        assert!(plan_cluster(&cluster, &observed).is_empty());
    }

    #[test]
    fn a_control_plane_that_is_not_ready_in_time_fails_and_its_programs_end() {
        let mut cluster = cluster(ClusterStatus::Creating);
        let mut observed = ObservedCluster {
            keys_on_disk: true,
            networked: true,
            running: CONTROL_PLANE_PROGRAMS[..2].iter().map(|p| (*p).to_owned()).collect(),
            remains: CONTROL_PLANE_PROGRAMS[..2].iter().map(|p| (*p).to_owned()).collect(),
            leftovers: true,
            unready_for_ms: READY_LIMIT_MS,
            ..Default::default()
        };
        assert_eq!(plan_cluster(&cluster, &observed), [ClusterAction::AwaitReady]);
        observed.unready_for_ms += 1;
        assert_eq!(plan_cluster(&cluster, &observed), [ClusterAction::MarkFailed]);
        cluster.status = ClusterStatus::Failed;
        let stops = [ClusterAction::Stop("kube-apiserver"), ClusterAction::Stop("etcd")];
        assert_eq!(plan_cluster(&cluster, &observed), stops);
        observed.remains.clear();
        assert!(plan_cluster(&cluster, &observed).is_empty());
        (observed.serving, observed.ready) = (true, true);
        cluster.status = ClusterStatus::Creating;
        assert!(
            !plan_cluster(&cluster, &observed).contains(&ClusterAction::MarkFailed),
            "late is not failed"
        );
    }

    #[test]
    fn programs_with_other_settings_are_exchanged_one_by_one_before_an_update_ends() {
        let cluster = cluster(ClusterStatus::Updating);
        let mut observed = ObservedCluster {
            keys_on_disk: true,
            networked: true,
            running: CONTROL_PLANE_PROGRAMS.iter().map(|p| (*p).to_owned()).collect(),
            serving: true,
            ready: true,
            bootstrapped: true,
            outdated: vec!["kube-scheduler".into(), "kube-apiserver".into()],
            ..Default::default()
        };
        assert_eq!(plan_cluster(&cluster, &observed), [ClusterAction::Stop("kube-apiserver")]);
        observed.outdated.pop();
        observed.running.retain(|program| program != "kube-apiserver");
        (observed.serving, observed.ready) = (false, false);
        let again = [ClusterAction::Start("kube-apiserver"), ClusterAction::AwaitReady];
        assert_eq!(plan_cluster(&cluster, &observed), again);
        observed.running.push("kube-apiserver".into());
        (observed.serving, observed.ready) = (true, true);
        assert_eq!(plan_cluster(&cluster, &observed), [ClusterAction::Stop("kube-scheduler")]);
        observed.outdated.clear();
        assert_eq!(plan_cluster(&cluster, &observed), [ClusterAction::MarkActive]);
    }

    #[test]
    fn an_ended_program_is_started_again() {
        let cluster = cluster(ClusterStatus::Active);
        let all = CONTROL_PLANE_PROGRAMS.iter().filter(|p| **p != "kube-scheduler");
        let observed = ObservedCluster {
            keys_on_disk: true,
            networked: true,
            running: all.map(|p| (*p).to_owned()).collect(),
            serving: true,
            ready: true,
            bootstrapped: true,
            ..Default::default()
        };
        assert_eq!(plan_cluster(&cluster, &observed), [ClusterAction::Start("kube-scheduler")]);
    }

    #[test]
    fn damaged_data_are_restored_while_nobody_uses_them() {
        let mut cluster = cluster(ClusterStatus::Active);
        let clients = &CONTROL_PLANE_PROGRAMS[1..];
        let mut observed = ObservedCluster {
            keys_on_disk: true,
            networked: true,
            running: clients.iter().map(|p| (*p).to_owned()).collect(),
            serving: true,
            ready: true,
            bootstrapped: true,
            data_damaged: true,
            ..Default::default()
        };
        let mut trace = Vec::new();
        while let Some(action) = plan_cluster(&cluster, &observed).into_iter().next() {
            apply(&action, &mut cluster, &mut observed);
            trace.push(action);
            assert!(trace.len() < 20, "{trace:?}");
        }
        let stops = clients.iter().rev().map(|program| ClusterAction::Stop(program));
        let starts = CONTROL_PLANE_PROGRAMS.iter().map(|program| ClusterAction::Start(program));
        let whole: Vec<_> = stops.chain([ClusterAction::RestoreData]).chain(starts).collect();
        assert_eq!(trace, whole);
    }

    #[test]
    fn deletion_waits_for_node_groups_and_forgets_last() {
        let cluster = cluster(ClusterStatus::Deleting);
        let mut observed = ObservedCluster {
            remains: CONTROL_PLANE_PROGRAMS.iter().map(|p| (*p).to_owned()).collect(),
            leftovers: true,
            has_nodegroups: true,
            ..Default::default()
        };
        assert!(plan_cluster(&cluster, &observed).is_empty());
        observed.has_nodegroups = false;
        let plan = plan_cluster(&cluster, &observed);
        assert_eq!(
            plan[3..],
            [ClusterAction::Stop("etcd"), ClusterAction::RemoveLeftovers, ClusterAction::Forget]
        );
    }
}

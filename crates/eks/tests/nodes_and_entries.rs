//! Node groups and access entries: what is refused, what is kept, and whose it is.

use ekstra_domain::eks::{AccessEntry, ClusterStatus, Nodegroup, NodegroupStatus, Taint};
use ekstra_domain::iam::Role;
use ekstra_domain::names::keys;
use ekstra_model::{OperationShape, eks, iam};
use ekstra_wire::ApiError;

mod served;

use served::World;

const CLUSTER: &str = "one";
const NODES: &str = "arn:aws:iam::000000000000:role/nodes";
const TRUST: &str = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"sts:AssumeRole",
    "Principal":{"Service":["eks.amazonaws.com","ec2.amazonaws.com","pods.eks.amazonaws.com"]}}]}"#;

impl World {
    /// With an ACTIVE cluster that has access entries, without its control plane.
    async fn with_cluster() -> Self {
        let world = Self::new().await;
        world.role("nodes").await;
        let subnets = Some(world.subnets());
        let create = eks::CreateClusterRequest {
            name: Some(CLUSTER.into()),
            role_arn: Some("arn:aws:iam::000000000000:role/eksClusterRole".into()),
            resources_vpc_config: Some(eks::VpcConfigRequest { subnet_ids: subnets, ..Default::default() }),
            access_config: Some(eks::CreateAccessConfigRequest {
                authentication_mode: Some("API".into()),
                ..Default::default()
            }),
            ..Default::default()
        };
        world.must(eks::ops::CreateCluster, create).await;
        world.cluster_is(CLUSTER, ClusterStatus::Active).await;
        world
    }

    async fn role(&self, name: &str) {
        let create = iam::CreateRoleRequest {
            role_name: Some(name.into()),
            assume_role_policy_document: Some(TRUST.into()),
            ..Default::default()
        };
        self.must(iam::ops::CreateRole, create).await;
    }

    fn role_id(&self, name: &str) -> String {
        let role: Role =
            self.env.cloud.store.view().get_as(&keys::role("000000000000", name)).expect("is there");
        role.id
    }

    async fn refused<O: OperationShape>(&self, operation: O, input: O::Input) -> ApiError
    where
        O::Output: std::fmt::Debug,
    {
        self.env.call(&self.router, operation, input).await.expect_err("is refused")
    }

    fn group(&self, name: &str) -> Nodegroup {
        let key = keys::nodegroup(&self.env.scope, CLUSTER, name);
        self.env.cloud.store.view().get_as(&key).expect("is there")
    }

    /// As the reconciler would leave it when nodes did not take what they were told.
    async fn degraded(&self, name: &str) {
        let group = Nodegroup { status: NodegroupStatus::Degraded, ..self.group(name) };
        let key = keys::nodegroup(&self.env.scope, CLUSTER, name);
        self.env.write(|txn| Ok(txn.put(&key, &group)?)).await;
    }

    fn entry(&self, principal: &str) -> AccessEntry {
        let key = keys::access_entry(&self.env.scope, CLUSTER, principal);
        self.env.cloud.store.view().get_as(&key).expect("is there")
    }

    fn new_group(&self, name: &str) -> eks::CreateNodegroupRequest {
        eks::CreateNodegroupRequest {
            cluster_name: Some(CLUSTER.into()),
            nodegroup_name: Some(name.into()),
            subnets: Some(self.subnets()),
            node_role: Some(NODES.into()),
            ..Default::default()
        }
    }
}

fn taint(key: &str, value: Option<&str>) -> eks::Taint {
    eks::Taint { key: Some(key.into()), value: value.map(str::to_owned), effect: Some("NO_SCHEDULE".into()) }
}

fn taints(add: Vec<eks::Taint>, remove: Vec<eks::Taint>) -> eks::UpdateNodegroupConfigRequest {
    eks::UpdateNodegroupConfigRequest {
        cluster_name: Some(CLUSTER.into()),
        nodegroup_name: Some("ng".into()),
        taints: Some(eks::UpdateTaintsPayload {
            add_or_update_taints: Some(add),
            remove_taints: Some(remove),
        }),
        ..Default::default()
    }
}

fn values(taints: &[Taint]) -> Vec<(&str, Option<&str>)> {
    taints.iter().map(|taint| (taint.key.as_str(), taint.value.as_deref())).collect()
}

fn entry_for(principal: &str, kind: &str) -> eks::CreateAccessEntryRequest {
    eks::CreateAccessEntryRequest {
        cluster_name: Some(CLUSTER.into()),
        principal_arn: Some(principal.into()),
        r#type: Some(kind.into()),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_node_has_one_taint_of_a_key_and_an_effect() {
    let world = World::with_cluster().await;
    let twice = vec![taint("a", Some("1")), taint("b", None), taint("a", Some("2"))];
    let create = eks::CreateNodegroupRequest { taints: Some(twice.clone()), ..world.new_group("ng") };
    let refused = world.refused(eks::ops::CreateNodegroup, create).await;
    assert_eq!(refused.code, "InvalidParameterException");
    let first = Some(vec![taint("a", Some("1")), taint("b", Some("1"))]);
    let create = eks::CreateNodegroupRequest { taints: first, ..world.new_group("ng") };
    world.must(eks::ops::CreateNodegroup, create).await;
    world.degraded("ng").await;
    let refused = world.refused(eks::ops::UpdateNodegroupConfig, taints(twice, vec![])).await;
    assert_eq!(refused.code, "InvalidParameterException");
    // The later of two that nodes have not been told of is the one that they are told.
    for value in ["2", "3"] {
        world.must(eks::ops::UpdateNodegroupConfig, taints(vec![taint("a", Some(value))], vec![])).await;
        world.degraded("ng").await;
    }
    let group = world.group("ng");
    assert_eq!(values(&group.taints), [("b", Some("1")), ("a", Some("3"))]);
    assert_eq!(values(&group.unsynced.expect("is to be told").taints), [("a", Some("3"))]);
    // Its value need not be said again.
    world.must(eks::ops::UpdateNodegroupConfig, taints(vec![], vec![taint("b", None)])).await;
    assert_eq!(values(&world.group("ng").taints), [("a", Some("3"))]);
}

#[tokio::test]
async fn how_many_nodes_may_be_away_is_a_number_or_a_share() {
    let world = World::with_cluster().await;
    let update = |count: Option<i32>, share: Option<i32>, desired: i32| eks::UpdateNodegroupConfigRequest {
        cluster_name: Some(CLUSTER.into()),
        nodegroup_name: Some("ng".into()),
        scaling_config: Some(eks::NodegroupScalingConfig {
            desired_size: Some(desired),
            ..Default::default()
        }),
        update_config: Some(eks::NodegroupUpdateConfig {
            max_unavailable: count,
            max_unavailable_percentage: share,
            ..Default::default()
        }),
        ..Default::default()
    };
    world.must(eks::ops::CreateNodegroup, world.new_group("ng")).await;
    for (count, share, expected) in [
        (None, None, (Some(1), None)),
        (None, Some(50), (None, Some(50))),
        (None, None, (None, Some(50))),
        (Some(2), None, (Some(2), None)),
    ] {
        world.degraded("ng").await;
        world.must(eks::ops::UpdateNodegroupConfig, update(count, share, 1)).await;
        let known = world.group("ng").update_config;
        assert_eq!((known.max_unavailable, known.max_unavailable_percentage), expected);
    }
    world.degraded("ng").await;
    let refused = world.refused(eks::ops::UpdateNodegroupConfig, update(Some(1), Some(1), 2)).await;
    assert_eq!(refused.code, "InvalidParameterException");
    assert_eq!(world.group("ng").scaling.desired, 1, "nothing of it is done");
}

#[tokio::test]
async fn nodes_of_a_role_that_was_made_anew_are_let_in() {
    let world = World::with_cluster().await;
    world.must(eks::ops::CreateNodegroup, world.new_group("first")).await;
    let before = world.role_id("nodes");
    assert_eq!(world.entry(NODES).principal_id.as_ref(), Some(&before));
    let delete = iam::DeleteRoleRequest { role_name: Some("nodes".into()) };
    world.must(iam::ops::DeleteRole, delete).await;
    world.role("nodes").await;
    world.must(eks::ops::CreateNodegroup, world.new_group("second")).await;
    let after = world.role_id("nodes");
    assert_ne!(after, before);
    assert_eq!(world.entry(NODES).principal_id, Some(after));
}

#[tokio::test]
async fn entries_of_people_are_of_every_account_and_those_of_nodes_are_roles() {
    let world = World::with_cluster().await;
    world.user("ann", "").await;
    let (ann, abroad) = ("arn:aws:iam::000000000000:user/ann", "arn:aws:iam::111122223333:role/team/guest");
    for principal in [ann, NODES, abroad, "arn:aws:iam::000000000000:root"] {
        world.must(eks::ops::CreateAccessEntry, entry_for(principal, "STANDARD")).await;
    }
    assert!(world.entry("arn:aws:iam::000000000000:root").arn().contains("/root/000000000000/root/"));
    assert!(world.entry(abroad).arn().contains("access-entry/one/role/111122223333/guest/"));
    for (principal, kind) in [
        (abroad, "EC2_LINUX"),
        (ann, "EC2_LINUX"),
        ("arn:aws:iam::000000000000:user/nobody", "STANDARD"),
        ("arn:aws:sts::000000000000:assumed-role/nodes/i-1", "STANDARD"),
        ("arn:aws:iam::000000000000:group/all", "STANDARD"),
    ] {
        let refused = world.refused(eks::ops::CreateAccessEntry, entry_for(principal, kind)).await;
        assert!(refused.message.ends_with("invalid principal."), "{principal}: {}", refused.message);
    }
    world.role("pods").await;
    let pods = "arn:aws:iam::000000000000:role/pods";
    world.must(eks::ops::CreateAccessEntry, entry_for(pods, "FARGATE_LINUX")).await;
    assert_eq!(world.entry(pods).username, "system:node:{{SessionName}}");
}

#[tokio::test]
async fn a_cluster_that_goes_takes_nothing_more() {
    let world = World::with_cluster().await;
    world.cluster_is(CLUSTER, ClusterStatus::Deleting).await;
    let refused = world.refused(eks::ops::CreateAccessEntry, entry_for(NODES, "STANDARD")).await;
    assert_eq!(refused.code, "InvalidRequestException");
    let association = eks::CreatePodIdentityAssociationRequest {
        cluster_name: Some(CLUSTER.into()),
        namespace: Some("default".into()),
        service_account: Some("app".into()),
        role_arn: Some(NODES.into()),
        ..Default::default()
    };
    let refused = world.refused(eks::ops::CreatePodIdentityAssociation, association).await;
    assert_eq!(refused.code, "InvalidRequestException");
}

#[tokio::test]
async fn insights_of_a_cluster_that_is_not_up_are_not_said_to_be_under_way() {
    let world = World::with_cluster().await;
    let asked = || eks::DescribeInsightsRefreshRequest { cluster_name: Some(CLUSTER.into()) };
    let told = world.must(eks::ops::DescribeInsightsRefresh, asked()).await;
    assert_eq!(told.status.as_deref(), Some("IN_PROGRESS"));
    world.cluster_is(CLUSTER, ClusterStatus::Failed).await;
    let start = eks::StartInsightsRefreshRequest { cluster_name: Some(CLUSTER.into()) };
    assert_eq!(world.refused(eks::ops::StartInsightsRefresh, start).await.code, "InvalidRequestException");
    let told = world.must(eks::ops::DescribeInsightsRefresh, asked()).await;
    assert_eq!(told.status.as_deref(), Some("FAILED"));
}

//! Operations through the router, on a simulated machine: what they write, what they refuse and in which words.

use ekstra_cloud::api::Router;
use ekstra_domain::ec2::{Instance, InstanceState, Subnet};
use ekstra_domain::eks::{Cluster, ClusterStatus, ControlPlaneSlot, Nodegroup, NodegroupStatus};
use ekstra_domain::names::keys;
use ekstra_eks::{ClusterReconciler, Eks, NodegroupReconciler, OfferedVersion, Programs};
use ekstra_engine::Reconciler;
use ekstra_model::OperationShape;
use ekstra_model::eks as model;
use ekstra_store::CommitError;
use ekstra_testkit::TestEnv;
use ekstra_wire::ApiError;
use model::ops;
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Debug)]
struct OneVersion;

impl Programs for OneVersion {
    fn versions(&self) -> Vec<OfferedVersion> {
        vec![OfferedVersion { minor: "1.36".into(), patch: "1.36.3".into(), default: true }]
    }

    fn control_plane(&self, _: &str, _: &str) -> Result<PathBuf, String> {
        Err("not in this test".into())
    }
}

struct World {
    env: TestEnv,
    router: Router,
    eks: Eks,
}

const ROLE: &str = "arn:aws:iam::000000000000:role/eksClusterRole";
const NODE_ROLE: &str = "arn:aws:iam::000000000000:role/eksNodeRole";

async fn world() -> World {
    let env = TestEnv::new().await;
    let eks = Eks::new(env.cloud.clone(), env.host.clone(), env.names.clone(), Arc::new(OneVersion));
    let mut router = Router::new(env.cloud.clone());
    ekstra_eks::serve(&mut router, &eks);
    World { env, router, eks }
}

impl World {
    async fn call<O: OperationShape>(&self, operation: O, input: O::Input) -> Result<O::Output, ApiError> {
        self.env.call(&self.router, operation, input).await
    }

    fn subnets(&self) -> Vec<Subnet> {
        self.env.subnets()
    }

    fn request(&self, name: &str) -> model::CreateClusterRequest {
        model::CreateClusterRequest {
            name: Some(name.into()),
            role_arn: Some(ROLE.into()),
            resources_vpc_config: Some(model::VpcConfigRequest {
                subnet_ids: Some(self.subnets().into_iter().map(|s| s.id).collect()),
                ..Default::default()
            }),
            client_request_token: Some("token".into()),
            ..Default::default()
        }
    }

    fn group(&self, cluster: &str, name: &str) -> model::CreateNodegroupRequest {
        model::CreateNodegroupRequest {
            cluster_name: Some(cluster.into()),
            nodegroup_name: Some(name.into()),
            node_role: Some(NODE_ROLE.into()),
            subnets: Some(self.subnets().into_iter().map(|s| s.id).collect()),
            ..Default::default()
        }
    }

    /// What the reconciler does when the control plane answers.
    async fn activate(&self, name: &str) {
        let key = keys::cluster(&self.env.scope, name);
        let body = |txn: &mut ekstra_store::Txn| {
            let mut cluster: Cluster = txn.get(&key)?.expect("recorded");
            cluster.status = ClusterStatus::Active;
            Ok::<_, CommitError>(txn.put(&key, &cluster)?)
        };
        self.env.write(body).await;
    }
}

fn code<T>(answer: Result<T, ApiError>) -> String {
    answer.err().map(|e| e.code).unwrap_or_else(|| "accepted".into())
}

#[tokio::test]
async fn a_cluster_is_created_once_and_described_as_eks_does() {
    let world = world().await;
    let created =
        world.call(ops::CreateCluster, world.request("c")).await.expect("created").cluster.expect("there");
    assert_eq!(created.status.as_deref(), Some("CREATING"));
    assert_eq!(created.version.as_deref(), Some("1.36"));
    assert_eq!(created.arn.as_deref(), Some("arn:aws:eks:us-east-1:000000000000:cluster/c"));
    assert_eq!(
        created.endpoint, None,
        "an endpoint before there is a certificate authority would be of no use"
    );
    let again = world.call(ops::CreateCluster, world.request("c")).await.expect("the same answer");
    assert_eq!(again.cluster.and_then(|c| c.created_at), created.created_at);
    let mut other = world.request("c");
    other.client_request_token = Some("another".into());
    assert_eq!(code(world.call(ops::CreateCluster, other).await), "ResourceInUseException");
    let mut changed = world.request("c");
    changed.deletion_protection = Some(true);
    assert_eq!(code(world.call(ops::CreateCluster, changed).await), "ResourceInUseException");
}

#[tokio::test]
async fn bad_clusters_are_refused_and_change_nothing() {
    let world = world().await;
    let before = world.env.cloud.store.view().revision();
    type Spoil = fn(&mut model::CreateClusterRequest, &World);
    let cases: [(&str, Spoil); 8] = [
        ("The cluster name", |r, _| r.name = Some("-x".into())),
        ("unsupported Kubernetes version 1.2", |r, _| r.version = Some("1.2".into())),
        ("could not be assumed", |r, _| r.role_arn = Some("arn:aws:iam::000000000000:role/nobody".into())),
        ("at least two different AZs", |r, w| {
            let first = w.subnets().into_iter().take(1).map(|s| s.id).collect();
            r.resources_vpc_config.as_mut().expect("there").subnet_ids = Some(first);
        }),
        ("The subnet ID 'subnet-0' does not exist", |r, _| {
            r.resources_vpc_config.as_mut().expect("there").subnet_ids = Some(vec!["subnet-0".into()]);
        }),
        ("invalid in publicAccessCidrs: ::/0", |r, _| {
            r.resources_vpc_config.as_mut().expect("there").public_access_cidrs = Some(vec!["::/0".into()]);
        }),
        ("service CIDR range 172.31.0.0/20 is invalid", |r, _| {
            r.kubernetes_network_config = Some(model::KubernetesNetworkConfigRequest {
                service_ipv4_cidr: Some("172.31.0.0/20".into()),
                ..Default::default()
            });
        }),
        ("ipFamily ipv6 is not supported", |r, _| {
            r.kubernetes_network_config = Some(model::KubernetesNetworkConfigRequest {
                ip_family: Some("ipv6".into()),
                ..Default::default()
            });
        }),
    ];
    for (says, spoil) in cases {
        let mut request = world.request("c");
        spoil(&mut request, &world);
        let refused = world.call(ops::CreateCluster, request).await.expect_err(says);
        assert_eq!(refused.code, "InvalidParameterException", "{says}");
        assert!(refused.message.contains(says), "{} should say: {says}", refused.message);
    }
    assert_eq!(world.env.cloud.store.view().revision(), before);
}

#[tokio::test]
async fn node_groups_belong_to_active_clusters_and_hold_them() {
    let world = world().await;
    let group = |name: &str| world.group("c", name);
    assert_eq!(code(world.call(ops::CreateNodegroup, group("g")).await), "ResourceNotFoundException");
    world.call(ops::CreateCluster, world.request("c")).await.expect("created");
    assert_eq!(code(world.call(ops::CreateNodegroup, group("g")).await), "InvalidRequestException");
    world.activate("c").await;
    let made = world.call(ops::CreateNodegroup, group("g")).await.expect("created").nodegroup.expect("there");
    let scaling = made.scaling_config.expect("there");
    assert_eq!((scaling.min_size, scaling.max_size, scaling.desired_size), (Some(1), Some(2), Some(2)));
    assert_eq!(made.instance_types, Some(vec!["t3.medium".into()]));
    assert_eq!((made.disk_size, made.status.as_deref()), (Some(20), Some("CREATING")));
    assert_eq!(code(world.call(ops::CreateNodegroup, group("g")).await), "ResourceInUseException");
    let mut template = group("h");
    template.launch_template = Some(Default::default());
    assert_eq!(code(world.call(ops::CreateNodegroup, template).await), "InvalidParameterException");
    let delete = || model::DeleteClusterRequest { name: Some("c".into()) };
    assert_eq!(code(world.call(ops::DeleteCluster, delete()).await), "ResourceInUseException");
    let delete_group =
        model::DeleteNodegroupRequest { cluster_name: Some("c".into()), nodegroup_name: Some("g".into()) };
    let gone = world.call(ops::DeleteNodegroup, delete_group).await.expect("asked").nodegroup;
    assert_eq!(gone.and_then(|g| g.status).as_deref(), Some("DELETING"));
}

#[tokio::test]
async fn a_deleted_cluster_says_so_at_once_and_protection_holds() {
    let world = world().await;
    let mut request = world.request("c");
    request.deletion_protection = Some(true);
    world.call(ops::CreateCluster, request).await.expect("created");
    world.activate("c").await;
    let delete = || model::DeleteClusterRequest { name: Some("c".into()) };
    assert_eq!(code(world.call(ops::DeleteCluster, delete()).await), "InvalidRequestException");
    let lift = model::UpdateClusterConfigRequest {
        name: Some("c".into()),
        deletion_protection: Some(false),
        ..Default::default()
    };
    let update = world.call(ops::UpdateClusterConfig, lift).await.expect("accepted").update.expect("there");
    assert_eq!(update.status.as_deref(), Some("InProgress"));
    world.activate("c").await;
    world.call(ops::DeleteCluster, delete()).await.expect("accepted");
    let described = model::DescribeClusterRequest { name: Some("c".into()) };
    let now = world.call(ops::DescribeCluster, described).await.expect("still there").cluster;
    assert_eq!(now.and_then(|c| c.status).as_deref(), Some("DELETING"));
}

#[tokio::test]
async fn lists_come_in_pages() {
    let world = world().await;
    for name in ["a", "b", "c"] {
        world.call(ops::CreateCluster, world.request(name)).await.expect("created");
    }
    let mut seen = Vec::new();
    let mut next_token = None;
    loop {
        let ask = model::ListClustersRequest { max_results: Some(2), next_token, include: None };
        let page = world.call(ops::ListClusters, ask).await.expect("listed");
        seen.extend(page.clusters.unwrap_or_default());
        next_token = page.next_token;
        if next_token.is_none() {
            break;
        }
    }
    assert_eq!(seen, ["a", "b", "c"]);
    let bad = model::ListClustersRequest { next_token: Some("x".into()), ..Default::default() };
    assert_eq!(code(world.call(ops::ListClusters, bad).await), "InvalidParameterException");
}

#[tokio::test]
async fn tags_and_scaling_are_changed_where_they_stand() {
    let world = world().await;
    world.call(ops::CreateCluster, world.request("c")).await.expect("created");
    world.activate("c").await;
    let made = world.call(ops::CreateNodegroup, world.group("c", "g")).await.expect("created").nodegroup;
    let arn = made.and_then(|g| g.nodegroup_arn).expect("there");
    let tag = model::TagResourceRequest {
        resource_arn: Some(arn.clone()),
        tags: Some([("k".to_owned(), "v".to_owned())].into()),
    };
    world.call(ops::TagResource, tag).await.expect("tagged");
    let list = model::ListTagsForResourceRequest { resource_arn: Some(arn) };
    let tags = world.call(ops::ListTagsForResource, list).await.expect("listed").tags.expect("there");
    assert_eq!(tags.get("k").map(String::as_str), Some("v"));
    let list = model::ListTagsForResourceRequest { resource_arn: Some("nonsense".into()) };
    assert_eq!(code(world.call(ops::ListTagsForResource, list).await), "BadRequestException");
    let key = keys::nodegroup(&world.env.scope, "c", "g");
    let body = |txn: &mut ekstra_store::Txn| {
        let mut group: Nodegroup = txn.get(&key)?.expect("recorded");
        group.status = NodegroupStatus::Active;
        Ok::<_, CommitError>(txn.put(&key, &group)?)
    };
    world.env.write(body).await;
    let scale = |desired: i32| model::UpdateNodegroupConfigRequest {
        cluster_name: Some("c".into()),
        nodegroup_name: Some("g".into()),
        scaling_config: Some(model::NodegroupScalingConfig {
            desired_size: Some(desired),
            ..Default::default()
        }),
        ..Default::default()
    };
    assert_eq!(code(world.call(ops::UpdateNodegroupConfig, scale(3)).await), "InvalidParameterException");
    let update =
        world.call(ops::UpdateNodegroupConfig, scale(1)).await.expect("accepted").update.expect("there");
    assert_eq!(update.r#type.as_deref(), Some("ConfigUpdate"));
    assert_eq!(code(world.call(ops::UpdateNodegroupConfig, scale(2)).await), "ResourceInUseException");
}

#[tokio::test]
async fn an_update_that_was_asked_for_twice_is_one_update() {
    let world = world().await;
    world.call(ops::CreateCluster, world.request("c")).await.expect("created");
    world.activate("c").await;
    let ask = |protect: bool| model::UpdateClusterConfigRequest {
        name: Some("c".into()),
        deletion_protection: Some(protect),
        client_request_token: Some("t".into()),
        ..Default::default()
    };
    let first = world.call(ops::UpdateClusterConfig, ask(true)).await.expect("accepted").update;
    let again = world.call(ops::UpdateClusterConfig, ask(true)).await.expect("the same answer").update;
    assert_eq!(first.and_then(|u| u.id), again.and_then(|u| u.id));
    world.activate("c").await;
    assert_eq!(code(world.call(ops::UpdateClusterConfig, ask(false)).await), "InvalidParameterException");
}

#[tokio::test]
async fn a_cluster_whose_programs_cannot_be_had_says_so_and_fails_in_the_end() {
    let world = world().await;
    world.call(ops::CreateCluster, world.request("c")).await.expect("created");
    let key = keys::cluster(&world.env.scope, "c");
    let reconciler = ClusterReconciler::new(world.eks.clone());
    let read = || world.env.cloud.store.view().get_as::<Cluster>(&key).expect("recorded");
    reconciler.reconcile(key.clone()).await.expect_err("there is no etcd");
    assert_eq!(read().status, ClusterStatus::Creating);
    assert_eq!(read().issues[0].message, "not in this test");
    // Somebody sets the clock, forward and back: nobody has waited for that.
    for hours in [24, -48] {
        world.env.clock.jump_ms(hours * 60 * 60 * 1000);
        reconciler.reconcile(key.clone()).await.expect_err("there is no etcd");
        assert_eq!(read().status, ClusterStatus::Creating);
    }
    world.env.clock.advance_ms(11 * 60 * 1000);
    reconciler.reconcile(key.clone()).await.expect("given up");
    assert_eq!(read().status, ClusterStatus::Failed);
    let delete = model::DeleteClusterRequest { name: Some("c".into()) };
    world.call(ops::DeleteCluster, delete).await.expect("a failed cluster can be deleted");
    for _ in 0..5 {
        let _ = reconciler.reconcile(key.clone()).await;
    }
    assert!(world.env.cloud.store.view().get(&key).is_none(), "nothing is left of it");
    assert!(!world.env.host.inventory().namespaces.iter().any(|n| n.contains("cp-")));
}

impl World {
    /// An active cluster with a group in `subnets`; its reconciler and its key.
    async fn with_group(&self, subnets: Vec<String>, desired: i32) -> (NodegroupReconciler, String) {
        self.call(ops::CreateCluster, self.request("c")).await.expect("created");
        self.activate("c").await;
        let cluster: Cluster =
            self.env.cloud.store.view().get_as(&keys::cluster(&self.env.scope, "c")).expect("recorded");
        let slot = keys::slot(&cluster.slot);
        let body = |txn: &mut ekstra_store::Txn| {
            let mut record: ControlPlaneSlot = txn.get(&slot)?.expect("recorded");
            record.certificate_authority = Some("PEM".into());
            Ok::<_, CommitError>(txn.put(&slot, &record)?)
        };
        self.env.write(body).await;
        let mut group = self.group("c", "g");
        group.subnets = Some(subnets);
        group.scaling_config = Some(model::NodegroupScalingConfig {
            min_size: Some(0),
            max_size: Some(9),
            desired_size: Some(desired),
        });
        self.call(ops::CreateNodegroup, group).await.expect("created");
        (NodegroupReconciler::new(self.eks.clone()), keys::nodegroup(&self.env.scope, "c", "g"))
    }

    /// A subnet with room for `nodes` instances of the smallest types.
    async fn small_subnet(&self, id: &str, cidr: &str) -> String {
        let like = self.subnets().remove(0);
        let small = Subnet { id: id.into(), cidr: cidr.parse().expect("valid"), ..like };
        let key = keys::subnet(&self.env.scope, id);
        let body = |txn: &mut ekstra_store::Txn| Ok::<_, CommitError>(txn.put(&key, &small)?);
        self.env.write(body).await;
        small.id
    }

    fn instances(&self) -> Vec<Instance> {
        let prefix = keys::scoped(keys::INSTANCES, &self.env.scope);
        self.env.cloud.store.view().list_as(&prefix).into_iter().map(|(_, instance)| instance).collect()
    }
}

#[tokio::test]
async fn a_full_subnet_is_passed_over_while_another_has_room() {
    let world = world().await;
    let small = world.small_subnet("subnet-small", "172.31.255.192/26").await;
    let roomy = world.subnets()[0].id.clone();
    let (reconciler, key) = world.with_group(vec![small.clone(), roomy.clone()], 6).await;
    reconciler.reconcile(key).await.expect("launches");
    let of = |subnet: &str| world.instances().iter().filter(|i| i.subnet == subnet).count();
    assert_eq!((of(&small), of(&roomy)), (1, 5), "a /26 has two free /28 blocks: one node");
    assert!(world.instances().iter().all(|i| i.state == InstanceState::Pending));
}

#[tokio::test]
async fn what_does_not_fit_fails_the_update_and_not_the_group_for_good() {
    let world = world().await;
    let small = world.small_subnet("subnet-small", "172.31.255.192/26").await;
    let (reconciler, key) = world.with_group(vec![small], 1).await;
    reconciler.reconcile(key.clone()).await.expect("launches");
    let set = |status: NodegroupStatus| {
        let key = key.clone();
        move |txn: &mut ekstra_store::Txn| {
            let mut group: Nodegroup = txn.get(&key)?.expect("recorded");
            group.status = status;
            Ok::<_, CommitError>(txn.put(&key, &group)?)
        }
    };
    world.env.write(set(NodegroupStatus::Active)).await;
    let scale = |desired: i32| model::UpdateNodegroupConfigRequest {
        cluster_name: Some("c".into()),
        nodegroup_name: Some("g".into()),
        scaling_config: Some(model::NodegroupScalingConfig {
            desired_size: Some(desired),
            ..Default::default()
        }),
        ..Default::default()
    };
    let update = world.call(ops::UpdateNodegroupConfig, scale(3)).await.expect("accepted").update;
    reconciler.reconcile(key.clone()).await.expect("tries");
    let ask = model::DescribeUpdateRequest {
        name: Some("c".into()),
        update_id: update.and_then(|u| u.id),
        nodegroup_name: Some("g".into()),
        ..Default::default()
    };
    let failed = world.call(ops::DescribeUpdate, ask).await.expect("there").update.expect("there");
    assert_eq!(failed.status.as_deref(), Some("Failed"));
    let errors = failed.errors.expect("there");
    assert_eq!(errors[0].error_code.as_deref(), Some("InsufficientFreeAddresses"));
    let read = || world.env.cloud.store.view().get_as::<Nodegroup>(&key).expect("recorded");
    assert_eq!(read().status, NodegroupStatus::Degraded);
    assert_eq!(read().issues[0].code, "InsufficientFreeAddresses");
    assert_eq!(world.instances().len(), 1, "what runs goes on running");
    world.call(ops::UpdateNodegroupConfig, scale(1)).await.expect("a degraded group can be changed");
}

#[tokio::test]
async fn changed_labels_are_remembered_until_nodes_have_been_told() {
    let world = world().await;
    let (_, key) = world.with_group(vec![world.subnets()[0].id.clone()], 1).await;
    let read = || world.env.cloud.store.view().get_as::<Nodegroup>(&key).expect("recorded");
    let change = |add: &[(&str, &str)], remove: &[&str]| model::UpdateNodegroupConfigRequest {
        cluster_name: Some("c".into()),
        nodegroup_name: Some("g".into()),
        labels: Some(model::UpdateLabelsPayload {
            add_or_update_labels: Some(add.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()),
            remove_labels: Some(remove.iter().map(|k| (*k).into()).collect()),
        }),
        ..Default::default()
    };
    for (add, remove) in [(vec![("a", "1"), ("b", "1")], vec![]), (vec![("c", "1")], vec!["a"])] {
        let body = |txn: &mut ekstra_store::Txn| {
            let mut group: Nodegroup = txn.get(&key)?.expect("recorded");
            group.status = NodegroupStatus::Active;
            Ok::<_, CommitError>(txn.put(&key, &group)?)
        };
        world.env.write(body).await;
        world.call(ops::UpdateNodegroupConfig, change(&add, &remove)).await.expect("accepted");
    }
    let told = read().unsynced.expect("nobody has told the nodes");
    assert_eq!(told.labels.keys().collect::<Vec<_>>(), ["b", "c"]);
    assert_eq!(told.remove_labels, ["a"]);
    assert_eq!(read().labels.len(), 2);
}

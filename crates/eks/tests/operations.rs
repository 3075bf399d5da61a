//! Operations through the router, on a simulated machine: what they write, what they refuse and in which words.

use ekstra_cloud::api::{Call, Router};
use ekstra_cloud::{Cloud, Settings, ensure_scope};
use ekstra_domain::ec2::Subnet;
use ekstra_domain::eks::{Cluster, ClusterStatus, Nodegroup, NodegroupStatus};
use ekstra_domain::iam::{MasterKey, Principal};
use ekstra_domain::names::{Scope, keys};
use ekstra_eks::{Eks, OfferedVersion, Programs};
use ekstra_engine::Env;
use ekstra_host::Names;
use ekstra_host::sim::SimHost;
use ekstra_model::eks as model;
use ekstra_model::{OperationShape, Shape};
use ekstra_store::{CommitError, Store};
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

    fn etcd(&self) -> Result<PathBuf, String> {
        Err("not in this test".into())
    }

    fn kube_control(&self, _: &str) -> Result<PathBuf, String> {
        Err("not in this test".into())
    }
}

struct World {
    _home: tempfile::TempDir,
    cloud: Cloud,
    router: Router,
    scope: Scope,
}

const ROLE: &str = "arn:aws:iam::000000000000:role/eksClusterRole";
const NODE_ROLE: &str = "arn:aws:iam::000000000000:role/eksNodeRole";

async fn world() -> World {
    let home = tempfile::tempdir().expect("tempdir");
    let cloud = Cloud {
        store: Store::open(&home.path().join("state.db")).expect("opens"),
        env: Env::system(),
        master: MasterKey([1; 32]),
        settings: Arc::new(Settings {
            home_id: "beef".into(),
            address: [169, 254, 80, 1].into(),
            port: 4566,
            registry_port: 4567,
            first_cluster_port: 16443,
            transit: "198.18.0.0/24".parse().expect("valid"),
            mtu: 1500,
            region: "us-east-1".into(),
        }),
        home: home.path().to_owned(),
        router_use: Arc::default(),
    };
    let scope = Scope::new("000000000000", "us-east-1");
    ensure_scope(&cloud, &scope).await.expect("furnished");
    let names = Names { home_id: "beef".into() };
    let eks = Eks::new(cloud.clone(), Arc::new(SimHost::default()), names, Arc::new(OneVersion));
    let mut router = Router::default();
    ekstra_eks::serve(&mut router, &eks);
    World { _home: home, cloud, router, scope }
}

impl World {
    async fn call<O: OperationShape>(&self, _: O, input: O::Input) -> Result<O::Output, ApiError> {
        let principal = Principal {
            account: self.scope.account.clone(),
            arn: "arn:aws:iam::000000000000:user/admin".into(),
            user_id: "AIDAX".into(),
        };
        let call = Call { principal, scope: self.scope.clone(), request_id: "r".into() };
        let answer = self.router.call("eks", O::OPERATION.name, call, input.to_value()).expect("served");
        answer.await.map(|value| O::Output::from_value(value).expect("fits"))
    }

    fn subnets(&self) -> Vec<Subnet> {
        let all = self.cloud.store.view().list_as::<Subnet>(&keys::scoped(keys::SUBNETS, &self.scope));
        let mut subnets: Vec<Subnet> = all.into_iter().map(|(_, subnet)| subnet).collect();
        subnets.sort_by(|a, b| a.zone.cmp(&b.zone));
        subnets
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
        let key = keys::cluster(&self.scope, name);
        let body = |txn: &mut ekstra_store::Txn| {
            let mut cluster: Cluster = txn.get(&key)?.expect("recorded");
            cluster.status = ClusterStatus::Active;
            Ok::<_, CommitError>(txn.put(&key, &cluster)?)
        };
        self.cloud.store.transact(body).await.expect("written");
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
    let before = world.cloud.store.view().revision();
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
    assert_eq!(world.cloud.store.view().revision(), before);
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
    let key = keys::nodegroup(&world.scope, "c", "g");
    let body = |txn: &mut ekstra_store::Txn| {
        let mut group: Nodegroup = txn.get(&key)?.expect("recorded");
        group.status = NodegroupStatus::Active;
        Ok::<_, CommitError>(txn.put(&key, &group)?)
    };
    world.cloud.store.transact(body).await.expect("written");
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

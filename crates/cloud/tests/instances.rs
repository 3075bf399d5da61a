//! The instance reconciler on a simulated machine: it converges, whichever of its steps fails first.

use ekstra_cloud::api::Refusal;
use ekstra_cloud::ec2::instances::{InstanceReconciler, Launch, MachineImages, launch, terminate};
use ekstra_cloud::{Cloud, Settings, ensure_scope};
use ekstra_domain::ec2::{Instance, InstanceState, Interface, Subnet};
use ekstra_domain::iam::MasterKey;
use ekstra_domain::names::{Scope, keys};
use ekstra_engine::{Env, Reconciler};
use ekstra_host::sim::{Inventory, SimHost};
use ekstra_host::{ChildId, Host, Names};
use ekstra_store::Store;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug)]
struct NoImages;

impl MachineImages for NoImages {
    fn layers(&self, _: &str) -> Result<Vec<PathBuf>, String> {
        Ok(vec!["/layer".into()])
    }
}

struct World {
    _home: tempfile::TempDir,
    cloud: Cloud,
    host: Arc<SimHost>,
    reconciler: InstanceReconciler,
    scope: Scope,
}

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
    let host = Arc::new(SimHost::default());
    let reconciler = InstanceReconciler {
        cloud: cloud.clone(),
        host: host.clone(),
        names: Names { home_id: "beef".into() },
        images: Arc::new(NoImages),
    };
    World { _home: home, cloud, host, reconciler, scope }
}

impl World {
    async fn launch(&self) -> Instance {
        let subnets = self.cloud.store.view().list_as::<Subnet>(&keys::scoped(keys::SUBNETS, &self.scope));
        let body = |txn: &mut ekstra_store::Txn| {
            let new = Launch {
                subnet: &subnets[0].1,
                instance_type: "m5.large",
                image: "ami".into(),
                kubernetes_version: "1.36".into(),
                disk_gib: 20,
                user_data: String::new(),
                role_arn: None,
                security_groups: Vec::new(),
                metadata_hop_limit: 1,
                tags: Default::default(),
            };
            launch(&self.cloud, txn, new)
        };
        self.cloud.store.transact::<_, Refusal>(body).await.expect("launched")
    }

    fn key(&self, instance: &Instance) -> String {
        keys::instance(&self.scope, &instance.id)
    }

    fn read(&self, instance: &Instance) -> Instance {
        self.cloud.store.view().get_as(&self.key(instance)).expect("recorded")
    }

    /// Steps until the state is reached. A running instance is watched, which is a call that does not return.
    async fn drive(&self, instance: &Instance, state: InstanceState) {
        for _ in 0..20 {
            if self.read(instance).state == state {
                return;
            }
            let step = self.reconciler.reconcile(self.key(instance));
            let _ = tokio::time::timeout(Duration::from_secs(5), step).await.expect("no step hangs here");
        }
        panic!("still {:?}", self.read(instance));
    }

    async fn terminate(&self, instance: &Instance) {
        let key = self.key(instance);
        let body = |txn: &mut ekstra_store::Txn| terminate(&self.cloud, txn, &key);
        self.cloud.store.transact::<_, Refusal>(body).await.expect("asked");
    }
}

#[tokio::test]
async fn boots_and_goes_whichever_step_fails() {
    let mut steps = 0;
    for fail_at in 0.. {
        let world = world().await;
        let instance = world.launch().await;
        world.host.fail_at(fail_at);
        world.drive(&instance, InstanceState::Running).await;
        let up = world.host.inventory();
        assert_eq!(up.children.len(), 1, "{up:?}");
        assert_eq!((up.namespaces.len(), up.interfaces.len(), up.disks.len()), (2, 1, 1), "{up:?}");
        world.terminate(&instance).await;
        world.drive(&instance, InstanceState::Terminated).await;
        let down = world.host.inventory();
        let router = up.namespaces.iter().find(|n| n.contains("vpc")).cloned();
        let expected = Inventory { namespaces: router.into_iter().collect(), ..Default::default() };
        assert_eq!(down, expected, "failed at {fail_at}");
        let interfaces =
            world.cloud.store.view().list_as::<Interface>(&keys::scoped(keys::INTERFACES, &world.scope));
        assert!(interfaces.is_empty(), "addresses are free again");
        if world.host.is_failure_pending() {
            break;
        }
        steps = fail_at + 1;
    }
    assert_eq!(steps, 9, "five steps up, four down");
}

#[tokio::test]
async fn a_machine_that_ends_by_itself_is_cleaned_up_and_says_why() {
    let world = world().await;
    let instance = world.launch().await;
    world.drive(&instance, InstanceState::Running).await;
    world.host.end(&ChildId(instance.id.clone()));
    world.drive(&instance, InstanceState::Terminated).await;
    assert_eq!(world.read(&instance).state_reason.as_deref(), Some("the machine ended by itself"));
    assert!(world.host.inventory().children.is_empty());
}

#[tokio::test]
async fn after_everything_was_taken_down_it_boots_again() {
    let world = world().await;
    let instance = world.launch().await;
    world.drive(&instance, InstanceState::Running).await;
    world.host.remove_child(&ChildId(instance.id.clone()), Duration::ZERO).expect("removed");
    world.reconciler.reconcile(world.key(&instance)).await.expect("seen");
    assert_eq!(world.read(&instance).state, InstanceState::Pending);
    world.drive(&instance, InstanceState::Running).await;
    assert_eq!(world.host.inventory().children.len(), 1);
}

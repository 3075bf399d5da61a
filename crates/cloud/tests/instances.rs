//! The instance reconciler on a simulated machine: it converges, whichever of its steps fails first.

use ekstra_cloud::api::Refusal;
use ekstra_cloud::ec2::instances::{InstanceReconciler, Launch, MachineImages, launch, terminate};
use ekstra_domain::ec2::{Instance, InstanceState, Interface};
use ekstra_domain::names::keys;
use ekstra_engine::Reconciler;
use ekstra_host::sim::Inventory;
use ekstra_host::{ChildId, Host};
use ekstra_testkit::TestEnv;
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
    env: TestEnv,
    reconciler: InstanceReconciler,
}

async fn world() -> World {
    let env = TestEnv::new().await;
    let reconciler = InstanceReconciler {
        cloud: env.cloud.clone(),
        host: env.host.clone(),
        names: env.names.clone(),
        images: Arc::new(NoImages),
    };
    World { env, reconciler }
}

impl World {
    async fn launch(&self) -> Instance {
        let subnets = self.env.subnets();
        let body = |txn: &mut ekstra_store::Txn| {
            let new = Launch {
                subnet: &subnets[0],
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
            launch(&self.env.cloud, txn, new)
        };
        self.env.cloud.store.transact::<_, Refusal>(body).await.expect("launched")
    }

    fn key(&self, instance: &Instance) -> String {
        keys::instance(&self.env.scope, &instance.id)
    }

    fn read(&self, instance: &Instance) -> Instance {
        self.env.cloud.store.view().get_as(&self.key(instance)).expect("recorded")
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
        let body = |txn: &mut ekstra_store::Txn| terminate(&self.env.cloud, txn, &key);
        self.env.cloud.store.transact::<_, Refusal>(body).await.expect("asked");
    }
}

#[tokio::test]
async fn boots_and_goes_whichever_step_fails() {
    let mut steps = 0;
    for fail_at in 0.. {
        let world = world().await;
        let instance = world.launch().await;
        world.env.host.fail_at(fail_at);
        world.drive(&instance, InstanceState::Running).await;
        let up = world.env.host.inventory();
        assert_eq!(up.children.len(), 1, "{up:?}");
        assert_eq!((up.namespaces.len(), up.interfaces.len(), up.disks.len()), (2, 1, 1), "{up:?}");
        world.terminate(&instance).await;
        world.drive(&instance, InstanceState::Terminated).await;
        let down = world.env.host.inventory();
        let router = up.namespaces.iter().find(|n| n.contains("vpc")).cloned();
        let expected = Inventory { namespaces: router.into_iter().collect(), ..Default::default() };
        assert_eq!(down, expected, "failed at {fail_at}");
        let interfaces = world
            .env
            .cloud
            .store
            .view()
            .list_as::<Interface>(&keys::scoped(keys::INTERFACES, &world.env.scope));
        assert!(interfaces.is_empty(), "addresses are free again");
        if world.env.host.is_failure_pending() {
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
    world.env.host.end(&ChildId(instance.id.clone()));
    world.drive(&instance, InstanceState::Terminated).await;
    assert_eq!(world.read(&instance).state_reason.as_deref(), Some("the machine ended by itself"));
    assert!(world.env.host.inventory().children.is_empty());
}

#[tokio::test]
async fn after_everything_was_taken_down_it_boots_again() {
    let world = world().await;
    let instance = world.launch().await;
    world.drive(&instance, InstanceState::Running).await;
    world.env.host.remove_child(&ChildId(instance.id.clone()), Duration::ZERO).expect("removed");
    world.reconciler.reconcile(world.key(&instance)).await.expect("seen");
    assert_eq!(world.read(&instance).state, InstanceState::Pending);
    world.drive(&instance, InstanceState::Running).await;
    assert_eq!(world.env.host.inventory().children.len(), 1);
}

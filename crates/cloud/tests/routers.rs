//! Routers and their numbers, of which a home has 128.

use ekstra_cloud::api::Refusal;
use ekstra_cloud::ec2::network::{NewInterface, create_interface, router_of};
use ekstra_cloud::ec2::routers::RouterReconciler;
use ekstra_cloud::{Cloud, ensure_scope};
use ekstra_domain::ec2::{Attachment, Interface, Subnet, Vpc};
use ekstra_domain::names::{Scope, keys};
use ekstra_engine::Reconciler;
use ekstra_host::Host;
use ekstra_host::sim::SimHost;
use ekstra_store::CommitError;
use ekstra_testkit::TestEnv;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

const NUMBERS: usize = 128;

struct World {
    cloud: Cloud,
    host: Arc<SimHost>,
    reconciler: RouterReconciler,
    _env: TestEnv,
}

async fn world() -> World {
    let env = TestEnv::new().await;
    let (cloud, host, names) = (env.cloud.clone(), env.host.clone(), env.names.clone());
    let reconciler = RouterReconciler { cloud: cloud.clone(), host: host.clone(), names };
    World { cloud, host, reconciler, _env: env }
}

impl World {
    /// An interface in the default VPC of an account.
    async fn connect(&self, account: usize) -> Result<Interface, Refusal> {
        let scope = Scope::new(format!("{account:012}"), "us-east-1");
        ensure_scope(&self.cloud, &scope).await?;
        let subnets = self.cloud.store.view().list_as::<Subnet>(&keys::scoped(keys::SUBNETS, &scope));
        let body = |txn: &mut ekstra_store::Txn| {
            let new = NewInterface {
                subnet: &subnets[0].1,
                prefixes: 0,
                security_groups: Vec::new(),
                attachment: Attachment::ControlPlane { slot: "s".into() },
                device_index: 0,
            };
            create_interface(&self.cloud, txn, new)
        };
        self.cloud.store.transact::<_, Refusal>(body).await
    }

    async fn disconnect(&self, interface: &Interface) {
        let body = |txn: &mut ekstra_store::Txn| {
            txn.delete(&keys::interface(&interface.scope, &interface.id));
            Ok::<_, CommitError>(())
        };
        self.cloud.store.transact(body).await.expect("deleted");
    }

    fn vpc(&self, interface: &Interface) -> Vpc {
        self.cloud.store.view().get_as(&keys::vpc(&interface.scope, &interface.vpc)).expect("recorded")
    }

    fn make_router(&self, interface: &Interface) {
        let names = &self.reconciler.names;
        let router = router_of(&self.cloud, names, &interface.scope, &interface.vpc).expect("has a number");
        self.host.ensure_router(&router).expect("made");
    }

    async fn reconcile(&self, interface: &Interface) {
        let step = self.reconciler.reconcile(keys::vpc(&interface.scope, &interface.vpc));
        tokio::time::timeout(Duration::from_secs(5), step).await.expect("waits for nobody").expect("seen");
    }
}

#[tokio::test]
async fn numbers_are_for_vpcs_in_use_and_running_out_of_them_is_an_answer() {
    let world = world().await;
    let mut interfaces = Vec::new();
    for number in 0..NUMBERS {
        interfaces.push(world.connect(number).await.expect("there is room"));
    }
    let numbers: BTreeSet<_> = interfaces.iter().filter_map(|i| world.vpc(i).number).collect();
    assert_eq!(numbers.len(), NUMBERS);
    match world.connect(NUMBERS).await {
        Err(Refusal::Api(error)) => assert_eq!(error.code, "VpcLimitExceeded"),
        other => panic!("{other:?}"),
    }
    world.connect(7).await.expect("a VPC that has a router needs no number");
    let (gone, freed) = (&interfaces[5], world.vpc(&interfaces[5]).number);
    world.disconnect(gone).await;
    world.reconcile(gone).await;
    assert_eq!(world.vpc(gone).number, None);
    let next = world.connect(NUMBERS).await.expect("there is room again");
    assert_eq!(world.vpc(&next).number, freed);
}

#[tokio::test]
async fn a_router_goes_with_its_last_interface_whichever_step_fails() {
    let world = world().await;
    let first = world.connect(0).await.expect("connected");
    let second = world.connect(0).await.expect("connected");
    world.make_router(&first);
    world.disconnect(&first).await;
    world.reconcile(&first).await;
    assert_eq!(world.host.inventory().namespaces.len(), 1, "the other interface needs it");
    world.disconnect(&second).await;
    world.host.fail_at(0);
    let key = keys::vpc(&second.scope, &second.vpc);
    world.reconciler.reconcile(key).await.expect_err("the host fails");
    assert!(world.vpc(&second).number.is_some(), "a router that may be there keeps its number");
    world.reconcile(&second).await;
    assert_eq!(world.host.inventory().namespaces.len(), 0);
    assert_eq!(world.vpc(&second).number, None);
}

#[tokio::test]
async fn whoever_connects_is_not_waited_for_where_nothing_is_to_be_done() {
    let world = world().await;
    let used = world.connect(0).await.expect("connected");
    let unused = world.connect(1).await.expect("connected");
    world.disconnect(&unused).await;
    world.reconcile(&unused).await;
    let _connecting = world.cloud.router_use.read().await;
    world.reconcile(&used).await;
    world.reconcile(&unused).await;
}

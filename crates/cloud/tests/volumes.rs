//! Volumes and snapshots on a simulated machine: they converge, whichever step fails first, and follow their instances.

use ekstra_cloud::api::Refusal;
use ekstra_cloud::ec2::instances::{Launch, launch};
use ekstra_cloud::ec2::volumes::{
    NewVolume, SnapshotReconciler, VolumeReconciler, attach, create, create_snapshot, delete,
    delete_snapshot, detach, find, find_snapshot,
};
use ekstra_domain::ec2::{Instance, InstanceState, SnapshotState, Volume, VolumeState, performance};
use ekstra_domain::names::keys;
use ekstra_engine::Reconciler;
use ekstra_host::{ChildId, ChildSpec, Host, Limits};
use ekstra_model::ec2 as model;
use ekstra_testkit::TestEnv;
use std::time::Duration;

struct World {
    env: TestEnv,
    volumes: VolumeReconciler,
    snapshots: SnapshotReconciler,
}

async fn world() -> World {
    let env = TestEnv::new().await;
    let volumes = VolumeReconciler { cloud: env.cloud.clone(), host: env.host.clone() };
    let snapshots = SnapshotReconciler::new(env.cloud.clone(), env.host.clone());
    World { env, volumes, snapshots }
}

impl World {
    fn new_volume(&self, snapshot: Option<String>) -> NewVolume {
        NewVolume {
            scope: self.env.scope.clone(),
            zone: "us-east-1a".into(),
            size_gib: 1,
            performance: performance("gp3", 1, None, None).expect("allowed"),
            snapshot,
            tags: Default::default(),
            token: None,
            digest: String::new(),
        }
    }

    async fn create(&self) -> String {
        create(&self.env.cloud, self.new_volume(None)).await.expect("recorded").id
    }

    /// In that zone's subnet, as if it had booted.
    async fn instance(&self, zone: usize) -> Instance {
        let subnets = self.env.subnets();
        let body = |txn: &mut ekstra_store::Txn| {
            let new = Launch {
                subnet: &subnets[zone],
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
            let mut instance = launch(&self.env.cloud, txn, new)?;
            instance.advance(InstanceState::Running, 1);
            txn.put(&keys::instance(&instance.scope, &instance.id), &instance)?;
            Ok(instance)
        };
        let instance = self.env.cloud.store.transact::<_, Refusal>(body).await.expect("launched");
        let spec = ChildSpec {
            id: ChildId(instance.id.clone()),
            program: "/x".into(),
            args: Vec::new(),
            env: Vec::new(),
            namespace: None,
            log: "/x".into(),
            limits: Limits::default(),
            etc: None,
            sandbox: None,
        };
        self.env.host.ensure_child(&spec).expect("boots");
        instance
    }

    fn volume(&self, id: &str) -> Option<Volume> {
        find(&self.env.cloud, &self.env.scope, id)
    }

    /// Steps until it is so.
    async fn drive(&self, id: &str, done: impl Fn(Option<&Volume>) -> bool) {
        let key = keys::volume(&self.env.scope, id);
        for _ in 0..20 {
            if done(self.volume(id).as_ref()) {
                return;
            }
            let step = self.volumes.reconcile(key.clone());
            let _ = tokio::time::timeout(Duration::from_secs(5), step).await.expect("no step hangs");
        }
        panic!("still {:?}", self.volume(id));
    }

    async fn drive_snapshot(&self, id: &str, done: impl Fn(Option<SnapshotState>) -> bool) {
        let state = || find_snapshot(&self.env.cloud, &self.env.scope, id).map(|s| s.state);
        for _ in 0..20 {
            if done(state()) {
                return;
            }
            let _ = self.snapshots.reconcile(keys::snapshot(&self.env.scope, id)).await;
        }
        panic!("still {:?}", state());
    }
}

fn is(state: VolumeState) -> impl Fn(Option<&Volume>) -> bool {
    move |volume| volume.is_some_and(|v| v.state == state)
}

fn attached(volume: Option<&Volume>) -> bool {
    volume.and_then(|v| v.attachment.as_ref()).is_some_and(|a| a.state.wire() == "attached")
}

fn code(refusal: Refusal) -> String {
    match refusal {
        Refusal::Api(error) => error.code,
        Refusal::Store(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn made_attached_copied_and_deleted_whichever_step_fails() {
    let mut steps = 0;
    for fail_at in 0.. {
        let world = world().await;
        let (cloud, scope) = (&world.env.cloud, &world.env.scope);
        let instance = world.instance(0).await;
        world.env.host.fail_at(fail_at);
        let id = world.create().await;
        world.drive(&id, is(VolumeState::Available)).await;
        attach(cloud, scope, &id, &instance.id, "/dev/xvdba").await.expect("asked");
        world.drive(&id, attached).await;
        assert_eq!(world.env.host.inventory().attached.len(), 1);
        let snapshot = create_snapshot(cloud, scope, &id, String::new(), Default::default()).await;
        let snapshot = snapshot.expect("asked").id;
        world.drive_snapshot(&snapshot, |state| state == Some(SnapshotState::Completed)).await;
        detach(cloud, scope, &id, Some(&instance.id)).await.expect("asked");
        world.drive(&id, is(VolumeState::Available)).await;
        delete(cloud, scope, &id).await.expect("asked");
        world.drive(&id, |volume| volume.is_none()).await;
        delete_snapshot(cloud, scope, &snapshot).await.expect("asked");
        world.drive_snapshot(&snapshot, |state| state.is_none()).await;
        let left = world.env.host.inventory();
        assert!(left.volumes.is_empty() && left.attached.is_empty(), "failed at {fail_at}: {left:?}");
        if world.env.host.is_failure_pending() {
            break;
        }
        steps = fail_at + 1;
    }
    assert_eq!(steps, 6, "made, attached, copied, detached, removed, its copy removed");
}

#[tokio::test]
async fn an_instance_that_ends_or_boots_again_is_followed() {
    let world = world().await;
    let (cloud, scope) = (&world.env.cloud, &world.env.scope);
    let instance = world.instance(0).await;
    let id = world.create().await;
    world.drive(&id, is(VolumeState::Available)).await;
    attach(cloud, scope, &id, &instance.id, "/dev/xvdba").await.expect("asked");
    world.drive(&id, attached).await;
    let changed = keys::instance(scope, &instance.id);
    assert_eq!(world.volumes.affected(&changed), [keys::volume(scope, &id)]);

    world.env.host.detach_all_volumes(&cloud.home).expect("the host is rebooted");
    world.volumes.reconcile(keys::volume(scope, &id)).await.expect("seen");
    assert_eq!(world.env.host.inventory().attached.len(), 1, "it has its device again");

    world
        .env
        .write(|txn| {
            let mut instance = txn.get::<Instance>(&changed)?.expect("recorded");
            instance.advance(InstanceState::ShuttingDown, 2);
            txn.put(&changed, &instance)?;
            Ok(())
        })
        .await;
    world.drive(&id, is(VolumeState::Available)).await;
    assert!(world.env.host.inventory().attached.is_empty());
}

#[tokio::test]
async fn refusals_have_ec2s_codes_and_change_nothing() {
    let world = world().await;
    let (cloud, scope) = (&world.env.cloud, &world.env.scope);
    let (here, elsewhere) = (world.instance(0).await, world.instance(1).await);
    let id = world.create().await;
    let refused = attach(cloud, scope, &id, &here.id, "/dev/xvdba").await.expect_err("it is being made");
    assert_eq!(code(refused), "IncorrectState");
    world.drive(&id, is(VolumeState::Available)).await;
    let refused = attach(cloud, scope, &id, &elsewhere.id, "/dev/xvdba").await.expect_err("another zone");
    assert_eq!(code(refused), "InvalidVolume.ZoneMismatch");
    let refused = attach(cloud, scope, &id, "i-0", "/dev/xvdba").await.expect_err("no such instance");
    assert_eq!(code(refused), "InvalidInstanceID.NotFound");
    assert_eq!(code(detach(cloud, scope, &id, None).await.expect_err("not attached")), "IncorrectState");
    attach(cloud, scope, &id, &here.id, "/dev/xvdba").await.expect("asked");
    let second = world.create().await;
    world.drive(&second, is(VolumeState::Available)).await;
    let refused = attach(cloud, scope, &second, &here.id, "/dev/xvdba").await.expect_err("taken");
    assert_eq!(code(refused), "InvalidParameterValue");
    assert_eq!(code(delete(cloud, scope, &id).await.expect_err("in use")), "VolumeInUse");
    let refused = detach(cloud, scope, &id, Some(&elsewhere.id)).await.expect_err("not there");
    assert_eq!(code(refused), "InvalidAttachment.NotFound");
    let refused = create(cloud, world.new_volume(Some("snap-0".into()))).await.expect_err("no snapshot");
    assert_eq!(code(refused), "InvalidSnapshot.NotFound");
    assert_eq!(cloud.store.view().list(keys::VOLUMES).len(), 2);
}

#[tokio::test]
async fn a_volume_waits_for_the_snapshot_that_is_made_of_it() {
    let world = world().await;
    let (cloud, scope) = (&world.env.cloud, &world.env.scope);
    let id = world.create().await;
    world.drive(&id, is(VolumeState::Available)).await;
    let snapshot =
        create_snapshot(cloud, scope, &id, String::new(), Default::default()).await.expect("asked");
    delete(cloud, scope, &id).await.expect("asked");
    world.volumes.reconcile(keys::volume(scope, &id)).await.expect("seen");
    assert!(world.volume(&id).is_some(), "its content is being copied");
    world.drive_snapshot(&snapshot.id, |state| state == Some(SnapshotState::Completed)).await;
    world.drive(&id, |volume| volume.is_none()).await;
    let restored = create(cloud, world.new_volume(Some(snapshot.id))).await.expect("made of it");
    world.drive(&restored.id, is(VolumeState::Available)).await;
}

#[tokio::test]
async fn operations_answer_in_ec2s_shapes() {
    let world = world().await;
    let router = world.env.router();
    let request = model::CreateVolumeRequest {
        availability_zone: Some("us-east-1a".into()),
        size: Some(5),
        client_token: Some("t".into()),
        ..Default::default()
    };
    let made = world.env.call(&router, model::ops::CreateVolume, request.clone()).await.expect("made");
    let again = world.env.call(&router, model::ops::CreateVolume, request.clone()).await.expect("repeated");
    assert_eq!(made.volume_id, again.volume_id);
    assert_eq!((made.volume_type.as_deref(), made.state.as_deref()), (Some("gp2"), Some("creating")));
    let other = model::CreateVolumeRequest { size: Some(6), ..request };
    let refused = world.env.call(&router, model::ops::CreateVolume, other).await.expect_err("other words");
    assert_eq!(refused.code, "IdempotentParameterMismatch");
    let dry = model::DeleteVolumeRequest { volume_id: made.volume_id.clone(), dry_run: Some(true) };
    let told = world.env.call(&router, model::ops::DeleteVolume, dry).await.expect_err("a dry run");
    assert_eq!(told.code, "DryRunOperation");
    let described = world.env.call(&router, model::ops::DescribeVolumes, Default::default()).await;
    assert_eq!(described.expect("described").volumes.map(|v| v.len()), Some(1));
}

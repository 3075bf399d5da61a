//! Instances: launching writes a record; the reconciler makes the machine, or takes it away.

use super::network::{NewInterface, create_interface, interface_spec, router_of};
use crate::api::Refusal;
use crate::iam::principal_id;
use crate::{Cloud, on_host};
use ekstra_domain::ec2::{Attachment, Instance, InstanceState, Interface, Subnet, instance_type};
use ekstra_domain::names::keys;
use ekstra_engine::{Next, Reconciler, blocking};
use ekstra_host::{
    ChildId, ChildSpec, ChildStatus, DiskSpec, Host, HostError, Limits, Names, RouterSpec, Sandbox,
    child_exit,
};
use ekstra_store::{CommitError, Txn};
use ekstra_wire::ApiError;
use futures::FutureExt;
use futures::future::BoxFuture;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Addresses of a /28 that pods can have: `host-local` keeps the network, gateway and broadcast ones.
const PODS_PER_PREFIX: u32 = 13;
/// A terminated instance is still described for this long.
const REMEMBERED: i64 = 60 * 60 * 1000;
/// How long an instance may take to end by itself.
const STOP_GRACE: Duration = Duration::from_secs(4);
/// Before conclusions are drawn from an end: when the host goes down, everything gets its signal at the same time, and
/// the service is to end before it takes that for the end of its instances.
const SECOND_LOOK: Duration = Duration::from_millis(250);

/// What RunInstances would be asked for.
#[derive(Clone, Debug)]
pub struct Launch<'a> {
    pub subnet: &'a Subnet,
    pub instance_type: &'a str,
    pub image: String,
    pub kubernetes_version: String,
    pub disk_gib: u32,
    pub user_data: String,
    pub role_arn: Option<String>,
    pub security_groups: Vec<String>,
    pub metadata_hop_limit: u8,
    pub tags: BTreeMap<String, String>,
}

/// Records a pending instance and its interface.
pub fn launch(cloud: &Cloud, txn: &mut Txn, launch: Launch<'_>) -> Result<Instance, Refusal> {
    let size = instance_type(launch.instance_type).ok_or_else(|| {
        let message = format!("The instance type '{}' does not exist", launch.instance_type);
        ApiError::client("InvalidInstanceType", 400, message)
    })?;
    let id = cloud.env.ec2_id("i");
    let new = NewInterface {
        subnet: launch.subnet,
        // Two of the pods use the node's own address (kube-proxy, and a CNI or monitoring agent).
        prefixes: size.max_pods().saturating_sub(2).div_ceil(PODS_PER_PREFIX) as usize,
        security_groups: launch.security_groups,
        attachment: Attachment::Instance { id: id.clone() },
        device_index: 0,
    };
    let interface = create_interface(cloud, txn, new)?;
    let scope = launch.subnet.scope.clone();
    let now = cloud.env.now_ms();
    let instance = Instance {
        private_dns_name: scope.private_dns_name(interface.address),
        id,
        image: launch.image,
        instance_type: launch.instance_type.to_owned(),
        interface: interface.id,
        address: interface.address,
        zone: launch.subnet.zone.clone(),
        subnet: launch.subnet.id.clone(),
        vpc: launch.subnet.vpc.clone(),
        disk_gib: launch.disk_gib,
        user_data: launch.user_data,
        // Of a role that is not there: nobody's.
        role_id: launch.role_arn.as_deref().map(|arn| principal_id(cloud, arn).unwrap_or_default()),
        role_arn: launch.role_arn,
        metadata_hop_limit: launch.metadata_hop_limit,
        kubernetes_version: launch.kubernetes_version,
        state: InstanceState::Pending,
        state_reason: None,
        launched_ms: now,
        state_since_ms: now,
        tags: launch.tags,
        scope,
    };
    txn.put(&keys::instance(&instance.scope, &instance.id), &instance)?;
    Ok(instance)
}

/// Asks for the instance's end.
pub fn terminate(cloud: &Cloud, txn: &mut Txn, key: &str) -> Result<(), Refusal> {
    if let Some(mut instance) = txn.get::<Instance>(key)?
        && instance.advance(InstanceState::ShuttingDown, cloud.env.now_ms())
    {
        txn.put(key, &instance)?;
    }
    Ok(())
}

/// Where machine images come from.
pub trait MachineImages: Send + Sync + std::fmt::Debug {
    /// Read-only layers of a node's root, the topmost first. May take minutes the first time.
    fn layers(&self, kubernetes_version: &str) -> Result<Vec<PathBuf>, String>;
}

/// Keeps every instance's machine as its record says.
#[derive(Debug)]
pub struct InstanceReconciler {
    pub cloud: Cloud,
    pub host: Arc<dyn Host>,
    pub names: Names,
    pub images: Arc<dyn MachineImages>,
}

#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Store(#[from] CommitError),
    #[error("machine image: {0}")]
    Image(String),
    #[error("{0} is not recorded")]
    Unrecorded(String),
}

impl Reconciler for InstanceReconciler {
    type Error = InstanceError;

    fn name(&self) -> &'static str {
        "instance"
    }

    fn keys(&self) -> Vec<String> {
        self.cloud.store.view().list(keys::INSTANCES).into_iter().map(|(key, _)| key.to_string()).collect()
    }

    fn affected(&self, changed: &str) -> Vec<String> {
        if changed.starts_with(keys::INSTANCES) { vec![changed.to_owned()] } else { Vec::new() }
    }

    fn reconcile(&self, key: String) -> BoxFuture<'_, Result<Next, InstanceError>> {
        async move {
            let Some(instance) = self.cloud.store.view().get_as::<Instance>(&key) else {
                return Ok(Next::OnChange);
            };
            match instance.state {
                InstanceState::Pending => self.boot(&key, &instance).await,
                InstanceState::Running => self.watch(&key, &instance).await,
                InstanceState::ShuttingDown => self.remove(&key, &instance).await,
                InstanceState::Terminated => self.forget(&key, &instance).await,
            }
        }
        .boxed()
    }
}

impl InstanceReconciler {
    fn child(instance: &Instance) -> ChildId {
        ChildId(instance.id.clone())
    }

    fn directory(&self, instance: &Instance) -> PathBuf {
        self.cloud.home.join("instances").join(&instance.id)
    }

    fn namespace(&self, instance: &Instance) -> String {
        self.names.namespace(&instance.id)
    }

    async fn boot(&self, key: &str, instance: &Instance) -> Result<Next, InstanceError> {
        let id = Self::child(instance);
        if on_host(&self.host, move |host| host.child_status(&id)).await? == ChildStatus::Exited {
            return self.ended(key, "the machine ended while it booted").await;
        }
        let (images, version) = (self.images.clone(), instance.kubernetes_version.clone());
        let layers = blocking(move || images.layers(&version)).await.map_err(InstanceError::Image)?;
        let spec = self.machine(instance, layers);
        let (router, interface, subnet) = self.wiring(instance)?;
        let namespace = self.namespace(instance);
        let link = interface_spec(&self.cloud.settings, &router, &interface, &subnet, &namespace);
        let disk = DiskSpec {
            path: self.directory(instance).join("disk.ext4"),
            bytes: u64::from(instance.disk_gib) << 30,
        };
        let _connecting = self.cloud.router_use.read().await;
        on_host(&self.host, move |host| {
            host.ensure_router(&router)?;
            host.ensure_namespace(&namespace)?;
            host.ensure_interface(&link)?;
            host.ensure_disk(&disk)?;
            host.ensure_child(&spec)
        })
        .await?;
        self.advance(key, InstanceState::Running, None).await?;
        Ok(Next::OnChange)
    }

    fn wiring(&self, instance: &Instance) -> Result<(RouterSpec, Interface, Subnet), InstanceError> {
        let view = self.cloud.store.view();
        let missing = |what: &str| InstanceError::Unrecorded(what.to_owned());
        let scope = &instance.scope;
        let router = router_of(&self.cloud, &self.names, scope, &instance.vpc)
            .ok_or_else(|| missing(&instance.vpc))?;
        let interface = view.get_as(&keys::interface(scope, &instance.interface));
        let subnet = view.get_as(&keys::subnet(scope, &instance.subnet));
        Ok((
            router,
            interface.ok_or_else(|| missing(&instance.interface))?,
            subnet.ok_or_else(|| missing(&instance.subnet))?,
        ))
    }

    fn machine(&self, instance: &Instance, layers: Vec<PathBuf>) -> ChildSpec {
        let size = instance_type(&instance.instance_type);
        let memory_bytes = size.map_or(4 << 30, |t| t.memory_mib << 20);
        let cpus = size.map_or(2, |t| t.vcpus);
        let directory = self.directory(instance);
        ChildSpec {
            id: Self::child(instance),
            program: "/usr/local/bin/ekstra-node".into(),
            args: Vec::new(),
            env: vec![("PATH".into(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into())],
            namespace: Some(self.namespace(instance)),
            log: self.cloud.home.join("logs").join(format!("{}.log", instance.id)),
            limits: Limits {
                memory_bytes: Some(memory_bytes),
                cpu_millis: Some(cpus * 1000),
                pids: Some(8192),
                restrict_devices: true,
            },
            etc: None,
            sandbox: Some(Sandbox {
                hostname: instance.private_dns_name.clone(),
                layers,
                disk: directory.join("disk.ext4"),
                mountpoint: directory.join("root"),
                memory_bytes,
                cpus,
            }),
        }
    }

    /// Waits for the machine's end, which nobody asked for.
    async fn watch(&self, key: &str, instance: &Instance) -> Result<Next, InstanceError> {
        let id = Self::child(instance);
        match on_host(&self.host, move |host| host.child_status(&id)).await? {
            ChildStatus::Running(running) => {
                let changed = self.cloud.store.until(|view| {
                    let now = view.get_as::<Instance>(key);
                    now.is_none_or(|i| i.state != InstanceState::Running)
                });
                tokio::select! {
                    ended = child_exit(&running) => {
                        ended.map_err(HostError::wait(&instance.id))?;
                        Ok(Next::After(SECOND_LOOK))
                    }
                    () = changed => Ok(Next::After(Duration::from_millis(1))),
                }
            }
            // Machines are volatile, their disks are not: after a reboot of the host, or `stop --all`, they boot again.
            ChildStatus::BeforeBoot | ChildStatus::Absent => self.boot_again(key).await,
            ChildStatus::Exited => self.ended(key, "the machine ended by itself").await,
        }
    }

    async fn boot_again(&self, key: &str) -> Result<Next, InstanceError> {
        // Whoever asked for its end meanwhile is not overruled.
        self.update(key, |instance| {
            let runs = instance.state == InstanceState::Running;
            if runs {
                instance.state = InstanceState::Pending;
            }
            runs
        })
        .await?;
        Ok(Next::OnChange)
    }

    async fn ended(&self, key: &str, why: &str) -> Result<Next, InstanceError> {
        tracing::warn!(key, why, "instance");
        self.advance(key, InstanceState::ShuttingDown, Some(why)).await?;
        Ok(Next::OnChange)
    }

    async fn remove(&self, key: &str, instance: &Instance) -> Result<Next, InstanceError> {
        let id = Self::child(instance);
        let (namespace, directory) = (self.namespace(instance), self.directory(instance));
        let interface: Option<Interface> =
            self.cloud.store.view().get_as(&keys::interface(&instance.scope, &instance.interface));
        let router = router_of(&self.cloud, &self.names, &instance.scope, &instance.vpc);
        on_host(&self.host, move |host| {
            host.remove_child(&id, STOP_GRACE)?;
            if let (Some(interface), Some(router)) = (interface, router) {
                host.remove_interface(&router.namespace, &interface.link())?;
            }
            host.remove_namespace(&namespace)?;
            host.remove_directory(&directory)
        })
        .await?;
        let interface = keys::interface(&instance.scope, &instance.interface);
        let now = self.cloud.env.now_ms();
        self.cloud
            .store
            .transact::<_, CommitError>(|txn| {
                txn.delete(&interface);
                if let Some(mut instance) = txn.get::<Instance>(key)? {
                    instance.advance(InstanceState::Terminated, now);
                    txn.put(key, &instance)?;
                }
                Ok(())
            })
            .await?;
        Ok(Next::OnChange)
    }

    async fn forget(&self, key: &str, instance: &Instance) -> Result<Next, InstanceError> {
        let left = instance.state_since_ms + REMEMBERED - self.cloud.env.now_ms();
        // Whose end was asked for needs no explanation.
        if instance.state_reason.is_none() || left <= 0 {
            let log = self.cloud.home.join("logs").join(format!("{}.log", instance.id));
            let _ = ekstra_host::remove_log(&log);
        }
        if left > 0 {
            return Ok(Next::After(Duration::from_millis(left.unsigned_abs())));
        }
        self.cloud
            .store
            .transact::<_, CommitError>(|txn| {
                txn.delete(key);
                Ok(())
            })
            .await?;
        Ok(Next::OnChange)
    }

    async fn advance(&self, key: &str, state: InstanceState, why: Option<&str>) -> Result<(), InstanceError> {
        let now = self.cloud.env.now_ms();
        self.update(key, |instance| {
            instance.state_reason = why.map(str::to_owned).or(instance.state_reason.take());
            instance.advance(state, now)
        })
        .await
    }

    async fn update(&self, key: &str, change: impl Fn(&mut Instance) -> bool) -> Result<(), InstanceError> {
        let body = |txn: &mut Txn| {
            if let Some(mut instance) = txn.get::<Instance>(key)?
                && change(&mut instance)
            {
                txn.put(key, &instance)?;
            }
            Ok::<_, CommitError>(())
        };
        Ok(self.cloud.store.transact(body).await?)
    }
}

//! The cluster reconciler: keeps every control plane as its record says.

mod data;
mod network;
mod status;

use crate::Eks;
use crate::control_plane::{flags, keys as pki};
use crate::etcd::EtcdError;
use crate::restarts::Restarts;
use crate::{bootstrap, kubernetes, storage, updates};
use ekstra_cloud::elb;
use ekstra_cloud::on_host;
use ekstra_domain::ec2::{Interface, Vpc};
use ekstra_domain::eks::{
    CONTROL_PLANE_PROGRAMS, Cluster, ClusterAction, ClusterStatus, ControlPlaneSlot, Nodegroup,
    ObservedCluster, UpdateOf, plan_cluster,
};
use ekstra_domain::elb::LoadBalancer;
use ekstra_domain::names::keys;
use ekstra_engine::{Next, Reconciler, Waits, blocking};
use ekstra_host::{ChildId, ChildStatus, HostError, Running, child_arguments, child_exit, netns};
use ekstra_store::{CommitError, Txn};
use futures::FutureExt;
use futures::future::{BoxFuture, select_all};
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How often a starting API server is asked.
const POLL: Duration = Duration::from_millis(40);
const ETCD: &str = CONTROL_PLANE_PROGRAMS[0];
/// Starts of etcd in a row that all came to nothing: enough for whatever passes by itself.
const HOPELESS: u32 = 3;
/// All of a control plane's programs ran and it was ready for so long: none of them is one that cannot start.
const WORKING_MS: i64 = 250;
/// The longest time between two starts of etcd: the API server comes back to one that was away for long only after as long
/// again (gRPC's back-off, up to two minutes).
const ETCD_PAUSE: Duration = Duration::from_secs(1);
/// etcd closes its files well in this time.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// An API server answers what is under way and would then wait a minute for those who watch. Everybody new waits at the
/// front door as long.
const API_SERVER_GRACE: Duration = Duration::from_secs(2);

/// Keeps every control plane as its record says.
#[derive(Debug)]
pub struct ClusterReconciler {
    eks: Eks,
    /// Slots whose built-in objects this process has applied.
    bootstrapped: Mutex<HashSet<String>>,
    /// Slots whose links this process has made, and between which namespaces.
    networked: Mutex<HashMap<String, Ends>>,
    /// Since when a slot's programs, by their process ids, have all run with nothing left to do.
    settled: Mutex<HashMap<String, (Vec<i32>, i64)>>,
    restarts: Restarts,
    waits: Waits,
}

const HOSTS: &str = "127.0.0.1 localhost\n";

/// The namespaces of a control plane and of its router.
type Ends = (netns::Identity, netns::Identity);

#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Store(#[from] CommitError),
    #[error("{0}")]
    Keys(String),
    #[error("{0}")]
    Program(String),
    #[error("its volumes: {0}")]
    Volumes(String),
    #[error("{0} is not recorded")]
    Unrecorded(String),
    #[error("built-in objects: {0}")]
    Bootstrap(String),
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    #[error("etcd's data are damaged, and there is no snapshot of them yet; see the log {log}")]
    Damaged { log: String },
}

impl Reconciler for ClusterReconciler {
    type Error = ClusterError;

    fn name(&self) -> &'static str {
        "cluster"
    }

    fn keys(&self) -> Vec<String> {
        self.eks.cluster_keys()
    }

    fn affected(&self, changed: &str) -> Vec<String> {
        if changed.starts_with(keys::CLUSTERS) {
            return vec![changed.to_owned()];
        }
        // The last node group's end may let its cluster go.
        let parent = changed.strip_prefix(keys::NODEGROUPS).and_then(|rest| rest.rsplit_once('/'));
        parent.map(|(cluster, _)| format!("{}{cluster}", keys::CLUSTERS)).into_iter().collect()
    }

    fn reconcile(&self, key: String) -> BoxFuture<'_, Result<Next, ClusterError>> {
        async move {
            let view = self.eks.cloud.store.view();
            // First, so that it is never newer than what is read of it.
            let seen = view.get(&key).map(|entry| entry.revision);
            let Some(cluster) = view.get_as::<Cluster>(&key) else {
                return Ok(Next::OnChange);
            };
            let slot = view.get_as::<ControlPlaneSlot>(&keys::slot(&cluster.slot));
            let slot = slot.ok_or_else(|| ClusterError::Unrecorded(cluster.slot.clone()))?;
            let step = self.step(&key, seen, &cluster, &slot).await;
            if let Err(error) = &step
                && cluster.status == ClusterStatus::Creating
            {
                self.note_trouble(&key, &error.to_string()).await?;
            }
            step
        }
        .boxed()
    }
}

impl ClusterReconciler {
    pub fn new(eks: Eks) -> Self {
        Self {
            eks,
            bootstrapped: Mutex::default(),
            networked: Mutex::default(),
            settled: Mutex::default(),
            restarts: Restarts::default(),
            waits: Waits::default(),
        }
    }

    async fn step(
        &self,
        key: &str,
        seen: Option<u64>,
        cluster: &Cluster,
        slot: &ControlPlaneSlot,
    ) -> Result<Next, ClusterError> {
        let observed = self.observe(cluster, slot).await?;
        let actions = plan_cluster(cluster, &observed);
        let idle = actions.is_empty();
        for action in actions {
            match action {
                ClusterAction::AwaitReady => {
                    self.note_progress(key, "waiting for the API server").await?;
                    return Ok(Next::After(POLL));
                }
                ClusterAction::Start(program) => {
                    let now = self.eks.cloud.env.steady_ms();
                    let mut pause = self.restarts.pause(&slot.child(program), now);
                    if program == ETCD {
                        pause = pause.min(ETCD_PAUSE);
                    }
                    if !pause.is_zero() {
                        self.note_loop(key, cluster, slot, program).await?;
                        return Ok(Next::After(pause));
                    }
                }
                _ => {}
            }
            tracing::info!(cluster = cluster.name, ?action);
            self.apply(key, cluster, slot, action).await?;
        }
        match cluster.status {
            _ if !idle => Ok(Next::After(Duration::from_millis(1))),
            ClusterStatus::Deleting | ClusterStatus::Failed => Ok(Next::OnChange),
            _ => self.watch(key, seen, slot).await,
        }
    }

    fn is_bootstrapped(&self, slot: &str) -> bool {
        self.bootstrapped.lock().unwrap_or_else(PoisonError::into_inner).contains(slot)
    }

    async fn observe(
        &self,
        cluster: &Cluster,
        slot: &ControlPlaneSlot,
    ) -> Result<ObservedCluster, ClusterError> {
        let children: Vec<ChildId> = CONTROL_PLANE_PROGRAMS.iter().map(|p| ChildId(slot.child(p))).collect();
        let (statuses, listed) = on_host(&self.eks.host, move |host| {
            let statuses: Result<Vec<_>, _> = children.iter().map(|id| host.child_status(id)).collect();
            Ok((statuses?, host.children()?))
        })
        .await?;
        let mut observed = ObservedCluster::default();
        if cluster.unready_since_ms.is_some() {
            let key = keys::cluster(&cluster.scope, &cluster.name);
            observed.unready_for_ms = self.waits.elapsed_ms(&self.eks.cloud.env, &key);
        }
        for (program, status) in CONTROL_PLANE_PROGRAMS.iter().zip(&statuses) {
            if let ChildStatus::Running(running) = status {
                observed.running.push((*program).to_owned());
                if cluster.status == ClusterStatus::Updating
                    && self.is_outdated(cluster, slot, program, running)
                {
                    observed.outdated.push((*program).to_owned());
                }
            }
            if listed.contains(&ChildId(slot.child(program))) {
                observed.remains.push((*program).to_owned());
            }
        }
        let groups = keys::nodegroups(&cluster.scope, &cluster.name);
        observed.has_nodegroups = !self.eks.cloud.store.view().list_as::<Nodegroup>(&groups).is_empty();
        observed.keys_on_disk =
            self.eks.files(&slot.id).pki().exists() && slot.certificate_authority.is_some();
        observed.networked = self.is_networked(cluster, slot);
        observed.data_damaged = !observed.running.iter().any(|program| program == ETCD)
            && self.restarts.row(&slot.child(ETCD)) >= HOPELESS
            && self.is_damaged(slot).await;
        let has_namespace = slot.site.namespace().is_some_and(|name| netns::path(name).exists());
        observed.leftovers = has_namespace || self.eks.slot_directory(&slot.id).exists();
        if observed.keys_on_disk && observed.running.iter().any(|p| p == "kube-apiserver") {
            let client = self.eks.clients.get(slot).await.map_err(|e| ClusterError::Keys(e.to_string()))?;
            observed.ready = kubernetes::is_ready(&client).await;
            observed.serving = observed.ready || kubernetes::is_serving(&client).await;
        }
        // Once only: afterwards its users may change what they find.
        observed.bootstrapped = cluster.status != ClusterStatus::Creating || self.is_bootstrapped(&slot.id);
        Ok(observed)
    }

    /// Whether it was started with other words than it would be now; the program itself may be another.
    fn is_outdated(
        &self,
        cluster: &Cluster,
        slot: &ControlPlaneSlot,
        program: &str,
        running: &Running,
    ) -> bool {
        let wanted = flags::child(&self.eks, cluster, slot, program, Path::new("")).args;
        child_arguments(running).is_some_and(|found| found != wanted)
    }

    async fn apply(
        &self,
        key: &str,
        cluster: &Cluster,
        slot: &ControlPlaneSlot,
        action: ClusterAction,
    ) -> Result<(), ClusterError> {
        match action {
            ClusterAction::MakeKeys => self.make_keys(slot).await,
            ClusterAction::MakeNetwork => self.make_network(cluster, slot).await,
            ClusterAction::Start(program) => self.start(cluster, slot, program).await,
            ClusterAction::RestoreData => self.restore_data(key, cluster, slot).await,
            ClusterAction::AwaitReady => Ok(()),
            ClusterAction::Bootstrap => self.bootstrap(cluster, slot).await,
            ClusterAction::MarkActive => self.mark_active(key).await,
            ClusterAction::MarkFailed => self.mark_failed(key, slot).await,
            ClusterAction::Stop(program) => {
                let id = ChildId(slot.child(program));
                // Whose data go with them have nothing to close.
                let grace = match program {
                    _ if cluster.status == ClusterStatus::Deleting => Duration::ZERO,
                    flags::API_SERVER => API_SERVER_GRACE,
                    _ => STOP_GRACE,
                };
                Ok(on_host(&self.eks.host, move |host| host.remove_child(&id, grace)).await?)
            }
            ClusterAction::RemoveLeftovers => self.remove_leftovers(cluster, slot).await,
            ClusterAction::Forget => self.forget(key, cluster, slot).await,
        }
    }

    async fn make_keys(&self, slot: &ControlPlaneSlot) -> Result<(), ClusterError> {
        let (files, site) = (self.eks.files(&slot.id), slot.site.clone());
        let mut server: Vec<String> = [
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            "localhost",
            "127.0.0.1",
        ]
        .map(str::to_owned)
        .to_vec();
        server.push(self.eks.cloud.settings.address.to_string());
        server.extend(slot.service_cidr.nth(1).map(|a| a.to_string()));
        server.extend(self.interfaces(slot)?.into_iter().map(|(i, _)| i.address.to_string()));
        let ca = files.key("ca.crt");
        let made = blocking(move || {
            pki::ensure(&files, &pki::Names { server }, &site)
                .map_err(|e| ClusterError::Keys(e.to_string()))?;
            std::fs::read_to_string(&ca).map_err(|e| ClusterError::Keys(e.to_string()))
        });
        let ca = made.await?;
        let key = keys::slot(&slot.id);
        let body = |txn: &mut Txn| {
            if let Some(mut slot) = txn.get::<ControlPlaneSlot>(&key)? {
                slot.certificate_authority = Some(ca.clone());
                txn.put(&key, &slot)?;
            }
            Ok::<_, CommitError>(())
        };
        Ok(self.eks.cloud.store.transact(body).await?)
    }

    async fn start(
        &self,
        cluster: &Cluster,
        slot: &ControlPlaneSlot,
        program: &'static str,
    ) -> Result<(), ClusterError> {
        let (programs, version) = (self.eks.programs.clone(), cluster.version.clone());
        let executable = blocking(move || programs.control_plane(program, &version))
            .await
            .map_err(ClusterError::Program)?;
        if program == ETCD {
            self.prepare_data(cluster, slot).await?;
        }
        let (files, site) = (self.eks.files(&slot.id), slot.site.clone());
        let vpc: Option<Vpc> = self.eks.cloud.store.view().get_as(&keys::vpc(&cluster.scope, &slot.vpc));
        let names = vpc.map(|vpc| format!("nameserver {}\n", vpc.resolver())).unwrap_or_default();
        let tuning = cluster.tuning.clone();
        let completed = blocking(move || {
            pki::complete(&files, &site)?;
            if let Some((file, content)) = flags::scheduler_config(&files, &tuning) {
                pki::ensure_file(&file, &content)?;
            }
            let etc = files.etc();
            std::fs::create_dir_all(&etc)?;
            // Where the host's is a mount, as in containers, what lies below it is empty.
            pki::ensure_file(&etc.join("hosts"), HOSTS)?;
            Ok::<_, pki::KeysError>(pki::ensure_file(&etc.join("resolv.conf"), &names)?)
        });
        completed.await.map_err(|e| ClusterError::Keys(e.to_string()))?;
        let spec = flags::child(&self.eks, cluster, slot, program, &executable);
        on_host(&self.eks.host, move |host| host.ensure_child(&spec)).await?;
        self.restarts.note(&slot.child(program), self.eks.cloud.env.steady_ms());
        Ok(())
    }

    async fn bootstrap(&self, cluster: &Cluster, slot: &ControlPlaneSlot) -> Result<(), ClusterError> {
        let fail = |e: &dyn std::fmt::Display| ClusterError::Bootstrap(e.to_string());
        let client = self.eks.clients.get(slot).await.map_err(|e| fail(&e))?;
        let facts = bootstrap::Facts::of(&self.eks, cluster, slot);
        bootstrap::apply(&client, &facts).await.map_err(|e| fail(&e))?;
        self.bootstrapped.lock().unwrap_or_else(PoisonError::into_inner).insert(slot.id.clone());
        Ok(())
    }

    async fn remove_leftovers(&self, cluster: &Cluster, slot: &ControlPlaneSlot) -> Result<(), ClusterError> {
        let namespace = slot.site.namespace().map(str::to_owned);
        let links = namespace.as_ref().map(|name| self.links(cluster, slot, name));
        self.networked.lock().unwrap_or_else(PoisonError::into_inner).remove(&slot.id);
        let directory = self.eks.slot_directory(&slot.id);
        // The directory last: while it is there, all of this comes again.
        let logs: Vec<_> = CONTROL_PLANE_PROGRAMS.iter().map(|p| flags::log(&self.eks, slot, p)).collect();
        on_host(&self.eks.host, move |host| {
            if let Some(Ok((router, links))) = links {
                links.iter().try_for_each(|link| host.remove_interface(&router.namespace, &link.id))?;
            }
            namespace.iter().try_for_each(|name| host.remove_namespace(name))?;
            for log in logs {
                let _ = ekstra_host::remove_log(&log);
            }
            host.remove_directory(&directory)
        })
        .await?;
        Ok(())
    }

    async fn forget(
        &self,
        key: &str,
        cluster: &Cluster,
        slot: &ControlPlaneSlot,
    ) -> Result<(), ClusterError> {
        let released = storage::release(&self.eks.cloud, cluster).await;
        released.map_err(|trouble| ClusterError::Volumes(trouble.to_string()))?;
        let of_cluster = |balancer: &LoadBalancer| balancer.cluster_uid == cluster.uid;
        elb::remove(&self.eks.cloud, &cluster.scope, of_cluster).await?;
        self.eks.clients.forget(&slot.id);
        self.settled.lock().unwrap_or_else(PoisonError::into_inner).remove(&slot.id);
        self.waits.end(key);
        CONTROL_PLANE_PROGRAMS.iter().for_each(|program| self.restarts.forget(&slot.child(program)));
        let scope = &cluster.scope;
        // Without add-ons nobody asks for updates of them any more.
        updates::forget_all(&self.eks.cloud.store, &keys::addons(scope, &cluster.name)).await?;
        updates::forget(&self.eks.cloud.store, &keys::updates(scope, &cluster.name), UpdateOf::Cluster)
            .await?;
        for of_cluster in [
            keys::access_entries,
            keys::pod_identities,
            keys::identity_providers,
            keys::successor_authorities,
        ] {
            updates::forget_all(&self.eks.cloud.store, &of_cluster(scope, &cluster.name)).await?;
        }
        let body = |txn: &mut Txn| {
            for interface in &slot.interfaces {
                txn.delete(&keys::interface(scope, interface));
            }
            let group = &cluster.vpc.cluster_security_group;
            let others = txn.list::<Interface>(&keys::scoped(keys::INTERFACES, scope))?;
            // Other clusters may have been given it.
            if !others.iter().any(|(_, interface)| interface.security_groups.contains(group)) {
                txn.delete(&keys::security_group(scope, group));
            }
            txn.delete(&keys::insights(scope, &cluster.name));
            txn.delete(&keys::aws_auth(scope, &cluster.name));
            txn.delete(&keys::slot(&slot.id));
            txn.delete(key);
            Ok::<_, CommitError>(())
        };
        Ok(self.eks.cloud.store.transact(body).await?)
    }

    /// Waits until a program ends or the record is no longer the one that was seen.
    async fn watch(
        &self,
        key: &str,
        seen: Option<u64>,
        slot: &ControlPlaneSlot,
    ) -> Result<Next, ClusterError> {
        let ids: Vec<ChildId> = CONTROL_PLANE_PROGRAMS.iter().map(|p| ChildId(slot.child(p))).collect();
        let running: Vec<Running> = on_host(&self.eks.host, move |host| {
            let statuses: Result<Vec<_>, _> = ids.iter().map(|id| host.child_status(id)).collect();
            let alive = statuses?.into_iter().filter_map(|s| match s {
                ChildStatus::Running(running) => Some(running),
                _ => None,
            });
            Ok(alive.collect())
        })
        .await?;
        if running.len() < CONTROL_PLANE_PROGRAMS.len() {
            return Ok(Next::After(Duration::from_millis(1)));
        }
        let began = self.settled_since(slot, &running);
        let store = &self.eks.cloud.store;
        let changed = store.until(|view| view.get(key).map(|entry| entry.revision) != seen);
        tokio::select! {
            (ended, ..) = select_all(running.iter().map(|r| child_exit(r).boxed())) => {
                ended.map_err(HostError::wait(&slot.id))?;
            }
            () = changed => {}
        }
        if self.eks.cloud.env.steady_ms() - began >= WORKING_MS {
            CONTROL_PLANE_PROGRAMS.iter().for_each(|program| self.restarts.works(&slot.child(program)));
        }
        Ok(Next::After(Duration::from_millis(1)))
    }

    /// The record may change often meanwhile: only another process begins it anew.
    fn settled_since(&self, slot: &ControlPlaneSlot, running: &[Running]) -> i64 {
        let pids: Vec<i32> = running.iter().map(|r| r.pid).collect();
        let now = self.eks.cloud.env.steady_ms();
        let mut settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        let known = settled.entry(slot.id.clone()).or_insert_with(|| (pids.clone(), now));
        if known.0 != pids {
            *known = (pids, now);
        }
        known.1
    }
}

//! The node group reconciler: instances are launched, drained and terminated until the group is as its record says.

use crate::{Eks, addons, drain, relabel, storage, updates, user_data};
use ekstra_cloud::Cloud;
use ekstra_cloud::api::Refusal;
use ekstra_cloud::ec2::instances::{Launch, launch, terminate};
use ekstra_domain::ec2::{Instance, InstanceState, Subnet};
use ekstra_domain::eks::{
    Cluster, ControlPlaneSlot, HealthIssue, Member, Nodegroup, NodegroupAction, NodegroupStatus,
    ObservedNodegroup, UpdateOf, plan_nodegroup,
};
use ekstra_domain::names::keys;
use ekstra_engine::{Next, Reconciler, Waits};
use ekstra_store::{CommitError, Txn};
use ekstra_wire::ApiError;
use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often a group that is changing looks at its nodes.
const POLL: Duration = Duration::from_millis(150);
/// The same when it has been changing for so long that it does not matter.
const SLOW_POLL: Duration = Duration::from_secs(1);
const SLOW_AFTER_MS: i64 = 20_000;
/// A node whose pods have gone waits so long for its volumes; those of a DaemonSet's pods stay until its end.
const VOLUME_PATIENCE: Duration = Duration::from_secs(30);
/// How soon a launch that was refused is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// The refusal of a subnet that is full.
const NO_ROOM: &str = "InsufficientFreeAddressesInSubnet";
/// Instances in one transaction: two writes each, and one for each subnet.
const LAUNCHED_AT_ONCE: u32 = 40;
/// After an instance ended by itself, the next is launched no sooner: an image that cannot boot must not spin.
const RELAUNCH_PAUSE_MS: i64 = 5_000;

/// Keeps every managed node group as its record says.
#[derive(Debug)]
pub struct NodegroupReconciler {
    eks: Eks,
    /// Draining instances without pods that have to go, since when.
    emptied: Mutex<HashMap<String, Instant>>,
    /// See [`Self::kept`].
    kept: Mutex<HashMap<String, usize>>,
    waits: Waits,
}

#[derive(Debug, thiserror::Error)]
pub enum NodegroupError {
    #[error(transparent)]
    Store(#[from] CommitError),
    #[error("API server: {0}")]
    Kube(#[from] kube::Error),
    #[error("{0} is not recorded")]
    Unrecorded(String),
}

/// What a reconcile works with.
struct Context {
    key: String,
    group: Nodegroup,
    cluster: Cluster,
    slot: ControlPlaneSlot,
    instances: Vec<(String, Instance)>,
    client: Option<Client>,
}

impl Reconciler for NodegroupReconciler {
    type Error = NodegroupError;

    fn name(&self) -> &'static str {
        "nodegroup"
    }

    fn keys(&self) -> Vec<String> {
        self.eks
            .cloud
            .store
            .view()
            .list(keys::NODEGROUPS)
            .into_iter()
            .map(|(key, _)| key.to_string())
            .collect()
    }

    fn affected(&self, changed: &str) -> Vec<String> {
        if changed.starts_with(keys::NODEGROUPS) {
            return vec![changed.to_owned()];
        }
        let instance =
            changed.starts_with(keys::INSTANCES).then(|| self.eks.cloud.store.view().get_as(changed));
        let Some(Some(instance)) = instance else {
            return Vec::new();
        };
        let Instance { scope, tags, .. } = instance;
        match (tags.get("eks:cluster-name"), tags.get("eks:nodegroup-name")) {
            (Some(cluster), Some(group)) => vec![keys::nodegroup(&scope, cluster, group)],
            _ => Vec::new(),
        }
    }

    fn reconcile(&self, key: String) -> BoxFuture<'_, Result<Next, NodegroupError>> {
        async move {
            let Some(context) = self.context(&key).await? else {
                return Ok(Next::OnChange);
            };
            let observed = self.observe(&context).await;
            let actions = plan_nodegroup(&context.group, &observed);
            // Nothing but a change of its record does anything for one that could not be created.
            let resting = [NodegroupStatus::Active, NodegroupStatus::CreateFailed];
            let settled = actions.is_empty() && resting.contains(&context.group.status);
            for action in actions {
                if matches!(action, NodegroupAction::Launch { .. }) && self.must_pause(&context) {
                    continue;
                }
                if !matches!(action, NodegroupAction::Evict { .. }) {
                    tracing::info!(cluster = context.cluster.name, nodegroup = context.group.name, ?action);
                }
                self.apply(&context, action).await?;
            }
            let failing = context.group.status == NodegroupStatus::Degraded;
            Ok(match (settled, failing) {
                (true, _) => Next::OnChange,
                (false, true) => Next::After(RETRY),
                (false, false) => Next::After(self.pause(&context, self.eks.cloud.env.now_ms())),
            })
        }
        .boxed()
    }
}

impl NodegroupReconciler {
    pub fn new(eks: Eks) -> Self {
        Self { eks, emptied: Mutex::default(), kept: Mutex::default(), waits: Waits::default() }
    }

    /// Until the next look at a group that is changing.
    fn pause(&self, context: &Context, now_ms: i64) -> Duration {
        let launches = context.instances.iter().map(|(_, instance)| instance.state_since_ms);
        let drains = context.group.draining.values().copied();
        let last = launches.chain(drains).chain([context.group.modified_ms]).max().unwrap_or(now_ms);
        if now_ms - last > SLOW_AFTER_MS { SLOW_POLL } else { POLL }
    }

    /// Volumes that the end of an instance waits for.
    fn volumes_left(&self, instance: &Instance, pods_left: Option<usize>) -> usize {
        let held = storage::held_by(&self.eks.cloud, instance);
        let mut emptied = self.emptied.lock().unwrap_or_else(PoisonError::into_inner);
        if pods_left != Some(0) || held == 0 {
            emptied.remove(&instance.id);
            return held;
        }
        let since = *emptied.entry(instance.id.clone()).or_insert_with(Instant::now);
        if since.elapsed() < VOLUME_PATIENCE {
            return held;
        }
        emptied.remove(&instance.id);
        tracing::info!(instance = instance.id, held, "its volumes are not let go; ending it all the same");
        0
    }

    async fn context(&self, key: &str) -> Result<Option<Context>, NodegroupError> {
        let view = self.eks.cloud.store.view();
        let Some(group) = view.get_as::<Nodegroup>(key) else {
            return Ok(None);
        };
        let missing = |what: &str| NodegroupError::Unrecorded(what.to_owned());
        let cluster: Option<Cluster> = view.get_as(&keys::cluster(&group.scope, &group.cluster));
        let cluster = cluster.ok_or_else(|| missing(&group.cluster))?;
        let slot: Option<ControlPlaneSlot> = view.get_as(&keys::slot(&cluster.slot));
        let slot = slot.ok_or_else(|| missing(&cluster.slot))?;
        let instances = view.list_as::<Instance>(&keys::scoped(keys::INSTANCES, &group.scope));
        let instances = instances
            .into_iter()
            .filter(|(_, i)| i.tags.get("ekstra:nodegroup-uid") == Some(&group.uid))
            .map(|(key, instance)| (key.to_string(), instance))
            .collect();
        let client = self.eks.clients.get(&slot).await.ok();
        Ok(Some(Context { key: key.to_owned(), group, cluster, slot, instances, client }))
    }

    async fn observe(&self, context: &Context) -> ObservedNodegroup {
        let nodes = match &context.client {
            Some(client) => ready_nodes(client, &context.group.name).await.unwrap_or_default(),
            None => HashMap::new(),
        };
        let mut members = Vec::new();
        for (_, instance) in &context.instances {
            if instance.state == InstanceState::Terminated {
                continue;
            }
            let draining = context.group.draining.contains_key(&instance.id);
            let env = &self.eks.cloud.env;
            let draining_for_ms = if draining { self.waits.elapsed_ms(env, &instance.id) } else { 0 };
            let pods_left = match &context.client {
                Some(client) if draining => {
                    drain::pods_left(client, &instance.private_dns_name).await.ok().map(|pods| pods.len())
                }
                _ => None,
            };
            members.push(Member {
                instance: instance.id.clone(),
                zone: instance.zone.clone(),
                launched_ms: instance.launched_ms,
                draining_for_ms,
                alive: instance.state.is_alive(),
                node_ready: nodes.get(&instance.private_dns_name).copied().unwrap_or(false),
                pods_left,
                pods_kept: self.kept(&instance.id),
                volumes_left: if draining { self.volumes_left(instance, pods_left) } else { 0 },
            });
        }
        let unsettled_for_ms = self.unsettled_for_ms(&context.group);
        let last_nodes = match &context.client {
            Some(client) if context.group.status == NodegroupStatus::Deleting => {
                let own: Vec<_> =
                    context.instances.iter().map(|(_, i)| i.private_dns_name.as_str()).collect();
                drain::takes_pods(client, &own).await.is_ok_and(|elsewhere| !elsewhere)
            }
            _ => false,
        };
        let drain_limit_seconds = self.eks.drain_limit_seconds;
        ObservedNodegroup { members, unsettled_for_ms, drain_limit_seconds, last_nodes }
    }

    /// How many pods of a draining instance disruption budgets have kept at the last try.
    fn kept(&self, instance: &str) -> usize {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).get(instance).copied().unwrap_or(0)
    }

    fn note_kept(&self, instance: &str, pods: usize) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        match pods {
            0 => kept.remove(instance),
            _ => kept.insert(instance.to_owned(), pods),
        };
    }

    /// How long this has been awaited of the group; each update counts anew.
    fn unsettled_for_ms(&self, group: &Nodegroup) -> i64 {
        match group.status {
            NodegroupStatus::Creating | NodegroupStatus::Updating => {
                let awaited = format!("{} {}", group.uid, group.modified_ms);
                self.waits.elapsed_ms(&self.eks.cloud.env, &awaited)
            }
            _ => 0,
        }
    }

    async fn apply(&self, context: &Context, action: NodegroupAction) -> Result<(), NodegroupError> {
        match action {
            NodegroupAction::Launch { count } => self.launch(context, count).await,
            NodegroupAction::BeginDrain { instance } => self.begin_drain(context, &instance).await,
            NodegroupAction::Evict { instance } => match (&context.client, context.node(&instance)) {
                (Some(client), Some(node)) => {
                    let emptied = async {
                        drain::cordon(client, node).await?;
                        drain::evict_all(client, node).await
                    };
                    // An API server that does not answer must not keep the group: its limit runs.
                    let kept =
                        emptied.await.inspect_err(|error| tracing::info!(node, %error, "not drained yet"));
                    self.note_kept(&instance, kept.unwrap_or(0));
                    Ok(())
                }
                _ => Ok(()),
            },
            NodegroupAction::Terminate { instance } => {
                self.note_kept(&instance, 0);
                self.terminate(context, &instance).await
            }
            NodegroupAction::SyncNodes => self.sync_nodes(context).await,
            NodegroupAction::MarkActive => self.mark_active(context).await,
            NodegroupAction::MarkUnjoined { missing } => {
                let message = format!("{missing} instances did not join the Kubernetes cluster");
                self.give_up(context, "NodeCreationFailure", &message).await
            }
            NodegroupAction::Forget => self.forget(context).await,
        }
    }

    /// Launches what fits, and says what did not.
    async fn launch(&self, context: &Context, count: u32) -> Result<(), NodegroupError> {
        let group = &context.group;
        let image = format!("ami-ekstra-{}", context.cluster.version.replace('.', "-"));
        let has_network = match &context.client {
            Some(client) if context.cluster.network_by_addon => {
                addons::gives_network(&self.eks, &context.cluster, client).await?
            }
            _ => true,
        };
        let user_data =
            user_data::render(&self.eks, &context.cluster, &context.slot, group, &image, has_network)
                .ok_or_else(|| NodegroupError::Unrecorded("the cluster's certificate authority".into()))?;
        let view = self.eks.cloud.store.view();
        let find = |id: &String| view.get_as::<Subnet>(&keys::subnet(&group.scope, id));
        let subnets: Vec<Subnet> = group.subnets.iter().filter_map(find).collect();
        let new = |subnet| Launch {
            subnet,
            instance_type: group.instance_types.first().map_or("t3.medium", String::as_str),
            image: image.clone(),
            kubernetes_version: group.version.clone(),
            disk_gib: group.disk_gib,
            user_data: user_data.clone(),
            role_arn: Some(group.node_role.clone()),
            security_groups: vec![context.cluster.vpc.cluster_security_group.clone()],
            metadata_hop_limit: 1,
            tags: group.instance_tags(),
        };
        let body = |txn: &mut Txn| {
            let mut spread = Spread::new(&subnets, &context.instances);
            for _ in 0..count.min(LAUNCHED_AT_ONCE) {
                if let Some(refused) = launch_one(&self.eks.cloud, txn, &mut spread, &new)? {
                    return Ok(Some(refused));
                }
            }
            Ok::<_, CommitError>(None)
        };
        match self.eks.cloud.store.transact(body).await? {
            None => Ok(()),
            Some(refused) => {
                let code = match refused.code.as_str() {
                    NO_ROOM => "InsufficientFreeAddresses",
                    _ => "AsgInstanceLaunchFailures",
                };
                self.give_up(context, code, &refused.message).await
            }
        }
    }

    fn must_pause(&self, context: &Context) -> bool {
        let now = self.eks.cloud.env.now_ms();
        context.instances.iter().any(|(_, i)| {
            // One from the future: the clock was set back.
            let is_recent = (0..RELAUNCH_PAUSE_MS).contains(&(now - i.state_since_ms));
            i.state_reason.is_some() && !i.state.is_alive() && is_recent
        })
    }

    /// What was being made has failed; the group itself goes on trying, unless it never was.
    async fn give_up(&self, context: &Context, code: &str, message: &str) -> Result<(), NodegroupError> {
        let issue = HealthIssue {
            code: code.to_owned(),
            message: message.to_owned(),
            resource_ids: context.group.subnets.clone(),
        };
        let pending = keys::updates(&context.group.scope, &context.cluster.name);
        let body = |txn: &mut Txn| {
            let Some(before) = context.unchanged(txn)? else { return Ok(()) };
            let mut group = before.clone();
            group.issues = vec![issue.clone()];
            group.status = match group.status {
                NodegroupStatus::Creating => NodegroupStatus::CreateFailed,
                NodegroupStatus::Active | NodegroupStatus::Updating => NodegroupStatus::Degraded,
                other => other,
            };
            if group != before {
                txn.put(&context.key, &group)?;
            }
            updates::fail(txn, &pending, UpdateOf::Nodegroup(&group.name), &issue)
        };
        Ok(self.eks.cloud.store.transact::<_, CommitError>(body).await?)
    }

    /// Tells nodes that are there what an update changed. Done again from the start if it was interrupted.
    async fn sync_nodes(&self, context: &Context) -> Result<(), NodegroupError> {
        let (Some(client), Some(change)) = (&context.client, &context.group.unsynced) else {
            return Ok(());
        };
        for node in nodes_of(client, &context.group.name).await? {
            relabel::apply(client, &node, change).await?;
        }
        self.update(context, |group| {
            let current = group.unsynced == context.group.unsynced;
            if current {
                group.unsynced = None;
            }
            current
        })
        .await
    }

    async fn begin_drain(&self, context: &Context, instance: &str) -> Result<(), NodegroupError> {
        // The limit runs from here on, whether the API server answers or not.
        let now = self.eks.cloud.env.now_ms();
        self.update(context, |group| group.draining.insert(instance.to_owned(), now).is_none()).await
    }

    /// Its node goes when the instance's end is seen (`nodes.rs`).
    async fn terminate(&self, context: &Context, instance: &str) -> Result<(), NodegroupError> {
        self.waits.end(instance);
        let key = keys::instance(&context.group.scope, instance);
        let body = |txn: &mut Txn| terminate(&self.eks.cloud, txn, &key);
        match self.eks.cloud.store.transact(body).await {
            Err(Refusal::Store(error)) => Err(error.into()),
            _ => Ok(()),
        }
    }

    async fn mark_active(&self, context: &Context) -> Result<(), NodegroupError> {
        let updates = keys::updates(&context.group.scope, &context.cluster.name);
        let body = |txn: &mut Txn| {
            let Some(mut group) = context.unchanged(txn)? else { return Ok(()) };
            let unsettled = [NodegroupStatus::Creating, NodegroupStatus::Updating, NodegroupStatus::Degraded];
            if !unsettled.contains(&group.status) || group.unsynced.is_some() {
                return Ok(());
            }
            self.waits.end(&format!("{} {}", group.uid, group.modified_ms));
            group.status = NodegroupStatus::Active;
            group.modified_ms = self.eks.cloud.env.now_ms();
            group.issues.clear();
            group.draining.clear();
            updates::finish(txn, &updates, UpdateOf::Nodegroup(&group.name))?;
            Ok::<_, CommitError>(txn.put(&context.key, &group)?)
        };
        Ok(self.eks.cloud.store.transact(body).await?)
    }

    async fn forget(&self, context: &Context) -> Result<(), NodegroupError> {
        let updates = keys::updates(&context.group.scope, &context.cluster.name);
        updates::forget(&self.eks.cloud.store, &updates, UpdateOf::Nodegroup(&context.group.name)).await?;
        let body = |txn: &mut Txn| {
            txn.delete(&context.key);
            Ok::<_, CommitError>(())
        };
        Ok(self.eks.cloud.store.transact(body).await?)
    }

    async fn update(
        &self,
        context: &Context,
        change: impl Fn(&mut Nodegroup) -> bool,
    ) -> Result<(), NodegroupError> {
        let body = |txn: &mut Txn| {
            if let Some(mut group) = txn.get::<Nodegroup>(&context.key)?
                && change(&mut group)
            {
                txn.put(&context.key, &group)?;
            }
            Ok::<_, CommitError>(())
        };
        Ok(self.eks.cloud.store.transact(body).await?)
    }
}

impl Context {
    /// The group, unless it has been asked for something else since it was looked at: what was seen says nothing of that.
    fn unchanged(&self, txn: &mut Txn) -> Result<Option<Nodegroup>, CommitError> {
        let seen = |group: &Nodegroup| (group.uid.clone(), group.status, group.modified_ms);
        Ok(txn.get::<Nodegroup>(&self.key)?.filter(|group| seen(group) == seen(&self.group)))
    }

    fn node(&self, instance: &str) -> Option<&str> {
        let found = self.instances.iter().find(|(_, i)| i.id == instance);
        found.map(|(_, i)| i.private_dns_name.as_str())
    }
}

/// Where new instances go: always the subnet with the fewest that still has room.
struct Spread<'a> {
    load: Vec<(usize, &'a Subnet)>,
}

impl<'a> Spread<'a> {
    fn new(subnets: &'a [Subnet], instances: &[(String, Instance)]) -> Self {
        let alive = |subnet: &Subnet| {
            instances.iter().filter(|(_, i)| i.subnet == subnet.id && i.state.is_alive()).count()
        };
        Self { load: subnets.iter().map(|s| (alive(s), s)).collect() }
    }

    fn next(&self) -> Option<&'a Subnet> {
        self.load.iter().min_by_key(|(count, _)| *count).map(|(_, subnet)| *subnet)
    }

    fn took(&mut self, subnet: &Subnet) {
        self.load.iter_mut().filter(|(_, s)| s.id == subnet.id).for_each(|(count, _)| *count += 1);
    }

    fn is_full(&mut self, subnet: &Subnet) {
        self.load.retain(|(_, s)| s.id != subnet.id);
    }
}

/// Launches one instance where there is room; why not, if it cannot be.
fn launch_one<'a>(
    cloud: &Cloud,
    txn: &mut Txn,
    spread: &mut Spread<'a>,
    new: &impl Fn(&'a Subnet) -> Launch<'a>,
) -> Result<Option<ApiError>, CommitError> {
    let mut refused = ApiError::client("InvalidSubnetID.NotFound", 400, "The group's subnets do not exist");
    while let Some(subnet) = spread.next() {
        match launch(cloud, txn, new(subnet)) {
            Ok(_) => {
                spread.took(subnet);
                return Ok(None);
            }
            Err(Refusal::Store(error)) => return Err(error),
            Err(Refusal::Api(error)) if error.code == NO_ROOM => {
                spread.is_full(subnet);
                refused = error;
            }
            Err(Refusal::Api(error)) => return Ok(Some(error)),
        }
    }
    Ok(Some(refused))
}

/// Nodes of the group that are Ready and initialised, by name.
async fn ready_nodes(client: &Client, group: &str) -> Result<HashMap<String, bool>, kube::Error> {
    let nodes = nodes_of(client, group).await?;
    Ok(nodes.into_iter().map(|node| (node.name_any(), drain::is_ready(&node))).collect())
}

async fn nodes_of(client: &Client, group: &str) -> Result<Vec<Node>, kube::Error> {
    let nodes: Api<Node> = Api::all(client.clone());
    let of_group = ListParams::default().labels(&format!("eks.amazonaws.com/nodegroup={group}"));
    Ok(nodes.list(&of_group).await?.items)
}

//! Elastic Load Balancing, as far as clusters' Services need it: records, and the addresses that they have on this
//! machine and in their VPC. `gate` listens there.
//!
//! Invariant: an address is in one record, and on the machine only while it is.

use crate::api::Refusal;
use crate::ec2::network::router_of;
use crate::{Cloud, on_host};
use ekstra_domain::elb::{BalancedPort, HealthCheck, LoadBalancer, free_address};
use ekstra_domain::names::{Scope, keys};
use ekstra_domain::prefix::Prefix;
use ekstra_engine::{Next, Reconciler};
use ekstra_host::{Host, HostError, Names, netns};
use ekstra_store::{CommitError, Txn};
use ekstra_wire::ApiError;
use futures::FutureExt;
use futures::future::BoxFuture;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What a Service wants.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub scope: Scope,
    pub vpc: String,
    pub service_uid: String,
    pub cluster_uid: String,
    /// `namespace/name`.
    pub service: String,
    pub ports: Vec<BalancedPort>,
    pub health: HealthCheck,
    pub source_ranges: Vec<Prefix>,
}

pub fn find(cloud: &Cloud, scope: &Scope, service_uid: &str) -> Option<LoadBalancer> {
    let all = cloud.store.view().list_as::<LoadBalancer>(&keys::scoped(keys::BALANCERS, scope));
    all.into_iter().map(|(_, balancer)| balancer).find(|b| b.service_uid == service_uid)
}

/// The balancer of a Service: made if there is none, changed if it is another.
pub async fn ensure(cloud: &Cloud, wanted: Wanted) -> Result<LoadBalancer, Refusal> {
    if let Some(existing) = find(cloud, &wanted.scope, &wanted.service_uid)
        && existing == updated(existing.clone(), &wanted)
    {
        return Ok(existing);
    }
    let id = cloud.env.hex(8);
    cloud
        .store
        .transact(|txn| {
            let all = txn.list::<LoadBalancer>(keys::BALANCERS)?;
            let existing = all.iter().map(|(_, b)| b).find(|b| b.service_uid == wanted.service_uid);
            let balancer = match existing {
                Some(existing) => updated(existing.clone(), &wanted),
                None => {
                    let taken: Vec<_> = all.iter().map(|(_, b)| b.address).collect();
                    let address = free_address(cloud.settings.balancers(), &taken).ok_or_else(|| {
                        let message = "there is no address left for another load balancer";
                        ApiError::client("TooManyLoadBalancers", 400, message)
                    })?;
                    new(&id, address, &wanted)
                }
            };
            txn.put(&keys::balancer(&balancer.scope, &balancer.id), &balancer)?;
            Ok(balancer)
        })
        .await
}

fn new(id: &str, address: std::net::Ipv4Addr, wanted: &Wanted) -> LoadBalancer {
    LoadBalancer {
        id: id.to_owned(),
        scope: wanted.scope.clone(),
        vpc: wanted.vpc.clone(),
        service_uid: wanted.service_uid.clone(),
        cluster_uid: wanted.cluster_uid.clone(),
        service: wanted.service.clone(),
        address,
        dns_name: LoadBalancer::dns_name(id, &wanted.scope.region),
        ports: wanted.ports.clone(),
        health: wanted.health,
        source_ranges: wanted.source_ranges.clone(),
        deleting: false,
    }
}

fn updated(balancer: LoadBalancer, wanted: &Wanted) -> LoadBalancer {
    let Wanted { ports, health, source_ranges, .. } = wanted.clone();
    LoadBalancer { ports, health, source_ranges, ..balancer }
}

/// Asks for the end of those that fit.
pub async fn remove(
    cloud: &Cloud,
    scope: &Scope,
    fits: impl Fn(&LoadBalancer) -> bool,
) -> Result<(), CommitError> {
    let body = |txn: &mut Txn| {
        for (key, mut balancer) in txn.list::<LoadBalancer>(&keys::scoped(keys::BALANCERS, scope))? {
            // A transaction has room for so many; whoever asks comes again.
            if fits(&balancer) && !balancer.deleting {
                balancer.deleting = true;
                return Ok((txn.put(&key, &balancer)?, true));
            }
        }
        Ok::<_, CommitError>(((), false))
    };
    while cloud.store.transact(body).await?.1 {}
    Ok(())
}

/// Keeps every balancer's address where its record says.
#[derive(Debug)]
pub struct BalancerReconciler {
    cloud: Cloud,
    host: Arc<dyn Host>,
    names: Names,
    /// Routers that have been given the address, by balancer, and when.
    placed: Mutex<HashMap<String, (netns::Identity, Instant)>>,
}

/// Programs that look after networks throw away what they do not know: every address is placed anew now and then.
const PLACED_FOR: Duration = Duration::from_secs(60);
/// How soon a balancer whose VPC has no router is looked at again.
const NO_ROUTER: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum BalancerError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Store(#[from] CommitError),
}

impl BalancerReconciler {
    pub fn new(cloud: Cloud, host: Arc<dyn Host>, names: Names) -> Self {
        Self { cloud, host, names, placed: Mutex::default() }
    }

    async fn place(&self, key: &str, balancer: &LoadBalancer) -> Result<Next, BalancerError> {
        let router = router_of(&self.cloud, &self.names, &balancer.scope, &balancer.vpc);
        let router = router.and_then(|router| Some((netns::identity(&router.namespace)?, router)));
        let Some((identity, router)) = router else { return Ok(Next::After(NO_ROUTER)) };
        let placed = || self.placed.lock().unwrap_or_else(PoisonError::into_inner);
        let is_placed =
            |(there, at): &(netns::Identity, Instant)| *there == identity && at.elapsed() < PLACED_FOR;
        if !placed().get(key).is_some_and(is_placed) {
            let address = balancer.address;
            on_host(&self.host, move |host| host.ensure_balancer(&router, address)).await?;
            placed().insert(key.to_owned(), (identity, Instant::now()));
        }
        Ok(Next::OnChange)
    }

    async fn forget(&self, key: &str, balancer: &LoadBalancer) -> Result<(), BalancerError> {
        let router = router_of(&self.cloud, &self.names, &balancer.scope, &balancer.vpc);
        let address = balancer.address;
        if let Some(router) = router {
            on_host(&self.host, move |host| host.remove_balancer(&router, address)).await?;
        }
        self.placed.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
        let body = |txn: &mut Txn| {
            txn.delete(key);
            Ok::<_, CommitError>(())
        };
        Ok(self.cloud.store.transact(body).await?)
    }
}

impl Reconciler for BalancerReconciler {
    type Error = BalancerError;

    fn name(&self) -> &'static str {
        "balancer"
    }

    fn keys(&self) -> Vec<String> {
        self.cloud.store.view().list(keys::BALANCERS).into_iter().map(|(key, _)| key.to_string()).collect()
    }

    fn affected(&self, changed: &str) -> Vec<String> {
        if changed.starts_with(keys::BALANCERS) { vec![changed.to_owned()] } else { Vec::new() }
    }

    fn reconcile(&self, key: String) -> BoxFuture<'_, Result<Next, BalancerError>> {
        async move {
            let balancer = self.cloud.store.view().get_as::<LoadBalancer>(&key);
            match balancer {
                Some(balancer) if balancer.deleting => self.forget(&key, &balancer).await?,
                Some(balancer) => return self.place(&key, &balancer).await,
                None => {}
            }
            Ok(Next::OnChange)
        }
        .boxed()
    }
}

//! Takes away the router of a VPC that nothing is connected to any more, and frees its number. Making one is up to
//! whoever connects.
//!
//! Invariant: a number is freed after its router is gone, in a transaction that has seen no interface.

use super::network::router_of;
use crate::Cloud;
use ekstra_domain::ec2::{Interface, Vpc};
use ekstra_domain::names::keys;
use ekstra_engine::{Next, Reconciler};
use ekstra_host::{Host, HostError, Names};
use ekstra_store::{CommitError, Txn};
use futures::FutureExt;
use futures::future::BoxFuture;
use std::sync::Arc;

/// Keeps no router without an interface.
#[derive(Debug)]
pub struct RouterReconciler {
    pub cloud: Cloud,
    pub host: Arc<dyn Host>,
    pub names: Names,
}

#[derive(Debug, thiserror::Error)]
pub enum RouterError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Store(#[from] CommitError),
    #[error("the task was cancelled")]
    Cancelled,
}

impl Reconciler for RouterReconciler {
    type Error = RouterError;

    fn name(&self) -> &'static str {
        "router"
    }

    fn keys(&self) -> Vec<String> {
        self.cloud.store.view().list(keys::VPCS).into_iter().map(|(key, _)| key.to_string()).collect()
    }

    /// A deleted interface no longer says which VPC it was in; there are few of them.
    fn affected(&self, changed: &str) -> Vec<String> {
        if changed.starts_with(keys::INTERFACES) { self.keys() } else { Vec::new() }
    }

    fn reconcile(&self, key: String) -> BoxFuture<'_, Result<Next, RouterError>> {
        async move {
            if self.unused(&key).is_none() {
                return Ok(Next::OnChange);
            }
            // Nobody connects until this is done; somebody may have done so just before.
            let _alone = self.cloud.router_use.write().await;
            let Some(vpc) = self.unused(&key) else { return Ok(Next::OnChange) };
            if let Some(router) = router_of(&self.cloud, &self.names, &vpc.scope, &vpc.id) {
                let host = self.host.clone();
                let removed = tokio::task::spawn_blocking(move || host.remove_router(&router)).await;
                removed.map_err(|_| RouterError::Cancelled)??;
            }
            self.free_number(&key, &vpc).await?;
            Ok(Next::OnChange)
        }
        .boxed()
    }
}

impl RouterReconciler {
    /// The VPC, if it has a router, or may have, and nobody needs it.
    fn unused(&self, key: &str) -> Option<Vpc> {
        let view = self.cloud.store.view();
        let vpc = view.get_as::<Vpc>(key).filter(|vpc| vpc.number.is_some())?;
        let interfaces = view.list_as::<Interface>(&keys::scoped(keys::INTERFACES, &vpc.scope));
        (!interfaces.iter().any(|(_, interface)| interface.vpc == vpc.id)).then_some(vpc)
    }

    async fn free_number(&self, key: &str, vpc: &Vpc) -> Result<(), CommitError> {
        let interfaces = keys::scoped(keys::INTERFACES, &vpc.scope);
        let body = |txn: &mut Txn| {
            let used = txn.list::<Interface>(&interfaces)?.iter().any(|(_, i)| i.vpc == vpc.id);
            if let Some(mut vpc) = txn.get::<Vpc>(key)?.filter(|_| !used) {
                vpc.number = None;
                txn.put(key, &vpc)?;
            }
            Ok::<_, CommitError>(())
        };
        self.cloud.store.transact(body).await
    }
}

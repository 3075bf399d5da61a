//! Takes away the router of a VPC that nothing is connected to any more. Making one is up to whoever connects.

use super::network::router_of;
use crate::Cloud;
use ekstra_domain::ec2::{Interface, Vpc};
use ekstra_domain::names::keys;
use ekstra_engine::{Next, Reconciler};
use ekstra_host::{Host, HostError, Names, netns};
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

impl Reconciler for RouterReconciler {
    type Error = HostError;

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

    fn reconcile(&self, key: String) -> BoxFuture<'_, Result<Next, HostError>> {
        async move {
            let Some(vpc) = self.cloud.store.view().get_as::<Vpc>(&key) else { return Ok(Next::OnChange) };
            let _alone = self.cloud.router_use.write().await;
            let interfaces =
                self.cloud.store.view().list_as::<Interface>(&keys::scoped(keys::INTERFACES, &vpc.scope));
            if interfaces.iter().any(|(_, interface)| interface.vpc == vpc.id) {
                return Ok(Next::OnChange);
            }
            if let Some(router) = router_of(&self.cloud, &self.names, &vpc.scope, &vpc.id)
                && netns::path(&router.namespace).exists()
            {
                let host = self.host.clone();
                let removed = tokio::task::spawn_blocking(move || host.remove_router(&router)).await;
                removed.unwrap_or(Ok(()))?;
            }
            Ok(Next::OnChange)
        }
        .boxed()
    }
}

//! A control plane's place in its VPC.

use super::{ClusterError, ClusterReconciler, Ends};
use ekstra_cloud::ec2::network::{interface_spec, router_of};
use ekstra_cloud::on_host;
use ekstra_domain::ec2::{Interface, Subnet};
use ekstra_domain::eks::{Cluster, ControlPlaneSlot, Site};
use ekstra_domain::names::keys;
use ekstra_host::{InterfaceSpec, RouterSpec, netns};
use std::sync::PoisonError;

impl ClusterReconciler {
    pub(super) fn interfaces(
        &self,
        slot: &ControlPlaneSlot,
    ) -> Result<Vec<(Interface, Subnet)>, ClusterError> {
        let view = self.eks.cloud.store.view();
        let cluster: Option<Cluster> = view.get_as(&slot.cluster);
        let scope = cluster.ok_or_else(|| ClusterError::Unrecorded(slot.cluster.clone()))?.scope;
        let find = |id: &String| {
            let interface: Interface = view.get_as(&keys::interface(&scope, id))?;
            let subnet: Subnet = view.get_as(&keys::subnet(&scope, &interface.subnet))?;
            Some((interface, subnet))
        };
        let found =
            slot.interfaces.iter().map(|id| find(id).ok_or_else(|| ClusterError::Unrecorded(id.clone())));
        found.collect()
    }

    pub(super) fn links(
        &self,
        cluster: &Cluster,
        slot: &ControlPlaneSlot,
        namespace: &str,
    ) -> Result<(RouterSpec, Vec<InterfaceSpec>), ClusterError> {
        let router = router_of(&self.eks.cloud, &self.eks.names, &cluster.scope, &slot.vpc)
            .ok_or_else(|| ClusterError::Unrecorded(slot.vpc.clone()))?;
        let settings = &self.eks.cloud.settings;
        let link = |(interface, subnet): &(Interface, Subnet)| {
            interface_spec(settings, &router, interface, subnet, namespace)
        };
        let links = self.interfaces(slot)?.iter().map(link).collect();
        Ok((router, links))
    }

    /// Links are gone with either of their ends, and a namespace made anew under the same name is another one. On the
    /// host there is nothing to make.
    pub(super) fn is_networked(&self, cluster: &Cluster, slot: &ControlPlaneSlot) -> bool {
        let Some(namespace) = slot.site.namespace() else { return true };
        self.ends(cluster, slot, namespace).is_some_and(|ends| {
            self.networked.lock().unwrap_or_else(PoisonError::into_inner).get(&slot.id) == Some(&ends)
        })
    }

    fn ends(&self, cluster: &Cluster, slot: &ControlPlaneSlot, namespace: &str) -> Option<Ends> {
        let router = router_of(&self.eks.cloud, &self.eks.names, &cluster.scope, &slot.vpc)?;
        Some((netns::identity(namespace)?, netns::identity(&router.namespace)?))
    }

    pub(super) async fn make_network(
        &self,
        cluster: &Cluster,
        slot: &ControlPlaneSlot,
    ) -> Result<(), ClusterError> {
        let Site::Apart { namespace } = slot.site.clone() else { return Ok(()) };
        let (router, links) = self.links(cluster, slot, &namespace)?;
        let inside = namespace.clone();
        let _connecting = self.eks.cloud.router_use.read().await;
        on_host(&self.eks.host, move |host| {
            host.ensure_router(&router)?;
            host.ensure_namespace(&inside)?;
            links.iter().try_for_each(|link| host.ensure_interface(link))
        })
        .await?;
        if let Some(ends) = self.ends(cluster, slot, &namespace) {
            self.networked.lock().unwrap_or_else(PoisonError::into_inner).insert(slot.id.clone(), ends);
        }
        Ok(())
    }
}

//! EKS's operations, one a file.

mod access;
mod access_entries;
mod addon_versions;
mod addons;
mod authorities;
mod capabilities;
mod cluster_versions;
mod connected_clusters;
mod create_cluster;
mod create_nodegroup;
mod delete;
mod describe;
mod encryption;
mod fargate_profiles;
mod identity_providers;
mod insights;
mod list;
mod pod_identity;
mod present;
mod subscriptions;
mod tags;
mod tuning;
mod unserved;
mod update_cluster;
mod update_nodegroup;
mod vpc_config;

use crate::{Eks, auth, updates, web_identity};
use ekstra_cloud::api::{Call, Refusal, Router, digest};
use ekstra_domain::eks::{
    Asked, Cluster, ClusterStatus, Invalid, Nodegroup, Update, UpdateOf, UpdateStatus, UpdateType,
};
use ekstra_domain::names::{Scope, keys};
use ekstra_model::eks::{errors, ops};
use ekstra_model::{eks_auth, sts};
use ekstra_store::Txn;
use ekstra_wire::ApiError;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;

pub(crate) fn serve(router: &mut Router, eks: &Eks) {
    router.serve(ops::CreateCluster, eks, access::create_cluster, create_cluster::handle);
    router.serve(ops::DescribeCluster, eks, access::describe_cluster, describe::cluster);
    router.serve(ops::ListClusters, eks, access::list_clusters, list::clusters);
    router.serve(ops::DeleteCluster, eks, access::delete_cluster, delete::cluster);
    router.serve(
        ops::DescribeClusterVersions,
        eks,
        access::describe_cluster_versions,
        cluster_versions::handle,
    );
    router.serve(ops::UpdateClusterConfig, eks, access::update_cluster_config, update_cluster::config);
    router.serve(ops::UpdateClusterVersion, eks, access::update_cluster_version, update_cluster::version);
    router.serve(ops::CreateNodegroup, eks, access::create_nodegroup, create_nodegroup::handle);
    router.serve(ops::DescribeNodegroup, eks, access::describe_nodegroup, describe::nodegroup);
    router.serve(ops::ListNodegroups, eks, access::list_nodegroups, list::nodegroups);
    router.serve(ops::DeleteNodegroup, eks, access::delete_nodegroup, delete::nodegroup);
    router.serve(ops::UpdateNodegroupConfig, eks, access::update_nodegroup_config, update_nodegroup::config);
    router.serve(
        ops::UpdateNodegroupVersion,
        eks,
        access::update_nodegroup_version,
        update_nodegroup::version,
    );
    router.serve(ops::DescribeUpdate, eks, access::describe_update, describe::update);
    router.serve(ops::ListUpdates, eks, access::list_updates, list::updates);
    router.serve(ops::CreateAccessEntry, eks, access::create_access_entry, access_entries::create);
    router.serve(ops::DescribeAccessEntry, eks, access::describe_access_entry, access_entries::describe);
    router.serve(ops::ListAccessEntries, eks, access::list_access_entries, access_entries::list);
    router.serve(ops::UpdateAccessEntry, eks, access::update_access_entry, access_entries::update);
    router.serve(ops::DeleteAccessEntry, eks, access::delete_access_entry, access_entries::delete);
    router.serve(ops::AssociateAccessPolicy, eks, access::associate_policy, access_entries::associate);
    router.serve(
        ops::DisassociateAccessPolicy,
        eks,
        access::disassociate_policy,
        access_entries::disassociate,
    );
    router.serve(
        ops::ListAssociatedAccessPolicies,
        eks,
        access::list_associated,
        access_entries::list_associated,
    );
    router.serve(ops::ListAccessPolicies, eks, access::list_access_policies, access_entries::list_policies);
    router.serve(ops::CreateAddon, eks, access::create_addon, addons::create);
    router.serve(ops::DescribeAddon, eks, access::describe_addon, addons::describe);
    router.serve(ops::ListAddons, eks, access::list_addons, list::addons);
    router.serve(ops::UpdateAddon, eks, access::update_addon, addons::update);
    router.serve(ops::DeleteAddon, eks, access::delete_addon, addons::delete);
    router.serve(ops::DescribeAddonVersions, eks, access::describe_addon_versions, addon_versions::all);
    router.serve(
        ops::DescribeAddonConfiguration,
        eks,
        access::describe_addon_configuration,
        addon_versions::configuration,
    );
    router.serve(ops::CreatePodIdentityAssociation, eks, access::create_pod_identity, pod_identity::create);
    router.serve(
        ops::DescribePodIdentityAssociation,
        eks,
        access::describe_pod_identity,
        pod_identity::describe,
    );
    router.serve(ops::ListPodIdentityAssociations, eks, access::list_pod_identities, pod_identity::list);
    router.serve(ops::UpdatePodIdentityAssociation, eks, access::update_pod_identity, pod_identity::update);
    router.serve(ops::DeletePodIdentityAssociation, eks, access::delete_pod_identity, pod_identity::delete);
    router.serve(
        eks_auth::ops::AssumeRoleForPodIdentity,
        eks,
        auth::access,
        auth::assume_role_for_pod_identity,
    );
    router.serve(
        ops::AssociateIdentityProviderConfig,
        eks,
        access::associate_provider,
        identity_providers::associate,
    );
    router.serve(
        ops::DescribeIdentityProviderConfig,
        eks,
        access::describe_provider,
        identity_providers::describe,
    );
    router.serve(ops::ListIdentityProviderConfigs, eks, access::list_providers, identity_providers::list);
    router.serve(
        ops::DisassociateIdentityProviderConfig,
        eks,
        access::disassociate_provider,
        identity_providers::disassociate,
    );
    router.serve(ops::CancelUpdate, eks, access::cancel_update, update_cluster::cancel);
    router.serve(
        sts::ops::AssumeRoleWithWebIdentity,
        eks,
        web_identity::access,
        web_identity::assume_role_with_web_identity,
    );
    router.serve(ops::ListInsights, eks, access::list_insights, insights::list);
    router.serve(ops::DescribeInsight, eks, access::describe_insight, insights::describe);
    router.serve(ops::StartInsightsRefresh, eks, access::start_refresh, insights::start_refresh);
    router.serve(ops::DescribeInsightsRefresh, eks, access::describe_refresh, insights::describe_refresh);
    router.serve(ops::AssociateEncryptionConfig, eks, access::associate_encryption, encryption::associate);
    router.serve(ops::CreateFargateProfile, eks, access::create_fargate_profile, fargate_profiles::create);
    router.serve(
        ops::DescribeFargateProfile,
        eks,
        access::describe_fargate_profile,
        fargate_profiles::describe,
    );
    router.serve(ops::ListFargateProfiles, eks, access::list_fargate_profiles, fargate_profiles::list);
    router.serve(ops::DeleteFargateProfile, eks, access::delete_fargate_profile, fargate_profiles::delete);
    router.serve(ops::CreateCapability, eks, access::create_capability, capabilities::create);
    router.serve(ops::DescribeCapability, eks, access::describe_capability, capabilities::describe);
    router.serve(ops::ListCapabilities, eks, access::list_capabilities, capabilities::list);
    router.serve(ops::UpdateCapability, eks, access::update_capability, capabilities::update);
    router.serve(ops::DeleteCapability, eks, access::delete_capability, capabilities::delete);
    router.serve(ops::RegisterCluster, eks, access::register_cluster, connected_clusters::register);
    router.serve(ops::DeregisterCluster, eks, access::deregister_cluster, connected_clusters::deregister);
    router.serve(ops::CreateEksAnywhereSubscription, eks, access::create_subscription, subscriptions::create);
    router.serve(
        ops::DescribeEksAnywhereSubscription,
        eks,
        access::describe_subscription,
        subscriptions::describe,
    );
    router.serve(ops::ListEksAnywhereSubscriptions, eks, access::list_subscriptions, subscriptions::list);
    router.serve(ops::UpdateEksAnywhereSubscription, eks, access::update_subscription, subscriptions::update);
    router.serve(ops::DeleteEksAnywhereSubscription, eks, access::delete_subscription, subscriptions::delete);
    router.serve(ops::CreateCertificateAuthority, eks, access::create_authority, authorities::create);
    router.serve(ops::DescribeCertificateAuthority, eks, access::describe_authority, authorities::describe);
    router.serve(ops::ListCertificateAuthorities, eks, access::list_authorities, authorities::list);
    router.serve(ops::ActivateCertificateAuthority, eks, access::activate_authority, authorities::activate);
    router.serve(ops::DeleteCertificateAuthority, eks, access::delete_authority, authorities::delete);
    router.serve(ops::TagResource, eks, access::tag_resource, tags::tag);
    router.serve(ops::UntagResource, eks, access::untag_resource, tags::untag);
    router.serve(ops::ListTagsForResource, eks, access::list_tags, tags::list);
}

fn invalid_parameter(message: impl Into<String>) -> ApiError {
    ApiError::new(&errors::INVALID_PARAMETER_EXCEPTION, message)
}

fn invalid(refused: Invalid) -> ApiError {
    invalid_parameter(refused.0)
}

fn invalid_request(message: impl Into<String>) -> ApiError {
    ApiError::new(&errors::INVALID_REQUEST_EXCEPTION, message)
}

fn in_use(message: impl Into<String>) -> ApiError {
    ApiError::new(&errors::RESOURCE_IN_USE_EXCEPTION, message)
}

fn no_cluster(name: &str) -> ApiError {
    ApiError::new(&errors::RESOURCE_NOT_FOUND_EXCEPTION, format!("No cluster found for name: {name}."))
        .with("clusterName", name)
}

fn no_nodegroup(cluster: &str, name: &str) -> ApiError {
    ApiError::new(&errors::RESOURCE_NOT_FOUND_EXCEPTION, format!("No node group found for name: {name}."))
        .with("clusterName", cluster)
        .with("nodegroupName", name)
}

fn find_cluster(eks: &Eks, call: &Call, name: &str) -> Result<Arc<Cluster>, ApiError> {
    eks.cloud.store.view().shared(&keys::cluster(&call.scope, name)).ok_or_else(|| no_cluster(name))
}

fn find_nodegroup(eks: &Eks, call: &Call, cluster: &str, name: &str) -> Result<Nodegroup, ApiError> {
    find_cluster(eks, call, cluster)?;
    let key = keys::nodegroup(&call.scope, cluster, name);
    eks.cloud.store.view().get_as(&key).ok_or_else(|| no_nodegroup(cluster, name))
}

/// A record that nobody else has made meanwhile: the new one, or the one that this very request has made.
fn insert<T>(
    txn: &mut Txn,
    key: &str,
    new: &T,
    asked: fn(&T) -> &Asked,
    taken: ApiError,
) -> Result<T, Refusal>
where
    T: Serialize + DeserializeOwned + Clone,
{
    match txn.get::<T>(key)? {
        Some(known) if asked(new).repeats(asked(&known)) => Ok(known),
        Some(_) => Err(taken.into()),
        None => {
            txn.put(key, new)?;
            Ok(new.clone())
        }
    }
}

/// Takes a record away, and answers it.
async fn remove<T: DeserializeOwned + Send>(
    eks: &Eks,
    key: &str,
    missing: impl Fn() -> ApiError,
) -> Result<T, ApiError> {
    let body = |txn: &mut Txn| {
        let known: T = txn.get(key)?.ok_or_else(&missing)?;
        txn.delete(key);
        Ok::<_, Refusal>(known)
    };
    Ok(eks.cloud.store.transact(body).await?)
}

/// A cluster that is there and stays.
fn kept_cluster(txn: &mut Txn, scope: &Scope, name: &str) -> Result<Cluster, Refusal> {
    let cluster: Cluster = txn.get(&keys::cluster(scope, name))?.ok_or_else(|| no_cluster(name))?;
    if cluster.status != ClusterStatus::Deleting {
        return Ok(cluster);
    }
    let message = format!("Cluster {name} is being deleted");
    Err(invalid_request(message).with("clusterName", name).into())
}

/// A request that came again because its answer was lost.
fn is_repeat(token: Option<&String>, digest: &str, known: Option<&String>, known_digest: &str) -> bool {
    token.is_some() && token == known && digest == known_digest
}

/// The request token of an operation that makes an update, what was asked with it, and what the update will be called.
struct Repeat {
    id: String,
    now: i64,
    token: Option<String>,
    digest: String,
}

impl Repeat {
    fn of(eks: &Eks, token: Option<String>, input: &impl std::fmt::Debug) -> Self {
        let env = &eks.cloud.env;
        Self { id: env.uuid(), now: env.now_ms(), token, digest: digest(input) }
    }

    /// Begins the update.
    fn begin(
        &self,
        txn: &mut Txn,
        cluster: (&Scope, &str),
        of: UpdateOf<'_>,
        kind: UpdateType,
        params: Vec<(String, String)>,
    ) -> Result<Update, Refusal> {
        let (scope, cluster) = cluster;
        let mut update = Update {
            id: self.id.clone(),
            scope: scope.clone(),
            cluster: cluster.to_owned(),
            nodegroup: None,
            addon: None,
            provider: None,
            capability: None,
            kind,
            status: UpdateStatus::InProgress,
            params,
            created_ms: self.now,
            errors: Vec::new(),
            request_token: self.token.clone(),
            request_digest: self.digest.clone(),
        };
        let (place, name) = match of {
            UpdateOf::Cluster => (None, ""),
            UpdateOf::Nodegroup(name) => (Some(&mut update.nodegroup), name),
            UpdateOf::Addon(name) => (Some(&mut update.addon), name),
            UpdateOf::Provider(name) => (Some(&mut update.provider), name),
            UpdateOf::Capability(name) => (Some(&mut update.capability), name),
        };
        if let Some(place) = place {
            *place = Some(name.to_owned());
        }
        updates::keep_few(txn, &keys::updates(scope, cluster), of)?;
        txn.put(&keys::update(scope, cluster, &self.id), &update)?;
        Ok(update)
    }

    /// Ends what was begun just now, since there is nothing to wait for; an error is a code and a sentence.
    fn end(
        txn: &mut Txn,
        mut update: Update,
        outcome: Result<(), (&str, String)>,
    ) -> Result<Update, Refusal> {
        match outcome {
            Ok(()) => update.status = UpdateStatus::Successful,
            Err((code, message)) => {
                update.status = UpdateStatus::Failed;
                update.errors.push((code.to_owned(), message));
            }
        }
        txn.put(&keys::update(&update.scope, &update.cluster, &update.id), &update)?;
        Ok(update)
    }

    /// The update that this very request has made already. The same token with other words is refused.
    fn find(&self, txn: &mut Txn, updates: &str) -> Result<Option<Update>, Refusal> {
        let Some(token) = &self.token else { return Ok(None) };
        let known = txn.list::<Update>(updates)?.into_iter().map(|(_, update)| update);
        match known.into_iter().find(|update| update.request_token.as_ref() == Some(token)) {
            Some(update) if update.request_digest != self.digest => {
                let message = "The client request token was used before with other parameters";
                Err(invalid_parameter(message).into())
            }
            found => Ok(found),
        }
    }
}

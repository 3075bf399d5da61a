//! What calls of EKS's operations need: the resources of each, as the Service Authorization Reference has them.

mod conditions;

use crate::Eks;
use ekstra_cloud::access::Access;
use ekstra_cloud::api::Call;
use ekstra_cloud::iam::service_linked_roles::linking;
use ekstra_domain::eks::{
    AccessEntry, Addon, Capability, Cluster, ConnectedCluster, FargateProfile, IdentityProvider, Nodegroup,
    POD_IDENTITY_SERVICE, PodIdentityAssociation, Subscription,
};
use ekstra_domain::names::keys;
use ekstra_model::eks as model;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Who takes the roles that are given to clusters and node groups.
pub(super) const SERVICE: &str = "eks.amazonaws.com";
/// Whose service-linked role manages node groups.
pub(super) const NODEGROUP_SERVICE: &str = "eks-nodegroup.amazonaws.com";
/// Whose service-linked role runs pods on Fargate.
pub(super) const FARGATE_SERVICE: &str = "eks-fargate.amazonaws.com";

/// What policies know by an ARN and by tags.
pub(super) trait Resource: DeserializeOwned + Send + Sync + 'static {
    fn arn(&self) -> String;
    fn tags(&self) -> &BTreeMap<String, String>;
}

macro_rules! resources {
    ($($record:ident)*) => {
        $(impl Resource for $record {
            fn arn(&self) -> String {
                self.arn()
            }

            fn tags(&self) -> &BTreeMap<String, String> {
                &self.tags
            }
        })*
    };
}

resources! {
    AccessEntry Addon Capability Cluster ConnectedCluster FargateProfile IdentityProvider Nodegroup
    PodIdentityAssociation Subscription
}

/// On the record of that key. Of one that is not there some of the ARN may not be known: then whatever is allowed of all
/// that it could be is allowed of it.
fn on<R: Resource>(eks: &Eks, call: &Call, key: &str, otherwise: std::fmt::Arguments<'_>) -> Access {
    match eks.cloud.store.view().shared::<R>(key) {
        Some(found) => Access::on(found.arn()).with_resource_tags(Some(found.tags())),
        None => Access::on(call.scope.arn("eks", otherwise)),
    }
}

/// The names that a request may give.
fn given(name: Option<&String>) -> &str {
    name.map(String::as_str).unwrap_or_default()
}

/// An existing cluster, or one that was named in vain.
fn cluster(eks: &Eks, call: &Call, name: Option<&String>) -> Access {
    let name = given(name);
    on::<Cluster>(eks, call, &keys::cluster(&call.scope, name), format_args!("cluster/{name}"))
}

/// What a cluster is to have more.
fn part(eks: &Eks, call: &Call, name: Option<&String>, tags: Option<&BTreeMap<String, String>>) -> Access {
    cluster(eks, call, name).made_with_tags(tags, "eks:TagResource")
}

fn nodegroup(eks: &Eks, call: &Call, cluster: Option<&String>, name: Option<&String>) -> Access {
    let (cluster, name) = (given(cluster), given(name));
    let key = keys::nodegroup(&call.scope, cluster, name);
    on::<Nodegroup>(eks, call, &key, format_args!("nodegroup/{cluster}/{name}/*"))
}

macro_rules! of_cluster {
    ($($function:ident $input:ident $name:ident;)*) => {
        $(pub(super) fn $function(eks: &Eks, call: &Call, input: &model::$input) -> Access {
            cluster(eks, call, input.$name.as_ref())
        })*
    };
}

of_cluster! {
    list_access_entries ListAccessEntriesRequest cluster_name;
    list_addons ListAddonsRequest cluster_name;
    list_fargate_profiles ListFargateProfilesRequest cluster_name;
    list_capabilities ListCapabilitiesRequest cluster_name;
    create_authority CreateCertificateAuthorityRequest cluster_name;
    describe_authority DescribeCertificateAuthorityRequest cluster_name;
    list_authorities ListCertificateAuthoritiesRequest cluster_name;
    activate_authority ActivateCertificateAuthorityRequest cluster_name;
    delete_authority DeleteCertificateAuthorityRequest cluster_name;
    list_providers ListIdentityProviderConfigsRequest cluster_name;
    cancel_update CancelUpdateRequest name;
    list_pod_identities ListPodIdentityAssociationsRequest cluster_name;
    list_insights ListInsightsRequest cluster_name;
    describe_insight DescribeInsightRequest cluster_name;
    start_refresh StartInsightsRefreshRequest cluster_name;
    describe_refresh DescribeInsightsRefreshRequest cluster_name;
    describe_cluster DescribeClusterRequest name;
    delete_cluster DeleteClusterRequest name;
    list_nodegroups ListNodegroupsRequest cluster_name;
    describe_update DescribeUpdateRequest name;
    list_updates ListUpdatesRequest name;
}

pub(super) fn associate_encryption(
    eks: &Eks,
    call: &Call,
    input: &model::AssociateEncryptionConfigRequest,
) -> Access {
    let access = cluster(eks, call, input.cluster_name.as_ref());
    conditions::of_encryption(access, input.encryption_config.as_ref())
}

pub(super) fn update_cluster_config(
    eks: &Eks,
    call: &Call,
    input: &model::UpdateClusterConfigRequest,
) -> Access {
    conditions::of_settings(cluster(eks, call, input.name.as_ref()), input)
}

pub(super) fn update_cluster_version(
    eks: &Eks,
    call: &Call,
    input: &model::UpdateClusterVersionRequest,
) -> Access {
    cluster(eks, call, input.name.as_ref()).with("eks:kubernetesVersion", input.version.clone())
}

/// Of what a cluster has: the function of its kind, the member that names one, the operations.
macro_rules! of_part {
    ($of:ident $name:ident $($function:ident $input:ident;)*) => {
        $(pub(super) fn $function(eks: &Eks, call: &Call, input: &model::$input) -> Access {
            $of(eks, call, input.cluster_name.as_ref(), input.$name.as_ref())
        })*
    };
}

of_part! { nodegroup nodegroup_name
    describe_nodegroup DescribeNodegroupRequest;
    delete_nodegroup DeleteNodegroupRequest;
    update_nodegroup_config UpdateNodegroupConfigRequest;
    update_nodegroup_version UpdateNodegroupVersionRequest;
}

fn entry(eks: &Eks, call: &Call, cluster: Option<&String>, principal: Option<&String>) -> Access {
    let found = find_entry(eks, call, cluster, principal);
    on_entry(call, cluster, principal, found.as_deref())
}

fn find_entry(
    eks: &Eks,
    call: &Call,
    cluster: Option<&String>,
    principal: Option<&String>,
) -> Option<Arc<AccessEntry>> {
    eks.cloud.store.view().shared(&keys::access_entry(&call.scope, given(cluster), given(principal)))
}

/// As [`on`], with what is known of entries.
fn on_entry(
    call: &Call,
    cluster: Option<&String>,
    principal: Option<&String>,
    found: Option<&AccessEntry>,
) -> Access {
    let otherwise = || {
        let cluster = given(cluster);
        Access::on(call.scope.arn("eks", format_args!("access-entry/{cluster}/*")))
            .with("eks:clusterName", [cluster.to_owned()])
            .with("eks:principalArn", [given(principal).to_owned()])
    };
    found.map_or_else(otherwise, conditions::on_entry)
}

fn addon(eks: &Eks, call: &Call, cluster: Option<&String>, name: Option<&String>) -> Access {
    let (cluster, name) = (given(cluster), given(name));
    let key = keys::addon(&call.scope, cluster, name);
    on::<Addon>(eks, call, &key, format_args!("addon/{cluster}/{name}/*"))
}

of_part! { addon addon_name
    describe_addon DescribeAddonRequest;
    delete_addon DeleteAddonRequest;
}

pub(super) fn create_addon(eks: &Eks, call: &Call, input: &model::CreateAddonRequest) -> Access {
    let access = part(eks, call, input.cluster_name.as_ref(), input.tags.as_ref())
        .passing(input.service_account_role_arn.as_ref(), SERVICE);
    passing_to_pods(access, input.pod_identity_associations.as_ref())
}

fn passing_to_pods(access: Access, roles: Option<&Vec<model::AddonPodIdentityAssociations>>) -> Access {
    let roles = roles.into_iter().flatten();
    roles.fold(access, |access, one| access.passing(one.role_arn.as_ref(), POD_IDENTITY_SERVICE))
}

pub(super) fn update_addon(eks: &Eks, call: &Call, input: &model::UpdateAddonRequest) -> Access {
    let access = addon(eks, call, input.cluster_name.as_ref(), input.addon_name.as_ref())
        .passing(input.service_account_role_arn.as_ref(), SERVICE);
    passing_to_pods(access, input.pod_identity_associations.as_ref())
}

/// Whoever says which role pods have hands it to them.
pub(super) fn create_pod_identity(
    eks: &Eks,
    call: &Call,
    input: &model::CreatePodIdentityAssociationRequest,
) -> Access {
    part(eks, call, input.cluster_name.as_ref(), input.tags.as_ref())
        .passing(input.role_arn.as_ref(), POD_IDENTITY_SERVICE)
}

fn pod_identity(eks: &Eks, call: &Call, cluster: Option<&String>, id: Option<&String>) -> Access {
    let (cluster, id) = (given(cluster), given(id));
    let key = keys::pod_identity(&call.scope, cluster, id);
    on::<PodIdentityAssociation>(eks, call, &key, format_args!("podidentityassociation/{cluster}/{id}"))
}

of_part! { pod_identity association_id
    describe_pod_identity DescribePodIdentityAssociationRequest;
    delete_pod_identity DeletePodIdentityAssociationRequest;
}

pub(super) fn update_pod_identity(
    eks: &Eks,
    call: &Call,
    input: &model::UpdatePodIdentityAssociationRequest,
) -> Access {
    pod_identity(eks, call, input.cluster_name.as_ref(), input.association_id.as_ref())
        .passing(input.role_arn.as_ref(), POD_IDENTITY_SERVICE)
}

fn provider(eks: &Eks, call: &Call, cluster: Option<&String>, name: Option<&String>) -> Access {
    let (cluster, name) = (given(cluster), given(name));
    let key = keys::identity_provider(&call.scope, cluster, name);
    on::<IdentityProvider>(eks, call, &key, format_args!("identityproviderconfig/{cluster}/oidc/{name}/*"))
}

pub(super) fn associate_provider(
    eks: &Eks,
    call: &Call,
    input: &model::AssociateIdentityProviderConfigRequest,
) -> Access {
    let oidc = input.oidc.clone().unwrap_or_default();
    part(eks, call, input.cluster_name.as_ref(), input.tags.as_ref())
        .with("eks:clientId", oidc.client_id)
        .with("eks:issuerUrl", oidc.issuer_url)
}

pub(super) fn describe_provider(
    eks: &Eks,
    call: &Call,
    input: &model::DescribeIdentityProviderConfigRequest,
) -> Access {
    let name = input.identity_provider_config.as_ref().and_then(|named| named.name.as_ref());
    provider(eks, call, input.cluster_name.as_ref(), name)
}

pub(super) fn disassociate_provider(
    eks: &Eks,
    call: &Call,
    input: &model::DisassociateIdentityProviderConfigRequest,
) -> Access {
    let name = input.identity_provider_config.as_ref().and_then(|named| named.name.as_ref());
    provider(eks, call, input.cluster_name.as_ref(), name)
}

pub(super) fn describe_addon_versions(_: &Eks, _: &Call, _: &model::DescribeAddonVersionsRequest) -> Access {
    Access::everything()
}

pub(super) fn describe_addon_configuration(
    _: &Eks,
    _: &Call,
    _: &model::DescribeAddonConfigurationRequest,
) -> Access {
    Access::everything()
}

of_part! { entry principal_arn
    describe_access_entry DescribeAccessEntryRequest;
    delete_access_entry DeleteAccessEntryRequest;
    list_associated ListAssociatedAccessPoliciesRequest;
}

pub(super) fn update_access_entry(eks: &Eks, call: &Call, input: &model::UpdateAccessEntryRequest) -> Access {
    let access = entry(eks, call, input.cluster_name.as_ref(), input.principal_arn.as_ref());
    // What it is to have counts, as far as the request says it.
    access
        .with("eks:kubernetesGroups", input.kubernetes_groups.clone().unwrap_or_default())
        .with("eks:username", input.username.clone())
}

/// The policy is a condition key, so that one may be let give away less than everything.
pub(super) fn associate_policy(
    eks: &Eks,
    call: &Call,
    input: &model::AssociateAccessPolicyRequest,
) -> Access {
    let scope = input.access_scope.clone().unwrap_or_default();
    entry(eks, call, input.cluster_name.as_ref(), input.principal_arn.as_ref())
        .with("eks:policyArn", input.policy_arn.clone())
        .with("eks:accessScope", scope.r#type)
        .with("eks:namespaces", scope.namespaces.unwrap_or_default())
}

pub(super) fn disassociate_policy(
    eks: &Eks,
    call: &Call,
    input: &model::DisassociateAccessPolicyRequest,
) -> Access {
    let (cluster, principal) = (input.cluster_name.as_ref(), input.principal_arn.as_ref());
    let entry = find_entry(eks, call, cluster, principal);
    let access =
        on_entry(call, cluster, principal, entry.as_deref()).with("eks:policyArn", input.policy_arn.clone());
    match entry.as_ref().and_then(|entry| entry.policies.get(given(input.policy_arn.as_ref()))) {
        Some(association) => access
            .with("eks:accessScope", [association.scope().to_owned()])
            .with("eks:namespaces", association.namespaces.clone().unwrap_or_default()),
        None => access,
    }
}

pub(super) fn create_access_entry(eks: &Eks, call: &Call, input: &model::CreateAccessEntryRequest) -> Access {
    cluster(eks, call, input.cluster_name.as_ref())
        .with_tags(input.tags.as_ref())
        .with("eks:principalArn", input.principal_arn.clone())
        .with("eks:kubernetesGroups", input.kubernetes_groups.clone().unwrap_or_default())
        .with("eks:username", input.username.clone())
        .with("eks:accessEntryType", input.r#type.clone())
}

pub(super) fn list_access_policies(_: &Eks, _: &Call, _: &model::ListAccessPoliciesRequest) -> Access {
    Access::everything()
}

pub(super) fn create_cluster(eks: &Eks, call: &Call, input: &model::CreateClusterRequest) -> Access {
    let name = input.name.clone().unwrap_or_default();
    let access = Access::on(call.scope.arn("eks", format_args!("cluster/{name}")))
        .made_with_tags(input.tags.as_ref(), "eks:TagResource")
        .passing(input.role_arn.as_ref(), SERVICE);
    let access = conditions::of_new_cluster(eks, access, input);
    linking(&eks.cloud, call, access, SERVICE)
}

pub(super) fn create_nodegroup(eks: &Eks, call: &Call, input: &model::CreateNodegroupRequest) -> Access {
    let access = part(eks, call, input.cluster_name.as_ref(), input.tags.as_ref())
        .passing(input.node_role.as_ref(), SERVICE);
    linking(&eks.cloud, call, access, NODEGROUP_SERVICE)
}

pub(super) fn list_clusters(_: &Eks, call: &Call, _: &model::ListClustersRequest) -> Access {
    Access::on(call.scope.arn("eks", format_args!("cluster/*")))
}

pub(super) fn describe_cluster_versions(
    _: &Eks,
    _: &Call,
    _: &model::DescribeClusterVersionsRequest,
) -> Access {
    Access::everything()
}

fn fargate_profile(eks: &Eks, call: &Call, cluster: Option<&String>, name: Option<&String>) -> Access {
    let (cluster, name) = (given(cluster), given(name));
    let key = keys::fargate_profile(&call.scope, cluster, name);
    on::<FargateProfile>(eks, call, &key, format_args!("fargateprofile/{cluster}/{name}/*"))
}

of_part! { fargate_profile fargate_profile_name
    describe_fargate_profile DescribeFargateProfileRequest;
    delete_fargate_profile DeleteFargateProfileRequest;
}

pub(super) fn create_fargate_profile(
    eks: &Eks,
    call: &Call,
    input: &model::CreateFargateProfileRequest,
) -> Access {
    let access = part(eks, call, input.cluster_name.as_ref(), input.tags.as_ref())
        .passing(input.pod_execution_role_arn.as_ref(), SERVICE);
    linking(&eks.cloud, call, access, FARGATE_SERVICE)
}

fn capability(eks: &Eks, call: &Call, cluster: Option<&String>, name: Option<&String>) -> Access {
    let (cluster, name) = (given(cluster), given(name));
    let key = keys::capability(&call.scope, cluster, name);
    on::<Capability>(eks, call, &key, format_args!("capability/{cluster}/*/{name}/*"))
}

of_part! { capability capability_name
    describe_capability DescribeCapabilityRequest;
    delete_capability DeleteCapabilityRequest;
}

pub(super) fn create_capability(eks: &Eks, call: &Call, input: &model::CreateCapabilityRequest) -> Access {
    part(eks, call, input.cluster_name.as_ref(), input.tags.as_ref())
        .passing(input.role_arn.as_ref(), SERVICE)
}

pub(super) fn update_capability(eks: &Eks, call: &Call, input: &model::UpdateCapabilityRequest) -> Access {
    capability(eks, call, input.cluster_name.as_ref(), input.capability_name.as_ref())
        .passing(input.role_arn.as_ref(), SERVICE)
}

pub(super) fn register_cluster(_: &Eks, _: &Call, input: &model::RegisterClusterRequest) -> Access {
    let role = input.connector_config.as_ref().and_then(|config| config.role_arn.as_ref());
    Access::everything().made_with_tags(input.tags.as_ref(), "eks:TagResource").passing(role, SERVICE)
}

pub(super) fn deregister_cluster(eks: &Eks, call: &Call, input: &model::DeregisterClusterRequest) -> Access {
    let name = given(input.name.as_ref());
    let key = keys::connected_cluster(&call.scope, name);
    on::<ConnectedCluster>(eks, call, &key, format_args!("cluster/{name}"))
}

pub(super) fn create_subscription(
    _: &Eks,
    _: &Call,
    input: &model::CreateEksAnywhereSubscriptionRequest,
) -> Access {
    Access::everything().made_with_tags(input.tags.as_ref(), "eks:TagResource")
}

pub(super) fn list_subscriptions(
    _: &Eks,
    _: &Call,
    _: &model::ListEksAnywhereSubscriptionsRequest,
) -> Access {
    Access::everything()
}

macro_rules! of_subscription {
    ($($function:ident $input:ident;)*) => {
        $(pub(super) fn $function(eks: &Eks, call: &Call, input: &model::$input) -> Access {
            let id = given(input.id.as_ref());
            let key = keys::subscription(&call.scope, id);
            on::<Subscription>(eks, call, &key, format_args!("eks-anywhere-subscription/{id}"))
        })*
    };
}

of_subscription! {
    describe_subscription DescribeEksAnywhereSubscriptionRequest;
    update_subscription UpdateEksAnywhereSubscriptionRequest;
    delete_subscription DeleteEksAnywhereSubscriptionRequest;
}

fn tagged(eks: &Eks, call: &Call, arn: Option<&String>, given: Option<&BTreeMap<String, String>>) -> Access {
    let arn = arn.cloned().unwrap_or_default();
    let access = match super::tags::entry_of(eks, call, &arn) {
        Some(entry) => conditions::on_entry(&entry),
        None => {
            let tags = super::tags::tags_of(eks, call, &arn).ok();
            Access::on(arn).with_resource_tags(tags.as_ref())
        }
    };
    access.with_tags(given)
}

pub(super) fn tag_resource(eks: &Eks, call: &Call, input: &model::TagResourceRequest) -> Access {
    tagged(eks, call, input.resource_arn.as_ref(), input.tags.as_ref())
}

pub(super) fn untag_resource(eks: &Eks, call: &Call, input: &model::UntagResourceRequest) -> Access {
    let access = tagged(eks, call, input.resource_arn.as_ref(), None);
    access.with("aws:TagKeys", input.tag_keys.clone().unwrap_or_default())
}

pub(super) fn list_tags(eks: &Eks, call: &Call, input: &model::ListTagsForResourceRequest) -> Access {
    tagged(eks, call, input.resource_arn.as_ref(), None)
}

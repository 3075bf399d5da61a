//! What calls of EKS's operations need: the resources of each, as the Service Authorization Reference has them.

use crate::Eks;
use ekstra_cloud::access::Access;
use ekstra_cloud::api::Call;
use ekstra_domain::eks::{
    AccessEntry, Addon, Cluster, IdentityProvider, Nodegroup, POD_IDENTITY_SERVICE, PodIdentityAssociation,
};
use ekstra_domain::names::keys;
use ekstra_model::eks as model;
use std::collections::BTreeMap;

/// Who takes the roles that are given to clusters and node groups.
pub(super) const SERVICE: &str = "eks.amazonaws.com";

/// An existing cluster, or one that was named in vain.
fn cluster(eks: &Eks, call: &Call, name: Option<&String>) -> Access {
    let name = name.map(String::as_str).unwrap_or_default();
    let found: Option<Cluster> = eks.cloud.store.view().get_as(&keys::cluster(&call.scope, name));
    let arn = call.scope.arn("eks", format_args!("cluster/{name}"));
    Access::on(arn).with_resource_tags(found.as_ref().map(|cluster| &cluster.tags))
}

fn nodegroup(eks: &Eks, call: &Call, cluster: Option<&String>, name: Option<&String>) -> Access {
    let (cluster, name) = (cluster.cloned().unwrap_or_default(), name.cloned().unwrap_or_default());
    let key = keys::nodegroup(&call.scope, &cluster, &name);
    let found: Option<Nodegroup> = eks.cloud.store.view().get_as(&key);
    match found {
        Some(group) => Access::on(group.arn()).with_resource_tags(Some(&group.tags)),
        // Its id is not known, and whatever is allowed of one of that name is allowed of it.
        None => Access::on(call.scope.arn("eks", format_args!("nodegroup/{cluster}/{name}/*"))),
    }
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
    list_providers ListIdentityProviderConfigsRequest cluster_name;
    cancel_update CancelUpdateRequest name;
    list_pod_identities ListPodIdentityAssociationsRequest cluster_name;
    list_insights ListInsightsRequest cluster_name;
    describe_insight DescribeInsightRequest cluster_name;
    start_refresh StartInsightsRefreshRequest cluster_name;
    describe_refresh DescribeInsightsRefreshRequest cluster_name;
    describe_cluster DescribeClusterRequest name;
    delete_cluster DeleteClusterRequest name;
    update_cluster_config UpdateClusterConfigRequest name;
    update_cluster_version UpdateClusterVersionRequest name;
    list_nodegroups ListNodegroupsRequest cluster_name;
    describe_update DescribeUpdateRequest name;
    list_updates ListUpdatesRequest name;
}

macro_rules! of_nodegroup {
    ($($function:ident $input:ident;)*) => {
        $(pub(super) fn $function(eks: &Eks, call: &Call, input: &model::$input) -> Access {
            nodegroup(eks, call, input.cluster_name.as_ref(), input.nodegroup_name.as_ref())
        })*
    };
}

of_nodegroup! {
    describe_nodegroup DescribeNodegroupRequest;
    delete_nodegroup DeleteNodegroupRequest;
    update_nodegroup_config UpdateNodegroupConfigRequest;
    update_nodegroup_version UpdateNodegroupVersionRequest;
}

/// Of an entry that is not there the id is not known, and whatever is allowed of that principal's is allowed of it.
fn entry(eks: &Eks, call: &Call, cluster: Option<&String>, principal: Option<&String>) -> Access {
    let (cluster, principal) = (cluster.cloned().unwrap_or_default(), principal.cloned().unwrap_or_default());
    let key = keys::access_entry(&call.scope, &cluster, &principal);
    match eks.cloud.store.view().get_as::<AccessEntry>(&key) {
        Some(entry) => Access::on(entry.arn()).with_resource_tags(Some(&entry.tags)),
        None => Access::on(call.scope.arn("eks", format_args!("access-entry/{cluster}/*"))),
    }
}

fn addon(eks: &Eks, call: &Call, cluster: Option<&String>, name: Option<&String>) -> Access {
    let (cluster, name) = (cluster.cloned().unwrap_or_default(), name.cloned().unwrap_or_default());
    match eks.cloud.store.view().get_as::<Addon>(&keys::addon(&call.scope, &cluster, &name)) {
        Some(addon) => Access::on(addon.arn()).with_resource_tags(Some(&addon.tags)),
        None => Access::on(call.scope.arn("eks", format_args!("addon/{cluster}/{name}/*"))),
    }
}

macro_rules! of_addon {
    ($($function:ident $input:ident;)*) => {
        $(pub(super) fn $function(eks: &Eks, call: &Call, input: &model::$input) -> Access {
            addon(eks, call, input.cluster_name.as_ref(), input.addon_name.as_ref())
        })*
    };
}

of_addon! {
    describe_addon DescribeAddonRequest;
    delete_addon DeleteAddonRequest;
}

pub(super) fn create_addon(eks: &Eks, call: &Call, input: &model::CreateAddonRequest) -> Access {
    cluster(eks, call, input.cluster_name.as_ref())
        .made_with_tags(input.tags.as_ref(), "eks:TagResource")
        .passing(input.service_account_role_arn.as_ref(), SERVICE)
}

pub(super) fn update_addon(eks: &Eks, call: &Call, input: &model::UpdateAddonRequest) -> Access {
    addon(eks, call, input.cluster_name.as_ref(), input.addon_name.as_ref())
        .passing(input.service_account_role_arn.as_ref(), SERVICE)
}

/// Whoever says which role pods have hands it to them.
pub(super) fn create_pod_identity(
    eks: &Eks,
    call: &Call,
    input: &model::CreatePodIdentityAssociationRequest,
) -> Access {
    cluster(eks, call, input.cluster_name.as_ref())
        .made_with_tags(input.tags.as_ref(), "eks:TagResource")
        .passing(input.role_arn.as_ref(), POD_IDENTITY_SERVICE)
}

fn pod_identity(eks: &Eks, call: &Call, cluster: Option<&String>, id: Option<&String>) -> Access {
    let (cluster, id) = (cluster.cloned().unwrap_or_default(), id.cloned().unwrap_or_default());
    let key = keys::pod_identity(&call.scope, &cluster, &id);
    let found: Option<PodIdentityAssociation> = eks.cloud.store.view().get_as(&key);
    Access::on(call.scope.arn("eks", format_args!("podidentityassociation/{cluster}/{id}")))
        .with_resource_tags(found.as_ref().map(|association| &association.tags))
}

macro_rules! of_pod_identity {
    ($($function:ident $input:ident;)*) => {
        $(pub(super) fn $function(eks: &Eks, call: &Call, input: &model::$input) -> Access {
            pod_identity(eks, call, input.cluster_name.as_ref(), input.association_id.as_ref())
        })*
    };
}

of_pod_identity! {
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
    let (cluster, name) = (cluster.cloned().unwrap_or_default(), name.cloned().unwrap_or_default());
    let key = keys::identity_provider(&call.scope, &cluster, &name);
    match eks.cloud.store.view().get_as::<IdentityProvider>(&key) {
        Some(known) => Access::on(known.arn()).with_resource_tags(Some(&known.tags)),
        None => {
            Access::on(call.scope.arn("eks", format_args!("identityproviderconfig/{cluster}/oidc/{name}/*")))
        }
    }
}

pub(super) fn associate_provider(
    eks: &Eks,
    call: &Call,
    input: &model::AssociateIdentityProviderConfigRequest,
) -> Access {
    let oidc = input.oidc.clone().unwrap_or_default();
    cluster(eks, call, input.cluster_name.as_ref())
        .made_with_tags(input.tags.as_ref(), "eks:TagResource")
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

macro_rules! of_entry {
    ($($function:ident $input:ident;)*) => {
        $(pub(super) fn $function(eks: &Eks, call: &Call, input: &model::$input) -> Access {
            entry(eks, call, input.cluster_name.as_ref(), input.principal_arn.as_ref())
        })*
    };
}

of_entry! {
    describe_access_entry DescribeAccessEntryRequest;
    update_access_entry UpdateAccessEntryRequest;
    delete_access_entry DeleteAccessEntryRequest;
    list_associated ListAssociatedAccessPoliciesRequest;
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
    entry(eks, call, input.cluster_name.as_ref(), input.principal_arn.as_ref())
        .with("eks:policyArn", input.policy_arn.clone())
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

pub(super) fn create_cluster(_: &Eks, call: &Call, input: &model::CreateClusterRequest) -> Access {
    let name = input.name.clone().unwrap_or_default();
    Access::on(call.scope.arn("eks", format_args!("cluster/{name}")))
        .made_with_tags(input.tags.as_ref(), "eks:TagResource")
        .passing(input.role_arn.as_ref(), SERVICE)
}

pub(super) fn create_nodegroup(eks: &Eks, call: &Call, input: &model::CreateNodegroupRequest) -> Access {
    cluster(eks, call, input.cluster_name.as_ref())
        .made_with_tags(input.tags.as_ref(), "eks:TagResource")
        .passing(input.node_role.as_ref(), SERVICE)
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

fn tagged(eks: &Eks, call: &Call, arn: Option<&String>, given: Option<&BTreeMap<String, String>>) -> Access {
    let arn = arn.cloned().unwrap_or_default();
    let tags = super::tags::tags_of(eks, call, &arn).ok();
    Access::on(arn).with_resource_tags(tags.as_ref()).with_tags(given)
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

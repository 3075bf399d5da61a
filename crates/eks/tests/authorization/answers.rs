//! What each actor is answered. Nothing here changes the world for whoever asks next: what is allowed is refused for another
//! reason, or changes nothing.

use crate::served::{World, allow};
use crate::{ACCOUNT, Actor, ROLE, tag, text};
use ekstra_model::{cloudtrail, ec2, eks, eks_auth, iam, sts};
use std::collections::BTreeMap;

pub(crate) async fn access_answers(world: &World, actor: &Actor) -> Vec<(&'static str, String)> {
    let entry = eks::CreateAccessEntryRequest {
        cluster_name: text("one"),
        principal_arn: text("unheard"),
        ..Default::default()
    };
    let association = |cluster: &str, policy: &str, scope: &str| eks::AssociateAccessPolicyRequest {
        cluster_name: text(cluster),
        principal_arn: text("unheard"),
        policy_arn: Some(format!("arn:aws:eks::aws:cluster-access-policy/AmazonEKS{policy}Policy")),
        access_scope: Some(eks::AccessScope { r#type: text(scope), namespaces: Some(vec!["a".into()]) }),
    };
    let list = eks::ListAccessEntriesRequest { cluster_name: text("two"), ..Default::default() };
    use eks::ops::{AssociateAccessPolicy, CreateAccessEntry, ListAccessEntries, ListAccessPolicies};
    let associated = |cluster, policy, scope| {
        world.asked(actor, AssociateAccessPolicy, association(cluster, policy, scope))
    };
    vec![
        ("CreateAccessEntry one", world.asked(actor, CreateAccessEntry, entry).await),
        ("AssociateAccessPolicy one, View", associated("one", "View", "namespace").await),
        ("AssociateAccessPolicy two, View", associated("two", "View", "namespace").await),
        ("AssociateAccessPolicy View of all", associated("one", "View", "cluster").await),
        ("AssociateAccessPolicy Edit", associated("one", "Edit", "namespace").await),
        ("ListAccessEntries two", world.asked(actor, ListAccessEntries, list).await),
        ("ListAccessPolicies", world.asked(actor, ListAccessPolicies, Default::default()).await),
    ]
}

pub(crate) async fn addon_answers(world: &World, actor: &Actor) -> Vec<(&'static str, String)> {
    // Of a name that there is not, so that whoever may is refused for that.
    let creation = |role: Option<&str>| eks::CreateAddonRequest {
        cluster_name: text("one"),
        addon_name: text("unheard"),
        service_account_role_arn: role.map(str::to_owned),
        ..Default::default()
    };
    let change = eks::UpdateAddonRequest {
        cluster_name: text("two"),
        addon_name: text("unheard"),
        ..Default::default()
    };
    let one = eks::DescribeAddonRequest { cluster_name: text("one"), addon_name: text("coredns") };
    let schema =
        eks::DescribeAddonConfigurationRequest { addon_name: text("coredns"), addon_version: text("v0") };
    use eks::ops::{
        CreateAddon, DescribeAddon, DescribeAddonConfiguration, DescribeAddonVersions, UpdateAddon,
    };
    vec![
        ("DescribeAddon one", world.asked(actor, DescribeAddon, one).await),
        ("CreateAddon one", world.asked(actor, CreateAddon, creation(None)).await),
        ("CreateAddon one with a role", world.asked(actor, CreateAddon, creation(Some(ROLE))).await),
        ("UpdateAddon two", world.asked(actor, UpdateAddon, change).await),
        ("DescribeAddonVersions", world.asked(actor, DescribeAddonVersions, Default::default()).await),
        ("DescribeAddonConfiguration", world.asked(actor, DescribeAddonConfiguration, schema).await),
    ]
}

pub(crate) async fn identity_answers(world: &World, actor: &Actor) -> Vec<(&'static str, String)> {
    // Of a namespace that cannot be, so that whoever may is refused for that.
    let creation = eks::CreatePodIdentityAssociationRequest {
        cluster_name: text("one"),
        namespace: text("Not a name"),
        service_account: text("app"),
        role_arn: text(ROLE),
        ..Default::default()
    };
    let deletion = eks::DeletePodIdentityAssociationRequest {
        cluster_name: text("one"),
        association_id: text("a-unheard"),
    };
    let token = eks_auth::AssumeRoleForPodIdentityRequest {
        cluster_name: text("unheard"),
        token: text("a.b.c"),
        ..Default::default()
    };
    // Of an issuer that cannot be.
    let oidc = eks::OidcIdentityProviderConfigRequest {
        identity_provider_config_name: text("login"),
        issuer_url: text("nowhere"),
        client_id: text("kube"),
        ..Default::default()
    };
    let provider = eks::AssociateIdentityProviderConfigRequest {
        cluster_name: text("one"),
        oidc: Some(oidc),
        ..Default::default()
    };
    let cancel = eks::CancelUpdateRequest { name: text("two"), update_id: text("u"), ..Default::default() };
    use eks::ops::{AssociateIdentityProviderConfig, CancelUpdate};
    use eks::ops::{CreatePodIdentityAssociation, DeletePodIdentityAssociation};
    let assume = eks_auth::ops::AssumeRoleForPodIdentity;
    vec![
        (
            "CreatePodIdentityAssociation one",
            world.asked(actor, CreatePodIdentityAssociation, creation).await,
        ),
        (
            "DeletePodIdentityAssociation one",
            world.asked(actor, DeletePodIdentityAssociation, deletion).await,
        ),
        (
            "AssociateIdentityProviderConfig one",
            world.asked(actor, AssociateIdentityProviderConfig, provider).await,
        ),
        ("CancelUpdate two", world.asked(actor, CancelUpdate, cancel).await),
        ("AssumeRoleForPodIdentity", world.asked(actor, assume, token).await),
    ]
}

pub(crate) async fn node_answers(world: &World, actor: &Actor) -> Vec<(&'static str, String)> {
    // Of a cluster that is not there, or of a group that is not, so that whoever may is refused for that.
    let creation = |cluster: &str, role: &str| eks::CreateNodegroupRequest {
        cluster_name: text(cluster),
        nodegroup_name: text("ng"),
        node_role: text(role),
        ..Default::default()
    };
    let deletion = |cluster: &str| eks::DeleteNodegroupRequest {
        cluster_name: text(cluster),
        nodegroup_name: text("unheard"),
    };
    let change = eks::UpdateNodegroupConfigRequest {
        cluster_name: text("two"),
        nodegroup_name: text("unheard"),
        ..Default::default()
    };
    let profile = eks::CreateFargateProfileRequest {
        cluster_name: text("unheard"),
        fargate_profile_name: text("fp"),
        pod_execution_role_arn: text(ROLE),
        ..Default::default()
    };
    let list = eks::ListNodegroupsRequest { cluster_name: text("one"), ..Default::default() };
    use eks::ops::{
        CreateFargateProfile, CreateNodegroup, DeleteNodegroup, ListNodegroups, UpdateNodegroupConfig,
    };
    vec![
        ("CreateNodegroup unheard", world.asked(actor, CreateNodegroup, creation("unheard", ROLE)).await),
        ("CreateNodegroup one", world.asked(actor, CreateNodegroup, creation("one", "no-role")).await),
        ("DeleteNodegroup one", world.asked(actor, DeleteNodegroup, deletion("one")).await),
        ("DeleteNodegroup two", world.asked(actor, DeleteNodegroup, deletion("two")).await),
        ("UpdateNodegroupConfig two", world.asked(actor, UpdateNodegroupConfig, change).await),
        ("ListNodegroups one", world.asked(actor, ListNodegroups, list).await),
        ("CreateFargateProfile unheard", world.asked(actor, CreateFargateProfile, profile).await),
    ]
}

pub(crate) async fn record_answers(world: &World, actor: &Actor) -> Vec<(&'static str, String)> {
    let arn = |cluster: &str| Some(format!("arn:aws:eks:us-east-1:{ACCOUNT}:cluster/{cluster}"));
    let tags = |key: &str| Some(BTreeMap::from([(key.to_owned(), "x".to_owned())]));
    let tag = |key: &str| eks::TagResourceRequest { resource_arn: arn("unheard"), tags: tags(key) };
    let untag =
        eks::UntagResourceRequest { resource_arn: arn("unheard"), tag_keys: Some(vec!["team".into()]) };
    let known = |cluster: &str| eks::ListTagsForResourceRequest { resource_arn: arn(cluster) };
    let insights =
        |cluster: &str| eks::ListInsightsRequest { cluster_name: text(cluster), ..Default::default() };
    let refresh = eks::StartInsightsRefreshRequest { cluster_name: text("unheard") };
    let updates = eks::ListUpdatesRequest { name: text("one"), ..Default::default() };
    let version = eks::UpdateClusterVersionRequest { name: text("unheard"), ..Default::default() };
    use eks::ops::{
        ListInsights, ListTagsForResource, ListUpdates, StartInsightsRefresh, TagResource, UntagResource,
        UpdateClusterVersion,
    };
    vec![
        ("TagResource unheard, team", world.asked(actor, TagResource, tag("team")).await),
        ("TagResource unheard, owner", world.asked(actor, TagResource, tag("owner")).await),
        ("UntagResource unheard", world.asked(actor, UntagResource, untag).await),
        ("ListTagsForResource one", world.asked(actor, ListTagsForResource, known("one")).await),
        ("ListTagsForResource two", world.asked(actor, ListTagsForResource, known("two")).await),
        ("ListInsights one", world.asked(actor, ListInsights, insights("one")).await),
        ("ListInsights two", world.asked(actor, ListInsights, insights("two")).await),
        ("StartInsightsRefresh unheard", world.asked(actor, StartInsightsRefresh, refresh).await),
        ("ListUpdates one", world.asked(actor, ListUpdates, updates).await),
        ("UpdateClusterVersion unheard", world.asked(actor, UpdateClusterVersion, version).await),
        ("LookupEvents", world.asked(actor, cloudtrail::ops::LookupEvents, Default::default()).await),
    ]
}

pub(crate) async fn iam_answers(world: &World, actor: &Actor) -> Vec<(&'static str, String)> {
    // Of a name that is taken, or of one that is not there, so that whoever may is refused for that.
    let user = iam::CreateUserRequest { user_name: text("nobody"), ..Default::default() };
    let own = iam::PutUserPolicyRequest {
        user_name: text("unheard"),
        policy_name: text("own"),
        policy_document: Some(allow(r#""*""#, "*")),
    };
    let attached = iam::AttachRolePolicyRequest {
        role_name: text("unheard"),
        policy_arn: text("arn:aws:iam::aws:policy/AdministratorAccess"),
    };
    let role = iam::DeleteRoleRequest { role_name: text("unheard") };
    let key = iam::CreateAccessKeyRequest { user_name: text("unheard") };
    let policy = iam::CreatePolicyRequest {
        policy_name: text("edge"),
        policy_document: Some(allow(r#""*""#, "*")),
        ..Default::default()
    };
    let tagged = |value: &str| iam::TagUserRequest { user_name: text("unheard"), tags: tag("team", value) };
    let other = iam::TagPolicyRequest { policy_arn: text("unheard"), tags: tag("other", "blue") };
    // What is not there is no loss.
    let untagged =
        |name: &str| iam::UntagUserRequest { user_name: text(name), tag_keys: Some(vec!["unheard".into()]) };
    let assume = sts::GetSessionTokenRequest { duration_seconds: Some(900), ..Default::default() };
    use iam::ops::{
        AttachRolePolicy, CreateAccessKey, CreatePolicy, CreateUser, DeleteRole, PutUserPolicy, TagPolicy,
        TagUser, UntagUser,
    };
    vec![
        ("CreateUser", world.asked(actor, CreateUser, user).await),
        ("TagUser team=blue", world.asked(actor, TagUser, tagged("blue")).await),
        ("TagUser team=green", world.asked(actor, TagUser, tagged("green")).await),
        ("TagPolicy other=blue", world.asked(actor, TagPolicy, other).await),
        ("UntagUser painter", world.asked(actor, UntagUser, untagged("painter")).await),
        ("UntagUser nobody", world.asked(actor, UntagUser, untagged("nobody")).await),
        ("PutUserPolicy", world.asked(actor, PutUserPolicy, own).await),
        ("CreateAccessKey", world.asked(actor, CreateAccessKey, key).await),
        ("AttachRolePolicy", world.asked(actor, AttachRolePolicy, attached).await),
        ("DeleteRole", world.asked(actor, DeleteRole, role).await),
        ("CreatePolicy", world.asked(actor, CreatePolicy, policy).await),
        ("GetSessionToken", world.asked(actor, sts::ops::GetSessionToken, assume).await),
    ]
}

pub(crate) async fn disk_answers(world: &World, actor: &Actor) -> Vec<(&'static str, String)> {
    let creation = ec2::CreateVolumeRequest {
        availability_zone: text("us-east-1z"),
        size: Some(1),
        ..Default::default()
    };
    let deletion = ec2::DeleteVolumeRequest { volume_id: text("vol-0unheard"), ..Default::default() };
    let snapshot = ec2::CreateSnapshotRequest { volume_id: text("vol-0unheard"), ..Default::default() };
    let attachment = ec2::AttachVolumeRequest {
        volume_id: text("vol-0unheard"),
        instance_id: text("i-0unheard"),
        device: text("/dev/xvdf"),
        ..Default::default()
    };
    use ec2::ops::{AttachVolume, CreateSnapshot, CreateVolume, DeleteVolume};
    vec![
        ("CreateVolume", world.asked(actor, CreateVolume, creation).await),
        ("DeleteVolume", world.asked(actor, DeleteVolume, deletion).await),
        ("AttachVolume", world.asked(actor, AttachVolume, attachment).await),
        ("CreateSnapshot", world.asked(actor, CreateSnapshot, snapshot).await),
    ]
}

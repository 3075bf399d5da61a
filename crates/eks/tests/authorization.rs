//! Who may do what: actors with policies of many kinds, and what each is answered. `authorization.txt` has all of it;
//! `UPDATE_GOLDEN=1 cargo test -p ekstra-eks authorization` writes it again.

use ekstra_domain::iam::{Principal, Role, User};
use ekstra_domain::names::keys;
use ekstra_model::{OperationShape, cloudtrail, ec2, eks, eks_auth, iam, sts};
use ekstra_testkit::Caller;
use ekstra_wire::ApiError;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

mod served;

use served::World;

const ACCOUNT: &str = "000000000000";
const ROLE: &str = "arn:aws:iam::000000000000:role/eksClusterRole";

impl World {
    async fn must<O: OperationShape>(&self, operation: O, input: O::Input) -> O::Output {
        self.env.call(&self.router, operation, input).await.expect("the administrator may")
    }

    async fn user(&self, name: &str, policy: &str) {
        self.must(
            iam::ops::CreateUser,
            iam::CreateUserRequest { user_name: text(name), ..Default::default() },
        )
        .await;
        if !policy.is_empty() {
            let put = iam::PutUserPolicyRequest {
                user_name: text(name),
                policy_name: text("own"),
                policy_document: text(policy),
            };
            self.must(iam::ops::PutUserPolicy, put).await;
        }
    }

    /// With the id that its name has now.
    fn principal(&self, actor: &Actor) -> Principal {
        let view = self.env.cloud.store.view();
        let user = view.get_as::<User>(&keys::user(ACCOUNT, actor.name)).map(|user| user.id);
        let role =
            view.get_as::<Role>(&keys::role(ACCOUNT, "eksNodeRole")).map(|role| format!("{}:i-1", role.id));
        let user_id = user.or(role).unwrap_or_default();
        Principal { account: ACCOUNT.into(), arn: actor.arn.clone(), user_id }
    }

    /// How a call of somebody ends: with a denial, or otherwise.
    async fn asked<O: OperationShape>(&self, actor: &Actor, operation: O, input: O::Input) -> String {
        let session_policies = actor.session.clone();
        let caller = Caller { session_policies, ..Caller::from(self.principal(actor)) };
        match self.env.call_as(caller, &self.router, operation, input).await {
            Err(error) if is_denial(&error) => format!("{}: {}", error.code, error.message),
            _ => "allowed".to_owned(),
        }
    }
}

fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn is_denial(error: &ApiError) -> bool {
    ["AccessDenied", "AccessDeniedException", "UnauthorizedOperation"].contains(&error.code.as_str())
}

struct Actor {
    name: &'static str,
    arn: String,
    session: Vec<String>,
}

impl Actor {
    fn user(name: &'static str) -> Self {
        Self { name, arn: format!("arn:aws:iam::{ACCOUNT}:user/{name}"), session: Vec::new() }
    }
}

fn allow(action: &str, resource: &str) -> String {
    format!(
        r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Action":{action},"Resource":"{resource}"}}]}}"#
    )
}

const ALL_BUT_DELETION: &str = r#"{"Version":"2012-10-17","Statement":[
    {"Effect":"Allow","Action":"*","Resource":"*"},
    {"Effect":"Deny","Action":"eks:Delete*","Resource":"*"}]}"#;
/// Whatever carries the caller's team as a tag.
const OF_MY_TEAM: &str = r#"{"Version":"2012-10-17","Statement":[
    {"Effect":"Allow","Action":"eks:*","Resource":"*",
     "Condition":{"StringEquals":{"aws:ResourceTag/team":"${aws:username}"}}},
    {"Effect":"Allow","Action":["eks:CreateCluster","eks:TagResource"],"Resource":"*",
     "Condition":{"StringEquals":{"aws:RequestTag/team":"${aws:username}"},
                  "ForAllValues:StringEquals":{"aws:TagKeys":["team"]}}},
    {"Effect":"Allow","Action":"iam:PassRole","Resource":"*",
     "Condition":{"StringEquals":{"iam:PassedToService":"eks.amazonaws.com"}}}]}"#;
const ELSEWHERE: &str = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*",
    "Condition":{"StringNotEquals":{"aws:RequestedRegion":"us-east-1"}}}]}"#;

/// Lets people in, and to nothing but reading within namespaces.
const GATEKEEPER: &str = r#"{"Version":"2012-10-17","Statement":[
    {"Effect":"Allow","Action":["eks:CreateAccessEntry","eks:ListAccess*"],"Resource":"*"},
    {"Effect":"Allow","Action":"eks:AssociateAccessPolicy","Resource":"arn:aws:eks:*:*:access-entry/one/*",
     "Condition":{"StringEquals":{"eks:accessScope":"namespace"},
                  "ArnEquals":{"eks:policyArn":"arn:aws:eks::aws:cluster-access-policy/AmazonEKSViewPolicy"}}}]}"#;
/// Whatever there is to do with add-ons, but for giving them a role.
const ADDONS: &str = r#"{"Version":"2012-10-17","Statement":[
    {"Effect":"Allow","Action":"eks:*Addon*","Resource":"*"}]}"#;

/// Whatever there is, but for who may do it.
const BUILDER: &str = r#"{"Version":"2012-10-17","Statement":[
    {"Effect":"Allow","NotAction":["iam:*","sts:*"],"Resource":"*"}]}"#;
/// Whatever there is in EKS, but for what is of one cluster and for one's own tags.
const VISITOR: &str = r#"{"Version":"2012-10-17","Statement":[
    {"Effect":"Allow","Action":"eks:*","NotResource":["arn:aws:eks:*:*:cluster/one","arn:aws:eks:*:*:*/one/*"]},
    {"Effect":"Deny","Action":"eks:TagResource","Resource":"*",
     "Condition":{"ForAnyValue:StringEquals":{"aws:TagKeys":"owner"}}}]}"#;

async fn people(world: &World) -> Vec<Actor> {
    world.user("reader", &allow(r#"["eks:Describe*","eks:List*"]"#, "*")).await;
    world.user("of-one", &allow(r#""eks:*""#, "arn:aws:eks:us-east-1:000000000000:cluster/one")).await;
    world.user("careful", ALL_BUT_DELETION).await;
    world.user("blue", OF_MY_TEAM).await;
    world.user("abroad", ELSEWHERE).await;
    world.user("nobody", "").await;
    world.user("gatekeeper", GATEKEEPER).await;
    world.user("addons", ADDONS).await;
    world.user("builder", BUILDER).await;
    world.user("visitor", VISITOR).await;
    world.user("bounded", &allow(r#""*""#, "*")).await;
    let policy = iam::CreatePolicyRequest {
        policy_name: text("edge"),
        policy_document: Some(allow(r#""eks:Describe*""#, "*")),
        ..Default::default()
    };
    world.must(iam::ops::CreatePolicy, policy).await;
    let edge = iam::PutUserPermissionsBoundaryRequest {
        user_name: text("bounded"),
        permissions_boundary: text("arn:aws:iam::000000000000:policy/edge"),
    };
    world.must(iam::ops::PutUserPermissionsBoundary, edge).await;
    world.user("member", "").await;
    world
        .must(
            iam::ops::CreateGroup,
            iam::CreateGroupRequest { group_name: text("staff"), ..Default::default() },
        )
        .await;
    let attached = iam::AttachGroupPolicyRequest {
        group_name: text("staff"),
        policy_arn: text("arn:aws:iam::aws:policy/ReadOnlyAccess"),
    };
    world.must(iam::ops::AttachGroupPolicy, attached).await;
    let joined = iam::AddUserToGroupRequest { group_name: text("staff"), user_name: text("member") };
    world.must(iam::ops::AddUserToGroup, joined).await;
    let node = |session| Actor {
        name: if session { "node, narrowed" } else { "node" },
        arn: format!("arn:aws:sts::{ACCOUNT}:assumed-role/eksNodeRole/i-1"),
        session: if session { vec![allow(r#""ec2:*""#, "*")] } else { Vec::new() },
    };
    let names = [
        "admin",
        "reader",
        "of-one",
        "careful",
        "blue",
        "abroad",
        "bounded",
        "member",
        "nobody",
        "gatekeeper",
        "addons",
        "builder",
        "visitor",
    ];
    let mut actors: Vec<Actor> = names.into_iter().map(Actor::user).collect();
    actors.extend([node(false), node(true)]);
    actors.push(Actor { name: "root", arn: format!("arn:aws:iam::{ACCOUNT}:root"), session: Vec::new() });
    actors
}

async fn clusters(world: &World) {
    for (name, team) in [("one", "blue"), ("two", "green")] {
        let subnets = world.env.subnets().into_iter().map(|subnet| subnet.id).collect();
        let request = eks::CreateClusterRequest {
            name: text(name),
            role_arn: text(ROLE),
            resources_vpc_config: Some(eks::VpcConfigRequest {
                subnet_ids: Some(subnets),
                ..Default::default()
            }),
            tags: Some(BTreeMap::from([("team".to_owned(), team.to_owned())])),
            ..Default::default()
        };
        world.must(eks::ops::CreateCluster, request).await;
    }
}

/// The first cluster, node group and Fargate profile of an account make the role of their service.
#[tokio::test]
async fn who_may_not_make_the_role_of_a_service_makes_nothing_that_needs_it() {
    let world = World::new().await;
    let starter = Actor::user("starter");
    world.user("starter", &allow(r#"["eks:*","iam:PassRole"]"#, "*")).await;
    let cluster = eks::CreateClusterRequest { name: text("one"), role_arn: text(ROLE), ..Default::default() };
    let nodegroup = eks::CreateNodegroupRequest {
        cluster_name: text("one"),
        nodegroup_name: text("ng"),
        node_role: text(ROLE),
        ..Default::default()
    };
    let profile = eks::CreateFargateProfileRequest {
        cluster_name: text("one"),
        fargate_profile_name: text("fp"),
        pod_execution_role_arn: text(ROLE),
        ..Default::default()
    };
    let asked = |denied: String, service: &str| {
        let role = format!(
            "iam:CreateServiceLinkedRole on resource: arn:aws:iam::{ACCOUNT}:role/aws-service-role/{service}/"
        );
        assert!(denied.starts_with("AccessDeniedException") && denied.contains(&role), "{denied}");
    };
    asked(world.asked(&starter, eks::ops::CreateCluster, cluster.clone()).await, "eks.amazonaws.com");
    asked(world.asked(&starter, eks::ops::CreateNodegroup, nodegroup).await, "eks-nodegroup.amazonaws.com");
    asked(world.asked(&starter, eks::ops::CreateFargateProfile, profile).await, "eks-fargate.amazonaws.com");
    // Once it is there, nobody is asked for it.
    clusters(&world).await;
    assert_eq!(world.asked(&starter, eks::ops::CreateCluster, cluster).await, "allowed");
}

/// Who was deleted does not come back with who is made under the same name.
#[tokio::test]
async fn a_name_that_is_given_anew_is_somebody_else() {
    let world = World::new().await;
    world.user("anna", &allow(r#""*""#, "*")).await;
    let anna = Actor::user("anna");
    let before = world.principal(&anna);
    world
        .must(
            iam::ops::DeleteUserPolicy,
            iam::DeleteUserPolicyRequest { user_name: text("anna"), policy_name: text("own") },
        )
        .await;
    world.must(iam::ops::DeleteUser, iam::DeleteUserRequest { user_name: text("anna") }).await;
    world.user("anna", &allow(r#""*""#, "*")).await;
    let list = |principal| {
        world.env.call_as(Caller::from(principal), &world.router, eks::ops::ListClusters, Default::default())
    };
    assert!(is_denial(&list(before).await.expect_err("she is gone")));
    list(world.principal(&anna)).await.expect("she is here");
}

#[tokio::test]
async fn everybody_is_told_the_same_as_before() {
    let world = World::new().await;
    clusters(&world).await;
    let mut table = String::new();
    for actor in people(&world).await {
        writeln!(table, "{}", actor.name).expect("a string");
        for (what, answer) in answers(&world, &actor).await {
            writeln!(table, "  {what:<34} {answer}").expect("a string");
        }
    }
    compare(&table);
}

/// Nothing here changes the world for whoever asks next: what is allowed is refused for another reason.
async fn answers(world: &World, actor: &Actor) -> Vec<(&'static str, String)> {
    let cluster = |name: &str| eks::DescribeClusterRequest { name: text(name) };
    let deletion = |name: &str| eks::DeleteClusterRequest { name: text(name) };
    let creation = |tags: &[(&str, &str)], role: &str| eks::CreateClusterRequest {
        name: text("three"),
        role_arn: text(role),
        tags: Some(tags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()),
        ..Default::default()
    };
    let assume =
        sts::AssumeRoleRequest { role_arn: text(ROLE), role_session_name: text("s"), ..Default::default() };
    use eks::ops::{CreateCluster, DeleteCluster, DescribeCluster, ListClusters};
    let mut answers = vec![
        ("GetCallerIdentity", world.asked(actor, sts::ops::GetCallerIdentity, Default::default()).await),
        ("ListClusters", world.asked(actor, ListClusters, Default::default()).await),
        ("DescribeCluster one", world.asked(actor, DescribeCluster, cluster("one")).await),
        ("DescribeCluster two", world.asked(actor, DescribeCluster, cluster("two")).await),
        ("DescribeCluster unheard", world.asked(actor, DescribeCluster, cluster("unheard")).await),
        ("DeleteCluster unheard", world.asked(actor, DeleteCluster, deletion("unheard")).await),
        ("CreateCluster", world.asked(actor, CreateCluster, creation(&[], ROLE)).await),
        (
            "CreateCluster team=blue",
            world.asked(actor, CreateCluster, creation(&[("team", "blue")], ROLE)).await,
        ),
        (
            "CreateCluster team=green",
            world.asked(actor, CreateCluster, creation(&[("team", "green")], ROLE)).await,
        ),
        ("DescribeVpcs", world.asked(actor, ec2::ops::DescribeVpcs, Default::default()).await),
        ("ListRoles", world.asked(actor, iam::ops::ListRoles, Default::default()).await),
        (
            "GetUser",
            world.asked(actor, iam::ops::GetUser, iam::GetUserRequest { user_name: text("nobody") }).await,
        ),
        ("AssumeRole eksClusterRole", world.asked(actor, sts::ops::AssumeRole, assume).await),
    ];
    answers.extend(access_answers(world, actor).await);
    answers.extend(addon_answers(world, actor).await);
    answers.extend(identity_answers(world, actor).await);
    answers.extend(node_answers(world, actor).await);
    answers.extend(record_answers(world, actor).await);
    answers.extend(iam_answers(world, actor).await);
    answers.extend(disk_answers(world, actor).await);
    answers
}

async fn access_answers(world: &World, actor: &Actor) -> Vec<(&'static str, String)> {
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

async fn addon_answers(world: &World, actor: &Actor) -> Vec<(&'static str, String)> {
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

async fn identity_answers(world: &World, actor: &Actor) -> Vec<(&'static str, String)> {
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

async fn node_answers(world: &World, actor: &Actor) -> Vec<(&'static str, String)> {
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

async fn record_answers(world: &World, actor: &Actor) -> Vec<(&'static str, String)> {
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

async fn iam_answers(world: &World, actor: &Actor) -> Vec<(&'static str, String)> {
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
    let renamed = iam::UpdateUserRequest {
        user_name: text("unheard"),
        new_user_name: text("heard"),
        ..Default::default()
    };
    let tagged = iam::TagUserRequest { user_name: text("unheard"), tags: Some(Vec::new()) };
    let assume = sts::GetSessionTokenRequest { duration_seconds: Some(900), ..Default::default() };
    use iam::ops::{
        AttachRolePolicy, CreateAccessKey, CreatePolicy, CreateUser, DeleteRole, PutUserPolicy, TagUser,
        UpdateUser,
    };
    vec![
        ("CreateUser", world.asked(actor, CreateUser, user).await),
        ("UpdateUser", world.asked(actor, UpdateUser, renamed).await),
        ("TagUser", world.asked(actor, TagUser, tagged).await),
        ("PutUserPolicy", world.asked(actor, PutUserPolicy, own).await),
        ("CreateAccessKey", world.asked(actor, CreateAccessKey, key).await),
        ("AttachRolePolicy", world.asked(actor, AttachRolePolicy, attached).await),
        ("DeleteRole", world.asked(actor, DeleteRole, role).await),
        ("CreatePolicy", world.asked(actor, CreatePolicy, policy).await),
        ("GetSessionToken", world.asked(actor, sts::ops::GetSessionToken, assume).await),
    ]
}

async fn disk_answers(world: &World, actor: &Actor) -> Vec<(&'static str, String)> {
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

fn compare(told: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/authorization.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, told).expect("written");
    }
    let known = std::fs::read_to_string(&path).expect("tests/authorization.txt");
    for (line, (now, before)) in told.lines().zip(known.lines()).enumerate() {
        assert_eq!(now, before, "line {} of {}", line + 1, path.display());
    }
    assert_eq!(told.lines().count(), known.lines().count());
}

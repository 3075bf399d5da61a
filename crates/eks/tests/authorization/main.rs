//! Who may do what: actors with policies of many kinds, and what each is answered. `authorization.txt` has all of it;
//! `UPDATE_GOLDEN=1 cargo test --release -p ekstra-eks --test authorization` writes it again.

use ekstra_domain::iam::{Principal, Role, User};
use ekstra_domain::names::keys;
use ekstra_model::{OperationShape, ec2, eks, iam, sts};
use ekstra_testkit::Caller;
use ekstra_wire::ApiError;
use std::collections::BTreeMap;
use std::fmt::Write;

mod answers;
mod conditions;
#[path = "../served/mod.rs"]
mod served;

use served::{World, allow};

const ACCOUNT: &str = "000000000000";
const ROLE: &str = "arn:aws:iam::000000000000:role/eksClusterRole";

impl World {
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

fn tag(key: &str, value: &str) -> Option<Vec<iam::Tag>> {
    Some(vec![iam::Tag { key: text(key), value: text(value) }])
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

/// Whoever has a team gets it as a tag, and nothing else.
const TAGGER: &str = r#"{"Version":"2012-10-17","Statement":[
    {"Effect":"Allow","Action":["iam:TagUser","iam:TagPolicy"],"Resource":"*",
     "Condition":{"StringEquals":{"aws:RequestTag/team":"blue"},
                  "ForAllValues:StringEquals":{"aws:TagKeys":["team"]}}},
    {"Effect":"Allow","Action":"iam:UntagUser","Resource":"*",
     "Condition":{"StringEquals":{"iam:ResourceTag/team":"blue"}}}]}"#;

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
    world.user("tagger", TAGGER).await;
    // One to be tagged.
    world.user("painter", "").await;
    let tags = iam::TagUserRequest { user_name: text("painter"), tags: tag("team", "blue") };
    world.must(iam::ops::TagUser, tags).await;
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
        "tagger",
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
    served::compare("authorization.txt", &table);
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
    answers.extend(answers::access_answers(world, actor).await);
    answers.extend(answers::addon_answers(world, actor).await);
    answers.extend(answers::identity_answers(world, actor).await);
    answers.extend(answers::node_answers(world, actor).await);
    answers.extend(answers::record_answers(world, actor).await);
    answers.extend(answers::iam_answers(world, actor).await);
    answers.extend(answers::disk_answers(world, actor).await);
    answers
}

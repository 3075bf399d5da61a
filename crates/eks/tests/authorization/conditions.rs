//! Condition keys of EKS: a denial that asks for them holds.

use crate::served::World;
use crate::{Actor, ROLE, text};
use ekstra_model::{OperationShape, eks};

const ADMIN: &str = "arn:aws:iam::000000000000:user/admin";

/// Everything, but for an action under a condition.
fn all_but(action: &str, condition: &str) -> String {
    format!(
        r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Action":"*","Resource":"*"}},
        {{"Effect":"Deny","Action":"eks:{action}","Resource":"*","Condition":{{{condition}}}}}]}}"#
    )
}

/// How the call of one ends who may do all but that.
async fn asked<O: OperationShape>(world: &World, condition: &str, operation: O, input: O::Input) -> bool {
    // Names of users are given once.
    let name: &'static str = format!("u-{}", world.env.cloud.env.uuid()).leak();
    world.user(name, &all_but(O::OPERATION.name, condition)).await;
    world.asked(&Actor::user(name), operation, input).await == "allowed"
}

fn cluster() -> eks::CreateClusterRequest {
    eks::CreateClusterRequest { name: text("new"), role_arn: text(ROLE), ..Default::default() }
}

#[tokio::test]
async fn what_a_cluster_is_to_be() {
    let world = World::new().await;
    let admission = |mode: Option<&str>, creator| {
        Some(eks::CreateAccessConfigRequest {
            authentication_mode: mode.map(str::to_owned),
            bootstrap_cluster_creator_admin_permissions: creator,
        })
    };
    let private = eks::VpcConfigRequest { endpoint_public_access: Some(false), ..Default::default() };
    let setup = eks::LogSetup { types: Some(vec!["audit".into()]), enabled: Some(true) };
    let key = eks::Provider { key_arn: text("arn:aws:kms:us-east-1:000000000000:key/k") };
    let encryption = eks::EncryptionConfig { provider: Some(key), ..Default::default() };
    let creator = r#""Bool":{"eks:bootstrapClusterCreatorAdminPermissions":"true"}"#;
    let mode = r#""StringNotEquals":{"eks:authenticationMode":"API"}"#;
    let public = r#""Bool":{"eks:endpointPublicAccess":"true"}"#;
    let key = r#""ForAnyValue:ArnLike":{"eks:encryptionConfigProviderKeyArns":"arn:aws:kms:*:*:key/k"}"#;
    for (condition, request, is_allowed) in [
        (creator, cluster(), false),
        (
            creator,
            eks::CreateClusterRequest { access_config: admission(None, Some(false)), ..cluster() },
            true,
        ),
        (mode, cluster(), false),
        (mode, eks::CreateClusterRequest { access_config: admission(Some("API"), None), ..cluster() }, true),
        (public, cluster(), false),
        (public, eks::CreateClusterRequest { resources_vpc_config: Some(private), ..cluster() }, true),
        (r#""StringNotEquals":{"eks:kubernetesVersion":"1.36"}"#, cluster(), true),
        (
            r#""StringNotEquals":{"eks:kubernetesVersion":"1.36"}"#,
            eks::CreateClusterRequest { version: text("1.35"), ..cluster() },
            false,
        ),
        (r#""StringEquals":{"eks:supportType":"EXTENDED"}"#, cluster(), false),
        (r#""Bool":{"eks:deletionProtection":"false"}"#, cluster(), false),
        (r#""Bool":{"eks:bootstrapSelfManagedAddons":"true"}"#, cluster(), false),
        (r#""StringNotEquals":{"eks:controlPlaneScalingTier":"standard"}"#, cluster(), true),
        (r#""Bool":{"eks:zonalShiftEnabled":"false"}"#, cluster(), false),
        (r#""Bool":{"eks:loggingType/audit":"false"}"#, cluster(), false),
        (r#""Bool":{"eks:kubeSchedulerConfig":"true"}"#, cluster(), true),
        (
            r#""Bool":{"eks:kubeSchedulerConfig":"true"}"#,
            eks::CreateClusterRequest { kube_scheduler_config: Some(Default::default()), ..cluster() },
            false,
        ),
        (
            r#""Bool":{"eks:loggingType/audit":"true"}"#,
            eks::CreateClusterRequest {
                logging: Some(eks::Logging { cluster_logging: Some(vec![setup]) }),
                ..cluster()
            },
            false,
        ),
        (key, cluster(), true),
        (key, eks::CreateClusterRequest { encryption_config: Some(vec![encryption]), ..cluster() }, false),
    ] {
        let told = asked(&world, condition, eks::ops::CreateCluster, request).await;
        assert_eq!(told, is_allowed, "{condition}");
    }
}

/// Only what the request says.
#[tokio::test]
async fn what_a_cluster_is_to_become() {
    let world = World::new().await;
    let unprotected = r#""Bool":{"eks:deletionProtection":"false"}"#;
    let protect = |protect| eks::UpdateClusterConfigRequest {
        name: text("one"),
        deletion_protection: protect,
        ..Default::default()
    };
    for (given, is_allowed) in [(Some(false), false), (Some(true), true), (None, true)] {
        let told = asked(&world, unprotected, eks::ops::UpdateClusterConfig, protect(given)).await;
        assert_eq!(told, is_allowed, "{given:?}");
    }
    let version = |version| eks::UpdateClusterVersionRequest {
        name: text("one"),
        version: text(version),
        ..Default::default()
    };
    let newest = r#""StringEquals":{"eks:kubernetesVersion":"1.37"}"#;
    assert!(!asked(&world, newest, eks::ops::UpdateClusterVersion, version("1.37")).await);
    assert!(asked(&world, newest, eks::ops::UpdateClusterVersion, version("1.36")).await);
}

#[tokio::test]
async fn whom_an_access_entry_is_for() {
    let world = World::new().await;
    let subnets = world.env.subnets().into_iter().map(|subnet| subnet.id).collect();
    let request = eks::CreateClusterRequest {
        resources_vpc_config: Some(eks::VpcConfigRequest { subnet_ids: Some(subnets), ..Default::default() }),
        access_config: Some(eks::CreateAccessConfigRequest {
            authentication_mode: text("API"),
            ..Default::default()
        }),
        ..cluster()
    };
    world.must(eks::ops::CreateCluster, request).await;
    let (cluster_name, principal_arn) = (text("new"), text(ADMIN));
    let named = eks::DescribeAccessEntryRequest {
        cluster_name: cluster_name.clone(),
        principal_arn: principal_arn.clone(),
    };
    let entry = world.must(eks::ops::DescribeAccessEntry, named).await.access_entry.expect("the creator's");

    let association = eks::AssociateAccessPolicyRequest {
        cluster_name: cluster_name.clone(),
        principal_arn: principal_arn.clone(),
        ..Default::default()
    };
    let update = |group: &str| eks::UpdateAccessEntryRequest {
        cluster_name: cluster_name.clone(),
        principal_arn: principal_arn.clone(),
        kubernetes_groups: Some(vec![group.to_owned()]),
        ..Default::default()
    };
    let untag =
        eks::UntagResourceRequest { resource_arn: entry.access_entry_arn, tag_keys: Some(Vec::new()) };
    let own = &format!(r#""ArnEquals":{{"eks:principalArn":"{ADMIN}"}}"#);
    let another = &own.replace("admin", "another");
    assert!(!asked(&world, own, eks::ops::AssociateAccessPolicy, association.clone()).await);
    assert!(asked(&world, another, eks::ops::AssociateAccessPolicy, association).await);
    assert!(!asked(&world, own, eks::ops::UntagResource, untag.clone()).await);
    assert!(asked(&world, another, eks::ops::UntagResource, untag).await);

    let group = r#""ForAnyValue:StringEquals":{"eks:kubernetesGroups":"operators"}"#;
    assert!(
        !asked(&world, group, eks::ops::UpdateAccessEntry, update("operators")).await,
        "that it is to have"
    );
    assert!(asked(&world, group, eks::ops::UpdateAccessEntry, update("readers")).await);
    world.must(eks::ops::UpdateAccessEntry, update("operators")).await;
    let delete = eks::DeleteAccessEntryRequest {
        cluster_name: cluster_name.clone(),
        principal_arn: principal_arn.clone(),
    };
    assert!(!asked(&world, group, eks::ops::DeleteAccessEntry, delete).await, "that it has");
    let rename = eks::UpdateAccessEntryRequest {
        cluster_name: cluster_name.clone(),
        principal_arn: principal_arn.clone(),
        username: text("operator"),
        ..Default::default()
    };
    let name = r#""StringEquals":{"eks:username":"operator"}"#;
    assert!(!asked(&world, name, eks::ops::UpdateAccessEntry, rename).await);

    let everything = r#""StringEquals":{"eks:accessScope":"cluster"}"#;
    let disassociation = eks::DisassociateAccessPolicyRequest {
        cluster_name: cluster_name.clone(),
        principal_arn: principal_arn.clone(),
        policy_arn: text("arn:aws:eks::aws:cluster-access-policy/AmazonEKSClusterAdminPolicy"),
    };
    assert!(!asked(&world, everything, eks::ops::DisassociateAccessPolicy, disassociation).await);
}

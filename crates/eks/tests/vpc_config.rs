//! Subnets and security groups of a cluster, when it is created and later.

use ekstra_domain::ec2::{Interface, SecurityGroup, Subnet};
use ekstra_domain::eks::{Cluster, ClusterStatus, ControlPlaneSlot};
use ekstra_domain::names::keys;
use ekstra_model::eks;

mod served;

use served::World;

const ROLE: &str = "arn:aws:iam::000000000000:role/eksClusterRole";
const NAME: &str = "one";

impl World {
    /// A group and a subnet of a VPC that is not the default one.
    async fn another_vpc(&self) -> (SecurityGroup, Vec<Subnet>) {
        let vpc = "vpc-0another".to_owned();
        let group = SecurityGroup {
            id: "sg-0another".into(),
            name: "another".into(),
            vpc: vpc.clone(),
            ..self.default_group()
        };
        let subnets = self.env.subnets().into_iter().take(2);
        let other = |subnet: Subnet| Subnet { id: format!("{}0", subnet.id), vpc: vpc.clone(), ..subnet };
        let subnets: Vec<Subnet> = subnets.map(other).collect();
        let scope = &self.env.scope;
        let write = |txn: &mut ekstra_store::Txn| {
            txn.put(&keys::security_group(scope, &group.id), &group)?;
            for subnet in &subnets {
                txn.put(&keys::subnet(scope, &subnet.id), subnet)?;
            }
            Ok(())
        };
        self.env.write(write).await;
        (group, subnets)
    }

    async fn create(&self, groups: &[String]) -> Result<(), String> {
        let network = eks::VpcConfigRequest {
            subnet_ids: Some(self.subnets()),
            security_group_ids: Some(groups.to_vec()),
            ..Default::default()
        };
        let request = eks::CreateClusterRequest {
            name: Some(NAME.into()),
            role_arn: Some(ROLE.into()),
            resources_vpc_config: Some(network),
            ..Default::default()
        };
        let made = self.env.call(&self.router, eks::ops::CreateCluster, request).await;
        made.map(drop).map_err(|error| error.message)
    }

    async fn update(&self, asked: eks::VpcConfigRequest) -> Result<eks::Update, String> {
        let request = eks::UpdateClusterConfigRequest {
            name: Some(NAME.into()),
            resources_vpc_config: Some(asked),
            ..Default::default()
        };
        let answer = self.env.call(&self.router, eks::ops::UpdateClusterConfig, request).await;
        answer.map(|answer| answer.update.expect("is told")).map_err(|error| error.message)
    }

    fn cluster(&self) -> Cluster {
        self.env.cloud.store.view().get_as(&keys::cluster(&self.env.scope, NAME)).expect("is there")
    }

    /// What each interface of the control plane is in.
    fn interface_groups(&self) -> Vec<Vec<String>> {
        let (view, cluster) = (self.env.cloud.store.view(), self.cluster());
        let slot: ControlPlaneSlot = view.get_as(&keys::slot(&cluster.slot)).expect("is there");
        let groups = |id: &String| {
            let key = keys::interface(&cluster.scope, id);
            view.get_as::<Interface>(&key).expect("is there").security_groups
        };
        slot.interfaces.iter().map(groups).collect()
    }
}

fn in_groups(groups: &[String]) -> eks::VpcConfigRequest {
    eks::VpcConfigRequest { security_group_ids: Some(groups.to_vec()), ..Default::default() }
}

fn in_subnets(subnets: &[String]) -> eks::VpcConfigRequest {
    eks::VpcConfigRequest { subnet_ids: Some(subnets.to_vec()), ..Default::default() }
}

#[tokio::test]
async fn a_control_plane_is_in_the_groups_it_was_created_with() {
    let world = World::new().await;
    let own = world.default_group().id;
    world.create(std::slice::from_ref(&own)).await.expect("is taken");
    let cluster_group = world.cluster().vpc.cluster_security_group;
    assert_eq!(world.interface_groups(), vec![vec![cluster_group, own]; 2]);
}

#[tokio::test]
async fn groups_change_and_the_interfaces_with_them() {
    let world = World::new().await;
    world.create(&[]).await.expect("is taken");
    world.cluster_is(NAME, ClusterStatus::Active).await;
    let cluster_group = world.cluster().vpc.cluster_security_group;
    assert_eq!(world.interface_groups(), vec![vec![cluster_group.clone()]; 2]);

    let own = world.default_group().id;
    let update = world.update(in_groups(std::slice::from_ref(&own))).await.expect("is taken");
    assert_eq!(update.r#type.as_deref(), Some("VpcConfigUpdate"));
    let params = update.params.expect("has some").into_iter();
    let params: Vec<_> =
        params.map(|p| (p.r#type.unwrap_or_default(), p.value.unwrap_or_default())).collect();
    let subnets = format!(r#"["{}"]"#, world.subnets().join(r#"",""#));
    assert_eq!(params, [("Subnets".into(), subnets), ("SecurityGroups".into(), format!(r#"["{own}"]"#))]);
    assert_eq!(world.cluster().vpc.security_groups, std::slice::from_ref(&own));
    assert_eq!(world.interface_groups(), vec![vec![cluster_group.clone(), own.clone()]; 2]);

    // Neither again nor in another order, and the cluster's own is there anyway.
    world.cluster_is(NAME, ClusterStatus::Active).await;
    let again = world.update(in_groups(&[own.clone(), cluster_group, own])).await;
    assert_eq!(again.err().as_deref(), Some("Cluster is already at the desired configuration"));
}

#[tokio::test]
async fn groups_that_are_not_the_vpcs_are_refused() {
    let world = World::new().await;
    let (strange, _) = world.another_vpc().await;
    let vpc = world.default_group().vpc;
    let message = format!(
        "Security group(s) [{}] are not in the same VPC as the subnets. Please specify a security group that is associated with the VPC: {vpc}.",
        strange.id
    );
    let refused = world.create(std::slice::from_ref(&strange.id)).await;
    assert_eq!(refused, Err(message.clone()));
    world.create(&[]).await.expect("is taken");
    world.cluster_is(NAME, ClusterStatus::Active).await;
    let before = world.cluster();
    assert_eq!(world.update(in_groups(&[strange.id])).await.err(), Some(message));
    let unknown = world.update(in_groups(&["sg-0".into()])).await.err();
    assert_eq!(unknown.as_deref(), Some("The security group ID 'sg-0' does not exist"));
    assert_eq!(world.cluster(), before, "nothing has changed");
}

#[tokio::test]
async fn subnets_stay_in_their_vpc_and_zones() {
    let world = World::new().await;
    world.create(&[]).await.expect("is taken");
    world.cluster_is(NAME, ClusterStatus::Active).await;
    let (mut own, all) = (world.subnets(), world.env.subnets());
    let refused = |asked| async { world.update(asked).await.expect_err("is refused") };
    own.reverse();
    assert_eq!(refused(in_subnets(&own)).await, "Cluster is already at the desired configuration");
    let one = refused(in_subnets(&own[..1])).await;
    assert_eq!(one, "Subnets specified must be in at least two different AZs");
    let elsewhere = [all[0].id.clone(), all[2].id.clone()];
    assert_eq!(
        refused(in_subnets(&elsewhere)).await,
        format!(
            "Provided subnets belong to the AZs '{},{}'. But they should belong to the exact set of AZs '{},{}' in which subnets were provided during cluster creation.",
            all[0].zone, all[2].zone, all[0].zone, all[1].zone
        )
    );
    let (_, strange) = world.another_vpc().await;
    let strange: Vec<String> = strange.into_iter().map(|subnet| subnet.id).collect();
    assert!(refused(in_subnets(&strange)).await.contains("vpc-0another"));
    let mixed = [own[0].clone(), own[1].clone(), strange[0].clone()];
    assert_eq!(refused(in_subnets(&mixed)).await, "Subnets specified must be in the same VPC");
    let both = eks::VpcConfigRequest { endpoint_private_access: Some(true), ..in_subnets(&own) };
    assert_eq!(refused(both).await, "Only one type of update can be allowed.");
}

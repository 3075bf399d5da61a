//! What an AWS account has before anyone asks: a default VPC in every region, and here the two roles of a first cluster.

use crate::Cloud;
use crate::api::Refusal;
use ekstra_domain::ec2::{DEFAULT_VPC_CIDR, SecurityGroup, Subnet, Vpc, ZONES};
use ekstra_domain::iam::{
    AWS_MANAGED, DEFAULT_ROLES, DEFAULT_SESSION_SECONDS, FIRST_USER, Grants, Role, User, service_trust,
};
use ekstra_domain::names::{Scope, keys};
use ekstra_domain::prefix::Prefix;
use std::collections::BTreeMap;

/// Makes sure that the account and the region are furnished; does nothing when they are.
pub async fn ensure_scope(cloud: &Cloud, scope: &Scope) -> Result<(), Refusal> {
    let vpcs = keys::scoped(keys::VPCS, scope);
    let role = keys::role(&scope.account, DEFAULT_ROLES[0].0);
    if !cloud.store.view().list(&vpcs).is_empty() && cloud.store.view().get(&role).is_some() {
        return Ok(());
    }
    cloud
        .store
        .transact(|txn| {
            let marker = format!("ec2/furnished/{scope}");
            if !txn.exists(&marker) {
                txn.put(&marker, &cloud.env.now_ms())?;
                furnish_region(cloud, scope, txn)?;
            }
            let marker = format!("iam/furnished/{}", scope.account);
            if !txn.exists(&marker) {
                txn.put(&marker, &cloud.env.now_ms())?;
                furnish_account(cloud, &scope.account, txn)?;
            }
            Ok(())
        })
        .await
}

fn furnish_region(cloud: &Cloud, scope: &Scope, txn: &mut ekstra_store::Txn) -> Result<(), Refusal> {
    let cidr: Prefix = DEFAULT_VPC_CIDR.parse().expect("a constant");
    let vpc = Vpc {
        id: cloud.env.ec2_id("vpc"),
        scope: scope.clone(),
        cidr,
        is_default: true,
        number: None,
        tags: BTreeMap::new(),
    };
    txn.put(&keys::vpc(scope, &vpc.id), &vpc)?;
    for (zone, block) in ZONES.iter().zip(cidr.blocks(20)) {
        let subnet = Subnet {
            id: cloud.env.ec2_id("subnet"),
            scope: scope.clone(),
            vpc: vpc.id.clone(),
            cidr: block,
            zone: format!("{}{zone}", scope.region),
            default_for_zone: true,
            tags: BTreeMap::new(),
        };
        txn.put(&keys::subnet(scope, &subnet.id), &subnet)?;
    }
    let group = SecurityGroup {
        id: cloud.env.ec2_id("sg"),
        scope: scope.clone(),
        vpc: vpc.id,
        name: "default".into(),
        description: "default VPC security group".into(),
        tags: BTreeMap::new(),
    };
    Ok(txn.put(&keys::security_group(scope, &group.id), &group)?)
}

fn furnish_account(cloud: &Cloud, account: &str, txn: &mut ekstra_store::Txn) -> Result<(), Refusal> {
    for (name, principal, policies) in DEFAULT_ROLES {
        let role = Role {
            name: name.into(),
            account: account.into(),
            path: "/".into(),
            id: cloud.env.iam_id("AROA"),
            created_ms: cloud.env.now_ms(),
            trust_policy: service_trust(principal),
            trusted: BTreeMap::new(),
            description: Some("Made by ekstra".into()),
            max_session_seconds: DEFAULT_SESSION_SECONDS,
            grants: attached(policies),
            tags: BTreeMap::new(),
        };
        txn.put(&keys::role(account, name), &role)?;
    }
    first_user(cloud, account, txn).map(drop)
}

fn attached(policies: &[&str]) -> Grants {
    let attached_policies = policies.iter().map(|p| format!("{AWS_MANAGED}{p}")).collect();
    Grants { attached_policies, ..Grants::default() }
}

/// Whether the account has been made here, as it is when its keys are first asked for.
pub fn is_known_account(cloud: &Cloud, account: &str) -> bool {
    cloud.store.view().get(&first_user_marker(account)).is_some()
}

fn first_user_marker(account: &str) -> String {
    format!("iam/first-user/{account}")
}

/// Who administers an account from the start; made once.
pub fn first_user(
    cloud: &Cloud,
    account: &str,
    txn: &mut ekstra_store::Txn,
) -> Result<Option<User>, Refusal> {
    let (key, marker) = (keys::user(account, FIRST_USER), first_user_marker(account));
    if !txn.exists(&marker) {
        txn.put(&marker, &cloud.env.now_ms())?;
        let user = User {
            name: FIRST_USER.into(),
            account: account.into(),
            path: "/".into(),
            id: cloud.env.iam_id("AIDA"),
            created_ms: cloud.env.now_ms(),
            grants: attached(&["AdministratorAccess"]),
            groups: Default::default(),
            tags: BTreeMap::new(),
        };
        txn.put(&key, &user)?;
    }
    Ok(txn.get(&key)?)
}

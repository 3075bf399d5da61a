//! Accounts, regions, ARNs, and the keys under which records are stored.
//!
//! Invariant: account and region are part of every key, so that no listing crosses them by accident.

mod arn;

pub use arn::{Arn, ArnError};

use serde::{Deserialize, Serialize};
use std::fmt;

/// The account that exists without being created.
pub const DEFAULT_ACCOUNT: &str = "000000000000";
pub const DEFAULT_REGION: &str = "us-east-1";

/// Where a regional resource lives.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Scope {
    /// Twelve digits.
    pub account: String,
    pub region: String,
}

impl Scope {
    pub fn new(account: impl Into<String>, region: impl Into<String>) -> Self {
        Self { account: account.into(), region: region.into() }
    }

    /// `arn:aws:<service>:<region>:<account>:<resource>`.
    pub fn arn(&self, service: &str, resource: impl fmt::Display) -> String {
        format!("arn:aws:{service}:{}:{}:{resource}", self.region, self.account)
    }

    /// `ip-10-0-0-1.ec2.internal`, or `….<region>.compute.internal` outside us-east-1.
    pub fn private_dns_name(&self, address: std::net::Ipv4Addr) -> String {
        let dashed = address.to_string().replace('.', "-");
        format!("ip-{dashed}.{}", self.private_domain())
    }

    pub fn private_domain(&self) -> String {
        if self.region == "us-east-1" {
            "ec2.internal".to_owned()
        } else {
            format!("{}.compute.internal", self.region)
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.account, self.region)
    }
}

/// The regions of the partition `aws`, to which every ARN here belongs. Source: botocore's `partitions.json`.
const REGIONS: [&str; 36] = [
    "af-south-1",
    "ap-east-1",
    "ap-east-2",
    "ap-northeast-1",
    "ap-northeast-2",
    "ap-northeast-3",
    "ap-south-1",
    "ap-south-2",
    "ap-southeast-1",
    "ap-southeast-2",
    "ap-southeast-3",
    "ap-southeast-4",
    "ap-southeast-5",
    "ap-southeast-6",
    "ap-southeast-7",
    "ca-central-1",
    "ca-west-1",
    "eu-central-1",
    "eu-central-2",
    "eu-north-1",
    "eu-south-1",
    "eu-south-2",
    "eu-west-1",
    "eu-west-2",
    "eu-west-3",
    "il-central-1",
    "me-central-1",
    "me-south-1",
    "me-west-1",
    "mx-central-1",
    "sa-east-1",
    "sa-west-1",
    "us-east-1",
    "us-east-2",
    "us-west-1",
    "us-west-2",
];

/// Whether AWS has such a region. Only these are furnished: a name that anybody can make up must not cost a network.
pub fn is_region(text: &str) -> bool {
    REGIONS.binary_search(&text).is_ok()
}

/// Where a record of each kind is stored.
pub mod keys {
    use super::Scope;

    pub const CLUSTERS: &str = "eks/clusters/";
    pub const SLOTS: &str = "eks/slots/";
    pub const NODEGROUPS: &str = "eks/nodegroups/";
    pub const ADDONS: &str = "eks/addons/";
    pub const IDENTITY_PROVIDERS: &str = "eks/identity-providers/";
    pub const INSIGHTS: &str = "eks/insights/";
    pub const FARGATE_PROFILES: &str = "eks/fargate-profiles/";
    pub const INSTANCES: &str = "ec2/instances/";
    pub const INTERFACES: &str = "ec2/interfaces/";
    pub const VOLUMES: &str = "ec2/volumes/";
    pub const SNAPSHOTS: &str = "ec2/snapshots/";
    pub const BALANCERS: &str = "elb/balancers/";
    pub const VPCS: &str = "ec2/vpcs/";
    pub const SUBNETS: &str = "ec2/subnets/";

    /// The prefix of all records of one kind in one scope, such as [`CLUSTERS`].
    pub fn scoped(kind: &str, scope: &Scope) -> String {
        format!("{kind}{scope}/")
    }

    /// The same of all regions of an account.
    pub fn in_account(kind: &str, account: &str) -> String {
        format!("{kind}{account}/")
    }

    pub fn cluster(scope: &Scope, name: &str) -> String {
        format!("{CLUSTERS}{scope}/{name}")
    }

    pub fn slot(id: &str) -> String {
        format!("{SLOTS}{id}")
    }

    pub fn nodegroups(scope: &Scope, cluster: &str) -> String {
        format!("{NODEGROUPS}{scope}/{cluster}/")
    }

    pub fn nodegroup(scope: &Scope, cluster: &str, name: &str) -> String {
        format!("{NODEGROUPS}{scope}/{cluster}/{name}")
    }

    pub fn addons(scope: &Scope, cluster: &str) -> String {
        format!("{ADDONS}{scope}/{cluster}/")
    }

    pub fn addon(scope: &Scope, cluster: &str, name: &str) -> String {
        format!("{ADDONS}{scope}/{cluster}/{name}")
    }

    pub fn insights(scope: &Scope, cluster: &str) -> String {
        format!("{INSIGHTS}{scope}/{cluster}")
    }

    pub fn access_entries(scope: &Scope, cluster: &str) -> String {
        format!("eks/access-entries/{scope}/{cluster}/")
    }

    pub fn access_entry(scope: &Scope, cluster: &str, principal_arn: &str) -> String {
        format!("eks/access-entries/{scope}/{cluster}/{principal_arn}")
    }

    pub fn aws_auth(scope: &Scope, cluster: &str) -> String {
        format!("eks/aws-auth/{scope}/{cluster}")
    }

    pub fn fargate_profiles(scope: &Scope, cluster: &str) -> String {
        format!("{FARGATE_PROFILES}{scope}/{cluster}/")
    }

    pub fn fargate_profile(scope: &Scope, cluster: &str, name: &str) -> String {
        format!("{FARGATE_PROFILES}{scope}/{cluster}/{name}")
    }

    pub fn capabilities(scope: &Scope, cluster: &str) -> String {
        format!("eks/capabilities/{scope}/{cluster}/")
    }

    pub fn capability(scope: &Scope, cluster: &str, name: &str) -> String {
        format!("eks/capabilities/{scope}/{cluster}/{name}")
    }

    pub fn connected_clusters(scope: &Scope) -> String {
        format!("eks/connected-clusters/{scope}/")
    }

    pub fn connected_cluster(scope: &Scope, name: &str) -> String {
        format!("eks/connected-clusters/{scope}/{name}")
    }

    pub fn subscriptions(scope: &Scope) -> String {
        format!("eks/anywhere-subscriptions/{scope}/")
    }

    pub fn subscription(scope: &Scope, id: &str) -> String {
        format!("eks/anywhere-subscriptions/{scope}/{id}")
    }

    /// Beside a cluster's own there is at most one.
    pub fn successor_authorities(scope: &Scope, cluster: &str) -> String {
        format!("eks/successor-authorities/{scope}/{cluster}/")
    }

    pub fn successor_authority(scope: &Scope, cluster: &str, id: &str) -> String {
        format!("eks/successor-authorities/{scope}/{cluster}/{id}")
    }

    pub fn identity_providers(scope: &Scope, cluster: &str) -> String {
        format!("{IDENTITY_PROVIDERS}{scope}/{cluster}/")
    }

    pub fn identity_provider(scope: &Scope, cluster: &str, name: &str) -> String {
        format!("{IDENTITY_PROVIDERS}{scope}/{cluster}/{name}")
    }

    pub fn pod_identities(scope: &Scope, cluster: &str) -> String {
        format!("eks/pod-identities/{scope}/{cluster}/")
    }

    pub fn pod_identity(scope: &Scope, cluster: &str, id: &str) -> String {
        format!("eks/pod-identities/{scope}/{cluster}/{id}")
    }

    pub fn updates(scope: &Scope, cluster: &str) -> String {
        format!("eks/updates/{scope}/{cluster}/")
    }

    pub fn update(scope: &Scope, cluster: &str, id: &str) -> String {
        format!("eks/updates/{scope}/{cluster}/{id}")
    }

    pub fn instance(scope: &Scope, id: &str) -> String {
        format!("{INSTANCES}{scope}/{id}")
    }

    pub fn interface(scope: &Scope, id: &str) -> String {
        format!("{INTERFACES}{scope}/{id}")
    }

    pub fn balancer(scope: &Scope, id: &str) -> String {
        format!("{BALANCERS}{scope}/{id}")
    }

    pub fn volume(scope: &Scope, id: &str) -> String {
        format!("{VOLUMES}{scope}/{id}")
    }

    pub fn snapshot(scope: &Scope, id: &str) -> String {
        format!("{SNAPSHOTS}{scope}/{id}")
    }

    pub fn vpc(scope: &Scope, id: &str) -> String {
        format!("{VPCS}{scope}/{id}")
    }

    pub fn subnet(scope: &Scope, id: &str) -> String {
        format!("{SUBNETS}{scope}/{id}")
    }

    /// The address that was given last in a subnet.
    pub fn latest_address(scope: &Scope, subnet: &str) -> String {
        format!("ec2/latest-address/{scope}/{subnet}")
    }

    pub fn security_groups(scope: &Scope) -> String {
        format!("ec2/security-groups/{scope}/")
    }

    pub fn security_group(scope: &Scope, id: &str) -> String {
        format!("ec2/security-groups/{scope}/{id}")
    }

    /// Roles are global in their account.
    pub fn roles(account: &str) -> String {
        format!("iam/roles/{account}/")
    }

    pub fn role(account: &str, name: &str) -> String {
        format!("iam/roles/{account}/{name}")
    }

    /// How the deletion of a service-linked role ended.
    pub fn role_deletion(account: &str, task: &str) -> String {
        format!("iam/role-deletions/{account}/{task}")
    }

    pub fn instance_profiles(account: &str) -> String {
        format!("iam/instance-profiles/{account}/")
    }

    pub fn instance_profile(account: &str, name: &str) -> String {
        format!("iam/instance-profiles/{account}/{name}")
    }

    pub fn oidc_providers(account: &str) -> String {
        format!("iam/oidc-providers/{account}/")
    }

    /// Its issuer is a URL without `https://`.
    pub fn oidc_provider(account: &str, issuer: &str) -> String {
        format!("iam/oidc-providers/{account}/{issuer}")
    }

    pub const ACCESS_KEYS: &str = "iam/access-keys/";

    pub fn access_key(id: &str) -> String {
        format!("{ACCESS_KEYS}{id}")
    }

    pub fn users(account: &str) -> String {
        format!("iam/users/{account}/")
    }

    pub fn user(account: &str, name: &str) -> String {
        format!("iam/users/{account}/{name}")
    }

    pub fn groups(account: &str) -> String {
        format!("iam/groups/{account}/")
    }

    pub fn group(account: &str, name: &str) -> String {
        format!("iam/groups/{account}/{name}")
    }

    /// Of the customer-managed ones.
    pub fn policies(account: &str) -> String {
        format!("iam/policies/arn:aws:iam::{account}:policy/")
    }

    pub fn policy(arn: &str) -> String {
        format!("iam/policies/{arn}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_awss_regions_are_regions() {
        assert!(REGIONS.is_sorted());
        for good in REGIONS {
            assert!(is_region(good), "{good}");
        }
        for bad in ["local", "us-east", "us-east-9", "US-east-1", "us--1", "", "us-east-1-", "cn-north-1"] {
            assert!(!is_region(bad), "{bad}");
        }
    }

    #[test]
    fn node_names_follow_the_region() {
        let address = std::net::Ipv4Addr::new(172, 31, 3, 7);
        assert_eq!(Scope::new("1", "us-east-1").private_dns_name(address), "ip-172-31-3-7.ec2.internal");
        assert_eq!(
            Scope::new("1", "eu-west-1").private_dns_name(address),
            "ip-172-31-3-7.eu-west-1.compute.internal"
        );
    }
}

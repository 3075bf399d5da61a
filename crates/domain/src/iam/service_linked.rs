//! Roles that belong to a service of AWS: it says what they are, nobody else changes them, and they go when it needs them no
//! more.
//!
//! Source: the services' "Using service-linked roles" pages and the AWS managed policy reference.

use super::{AWS_MANAGED, DEFAULT_SESSION_SECONDS, Grants, Role, service_trust};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const PATH: &str = "/aws-service-role/";

/// What a service has its role made as.
#[derive(Debug, PartialEq)]
pub struct ServiceLinked {
    pub service: &'static str,
    pub role: &'static str,
    policy: &'static str,
    description: &'static str,
    /// Whether an account can have several, by suffix.
    pub takes_suffix: bool,
}

impl ServiceLinked {
    const fn new(
        service: &'static str,
        role: &'static str,
        policy: &'static str,
        description: &'static str,
    ) -> Self {
        Self { service, role, policy, description, takes_suffix: false }
    }

    const fn with_suffixes(self) -> Self {
        Self { takes_suffix: true, ..self }
    }

    pub fn path(&self) -> String {
        service_linked_path(self.service)
    }

    pub fn name(&self, suffix: Option<&str>) -> String {
        suffix.map_or_else(|| self.role.to_owned(), |suffix| format!("{}_{suffix}", self.role))
    }

    pub fn make(
        &self,
        account: &str,
        suffix: Option<&str>,
        description: Option<String>,
        id: String,
        now_ms: i64,
    ) -> Role {
        let attached_policies = vec![format!("{AWS_MANAGED}{}{}", &PATH[1..], self.policy)];
        Role {
            name: self.name(suffix),
            account: account.to_owned(),
            path: self.path(),
            id,
            created_ms: now_ms,
            trust_policy: service_trust(self.service),
            trusted: BTreeMap::new(),
            description: description.or_else(|| Some(self.description.to_owned())),
            max_session_seconds: DEFAULT_SESSION_SECONDS,
            grants: Grants { attached_policies, ..Grants::default() },
            tags: BTreeMap::new(),
        }
    }
}

/// Who has one: the services that EKS's users meet.
pub const SERVICE_LINKED: [ServiceLinked; 7] = [
    ServiceLinked::new(
        "eks.amazonaws.com",
        "AWSServiceRoleForAmazonEKS",
        "AmazonEKSServiceRolePolicy",
        "Allows Amazon EKS to call AWS services on your behalf.",
    ),
    ServiceLinked::new(
        "eks-nodegroup.amazonaws.com",
        "AWSServiceRoleForAmazonEKSNodegroup",
        "AWSServiceRoleForAmazonEKSNodegroup",
        "Allows Amazon EKS to manage node groups on your behalf.",
    ),
    ServiceLinked::new(
        "eks-fargate.amazonaws.com",
        "AWSServiceRoleForAmazonEKSForFargate",
        "AmazonEKSForFargateServiceRolePolicy",
        "Allows Amazon EKS to run pods on Fargate on your behalf.",
    ),
    ServiceLinked::new(
        "autoscaling.amazonaws.com",
        "AWSServiceRoleForAutoScaling",
        "AutoScalingServiceRolePolicy",
        "Allows Auto Scaling to use and manage AWS services and resources.",
    )
    .with_suffixes(),
    ServiceLinked::new(
        "elasticloadbalancing.amazonaws.com",
        "AWSServiceRoleForElasticLoadBalancing",
        "AWSElasticLoadBalancingServiceRolePolicy",
        "Allows Elastic Load Balancing to call AWS services on your behalf.",
    ),
    ServiceLinked::new(
        "spot.amazonaws.com",
        "AWSServiceRoleForEC2Spot",
        "AWSEC2SpotServiceRolePolicy",
        "Allows EC2 Spot to launch and manage Spot Instances.",
    ),
    ServiceLinked::new(
        "spotfleet.amazonaws.com",
        "AWSServiceRoleForEC2SpotFleet",
        "AWSEC2SpotFleetServiceRolePolicy",
        "Allows EC2 Spot Fleet to launch and manage Spot Fleet instances.",
    ),
];

pub fn service_linked(service: &str) -> Option<&'static ServiceLinked> {
    SERVICE_LINKED.iter().find(|known| known.service == service)
}

/// Where the roles of a service are.
pub fn service_linked_path(service: &str) -> String {
    format!("{PATH}{service}/")
}

/// Whether a role of this path, or one to be made with it, belongs to a service.
pub fn is_service_linked(path: &str) -> bool {
    path.starts_with(PATH)
}

/// The name of the service's role that an ARN stands for, if it is one.
pub fn service_linked_name(role_arn: &str) -> Option<&str> {
    let (_, path) = role_arn.split_once(":role")?;
    path.rsplit('/').next().filter(|_| is_service_linked(path))
}

/// Whether a policy is for roles of services alone.
pub fn is_of_service_linked(policy_arn: &str) -> bool {
    policy_arn.strip_prefix(AWS_MANAGED).is_some_and(|name| name.starts_with(&PATH[1..]))
}

/// How the deletion of a role ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoleDeletion {
    /// What the service still has, by region; nothing where the role is gone.
    pub in_use_by: BTreeMap<String, Vec<String>>,
}

#[cfg(test)]
mod tests {
    use super::super::aws_managed;
    use super::*;

    #[test]
    fn each_has_a_policy_that_is_there() {
        for known in &SERVICE_LINKED {
            let role = known.make("000000000000", None, None, "AROA1".into(), 0);
            let [policy] = &role.grants.attached_policies[..] else { panic!("one policy") };
            assert!(aws_managed(policy).is_some() && is_of_service_linked(policy), "{policy}");
            assert!(is_service_linked(&role.path), "{}", role.path);
            assert_eq!(role.arn(), format!("arn:aws:iam::000000000000:role{}{}", known.path(), known.role));
            assert_eq!(service_linked_name(&role.arn()), Some(known.role));
        }
    }

    #[test]
    fn a_suffix_is_part_of_the_name() {
        let known = service_linked("autoscaling.amazonaws.com").expect("it has one");
        assert_eq!(known.name(Some("blue")), "AWSServiceRoleForAutoScaling_blue");
        assert!(known.takes_suffix);
        assert_eq!(service_linked("autoscaling"), None);
        assert_eq!(
            service_linked_name("arn:aws:iam::000000000000:role/team/AWSServiceRoleForAutoScaling"),
            None
        );
    }
}

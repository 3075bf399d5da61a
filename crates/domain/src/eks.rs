//! Clusters, node groups and updates: records, states, validation, planners.

mod access;
mod addon;
mod aws_auth;
mod cluster;
mod configuration;
mod identity_provider;
mod insight;
mod labels;
mod nodegroup;
mod plan_cluster;
mod plan_nodegroup;
mod pod_identity;
mod proportional;
mod records;
mod site;
mod tuning;
mod update;
mod validate;

pub use access::{
    AccessEntry, AccessPolicy, Association, CLUSTER_ADMIN, EC2_LINUX, STANDARD, Wish, allows, check_groups,
    check_username, default_username, node_username,
};
pub use addon::{ADDON_PATIENCE_MS, Addon, AddonAction, AddonStatus, Conflicts, Workload, plan_addon};
pub use aws_auth::{AwsAuth, Bearer, Mapping};
pub use cluster::{
    AuthenticationMode, Cluster, ClusterStatus, ControlPlaneSlot, HealthIssue, Logging, Restored, VpcAccess,
};
pub use configuration::{ConfigurationSchema, LONGEST_CONFIGURATION};
pub use identity_provider::{IdentityProvider, ProviderStatus};
pub use insight::{
    AddonCompatibility, ClusterFacts, Deprecation, Insight, Insights, InstalledAddon,
    Resource as InsightResource, Running as RunningProgram, UPGRADE_READINESS, Verdict, assess,
};
pub use labels::{check_label, check_taint};
pub use nodegroup::{NodeChange, Nodegroup, NodegroupStatus, Scaling, Taint, UpdateConfig};
pub use plan_cluster::{ClusterAction, ObservedCluster, plan_cluster};
pub use plan_nodegroup::{Member, NodegroupAction, ObservedNodegroup, plan_nodegroup};
pub use pod_identity::{
    POD_IDENTITY_ADDRESS, POD_IDENTITY_AUDIENCE, POD_IDENTITY_SERVICE, PodIdentityAssociation,
};
pub use proportional::{Bounds, Demand};
pub use records::{
    Ack, ArgoCd, Asked, Capability, ConnectedCluster, FargateProfile, FargateSelector, Subscription,
    SuccessorAuthority,
};
pub use site::{Listener, Site};
pub use tuning::{Scoring, Tuning, check_node_ports, parse_event_ttl};
pub use update::{Update, UpdateOf, UpdateStatus, UpdateType};
pub use validate::{
    Invalid, check_capability_name, check_cluster_name, check_fargate_profile_name,
    check_identity_provider_name, check_nodegroup_name, check_scaling, check_service_cidr, check_version,
    page_size,
};

/// The program of each control plane, in the order in which they are needed.
pub const CONTROL_PLANE_PROGRAMS: [&str; 4] =
    ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"];
/// The service's own way to the API servers, which `publicAccessCidrs` does not concern.
pub const INTERNAL_ADDRESS: std::net::Ipv4Addr = std::net::Ipv4Addr::new(127, 0, 0, 2);
/// Nodes get this long to be drained before they are terminated all the same (`spec/eks-semantics.md` §2.2).
pub const DRAIN_LIMIT_SECONDS: i64 = 15 * 60;

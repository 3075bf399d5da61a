//! CreateCluster: everything that can be refused is refused here; then the cluster, its control-plane slot, its security
//! group and its interfaces are written in one transaction.

use super::access::SERVICE;
use super::vpc_config::{ZONES, check_cidrs, check_security_groups, cluster_subnets, interface_groups};
use super::{access_entries, tuning, unserved};
use super::{digest, in_use, invalid, invalid_parameter, is_repeat, present};
use crate::Eks;
use ekstra_cloud::Settings;
use ekstra_cloud::access::trusts_service;
use ekstra_cloud::api::{Call, Refusal};
use ekstra_cloud::ec2::network::{NewInterface, VPC_LIMIT, create_interface};
use ekstra_cloud::iam::{find_role, service_linked_roles};
use ekstra_domain::ec2::{Attachment, SecurityGroup, Subnet, Vpc};
use ekstra_domain::eks::{
    AuthenticationMode, Cluster, ClusterStatus, ControlPlaneSlot, Logging, Site, Tuning, VpcAccess,
    check_cluster_name, check_service_cidr, check_version,
};
use ekstra_domain::names::{Scope, keys};
use ekstra_domain::prefix::Prefix;
use ekstra_model::eks as model;
use ekstra_store::Txn;
use ekstra_wire::ApiError;
use std::collections::{BTreeMap, BTreeSet};

/// EKS's default; the other one is for VPCs that lie in 10.0.0.0/8.
const SERVICE_CIDRS: [&str; 2] = ["10.100.0.0/16", "172.20.0.0/16"];
/// Of a cluster that does not say it.
pub(super) const SUPPORT_TYPE: &str = "EXTENDED";
/// What a home has for its clusters, from `first_cluster_port` on.
const PORTS: u16 = 1000;

pub(super) async fn handle(
    eks: Eks,
    call: Call,
    mut input: model::CreateClusterRequest,
) -> Result<model::CreateClusterResponse, ApiError> {
    let token = input.client_request_token.take();
    let asked = digest(&input);
    let name = input.name.clone().unwrap_or_default();
    check_cluster_name(&name).map_err(invalid)?;
    unserved::refuse_of_new_cluster(&input)?;
    let version = choose_version(&eks, input.version.as_deref())?;
    let role_arn = input.role_arn.clone().unwrap_or_default();
    let role = find_role(&eks.cloud, &role_arn).filter(|role| role.account == call.scope.account);
    // Roles are advised to trust for one cluster only.
    let arn = call.scope.arn("eks", format_args!("cluster/{name}"));
    if !role.is_some_and(|role| trusts_service(&eks.cloud, &call, &role, SERVICE, Some(arn))) {
        return Err(invalid_parameter(format!(
            "Role with arn: {role_arn}, could not be assumed because it does not exist or the trusted entity is not correct"
        )));
    }
    let network = Network::read(&eks, &call.scope, &input)?;
    let key = keys::cluster(&call.scope, &name);
    let programs = tuning::Asked {
        api_server: input.kube_api_server_config.clone(),
        scheduler: input.kube_scheduler_config.clone(),
        controller_manager: input.kube_controller_manager_config.clone(),
    };
    let tuning = programs.apply(&Tuning::default())?;
    let draft = Draft { name, token, asked, version, role_arn, tuning };
    let cluster = eks
        .cloud
        .store
        .transact(|txn| {
            if let Some(existing) = txn.get::<Cluster>(&key)? {
                let known = existing.request_token.as_ref();
                if is_repeat(draft.token.as_ref(), &draft.asked, known, &existing.request_digest) {
                    return Ok(existing);
                }
                let message = format!("Cluster already exists with name: {}", draft.name);
                return Err(Refusal::Api(in_use(message).with("clusterName", draft.name.clone())));
            }
            if txn.exists(&keys::connected_cluster(&call.scope, &draft.name)) {
                let message = format!("Cluster already exists with name: {}", draft.name);
                return Err(in_use(message).with("clusterName", draft.name.clone()).into());
            }
            write(&eks, &call, &input, &network, &draft, txn)
        })
        .await?;
    Ok(model::CreateClusterResponse { cluster: Some(present::cluster(&eks, &cluster)) })
}

struct Draft {
    name: String,
    token: Option<String>,
    asked: String,
    tuning: Tuning,
    version: String,
    role_arn: String,
}

fn choose_version(eks: &Eks, asked: Option<&str>) -> Result<String, ApiError> {
    match asked {
        Some(version) => {
            let offered = eks.programs.versions();
            check_version(version, offered.iter().map(|v| v.minor.as_str())).map_err(invalid)?;
            Ok(version.to_owned())
        }
        None => default_version(eks).ok_or_else(|| ApiError::internal("no Kubernetes version is offered")),
    }
}

/// Of a cluster that does not say it.
pub(super) fn default_version(eks: &Eks) -> Option<String> {
    eks.programs.versions().into_iter().find(|version| version.default).map(|version| version.minor)
}

/// The checked part of the request that concerns the VPC.
struct Network {
    vpc: Vpc,
    subnets: Vec<Subnet>,
    security_groups: Vec<String>,
    service_cidr: Prefix,
    public_cidrs: Vec<String>,
}

impl Network {
    fn read(eks: &Eks, scope: &Scope, input: &model::CreateClusterRequest) -> Result<Self, ApiError> {
        let config = input.resources_vpc_config.clone().unwrap_or_default();
        let subnets = cluster_subnets(eks, scope, &config.subnet_ids.unwrap_or_default())?;
        let view = eks.cloud.store.view();
        let id = &subnets[0].vpc;
        let vpc: Vpc = view
            .get_as(&keys::vpc(scope, id))
            .ok_or_else(|| invalid_parameter(format!("The vpc ID '{id}' does not exist")))?;
        let security_groups = config.security_group_ids.unwrap_or_default();
        let security_groups = check_security_groups(eks, scope, &vpc.id, &security_groups)?;
        if config.endpoint_public_access == Some(false) && config.endpoint_private_access != Some(true) {
            return Err(invalid_parameter("Private and public endpoint access cannot both be disabled"));
        }
        let public_cidrs = check_cidrs(config.public_access_cidrs)?;
        let asked = input.kubernetes_network_config.as_ref().and_then(|n| n.service_ipv4_cidr.as_deref());
        let service_cidr = match asked {
            Some(text) => check_service_cidr(text, vpc.cidr).map_err(invalid)?,
            None => SERVICE_CIDRS
                .iter()
                .find_map(|text| check_service_cidr(text, vpc.cidr).ok())
                .ok_or_else(|| invalid_parameter("no service CIDR is free beside the VPC's"))?,
        };
        Ok(Self { vpc, subnets, security_groups, service_cidr, public_cidrs })
    }

    fn access(&self, input: &model::CreateClusterRequest, cluster_security_group: String) -> VpcAccess {
        let config = input.resources_vpc_config.clone().unwrap_or_default();
        VpcAccess {
            vpc: self.vpc.id.clone(),
            subnets: self.subnets.iter().map(|s| s.id.clone()).collect(),
            security_groups: self.security_groups.clone(),
            cluster_security_group,
            public_access: config.endpoint_public_access.unwrap_or(true),
            private_access: config.endpoint_private_access.unwrap_or(false),
            public_cidrs: self.public_cidrs.clone(),
        }
    }
}

/// EKS's own words.
const CLUSTER_GROUP: &str = "EKS created security group applied to ENI that is attached to EKS Control Plane master \
                             nodes, as well as any managed workloads.";

fn write(
    eks: &Eks,
    call: &Call,
    input: &model::CreateClusterRequest,
    network: &Network,
    draft: &Draft,
    txn: &mut Txn,
) -> Result<Cluster, Refusal> {
    service_linked_roles::ensure(&eks.cloud, &call.scope.account, SERVICE, txn)?;
    let group = security_group(eks, call, network, draft);
    txn.put(&keys::security_group(&call.scope, &group.id), &group)?;
    let access = network.access(input, group.id);
    let slot = write_slot(eks, call, network, draft, &access, txn)?;
    let cluster = record(eks, call, input, access, network.service_cidr, draft, slot);
    txn.put(&keys::cluster(&call.scope, &draft.name), &cluster)?;
    if cluster.has_entries && cluster.creator_is_admin {
        let entry = access_entries::creators(eks, &cluster);
        txn.put(&keys::access_entry(&call.scope, &draft.name, &entry.principal_arn), &entry)?;
    }
    Ok(cluster)
}

fn security_group(eks: &Eks, call: &Call, network: &Network, draft: &Draft) -> SecurityGroup {
    let env = &eks.cloud.env;
    SecurityGroup {
        id: env.ec2_id("sg"),
        scope: call.scope.clone(),
        vpc: network.vpc.id.clone(),
        name: format!("eks-cluster-sg-{}-{}", draft.name, env.hex(4)),
        description: CLUSTER_GROUP.into(),
        tags: BTreeMap::from([
            (format!("kubernetes.io/cluster/{}", draft.name), "owned".to_owned()),
            ("aws:eks:cluster-name".to_owned(), draft.name.clone()),
        ]),
    }
}

fn record(
    eks: &Eks,
    call: &Call,
    input: &model::CreateClusterRequest,
    vpc: VpcAccess,
    service_cidr: Prefix,
    draft: &Draft,
    slot: String,
) -> Cluster {
    let env = &eks.cloud.env;
    let access = input.access_config.clone().unwrap_or_default();
    let mode = access.authentication_mode.as_deref().and_then(AuthenticationMode::parse);
    let policy = input.upgrade_policy.as_ref().and_then(|p| p.support_type.clone());
    Cluster {
        name: draft.name.clone(),
        scope: call.scope.clone(),
        uid: env.uuid(),
        status: ClusterStatus::Creating,
        version: draft.version.clone(),
        platform_version: "eks.1".into(),
        role_arn: draft.role_arn.clone(),
        created_ms: env.now_ms(),
        vpc,
        service_cidr,
        authentication_mode: mode.unwrap_or(AuthenticationMode::ConfigMap),
        creator_is_admin: access.bootstrap_cluster_creator_admin_permissions.unwrap_or(true),
        creator_arn: call.principal.canonical_arn(),
        creator_id: Some(call.principal.unique_id().to_owned()),
        logging: super::update_cluster::enabled_logs(&Logging::default(), input.logging.as_ref()),
        deletion_protection: input.deletion_protection.unwrap_or(false),
        support_type: policy.unwrap_or_else(|| SUPPORT_TYPE.into()),
        tags: input.tags.clone().unwrap_or_default(),
        request_token: draft.token.clone(),
        request_digest: draft.asked.clone(),
        slot,
        issues: Vec::new(),
        progress: Some("waiting to be started".into()),
        unready_since_ms: None,
        restored: None,
        has_entries: mode.is_some_and(|mode| mode != AuthenticationMode::ConfigMap),
        self_managed_addons: input.bootstrap_self_managed_addons.unwrap_or(true),
        network_by_addon: true,
        tuning: draft.tuning.clone(),
    }
}

fn in_words_of_eks(refusal: Refusal) -> Refusal {
    match refusal {
        Refusal::Api(error) if error.code == VPC_LIMIT => {
            Refusal::Api(ApiError::new(&model::errors::RESOURCE_LIMIT_EXCEEDED_EXCEPTION, error.message))
        }
        other => other,
    }
}

/// How many front doors a home has: each is one of its thousand ports, and so is what stands behind it where that is on
/// the host.
fn doors(settings: &Settings) -> u16 {
    if settings.rootless { PORTS / (1 + Site::PORTS) } else { PORTS }
}

/// The control plane's place: a port, and interfaces in two zones.
fn write_slot(
    eks: &Eks,
    call: &Call,
    network: &Network,
    draft: &Draft,
    access: &VpcAccess,
    txn: &mut Txn,
) -> Result<String, Refusal> {
    let cloud = &eks.cloud;
    let id = cloud.env.hex(4);
    let others = txn.list::<ControlPlaneSlot>(keys::SLOTS)?;
    let used: BTreeSet<u16> = others.into_iter().map(|(_, slot)| slot.port).collect();
    let first = cloud.settings.first_cluster_port;
    let door = (0..doors(&cloud.settings)).find(|door| !used.contains(&(first + door))).ok_or_else(|| {
        let message = "no port is free for another cluster";
        Refusal::Api(ApiError::new(&model::errors::RESOURCE_LIMIT_EXCEEDED_EXCEPTION, message))
    })?;
    let mut zones = BTreeSet::new();
    let mut interfaces = Vec::new();
    for subnet in network.subnets.iter().filter(|s| zones.insert(s.zone.clone())).take(ZONES) {
        let new = NewInterface {
            subnet,
            prefixes: 0,
            security_groups: interface_groups(access),
            attachment: Attachment::ControlPlane { slot: id.clone() },
            device_index: u32::try_from(interfaces.len()).unwrap_or(0),
        };
        interfaces.push(create_interface(cloud, txn, new).map_err(in_words_of_eks)?);
    }
    let slot = ControlPlaneSlot {
        site: if cloud.settings.rootless {
            Site::OnHost { first_port: first + doors(&cloud.settings) + door * Site::PORTS }
        } else {
            Site::Apart { namespace: eks.names.namespace(&format!("cp-{id}")) }
        },
        port: first + door,
        issuer_id: cloud.env.hex(16).to_uppercase(),
        version: draft.version.clone(),
        cluster: keys::cluster(&call.scope, &draft.name),
        vpc: network.vpc.id.clone(),
        advertise_address: interfaces[0].address,
        interfaces: interfaces.into_iter().map(|i| i.id).collect(),
        service_cidr: network.service_cidr,
        certificate_authority: None,
        id: id.clone(),
    };
    txn.put(&keys::slot(&id), &slot)?;
    Ok(id)
}

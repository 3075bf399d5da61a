//! What requests may ask for and nothing here does yet. It is refused by its name, since a cluster or a node group without
//! what was asked for would be a lie. To ask that it be off asks for nothing.

use super::invalid_parameter;
use ekstra_model::eks as model;
use ekstra_wire::ApiError;

type Asked = (bool, &'static str);

fn refuse(asked: &[Asked]) -> Result<(), ApiError> {
    match asked.iter().find(|(is_asked, _)| *is_asked) {
        Some((_, what)) => Err(invalid_parameter(format!("{what} is not supported by ekstra yet"))),
        None => Ok(()),
    }
}

fn is_on(enabled: Option<bool>) -> bool {
    enabled == Some(true)
}

/// Whether a choice is another than what there is.
fn differs(chosen: Option<&String>, own: &str) -> bool {
    chosen.is_some_and(|chosen| !chosen.eq_ignore_ascii_case(own))
}

/// What clusters are created with and changed to by the same members.
pub(super) struct Features<'a> {
    vpc: Option<&'a model::VpcConfigRequest>,
    network: Option<&'a model::KubernetesNetworkConfigRequest>,
    compute: Option<&'a model::ComputeConfigRequest>,
    storage: Option<&'a model::StorageConfigRequest>,
    zonal_shift: Option<&'a model::ZonalShiftConfigRequest>,
    remote_network: Option<&'a model::RemoteNetworkConfigRequest>,
    scaling: Option<&'a model::ControlPlaneScalingConfig>,
}

/// Of either request.
macro_rules! features {
    ($($request:ident)*) => {
        $(impl<'a> From<&'a model::$request> for Features<'a> {
            fn from(input: &'a model::$request) -> Self {
                Self {
                    vpc: input.resources_vpc_config.as_ref(),
                    network: input.kubernetes_network_config.as_ref(),
                    compute: input.compute_config.as_ref(),
                    storage: input.storage_config.as_ref(),
                    zonal_shift: input.zonal_shift_config.as_ref(),
                    remote_network: input.remote_network_config.as_ref(),
                    scaling: input.control_plane_scaling_config.as_ref(),
                }
            }
        })*
    };
}

features! { CreateClusterRequest UpdateClusterConfigRequest }

/// What there is of them.
pub(super) const TIER: &str = "standard";
pub(super) const EGRESS_MODE: &str = "AWS_MANAGED";

impl<'a> Features<'a> {
    pub(super) fn computes(&self) -> Option<bool> {
        self.compute?.enabled
    }

    pub(super) fn stores_blocks(&self) -> Option<bool> {
        self.storage?.block_storage.as_ref()?.enabled
    }

    fn balancing(&self) -> Option<&'a model::ElasticLoadBalancing> {
        self.network?.elastic_load_balancing.as_ref()
    }

    pub(super) fn balances(&self) -> Option<bool> {
        self.balancing()?.enabled
    }

    pub(super) fn shifts_zones(&self) -> Option<bool> {
        self.zonal_shift?.enabled
    }

    pub(super) fn tier(&self) -> Option<&'a String> {
        self.scaling?.tier.as_ref()
    }

    pub(super) fn egress_mode(&self) -> Option<&'a String> {
        self.vpc?.control_plane_egress_mode.as_ref()
    }

    fn refuse(&self) -> Result<(), ApiError> {
        refuse(&[
            (is_on(self.computes()), "computeConfig.enabled (EKS Auto Mode)"),
            (is_on(self.stores_blocks()), "storageConfig.blockStorage.enabled (EKS Auto Mode)"),
            (is_on(self.balances()), "kubernetesNetworkConfig.elasticLoadBalancing.enabled (EKS Auto Mode)"),
            (
                self.balancing().is_some_and(|balancing| balancing.gateway_api.is_some()),
                "kubernetesNetworkConfig.elasticLoadBalancing.gatewayApi",
            ),
            (is_on(self.shifts_zones()), "zonalShiftConfig.enabled"),
            (self.remote_network.is_some(), "remoteNetworkConfig"),
            (differs(self.tier(), TIER), "controlPlaneScalingConfig.tier other than standard"),
            (
                differs(self.egress_mode(), EGRESS_MODE),
                "resourcesVpcConfig.controlPlaneEgressMode other than AWS_MANAGED",
            ),
        ])
    }
}

pub(super) fn refuse_of_new_cluster(input: &model::CreateClusterRequest) -> Result<(), ApiError> {
    let features = Features::from(input);
    features.refuse()?;
    let family = features.network.and_then(|network| network.ip_family.as_ref());
    let encryption = input.encryption_config.as_ref().is_some_and(|config| !config.is_empty());
    refuse(&[
        (differs(family, "ipv4"), "kubernetesNetworkConfig.ipFamily ipv6"),
        (encryption, "encryptionConfig"),
        (input.outpost_config.is_some(), "outpostConfig"),
    ])
}

pub(super) fn refuse_of_changed_cluster(input: &model::UpdateClusterConfigRequest) -> Result<(), ApiError> {
    Features::from(input).refuse()
}

/// Whether it says of something that is off that it be off, and thus asks for no change.
pub(super) fn asks_for_what_is(input: &model::UpdateClusterConfigRequest) -> bool {
    input.kubernetes_network_config.is_some()
        || input.compute_config.is_some()
        || input.storage_config.is_some()
        || input.zonal_shift_config.is_some()
        || input.control_plane_scaling_config.is_some()
}

/// What node groups are created with and changed to by the same members.
fn refuse_of_nodes(
    update: Option<&model::NodegroupUpdateConfig>,
    repair: Option<&model::NodeRepairConfig>,
    warm_pool: Option<&model::WarmPoolConfig>,
) -> Result<(), ApiError> {
    refuse(&[
        (is_on(warm_pool.and_then(|w| w.enabled)), "warmPoolConfig.enabled"),
        (is_on(repair.and_then(|r| r.enabled)), "nodeRepairConfig.enabled"),
        (
            differs(update.and_then(|u| u.update_strategy.as_ref()), "DEFAULT"),
            "updateConfig.updateStrategy MINIMAL",
        ),
    ])
}

pub(super) fn refuse_of_new_nodes(input: &model::CreateNodegroupRequest) -> Result<(), ApiError> {
    refuse(&[
        (input.launch_template.is_some(), "launchTemplate"),
        (input.remote_access.is_some(), "remoteAccess"),
        (differs(input.capacity_type.as_ref(), "ON_DEMAND"), "a capacityType other than ON_DEMAND"),
    ])?;
    refuse_of_nodes(
        input.update_config.as_ref(),
        input.node_repair_config.as_ref(),
        input.warm_pool_config.as_ref(),
    )
}

pub(super) fn refuse_of_changed_nodes(input: &model::UpdateNodegroupConfigRequest) -> Result<(), ApiError> {
    refuse_of_nodes(
        input.update_config.as_ref(),
        input.node_repair_config.as_ref(),
        input.warm_pool_config.as_ref(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use ekstra_model::{Shape, Value};
    use ekstra_wire::{Request, decode_request, route};
    use serde_json::json;

    /// As it comes out of a request's body.
    fn read<T: Shape>(method: &str, path: &str, body: serde_json::Value) -> T {
        let request = Request {
            method: method.into(),
            path: path.into(),
            body: body.to_string().into_bytes(),
            ..Request::default()
        };
        let routed = route(&request, Some("eks")).expect("is one");
        let value: Value = decode_request(&routed, &request).expect("reads");
        T::from_value(value).expect("fits")
    }

    const ON: bool = true;

    fn features(on: bool) -> Vec<(&'static str, serde_json::Value)> {
        let (tier, egress) = if on { ("tier-xl", "CUSTOMER_ROUTED") } else { ("standard", "AWS_MANAGED") };
        vec![
            ("computeConfig.enabled", json!({"computeConfig": {"enabled": on}})),
            ("storageConfig.blockStorage", json!({"storageConfig": {"blockStorage": {"enabled": on}}})),
            (
                "elasticLoadBalancing.enabled",
                json!({"kubernetesNetworkConfig": {"elasticLoadBalancing": {"enabled": on}}}),
            ),
            ("zonalShiftConfig", json!({"zonalShiftConfig": {"enabled": on}})),
            ("controlPlaneScalingConfig", json!({"controlPlaneScalingConfig": {"tier": tier}})),
            ("controlPlaneEgressMode", json!({"resourcesVpcConfig": {"controlPlaneEgressMode": egress}})),
        ]
    }

    fn refused(outcome: Result<(), ApiError>, name: &str) {
        let error = outcome.expect_err(name);
        assert_eq!((error.code.as_str(), error.status), ("InvalidParameterException", 400), "{name}");
        assert!(error.message.contains(name), "{name}: {}", error.message);
    }

    #[test]
    fn a_cluster_s_are_refused_by_name_and_may_be_off() {
        let create = |body: serde_json::Value| refuse_of_new_cluster(&read("POST", "/clusters", body));
        let update = |body: serde_json::Value| {
            refuse_of_changed_cluster(&read("POST", "/clusters/c/update-config", body))
        };
        for (name, body) in features(ON) {
            refused(create(body.clone()), name);
            refused(update(body.clone()), name);
            // Beside what can be changed, too.
            let mut both = body.clone();
            both["logging"] = json!({"clusterLogging": [{"types": ["api"], "enabled": true}]});
            refused(update(both), name);
        }
        for (name, body) in features(!ON) {
            assert_eq!((create(body.clone()), update(body.clone())), (Ok(()), Ok(())), "{name}");
        }
        let gateway = json!({"kubernetesNetworkConfig": {"elasticLoadBalancing": {"gatewayApi": {}}}});
        refused(update(gateway), "gatewayApi");
        for (name, body) in [
            ("remoteNetworkConfig", json!({"remoteNetworkConfig": {}})),
            ("encryptionConfig", json!({"encryptionConfig": [{"resources": ["secrets"]}]})),
            ("ipFamily", json!({"kubernetesNetworkConfig": {"ipFamily": "ipv6"}})),
        ] {
            refused(create(body.clone()), name);
        }
    }

    #[test]
    fn a_node_group_s_are_refused_by_name_and_may_be_off() {
        let create =
            |body: serde_json::Value| refuse_of_new_nodes(&read("POST", "/clusters/c/node-groups", body));
        let update = |body: serde_json::Value| {
            refuse_of_changed_nodes(&read("POST", "/clusters/c/node-groups/n/update-config", body))
        };
        let bodies = |on: bool| {
            let strategy = if on { "MINIMAL" } else { "DEFAULT" };
            [
                ("warmPoolConfig", json!({"warmPoolConfig": {"enabled": on}})),
                ("nodeRepairConfig", json!({"nodeRepairConfig": {"enabled": on}})),
                ("updateStrategy", json!({"updateConfig": {"updateStrategy": strategy}})),
            ]
        };
        for (name, body) in bodies(ON) {
            refused(create(body.clone()), name);
            refused(update(body.clone()), name);
        }
        for (name, body) in bodies(!ON) {
            assert_eq!((create(body.clone()), update(body.clone())), (Ok(()), Ok(())), "{name}");
        }
        refused(create(json!({"capacityType": "SPOT"})), "capacityType");
        refused(create(json!({"launchTemplate": {"id": "lt-1"}})), "launchTemplate");
        refused(create(json!({"remoteAccess": {"ec2SshKey": "k"}})), "remoteAccess");
    }
}

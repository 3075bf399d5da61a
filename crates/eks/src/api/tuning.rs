//! Settings of a control plane's programs in EKS's shapes.

use super::{invalid, invalid_parameter};
use ekstra_domain::eks::{Scoring, Tuning, check_node_ports, parse_event_ttl};
use ekstra_model::eks as model;
use ekstra_wire::ApiError;
use serde_json::json;

/// What a request says of the programs.
#[derive(Clone, Debug, Default)]
pub(super) struct Asked {
    pub(super) api_server: Option<model::KubeApiServerConfigRequest>,
    pub(super) scheduler: Option<model::KubeSchedulerConfigRequest>,
    pub(super) controller_manager: Option<model::KubeControllerManagerConfigRequest>,
}

impl Asked {
    pub(super) fn is_something(&self) -> bool {
        self.api_server.is_some() || self.scheduler.is_some() || self.controller_manager.is_some()
    }

    /// The settings afterwards; what is not said stays.
    pub(super) fn apply(self, before: &Tuning) -> Result<Tuning, ApiError> {
        let mut tuning = before.clone();
        let api_server = self.api_server.unwrap_or_default();
        if let Some(text) = &api_server.event_ttl {
            tuning.event_minutes = Some(parse_event_ttl(text).map_err(invalid)?);
        }
        if let Some(range) = api_server.service_node_port_range {
            let (first, last) = before.node_ports();
            let ports = check_node_ports(range.min_port.unwrap_or(first), range.max_port.unwrap_or(last));
            tuning.node_ports = Some(ports.map_err(invalid)?);
        }
        if let Some(strategy) =
            self.scheduler.and_then(|s| s.node_resources_fit).and_then(|fit| fit.scoring_strategy)
        {
            tuning.scoring = Some(read_scoring(strategy, before.scoring.clone().unwrap_or_default()));
        }
        let manager = self.controller_manager.unwrap_or_default();
        if manager.horizontal_pod_autoscaler_controller_config.is_some() {
            let message =
                "horizontalPodAutoscalerSyncPeriod requires a provisioned control plane scaling tier";
            return Err(invalid_parameter(message));
        }
        if let Some(threshold) =
            manager.pod_gc_controller_config.and_then(|gc| gc.terminated_pod_gc_threshold)
        {
            tuning.terminated_pods = Some(threshold);
        }
        Ok(tuning)
    }
}

fn read_scoring(asked: model::ScoringStrategy, before: Scoring) -> Scoring {
    let weight = |asked: model::ResourceWeight| (asked.name.unwrap_or_default(), asked.weight.unwrap_or(1));
    let resources = asked.resources.filter(|resources| !resources.is_empty());
    Scoring {
        kind: asked.r#type.unwrap_or(before.kind),
        resources: resources.map_or(before.resources, |all| all.into_iter().map(weight).collect()),
    }
}

pub(super) fn api_server(tuning: &Tuning) -> model::KubeApiServerConfigResponse {
    let (first, last) = tuning.node_ports();
    model::KubeApiServerConfigResponse {
        event_ttl: Some(tuning.event_ttl()),
        service_node_port_range: Some(model::ServiceNodePortRange {
            min_port: Some(first),
            max_port: Some(last),
        }),
    }
}

pub(super) fn scheduler(tuning: &Tuning) -> model::KubeSchedulerConfigResponse {
    let scoring = tuning.scoring.clone().unwrap_or_default();
    let weight = |(name, weight)| model::ResourceWeight { name: Some(name), weight: Some(weight) };
    let strategy = model::ScoringStrategy {
        r#type: Some(scoring.kind),
        resources: Some(scoring.resources.into_iter().map(weight).collect()),
    };
    model::KubeSchedulerConfigResponse {
        node_resources_fit: Some(model::NodeResourcesFitConfig { scoring_strategy: Some(strategy) }),
    }
}

pub(super) fn controller_manager(tuning: &Tuning) -> model::KubeControllerManagerConfigResponse {
    model::KubeControllerManagerConfigResponse {
        pod_gc_controller_config: Some(model::PodGcControllerConfigResponse {
            terminated_pod_gc_threshold: Some(tuning.terminated_pods()),
        }),
        horizontal_pod_autoscaler_controller_config: None,
    }
}

/// An update's parameters: the settings of each program that are others than before.
pub(super) fn params(before: &Tuning, after: &Tuning) -> Vec<(String, String)> {
    let (first, last) = after.node_ports();
    let api_server = json!({
        "eventTtl": after.event_ttl(),
        "serviceNodePortRange": {"minPort": first, "maxPort": last},
    });
    let scheduler = json!({"nodeResourcesFit": after.scoring.clone().unwrap_or_default().arguments()});
    let manager = json!({"podGcControllerConfig": {"terminatedPodGcThreshold": after.terminated_pods()}});
    let of_api_server = |tuning: &Tuning| (tuning.event_minutes, tuning.node_ports);
    let changed = [
        (of_api_server(before) != of_api_server(after), "KubeApiServerConfig", api_server),
        (before.scoring != after.scoring, "KubeSchedulerConfig", scheduler),
        (before.terminated_pods != after.terminated_pods, "KubeControllerManagerConfig", manager),
    ];
    changed
        .into_iter()
        .filter(|(is_other, ..)| *is_other)
        .map(|(_, name, value)| (name.to_owned(), value.to_string()))
        .collect()
}

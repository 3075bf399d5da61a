//! The API `metrics.k8s.io`: there while metrics-server is.
//!
//! An aggregated API whose server does not run is worse than none: every discovery complains of it, and no namespace
//! can be deleted. A cluster begins without workers, so the APIService comes with the first metrics-server that is ready,
//! and goes with the last one.
//!
//! Invariant: only the APIService that says it is ours is touched; whoever brings their own metrics keeps it.

use crate::controller::{Controller, Outcome, Place, Trouble};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::json;

const NAMESPACE: &str = "kube-system";
const DEPLOYMENT: &str = "metrics-server";
const API_SERVICE: &str = "v1beta1.metrics.k8s.io";
const OURS: (&str, &str) = ("eks.amazonaws.com/component", "metrics-server");

/// One for every cluster that is up.
pub(crate) struct MetricsApi {
    place: Place,
}

impl Controller for MetricsApi {
    /// There is one metrics-server.
    type Key = ();
    const NAME: &'static str = "metrics-api";

    fn new(place: Place) -> Self {
        Self { place }
    }

    fn watch(&self) -> BoxStream<'static, Result<(), watcher::Error>> {
        let deployments: Api<Deployment> = Api::namespaced(self.place.client.clone(), NAMESPACE);
        let one = watcher::Config::default().fields(&format!("metadata.name={DEPLOYMENT}"));
        // Also its deletion, which leaves the API without a server.
        watcher(deployments, one).default_backoff().map_ok(drop).boxed()
    }

    fn step(&self, (): ()) -> BoxFuture<'_, Result<Outcome, Trouble>> {
        async move {
            let deployments: Api<Deployment> = Api::namespaced(self.place.client.clone(), NAMESPACE);
            let deployment = deployments.get_opt(DEPLOYMENT).await?;
            let ready = deployment.is_some_and(|deployment| is_ready(&deployment));
            let services: Api<APIService> = Api::all(self.place.client.clone());
            match services.get_opt(API_SERVICE).await? {
                None if ready => match services.create(&PostParams::default(), &api_service()).await {
                    Err(kube::Error::Api(status)) if status.code == 409 => {}
                    created => drop(created?),
                },
                Some(service) if !ready && is_ours(&service) => {
                    let same = Preconditions { uid: service.uid(), resource_version: None };
                    let params = DeleteParams { preconditions: Some(same), ..Default::default() };
                    match services.delete(API_SERVICE, &params).await {
                        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                        deleted => drop(deleted?),
                    }
                }
                _ => {}
            }
            Ok(Outcome::Settled)
        }
        .boxed()
    }

    fn concerns(_: &str) -> bool {
        false
    }
}

fn is_ready(deployment: &Deployment) -> bool {
    deployment.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0) > 0
}

fn is_ours(service: &APIService) -> bool {
    service.labels().get(OURS.0).is_some_and(|value| value == OURS.1)
}

fn api_service() -> APIService {
    let service = json!({
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": API_SERVICE, "labels": {"k8s-app": DEPLOYMENT, OURS.0: OURS.1}},
        "spec": {
            "group": "metrics.k8s.io",
            "version": "v1beta1",
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "insecureSkipTLSVerify": true,
            "service": {"name": DEPLOYMENT, "namespace": NAMESPACE},
        },
    });
    serde_json::from_value(service).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_ready_when_a_replica_is_and_ours_when_it_says_so() {
        let with = |replicas: Option<i32>| {
            let status = json!({"status": {"availableReplicas": replicas}});
            is_ready(&serde_json::from_value(status).expect("a deployment"))
        };
        assert!(with(Some(1)) && !with(Some(0)) && !with(None) && !is_ready(&Deployment::default()));
        let made = api_service();
        assert!(is_ours(&made), "{made:?}");
        assert_eq!(made.spec.as_ref().map(|spec| spec.group_priority_minimum), Some(100));
        assert!(!is_ours(&APIService::default()));
    }
}

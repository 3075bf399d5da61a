//! Configuration values of add-ons: held against their schemas, and put into the objects.

use super::autoscaling;
use super::catalogue::{Definition, Kind, NAMESPACE};
use crate::manifest::Object;
use ekstra_domain::eks::ConfigurationSchema;
use serde_json::{Map, Value, json};

const ROLE_ANNOTATION: &str = "eks.amazonaws.com/role-arn";
const COMPUTE_TYPE: &str = "eks.amazonaws.com/compute-type";

/// What was given, as JSON or YAML, if the schema lets it; in EKS's words if not.
pub(crate) fn read(definition: &Definition, given: &str) -> Result<Map<String, Value>, String> {
    let schema = definition.schema().map_err(|error| error.to_string())?;
    ConfigurationSchema::new(&schema)?.read(given, autoscaling::check)
}

/// Puts the values into the add-on's objects, and the role into its service account.
pub(super) fn apply(
    definition: &Definition,
    values: &Map<String, Value>,
    role: Option<&str>,
    objects: &mut Vec<Object>,
) {
    let workload = match definition.kind {
        Kind::Deployment => "Deployment",
        Kind::DaemonSet => "DaemonSet",
    };
    for object in objects.iter_mut() {
        match object.value["kind"].as_str() {
            Some(kind) if kind == workload => shape_workload(&mut object.value, values),
            Some("ServiceAccount") => {
                if let Some(role) = role {
                    object.value["metadata"]["annotations"][ROLE_ANNOTATION] = json!(role);
                }
            }
            Some("ConfigMap") => {
                if let Some(corefile) = values.get("corefile") {
                    object.value["data"]["Corefile"] = corefile.clone();
                }
            }
            _ => {}
        }
    }
    objects.extend(budget(definition, values, objects));
}

fn shape_workload(workload: &mut Value, values: &Map<String, Value>) {
    for name in ["replicaCount", "replicas"] {
        if let Some(replicas) = values.get(name) {
            workload["spec"]["replicas"] = replicas.clone();
        }
    }
    if let Some(bounds) = autoscaling::bounds(values) {
        workload["spec"]["replicas"] = bounds.least.into();
    }
    let template = &mut workload["spec"]["template"];
    for (name, member) in [("podLabels", "labels"), ("podAnnotations", "annotations")] {
        for (key, value) in values.get(name).and_then(Value::as_object).into_iter().flatten() {
            // Its own labels are what finds its pods.
            let known = template["metadata"][member].get(key).is_some();
            if !known {
                template["metadata"][member][key] = value.clone();
            }
        }
    }
    if let Some(compute) = values.get("computeType").and_then(Value::as_str) {
        template["metadata"]["annotations"][COMPUTE_TYPE] = json!(compute.to_lowercase());
    }
    for name in ["affinity", "nodeSelector", "tolerations", "topologySpreadConstraints"] {
        match values.get(name) {
            Some(Value::Null) => drop(template["spec"].as_object_mut().and_then(|spec| spec.remove(name))),
            Some(value) => template["spec"][name] = value.clone(),
            None => {}
        }
    }
    let container = &mut template["spec"]["containers"][0];
    if let Some(given) = values.get("env").and_then(Value::as_object) {
        let variables: Vec<Value> =
            given.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
        container["env"] = json!(variables);
    }
    if let Some(resources) = values.get("resources") {
        container["resources"] = resources.clone();
    }
}

/// How many of its pods may be away at once, when somebody wants that limited.
fn budget(definition: &Definition, values: &Map<String, Value>, objects: &[Object]) -> Option<Object> {
    let given = values.get("podDisruptionBudget").and_then(Value::as_object).cloned().unwrap_or_default();
    if !given.get("enabled").and_then(Value::as_bool).unwrap_or(definition.has_budget) {
        return None;
    }
    let workload = objects.iter().find(|object| object.value["kind"] == "Deployment")?;
    let mut spec = json!({"selector": workload.value["spec"]["selector"]});
    // One of the two; with neither, one pod at a time.
    match (given.get("minAvailable"), given.get("maxUnavailable")) {
        (Some(least), None) => spec["minAvailable"] = least.clone(),
        (_, most) => spec["maxUnavailable"] = most.cloned().unwrap_or(json!(1)),
    }
    Some(Object {
        path: budget_path(definition),
        value: json!({
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": {
                "name": definition.name,
                "namespace": NAMESPACE,
                "labels": {"eks.amazonaws.com/component": definition.name},
            },
            "spec": spec,
        }),
    })
}

/// Objects that an add-on may have had with another configuration.
pub(super) fn budget_path(definition: &Definition) -> String {
    format!("/apis/policy/v1/namespaces/{NAMESPACE}/poddisruptionbudgets/{}", definition.name)
}

#[cfg(test)]
mod tests {
    use super::super::catalogue;
    use super::*;
    use crate::manifest;
    use ekstra_domain::eks::LONGEST_CONFIGURATION as LONGEST;

    fn configured(name: &str, given: &str, role: Option<&str>) -> Vec<Object> {
        let definition = catalogue::find(name).expect("is one");
        let facts =
            [("clusterDns", "10.100.0.10"), ("endpoint", "https://e"), ("kubernetesVersion", "1.36.3")];
        let mut objects = manifest::objects(definition.manifest, &facts).expect("reads");
        let values = read(definition, given).expect("valid");
        apply(definition, &values, role, &mut objects);
        objects
    }

    fn of_kind<'a>(objects: &'a [Object], kind: &str) -> Option<&'a Value> {
        objects.iter().map(|object| &object.value).find(|value| value["kind"] == kind)
    }

    #[test]
    fn every_value_that_the_schema_lets_in_does_something() {
        for definition in catalogue::all() {
            let schema = definition.schema().expect("reads");
            let plain = configured(definition.name, "", None);
            for (name, _) in schema["properties"].as_object().expect("has some") {
                let value = match name.as_str() {
                    "mode" => continue, // there is one
                    "affinity" => json!({"nodeAffinity": {}}),
                    "autoScaling" => json!({"enabled": true, "minReplicas": 3}),
                    "corefile" => json!(".:53 { whoami }"),
                    "computeType" => json!("Fargate"),
                    "podDisruptionBudget" => json!({"enabled": !definition.has_budget}),
                    "nodeSelector" | "podLabels" | "podAnnotations" => json!({"a": "b"}),
                    "env" => json!({"AWS_VPC_ENI_MTU": "1300"}),
                    "replicaCount" | "replicas" => json!(7),
                    "resources" => json!({"limits": {"cpu": "2"}}),
                    "tolerations" | "topologySpreadConstraints" => json!([{"key": "k"}]),
                    other => panic!("{other} of {} is not tried", definition.name),
                };
                let given = json!({name: value}).to_string();
                assert_ne!(configured(definition.name, &given, None), plain, "{name} of {}", definition.name);
            }
        }
    }

    #[test]
    fn yaml_is_as_good_as_json() {
        let objects =
            configured("coredns", "replicaCount: 3\npodLabels:\n  k8s-app: mine\n  a: b\n", Some("arn:r"));
        let deployment = of_kind(&objects, "Deployment").expect("there");
        assert_eq!(deployment["spec"]["replicas"], 3);
        let labels = &deployment["spec"]["template"]["metadata"]["labels"];
        assert_eq!((&labels["k8s-app"], &labels["a"]), (&json!("kube-dns"), &json!("b")));
        let account = of_kind(&objects, "ServiceAccount").expect("there");
        assert_eq!(account["metadata"]["annotations"][ROLE_ANNOTATION], "arn:r");
    }

    #[test]
    fn coredns_has_a_budget_unless_it_is_not_wanted() {
        let budget =
            |given: &str| of_kind(&configured("coredns", given, None), "PodDisruptionBudget").cloned();
        assert_eq!(budget("").expect("has one")["spec"]["maxUnavailable"], 1);
        let least = budget(r#"{"podDisruptionBudget": {"minAvailable": "50%"}}"#).expect("has one");
        assert_eq!(
            (&least["spec"]["minAvailable"], &least["spec"]["maxUnavailable"]),
            (&json!("50%"), &Value::Null)
        );
        assert_eq!(budget(r#"{"podDisruptionBudget": {"enabled": false}}"#), None);
        assert!(of_kind(&configured("metrics-server", "", None), "PodDisruptionBudget").is_none());
    }

    #[test]
    fn what_the_schema_does_not_know_is_refused_by_its_name() {
        let refused =
            |given: &str| read(catalogue::find("coredns").expect("is one"), given).expect_err("refused");
        let unknown = refused(r#"{"replicas": 3}"#);
        assert!(unknown.starts_with("ConfigurationValue provided in request is not supported: Json schema validation failed with error: ["), "{unknown}");
        assert!(unknown.contains("replicas"), "{unknown}");
        assert!(refused(r#"{"replicaCount": "three"}"#).contains("$.replicaCount"));
        assert!(refused("replicaCount: [").contains("neither JSON nor YAML"));
        assert!(refused("just text").contains("object"));
        assert!(refused(&format!("corefile: {}", "x".repeat(LONGEST))).contains("longer"));
        let aliases = format!("corefile: &x {}\npodLabels: [{}]", "y".repeat(4000), "*x, ".repeat(20));
        let amplified = refused(&aliases);
        assert!(amplified.contains("longer"), "{amplified}");
        assert!(refused(&format!("replicaCount: {}", "y".repeat(5000))).len() < 600);
    }
}

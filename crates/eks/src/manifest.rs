//! Objects of a cluster as YAML: filled, read, placed at their paths, and applied.

use kube::Client;
use serde::Deserialize;
use serde_json::Value;

/// As EKS's own.
pub(crate) const FIELD_MANAGER: &str = "eks";

#[derive(Debug, thiserror::Error)]
pub(crate) enum ManifestError {
    #[error("a built-in manifest: {0}")]
    Unreadable(String),
    #[error("{path}: {source}")]
    Refused { path: String, source: Box<kube::Error> },
}

/// One object with its place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Object {
    pub(crate) path: String,
    pub(crate) value: Value,
}

impl Object {
    /// `Deployment.apps coredns`, as EKS writes it.
    pub(crate) fn title(&self) -> String {
        let text = |pointer: &str| self.value.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let group = text("/apiVersion").split_once('/').map(|(group, _)| format!(".{group}"));
        format!("{}{} {}", text("/kind"), group.unwrap_or_default(), text("/metadata/name"))
    }
}

/// Only what is needed to know where an object goes.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    api_version: String,
    kind: String,
    metadata: Names,
}

#[derive(Deserialize)]
struct Names {
    name: String,
    namespace: Option<String>,
}

/// The documents of a manifest, with `{{name}}` in the place of what they are filled with.
pub(crate) fn objects(manifest: &str, facts: &[(&str, &str)]) -> Result<Vec<Object>, ManifestError> {
    let fail = |error: &dyn std::fmt::Display| ManifestError::Unreadable(error.to_string());
    let filled = facts
        .iter()
        .fold(manifest.to_owned(), |text, (name, value)| text.replace(&format!("{{{{{name}}}}}"), value));
    let documents = filled.split("\n---\n").filter(|document| !document.trim().is_empty());
    documents
        .map(|document| {
            let value: Value = serde_saphyr::from_str(document).map_err(|e| fail(&e))?;
            let meta: Meta = serde_json::from_value(value.clone()).map_err(|e| fail(&e))?;
            Ok(Object { path: path(&meta), value })
        })
        .collect()
}

fn path(meta: &Meta) -> String {
    let group = if meta.api_version.contains('/') { "apis" } else { "api" };
    let kind = meta.kind.to_lowercase();
    let plural = match (kind.strip_suffix('s'), kind.strip_suffix('y')) {
        (Some(stem), _) => format!("{stem}ses"),
        (_, Some(stem)) => format!("{stem}ies"),
        _ => format!("{kind}s"),
    };
    let namespace = meta.metadata.namespace.as_ref().map(|n| format!("/namespaces/{n}")).unwrap_or_default();
    format!("/{group}/{}{namespace}/{plural}/{}", meta.api_version, meta.metadata.name)
}

/// What a server-side apply does where others have set a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It takes the field.
    Force,
    /// It is refused.
    Yield,
    /// Nothing is written: only whether it would be refused.
    Try,
}

/// By server-side apply: what it says is the field manager's from now on, what it does not say any more goes.
pub(crate) async fn apply(client: &Client, object: &Object, mode: Mode) -> Result<(), ManifestError> {
    let dry_run = if mode == Mode::Try { "&dryRun=All" } else { "" };
    let force = mode == Mode::Force;
    let path = format!("{}?fieldManager={FIELD_MANAGER}&force={force}{dry_run}", object.path);
    let request = http::Request::patch(path)
        .header(http::header::CONTENT_TYPE, "application/apply-patch+yaml")
        .body(object.value.to_string().into_bytes());
    send(client, &object.path, request).await.map(drop)
}

async fn send(
    client: &Client,
    path: &str,
    request: http::Result<http::Request<Vec<u8>>>,
) -> Result<Value, ManifestError> {
    let request = request.map_err(|error| ManifestError::Unreadable(error.to_string()))?;
    let answer = client.request::<Value>(request).await;
    answer.map_err(|source| refused(path, source))
}

pub(crate) fn refused(path: &str, source: kube::Error) -> ManifestError {
    ManifestError::Refused { path: path.to_owned(), source: Box::new(source) }
}

fn is_absent(error: &ManifestError) -> bool {
    let ManifestError::Refused { source, .. } = error else { return false };
    matches!(source.as_ref(), kube::Error::Api(status) if status.code == 404)
}

/// Whatever it may look like by now; one that is not there is as good as removed.
pub(crate) async fn remove(client: &Client, path: &str) -> Result<(), ManifestError> {
    match send(client, path, http::Request::delete(path).body(Vec::new())).await {
        Err(error) if is_absent(&error) => Ok(()),
        removed => removed.map(drop),
    }
}

/// Only if we have made it.
pub(crate) async fn remove_own(client: &Client, path: &str) -> Result<(), ManifestError> {
    let found = match send(client, path, http::Request::get(path).body(Vec::new())).await {
        Err(error) if is_absent(&error) => return Ok(()),
        found => found?,
    };
    let managers = found["metadata"]["managedFields"].as_array();
    let is_ours = |m: &Value| m["manager"] == FIELD_MANAGER && m["operation"] == "Apply";
    if managers.is_some_and(|all| all.iter().any(is_ours)) { remove(client, path).await } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_filled_and_placed() {
        let manifest = "apiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {name: a, namespace: b}\nspec: {x: '{{x}}'}\n\
                        ---\napiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: b}\n\
                        ---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: np, namespace: b}\n\
                        ---\napiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: c}\n";
        let objects = objects(manifest, &[("x", "filled")]).expect("reads");
        let paths: Vec<&str> = objects.iter().map(|o| o.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "/apis/policy/v1/namespaces/b/poddisruptionbudgets/a",
                "/api/v1/namespaces/b/services/s",
                "/apis/networking.k8s.io/v1/namespaces/b/networkpolicies/np",
                "/apis/storage.k8s.io/v1/storageclasses/c",
            ]
        );
        assert_eq!(objects[0].value["spec"]["x"], "filled");
        assert_eq!(
            (objects[0].title(), objects[1].title()),
            ("PodDisruptionBudget.policy a".into(), "Service s".into())
        );
        assert!(super::objects("kind: Nameless\n", &[]).is_err());
    }
}

//! Our mark on objects that may not go before what stands behind them has gone.

use crate::controller::Trouble;
use kube::api::{Api, Patch, PatchParams};
use kube::{Resource, ResourceExt};
use serde_json::json;

/// Nothing else of the list is touched.
pub(crate) async fn drop_finalizer<K>(api: &Api<K>, object: &K, finalizer: &str) -> Result<(), Trouble>
where
    K: Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let current = match api.get_opt(&object.name_any()).await? {
        Some(current) if current.finalizers().iter().any(|f| f == finalizer) => current,
        _ => return Ok(()),
    };
    let kept: Vec<&String> = current.finalizers().iter().filter(|f| *f != finalizer).collect();
    let patch = json!({"metadata": {"finalizers": kept, "resourceVersion": current.resource_version()}});
    match api.patch(&object.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        patched => Ok(patched.map(drop)?),
    }
}

/// The same the other way.
pub(crate) async fn add_finalizer<K>(api: &Api<K>, object: &K, finalizer: &str) -> Result<(), Trouble>
where
    K: Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    if object.finalizers().iter().any(|f| f == finalizer) {
        return Ok(());
    }
    let all: Vec<&str> = object.finalizers().iter().map(String::as_str).chain([finalizer]).collect();
    let patch = json!({"metadata": {"finalizers": all, "resourceVersion": object.resource_version()}});
    Ok(api.patch(&object.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)?)
}

//! Fields that somebody else has set: what the API server says of them, and objects without them.
//!
//! Paths are those of structured-merge-diff, as a 409 of a server-side apply has them: `.spec.replicas`,
//! `.spec.template.spec.containers[name="coredns"].image`, `.metadata.finalizers[="x"]`. Names of fields may have dots.

use crate::manifest::ManifestError;
use serde_json::{Map, Value};

/// Which fields of an object others have, if that is why it was not applied.
pub(super) fn conflicts(error: &ManifestError) -> Option<Vec<String>> {
    let ManifestError::Refused { source, .. } = error else { return None };
    let kube::Error::Api(status) = source.as_ref() else { return None };
    let causes = status.details.as_ref().map(|details| details.causes.as_slice()).unwrap_or_default();
    let fields: Vec<String> = causes
        .iter()
        .filter(|cause| cause.reason == "FieldManagerConflict")
        .map(|c| c.field.clone())
        .collect();
    (status.code == 409 && !fields.is_empty()).then_some(fields)
}

/// Takes a field out of an object; whether it had one.
pub(super) fn remove(value: &mut Value, path: &str) -> bool {
    match value {
        Value::Object(map) => remove_member(map, path),
        Value::Array(items) => remove_item(items, path),
        _ => false,
    }
}

fn remove_member(map: &mut Map<String, Value>, path: &str) -> bool {
    let Some(path) = path.strip_prefix('.') else { return false };
    // The longest name that fits, since a name may have dots.
    let fits = |name: &&String| {
        path.strip_prefix(name.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    let Some(name) = map.keys().filter(fits).max_by_key(|name| name.len()).cloned() else { return false };
    match &path[name.len()..] {
        "" => map.remove(&name).is_some(),
        rest => map.get_mut(&name).is_some_and(|value| remove(value, rest)),
    }
}

fn remove_item(items: &mut Vec<Value>, path: &str) -> bool {
    let Some((selector, rest)) = selector(path) else { return false };
    let Some(place) = items.iter().enumerate().position(|(index, item)| selects(selector, index, item))
    else {
        return false;
    };
    if rest.is_empty() {
        items.remove(place);
        return true;
    }
    remove(&mut items[place], rest)
}

/// `[…]` and what comes after it; a bracket within quotes ends nothing.
fn selector(path: &str) -> Option<(&str, &str)> {
    let inner = path.strip_prefix('[')?;
    let (mut quoted, mut escaped) = (false, false);
    for (at, c) in inner.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ']' if !quoted => return Some((&inner[..at], &inner[at + 1..])),
            _ => {}
        }
    }
    None
}

/// An index, a value of a set (`="x"`), or keys of an associative list (`containerPort=53,protocol="UDP"`).
fn selects(selector: &str, index: usize, item: &Value) -> bool {
    if let Ok(wanted) = selector.parse::<usize>() {
        return wanted == index;
    }
    let mut rest = selector;
    loop {
        let Some((key, after)) = rest.split_once('=') else { return false };
        let mut values = serde_json::Deserializer::from_str(after).into_iter::<Value>();
        let Some(Ok(value)) = values.next() else { return false };
        let found = if key.is_empty() { Some(item) } else { item.get(key) };
        if found != Some(&value) {
            return false;
        }
        match after[values.byte_offset()..].strip_prefix(',') {
            Some(more) => rest = more,
            None => return true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn without(path: &str) -> (bool, Value) {
        let mut value = json!({
            "metadata": {"annotations": {"prometheus.io/port": "9153", "prometheus.io": "x"}, "finalizers": ["a", "b]"]},
            "spec": {"replicas": 2, "containers": [
                {"name": "a", "image": "x", "ports": [
                    {"containerPort": 53, "protocol": "UDP"}, {"containerPort": 53, "protocol": "TCP"}
                ]},
                {"name": "b,c", "image": "y"},
            ]},
        });
        let removed = remove(&mut value, path);
        (removed, value)
    }

    #[test]
    fn a_field_goes_and_its_neighbours_stay() {
        let (removed, value) = without(".spec.replicas");
        assert!(
            removed
                && value["spec"].get("replicas").is_none()
                && value["spec"]["containers"][1]["image"] == "y"
        );
        let (removed, value) = without(".spec.containers[name=\"b,c\"].image");
        assert!(removed && value["spec"]["containers"][1] == json!({"name": "b,c"}));
        let (removed, value) =
            without(".spec.containers[name=\"a\"].ports[containerPort=53,protocol=\"TCP\"]");
        assert!(
            removed
                && value["spec"]["containers"][0]["ports"]
                    == json!([{"containerPort": 53, "protocol": "UDP"}])
        );
        let (removed, value) = without(".metadata.annotations.prometheus.io/port");
        assert!(removed && value["metadata"]["annotations"] == json!({"prometheus.io": "x"}));
        let (removed, value) = without(".metadata.finalizers[=\"b]\"]");
        assert!(removed && value["metadata"]["finalizers"] == json!(["a"]));
        assert!(without(".spec.containers[1].name").0);
    }

    #[test]
    fn what_is_not_there_changes_nothing() {
        let whole = without("").1;
        for path in [
            "",
            ".",
            ".spec.nothing",
            ".spec.containers[name=\"z\"].image",
            ".spec.containers[name=",
            ".spec[0]",
            "spec",
        ] {
            assert_eq!(without(path), (false, whole.clone()), "{path}");
        }
    }
}

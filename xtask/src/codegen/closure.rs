//! Which shapes a set of operations reaches.

use std::collections::BTreeSet;

use anyhow::{Context, Result};

use super::json::Json;

/// Every shape reachable from the named operations, as model names.
pub(crate) fn closure(model: &Json, operations: &[String]) -> Result<BTreeSet<String>> {
    let shapes = model.get("shapes").context("shapes")?;
    let mut queue = Vec::new();
    for name in operations {
        let op = model
            .get("operations")
            .and_then(|o| o.get(name))
            .with_context(|| format!("no operation {name}"))?;
        queue.extend(["input", "output"].iter().filter_map(|k| op.get(k)).filter_map(target));
        if let Some(Json::List(errors)) = op.get("errors") {
            queue.extend(errors.iter().filter_map(target));
        }
    }
    let mut seen = BTreeSet::new();
    while let Some(name) = queue.pop() {
        if !seen.insert(name.to_owned()) {
            continue;
        }
        let shape = shapes.get(name).with_context(|| format!("no shape {name}"))?;
        queue.extend(edges(shape));
    }
    Ok(seen)
}

/// The shapes one shape names: members of a structure, element of a list, key and value of a map.
fn edges(shape: &Json) -> Vec<&str> {
    let members = shape.get("members").map(Json::entries).unwrap_or_default();
    let members = members.iter().filter_map(|(_, m)| target(m));
    members.chain(["member", "key", "value"].iter().filter_map(|k| shape.get(k)).filter_map(target)).collect()
}

fn target(reference: &Json) -> Option<&str> {
    reference.text("shape")
}

/// Whether a value of structure `from` could contain a structure `to` without a list or map between them, so that
/// the Rust field needs a `Box`.
pub(crate) fn contains_directly(shapes: &Json, from: &str, to: &str) -> bool {
    let mut queue = vec![from];
    let mut seen = BTreeSet::new();
    while let Some(name) = queue.pop() {
        if name == to {
            return true;
        }
        let Some(shape) = shapes.get(name) else { continue };
        if shape.text("type") == Some("structure") && seen.insert(name) {
            queue.extend(edges(shape));
        }
    }
    false
}

//! `cargo xtask codegen [--check | --update]`: from pinned service models to `crates/model/src/generated`.
//!
//! Reads `models/operations.toml` (what we serve) and `models/<service>.json` (the closure of those operations in
//! the pinned botocore model, documentation stripped). `--check` fails when the checked-in code differs;
//! `--update` derives the models again. Invariant: the output is a function of `models/` alone.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};

mod closure;
mod emit;
mod json;
mod names;
mod types;
mod update;

/// One `[[service]]` of `operations.toml`.
struct ServiceConfig {
    id: String,
    /// botocore's data directory: `eks/2017-11-01`.
    model: String,
    operations: Vec<String>,
    /// Shapes that are secret though the model does not say so.
    sensitive: Vec<String>,
}

/// `operations.toml`.
struct Config {
    botocore: String,
    services: Vec<ServiceConfig>,
}

/// The entry point of the chore.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let root = root();
    match args.as_slice() {
        [] => write(&root, &generate(&root)?),
        ["--check"] => check(&root),
        ["--update"] => {
            update::update(&root, &config(&root)?)?;
            write(&root, &generate(&root)?)
        }
        other => bail!("codegen: unknown arguments {other:?}; expected nothing, --check or --update"),
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}

fn config(root: &Path) -> Result<Config> {
    let path = root.join("models/operations.toml");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let table: toml::Table = text.parse().with_context(|| path.display().to_string())?;
    let botocore = table.get("botocore").and_then(|v| v.as_str()).context("botocore: a version")?.to_owned();
    let services = table.get("service").and_then(|v| v.as_array()).context("[[service]]: at least one")?;
    let services = services.iter().map(service_config).collect::<Result<_>>()?;
    Ok(Config { botocore, services })
}

fn service_config(value: &toml::Value) -> Result<ServiceConfig> {
    let text = |key: &str| {
        value
            .get(key)
            .and_then(|v| v.as_str())
            .map(str::to_owned)
            .ok_or_else(|| anyhow!("[[service]] {key}: missing"))
    };
    let list = |key: &str| -> Vec<String> {
        let items = value.get(key).and_then(|v| v.as_array()).cloned().unwrap_or_default();
        items.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect()
    };
    Ok(ServiceConfig {
        id: text("id")?,
        model: text("model")?,
        operations: list("operations"),
        sensitive: list("sensitive"),
    })
}

/// Every generated file, by path from the root.
fn generate(root: &Path) -> Result<BTreeMap<String, String>> {
    let config = config(root)?;
    let mut files = BTreeMap::new();
    for service in &config.services {
        let path = root.join(format!("models/{}.json", service.id));
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let model = json::parse(&text).with_context(|| path.display().to_string())?;
        let code = emit::service(service, &model).with_context(|| format!("service {}", service.id))?;
        files.insert(format!("crates/model/src/generated/{}.rs", emit::module(&service.id)), code);
    }
    let modules: Vec<String> = config.services.iter().map(|s| emit::module(&s.id)).collect();
    files.insert("crates/model/src/generated.rs".to_owned(), emit::index(&modules));
    Ok(files)
}

fn write(root: &Path, files: &BTreeMap<String, String>) -> Result<()> {
    for (name, text) in files {
        let path = root.join(name);
        if fs::read_to_string(&path).ok().as_deref() != Some(text.as_str()) {
            fs::create_dir_all(path.parent().context("a generated file has a directory")?)?;
            fs::write(&path, text).with_context(|| path.display().to_string())?;
            println!("wrote {name}");
        }
    }
    Ok(())
}

fn check(root: &Path) -> Result<()> {
    let stale: Vec<String> = generate(root)?
        .into_iter()
        .filter(|(name, text)| fs::read_to_string(root.join(name)).ok().as_ref() != Some(text))
        .map(|(name, _)| name)
        .collect();
    if stale.is_empty() {
        return Ok(());
    }
    bail!("not what `cargo xtask codegen` writes: {}", stale.join(", "))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_checked_in_code_is_fresh() {
        super::check(&super::root())
            .expect("crates/model/src/generated is the output of `cargo xtask codegen`");
    }
}

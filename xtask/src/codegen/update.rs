//! `--update`: derives `models/<service>.json` from the pinned botocore's `service-2.json`.
//!
//! `pip` fetches the wheel and Python's standard library unpacks it: both come with the tool that pins it.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::closure::closure;
use super::json::{self, Json};
use super::{Config, ServiceConfig};

const UNPACK: &str = "import glob, gzip, sys, zipfile
wheel = zipfile.ZipFile(glob.glob(sys.argv[1] + '/botocore-*.whl')[0])
data = wheel.read('botocore/data/' + sys.argv[2] + '/service-2.json.gz')
sys.stdout.buffer.write(gzip.decompress(data))";

/// Metadata the generator reads.
const METADATA: [&str; 8] = [
    "apiVersion",
    "endpointPrefix",
    "jsonVersion",
    "protocol",
    "serviceId",
    "signingName",
    "targetPrefix",
    "xmlNamespace",
];

pub(crate) fn update(root: &Path, config: &Config) -> Result<()> {
    let dir = std::env::temp_dir().join(format!("ekstra-codegen-{}", std::process::id()));
    fs::create_dir_all(&dir)?;
    let outcome = download(&dir, &config.botocore).and_then(|()| {
        config.services.iter().try_for_each(|service| {
            let text = output(Command::new("python3").arg("-c").arg(UNPACK).arg(&dir).arg(&service.model))?;
            let model = restrict(service, &json::parse(&text)?).with_context(|| service.id.clone())?;
            let path = root.join(format!("models/{}.json", service.id));
            fs::write(&path, json::render(&model, 0) + "\n").with_context(|| path.display().to_string())
        })
    });
    fs::remove_dir_all(&dir)?;
    outcome
}

fn download(dir: &Path, version: &str) -> Result<()> {
    let pin = format!("botocore=={version}");
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest"])
        .arg(dir)
        .arg(pin);
    output(&mut pip).map(drop)
}

fn output(command: &mut Command) -> Result<String> {
    let out = command.output().with_context(|| format!("{command:?}"))?;
    if !out.status.success() {
        bail!("{command:?}: {}: {}", out.status, String::from_utf8_lossy(&out.stderr));
    }
    Ok(String::from_utf8(out.stdout)?)
}

/// The model without documentation and without what the served operations do not reach, in the model's order.
fn restrict(service: &ServiceConfig, model: &Json) -> Result<Json> {
    let reached = closure(model, &service.operations)?;
    let filter = |key: &str, keep: &dyn Fn(&str) -> bool| -> Json {
        let entries = model.get(key).map(Json::entries).unwrap_or_default();
        Json::Map(entries.iter().filter(|(k, _)| keep(k)).map(|(k, v)| (k.clone(), strip(v))).collect())
    };
    Ok(Json::Map(vec![
        ("metadata".to_owned(), filter("metadata", &|k| METADATA.contains(&k))),
        ("operations".to_owned(), filter("operations", &|k| service.operations.iter().any(|o| o == k))),
        ("unserved".to_owned(), unserved(service, model)),
        ("shapes".to_owned(), filter("shapes", &|k| reached.contains(k))),
    ]))
}

/// How the other operations are recognised where a request does not name its operation, so that they are refused by name.
fn unserved(service: &ServiceConfig, model: &Json) -> Json {
    let metadata = model.get("metadata");
    if metadata.and_then(|metadata| metadata.text("protocol")) != Some("rest-json") {
        return Json::Map(Vec::new());
    }
    let operations = model.get("operations").map(Json::entries).unwrap_or_default();
    let others = operations.iter().filter(|(name, _)| !service.operations.contains(name));
    let place = |operation: &Json| operation.get("http").map(strip).unwrap_or(Json::Map(Vec::new()));
    Json::Map(others.map(|(name, operation)| (name.clone(), place(operation))).collect())
}

/// Drops documentation. A structure may have a *member* called `documentation`: those are objects and stay.
fn strip(value: &Json) -> Json {
    let noise = |key: &str, value: &Json| match value {
        Json::Str(_) => {
            key.starts_with("documentation") || key == "deprecatedMessage" || key == "deprecatedSince"
        }
        Json::Atom(_) => key == "deprecated" || key == "box",
        _ => false,
    };
    match value {
        Json::Map(entries) => {
            let kept = entries.iter().filter(|(k, v)| !noise(k, v));
            Json::Map(kept.map(|(k, v)| (k.clone(), strip(v))).collect())
        }
        Json::List(items) => Json::List(items.iter().map(strip).collect()),
        other => other.clone(),
    }
}

//! The image configuration of a packed image. Invariant: field order and formatting are fixed, for the
//! digest's sake. Source: OCI image-spec, config.md.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{PackError, PackOptions};
use crate::digest::Digest;

#[derive(Serialize)]
struct Image<'a> {
    created: &'a str,
    architecture: &'a str,
    os: &'a str,
    config: Config<'a>,
    rootfs: RootFs<'a>,
    history: [History<'a>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Config<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    exposed_ports: BTreeMap<String, Empty>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    env: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    entrypoint: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    cmd: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    working_dir: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
struct Empty {}

#[derive(Serialize)]
struct RootFs<'a> {
    r#type: &'a str,
    diff_ids: [&'a Digest; 1],
}

#[derive(Serialize)]
struct History<'a> {
    created: &'a str,
    created_by: &'a str,
}

/// Refuses options that a container runtime would stumble over later.
pub(super) fn check(options: &PackOptions) -> Result<(), PackError> {
    let refuse =
        |option, value: &str, expected| Err(PackError::Option { option, value: value.to_owned(), expected });
    if options.name.digest().is_some() {
        return refuse("name", &options.name.to_string(), "a name without a digest");
    }
    if let Some(bad) = options.env.iter().find(|e| e.split_once('=').is_none_or(|(name, _)| name.is_empty()))
    {
        return refuse("env", bad, "NAME=value");
    }
    if let Some(bad) = options.workdir.as_deref().filter(|dir| !dir.starts_with('/')) {
        return refuse("workdir", bad, "an absolute path");
    }
    let odd_user = |user: &&str| user.is_empty() || user.contains(char::is_whitespace);
    if let Some(bad) = options.user.as_deref().filter(odd_user) {
        return refuse("user", bad, "user[:group]");
    }
    if let Some(bad) = options.exposed_ports.iter().find(|port| with_protocol(port).is_none()) {
        return refuse("exposed port", bad, "port[/tcp|/udp|/sctp]");
    }
    Ok(())
}

/// `8080` is `8080/tcp`; `None` for what is no port.
fn with_protocol(port: &str) -> Option<String> {
    let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
    let number = number.parse::<u16>().ok().filter(|&number| number > 0)?;
    matches!(protocol, "tcp" | "udp" | "sctp").then(|| format!("{number}/{protocol}"))
}

/// The configuration's bytes, for one uncompressed layer.
pub(super) fn json(options: &PackOptions, layer: &Digest) -> Vec<u8> {
    let ports = options.exposed_ports.iter().filter_map(|port| with_protocol(port));
    let image = Image {
        created: &options.created,
        architecture: &options.architecture,
        os: "linux",
        config: Config {
            user: options.user.as_deref(),
            exposed_ports: ports.map(|port| (port, Empty {})).collect(),
            env: &options.env,
            entrypoint: &options.entrypoint,
            cmd: &options.cmd,
            working_dir: options.workdir.as_deref(),
            labels: &options.labels,
        },
        rootfs: RootFs { r#type: "layers", diff_ids: [layer] },
        history: [History { created: &options.created, created_by: "ekstra image pack" }],
    };
    serde_json::to_vec(&image).expect("texts, lists and maps with text keys are always JSON")
}

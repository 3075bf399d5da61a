//! Kubeconfig files: entries of ours are put in and taken out, everything else stays.

use crate::home::Home;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// The first of `KUBECONFIG`, or `~/.kube/config`.
pub(crate) fn default_path() -> Result<PathBuf> {
    if let Some(list) = std::env::var_os("KUBECONFIG").filter(|v| !v.is_empty())
        && let Some(first) = std::env::split_paths(&list).next()
    {
        return Ok(first);
    }
    Ok(PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".kube/config"))
}

/// What an entry is made of.
pub(crate) struct Entry<'a> {
    pub(crate) cluster: &'a str,
    pub(crate) arn: &'a str,
    pub(crate) region: &'a str,
    pub(crate) endpoint: &'a str,
    /// Base64, as EKS answers it.
    pub(crate) ca: &'a str,
}

/// Signs in with ekstra's own plugin, so that neither `aws` nor an environment is needed.
pub(crate) fn write(path: &Path, home: &Home, entry: &Entry<'_>) -> Result<()> {
    let mut config = read(path)?;
    let user = json!({"exec": {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": home.program(),
        "args": ["--home", home.root, "token", "--cluster-name", entry.cluster, "--region", entry.region],
        "interactiveMode": "Never",
        "provideClusterInfo": false,
    }});
    let cluster = json!({"server": entry.endpoint, "certificate-authority-data": entry.ca});
    let context = json!({"cluster": entry.arn, "user": entry.arn});
    for (list, kind, value) in
        [("clusters", "cluster", cluster), ("users", "user", user), ("contexts", "context", context)]
    {
        put(&mut config, list, entry.arn, kind, value);
    }
    config["current-context"] = json!(entry.arn);
    save(path, &config)
}

/// Whether [`write`] will find a place there, and a kubeconfig if anything.
pub(crate) fn check(path: &Path) -> Result<()> {
    read(path)?;
    make_parent(path)
}

fn make_parent(path: &Path) -> Result<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    fs::create_dir_all(parent).with_context(|| format!("the kubeconfig's directory {}", parent.display()))
}

/// Takes the entry out; the file stays, even when it is empty now.
pub(crate) fn remove(path: &Path, arn: &str) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let mut config = read(path)?;
    for list in ["clusters", "users", "contexts"] {
        if let Some(items) = config[list].as_array_mut() {
            items.retain(|item| item["name"] != arn);
        }
    }
    if config["current-context"] == arn {
        config["current-context"] = json!("");
    }
    save(path, &config)
}

fn read(path: &Path) -> Result<Value> {
    let text = match fs::read_to_string(path) {
        Ok(text) if !text.trim().is_empty() => text,
        Ok(_) => return Ok(empty()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(empty()),
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    serde_saphyr::from_str(&text).with_context(|| format!("{} is not a kubeconfig", path.display()))
}

fn empty() -> Value {
    json!({"apiVersion": "v1", "kind": "Config", "preferences": {}})
}

fn put(config: &mut Value, list: &str, name: &str, kind: &str, value: Value) {
    let item = json!({"name": name, kind: value});
    match config[list].as_array_mut() {
        Some(items) => {
            items.retain(|item| item["name"] != name);
            items.push(item);
        }
        None => config[list] = json!([item]),
    }
}

fn save(path: &Path, config: &Value) -> Result<()> {
    make_parent(path)?;
    crate::home::write_private(path, serde_saphyr::to_string(config)?.as_bytes())
        .with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_entries_stay() {
        let directory = tempfile::tempdir().expect("tempdir");
        let path = directory.path().join("config");
        fs::write(&path, "apiVersion: v1\nkind: Config\nclusters:\n- name: other\n  cluster: {server: https://x}\ncurrent-context: other\n")
            .expect("writes");
        let home = Home { root: directory.path().to_owned() };
        let entry =
            Entry { cluster: "c", arn: "arn:c", region: "us-east-1", endpoint: "https://e", ca: "Q0E=" };
        write(&path, &home, &entry).expect("writes");
        write(&path, &home, &entry).expect("writes again");
        let config = read(&path).expect("reads");
        assert_eq!(config["clusters"].as_array().map(Vec::len), Some(2));
        assert_eq!(config["current-context"], "arn:c");
        remove(&path, "arn:c").expect("removes");
        let config = read(&path).expect("reads");
        assert_eq!(config["clusters"][0]["name"], "other");
        assert_eq!(config["users"].as_array().map(Vec::len), Some(0));
    }
}

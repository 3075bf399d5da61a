//! The proxies of the environment in which the service is started: its nodes pull images through them.
//!
//! A file in the home has them, and not a command line, which everybody may read: addresses of proxies have passwords.

use crate::home::Home;
use anyhow::Result;
use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;

/// By name, as programs look for them.
pub(crate) type Proxies = BTreeMap<String, String>;

const FILE: &str = "proxies.json";
/// Which variables there are; each also in small letters.
const NAMES: [&str; 3] = ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"];

/// Nodes cannot come to the loopback of their host: one that is there is none to them.
pub(crate) fn is_loopback(proxy: &str) -> bool {
    let rest = proxy.split_once("://").map_or(proxy, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// What nodes can use of an environment.
fn usable(variable: impl Fn(&str) -> Option<String>) -> Proxies {
    let given = |name: &str| variable(name).filter(|value| !value.is_empty());
    let either = |name: &&str| {
        let value = given(name).or_else(|| given(&name.to_lowercase()))?;
        // Of exceptions no address counts.
        (*name == "NO_PROXY" || !is_loopback(&value)).then(|| ((*name).to_owned(), value))
    };
    let found: Proxies = NAMES.iter().filter_map(either).collect();
    if found.keys().any(|name| name != "NO_PROXY") { found } else { Proxies::new() }
}

/// For the service that is about to be started.
pub(crate) fn remember(home: &Home) -> Result<()> {
    let found = usable(|name| std::env::var(name).ok());
    if found.is_empty() {
        let _ = fs::remove_file(home.path(FILE));
        return Ok(());
    }
    home.write_for_owner(FILE, &serde_json::to_vec_pretty(&found)?)
}

pub(crate) fn remembered(home: &Home) -> Proxies {
    let read = fs::read(home.path(FILE)).ok();
    read.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nodes_can_use_is_taken_and_nothing_else() {
        let of = |pairs: &[(&str, &str)]| {
            let pairs: BTreeMap<String, String> =
                pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
            usable(|name| pairs.get(name).cloned()).into_iter().collect::<Vec<_>>()
        };
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(of(&[]), []);
        assert_eq!(of(&[("NO_PROXY", "corp")]), [], "an exception to nothing");
        assert_eq!(
            of(&[
                ("https_proxy", "http://u:p@proxy.corp:3128"),
                ("no_proxy", "127.0.0.0/8,.corp"),
                ("HTTP_PROXY", "")
            ]),
            [pair("HTTPS_PROXY", "http://u:p@proxy.corp:3128"), pair("NO_PROXY", "127.0.0.0/8,.corp")]
        );
        for own in ["http://127.0.0.1:8080", "localhost:3128", "http://u:p@127.1.2.3/", "http://[::1]:80"] {
            assert_eq!(of(&[("HTTPS_PROXY", own)]), [], "{own}");
        }
    }
}

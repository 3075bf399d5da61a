//! Other people's firewalls, and the way through them.
//!
//! To accept a packet ends our own table only: a chain of another table on the same hook may still drop it, as Docker's
//! and ufw's do with whatever is forwarded and not theirs. Docker has the chain DOCKER-USER for rules of others.
//!
//! Invariant: of other tables, only rules that carry this home's comment are added or taken away. They accept without
//! looking closer, since our own table has dropped what may not pass, at an earlier priority.

use super::Names;
use super::command::{in_namespace, nft, nft_output};
use crate::{HostError, netns};
use ekstra_domain::prefix::Prefix;
use serde_json::Value;
use std::fmt;

/// Where Docker wants the rules of others.
const DOCKER_USER: &str = "DOCKER-USER";
const FORWARD: &str = "FORWARD";
/// Rules are for packets from the uplinks and to them.
const DIRECTIONS: [&str; 2] = ["iifname", "oifname"];

/// A firewall that is not ours and stands in the way of forwarded packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Firewall {
    /// A chain of nftables (`iptables` writes there too) drops what it does not know.
    Nftables {
        family: String,
        table: String,
        chain: String,
        /// The chain that takes our rules.
        through: String,
    },
    /// The same of the older kernel interface; rules are added with `tool`, when there is one.
    Legacy { through: &'static str, tool: Option<&'static str> },
    /// Throws foreign rules away whenever it loads its own, so it has to be told by its user.
    Firewalld,
}

impl fmt::Display for Firewall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nftables { family, table, chain, .. } => {
                write!(f, "chain {chain} of table {family} {table} drops forwarded packets")
            }
            Self::Legacy { .. } => f.write_str("chain FORWARD of iptables-legacy drops forwarded packets"),
            Self::Firewalld => f.write_str("firewalld may reject forwarded packets"),
        }
    }
}

impl Firewall {
    /// What the service does about it, or what its user has to do for addresses of `transit`.
    pub fn remedy(&self, transit: Prefix) -> String {
        match self {
            Self::Nftables { through, .. } => format!("ekstra adds two rules to {through} while it serves"),
            Self::Legacy { through, tool: Some(tool) } => {
                format!("ekstra adds two rules to {through} with {tool} while it serves")
            }
            Self::Legacy { tool: None, .. } => {
                format!(
                    "install iptables, or nodes reach nothing outside; then ekstra adds rules for {transit}"
                )
            }
            Self::Firewalld => format!(
                "firewall-cmd --permanent --zone=trusted --add-source={transit} && firewall-cmd --reload"
            ),
        }
    }
}

/// A chain as `nft` lists it.
struct Chain {
    family: String,
    table: String,
    name: String,
    hook: Option<String>,
    policy: Option<String>,
    kind: Option<String>,
}

/// The objects of one kind in what `nft -j` says.
fn objects(listing: &str, kind: &str) -> Vec<Value> {
    let mut parsed: Value = serde_json::from_str(listing).unwrap_or_default();
    let Value::Array(items) = parsed["nftables"].take() else { return Vec::new() };
    items.into_iter().map(|mut item| item[kind].take()).filter(|object| !object.is_null()).collect()
}

fn chains(namespace: Option<&str>) -> Result<Vec<Chain>, HostError> {
    let listing = nft_output(namespace, &["-j", "list", "chains"], "")?;
    let text = |object: &Value, key: &str| object[key].as_str().map(str::to_owned);
    let chain = |o: Value| {
        Some(Chain {
            family: text(&o, "family")?,
            table: text(&o, "table")?,
            name: text(&o, "name")?,
            hook: text(&o, "hook"),
            policy: text(&o, "policy"),
            kind: text(&o, "type"),
        })
    };
    Ok(objects(&listing, "chain").into_iter().filter_map(chain).collect())
}

fn is_foreign(chain: &Chain) -> bool {
    !chain.table.starts_with("ekstra_") && matches!(chain.family.as_str(), "ip" | "inet")
}

/// Whether a table of this name is loaded, with as many chains as ours has.
pub(super) fn is_loaded(namespace: Option<&str>, table: &str, count: usize) -> Result<bool, HostError> {
    Ok(chains(namespace)?.iter().filter(|c| c.family == "ip" && c.table == table).count() == count)
}

/// Whether anybody else on this machine translates addresses, and so relies on forwarding.
pub(super) fn others_route() -> bool {
    let nat = |c: &Chain| {
        is_foreign(c) && c.kind.as_deref() == Some("nat") && c.hook.as_deref() == Some("postrouting")
    };
    chains(None).is_ok_and(|all| all.iter().any(nat)) || legacy_tables(None).contains("nat")
}

/// Every firewall in the way, inside a namespace or on the host.
pub(super) fn survey(namespace: Option<&str>) -> Result<Vec<Firewall>, HostError> {
    let all = chains(namespace)?;
    let mut found = Vec::new();
    for chain in all.iter().filter(|c| is_foreign(c)) {
        if chain.hook.as_deref() == Some("forward") && chain.policy.as_deref() == Some("drop") {
            let through = through(namespace, chain)?;
            let (family, table, chain) = (chain.family.clone(), chain.table.clone(), chain.name.clone());
            found.push(Firewall::Nftables { family, table, chain, through });
        }
    }
    if all.iter().any(|c| c.table == "firewalld") {
        found.push(Firewall::Firewalld);
    }
    found.extend(legacy(namespace)?);
    Ok(found)
}

/// Docker's chain for others, if packets come by it.
fn through(namespace: Option<&str>, chain: &Chain) -> Result<String, HostError> {
    let args = ["-j", "list", "chain", &chain.family, &chain.table, &chain.name];
    let rules = objects(&nft_output(namespace, &args, "")?, "rule");
    let jumps = |rule: &Value| {
        let parts = rule["expr"].as_array().into_iter().flatten();
        parts.into_iter().any(|part| part["jump"]["target"] == DOCKER_USER)
    };
    let name = if rules.iter().any(jumps) { DOCKER_USER } else { &chain.name };
    Ok(name.to_owned())
}

/// Tables of the older interface; an empty list where the kernel has none.
fn legacy_tables(namespace: Option<&str>) -> String {
    // Not /proc/net, which is the first thread's.
    let read = || std::fs::read_to_string("/proc/thread-self/net/ip_tables_names");
    namespace.map_or_else(read, |name| netns::enter(name, read)).unwrap_or_default()
}

fn legacy(namespace: Option<&str>) -> Result<Option<Firewall>, HostError> {
    if !legacy_tables(namespace).lines().any(|table| table == "filter") {
        return Ok(None);
    }
    let Some(tool) = legacy_tool(namespace) else {
        return Ok(Some(Firewall::Legacy { through: FORWARD, tool: None }));
    };
    let rules = iptables(namespace, tool, &["-S", FORWARD])?;
    if !rules.lines().any(|line| line == "-P FORWARD DROP") {
        return Ok(None);
    }
    let docker = rules.lines().any(|line| line == "-A FORWARD -j DOCKER-USER");
    Ok(Some(Firewall::Legacy { through: if docker { DOCKER_USER } else { FORWARD }, tool: Some(tool) }))
}

/// Older distributions have one `iptables`, which is this one; newer ones keep it beside the other.
fn legacy_tool(namespace: Option<&str>) -> Option<&'static str> {
    ["iptables-legacy", "iptables"].into_iter().find(|tool| {
        iptables(namespace, tool, &["--version"]).is_ok_and(|version| !version.contains("nf_tables"))
    })
}

fn iptables(namespace: Option<&str>, tool: &str, args: &[&str]) -> Result<String, HostError> {
    in_namespace(namespace, tool, "iptables", &[&["-w", "5"], args].concat(), "")
}

/// Makes a way through whatever is in the way. Returns what had to be changed.
pub(super) fn ensure_passage(namespace: Option<&str>, names: &Names) -> Result<Vec<Firewall>, HostError> {
    let mut changed = Vec::new();
    for firewall in survey(namespace)? {
        let did = match &firewall {
            Firewall::Nftables { family, table, through, .. } => {
                ensure_rules(namespace, names, &format!("{family} {table}"), through)?
            }
            Firewall::Legacy { through, tool: Some(tool) } => {
                ensure_legacy_rules(namespace, names, tool, through)?
            }
            Firewall::Legacy { tool: None, .. } | Firewall::Firewalld => false,
        };
        if did {
            changed.push(firewall);
        }
    }
    Ok(changed)
}

fn ensure_rules(namespace: Option<&str>, names: &Names, table: &str, chain: &str) -> Result<bool, HostError> {
    let (comment, uplinks) = (names.comment(), names.uplinks());
    let words: Vec<&str> =
        ["-j", "list", "chain"].into_iter().chain(table.split(' ')).chain([chain]).collect();
    let listing = nft_output(namespace, &words, "")?;
    let own: Vec<Value> = objects(&listing, "rule").into_iter().filter(|r| r["comment"] == comment).collect();
    let has = |direction: &str| own.iter().any(|rule| rule["expr"].to_string().contains(direction));
    let missing: String = DIRECTIONS
        .iter()
        .filter(|direction| !has(direction))
        // No conntrack state: `iptables` refuses to list a table with expressions that it did not write.
        .map(|d| format!("insert rule {table} {chain} {d} \"{uplinks}\" accept comment \"{comment}\"\n"))
        .collect();
    if missing.is_empty() {
        return Ok(false);
    }
    nft(namespace, &missing).map(|()| true)
}

fn ensure_legacy_rules(
    namespace: Option<&str>,
    names: &Names,
    tool: &str,
    chain: &str,
) -> Result<bool, HostError> {
    let (comment, uplinks) = (names.comment(), names.uplinks().replace('*', "+"));
    let mut changed = false;
    for direction in ["-i", "-o"] {
        let rule = [chain, direction, &uplinks, "-m", "comment", "--comment", &comment, "-j", "ACCEPT"];
        if iptables(namespace, tool, &[&["-C"], &rule[..]].concat()).is_err() {
            iptables(namespace, tool, &[&["-I"], &rule[..]].concat())?;
            changed = true;
        }
    }
    Ok(changed)
}

/// Takes away what [`ensure_passage`] added, wherever it is by now.
pub(super) fn remove_passage(namespace: Option<&str>, names: &Names) -> Result<(), HostError> {
    let comment = names.comment();
    let mut deletions = String::new();
    let mut tables: Vec<_> = chains(namespace)?
        .into_iter()
        .filter(|c| is_foreign(c) && c.hook.as_deref() == Some("forward"))
        .map(|c| (c.family, c.table))
        .collect();
    tables.dedup();
    for (family, table) in tables {
        let listing = nft_output(namespace, &["-j", "-a", "list", "table", &family, &table], "")?;
        for rule in objects(&listing, "rule").into_iter().filter(|r| r["comment"] == comment) {
            let (chain, handle) = (rule["chain"].as_str().unwrap_or_default(), &rule["handle"]);
            deletions.push_str(&format!("delete rule {family} {table} {chain} handle {handle}\n"));
        }
    }
    if !deletions.is_empty() {
        nft(namespace, &deletions)?;
    }
    remove_legacy_rules(namespace, &comment)
}

fn remove_legacy_rules(namespace: Option<&str>, comment: &str) -> Result<(), HostError> {
    if !legacy_tables(namespace).lines().any(|table| table == "filter") {
        return Ok(());
    }
    let Some(tool) = legacy_tool(namespace) else { return Ok(()) };
    for line in iptables(namespace, tool, &["-S"])?.lines() {
        let mut words: Vec<&str> = line.split_whitespace().collect();
        let own = words.windows(2).any(|pair| pair[0] == "--comment" && pair[1].trim_matches('"') == comment);
        if own && words.first() == Some(&"-A") {
            words[0] = "-D";
            iptables(namespace, tool, &words)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;

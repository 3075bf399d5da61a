//! Namespaces, routers, interfaces and the firewall around them, by `ip` and `nft`.
//!
//! Invariant: a VPC is layer 3 only. Every address is a /32 route to one link; whatever is not routed to a link may
//! not come from it (reverse-path check on every packet).

use super::Names;
use super::command::{ip, ip_batch, nft};
use super::firewall::{self, Firewall};
use crate::{HostError, InterfaceSpec, RouterSpec, ServiceAddress, netns};
use std::net::Ipv4Addr;
use std::path::Path;

/// The router's end of the uplink.
const ROUTER_UPLINK: &str = "up0";
/// Of routes that count when no other does.
const LAST_METRIC: u32 = 4096;

pub(crate) fn ensure_namespace(name: &str) -> Result<(), HostError> {
    if !netns::path(name).exists() {
        ip(&["netns", "add", name])?;
    }
    // A file that was left by a reboot or a half-made namespace is not one.
    if netns::enter(name, || Ok(())).is_err() {
        let _ = ip(&["netns", "delete", name]);
        ip(&["netns", "add", name])?;
    }
    ip_batch(Some(name), &["link set lo up".to_owned()])
}

pub(crate) fn remove_namespace(name: &str) -> Result<(), HostError> {
    if netns::path(name).exists() { ip(&["netns", "delete", name]).map(drop) } else { Ok(()) }
}

pub(crate) fn namespaces(prefix: &str) -> Result<Vec<String>, HostError> {
    let path = Path::new(netns::RUN_NETNS);
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(HostError::io("list", path)(error)),
    };
    let names = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    Ok(names.filter(|n| n.starts_with(prefix)).collect())
}

fn link_exists(namespace: Option<&str>, link: &str) -> bool {
    let mut args = Vec::new();
    if let Some(name) = namespace {
        args.extend(["-netns", name]);
    }
    args.extend(["link", "show", "dev", link]);
    ip(&args).is_ok()
}

pub(crate) fn ensure_router(spec: &RouterSpec) -> Result<(), HostError> {
    ensure_namespace(&spec.namespace)?;
    let (host, router) = spec.transit;
    let mtu = spec.mtu;
    if !link_exists(Some(&spec.namespace), ROUTER_UPLINK) {
        let uplink = &spec.uplink;
        ip_batch(
            None,
            &[format!(
                "link add {uplink} mtu {mtu} type veth peer name {ROUTER_UPLINK} mtu {mtu} netns {}",
                spec.namespace
            )],
        )?;
    }
    ip_batch(
        None,
        &[format!("addr replace {host}/31 dev {}", spec.uplink), format!("link set {} up", spec.uplink)],
    )?;
    let mut commands: Vec<String> =
        spec.own_addresses.iter().map(|a| format!("addr replace {a}/32 dev lo")).collect();
    commands.push(format!("addr replace {router}/31 dev {ROUTER_UPLINK}"));
    commands.push(format!("link set {ROUTER_UPLINK} up"));
    commands.push(format!("route replace default via {host}"));
    // Addresses of the VPC that nobody has do not leave by the uplink.
    commands.push(format!("route replace unreachable {} metric {LAST_METRIC}", spec.cidr));
    ip_batch(Some(&spec.namespace), &commands)?;
    let settings = [("ipv4/ip_forward", "1"), ("ipv4/conf/all/rp_filter", "0")];
    write_settings(&spec.namespace, &settings)?;
    nft(Some(&spec.namespace), &router_rules(spec))
}

fn write_settings(namespace: &str, settings: &[(&str, &str)]) -> Result<(), HostError> {
    let owned: Vec<_> = settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let wrap = |source| HostError::Namespace { name: namespace.to_owned(), source };
    netns::write_settings(namespace, &owned).map_err(wrap)
}

fn router_rules(spec: &RouterSpec) -> String {
    let RouterSpec { cidr, balancers, transit: (host, _), .. } = spec;
    format!(
        "table ip vpc
delete table ip vpc
table ip vpc {{
  chain ingress {{
    type filter hook prerouting priority raw; policy accept;
    iifname \"e-*\" fib saddr . iif oif missing drop
  }}
  chain input {{
    type filter hook input priority filter; policy drop;
    iifname \"lo\" accept
    iifname \"e-*\" accept
    iifname \"{ROUTER_UPLINK}\" ip saddr {host} ip daddr {balancers} accept
    ct state established,related accept
  }}
  chain forward {{
    type filter hook forward priority filter; policy drop;
    ct state established,related accept
    iifname \"e-*\" oifname \"e-*\" ip daddr {cidr} accept
    iifname \"e-*\" oifname \"{ROUTER_UPLINK}\" ip daddr != 169.254.0.0/16 accept
  }}
  chain nat {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname \"{ROUTER_UPLINK}\" masquerade
  }}
}}
"
    )
}

pub(crate) fn remove_router(spec: &RouterSpec) -> Result<(), HostError> {
    remove_namespace(&spec.namespace)?;
    // The uplink goes with its other end, but not at once.
    if link_exists(None, &spec.uplink) {
        let _ = ip(&["link", "delete", "dev", &spec.uplink]);
    }
    Ok(())
}

/// What is left of routers whose namespaces were removed: uplinks go with them, but not at once.
pub(crate) fn remove_uplinks(names: &Names) -> Result<(), HostError> {
    let path = Path::new("/sys/class/net");
    let entries = std::fs::read_dir(path).map_err(HostError::io("list", path))?;
    let prefix = names.uplinks();
    let links = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    for link in links.filter(|link| link.starts_with(prefix.trim_end_matches('*'))) {
        // It may go by itself meanwhile.
        if ip(&["link", "delete", "dev", &link]).is_err() && link_exists(None, &link) {
            return ip(&["link", "delete", "dev", &link]).map(drop);
        }
    }
    Ok(())
}

pub(crate) fn ensure_interface(spec: &InterfaceSpec) -> Result<(), HostError> {
    let (link, device, mtu) = (&spec.id, format!("eth{}", spec.device_index), spec.mtu);
    if !link_exists(Some(&spec.router), link) {
        ip_batch(
            Some(&spec.router),
            &[format!(
                "link add {link} mtu {mtu} type veth peer name {device} mtu {mtu} address {} netns {}",
                spec.mac, spec.namespace
            )],
        )?;
    }
    let mut commands =
        vec![format!("link set {link} up"), format!("route replace {}/32 dev {link}", spec.address)];
    commands.extend(
        spec.prefixes.iter().map(|p| format!("route replace {p} via {} dev {link} onlink", spec.address)),
    );
    ip_batch(Some(&spec.router), &commands)?;
    let neighbours = format!("ipv4/neigh/{link}/proxy_delay");
    let proxy = format!("ipv4/conf/{link}/proxy_arp");
    write_settings(&spec.router, &[(&neighbours, "0"), (&proxy, "1")])?;
    configure_end(spec, &device)
}

/// The end inside the instance. Every neighbour is reached through the gateway: with a route to the subnet on each
/// interface, an answer could leave by another one than its address belongs to, and the router would drop it.
fn configure_end(spec: &InterfaceSpec, device: &str) -> Result<(), HostError> {
    let mut commands =
        vec![format!("addr replace {}/32 dev {device}", spec.address), format!("link set {device} up")];
    let default = format!("route replace default via {} dev {device} onlink", spec.gateway);
    if spec.device_index == 0 {
        commands.push(default);
    } else {
        let (table, preference) = (100 + spec.device_index, (1000 + spec.device_index).to_string());
        commands.push(format!("{default} table {table}"));
        if ip(&["-netns", &spec.namespace, "rule", "show", "pref", &preference])?.trim().is_empty() {
            commands.push(format!("rule add from {} lookup {table} pref {preference}", spec.address));
        }
    }
    ip_batch(Some(&spec.namespace), &commands)
}

pub(crate) fn remove_interface(router: &str, id: &str) -> Result<(), HostError> {
    if !netns::path(router).exists() || !link_exists(Some(router), id) {
        return Ok(());
    }
    ip(&["-netns", router, "link", "delete", "dev", id]).map(drop)
}

pub(crate) fn ensure_service_address(names: &Names, spec: &ServiceAddress) -> Result<(), HostError> {
    ensure_address(None, spec.address)?;
    // What goes to a balancer that is gone does not leave the machine.
    ip_batch(None, &[format!("route replace unreachable {} metric {LAST_METRIC}", spec.balancers)])?;
    nft(None, &host_rules(names, spec))?;
    pass_firewalls(names, spec, true);
    Ok(())
}

/// What others may have undone since: a firewall that loads its rules anew may flush ours, Docker may start later.
pub(crate) fn tend_service_address(names: &Names, spec: &ServiceAddress) -> Result<(), HostError> {
    if !firewall::is_loaded(None, &names.table(), HOST_CHAINS)? {
        tracing::warn!(table = names.table(), "was removed by somebody; loading it again");
        return ensure_service_address(names, spec);
    }
    pass_firewalls(names, spec, false);
    Ok(())
}

/// A machine whose firewalls cannot be looked at has none, as far as we can help it.
fn pass_firewalls(names: &Names, spec: &ServiceAddress, tell: bool) {
    let told = |found: Vec<Firewall>| {
        for found in found {
            tracing::warn!("{found}; {}", found.remedy(spec.transit));
        }
    };
    let untold = if tell { firewall::survey(None) } else { Ok(Vec::new()) };
    match untold.and_then(|found| Ok((found, firewall::ensure_passage(None, names)?))) {
        Ok((found, _)) if tell => told(found),
        Ok((_, changed)) => told(changed),
        Err(error) => tracing::warn!(%error, "other firewalls cannot be looked at"),
    }
}

/// Chains of [`host_rules`].
const HOST_CHAINS: usize = 3;

/// Routers reach the outside, and nothing else: not this host, not each other, not link-local addresses.
fn host_rules(names: &Names, spec: &ServiceAddress) -> String {
    let (table, uplinks) = (names.table(), names.uplinks());
    let ServiceAddress { address, transit, .. } = spec;
    format!(
        "table ip {table}
delete table ip {table}
table ip {table} {{
  chain input {{
    type filter hook input priority filter - 10; policy accept;
    iifname \"{uplinks}\" ct state established,related accept
    iifname \"{uplinks}\" drop
    iifname != \"lo\" ip daddr {address} drop
  }}
  chain forward {{
    type filter hook forward priority filter - 10; policy accept;
    iifname \"{uplinks}\" oifname \"ek*\" drop
    iifname \"{uplinks}\" ip daddr 169.254.0.0/16 drop
    iifname \"{uplinks}\" ct status dnat drop
    iifname \"{uplinks}\" accept
    oifname \"{uplinks}\" ct state established,related accept
    oifname \"{uplinks}\" drop
  }}
  chain nat {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {transit} oifname != \"ek*\" masquerade
  }}
}}
"
    )
}

pub(crate) fn remove_service_address(names: &Names, spec: &ServiceAddress) -> Result<(), HostError> {
    let table = names.table();
    firewall::remove_passage(None, names)?;
    nft(None, &format!("table ip {table}\ndelete table ip {table}\n"))?;
    let range = spec.balancers.to_string();
    if ip(&["-4", "route", "show", "type", "unreachable"])?.contains(&format!("unreachable {range} ")) {
        ip(&["route", "del", "unreachable", &range])?;
    }
    remove_address(None, spec.address)
}

/// The router's own, so that no program on the host is in the way, nor it in theirs: one that listens on every address of
/// the host would have the balancer's port too.
pub(crate) fn ensure_balancer(router: &RouterSpec, address: Ipv4Addr) -> Result<(), HostError> {
    ensure_address(Some(&router.namespace), address)?;
    let ((host, gateway), uplink) = (router.transit, &router.uplink);
    ip_batch(None, &[format!("route replace {address}/32 via {gateway} dev {uplink} src {host}")])
}

pub(crate) fn remove_balancer(router: &RouterSpec, address: Ipv4Addr) -> Result<(), HostError> {
    // A route goes with its link.
    if !ip(&["-4", "route", "show", "exact", &format!("{address}/32")])?.is_empty() {
        ip(&["route", "del", &format!("{address}/32")])?;
    }
    remove_address(Some(&router.namespace), address)
}

/// Of a namespace's `lo`, or the host's.
fn addresses(namespace: Option<&str>) -> Result<Vec<Ipv4Addr>, HostError> {
    let mut args: Vec<&str> = namespace.iter().flat_map(|name| ["-netns", name]).collect();
    args.extend(["-o", "-4", "addr", "show", "dev", "lo"]);
    let listed = ip(&args)?;
    let held = listed.lines().filter_map(|line| {
        let mut words = line.split_whitespace().skip_while(|word| *word != "inet");
        words.nth(1)?.split('/').next()?.parse().ok()
    });
    Ok(held.collect())
}

fn ensure_address(namespace: Option<&str>, address: Ipv4Addr) -> Result<(), HostError> {
    // On the host it is nobody else's business: `scope host` keeps it out of what the host says of itself.
    let scope = if namespace.is_none() { " scope host" } else { "" };
    ip_batch(namespace, &[format!("addr replace {address}/32 dev lo{scope}")])
}

fn remove_address(namespace: Option<&str>, address: Ipv4Addr) -> Result<(), HostError> {
    if namespace.is_some_and(|name| !netns::path(name).exists()) || !addresses(namespace)?.contains(&address)
    {
        return Ok(());
    }
    ip_batch(namespace, &[format!("addr del {address}/32 dev lo")])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router() -> RouterSpec {
        RouterSpec {
            namespace: "ekstra-beef-vpc-0".into(),
            uplink: "ekbeefu0".into(),
            transit: ([198, 18, 0, 0].into(), [198, 18, 0, 1].into()),
            cidr: "172.31.0.0/16".parse().expect("valid"),
            own_addresses: Vec::new(),
            balancers: "198.19.0.0/24".parse().expect("valid"),
            mtu: 1500,
        }
    }

    fn host() -> String {
        let transit = "198.18.0.0/24".parse().expect("valid");
        let names = Names { home_id: "beef".into() };
        let balancers = "198.19.0.0/24".parse().expect("valid");
        host_rules(&names, &ServiceAddress { address: [169, 254, 80, 1].into(), transit, balancers })
    }

    /// nftables before 1.0.3 refuses a wildcard in a set, and Debian 11 and Ubuntu 20.04 have older ones.
    #[test]
    fn rules_have_no_wildcard_in_a_set() {
        for rules in [router_rules(&router()), host()] {
            for line in rules.lines().filter(|line| line.contains('*')) {
                assert!(!line.contains('{'), "{line}");
            }
        }
    }

    #[test]
    fn the_hosts_table_has_as_many_chains_as_are_looked_for() {
        assert_eq!(host().matches("chain ").count(), HOST_CHAINS);
    }

    #[test]
    fn nft_takes_the_rules() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: namespaces need root");
            return;
        }
        let name = format!("ekstra-rules-{}", std::process::id());
        ensure_namespace(&name).expect("made");
        let table = "ekstra_beef";
        assert!(!firewall::is_loaded(Some(&name), table, HOST_CHAINS).expect("looked at"));
        for rules in [router_rules(&router()), host(), host()] {
            nft(Some(&name), &rules).expect("loaded, also when it is there");
        }
        assert!(firewall::is_loaded(Some(&name), table, HOST_CHAINS).expect("looked at"));
        remove_namespace(&name).expect("removed");
    }
}

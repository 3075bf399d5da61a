//! What is said on machines that are not at hand. `UPDATE_GOLDEN=1` writes `golden/` anew.

use super::machine::Tool;
use super::*;
use std::fs;
use std::path::Path;

const ALL: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];

fn controllers(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn tool(name: &'static str, at: Option<&str>) -> Tool {
    Tool { name, package: "nftables", purpose: "firewall and NAT of VPCs", at: at.map(str::to_owned) }
}

/// A Debian 12 that has all that is needed.
fn good() -> Machine {
    Machine {
        tools: vec![tool("nft", Some("/usr/sbin/nft"))],
        is_root: true,
        has_sudo: true,
        root_is: None,
        in_container: false,
        groups: Groups::V2(controllers(&ALL)),
        has_loop_devices: true,
        has_overlay: true,
        inotify_instances: 8192,
        may_set: true,
        memory_bytes: 8 * GIB,
        disks: vec![("/root".to_owned(), 50 * GIB)],
        firewalls: Vec::new(),
        uplink: Some(("eth0".to_owned(), 1500)),
        proxies: Vec::new(),
        resolvers: vec!["192.0.2.53".parse().expect("an address")],
    }
}

fn pair(what: &str, remedy: &str) -> (String, String) {
    (what.to_owned(), remedy.to_owned())
}

#[test]
fn each_machine_is_told_what_is_odd_about_it() {
    let docker = pair(
        "chain FORWARD of table ip filter drops forwarded packets",
        "ekstra adds two rules to DOCKER-USER while it serves",
    );
    let machines = [
        ("good", good()),
        ("new", Machine { tools: vec![tool("nft", None)], is_root: false, has_sudo: false, ..good() }),
        ("cgroup-v1", Machine { groups: Groups::V1(controllers(&["cpu", "memory", "pids"])), ..good() }),
        ("cgroup-without-memory", Machine { groups: Groups::V1(controllers(&["cpu", "pids"])), ..good() }),
        ("cgroup-none", Machine { groups: Groups::None, ..good() }),
        ("docker", Machine { firewalls: vec![docker], ..good() }),
        (
            "firewalld",
            Machine {
                firewalls: vec![pair(
                    &ekstra_host::Firewall::Firewalld.to_string(),
                    &ekstra_host::Firewall::Firewalld.remedy(crate::home::transits()),
                )],
                ..good()
            },
        ),
        ("rootless-container", Machine { root_is: Some(1000), in_container: true, ..good() }),
        (
            "container",
            Machine {
                in_container: true,
                has_loop_devices: false,
                may_set: false,
                inotify_instances: 128,
                ..good()
            },
        ),
        ("inotify", Machine { inotify_instances: 128, ..good() }),
        ("mtu-small", Machine { uplink: Some(("wg0".to_owned(), 1380)), ..good() }),
        ("mtu-jumbo", Machine { uplink: Some(("eth0".to_owned(), 9001)), ..good() }),
        ("mtu-tiny", Machine { uplink: Some(("slip0".to_owned(), 296)), ..good() }),
        ("proxy", Machine { proxies: vec![("HTTPS_PROXY", false), ("https_proxy", true)], ..good() }),
        (
            "systemd-resolved",
            Machine { resolvers: vec!["127.0.0.53".parse().expect("an address")], ..good() },
        ),
        ("no-resolver", Machine { resolvers: Vec::new(), uplink: None, ..good() }),
        ("small", Machine { memory_bytes: 2 * GIB, disks: vec![("/".to_owned(), 3 * GIB)], ..good() }),
    ];
    for (name, machine) in machines {
        let lines: Vec<String> = machine.findings().iter().map(ToString::to_string).collect();
        compare(name, &(lines.join("\n") + "\n"));
    }
}

fn compare(name: &str, told: &str) {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli/doctor/golden").join(format!("{name}.txt"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, told).expect("written");
    }
    let golden = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(told, golden, "{}", path.display());
}

//! Firewalls as Docker, ufw and firewalld make them, in a namespace of the test's own; and packets through them.

use super::*;
use crate::linux::command::{ip_batch, run};
use crate::linux::network;

/// A namespace that stands for a host with a firewall, and two more that stand for a router and the world.
struct Machine {
    name: String,
    names: Names,
}

/// `None` where the test cannot be run.
fn machine(test: &str, tools: &[&str]) -> Option<Machine> {
    let lacks = |tool: &&&str| run(tool, "iptables", &["--version"], "").is_err();
    if let Some(missing) = tools.iter().find(lacks) {
        println!("skipped: there is no {missing}");
        return None;
    }
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: namespaces need root");
        return None;
    }
    let name = format!("ekstra-fw-{test}-{}", std::process::id());
    let machine = Machine { name, names: Names { home_id: "beef".into() } };
    for namespace in machine.namespaces() {
        network::ensure_namespace(&namespace).expect("made");
    }
    machine.wire();
    Some(machine)
}

impl Drop for Machine {
    fn drop(&mut self) {
        for namespace in self.namespaces() {
            let _ = network::remove_namespace(&namespace);
        }
    }
}

impl Machine {
    fn namespaces(&self) -> [String; 3] {
        [self.name.clone(), format!("{}-router", self.name), format!("{}-world", self.name)]
    }

    fn wire(&self) {
        let [host, router, world] = self.namespaces();
        let links = [
            format!("link add ekbeefu0 type veth peer name up0 netns {router}"),
            format!("link add eth0 type veth peer name eth0 netns {world}"),
            "addr add 198.18.0.0/31 dev ekbeefu0".to_owned(),
            "addr add 192.0.2.1/24 dev eth0".to_owned(),
            "link set ekbeefu0 up".to_owned(),
            "link set eth0 up".to_owned(),
        ];
        ip_batch(Some(&host), &links).expect("wired");
        for (namespace, device, address, via) in
            [(&router, "up0", "198.18.0.1/31", "198.18.0.0"), (&world, "eth0", "192.0.2.2/24", "192.0.2.1")]
        {
            let commands = [
                format!("addr add {address} dev {device}"),
                format!("link set {device} up"),
                format!("route add default via {via}"),
            ];
            ip_batch(Some(namespace), &commands).expect("wired");
        }
        netns::write_settings(&host, &[("ipv4/ip_forward".into(), "1".into())]).expect("forwards");
    }

    fn shell(&self, script: &str) -> String {
        in_namespace(Some(&self.name), "sh", "dash", &["-ec", script], "").expect("the script runs")
    }

    fn passes(&self) -> bool {
        let [_, router, world] = self.namespaces();
        let listener = netns::listen_tcp(&world, ([192, 0, 2, 2], 80).into()).expect("listens");
        let address = listener.local_addr().expect("bound");
        let patience = std::time::Duration::from_millis(300);
        netns::enter(&router, || std::net::TcpStream::connect_timeout(&address, patience)).is_ok()
    }

    fn ensure(&self) -> Vec<Firewall> {
        ensure_passage(Some(&self.name), &self.names).expect("looked at")
    }

    fn remove(&self) {
        remove_passage(Some(&self.name), &self.names).expect("removed");
    }

    /// Closed by the firewall, open once, the same twice, and as it was in the end.
    fn is_passed(&self, list: &str, expected: &Firewall) {
        let before = self.shell(list);
        assert!(!self.passes(), "the firewall drops what is forwarded:\n{before}");
        let expected = std::slice::from_ref(expected);
        assert_eq!(survey(Some(&self.name)).expect("looked at"), expected);
        assert_eq!(self.ensure(), expected);
        let after = self.shell(list);
        assert!(self.passes(), "{after}");
        assert_eq!(after.matches("ekstra-beef").count(), 2, "{after}");
        assert_eq!(self.ensure(), [], "nothing is left to do");
        assert_eq!(self.shell(list), after, "nothing is added twice");
        self.remove();
        assert_eq!(self.shell(list), before, "it is as it was");
        self.remove();
        assert!(!self.passes());
    }
}

/// What Docker's daemon does, with the program in `$IPT`.
const DOCKER: &str = "
    $IPT -P FORWARD DROP
    for chain in DOCKER DOCKER-ISOLATION-STAGE-1 DOCKER-ISOLATION-STAGE-2 DOCKER-USER; do $IPT -N $chain; done
    $IPT -A FORWARD -j DOCKER-USER
    $IPT -A FORWARD -j DOCKER-ISOLATION-STAGE-1
    $IPT -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
    $IPT -A FORWARD -o docker0 -j DOCKER
    $IPT -A FORWARD -i docker0 ! -o docker0 -j ACCEPT
    $IPT -A FORWARD -i docker0 -o docker0 -j ACCEPT
    $IPT -A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
    $IPT -A DOCKER-ISOLATION-STAGE-1 -j RETURN
    $IPT -A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
    $IPT -A DOCKER-ISOLATION-STAGE-2 -j RETURN
    $IPT -A DOCKER-USER -j RETURN
    $IPT -t nat -N DOCKER
    $IPT -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
    $IPT -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE";

fn nftables(through: &str) -> Firewall {
    let [family, table, chain] = ["ip", "filter", FORWARD].map(str::to_owned);
    Firewall::Nftables { family, table, chain, through: through.to_owned() }
}

#[test]
fn docker_is_passed_by_its_own_chain() {
    let Some(machine) = machine("docker", &["nft", "iptables-nft"]) else { return };
    machine.shell(&format!("IPT=iptables-nft{DOCKER}"));
    machine.is_passed("iptables-nft -S", &nftables(DOCKER_USER));
}

#[test]
fn docker_on_the_older_interface_is_passed_by_its_own_chain() {
    let Some(machine) = machine("legacy", &["nft", "iptables-legacy"]) else { return };
    if in_namespace(Some(&machine.name), "iptables-legacy", "iptables", &["-S"], "").is_err() {
        println!("skipped: the kernel has no ip_tables");
        return;
    }
    machine.shell(&format!("IPT=iptables-legacy{DOCKER}"));
    let expected = Firewall::Legacy { through: DOCKER_USER, tool: Some("iptables-legacy") };
    machine.is_passed("iptables-legacy -S", &expected);
}

#[test]
fn a_chain_that_drops_and_is_not_dockers_is_passed_at_its_top() {
    let Some(machine) = machine("ufw", &["nft", "iptables-nft"]) else { return };
    // A chain of Docker's that nothing leads to is of no use.
    machine
        .shell("iptables-nft -P FORWARD DROP; iptables-nft -N DOCKER-USER; iptables-nft -A FORWARD -j DROP");
    machine.is_passed("iptables-nft -S", &nftables(FORWARD));
}

#[test]
fn firewalld_is_told_of_and_left_alone() {
    let Some(machine) = machine("fwd", &["nft"]) else { return };
    let rules = "table inet firewalld {
        chain filter_FORWARD {
            type filter hook forward priority filter + 10; policy accept;
            ct state { established, related } accept
            reject with icmpx admin-prohibited
        }
    }";
    nft(Some(&machine.name), rules).expect("loaded");
    let before = machine.shell("nft list ruleset");
    assert_eq!(survey(Some(&machine.name)).expect("looked at"), [Firewall::Firewalld]);
    assert_eq!(machine.ensure(), []);
    assert_eq!(machine.shell("nft list ruleset"), before);
    let remedy = Firewall::Firewalld.remedy("198.18.3.0/24".parse().expect("valid"));
    assert!(remedy.contains("--zone=trusted --add-source=198.18.3.0/24 "), "{remedy}");
}

#[test]
fn a_machine_without_a_firewall_and_other_homes_are_nothing_to_do() {
    let Some(machine) = machine("none", &["nft"]) else { return };
    let other =
        "table ip ekstra_cafe { chain forward { type filter hook forward priority 0; policy drop; }; }";
    nft(Some(&machine.name), other).expect("loaded");
    assert_eq!(survey(Some(&machine.name)).expect("looked at"), []);
    machine.remove();
}

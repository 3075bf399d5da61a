//! `doctor`: what this machine lacks or has that is odd, and what comes of it.
//!
//! Invariant: looking ([`Machine::look`]) and judging ([`Machine::findings`]) are apart, so that what is said on machines
//! that are not at hand is tested: `golden/` has it, a file a machine.

mod machine;

use anyhow::Result;
use machine::{Groups, Machine};
pub(super) use machine::{Known, PACKAGED_BUILD, RUNTIME, found};
use std::fmt;

/// One line of what is printed.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    level: Level,
    what: &'static str,
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Fine,
    /// Taken care of, or to be known.
    Note,
    /// Something will not work.
    Missing,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Fine => "ok",
            Level::Note => "note",
            Level::Missing => "missing",
        };
        write!(f, "{level:<8} {:<11} {}", self.what, self.text)
    }
}

/// Returns the exit code.
pub(super) fn run() -> Result<i32> {
    let findings = Machine::look().findings();
    findings.iter().for_each(|finding| println!("{finding}"));
    Ok(i32::from(findings.iter().any(|finding| finding.level == Level::Missing)))
}

/// What Ethernet has; more than that no link of a VPC gets.
const USUAL_MTU: u32 = 1500;
/// Below it IPv4 need not work (RFC 791 says 68, every tunnel more).
const LEAST_MTU: u32 = 576;
/// Of fs.inotify.max_user_instances; a kubelet takes 50 of them.
const INOTIFY_INSTANCES: u64 = 8192;
/// Controllers without which a node cannot keep its limits.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];
const GIB: u64 = 1 << 30;
/// Kubernetes links with 3 GB of memory; a node's images and a build need the room on disk.
const MEMORY: u64 = 4 * GIB;
const DISK: u64 = 10 * GIB;

impl Machine {
    fn findings(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        self.tools(&mut found);
        self.rights(&mut found);
        self.kernel(&mut found);
        self.room(&mut found);
        self.network(&mut found);
        found
    }

    fn tools(&self, found: &mut Vec<Finding>) {
        for tool in &self.tools {
            found.push(match &tool.at {
                Some(at) => Finding { level: Level::Fine, what: tool.name, text: at.clone() },
                None => Finding {
                    level: Level::Missing,
                    what: tool.name,
                    text: format!("needed for {}; Debian: apt-get install {}", tool.purpose, tool.package),
                },
            });
        }
    }

    fn rights(&self, found: &mut Vec<Finding>) {
        if !self.is_root && !self.has_sudo {
            found.push(missing(
                "sudo",
                "needed to start the service as root, for nodes; Debian: apt-get install sudo (`ekstra start --rootless` has control planes alone)",
            ));
        }
        if let Some(outside) = self.root_is {
            let text = format!(
                "root in here is user {outside} of the machine (a rootless container): it may not mount disks or \
                 limit nodes; start ekstra outside of it"
            );
            found.push(missing("namespace", &text));
        } else if self.in_container {
            found.push(note(
                "namespace",
                "this is a container: it has to be privileged, with /sys/fs/cgroup and /dev/loop-control writable",
            ));
        }
    }

    fn kernel(&self, found: &mut Vec<Finding>) {
        match &self.groups {
            Groups::None => found.push(missing("cgroups", "none is mounted under /sys/fs/cgroup")),
            Groups::V1(has) => self.controllers(1, has, found),
            Groups::V2(has) => self.controllers(2, has, found),
        }
        if !self.has_loop_devices {
            found.push(missing("loop", "there is no /dev/loop-control, and disks need it: modprobe loop"));
        }
        if !self.has_overlay {
            found
                .push(missing("overlay", "the kernel has no overlayfs, and nodes need it: modprobe overlay"));
        }
        if self.inotify_instances < INOTIFY_INSTANCES {
            let now = self.inotify_instances;
            found.push(match self.may_set {
                true => note(
                    "inotify",
                    &format!("fs.inotify.max_user_instances is {now}: the service raises it to {INOTIFY_INSTANCES}, and back"),
                ),
                false => missing(
                    "inotify",
                    &format!("fs.inotify.max_user_instances is {now} and cannot be raised from here; a kubelet takes 50"),
                ),
            });
        }
    }

    fn controllers(&self, version: u8, has: &[String], found: &mut Vec<Finding>) {
        let lacking: Vec<&str> =
            CONTROLLERS.into_iter().filter(|name| !has.iter().any(|h| h == name)).collect();
        if lacking.is_empty() {
            found.push(Finding { level: Level::Fine, what: "cgroups", text: format!("version {version}") });
            return;
        }
        let text = format!(
            "version {version} without {}: the kernel's command line may turn it off (cgroup_disable), or its parent \
             does not delegate it",
            lacking.join(", ")
        );
        found.push(missing("cgroups", &text));
    }

    fn room(&self, found: &mut Vec<Finding>) {
        if self.memory_bytes < MEMORY {
            let text = format!(
                "{} GiB available: building Kubernetes takes 3 GB; a bundle of components builds nothing",
                self.memory_bytes / GIB
            );
            found.push(note("memory", &text));
        }
        for (path, free) in &self.disks {
            if *free < DISK {
                found
                    .push(note("disk", &format!("{} GiB free under {path}; 10 are comfortable", free / GIB)));
            }
        }
    }

    fn network(&self, found: &mut Vec<Finding>) {
        for (firewall, remedy) in &self.firewalls {
            found.push(note("firewall", &format!("{firewall}: {remedy}")));
        }
        if let Some((link, mtu)) = &self.uplink {
            match *mtu {
                USUAL_MTU => {}
                mtu if mtu < LEAST_MTU => {
                    found.push(missing(
                        "mtu",
                        &format!("{link} has {mtu}: too small for pods to reach the outside"),
                    ));
                }
                mtu => {
                    let used = mtu.min(USUAL_MTU);
                    found.push(note(
                        "mtu",
                        &format!("{link} has {mtu}: links of nodes and pods have {used}, from a home's first start on"),
                    ));
                }
            }
        }
        for (name, is_loopback) in &self.proxies {
            let nodes = match is_loopback {
                true => "nodes cannot, since it is on this machine's loopback",
                false => "and so do nodes that a service started with it makes, to pull images",
            };
            let text = format!(
                "{name} is set: builds use it, {nodes}; `eval \"$(ekstra env)\"` takes the service's addresses out of it"
            );
            found.push(note("proxy", &text));
        }
        if self.resolvers.iter().any(|ip| ip.is_loopback()) {
            let asked: Vec<String> = self.resolvers.iter().map(ToString::to_string).collect();
            let text = format!(
                "{} is this machine's own: pods reach it through the resolver of their VPC",
                asked.join(", ")
            );
            found.push(note("resolver", &text));
        } else if self.resolvers.is_empty() {
            found.push(note(
                "resolver",
                "/etc/resolv.conf names none: pods resolve names of the cluster alone",
            ));
        }
    }
}

fn note(what: &'static str, text: &str) -> Finding {
    Finding { level: Level::Note, what, text: text.to_owned() }
}

fn missing(what: &'static str, text: &str) -> Finding {
    Finding { level: Level::Missing, what, text: text.to_owned() }
}

#[cfg(test)]
mod tests;

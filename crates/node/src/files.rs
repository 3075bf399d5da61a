//! Writing what `config` decides to where the programs look for it.

use crate::config::{self, Facts};
use crate::user_data::UserData;
use base64::Engine;
use std::fs;
use std::io;
use std::path::Path;

/// Of the interface that the instance booted with.
const DEVICE: &str = "eth0";

pub(crate) fn write_all(facts: &Facts, data: &UserData) -> io::Result<()> {
    let spec = &data.node.spec;
    write("/etc/resolv.conf", &config::resolv_conf(facts))?;
    write("/etc/hosts", &config::hosts(facts))?;
    write("/etc/hostname", &format!("{}\n", facts.hostname))?;
    write(config::CONTAINERD_CONFIG, &config::containerd())?;
    if let Some(registry) = &facts.registry {
        write("/etc/containerd/certs.d/_default/hosts.toml", &config::registry_mirror(registry))?;
    }
    if data.node.has_network() {
        write(
            &format!("/etc/cni/net.d/{CNI_FILE}"),
            &config::cni(&facts.prefixes, device_mtu()?).to_string(),
        )?;
    }
    let ca = spec.cluster.certificate_authority.as_deref().unwrap_or_default();
    let ca = base64::engine::general_purpose::STANDARD
        .decode(ca.trim())
        .map_err(|e| io::Error::other(format!("certificateAuthority of the NodeConfig: {e}")))?;
    write(config::CA_FILE, &String::from_utf8_lossy(&ca))?;
    write(config::KUBECONFIG, &config::kubeconfig(spec).to_string())?;
    write(config::KUBELET_CONFIG, &config::kubelet(facts, spec).to_string())
}

pub(crate) const CNI_FILE: &str = "10-vpc.conflist";

pub(crate) fn device_mtu() -> io::Result<u32> {
    let mtu = fs::read_to_string(format!("/sys/class/net/{DEVICE}/mtu"))?;
    mtu.trim().parse().map_err(io::Error::other)
}

fn write(path: &str, content: &str) -> io::Result<()> {
    let path = Path::new(path);
    let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(named)?;
    }
    fs::write(path, content).map_err(named)
}

/// A node forwards between its pods and its interface, and answers for its pods.
pub(crate) fn apply_network_settings() -> io::Result<()> {
    for (key, value) in [
        ("ipv4/ip_forward", "1"),
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
        ("ipv4/conf/all/route_localnet", "0"),
    ] {
        fs::write(format!("/proc/sys/net/{key}"), value)
            .map_err(|e| io::Error::new(e.kind(), format!("net/{key}: {e}")))?;
    }
    Ok(())
}

//! `ekstra-node`: PID 1 of an instance.
//!
//! It does what cloud-init, nodeadm and systemd do on an EKS AMI: asks the metadata service who it is, reads the
//! NodeConfig of its user data, writes the configuration of containerd and the kubelet, runs both and reaps what they
//! leave behind. It knows AWS's interfaces only; that the machine is a container is not its business.
//!
//! Invariant: everything that it needs comes from the metadata service or the image, so the same image boots anywhere.

/// A line of the node's log. A disk that is full costs the line; `println!` would end whoever says it.
macro_rules! say {
    ($($words:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), $($words)*);
    }};
}

mod boot;
mod cgroup;
mod cni;
mod config;
mod csi;
mod files;
mod health;
mod metadata;
mod pod_identity;
mod supervise;
mod token;
mod user_data;

use std::io;

/// The program; `args` without its name. Returns the exit code.
pub fn main(args: &[String]) -> i32 {
    let result = match args.first().map(String::as_str) {
        None => boot::run(),
        Some("token") => token::print(&args[1..]),
        Some("csi") => csi::run(),
        Some("cni") => cni::run(),
        Some("pod-identity") => pod_identity::run(&args[1..]),
        Some(other) => Err(io::Error::other(format!(
            "unknown command {other}; usage: ekstra-node [token CLUSTER|csi|cni|pod-identity CLUSTER]"
        ))),
    };
    match result {
        Ok(()) => 0,
        Err(error) => {
            say!("ekstra-node: {error}");
            1
        }
    }
}

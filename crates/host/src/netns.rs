//! Sockets and settings inside a network namespace, from a process that stays outside.
//!
//! A socket belongs to the namespace in which it was made, wherever it is used. So each call enters the namespace on
//! a thread of its own, which ends; the caller's threads never change theirs.

use nix::sched::{CloneFlags, setns};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use tokio::net::{TcpSocket, TcpStream};

/// Where namespaces are bound, as `ip netns` does.
pub const RUN_NETNS: &str = "/run/netns";

pub fn path(name: &str) -> PathBuf {
    PathBuf::from(RUN_NETNS).join(name)
}

/// Tells one namespace from every other of this boot, whatever their names. The inode alone does not: its number is
/// free again as soon as a namespace is gone, and the next one gets it. The time at which the kernel made the inode
/// is another one then; the name's bind mount keeps inode and time as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Identity {
    inode: u64,
    seconds: i64,
    nanoseconds: i64,
}

/// Of the namespace that has this name now; `None` when no namespace has.
pub fn identity(name: &str) -> Option<Identity> {
    // A file that no namespace is mounted on lies on the directory's own device.
    let directory = std::fs::metadata(RUN_NETNS).ok()?;
    let file = std::fs::metadata(path(name)).ok()?;
    let identity = Identity { inode: file.ino(), seconds: file.ctime(), nanoseconds: file.ctime_nsec() };
    (file.dev() != directory.dev()).then_some(identity)
}

/// Runs `body` inside the namespace.
pub fn enter<T: Send>(name: &str, body: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let namespace = File::open(path(name))?;
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(128 * 1024).spawn_scoped(scope, || {
            setns(&namespace, CloneFlags::CLONE_NEWNET)?;
            body()
        })?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the namespace's thread panicked")))
    })
}

pub fn listen_tcp(name: &str, address: SocketAddr) -> io::Result<std::net::TcpListener> {
    enter(name, || has_addresses().and_then(|()| std::net::TcpListener::bind(address)))
}

pub fn bind_udp(name: &str, address: SocketAddr) -> io::Result<std::net::UdpSocket> {
    enter(name, || has_addresses().and_then(|()| std::net::UdpSocket::bind(address)))
}

/// In a namespace that never had an address, the kernel has no table to look one up in: it takes every address for a
/// broadcast one, which can be bound and is never a source (`inet_addr_type` and `inet_bind`, Linux 6.18). What such a
/// socket answers, for as long as it lives, comes from another address than was asked.
fn has_addresses() -> io::Result<()> {
    // TEST-NET-1 (RFC 5737): nobody has it.
    match std::net::UdpSocket::bind((Ipv4Addr::new(192, 0, 2, 1), 0)) {
        Ok(_) => Err(io::ErrorKind::AddrNotAvailable.into()),
        Err(_) => Ok(()),
    }
}

/// A connection from inside the namespace; without a name, from the caller's own. It has no time limit of its own.
pub async fn connect(name: Option<&str>, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = match name.map(str::to_owned) {
        Some(name) => tokio::task::spawn_blocking(move || enter(&name, TcpSocket::new_v4))
            .await
            .map_err(io::Error::other)??,
        None => TcpSocket::new_v4()?,
    };
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Writes settings under `/proc/sys/net`, which shows the namespace of the thread that looks.
pub fn write_settings(name: &str, settings: &[(String, String)]) -> io::Result<()> {
    enter(name, || {
        for (key, value) in settings {
            std::fs::write(format!("/proc/sys/net/{key}"), value)
                .map_err(|e| io::Error::new(e.kind(), format!("net/{key}: {e}")))?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where a datagram of its comes from, seen from a client in the same namespace.
    fn answers_from(server: &std::net::UdpSocket, name: &str) -> SocketAddr {
        let to = server.local_addr().expect("bound");
        let client = enter(name, || std::net::UdpSocket::bind("127.0.0.1:0")).expect("bound");
        client.send_to(b"?", to).expect("sent");
        let mut buffer = [0; 1];
        let (_, peer) = server.recv_from(&mut buffer).expect("received");
        server.send_to(b"!", peer).expect("sent");
        client.recv_from(&mut buffer).expect("received").1
    }

    #[test]
    fn a_socket_that_is_there_early_answers_from_its_address() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: namespaces need root");
            return;
        }
        let ip = |words: &[&str]| {
            let done = std::process::Command::new("ip").args(words).output().expect("runs");
            assert!(done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stderr));
        };
        let name = format!("ekstra-early-{}", std::process::id());
        let address: SocketAddr = "10.0.0.2:53".parse().expect("an address");
        ip(&["netns", "add", &name]);
        let early = bind_udp(&name, address).map(|_| ()).map_err(|error| error.kind());
        let early_tcp = listen_tcp(&name, address).map(|_| ()).map_err(|error| error.kind());
        ip(&["-n", &name, "link", "set", "lo", "up"]);
        for added in ["10.0.0.1/32", "10.0.0.2/32"] {
            ip(&["-n", &name, "address", "add", added, "dev", "lo"]);
        }
        let from = bind_udp(&name, address).map(|server| answers_from(&server, &name));
        ip(&["netns", "delete", &name]);
        assert_eq!(early, Err(io::ErrorKind::AddrNotAvailable));
        assert_eq!(early_tcp, Err(io::ErrorKind::AddrNotAvailable));
        assert_eq!(from.expect("bound"), address);
    }

    #[test]
    fn a_namespace_made_anew_is_another_one_though_its_inode_is_the_same() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: namespaces need root");
            return;
        }
        let name = format!("ekstra-identity-{}", std::process::id());
        let mut seen = std::collections::BTreeSet::new();
        for round in 0..20 {
            crate::linux::network::ensure_namespace(&name).expect("made");
            let first = identity(&name).expect("is there");
            assert_eq!(identity(&name), Some(first), "it stays the same");
            crate::linux::network::ensure_namespace(&name).expect("still there");
            assert_eq!(identity(&name), Some(first), "nothing was made");
            assert!(seen.insert(first), "round {round}: {first:?} was there before");
            crate::linux::network::remove_namespace(&name).expect("removed");
            assert_eq!(identity(&name), None);
        }
    }
}

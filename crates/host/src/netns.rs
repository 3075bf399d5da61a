//! Sockets and settings inside a network namespace, from a process that stays outside.
//!
//! A socket belongs to the namespace in which it was made, wherever it is used. So each call enters the namespace on
//! a thread of its own, which ends; the caller's threads never change theirs.

use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::io;
use std::path::PathBuf;

/// Where namespaces are bound, as `ip netns` does.
pub const RUN_NETNS: &str = "/run/netns";

pub fn path(name: &str) -> PathBuf {
    PathBuf::from(RUN_NETNS).join(name)
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

pub fn listen_tcp(name: &str, address: std::net::SocketAddr) -> io::Result<std::net::TcpListener> {
    enter(name, || std::net::TcpListener::bind(address))
}

pub fn bind_udp(name: &str, address: std::net::SocketAddr) -> io::Result<std::net::UdpSocket> {
    enter(name, || std::net::UdpSocket::bind(address))
}

/// An unconnected IPv4 TCP socket; connecting it can then be done on any thread.
pub fn tcp_socket(name: &str) -> io::Result<std::os::fd::OwnedFd> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    enter(name, || {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        Ok(socket(AddressFamily::Inet, SockType::Stream, flags, None)?)
    })
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

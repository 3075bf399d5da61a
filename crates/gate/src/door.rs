//! The front door of a cluster: TCP to the API server, whose own TLS it is.
//!
//! # Guarantees
//! - A new connection waits while the API server is being started or replaced ([`PATIENCE`]); it is not refused.
//! - `publicAccessCidrs` and the endpoint switches hold for whoever comes from outside the cluster's VPC.

use crate::Gate;
use ekstra_domain::eks::{Cluster, ControlPlaneSlot, INTERNAL_ADDRESS};
use ekstra_domain::names::keys;
use ekstra_domain::prefix::Prefix;
use ekstra_host::netns;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::Instant;

/// How long a connection is held for an API server.
const PATIENCE: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_millis(20);
const BUFFER: usize = 64 * 1024;
const API_SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 443);

pub(crate) async fn serve(gate: Gate, slot: String, own: SocketAddr, inside: bool, listener: TcpListener) {
    loop {
        let Some((stream, peer)) = accept(&listener).await else {
            continue;
        };
        let Some(slot) = gate.view.get_as::<ControlPlaneSlot>(&keys::slot(&slot)) else {
            continue;
        };
        if !inside && own.ip() != INTERNAL_ADDRESS && !admits(&gate, &slot, peer.ip()) {
            continue;
        }
        tokio::spawn(async move {
            if let Ok(server) = connect(&slot.namespace).await {
                splice(stream, server).await;
            }
        });
    }
}

async fn accept(listener: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
    match listener.accept().await {
        Ok((stream, peer)) => {
            let _ = stream.set_nodelay(true);
            Some((stream, peer))
        }
        Err(_) => {
            // Out of descriptors, most likely: a moment later there are some again.
            tokio::time::sleep(RETRY).await;
            None
        }
    }
}

fn admits(gate: &Gate, slot: &ControlPlaneSlot, peer: IpAddr) -> bool {
    let Some(cluster) = gate.view.get_as::<Cluster>(&slot.cluster) else {
        return false;
    };
    let IpAddr::V4(peer) = peer else { return false };
    let listed = |cidr: &String| cidr.parse::<Prefix>().is_ok_and(|c| c.contains(peer));
    cluster.vpc.public_access && cluster.vpc.public_cidrs.iter().any(listed)
}

async fn connect(namespace: &str) -> io::Result<TcpStream> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match try_connect(namespace).await {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}

async fn try_connect(namespace: &str) -> io::Result<TcpStream> {
    let socket = netns::tcp_socket(namespace)?;
    let stream = TcpSocket::from_std_stream(std::net::TcpStream::from(socket)).connect(API_SERVER).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn splice(mut client: TcpStream, mut server: TcpStream) {
    // Either side hanging up is how connections end.
    let _ = tokio::io::copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER, BUFFER).await;
}

/// The AWS endpoint for nodes and pods: the same service, by its one address.
pub(crate) async fn forward_endpoint(gate: Gate, listener: TcpListener) {
    let target = SocketAddr::new(IpAddr::V4(gate.facts.address), gate.facts.port);
    loop {
        let Some((stream, _)) = accept(&listener).await else {
            continue;
        };
        tokio::spawn(async move {
            if let Ok(server) = TcpStream::connect(target).await {
                splice(stream, server).await;
            }
        });
    }
}

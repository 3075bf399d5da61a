//! The VPC's resolver, at base plus two: private names of instances from the state, everything else by the host's own
//! resolver, whatever that is.

use crate::Gate;
use ekstra_domain::ec2::Interface;
use ekstra_domain::names::keys;
use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record, RecordType};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

const UPSTREAM_PATIENCE: Duration = Duration::from_secs(5);
const LARGEST: usize = 65_535;
/// Seconds, as AWS answers.
const TTL: u32 = 60;

pub(crate) async fn serve(gate: Gate, vpc: String, tcp: TcpListener, udp: UdpSocket) {
    tokio::join!(serve_udp(gate.clone(), vpc.clone(), udp), serve_tcp(gate, vpc, tcp));
}

async fn serve_udp(gate: Gate, vpc: String, socket: UdpSocket) {
    let socket = Arc::new(socket);
    let mut buffer = vec![0; LARGEST];
    loop {
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let query = buffer[..length].to_vec();
        let (gate, vpc, socket) = (gate.clone(), vpc.clone(), socket.clone());
        tokio::spawn(async move {
            if let Some(answer) = answer(&gate, &vpc, &query, false).await {
                let _ = socket.send_to(&answer, peer).await;
            }
        });
    }
}

async fn serve_tcp(gate: Gate, vpc: String, listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let (gate, vpc) = (gate.clone(), vpc.clone());
        tokio::spawn(async move {
            while let Ok(query) = read_framed(&mut stream).await {
                let Some(answer) = answer(&gate, &vpc, &query, true).await else {
                    return;
                };
                if write_framed(&mut stream, &answer).await.is_err() {
                    return;
                }
            }
        });
    }
}

async fn read_framed(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write_framed(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(message);
    stream.write_all(&framed).await
}

async fn answer(gate: &Gate, vpc: &str, query: &[u8], tcp: bool) -> Option<Vec<u8>> {
    let message = Message::from_vec(query).ok()?;
    if let Some(own) = private(gate, vpc, &message) {
        return own.to_vec().ok();
    }
    for upstream in upstreams() {
        let asked = if tcp { ask_tcp(upstream, query).await } else { ask_udp(upstream, query).await };
        if let Ok(answer) = asked {
            return Some(answer);
        }
    }
    respond(&message, ResponseCode::ServFail).to_vec().ok()
}

fn respond(query: &Message, code: ResponseCode) -> Message {
    let mut response = Message::new(query.metadata.id, MessageType::Response, query.metadata.op_code);
    response.metadata.recursion_desired = query.metadata.recursion_desired;
    response.metadata.recursion_available = true;
    response.metadata.response_code = code;
    response.add_queries(query.queries.iter().cloned());
    response
}

/// Names such as `ip-172-31-0-4.ec2.internal`.
fn private(gate: &Gate, vpc: &str, query: &Message) -> Option<Message> {
    let question = query.queries.first()?;
    let name = question.name().to_ascii().to_lowercase();
    let (host, domain) = name.trim_end_matches('.').split_once('.')?;
    let address: Ipv4Addr = host.strip_prefix("ip-")?.replace('-', ".").parse().ok()?;
    if domain != "ec2.internal" && !domain.ends_with(".compute.internal") {
        return None;
    }
    let interfaces = gate.view.list_as::<Interface>(keys::INTERFACES);
    if !interfaces.iter().any(|(_, i)| i.vpc == vpc && i.address == address) {
        return Some(respond(query, ResponseCode::NXDomain));
    }
    let mut response = respond(query, ResponseCode::NoError);
    response.metadata.authoritative = true;
    if question.query_type() == RecordType::A {
        response.add_answer(Record::from_rdata(question.name().clone(), TTL, RData::A(A(address))));
    }
    Some(response)
}

/// Read each time: a laptop changes its network.
fn upstreams() -> Vec<SocketAddr> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let address = |line: &str| line.strip_prefix("nameserver")?.trim().parse::<IpAddr>().ok();
    text.lines().filter_map(address).map(|ip| SocketAddr::new(ip, 53)).collect()
}

async fn ask_udp(upstream: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let any: SocketAddr = if upstream.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(upstream).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; LARGEST];
    let length = tokio::time::timeout(UPSTREAM_PATIENCE, socket.recv(&mut buffer)).await??;
    buffer.truncate(length);
    Ok(buffer)
}

async fn ask_tcp(upstream: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let exchange = async {
        let mut stream = TcpStream::connect(upstream).await?;
        write_framed(&mut stream, query).await?;
        read_framed(&mut stream).await
    };
    tokio::time::timeout(UPSTREAM_PATIENCE, exchange).await?
}

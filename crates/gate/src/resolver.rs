//! The VPC's resolver, at base plus two: private names of instances from the state, everything else by the host's own
//! resolvers, whatever those are.
//!
//! Invariant: a query takes at most one place among its peer's, its listener's and all of its kind; what is too much is
//! not answered, as a datagram may be lost.

mod upstream;

use crate::Gate;
use crate::accept::{self, Seldom, Terms};
use crate::scope::Scope;
use ekstra_domain::ec2::Interface;
use ekstra_domain::elb::LoadBalancer;
use ekstra_domain::names::keys;
use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record, RecordType};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::{sleep, timeout};
use upstream::{Transport, read_framed, write_framed};

const LARGEST: usize = 65_535;
/// Seconds, as AWS answers.
const TTL: u32 = 60;
/// For the next query over a connection (RFC 7766 §6.2.3: "on the order of a few seconds").
const IDLE: Duration = Duration::from_secs(20);
const STALLED: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(100);

pub(crate) async fn serve_udp(terms: Terms, gate: Gate, vpc: String, socket: Arc<UdpSocket>) {
    let Terms { name, limits, mut drain } = terms;
    let scope = Scope::new(name.clone());
    let (mut failing, mut refusing) = (Seldom::default(), Seldom::default());
    let mut buffer = vec![0; LARGEST];
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut buffer) => received,
            _ = drain.wait_for(|drain| *drain) => break,
        };
        match received {
            Ok((length, peer)) => match limits.try_admit(peer.ip()) {
                Some(permit) => {
                    let query = buffer[..length].to_vec();
                    let (gate, vpc, socket) = (gate.clone(), vpc.clone(), socket.clone());
                    scope.spawn(async move {
                        let _permit = permit;
                        answer_datagram(&gate, &vpc, &query, &socket, peer).await;
                    });
                }
                None if refusing.now() => {
                    tracing::warn!(listener = name, peer = %peer.ip(), "too many queries at once; some are dropped");
                }
                None => {}
            },
            Err(error) => {
                if failing.now() {
                    tracing::warn!(listener = name, %error, "queries cannot be received; trying again");
                }
                sleep(PAUSE).await;
            }
        }
    }
    scope.drained().await;
}

async fn answer_datagram(gate: &Gate, vpc: &str, query: &[u8], socket: &UdpSocket, peer: SocketAddr) {
    if let Some(answer) = answer(gate, vpc, query, Transport::Udp).await {
        // Lost is lost; the client asks again.
        let _ = socket.send_to(&answer, peer).await;
    }
}

pub(crate) async fn serve_tcp(terms: Terms, gate: Gate, vpc: String, listener: Arc<TcpListener>) {
    accept::run(terms, listener, |stream, _| {
        let (gate, vpc) = (gate.clone(), vpc.clone());
        Some(async move {
            // However it ends, the client sees it.
            let _ = serve_connection(&gate, &vpc, stream).await;
        })
    })
    .await;
}

async fn serve_connection(gate: &Gate, vpc: &str, mut stream: TcpStream) -> io::Result<()> {
    loop {
        let query = timeout(IDLE, read_framed(&mut stream)).await??;
        let Some(answer) = answer(gate, vpc, &query, Transport::Tcp).await else {
            return Ok(());
        };
        timeout(STALLED, write_framed(&mut stream, &answer)).await??;
    }
}

async fn answer(gate: &Gate, vpc: &str, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
    let message = Message::from_vec(query).ok()?;
    if message.metadata.message_type != MessageType::Query {
        // Answering an answer would go on for ever.
        return None;
    }
    if message.metadata.op_code != OpCode::Query {
        return respond(&message, ResponseCode::NotImp).to_vec().ok();
    }
    if message.queries.len() != 1 {
        return respond(&message, ResponseCode::FormErr).to_vec().ok();
    }
    if let Some(own) = private(gate, vpc, &message) {
        return own.to_vec().ok();
    }
    match upstream::ask(&upstream::configured(), transport, query).await {
        Some(answer) => Some(answer),
        None => respond(&message, ResponseCode::ServFail).to_vec().ok(),
    }
}

fn respond(query: &Message, code: ResponseCode) -> Message {
    let mut response = Message::new(query.metadata.id, MessageType::Response, query.metadata.op_code);
    response.metadata.recursion_desired = query.metadata.recursion_desired;
    response.metadata.recursion_available = true;
    response.metadata.response_code = code;
    response.add_queries(query.queries.iter().cloned());
    response
}

/// Names such as `ip-172-31-0-4.ec2.internal`, and those of load balancers.
fn private(gate: &Gate, vpc: &str, query: &Message) -> Option<Message> {
    let question = query.queries.first()?;
    let name = question.name().to_ascii().to_lowercase();
    let name = name.trim_end_matches('.');
    if let Some(balancer) = balancer(gate, vpc, name) {
        return Some(found(query, balancer));
    }
    let (host, domain) = name.split_once('.')?;
    // Nobody else knows these domains. Every name that a pod looks up is tried in them, and must not wait for resolvers
    // outside, which may not answer at all.
    if !name.ends_with(".ec2.internal") && !name.ends_with(".compute.internal") {
        return None;
    }
    let region = domain.strip_suffix(".compute.internal");
    let is_of_instances = domain == "ec2.internal" || region.is_some_and(|region| !region.contains('.'));
    let host = host.strip_prefix("ip-").filter(|_| is_of_instances);
    let address = host.and_then(|numbers| numbers.replace('-', ".").parse().ok());
    let interfaces = gate.view.list_as::<Interface>(keys::INTERFACES);
    let known =
        address.filter(|a: &Ipv4Addr| interfaces.iter().any(|(_, i)| i.vpc == vpc && i.address == *a));
    Some(known.map_or_else(|| respond(query, ResponseCode::NXDomain), |address| found(query, address)))
}

fn balancer(gate: &Gate, vpc: &str, name: &str) -> Option<Ipv4Addr> {
    if !name.ends_with(".amazonaws.com") {
        return None;
    }
    let all = gate.view.list_as::<LoadBalancer>(keys::BALANCERS);
    all.into_iter().map(|(_, b)| b).find(|b| b.vpc == vpc && b.dns_name == name).map(|b| b.address)
}

fn found(query: &Message, address: Ipv4Addr) -> Message {
    let mut response = respond(query, ResponseCode::NoError);
    response.metadata.authoritative = true;
    if let Some(question) = query.queries.first().filter(|question| question.query_type() == RecordType::A) {
        response.add_answer(Record::from_rdata(question.name().clone(), TTL, RData::A(A(address))));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Fixture, VPC};
    use upstream::tests::query;

    async fn answered(fixture: &Fixture, query: &[u8]) -> Option<Message> {
        let answer = answer(&fixture.gate, VPC, query, Transport::Udp).await?;
        Some(Message::from_vec(&answer).expect("a message"))
    }

    #[tokio::test]
    async fn what_is_no_query_is_told_so_or_nothing() {
        let fixture = Fixture::new();
        let mut message = query("ip-10-0-0-1.ec2.internal.");
        let unknown = answered(&fixture, &message).await.expect("an answer");
        assert_eq!(unknown.metadata.response_code, ResponseCode::NXDomain);
        for name in ["www.example.com.ec2.internal.", "x.eu-west-1.compute.internal."] {
            let searched = answered(&fixture, &query(name)).await.expect("an answer");
            assert_eq!(searched.metadata.response_code, ResponseCode::NXDomain, "{name}");
        }
        message[2] |= 0x80;
        assert!(answered(&fixture, &message).await.is_none(), "an answer is not answered");
        message[2] = 0x28;
        let update = answered(&fixture, &message).await.expect("an answer");
        assert_eq!(update.metadata.response_code, ResponseCode::NotImp);
        assert!(answered(&fixture, b"short").await.is_none());
    }

    #[tokio::test]
    async fn an_idle_side_does_not_hold_the_other_up() {
        let fixture = Fixture::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let at = listener.local_addr().expect("bound");
        let socket = UdpSocket::bind(at).await.expect("bound");
        let ((_tcp, long), (_udp, short)) = (accept::tests::terms(1024), accept::tests::terms(1024));
        tokio::spawn(serve_tcp(long, fixture.gate.clone(), VPC.into(), Arc::new(listener)));
        tokio::spawn(serve_udp(short, fixture.gate.clone(), VPC.into(), Arc::new(socket)));
        let _idle = TcpStream::connect(at).await.expect("connected");
        let question = query("ip-10-0-0-1.ec2.internal.");
        let mut stream = TcpStream::connect(at).await.expect("connected");
        write_framed(&mut stream, &question).await.expect("sent");
        let by_tcp = read_framed(&mut stream).await.expect("answered");
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
        socket.send_to(&question, at).await.expect("sent");
        let mut by_udp = vec![0; 512];
        let length = socket.recv(&mut by_udp).await.expect("answered");
        assert_eq!(by_tcp, by_udp[..length]);
    }
}

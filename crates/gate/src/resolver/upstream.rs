//! Asking the host's own resolvers, from the host's namespace: what `127.0.0.53` means there it means here.
//!
//! # Guarantees
//! - Only an answer with the id and the question of the query counts; from another address none arrives.
//! - A resolver that is slow ([`HEAD_START`]), refuses or fails does not keep the next one from being asked.

use futures::stream::{FuturesUnordered, StreamExt};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, sleep_until, timeout};

/// For an answer, from whichever resolver.
const PATIENCE: Duration = Duration::from_secs(5);
/// What a resolver is given before the next one is asked too. Stub resolvers ask again after 2 s at the earliest.
const HEAD_START: Duration = Duration::from_secs(1);
/// As many as the C library asks.
const MOST: usize = 3;
const LARGEST: usize = 65_535;
const HEADER: usize = 12;
const SERVFAIL: u8 = 2;
const REFUSED: u8 = 5;
const CONFIGURATION: &str = "/etc/resolv.conf";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// Read for each query: a laptop changes its network.
pub(super) fn configured() -> Vec<SocketAddr> {
    resolvers(&std::fs::read_to_string(CONFIGURATION).unwrap_or_default())
}

fn resolvers(configuration: &str) -> Vec<SocketAddr> {
    let named = configuration.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| address(words.next()?)).flatten()
    });
    let named: Vec<SocketAddr> = named.take(MOST).collect();
    if named.is_empty() { vec![SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 53)] } else { named }
}

/// An IPv6 address of the link names its interface.
fn address(text: &str) -> Option<SocketAddr> {
    let Some((ip, interface)) = text.split_once('%') else {
        return Some(SocketAddr::new(text.parse::<IpAddr>().ok()?, 53));
    };
    let scope = nix::net::if_::if_nametoindex(interface).ok()?;
    Some(SocketAddrV6::new(ip.parse().ok()?, 53, 0, scope).into())
}

/// The first answer that says something; without one, the first that says why not.
pub(super) async fn ask(resolvers: &[SocketAddr], transport: Transport, query: &[u8]) -> Option<Vec<u8>> {
    let mut refusal = None;
    let asking = ask_all(resolvers, transport, query, &mut refusal);
    timeout(PATIENCE, asking).await.ok().flatten().or(refusal)
}

async fn ask_all(
    resolvers: &[SocketAddr],
    transport: Transport,
    query: &[u8],
    refusal: &mut Option<Vec<u8>>,
) -> Option<Vec<u8>> {
    let mut left = resolvers.iter();
    let mut asked = FuturesUnordered::new();
    let mut next_at = Instant::now();
    loop {
        tokio::select! {
            () = sleep_until(next_at), if left.len() > 0 => {
                asked.extend(left.next().map(|resolver| exchange(*resolver, transport, query)));
                next_at = Instant::now() + HEAD_START;
            }
            Some(outcome) = asked.next() => match outcome {
                Ok(answer) if [SERVFAIL, REFUSED].contains(&(answer[3] & 0xf)) => {
                    refusal.get_or_insert(answer);
                    next_at = Instant::now();
                }
                Ok(answer) => return Some(answer),
                Err(_) => next_at = Instant::now(),
            },
            else => return None,
        }
    }
}

async fn exchange(resolver: SocketAddr, transport: Transport, query: &[u8]) -> io::Result<Vec<u8>> {
    match transport {
        Transport::Udp => by_udp(resolver, query).await,
        Transport::Tcp => {
            let mut stream = TcpStream::connect(resolver).await?;
            write_framed(&mut stream, query).await?;
            let answer = read_framed(&mut stream).await?;
            answers(query, &answer).then_some(answer).ok_or_else(|| io::ErrorKind::InvalidData.into())
        }
    }
}

async fn by_udp(resolver: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let any: SocketAddr = if resolver.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    // A port of its own for each query; connected, so that nobody else's datagrams arrive.
    let socket = UdpSocket::bind(any).await?;
    socket.connect(resolver).await?;
    socket.send(query).await?;
    let mut buffer = Vec::with_capacity(LARGEST);
    loop {
        buffer.clear();
        socket.recv_buf(&mut buffer).await?;
        if answers(query, &buffer) {
            buffer.shrink_to_fit();
            return Ok(buffer);
        }
    }
}

/// Whether it is a response to this query. One that only says what is wrong with it may leave out the question.
fn answers(query: &[u8], response: &[u8]) -> bool {
    if response.len() < HEADER || response[..2] != query[..2] || response[2] & 0x80 == 0 {
        return false;
    }
    if response[4..6] == [0, 0] {
        return response[3] & 0xf != 0;
    }
    let Some(end) = question_end(query) else {
        return false;
    };
    let (name, kind) = (HEADER..end - 4, end - 4..end);
    response.len() >= end
        && response[name.clone()].eq_ignore_ascii_case(&query[name])
        && response[kind.clone()] == query[kind]
}

/// Where the first question ends; names in questions are not compressed.
fn question_end(message: &[u8]) -> Option<usize> {
    let mut at = HEADER;
    loop {
        match usize::from(*message.get(at)?) {
            0 => break,
            length if length < 64 => at += 1 + length,
            _ => return None,
        }
    }
    let end = at + 5;
    (end <= message.len()).then_some(end)
}

pub(super) async fn read_framed(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

pub(super) async fn write_framed(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(message);
    stream.write_all(&framed).await
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
    use hickory_proto::rr::{Name, RecordType};
    use tokio::net::TcpListener;

    pub(in super::super) fn query(name: &str) -> Vec<u8> {
        let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(Name::from_ascii(name).expect("a name"), RecordType::A));
        message.to_vec().expect("encodes")
    }

    fn response(query: &[u8], code: u8) -> Vec<u8> {
        let mut response = query.to_vec();
        response[2] |= 0x80;
        response[3] = code;
        response
    }

    /// A resolver that sends what `answer` makes of a query, in this order.
    async fn resolver(answer: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
        let address = socket.local_addr().expect("bound");
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
                for message in answer(&buffer[..length]) {
                    let _ = socket.send_to(&message, peer).await;
                }
            }
        });
        address
    }

    fn code(answer: Option<Vec<u8>>) -> Option<ResponseCode> {
        Message::from_vec(&answer?).ok().map(|message| message.metadata.response_code)
    }

    #[tokio::test]
    async fn only_the_answer_to_the_question_counts() {
        let resolver = resolver(|query| {
            let mut other_id = response(query, 3);
            other_id[0] ^= 1;
            let other_name = response(&self::query("b.example."), 3);
            let mut capitals = response(query, 0);
            capitals[HEADER..query.len() - 4].make_ascii_uppercase();
            vec![other_id, other_name, query.to_vec(), b"short".to_vec(), capitals]
        });
        let answer = ask(&[resolver.await], Transport::Udp, &query("a.example.")).await;
        assert_eq!(code(answer), Some(ResponseCode::NoError));
    }

    #[tokio::test]
    async fn the_next_is_asked_when_one_is_silent_absent_or_fails() {
        let good = resolver(|query| vec![response(query, 0)]).await;
        let silent = resolver(|_| vec![]).await;
        let failing = resolver(|query| vec![response(query, SERVFAIL)]).await;
        let absent = UdpSocket::bind("127.0.0.1:0").await.expect("bound").local_addr().expect("bound");
        for bad in [silent, failing, absent] {
            let began = Instant::now();
            let answer = ask(&[bad, good], Transport::Udp, &query("a.example.")).await;
            assert_eq!(code(answer), Some(ResponseCode::NoError), "{bad}");
            assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
        }
        let answer = ask(&[failing, absent], Transport::Udp, &query("a.example.")).await;
        assert_eq!(code(answer), Some(ResponseCode::ServFail), "what was said is passed on");
        assert_eq!(ask(&[absent], Transport::Udp, &query("a.example.")).await, None);
    }

    #[tokio::test]
    async fn tcp_answers_are_checked_too() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(async move {
            for id in [0, 1] {
                let (mut stream, _) = listener.accept().await.expect("accepted");
                let mut answer = response(&read_framed(&mut stream).await.expect("asked"), 0);
                answer[0] ^= id;
                write_framed(&mut stream, &answer).await.expect("answered");
            }
        });
        let query = query("a.example.");
        assert_eq!(code(ask(&[address], Transport::Tcp, &query).await), Some(ResponseCode::NoError));
        assert_eq!(ask(&[address], Transport::Tcp, &query).await, None);
    }

    #[test]
    fn the_configuration_is_read_as_the_c_library_does() {
        let text = "# nameserver 9.9.9.9\nsearch a b\nnameserver 127.0.0.53 # stub\nnameserver\t::1\n\
            nameserver nonsense\nnameserver fe80::1%lo\nnameserver 1.1.1.1\n";
        let found: Vec<String> = resolvers(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["127.0.0.53:53", "[::1]:53", "[fe80::1%1]:53"]);
        assert_eq!(resolvers("options edns0"), ["127.0.0.1:53".parse().expect("an address")]);
    }
}

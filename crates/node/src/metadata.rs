//! The instance metadata service, version 2.
//!
//! Source: the EC2 user guide, "Use the Instance Metadata Service".

use ekstra_domain::ec2::METADATA_ADDRESS;
use ekstra_domain::prefix::Prefix;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(5);

/// A session with the metadata service.
#[derive(Debug)]
pub(crate) struct Metadata {
    token: String,
}

impl Metadata {
    /// Tries for a minute: an instance may boot before its metadata service listens.
    pub(crate) fn connect() -> io::Result<Self> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let headers = [("X-aws-ec2-metadata-token-ttl-seconds", "21600")];
            match exchange("PUT", "/latest/api/token", &headers) {
                Ok(Some(token)) => return Ok(Self { token }),
                Ok(None) => return Err(io::Error::other("the metadata service knows no tokens")),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// `None` when there is no such item.
    pub(crate) fn get(&self, path: &str) -> io::Result<Option<String>> {
        exchange("GET", &format!("/latest/{path}"), &[("X-aws-ec2-metadata-token", &self.token)])
    }

    /// The path of the interface that the instance booted with.
    pub(crate) fn interface(&self) -> io::Result<String> {
        let mac = self.require("meta-data/mac")?;
        Ok(format!("meta-data/network/interfaces/macs/{}", mac.trim()))
    }

    /// What an interface gives to pods.
    pub(crate) fn prefixes(&self, interface: &str) -> io::Result<Vec<Prefix>> {
        let text = self.get(&format!("{interface}/ipv4-prefix"))?.unwrap_or_default();
        Ok(text.split_whitespace().filter_map(|prefix| prefix.parse().ok()).collect())
    }

    pub(crate) fn require(&self, path: &str) -> io::Result<String> {
        self.get(path)?.ok_or_else(|| io::Error::other(format!("the metadata service has no {path}")))
    }
}

fn exchange(method: &str, path: &str, headers: &[(&str, &str)]) -> io::Result<Option<String>> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((METADATA_ADDRESS, 80)), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut request = format!("{method} {path} HTTP/1.0\r\nHost: {METADATA_ADDRESS}\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("Content-Length: 0\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    parse(&answer)
}

fn parse(answer: &str) -> io::Result<Option<String>> {
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or_else(|| io::Error::other("half an answer from the metadata service"))?;
    match head.split_whitespace().nth(1) {
        Some("200") => Ok(Some(body.to_owned())),
        Some("404") => Ok(None),
        _ => Err(io::Error::other(format!("metadata service: {}", head.lines().next().unwrap_or_default()))),
    }
}

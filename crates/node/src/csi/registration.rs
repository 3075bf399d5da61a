//! How the kubelet learns of the driver: the service `pluginregistration.Registration`, as far as a kubelet calls it.
//!
//! It is HTTP/2 by hand, because kubelets (1.36) name the socket's path as `:authority` here, which is none, and the
//! HTTP library rightly refuses the stream. Nothing of the request's headers is read: the two calls of the service are
//! told apart by their messages, since `GetInfo` says nothing and `NotifyRegistrationStatus` says how it went.
//!
//! Source: RFC 9113 (frames), RFC 7541 appendix A (the header fields below), gRPC over HTTP/2.

use super::generated::registration::{PluginInfo, RegistrationStatus};
use super::{DRIVER, SOCKET};
use prost::Message;
use std::collections::HashMap;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixListener;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What a peer may send that was told nothing else.
const LARGEST_FRAME: usize = 16_384;
/// Of one message; both are a line of text.
const LARGEST_MESSAGE: usize = 65_536;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;

const ACK: u8 = 0x1;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;

/// `:status: 200` (static entry 8), `content-type` (entry 31, not indexed).
const ANSWER: &[u8] = b"\x88\x0f\x10\x10application/grpc";
const TRAILER: &[u8] = b"\x00\x0bgrpc-status\x010";

pub(super) async fn serve(listener: UnixListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(async move {
                // A kubelet that hangs up is not an error of ours.
                let _ = exchange(stream).await;
            })),
            Err(error) => {
                say!("csi: accept: {error}");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let mut preface = [0; PREFACE.len()];
    stream.read_exact(&mut preface).await?;
    if preface != PREFACE {
        return Err(io::ErrorKind::InvalidData.into());
    }
    write_frame(&mut stream, SETTINGS, 0, 0, &[]).await?;
    let mut messages: HashMap<u32, Vec<u8>> = HashMap::new();
    loop {
        let (kind, flags, id, payload) = read_frame(&mut stream).await?;
        match kind {
            SETTINGS if flags & ACK == 0 => write_frame(&mut stream, SETTINGS, ACK, 0, &[]).await?,
            PING if flags & ACK == 0 => write_frame(&mut stream, PING, ACK, 0, &payload).await?,
            GOAWAY => return Ok(()),
            HEADERS | DATA => {
                let message = messages.entry(id).or_default();
                if kind == DATA {
                    message.extend_from_slice(unpadded(flags, &payload)?);
                }
                if message.len() > LARGEST_MESSAGE {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                if flags & END_STREAM != 0 {
                    let said = messages.remove(&id).unwrap_or_default();
                    answer(&mut stream, id, said.get(5..).unwrap_or_default()).await?;
                }
            }
            _ => {}
        }
    }
}

async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await?;
    let [a, b, c, kind, flags, id @ ..] = head;
    let length = u32::from_be_bytes([0, a, b, c]) as usize;
    if length > LARGEST_FRAME {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await?;
    Ok((kind, flags, u32::from_be_bytes(id) & 0x7fff_ffff, payload))
}

fn unpadded(flags: u8, payload: &[u8]) -> io::Result<&[u8]> {
    if flags & PADDED == 0 {
        return Ok(payload);
    }
    let kept = payload
        .split_first()
        .and_then(|(padding, rest)| rest.get(..rest.len().checked_sub(usize::from(*padding))?));
    kept.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

async fn write_frame(
    stream: &mut (impl AsyncWrite + Unpin),
    kind: u8,
    flags: u8,
    id: u32,
    payload: &[u8],
) -> io::Result<()> {
    let length = u32::try_from(payload.len()).map_err(io::Error::other)?.to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&id.to_be_bytes());
    frame.extend_from_slice(payload);
    stream.write_all(&frame).await
}

async fn answer(stream: &mut (impl AsyncWrite + Unpin), id: u32, said: &[u8]) -> io::Result<()> {
    let message = if said.is_empty() {
        info().encode_to_vec()
    } else {
        note(said);
        Vec::new()
    };
    let mut framed = vec![0];
    framed.extend_from_slice(&u32::try_from(message.len()).map_err(io::Error::other)?.to_be_bytes());
    framed.extend_from_slice(&message);
    write_frame(stream, HEADERS, END_HEADERS, id, ANSWER).await?;
    write_frame(stream, DATA, 0, id, &framed).await?;
    write_frame(stream, HEADERS, END_HEADERS | END_STREAM, id, TRAILER).await
}

fn info() -> PluginInfo {
    PluginInfo {
        r#type: "CSIPlugin".into(),
        name: DRIVER.into(),
        endpoint: SOCKET.into(),
        supported_versions: vec!["1.0.0".into()],
    }
}

fn note(said: &[u8]) {
    match RegistrationStatus::decode(said) {
        Ok(status) if status.plugin_registered => {}
        Ok(status) => say!("csi: the kubelet did not register the driver: {}", status.error),
        Err(error) => say!("csi: the kubelet said something about the registration: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::DuplexStream;

    async fn next(client: &mut DuplexStream, wanted: u8) -> (u8, Vec<u8>) {
        loop {
            let (kind, flags, _, payload) = read_frame(client).await.expect("a frame");
            if kind == wanted {
                return (flags, payload);
            }
        }
    }

    /// With the `:authority` that the kubelet sends, and its messages.
    #[tokio::test]
    async fn a_kubelet_is_told_of_the_driver() {
        let (mut client, server) = tokio::io::duplex(65_536);
        tokio::spawn(async move { exchange(server).await });
        client.write_all(PREFACE).await.expect("sent");
        write_frame(&mut client, SETTINGS, 0, 0, &[]).await.expect("sent");
        assert_eq!(next(&mut client, SETTINGS).await.0, 0);
        assert_eq!(next(&mut client, SETTINGS).await.0, ACK);
        write_frame(&mut client, PING, 0, 0, b"12345678").await.expect("sent");
        assert_eq!(next(&mut client, PING).await, (ACK, b"12345678".to_vec()));
        write_frame(&mut client, HEADERS, END_HEADERS, 1, b"\x41\x04%2Fv").await.expect("sent");
        write_frame(&mut client, DATA, END_STREAM, 1, &[0; 5]).await.expect("sent");
        assert_eq!(next(&mut client, HEADERS).await, (END_HEADERS, ANSWER.to_vec()));
        let (_, told) = next(&mut client, DATA).await;
        assert_eq!(PluginInfo::decode(&told[5..]).expect("decodes"), info());
        assert_eq!(next(&mut client, HEADERS).await, (END_HEADERS | END_STREAM, TRAILER.to_vec()));
        let status = RegistrationStatus { plugin_registered: true, error: String::new() }.encode_to_vec();
        let framed = [&[0, 0, 0, 0, 2][..], &status].concat();
        let padded = [&[3][..], &framed, &[0; 3]].concat();
        write_frame(&mut client, HEADERS, END_HEADERS, 3, b"").await.expect("sent");
        write_frame(&mut client, DATA, END_STREAM | PADDED, 3, &padded).await.expect("sent");
        assert_eq!(next(&mut client, DATA).await.1, [0; 5], "an empty message");
    }

    #[tokio::test]
    async fn what_is_not_http_2_is_hung_up_on() {
        let (mut client, server) = tokio::io::duplex(65_536);
        client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
        assert!(exchange(server).await.is_err());
        let (mut client, server) = tokio::io::duplex(65_536);
        client.write_all(PREFACE).await.expect("sent");
        client.write_all(&[0xff; 9]).await.expect("sent");
        assert!(exchange(server).await.is_err(), "a frame of 16 MiB");
    }
}

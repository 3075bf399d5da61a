//! An address on the loopback of the node's network, by rtnetlink: the agent's image holds no program for it.
//!
//! Source: rtnetlink(7), netlink(7).

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

const NEW_ADDRESS: u16 = 20;
/// Wanted, acknowledged, made or replaced.
const FLAGS: u16 = 0x1 | 0x4 | 0x400 | 0x100;
const ERROR: u16 = 2;
const INET: u8 = 2;
const WHOLE: u8 = 32;
/// Of this machine: never the source of what leaves it.
const SCOPE_HOST: u8 = 254;
const ATTRIBUTE_ADDRESS: u16 = 1;
const ATTRIBUTE_LOCAL: u16 = 2;

pub(super) fn add(address: Ipv4Addr) -> io::Result<()> {
    let socket =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    let message = message(address, if_nametoindex("lo")?);
    sendto(socket.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut answer = [0; 512];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    read(&answer[..length])
}

fn message(address: Ipv4Addr, device: u32) -> Vec<u8> {
    let mut body = vec![INET, WHOLE, 0, SCOPE_HOST];
    body.extend(device.to_ne_bytes());
    for kind in [ATTRIBUTE_LOCAL, ATTRIBUTE_ADDRESS] {
        body.extend(8_u16.to_ne_bytes());
        body.extend(kind.to_ne_bytes());
        body.extend(address.octets());
    }
    let length = u32::try_from(16 + body.len()).unwrap_or_default();
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(NEW_ADDRESS.to_ne_bytes());
    message.extend(FLAGS.to_ne_bytes());
    message.extend(1_u32.to_ne_bytes());
    message.extend(0_u32.to_ne_bytes());
    message.extend(body);
    message
}

/// The acknowledgement is an error without an error.
fn read(answer: &[u8]) -> io::Result<()> {
    let short = || io::Error::other("half an answer from rtnetlink");
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    let code = answer.get(16..20).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match (kind.ok_or_else(short)?, code.ok_or_else(short)?) {
        (ERROR, 0) => Ok(()),
        (ERROR, code) => Err(Errno::from_raw(-code).into()),
        (kind, _) => Err(io::Error::other(format!("rtnetlink answered {kind}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_says_how_long_it_is_and_what_for() {
        let message = message(Ipv4Addr::new(169, 254, 170, 23), 1);
        assert_eq!(message[..4], 40_u32.to_ne_bytes());
        assert_eq!(message.len(), 40);
        assert_eq!(message[28..32], [169, 254, 170, 23]);
    }

    #[test]
    fn an_answer_is_an_acknowledgement_or_says_what_is_wrong() {
        let answer = |kind: u16, code: i32| {
            let mut answer = vec![0; 36];
            answer[4..6].copy_from_slice(&kind.to_ne_bytes());
            answer[16..20].copy_from_slice(&code.to_ne_bytes());
            read(&answer)
        };
        assert!(answer(ERROR, 0).is_ok());
        let refused = answer(ERROR, -1).expect_err("not permitted");
        assert_eq!(refused.raw_os_error(), Some(1));
        assert!(answer(3, 0).is_err() && read(&[0; 3]).is_err());
    }
}

//! How many descriptors a process may have, and descriptors from one process to another, over a UNIX socket.
//!
//! Invariant: a message is one frame: its length, its bytes, and at most one descriptor, which travels with the length.

use nix::cmsg_space;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Larger than any description of a descriptor.
const LARGEST: usize = 64 * 1024;

/// As many descriptors as this process may ever have; answers how many that is.
pub fn raise_descriptors() -> io::Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard)
}

pub fn send(mut stream: &UnixStream, message: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let length = u32::try_from(message.len()).map_err(io::Error::other)?.to_be_bytes();
    let raw: Vec<RawFd> = descriptor.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &[][..] } else { &rights[..] };
    let iov = [IoSlice::new(&length)];
    let sent = sendmsg::<()>(stream.as_raw_fd(), &iov, control, MsgFlags::MSG_NOSIGNAL, None)?;
    stream.write_all(&length[sent..])?;
    stream.write_all(message)
}

/// What blocks, for so long at most, with a socket that does not; it is answered with what came of it.
pub async fn blocking<T: Send + 'static>(
    stream: tokio::net::UnixStream,
    patience: Duration,
    action: impl FnOnce(&UnixStream) -> io::Result<T> + Send + 'static,
) -> io::Result<(tokio::net::UnixStream, T)> {
    let stream = stream.into_std()?;
    let acted = tokio::task::spawn_blocking(move || {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        let outcome = action(&stream)?;
        stream.set_nonblocking(true)?;
        io::Result::Ok((stream, outcome))
    });
    let (stream, outcome) = acted.await.map_err(io::Error::other)??;
    Ok((tokio::net::UnixStream::from_std(stream)?, outcome))
}

#[expect(unsafe_code, reason = "received descriptors come as numbers")]
pub fn receive(mut stream: &UnixStream) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let mut length = [0; 4];
    let mut space = cmsg_space!([RawFd; 1]);
    let mut iov = [IoSliceMut::new(&mut length)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let received = recvmsg::<()>(stream.as_raw_fd(), &mut iov, Some(&mut space), flags)?;
    let mut descriptors = Vec::new();
    for control in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = control {
            // SAFETY: the kernel has just made these for this process, and nobody else has been told their numbers.
            descriptors.extend(numbers.into_iter().map(|number| unsafe { OwnedFd::from_raw_fd(number) }));
        }
    }
    let got = received.bytes;
    if got == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    stream.read_exact(&mut length[got..])?;
    let size = usize::try_from(u32::from_be_bytes(length)).map_err(io::Error::other)?;
    if size > LARGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message that is too large"));
    }
    let mut message = vec![0; size];
    stream.read_exact(&mut message)?;
    Ok((message, descriptors.pop()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    #[test]
    fn a_listener_goes_on_under_its_new_owner() {
        let (near, far) = UnixStream::pair().expect("a pair");
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = listener.local_addr().expect("bound");
        send(&near, b"a listener", Some(listener.as_fd())).expect("sent");
        send(&near, b"", None).expect("sent");
        drop((near, listener));
        let (message, descriptor) = receive(&far).expect("received");
        assert_eq!(message, b"a listener");
        let listener = TcpListener::from(descriptor.expect("with it"));
        let _client = TcpStream::connect(address).expect("still listening");
        assert!(listener.accept().is_ok());
        let (message, descriptor) = receive(&far).expect("received");
        assert!(message.is_empty() && descriptor.is_none());
        assert!(receive(&far).is_err(), "the end");
    }
}

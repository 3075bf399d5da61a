//! `ekstra-node cni`: the daemon of the add-on vpc-cni, a pod of every node.
//!
//! It keeps the configuration of the node's pod network as the instance's prefixes and its own settings say. A node may
//! have had one since its boot, so that it need not wait for this pod.

use crate::config;
use crate::files::{CNI_FILE as FILE, device_mtu};
use crate::metadata::Metadata;
use crate::supervise::block_signals;
use ekstra_domain::prefix::Prefix;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

/// Where the pod has the node's directory of such files.
const DIRECTORY: &str = "/host/etc/cni/net.d";
/// How often it is looked at: whoever took it away, or gave the interface another prefix.
const PERIOD: Duration = Duration::from_secs(5);
const MTU: &str = "AWS_VPC_ENI_MTU";
const SMALLEST_MTU: u32 = 576;

pub(crate) fn run() -> io::Result<()> {
    let signals = block_signals()?;
    let wanted_mtu = std::env::var(MTU).ok().filter(|text| !text.is_empty());
    let mtu = mtu(wanted_mtu.as_deref(), device_mtu()?)?;
    say!("ekstra-node: pods of this node have an MTU of {mtu}");
    let timeout = PollTimeout::try_from(PERIOD).unwrap_or(PollTimeout::MAX);
    loop {
        // Without an answer what is there stays.
        match prefixes() {
            Ok(prefixes) => keep(Path::new(DIRECTORY), &prefixes, mtu)?,
            Err(error) => say!("ekstra-node: {error}"),
        }
        match poll(&mut [PollFd::new(signals.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) | Err(nix::errno::Errno::EINTR) => {}
            Ok(_) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// No more than the interface carries.
fn mtu(wanted: Option<&str>, device: u32) -> io::Result<u32> {
    let Some(text) = wanted else { return Ok(device) };
    let number = text.parse().ok().filter(|mtu| *mtu >= SMALLEST_MTU);
    let number: u32 = number.ok_or_else(|| io::Error::other(format!("{MTU} is no MTU: {text}")))?;
    Ok(number.min(device))
}

fn prefixes() -> io::Result<Vec<Prefix>> {
    let metadata = Metadata::connect()?;
    metadata.prefixes(&metadata.interface()?)
}

/// Writes the file if it is not what it should be; whoever reads it meanwhile sees the one or the other.
fn keep(directory: &Path, prefixes: &[Prefix], mtu: u32) -> io::Result<()> {
    let (file, partial) = (directory.join(FILE), directory.join(format!("{FILE}.partial")));
    let wanted = config::cni(prefixes, mtu).to_string();
    if fs::read_to_string(&file).is_ok_and(|found| found == wanted) {
        return Ok(());
    }
    let written = fs::create_dir_all(directory)
        .and_then(|()| fs::write(&partial, wanted))
        .and_then(|()| fs::rename(&partial, &file));
    written.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", file.display())))?;
    say!("ekstra-node: wrote {}", file.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_mtu_is_a_number_that_the_interface_carries() {
        assert_eq!(mtu(None, 1400).expect("valid"), 1400);
        assert_eq!(mtu(Some("1300"), 1400).expect("valid"), 1300);
        assert_eq!(mtu(Some("9001"), 1400).expect("valid"), 1400);
        for text in ["", "x", "100", "-1"] {
            assert!(mtu(Some(text), 1400).is_err(), "{text}");
        }
    }

    #[test]
    fn the_file_is_written_when_it_is_not_as_it_should_be() {
        let directory = std::env::temp_dir().join(format!("ekstra-cni-{}/net.d", std::process::id()));
        let prefixes = ["10.0.0.16/28".parse().expect("a prefix")];
        let read = || fs::read_to_string(directory.join(FILE)).expect("is there");
        keep(&directory, &prefixes, 1400).expect("written");
        assert!(read().contains("\"mtu\":1400") && read().contains("10.0.0.16/28"), "{}", read());
        fs::write(directory.join(FILE), "{}").expect("spoilt");
        keep(&directory, &prefixes, 1300).expect("written");
        assert!(read().contains("\"mtu\":1300"));
        assert_eq!(fs::read_dir(&directory).expect("lists").count(), 1);
        fs::remove_dir_all(directory.parent().expect("has one")).expect("removed");
    }
}

//! The programs of a control plane: their keys, their flags, their place in the network.
//!
//! Invariant: everything here is a function of the slot and the cluster's record; started again after a crash, the
//! same programs come up with the same words.

pub(crate) mod flags;
pub(crate) mod keys;

use crate::Eks;
use ekstra_domain::eks::ControlPlaneSlot;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// The end of a program's log, at most so many bytes.
pub(crate) fn log_end(log: &Path, most: u64) -> io::Result<String> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(most)))?;
    let mut end = Vec::new();
    file.read_to_end(&mut end)?;
    Ok(String::from_utf8_lossy(&end).into_owned())
}

/// Files of one slot.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    pub(crate) root: PathBuf,
}

impl Files {
    pub(crate) fn pki(&self) -> PathBuf {
        self.root.join("pki")
    }

    pub(crate) fn key(&self, name: &str) -> PathBuf {
        self.pki().join(name)
    }

    /// What the API server finds in `/etc`.
    pub(crate) fn etc(&self) -> PathBuf {
        self.root.join("etc")
    }

    pub(crate) fn etcd_data(&self) -> PathBuf {
        self.root.join("etcd")
    }
}

impl Eks {
    pub(crate) fn files(&self, slot: &str) -> Files {
        Files { root: self.slot_directory(slot) }
    }

    /// Where clients on the host, in nodes and in pods find the API server.
    pub(crate) fn endpoint(&self, slot: &ControlPlaneSlot) -> String {
        format!("https://{}:{}", self.cloud.settings.address, slot.port)
    }

    /// The OIDC issuer of service-account tokens.
    pub(crate) fn issuer(&self, id: &str) -> String {
        let settings = &self.cloud.settings;
        format!("https://{}:{}/id/{id}", settings.address, settings.port)
    }
}

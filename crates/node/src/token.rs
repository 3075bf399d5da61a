//! `ekstra-node token CLUSTER`: the kubelet's sign-in, as `aws eks get-token` with the instance's role.

use crate::metadata::Metadata;
use ekstra_wire::sigv4;
use serde::Deserialize;
use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

/// What the metadata service answers for a role.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct RoleCredentials {
    access_key_id: String,
    secret_access_key: String,
    token: String,
    expiration: String,
}

impl RoleCredentials {
    /// Of the instance's own role.
    pub(crate) fn fetch(metadata: &Metadata) -> io::Result<Self> {
        let role = metadata.require("meta-data/iam/security-credentials/")?;
        let found = metadata.require(&format!("meta-data/iam/security-credentials/{}", role.trim()))?;
        serde_json::from_str(&found).map_err(io::Error::other)
    }

    pub(crate) fn signing(self) -> sigv4::Credentials {
        sigv4::Credentials {
            access_key_id: self.access_key_id,
            secret_access_key: self.secret_access_key,
            session_token: Some(self.token),
        }
    }

    /// Unix seconds; what cannot be read is over.
    pub(crate) fn expires(&self) -> i64 {
        ekstra_wire::parse_iso8601(&self.expiration).map_or(0, |ms| ms / 1000)
    }
}

pub(crate) fn print(args: &[String]) -> io::Result<()> {
    let [cluster] = args else {
        return Err(io::Error::other("usage: ekstra-node token CLUSTER"));
    };
    let metadata = Metadata::connect()?;
    let region = metadata.require("meta-data/placement/region")?;
    let credentials = RoleCredentials::fetch(&metadata)?.signing();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(io::Error::other)?.as_secs();
    let now = i64::try_from(now).map_err(io::Error::other)?;
    let endpoint = format!("https://sts.{region}.amazonaws.com");
    let token = sigv4::make_eks_token(&credentials, &region, &endpoint, cluster, now);
    println!("{}", sigv4::exec_credential(&token, now));
    Ok(())
}

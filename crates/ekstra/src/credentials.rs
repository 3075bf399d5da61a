//! The first user's credentials: made at the first start, kept in the home, used by the command line.

use crate::home::Home;
use anyhow::{Context, Result};
use ekstra_cloud::Cloud;
use ekstra_domain::iam::{AccessKey, Principal, Secret};
use ekstra_domain::names::{DEFAULT_ACCOUNT, keys};
use ekstra_store::CommitError;
use ekstra_wire::sigv4;
use serde::{Deserialize, Serialize};
use std::fs;

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct StoredCredentials {
    pub(crate) account: String,
    pub(crate) access_key_id: String,
    pub(crate) secret_access_key: String,
}

impl StoredCredentials {
    pub(crate) fn load(home: &Home) -> Result<Self> {
        let path = home.path("credentials.json");
        let bytes = fs::read(&path).with_context(|| {
            format!("no service has been started in {}; run `ekstra start`", home.root.display())
        })?;
        Ok(serde_json::from_slice(&bytes)?)
    }

    pub(crate) fn signing(&self) -> sigv4::Credentials {
        sigv4::Credentials {
            access_key_id: self.access_key_id.clone(),
            secret_access_key: self.secret_access_key.clone(),
            session_token: None,
        }
    }
}

/// Makes the first user unless there is one; the file and the record agree afterwards.
pub(crate) async fn ensure(home: &Home, cloud: &Cloud) -> Result<()> {
    let stored = match StoredCredentials::load(home) {
        Ok(stored) => stored,
        Err(_) => {
            let stored = StoredCredentials {
                account: DEFAULT_ACCOUNT.into(),
                access_key_id: cloud.env.iam_id("AKIA"),
                secret_access_key: cloud.env.hex(20),
            };
            home.write_for_owner("credentials.json", &serde_json::to_vec_pretty(&stored)?)?;
            stored
        }
    };
    let key = keys::access_key(&stored.access_key_id);
    if cloud.store.view().get(&key).is_some() {
        return Ok(());
    }
    let record = AccessKey {
        id: stored.access_key_id.clone(),
        secret: Secret(stored.secret_access_key.clone()),
        principal: Principal {
            account: stored.account.clone(),
            arn: format!("arn:aws:iam::{}:user/admin", stored.account),
            user_id: cloud.env.iam_id("AIDA"),
        },
    };
    Ok(cloud.store.transact::<_, CommitError>(|txn| Ok(txn.put(&key, &record)?)).await?)
}

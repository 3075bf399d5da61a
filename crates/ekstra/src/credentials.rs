//! The credentials of an account's first user, kept in the home: the default account's are made at the first start and
//! used by the command line, another's when they are asked for.

use crate::home::Home;
use anyhow::{Context, Result, anyhow};
use ekstra_cloud::api::Refusal;
use ekstra_cloud::{Cloud, first_user};
use ekstra_domain::iam::{AccessKey, Principal, Secret};
use ekstra_domain::names::{DEFAULT_ACCOUNT, keys};
use ekstra_store::Txn;
use ekstra_wire::sigv4;
use serde::{Deserialize, Serialize};
use std::fs;

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct StoredCredentials {
    pub(crate) account: String,
    pub(crate) access_key_id: String,
    pub(crate) secret_access_key: String,
}

fn file(account: &str) -> String {
    match account {
        DEFAULT_ACCOUNT => "credentials.json".to_owned(),
        other => format!("credentials-{other}.json"),
    }
}

/// Twelve digits, as AWS's.
pub(crate) fn parse_account(text: &str) -> Result<String, String> {
    let is_account = text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit());
    if is_account { Ok(text.to_owned()) } else { Err(format!("{text} is not an account: 12 digits")) }
}

impl StoredCredentials {
    pub(crate) fn load(home: &Home) -> Result<Self> {
        Self::of_account(home, DEFAULT_ACCOUNT)
    }

    pub(crate) fn of_account(home: &Home, account: &str) -> Result<Self> {
        let path = home.path(&file(account));
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
pub(crate) async fn ensure(home: &Home, cloud: &Cloud, account: &str) -> Result<()> {
    let stored = match StoredCredentials::of_account(home, account) {
        Ok(stored) => stored,
        Err(_) => {
            let stored = StoredCredentials {
                account: account.to_owned(),
                access_key_id: cloud.env.access_key_id("AKIA"),
                secret_access_key: cloud.env.hex(20),
            };
            home.write_for_owner(&file(account), &serde_json::to_vec_pretty(&stored)?)?;
            stored
        }
    };
    let key = keys::access_key(&stored.access_key_id);
    let body = |txn: &mut Txn| {
        let user = first_user(cloud, account, txn)?;
        // Who was deleted has no keys.
        let Some(user) = user else { return Ok(()) };
        if let Some(mut known) = txn.get::<AccessKey>(&key)? {
            // Of a version that had keys and no users.
            if known.principal.arn == user.arn() && known.principal.user_id != user.id {
                known.principal.user_id.clone_from(&user.id);
                txn.put(&key, &known)?;
            }
            return Ok(());
        }
        let record = AccessKey {
            id: stored.access_key_id.clone(),
            secret: Secret(stored.secret_access_key.clone()),
            principal: Principal { account: user.account.clone(), arn: user.arn(), user_id: user.id.clone() },
            created_ms: cloud.env.now_ms(),
            is_inactive: false,
        };
        Ok::<_, Refusal>(txn.put(&key, &record)?)
    };
    cloud.store.transact(body).await.map_err(|refusal| anyhow!("{refusal:?}"))
}

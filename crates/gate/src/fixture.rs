//! A gate over a store of its own, for tests.

use crate::{Facts, Gate};
use ekstra_domain::iam::{AccessKey, MasterKey, Principal, Secret, User};
use ekstra_domain::names::{Scope, keys};
use ekstra_images::ImageStore;
use ekstra_images::registry::{Policy, Registry};
use ekstra_store::{Revision, Store};
use ekstra_wire::sigv4::Credentials;
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::sync::Arc;
use tokio::sync::watch;

pub(crate) const ACCOUNT: &str = "000000000000";
pub(crate) const USER: &str = "arn:aws:iam::000000000000:user/dev";
pub(crate) const SLOT: &str = "0a0b0c0d";
pub(crate) const VPC: &str = "vpc-1";

pub(crate) struct Fixture {
    pub(crate) gate: Gate,
    store: Store,
    _home: tempfile::TempDir,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let home = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(home.path().join("run")).expect("a directory");
        let store = Store::open(&home.path().join("state.db")).expect("a new store");
        let images = ImageStore::open(home.path().join("images")).expect("a new store");
        let gate = Gate {
            view: store.view().clone(),
            master: MasterKey([7; 32]),
            facts: Arc::new(Facts {
                address: Ipv4Addr::new(127, 0, 0, 3),
                port: 4566,
                registry_port: 4567,
                namespace_prefix: "ekstra-test-".into(),
                home: home.path().to_owned(),
            }),
            images: Registry::new(images, Policy::read_only()),
        };
        Self { gate, store, _home: home }
    }

    pub(crate) fn head(&self) -> watch::Receiver<Revision> {
        self.store.head()
    }

    pub(crate) async fn put(&self, key: &str, value: &Value) {
        let mut txn = self.store.begin();
        txn.put(key, value).expect("encodes");
        self.store.commit(txn).await.expect("committed");
    }

    pub(crate) async fn delete(&self, key: &str) {
        let mut txn = self.store.begin();
        txn.delete(key);
        self.store.commit(txn).await.expect("committed");
    }

    /// A cluster `c`, created by [`USER`], with its door at this port.
    pub(crate) async fn put_cluster(&self, port: u16) {
        let scope = Scope::new(ACCOUNT, "us-east-1");
        let key = keys::cluster(&scope, "c");
        let slot = json!({
            "id": SLOT, "namespace": "ekstra-test-cp", "port": port, "issuer_id": "", "version": "1.37",
            "cluster": key, "vpc": VPC, "interfaces": [], "advertise_address": "10.0.0.9",
            "service_cidr": "172.20.0.0/16", "certificate_authority": null,
        });
        let vpc = json!({
            "vpc": VPC, "subnets": [], "security_groups": [], "cluster_security_group": "",
            "public_access": true, "private_access": false, "public_cidrs": ["0.0.0.0/0"],
        });
        let cluster = json!({
            "name": "c", "scope": scope, "uid": "u", "status": "ACTIVE", "version": "1.37",
            "platform_version": "eks.1", "role_arn": "", "created_ms": 0, "vpc": vpc,
            "service_cidr": "172.20.0.0/16", "authentication_mode": "API", "creator_is_admin": true,
            "creator_arn": USER, "logging": {"enabled": []}, "deletion_protection": false,
            "support_type": "STANDARD", "tags": {}, "request_token": null, "request_digest": "",
            "slot": SLOT, "issues": [], "progress": null,
        });
        self.put(&key, &cluster).await;
        self.put(&keys::slot(SLOT), &slot).await;
    }

    /// [`USER`], with a key.
    pub(crate) async fn put_access_key(&self) -> Credentials {
        let user = User {
            name: "dev".into(),
            account: ACCOUNT.into(),
            path: "/".into(),
            id: "AIDATEST".into(),
            created_ms: 0,
            grants: Default::default(),
            groups: Default::default(),
            tags: Default::default(),
        };
        self.put(&keys::user(ACCOUNT, &user.name), &json!(user)).await;
        let key = AccessKey {
            id: "AKIATEST".into(),
            secret: Secret("secret".into()),
            principal: Principal { account: ACCOUNT.into(), arn: USER.into(), user_id: "AIDATEST".into() },
            created_ms: 0,
            is_inactive: false,
        };
        self.put(&keys::access_key(&key.id), &json!(key)).await;
        credentials()
    }
}

pub(crate) fn credentials() -> Credentials {
    Credentials { access_key_id: "AKIATEST".into(), secret_access_key: "secret".into(), session_token: None }
}

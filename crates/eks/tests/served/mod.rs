//! Every operation that there is, served by a [`TestEnv`], with one version of Kubernetes on offer and no program of it.
#![allow(dead_code, reason = "each test takes its part of it")]

use ekstra_cloud::api::Router;
use ekstra_domain::ec2::SecurityGroup;
use ekstra_domain::eks::{Cluster, ClusterStatus};
use ekstra_domain::names::keys;
use ekstra_eks::{Eks, OfferedVersion, Programs};
use ekstra_model::{OperationShape, iam};
use ekstra_testkit::TestEnv;
use ekstra_wire::Request;
use serde_json::Value as Json;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Debug)]
struct OneVersion;

impl Programs for OneVersion {
    fn versions(&self) -> Vec<OfferedVersion> {
        vec![OfferedVersion { minor: "1.36".into(), patch: "1.36.3".into(), default: true }]
    }

    fn control_plane(&self, program: &str, _: &str) -> Result<PathBuf, String> {
        Ok(Path::new("/").join(program))
    }
}

pub(crate) struct World {
    pub(crate) env: TestEnv,
    pub(crate) router: Router,
}

impl World {
    pub(crate) async fn new() -> Self {
        let env = TestEnv::new().await;
        let eks = Eks::new(env.cloud.clone(), env.host.clone(), env.names.clone(), Arc::new(OneVersion));
        let mut router = env.router();
        ekstra_eks::serve(&mut router, &eks);
        Self { env, router }
    }

    pub(crate) async fn must<O: OperationShape>(&self, operation: O, input: O::Input) -> O::Output {
        self.env.call(&self.router, operation, input).await.expect("the administrator may")
    }

    /// Of the default VPC, in the first two zones.
    pub(crate) fn subnets(&self) -> Vec<String> {
        let vpc = self.default_group().vpc;
        let own = self.env.subnets().into_iter().filter(|subnet| subnet.vpc == vpc);
        own.take(2).map(|subnet| subnet.id).collect()
    }

    pub(crate) fn groups(&self) -> Vec<SecurityGroup> {
        let all = self.env.cloud.store.view().list_as(&keys::security_groups(&self.env.scope));
        all.into_iter().map(|(_, group)| group).collect()
    }

    pub(crate) fn default_group(&self) -> SecurityGroup {
        self.groups().into_iter().find(|group| group.name == "default").expect("every VPC has one")
    }

    /// As its reconciler would leave it, without a control plane.
    pub(crate) async fn cluster_is(&self, name: &str, status: ClusterStatus) {
        let key = keys::cluster(&self.env.scope, name);
        let write = |txn: &mut ekstra_store::Txn| {
            let cluster: Cluster = txn.get(&key)?.expect("is there");
            Ok(txn.put(&key, &Cluster { status, ..cluster })?)
        };
        self.env.write(write).await;
    }

    /// With a policy of its own, unless that is empty.
    pub(crate) async fn user(&self, name: &str, policy: &str) {
        let user = iam::CreateUserRequest { user_name: Some(name.into()), ..Default::default() };
        self.must(iam::ops::CreateUser, user).await;
        if !policy.is_empty() {
            let put = iam::PutUserPolicyRequest {
                user_name: Some(name.into()),
                policy_name: Some("own".into()),
                policy_document: Some(policy.into()),
            };
            self.must(iam::ops::PutUserPolicy, put).await;
        }
    }
}

/// `action`: as in a document, one between quotation marks or a list.
pub(crate) fn allow(action: &str, resource: &str) -> String {
    format!(
        r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Action":{action},"Resource":"{resource}"}}]}}"#
    )
}

/// As `crates/wire/tests/golden/generate.py` wrote it down.
pub(crate) fn request(json: &Json) -> Request {
    let text = |json: &Json| json.as_str().expect("a string").to_owned();
    let headers = json["headers"].as_array().expect("a list").iter();
    Request {
        method: text(&json["method"]),
        path: text(&json["path"]),
        query: text(&json["query"]),
        headers: headers.map(|pair| (text(&pair[0]), text(&pair[1]))).collect(),
        body: text(&json["body"]).into_bytes(),
    }
}

/// What a test is told, held against what is checked in; `UPDATE_GOLDEN=1` writes it again.
pub(crate) fn compare(name: &str, told: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, told).expect("writable");
    }
    let known = std::fs::read_to_string(&path).expect("is checked in");
    for (line, (now, before)) in told.lines().zip(known.lines()).enumerate() {
        assert_eq!(now, before, "line {} of {name}", line + 1);
    }
    assert_eq!(told.lines().count(), known.lines().count(), "lines of {name}");
}

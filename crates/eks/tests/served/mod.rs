//! Every operation that there is, served by a [`TestEnv`], with one version of Kubernetes on offer and no program of it.

use ekstra_cloud::api::Router;
use ekstra_eks::{Eks, OfferedVersion, Programs};
use ekstra_testkit::TestEnv;
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
}

/// What a test is told, held against what is checked in; `UPDATE_GOLDEN=1` writes it again.
#[allow(dead_code, reason = "not every test has such a file")]
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

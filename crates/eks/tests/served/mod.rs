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

pub(crate) fn router(env: &TestEnv) -> Router {
    let eks = Eks::new(env.cloud.clone(), env.host.clone(), env.names.clone(), Arc::new(OneVersion));
    let mut router = Router::new(env.cloud.clone());
    ekstra_cloud::serve(&mut router, &env.cloud);
    ekstra_eks::serve(&mut router, &eks);
    router
}

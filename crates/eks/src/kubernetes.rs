//! Clients of the clusters' API servers, with the service's own certificate, through the front door.

use ekstra_cloud::Cloud;
use ekstra_domain::eks::ControlPlaneSlot;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("{path}: {source}")]
    Read { path: String, source: std::io::Error },
    #[error("kubeconfig of the service: {0}")]
    Config(#[from] kube::config::KubeconfigError),
    #[error(transparent)]
    Kube(#[from] kube::Error),
}

/// One client a slot, made when first asked for.
#[derive(Clone)]
pub(crate) struct Clients {
    cloud: Cloud,
    made: Arc<Mutex<HashMap<String, Client>>>,
}

impl std::fmt::Debug for Clients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clients").finish_non_exhaustive()
    }
}

impl Clients {
    pub(crate) fn new(cloud: Cloud) -> Self {
        Self { cloud, made: Arc::default() }
    }

    pub(crate) async fn get(&self, slot: &ControlPlaneSlot) -> Result<Client, ClientError> {
        if let Some(client) = self.lock().get(&slot.id) {
            return Ok(client.clone());
        }
        let path = self.cloud.home.join("slots").join(&slot.id).join("pki/service.kubeconfig");
        let read = |source| ClientError::Read { path: path.display().to_string(), source };
        let mut kubeconfig = Kubeconfig::from_yaml(&std::fs::read_to_string(&path).map_err(read)?)?;
        // The file is for programs inside the control plane's namespace; from here, the way is the front door.
        for cluster in kubeconfig.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
            cluster.server = Some(format!("https://{}:{}", ekstra_domain::eks::INTERNAL_ADDRESS, slot.port));
            cluster.tls_server_name = Some("kubernetes".to_owned());
        }
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        config.connect_timeout = Some(Duration::from_secs(5));
        config.proxy_url = None;
        // A refused eviction is an answer (429), not a reason to wait inside the call: reconcilers come back by
        // themselves.
        config.default_retry = false;
        let client = Client::try_from(config)?;
        self.lock().insert(slot.id.clone(), client.clone());
        Ok(client)
    }

    pub(crate) fn forget(&self, slot: &str) {
        self.lock().remove(slot);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Client>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the API server makes a second after it serves; requests of `system:masters` need neither.
const LATE_HOOKS: [&str; 2] = ["rbac/bootstrap-roles", "scheduling/bootstrap-system-priority-classes"];
/// How long it may take to say how it is.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whether the API server says that it is ready, within a second.
pub(crate) async fn is_ready(client: &Client) -> bool {
    says_ok(client, "/readyz").await
}

/// Whether it is ready but for what it makes last, and has the namespaces that everything of ours goes into: `default` is made
/// behind `kube-system` (kubernetes, `pkg/controlplane/controller/systemnamespaces`).
pub(crate) async fn is_serving(client: &Client) -> bool {
    let excluded = LATE_HOOKS.map(|hook| format!("exclude=poststarthook/{hook}")).join("&");
    says_ok(client, &format!("/readyz?{excluded}")).await
        && ask(client, "/api/v1/namespaces/default").await.is_some()
}

async fn says_ok(client: &Client, path: &str) -> bool {
    ask(client, path).await.is_some_and(|text| text == "ok")
}

async fn ask(client: &Client, path: &str) -> Option<String> {
    let request = http::Request::get(path).body(Vec::new()).ok()?;
    tokio::time::timeout(PATIENCE, client.request_text(request)).await.ok()?.ok()
}

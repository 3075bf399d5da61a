//! Identity providers: what the API server knows of OpenID Connect, in a file that it reads again by itself.
//!
//! Invariant: a provider is ACTIVE when the API server has said that it took the file with it, and gone when it took the
//! file without it. One whose issuer does not answer in time is given up, and its update says why.
//!
//! Source: "Authenticating" in the Kubernetes documentation, "Using Authentication Configuration"; the API server's
//! metric `apiserver_authentication_config_controller_last_config_info` has the digest of what holds.

use crate::control_plane::{flags, keys as pki, log_end};
use crate::controller::{Reached, down, reach};
use crate::{Eks, updates};
use ekstra_cloud::on_host;
use ekstra_domain::eks::{HealthIssue, IdentityProvider, ProviderStatus, UpdateOf};
use ekstra_domain::names::keys;
use ekstra_engine::{Next, Reconciler, Waits, blocking};
use ekstra_host::{ChildId, HostError};
use ekstra_store::{CommitError, Txn};
use futures::FutureExt;
use futures::future::BoxFuture;
use kube::Client;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

const AT_ONCE: Next = Next::After(Duration::from_millis(1));
/// How often the API server is asked which file holds.
const POLL: Duration = Duration::from_millis(200);
/// An issuer that answers does so in a second. The API server asks one that does not again every minute.
const PATIENCE_MS: i64 = 75_000;
const METRIC: &str = "apiserver_authentication_config_controller_last_config_info";
/// In the home: certificates of who may speak for issuers, beside the machine's own.
const AUTHORITIES: &str = "issuer-authorities.pem";
const OF_THE_MACHINE: &str = "/etc/ssl/certs/ca-certificates.crt";
const STOP_GRACE: Duration = Duration::from_secs(5);
/// Of a log, what may hold the reason.
const LOG_END: u64 = 64 * 1024;

#[derive(Debug)]
pub struct IdentityProviderReconciler {
    eks: Eks,
    waits: Waits,
}

#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    #[error(transparent)]
    Store(#[from] CommitError),
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("client: {0}")]
    Client(String),
    #[error("the API server's file: {0}")]
    File(#[from] io::Error),
}

/// What the API server says of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    ThisOne,
    Another,
    /// It was started without one.
    None,
    /// It said nothing.
    Unknown,
}

impl Reconciler for IdentityProviderReconciler {
    type Error = ProviderError;

    fn name(&self) -> &'static str {
        "identity-provider"
    }

    fn keys(&self) -> Vec<String> {
        let all = self.eks.cloud.store.view().list(keys::IDENTITY_PROVIDERS);
        all.into_iter().map(|(key, _)| key.to_string()).collect()
    }

    fn affected(&self, changed: &str) -> Vec<String> {
        if changed.starts_with(keys::IDENTITY_PROVIDERS) {
            return vec![changed.to_owned()];
        }
        let Some(cluster) = changed.strip_prefix(keys::CLUSTERS) else { return Vec::new() };
        let prefix = format!("{}{cluster}/", keys::IDENTITY_PROVIDERS);
        let all = self.eks.cloud.store.view().list(&prefix);
        all.into_iter().map(|(key, _)| key.to_string()).collect()
    }

    fn reconcile(&self, key: String) -> BoxFuture<'_, Result<Next, ProviderError>> {
        async move {
            let provider: Option<IdentityProvider> = self.eks.cloud.store.view().get_as(&key);
            let Some(provider) = provider else {
                self.waits.end(&key);
                return Ok(Next::OnChange);
            };
            let cluster_key = keys::cluster(&provider.scope, &provider.cluster);
            let reached = reach(&self.eks, &cluster_key).await;
            let Some(reached) = reached.map_err(|e| ProviderError::Client(e.to_string()))? else {
                return Ok(Next::OnChange);
            };
            tokio::select! {
                next = self.step(&key, &provider, &reached) => next,
                () = down(&self.eks, &cluster_key) => Ok(AT_ONCE),
            }
        }
        .boxed()
    }
}

impl IdentityProviderReconciler {
    pub fn new(eks: Eks) -> Self {
        Self { eks, waits: Waits::default() }
    }

    async fn step(
        &self,
        key: &str,
        provider: &IdentityProvider,
        reached: &Reached,
    ) -> Result<Next, ProviderError> {
        let wanted = (provider.status != ProviderStatus::Deleting).then_some(provider);
        let text = self.text(wanted).await?;
        if provider.status == ProviderStatus::Active {
            self.write(text, reached).await?;
            return Ok(Next::OnChange);
        }
        match holds(&reached.client, &text).await {
            Holds::ThisOne => {
                tracing::info!(cluster = provider.cluster, provider = provider.name, status = ?provider.status, "holds");
                self.settle(key, provider, None).await?;
                return Ok(AT_ONCE);
            }
            // It does not start with a file that it does not like, but keeps the one that it has.
            Holds::None => {
                self.write(configuration(Vec::new()), reached).await?;
                self.restart(reached).await?;
            }
            Holds::Another => self.write(text, reached).await?,
            Holds::Unknown => {}
        }
        if self.waits.elapsed_ms(&self.eks.cloud.env, key) < PATIENCE_MS {
            return Ok(Next::After(POLL));
        }
        let reason = self.reason(provider, reached).await;
        tracing::info!(cluster = provider.cluster, provider = provider.name, reason, "given up");
        self.settle(key, provider, Some(reason)).await?;
        Ok(AT_ONCE)
    }

    /// What the file is to be.
    async fn text(&self, provider: Option<&IdentityProvider>) -> Result<String, ProviderError> {
        let authorities = self.eks.cloud.home.join(AUTHORITIES);
        let authorities = blocking(move || authorities_of(&authorities)).await?;
        let one = |known: &IdentityProvider| known.authenticator(authorities.as_deref());
        Ok(configuration(provider.into_iter().map(one).collect()))
    }

    /// Sees that the file is so.
    async fn write(&self, text: String, reached: &Reached) -> Result<(), ProviderError> {
        let file = self.eks.files(&reached.slot.id).key(pki::AUTHENTICATION);
        Ok(blocking(move || pki::ensure_file(&file, &text)).await?)
    }

    /// An API server that an earlier version started: the next one has the file.
    async fn restart(&self, reached: &Reached) -> Result<(), ProviderError> {
        let id = ChildId(reached.slot.child(flags::API_SERVER));
        tracing::info!(child = %id, "is started again, to be told of identity providers");
        Ok(on_host(&self.eks.host, move |host| host.remove_child(&id, STOP_GRACE)).await?)
    }

    /// What is known of why it did not take the file.
    async fn reason(&self, provider: &IdentityProvider, reached: &Reached) -> String {
        let log = flags::log(&self.eks, &reached.slot, flags::API_SERVER);
        let end = blocking(move || log_end(&log, LOG_END)).await.unwrap_or_default();
        let issuer = &provider.issuer_url;
        match complaint(&end, issuer) {
            Some(why) => format!("The issuer {issuer} could not be used: {why}"),
            None => format!("The API server did not take the issuer {issuer} in time"),
        }
    }

    /// What was asked for is so, or, with a reason, will not be.
    async fn settle(
        &self,
        key: &str,
        seen: &IdentityProvider,
        failure: Option<String>,
    ) -> Result<(), ProviderError> {
        self.waits.end(key);
        let issue =
            failure.map(|message| HealthIssue { code: "Unknown".into(), message, resource_ids: Vec::new() });
        let body = |txn: &mut Txn| {
            let Some(mut provider) = txn.get::<IdentityProvider>(key)? else { return Ok(()) };
            if (&provider.uid, provider.status) != (&seen.uid, seen.status) {
                return Ok(());
            }
            let updates = keys::updates(&seen.scope, &seen.cluster);
            let of = UpdateOf::Provider(&seen.name);
            match seen.status {
                ProviderStatus::Active => return Ok(()),
                ProviderStatus::Creating => {
                    // The deletion of one that failed takes the file back, and is nobody's update.
                    let failed = issue.is_some();
                    provider.status = if failed { ProviderStatus::Deleting } else { ProviderStatus::Active };
                    txn.put(key, &provider)?;
                }
                // Also where the API server has not said so: the file is without it, and whoever reads it later knows.
                ProviderStatus::Deleting => txn.delete(key),
            }
            match &issue {
                None => updates::finish(txn, &updates, of),
                Some(issue) => updates::fail(txn, &updates, of, issue),
            }
        };
        Ok(self.eks.cloud.store.transact(body).await?)
    }
}

/// The file's text.
pub(crate) fn configuration(authenticators: Vec<Value>) -> String {
    json!({
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "AuthenticationConfiguration",
        "jwt": authenticators,
    })
    .to_string()
}

/// The machine's and the home's; `None` when the home has none: the API server knows the machine's.
fn authorities_of(own: &Path) -> io::Result<Option<String>> {
    let own = match fs::read_to_string(own) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read?,
    };
    let machine = fs::read_to_string(OF_THE_MACHINE).unwrap_or_default();
    Ok(Some(format!("{}\n{machine}", own.trim_end())))
}

async fn holds(client: &Client, text: &str) -> Holds {
    let request = http::Request::get("/metrics").body(Vec::new()).unwrap_or_default();
    match tokio::time::timeout(Duration::from_secs(5), client.request_text(request)).await {
        Ok(Ok(metrics)) => read(&metrics, text),
        _ => Holds::Unknown,
    }
}

fn read(metrics: &str, text: &str) -> Holds {
    let digest = format!("hash=\"sha256:{}\"", hex::encode(Sha256::digest(text)));
    let known: Vec<&str> = metrics.lines().filter(|line| line.starts_with(METRIC)).collect();
    if known.is_empty() {
        return Holds::None;
    }
    if known.iter().any(|line| line.contains(&digest)) { Holds::ThisOne } else { Holds::Another }
}

/// The last thing that the log has to say of an issuer.
fn complaint(log: &str, issuer: &str) -> Option<String> {
    let named = format!("\"{issuer}");
    let line =
        log.lines().rev().find(|line| line.contains("initializing plugin: ") && line.contains(&named))?;
    line.split_once("initializing plugin: ").map(|(_, why)| why.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_server_says_which_file_it_has() {
        let digest = hex::encode(Sha256::digest("a"));
        let metrics = format!("x 1\n{METRIC}{{apiserver_id_hash=\"sha256:0\",hash=\"sha256:{digest}\"}} 1\n");
        assert_eq!(read(&metrics, "a"), Holds::ThisOne);
        assert_eq!(read(&metrics, "b"), Holds::Another);
        assert_eq!(read("x 1\n", "a"), Holds::None);
    }

    #[test]
    fn the_reason_is_the_last_that_names_the_issuer() {
        let line = |issuer: &str, why: &str| {
            format!(
                "E1126 oidc.go:433] oidc authenticator: initializing plugin: Get \"{issuer}/.well-known/openid-configuration\": {why}\n"
            )
        };
        let log = line("https://a", "refused") + &line("https://a", "no route") + &line("https://b", "x");
        let why = complaint(&log, "https://a").expect("is there");
        assert_eq!(why, "Get \"https://a/.well-known/openid-configuration\": no route");
        assert_eq!(complaint(&log, "https://c"), None);
    }

    #[test]
    fn own_authorities_are_beside_the_machines() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("a.pem");
        assert_eq!(authorities_of(&file).expect("none"), None);
        fs::write(&file, "OWN\n").expect("writes");
        assert!(authorities_of(&file).expect("reads").is_some_and(|all| all.starts_with("OWN\n")));
    }
}

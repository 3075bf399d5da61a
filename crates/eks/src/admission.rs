//! The webhook `pod-identity-webhook` is in every cluster: there from the beginning, and put back when somebody takes it
//! away. What somebody changes in it stays. Its answers are `gate`'s.

use crate::bootstrap::{ADMISSION, Facts};
use crate::controller::{Controller, Outcome, Place, Trouble};
use crate::manifest::{self, Mode};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::api::Api;
use kube::runtime::{WatchStreamExt, watcher};

const NAME: &str = "pod-identity-webhook";

/// One for every cluster that is up.
pub(crate) struct Admission {
    place: Place,
}

impl Admission {
    fn api(&self) -> Api<MutatingWebhookConfiguration> {
        Api::all(self.place.client.clone())
    }
}

impl Controller for Admission {
    /// There is one.
    type Key = ();
    const NAME: &'static str = "admission";

    fn new(place: Place) -> Self {
        Self { place }
    }

    fn watch(&self) -> BoxStream<'static, Result<(), watcher::Error>> {
        let one = watcher::Config::default().fields(&format!("metadata.name={NAME}"));
        // Also its deletion, and the end of a list without it.
        watcher(self.api(), one).default_backoff().map_ok(drop).boxed()
    }

    fn step(&self, (): ()) -> BoxFuture<'_, Result<Outcome, Trouble>> {
        async move {
            if self.api().get_metadata_opt(NAME).await?.is_some() {
                return Ok(Outcome::Settled);
            }
            let Place { eks, cluster, slot, client } = &self.place;
            let unfit = |error: manifest::ManifestError| Trouble::refused(error.to_string());
            for object in Facts::of(eks, cluster, slot).fill(ADMISSION).map_err(unfit)? {
                manifest::apply(client, &object, Mode::Force).await.map_err(unfit)?;
            }
            Ok(Outcome::Settled)
        }
        .boxed()
    }

    fn concerns(_: &str) -> bool {
        false
    }
}

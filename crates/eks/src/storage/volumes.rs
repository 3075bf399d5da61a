//! PersistentVolumes: their volumes go when nobody claims them any more, as their reclaim policy says.

use super::claims::{FINALIZER, PROVISIONED_BY, volume_id};
use super::{DRIVER, NAME_TAG, PROVISIONED_TAG, RECLAIM_TAG, Storage};
use crate::controller::{Outcome, Trouble};
use crate::finalizers::drop_finalizer;
use ekstra_cloud::ec2::volumes;
use ekstra_domain::ec2::{Volume, VolumeState};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{Api, DeleteParams, ListParams};
use kube::runtime::events::EventType;
use kube::{Resource, ResourceExt};

impl Storage {
    pub(super) async fn volume(&self, name: &str) -> Result<Outcome, Trouble> {
        let persistent: Api<PersistentVolume> = Api::all(self.place.client.clone());
        let Some(pv) = persistent.get_opt(name).await? else { return Ok(Outcome::Settled) };
        let ours = pv.annotations().get(PROVISIONED_BY).is_some_and(|by| by == DRIVER);
        let Some(id) = volume_id(&pv).filter(|_| ours) else { return Ok(Outcome::Settled) };
        // What becomes of the volume when the cluster goes is decided by what the policy is then.
        if self.volume_record(&id).is_some_and(|volume| volume.tags.contains_key(RECLAIM_TAG)) {
            self.tag_volume(&id, RECLAIM_TAG, &policy(&pv)).await?;
        }
        self.tag_volume(&id, PROVISIONED_TAG, "true").await?;
        if !is_unwanted(&pv) {
            return self.release_unkept(&persistent, &pv).await;
        }
        match self.remove(&id).await {
            Ok(true) => {}
            Ok(false) => return Ok(Outcome::Waiting),
            Err(trouble) => {
                if let Trouble::Refused(why) = &trouble {
                    self.tell(&pv.object_ref(&()), EventType::Warning, "VolumeFailedDelete", why.clone())
                        .await;
                }
                return Err(trouble);
            }
        }
        match persistent.delete(name, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(Outcome::Settled),
            deleted => drop(deleted?),
        }
        drop_finalizer(&persistent, &pv, FINALIZER).await?;
        Ok(Outcome::Settled)
    }

    /// One that is deleted by hand and kept by its policy goes as an object alone.
    async fn release_unkept(
        &self,
        persistent: &Api<PersistentVolume>,
        pv: &PersistentVolume,
    ) -> Result<Outcome, Trouble> {
        if pv.metadata.deletion_timestamp.is_some() && policy(pv) != "Delete" {
            drop_finalizer(persistent, pv, FINALIZER).await?;
        }
        Ok(Outcome::Settled)
    }

    /// `true` when nothing is left of it.
    async fn remove(&self, id: &str) -> Result<bool, Trouble> {
        let cluster = &self.place.cluster;
        match self.volume_record(id) {
            None => Ok(true),
            Some(volume) if volume.state == VolumeState::Deleting || volume.attachment.is_some() => Ok(false),
            Some(_) => {
                volumes::delete(&self.place.eks.cloud, &cluster.scope, id).await?;
                Ok(false)
            }
        }
    }

    /// A claim that was deleted between its volume and its PersistentVolume leaves the volume. One that ever was a
    /// PersistentVolume is never taken away here: its policy may be to keep it.
    pub(super) async fn sweep(&self) -> Result<Outcome, Trouble> {
        let persistent: Api<PersistentVolume> = Api::all(self.place.client.clone());
        for volume in self.own_volumes() {
            if volume.state != VolumeState::Available || volume.tags.contains_key(PROVISIONED_TAG) {
                continue;
            }
            let Some(name) = volume.tags.get(NAME_TAG) else { continue };
            if self.is_claimed(&volume, name).await? {
                continue;
            }
            let all = persistent.list(&ListParams::default()).await?;
            if all.iter().any(|pv| volume_id(pv).as_ref() == Some(&volume.id)) {
                self.tag_volume(&volume.id, PROVISIONED_TAG, "true").await?;
                continue;
            }
            tracing::info!(volume = volume.id, "nobody claims it any more");
            self.remove(&volume.id).await?;
        }
        Ok(Outcome::Settled)
    }

    async fn is_claimed(&self, volume: &Volume, name: &str) -> Result<bool, Trouble> {
        let tag = |what: &str| {
            volume.tags.get(&format!("kubernetes.io/created-for/pvc/{what}")).cloned().unwrap_or_default()
        };
        let claims: Api<PersistentVolumeClaim> =
            Api::namespaced(self.place.client.clone(), &tag("namespace"));
        let claim = claims.get_opt(&tag("name")).await?;
        Ok(claim.and_then(|claim| claim.uid()).is_some_and(|uid| name == format!("pvc-{uid}")))
    }
}

fn policy(pv: &PersistentVolume) -> String {
    let policy = pv.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.clone());
    policy.unwrap_or_else(|| "Retain".into())
}

/// Its claim is gone, and it shall go too.
fn is_unwanted(pv: &PersistentVolume) -> bool {
    let phase = pv.status.as_ref().and_then(|status| status.phase.as_deref());
    let released = matches!(phase, Some("Released" | "Failed"));
    let unbound = pv.metadata.deletion_timestamp.is_some() && phase != Some("Bound");
    policy(pv) == "Delete" && (released || unbound)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pv(policy: &str, phase: &str, deleted: bool) -> PersistentVolume {
        let mut made = json!({
            "metadata": {"name": "pvc-1"},
            "spec": {"persistentVolumeReclaimPolicy": policy},
            "status": {"phase": phase},
        });
        if deleted {
            made["metadata"]["deletionTimestamp"] = json!("2026-11-01T12:00:00Z");
        }
        serde_json::from_value(made).expect("a volume")
    }

    #[test]
    fn only_what_was_let_go_and_is_not_kept_goes() {
        for (policy, phase, deleted, goes) in [
            ("Delete", "Bound", false, false),
            ("Delete", "Bound", true, false),
            ("Delete", "Available", false, false),
            ("Delete", "Available", true, true),
            ("Delete", "Released", false, true),
            ("Delete", "Failed", false, true),
            ("Retain", "Released", false, false),
            ("Retain", "Released", true, false),
        ] {
            assert_eq!(is_unwanted(&pv(policy, phase, deleted)), goes, "{policy} {phase} {deleted}");
        }
    }
}

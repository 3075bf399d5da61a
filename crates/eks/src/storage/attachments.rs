//! VolumeAttachments: a volume for the node that the scheduler chose, and away from it.

use super::claims::volume_id;
use super::{DRIVER, Storage};
use crate::controller::{Outcome, Trouble};
use crate::finalizers::{add_finalizer, drop_finalizer};
use ekstra_cloud::ec2::volumes;
use ekstra_domain::ec2::{AttachmentState, Instance, InstanceState};
use k8s_openapi::api::core::v1::{Node, PersistentVolume};
use k8s_openapi::api::storage::v1::VolumeAttachment;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

/// As the attacher of a CSI driver calls it.
const FINALIZER: &str = "external-attacher/ebs-csi-aws-com";

/// The instance, as the attacher of a CSI driver notes it, and the volume.
const INSTANCE: &str = "csi.alpha.kubernetes.io/node-id";
const VOLUME: &str = "ekstra.dev/volume-id";

impl Storage {
    pub(super) async fn attachment(&self, name: &str) -> Result<Outcome, Trouble> {
        let attachments: Api<VolumeAttachment> = Api::all(self.place.client.clone());
        let Some(attachment) = attachments.get_opt(name).await? else { return Ok(Outcome::Settled) };
        if attachment.spec.attacher != DRIVER {
            return Ok(Outcome::Settled);
        }
        let leaves = attachment.metadata.deletion_timestamp.is_some();
        let step = if leaves {
            self.detach(&attachments, &attachment).await
        } else {
            self.attach(&attachments, &attachment).await
        };
        if let Err(Trouble::Refused(why)) = &step {
            let error = json!({"time": now(), "message": why});
            let attached = attachment.status.as_ref().is_some_and(|status| status.attached);
            let what = if leaves { "detachError" } else { "attachError" };
            set_status(&attachments, name, json!({"attached": attached, what: error})).await?;
        }
        step
    }

    async fn attach(
        &self,
        attachments: &Api<VolumeAttachment>,
        attachment: &VolumeAttachment,
    ) -> Result<Outcome, Trouble> {
        if attachment.status.as_ref().is_some_and(|status| status.attached) {
            return Ok(Outcome::Settled);
        }
        add_finalizer(attachments, attachment, FINALIZER).await?;
        let id = self.handle(attachment).await?;
        let id = id.ok_or_else(|| Trouble::refused("its PersistentVolume is gone"))?;
        let node = &attachment.spec.node_name;
        let instance = self.instance_of(node).await?.filter(|i| i.state == InstanceState::Running);
        let instance =
            instance.ok_or_else(|| Trouble::refused(format!("node {node} has no instance that runs")))?;
        note_parties(attachments, attachment, &id, &instance.id).await?;
        let Some(volume) = self.volume_record(&id) else {
            return Err(Trouble::refused(format!("The volume '{id}' does not exist.")));
        };
        match volume.attachment {
            None => {
                self.ask_for(&id, &instance).await?;
                Ok(Outcome::Waiting)
            }
            Some(other) if other.instance != instance.id => Err(Trouble::refused(format!(
                "volume {id} is still attached to {}, which has to let it go first",
                other.instance
            ))),
            Some(own) if own.state == AttachmentState::Attached => {
                let told = json!({
                    "attached": true,
                    "attachmentMetadata": {"devicePath": own.device},
                    "attachError": Value::Null,
                });
                set_status(attachments, &attachment.name_any(), told).await?;
                Ok(Outcome::Settled)
            }
            Some(_) => Ok(Outcome::Waiting),
        }
    }

    async fn ask_for(&self, id: &str, instance: &Instance) -> Result<(), Trouble> {
        let (cloud, scope) = (&self.place.eks.cloud, &self.place.cluster.scope);
        let device = volumes::free_device(cloud, scope, &instance.id)
            .ok_or_else(|| Trouble::refused(format!("{} has no device name left", instance.id)))?;
        volumes::attach(cloud, scope, id, &instance.id, &device).await?;
        Ok(())
    }

    /// Until nothing of it is on the node; then the object may go.
    async fn detach(
        &self,
        attachments: &Api<VolumeAttachment>,
        attachment: &VolumeAttachment,
    ) -> Result<Outcome, Trouble> {
        // As it was when it was attached: PersistentVolume and Node may be gone, volume and instance not.
        let id = match noted(attachment, VOLUME) {
            Some(id) => Some(id),
            None => self.handle(attachment).await?,
        };
        let instance = match noted(attachment, INSTANCE) {
            Some(id) => Some(id),
            None => self.instance_of(&attachment.spec.node_name).await?.map(|instance| instance.id),
        };
        let volume = id.and_then(|id| self.volume_record(&id));
        let held = volume.and_then(|volume| Some((volume.id, volume.attachment?)));
        let held = held.filter(|(_, held)| instance.as_ref() == Some(&held.instance));
        match held {
            None => {
                drop_finalizer(attachments, attachment, FINALIZER).await?;
                Ok(Outcome::Settled)
            }
            Some((_, held)) if held.state == AttachmentState::Detaching => Ok(Outcome::Waiting),
            Some((id, held)) => {
                let scope = &self.place.cluster.scope;
                volumes::detach(&self.place.eks.cloud, scope, &id, Some(&held.instance)).await?;
                Ok(Outcome::Waiting)
            }
        }
    }

    /// A node that ended without a word leaves its attachments: Kubernetes would wait six minutes for it to unmount. Here
    /// it is known that nobody has the volume any more, so its next pod need not wait.
    pub(super) async fn sweep_attachments(&self) -> Result<(), Trouble> {
        let attachments: Api<VolumeAttachment> = Api::all(self.place.client.clone());
        let nodes: Api<Node> = Api::all(self.place.client.clone());
        for attachment in attachments.list(&ListParams::default()).await? {
            let leaves = attachment.metadata.deletion_timestamp.is_some();
            if attachment.spec.attacher != DRIVER || leaves {
                continue;
            }
            if nodes.get_opt(&attachment.spec.node_name).await?.is_some() {
                continue;
            }
            let volume = self.handle(&attachment).await?.and_then(|id| self.volume_record(&id));
            if volume.is_some_and(|volume| volume.attachment.is_some()) {
                continue;
            }
            let name = attachment.name_any();
            tracing::info!(attachment = name, node = attachment.spec.node_name, "its node is gone");
            match attachments.delete(&name, &DeleteParams::default()).await {
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                deleted => drop(deleted?),
            }
        }
        Ok(())
    }

    /// The volume that it is about.
    async fn handle(&self, attachment: &VolumeAttachment) -> Result<Option<String>, Trouble> {
        let persistent: Api<PersistentVolume> = Api::all(self.place.client.clone());
        let Some(name) = &attachment.spec.source.persistent_volume_name else { return Ok(None) };
        Ok(persistent.get_opt(name).await?.as_ref().and_then(volume_id))
    }
}

fn noted(attachment: &VolumeAttachment, what: &str) -> Option<String> {
    attachment.annotations().get(what).cloned()
}

/// What the detachment will need.
async fn note_parties(
    attachments: &Api<VolumeAttachment>,
    attachment: &VolumeAttachment,
    volume: &str,
    instance: &str,
) -> Result<(), Trouble> {
    let is_noted = |what: &str, id: &str| noted(attachment, what).as_deref() == Some(id);
    if is_noted(VOLUME, volume) && is_noted(INSTANCE, instance) {
        return Ok(());
    }
    let patch = Patch::Merge(json!({"metadata": {"annotations": {VOLUME: volume, INSTANCE: instance}}}));
    Ok(attachments.patch(&attachment.name_any(), &PatchParams::default(), &patch).await.map(drop)?)
}

fn now() -> k8s_openapi::apimachinery::pkg::apis::meta::v1::Time {
    k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(k8s_openapi::jiff::Timestamp::now())
}

async fn set_status(attachments: &Api<VolumeAttachment>, name: &str, status: Value) -> Result<(), Trouble> {
    let patch = Patch::Merge(json!({"status": status}));
    match attachments.patch_status(name, &PatchParams::default(), &patch).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        patched => Ok(patched.map(drop)?),
    }
}

//! The volume reconciler: files and devices as the records say.

use super::{snapshot_file, volume_file};
use crate::{Cloud, on_host};
use ekstra_domain::ec2::{
    AttachmentState, Instance, InstanceLife, InstanceState, ObservedVolume, Snapshot, SnapshotState, Volume,
    VolumeAction, VolumeState, plan_volume,
};
use ekstra_domain::names::keys;
use ekstra_engine::{Next, Reconciler};
use ekstra_host::{AttachmentSpec, ChildId, ChildStatus, Host, HostError, VolumeSpec};
use ekstra_store::{CommitError, Txn};
use futures::FutureExt;
use futures::future::BoxFuture;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How soon to look again whether a snapshot of a volume that shall go is made.
const SNAPSHOT_POLL: Duration = Duration::from_millis(200);

/// Keeps every volume as its record says.
#[derive(Debug)]
pub struct VolumeReconciler {
    pub cloud: Cloud,
    pub host: Arc<dyn Host>,
}

#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Store(#[from] CommitError),
    #[error("{0} is not there; it is waited for, since it holds the volume")]
    Missing(PathBuf),
}

impl Reconciler for VolumeReconciler {
    type Error = VolumeError;

    fn name(&self) -> &'static str {
        "volume"
    }

    fn keys(&self) -> Vec<String> {
        self.cloud.store.view().list(keys::VOLUMES).into_iter().map(|(key, _)| key.to_string()).collect()
    }

    fn affected(&self, changed: &str) -> Vec<String> {
        if changed.starts_with(keys::VOLUMES) {
            return vec![changed.to_owned()];
        }
        let Some(rest) = changed.strip_prefix(keys::INSTANCES) else { return Vec::new() };
        let id = rest.rsplit('/').next().unwrap_or_default();
        let volumes = self.cloud.store.view().list_as::<Volume>(keys::VOLUMES);
        let of_instance = |v: &Volume| v.attachment.as_ref().is_some_and(|a| a.instance == id);
        volumes.into_iter().filter(|(_, v)| of_instance(v)).map(|(key, _)| key.to_string()).collect()
    }

    fn reconcile(&self, key: String) -> BoxFuture<'_, Result<Next, VolumeError>> {
        async move {
            let Some(volume) = self.cloud.store.view().get_as::<Volume>(&key) else {
                return Ok(Next::OnChange);
            };
            if volume.state == VolumeState::Deleting && self.is_being_copied(&volume) {
                return Ok(Next::After(SNAPSHOT_POLL));
            }
            let observed = self.observe(&volume).await?;
            for action in plan_volume(&volume, &observed) {
                tracing::info!(volume = volume.id, ?action);
                let applied = self.apply(&key, &volume, action).await;
                if let (Err(error), VolumeAction::MakeFile) = (&applied, action) {
                    self.note_trouble(&key, error.to_string()).await?;
                }
                applied?;
            }
            Ok(Next::OnChange)
        }
        .boxed()
    }
}

impl VolumeReconciler {
    fn is_being_copied(&self, volume: &Volume) -> bool {
        let prefix = keys::scoped(keys::SNAPSHOTS, &volume.scope);
        let snapshots = self.cloud.store.view().list_as::<Snapshot>(&prefix);
        snapshots
            .iter()
            .any(|(_, s)| s.volume == volume.id && s.state == SnapshotState::Pending && !s.deleting)
    }

    fn attachment(&self, volume: &Volume) -> AttachmentSpec {
        let attachment = volume.attachment.as_ref();
        let device = attachment.map(|a| a.device.trim_start_matches("/dev/").to_owned());
        AttachmentSpec {
            path: volume_file(&self.cloud, &volume.id),
            instance: ChildId(attachment.map(|a| a.instance.clone()).unwrap_or_default()),
            device: device.unwrap_or_default(),
            // As udev names it on EC2's Nitro instances: the serial number has no dash.
            alias: format!("nvme-Amazon_Elastic_Block_Store_{}", volume.id.replace('-', "")),
        }
    }

    async fn observe(&self, volume: &Volume) -> Result<ObservedVolume, VolumeError> {
        let spec = self.attachment(volume);
        let (bytes, device, status) = on_host(&self.host, move |host| {
            let bytes = host.volume_bytes(&spec.path)?;
            Ok((bytes, host.volume_device(&spec)?, host.child_status(&spec.instance)?))
        })
        .await?;
        let instance: Option<Instance> = volume.attachment.as_ref().and_then(|attachment| {
            self.cloud.store.view().get_as(&keys::instance(&volume.scope, &attachment.instance))
        });
        let instance = match instance.map(|i| i.state) {
            Some(InstanceState::Running) if matches!(status, ChildStatus::Running(_)) => {
                InstanceLife::Running
            }
            Some(state) if state.is_alive() => InstanceLife::Pending,
            _ => InstanceLife::Over,
        };
        Ok(ObservedVolume { bytes, device, instance })
    }

    async fn apply(&self, key: &str, volume: &Volume, action: VolumeAction) -> Result<(), VolumeError> {
        let path = volume_file(&self.cloud, &volume.id);
        let spec = self.attachment(volume);
        let now = self.cloud.env.now_ms();
        match action {
            VolumeAction::AwaitFile => Err(VolumeError::Missing(path)),
            VolumeAction::MakeFile => {
                let source = volume.snapshot.as_ref().map(|id| snapshot_file(&self.cloud, id));
                let spec = VolumeSpec { path, bytes: u64::from(volume.size_gib) << 30, source };
                Ok(on_host(&self.host, move |host| host.ensure_volume(&spec)).await?)
            }
            VolumeAction::Grow => {
                let spec = VolumeSpec { path, bytes: u64::from(volume.size_gib) << 30, source: None };
                match on_host(&self.host, move |host| host.ensure_volume(&spec)).await {
                    Err(error) if error.is_too_large() => self.give_up_growing(key, volume, &error).await,
                    grown => Ok(grown?),
                }
            }
            VolumeAction::Attach => Ok(on_host(&self.host, move |host| host.attach_volume(&spec)).await?),
            VolumeAction::Detach => Ok(on_host(&self.host, move |host| host.detach_volume(&spec)).await?),
            VolumeAction::MarkAvailable => {
                self.update(key, |volume| {
                    let creating = volume.state == VolumeState::Creating;
                    if creating {
                        volume.state = VolumeState::Available;
                        volume.trouble = None;
                    }
                    creating
                })
                .await
            }
            VolumeAction::MarkAttached => {
                self.update(key, |now_volume| match &mut now_volume.attachment {
                    // Whoever asked for the end meanwhile is not overruled.
                    Some(attachment) if attachment.state == AttachmentState::Attaching => {
                        attachment.state = AttachmentState::Attached;
                        attachment.since_ms = now;
                        true
                    }
                    _ => false,
                })
                .await
            }
            VolumeAction::MarkDetached => {
                let seen = volume.attachment.as_ref().map(|a| a.instance.clone());
                self.update(key, |now_volume| {
                    let same = now_volume.attachment.as_ref().map(|a| a.instance.clone()) == seen;
                    if same {
                        now_volume.attachment = None;
                        // Whoever asked for its deletion meanwhile is not overruled.
                        if now_volume.state == VolumeState::InUse {
                            now_volume.state = VolumeState::Available;
                        }
                    }
                    same
                })
                .await
            }
            VolumeAction::MarkModified => {
                self.update(key, |now_volume| match &mut now_volume.modification {
                    Some(modification)
                        if modification.ended_ms.is_none() && now_volume.size_gib == volume.size_gib =>
                    {
                        modification.ended_ms = Some(now);
                        true
                    }
                    _ => false,
                })
                .await
            }
            VolumeAction::Forget => {
                on_host(&self.host, move |host| host.remove_volume(&path)).await?;
                let body = |txn: &mut Txn| {
                    txn.delete(key);
                    Ok::<_, CommitError>(())
                };
                Ok(self.cloud.store.transact(body).await?)
            }
        }
    }

    /// For whoever looks why it is still being created.
    async fn note_trouble(&self, key: &str, trouble: String) -> Result<(), VolumeError> {
        self.update(key, |volume| {
            let is_new = volume.trouble.as_ref() != Some(&trouble);
            volume.trouble = Some(trouble.clone());
            is_new
        })
        .await
    }

    /// This machine's disk has no files of that size: the volume is what it was.
    async fn give_up_growing(&self, key: &str, volume: &Volume, why: &HostError) -> Result<(), VolumeError> {
        let now = self.cloud.env.now_ms();
        self.update(key, |now_volume| match &mut now_volume.modification {
            Some(modification) if now_volume.size_gib == volume.size_gib => {
                modification.ended_ms = Some(now);
                modification.failure = Some(why.to_string());
                now_volume.size_gib = modification.original_gib;
                now_volume.performance = modification.original.clone();
                true
            }
            _ => false,
        })
        .await
    }

    async fn update(&self, key: &str, change: impl Fn(&mut Volume) -> bool) -> Result<(), VolumeError> {
        let body = |txn: &mut Txn| {
            if let Some(mut volume) = txn.get::<Volume>(key)?
                && change(&mut volume)
            {
                txn.put(key, &volume)?;
            }
            Ok::<_, CommitError>(())
        };
        Ok(self.cloud.store.transact(body).await?)
    }
}

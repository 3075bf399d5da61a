//! The services Identity and Node of CSI.

use super::DRIVER;
use super::device::{self, DeviceError, Use};
use super::generated::csi::*;
use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tonic::{Request, Response, Status};
use volume_capability::{AccessType, MountVolume};

/// How many volumes an instance takes, beside its own disk: device names are what there is of them.
const MAX_VOLUMES: i64 = 25;

/// What the instance knows about itself.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) instance: String,
    pub(super) zone: String,
}

#[derive(Debug)]
pub(super) struct Driver {
    facts: Facts,
    /// Volumes with a call under way. The kubelet tries again.
    busy: Busy,
}

type Busy = Arc<Mutex<BTreeSet<String>>>;

/// Its volume's turn, until it is dropped: by whoever does the work, which goes on when the kubelet has hung up.
struct Turn {
    busy: Busy,
    volume: String,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.volume);
    }
}

impl Driver {
    pub(super) fn new(facts: Facts) -> Arc<Self> {
        Arc::new(Self { facts, busy: Busy::default() })
    }

    fn turn(&self, volume: &str) -> Result<Turn, Status> {
        if volume.is_empty() {
            return Err(Status::invalid_argument("a volume id is missing"));
        }
        let free = self.busy.lock().unwrap_or_else(PoisonError::into_inner).insert(volume.to_owned());
        if free {
            return Ok(Turn { busy: self.busy.clone(), volume: volume.to_owned() });
        }
        Err(Status::aborted(format!("another call for {volume} is under way")))
    }
}

fn path(text: &str, what: &str) -> Result<PathBuf, Status> {
    if text.is_empty() {
        Err(Status::invalid_argument(format!("{what} is missing")))
    } else {
        Ok(text.into())
    }
}

fn mounted(capability: Option<VolumeCapability>) -> Result<MountVolume, Status> {
    match capability.and_then(|c| c.access_type) {
        Some(AccessType::Mount(mount)) => Ok(mount),
        Some(AccessType::Block(_)) => {
            Err(Status::invalid_argument("raw block volumes (volumeMode: Block) are not supported"))
        }
        None => Err(Status::invalid_argument("a volume capability is missing")),
    }
}

/// Runs what waits for the kernel on a thread that may.
async fn blocking<T: Send + 'static>(
    turn: Option<Turn>,
    work: impl FnOnce() -> Result<T, DeviceError> + Send + 'static,
) -> Result<T, Status> {
    let done = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        work()
    })
    .await;
    done.map_err(|error| Status::internal(error.to_string()))?.map_err(|error| {
        say!("csi: {error}");
        match &error {
            DeviceError::NotAttached(_) => Status::unavailable(error.to_string()),
            DeviceError::FileSystem(_) => Status::invalid_argument(error.to_string()),
            DeviceError::InUse => Status::failed_precondition(error.to_string()),
            DeviceError::NoSuchPath(_) => Status::not_found(error.to_string()),
            DeviceError::Tool { .. } | DeviceError::Io { .. } => Status::internal(error.to_string()),
        }
    })
}

#[tonic::async_trait]
impl identity_server::Identity for Driver {
    async fn get_plugin_info(
        &self,
        _: Request<GetPluginInfoRequest>,
    ) -> Result<Response<GetPluginInfoResponse>, Status> {
        Ok(Response::new(GetPluginInfoResponse {
            name: DRIVER.into(),
            vendor_version: env!("CARGO_PKG_VERSION").into(),
        }))
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<GetPluginCapabilitiesRequest>,
    ) -> Result<Response<GetPluginCapabilitiesResponse>, Status> {
        use plugin_capability::service::Type::{ControllerService, VolumeAccessibilityConstraints};
        let capability = |kind: plugin_capability::service::Type| PluginCapability {
            r#type: Some(plugin_capability::Type::Service(plugin_capability::Service {
                r#type: kind.into(),
            })),
        };
        let capabilities = [ControllerService, VolumeAccessibilityConstraints].map(capability).to_vec();
        Ok(Response::new(GetPluginCapabilitiesResponse { capabilities }))
    }

    async fn probe(&self, _: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        Ok(Response::new(ProbeResponse {}))
    }
}

#[tonic::async_trait]
impl node_server::Node for Driver {
    async fn node_stage_volume(
        &self,
        request: Request<NodeStageVolumeRequest>,
    ) -> Result<Response<NodeStageVolumeResponse>, Status> {
        let request = request.into_inner();
        let mount = mounted(request.volume_capability)?;
        let to = path(&request.staging_target_path, "the staging path")?;
        let turn = Some(self.turn(&request.volume_id)?);
        let volume = request.volume_id;
        let kind = if mount.fs_type.is_empty() { "ext4".to_owned() } else { mount.fs_type };
        blocking(turn, move || {
            let device = device::wait_for(&volume)?;
            device::stage(&device, &to, &kind, &mount.mount_flags)
        })
        .await?;
        Ok(Response::new(NodeStageVolumeResponse {}))
    }

    async fn node_unstage_volume(
        &self,
        request: Request<NodeUnstageVolumeRequest>,
    ) -> Result<Response<NodeUnstageVolumeResponse>, Status> {
        let request = request.into_inner();
        let at = path(&request.staging_target_path, "the staging path")?;
        let turn = Some(self.turn(&request.volume_id)?);
        blocking(turn, move || device::unmount(&at)).await?;
        Ok(Response::new(NodeUnstageVolumeResponse {}))
    }

    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        let request = request.into_inner();
        mounted(request.volume_capability)?;
        let from = path(&request.staging_target_path, "the staging path")?;
        let to = path(&request.target_path, "the target path")?;
        let turn = Some(self.turn(&request.volume_id)?);
        blocking(turn, move || device::publish(&from, &to, request.readonly)).await?;
        Ok(Response::new(NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        let request = request.into_inner();
        let at = path(&request.target_path, "the target path")?;
        let turn = Some(self.turn(&request.volume_id)?);
        blocking(turn, move || device::unpublish(&at)).await?;
        Ok(Response::new(NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<NodeGetVolumeStatsRequest>,
    ) -> Result<Response<NodeGetVolumeStatsResponse>, Status> {
        let at = path(&request.into_inner().volume_path, "the volume path")?;
        let (bytes, inodes) = blocking(None, move || device::measure(&at)).await?;
        let usage = |unit: volume_usage::Unit, used: Use| VolumeUsage {
            available: used.available,
            total: used.total,
            used: used.used,
            unit: unit.into(),
        };
        let usage = vec![usage(volume_usage::Unit::Bytes, bytes), usage(volume_usage::Unit::Inodes, inodes)];
        Ok(Response::new(NodeGetVolumeStatsResponse { usage }))
    }

    async fn node_expand_volume(
        &self,
        request: Request<NodeExpandVolumeRequest>,
    ) -> Result<Response<NodeExpandVolumeResponse>, Status> {
        let request = request.into_inner();
        let at = path(&request.volume_path, "the volume path")?;
        let turn = Some(self.turn(&request.volume_id)?);
        let volume = request.volume_id.clone();
        let capacity_bytes = blocking(turn, move || device::grow(&device::wait_for(&volume)?, &at)).await?;
        Ok(Response::new(NodeExpandVolumeResponse { capacity_bytes }))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<NodeGetCapabilitiesRequest>,
    ) -> Result<Response<NodeGetCapabilitiesResponse>, Status> {
        use node_service_capability::rpc::Type::{ExpandVolume, GetVolumeStats, StageUnstageVolume};
        let capability = |kind: node_service_capability::rpc::Type| NodeServiceCapability {
            r#type: Some(node_service_capability::Type::Rpc(node_service_capability::Rpc {
                r#type: kind.into(),
            })),
        };
        let capabilities = [StageUnstageVolume, GetVolumeStats, ExpandVolume].map(capability).to_vec();
        Ok(Response::new(NodeGetCapabilitiesResponse { capabilities }))
    }

    async fn node_get_info(
        &self,
        _: Request<NodeGetInfoRequest>,
    ) -> Result<Response<NodeGetInfoResponse>, Status> {
        let keys = ["topology.kubernetes.io/zone", "topology.ebs.csi.aws.com/zone"];
        let segments: HashMap<_, _> =
            keys.into_iter().map(|key| (key.to_owned(), self.facts.zone.clone())).collect();
        Ok(Response::new(NodeGetInfoResponse {
            node_id: self.facts.instance.clone(),
            max_volumes_per_node: MAX_VOLUMES,
            accessible_topology: Some(Topology { segments }),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::node_server::Node;
    use super::*;
    use tonic::Code;

    fn driver() -> Arc<Driver> {
        Driver::new(Facts { instance: "i-1".into(), zone: "us-east-1a".into() })
    }

    fn stage(access_type: Option<AccessType>, path: &str) -> Request<NodeStageVolumeRequest> {
        Request::new(NodeStageVolumeRequest {
            volume_id: "vol-1".into(),
            staging_target_path: path.into(),
            volume_capability: Some(VolumeCapability { access_type }),
            ..Default::default()
        })
    }

    #[tokio::test]
    async fn a_node_says_its_instance_and_zone() {
        let info = driver().node_get_info(Request::new(NodeGetInfoRequest {})).await.expect("answers");
        let info = info.into_inner();
        assert_eq!(info.node_id, "i-1");
        let zones = info.accessible_topology.expect("has one").segments;
        assert_eq!(zones["topology.kubernetes.io/zone"], "us-east-1a");
    }

    #[tokio::test]
    async fn what_is_missing_or_not_supported_is_named() {
        let driver = driver();
        let block = Some(AccessType::Block(volume_capability::BlockVolume {}));
        for (request, why) in [
            (stage(block, "/x"), "volumeMode: Block"),
            (stage(None, "/x"), "capability is missing"),
            (stage(Some(AccessType::Mount(MountVolume::default())), ""), "staging path is missing"),
        ] {
            let status = driver.node_stage_volume(request).await.expect_err(why);
            assert_eq!(status.code(), Code::InvalidArgument);
            assert!(status.message().contains(why), "{status}");
        }
    }

    #[tokio::test]
    async fn a_volume_has_one_call_at_a_time() {
        let driver = driver();
        let turn = driver.turn("vol-1").expect("is free");
        let mount = Some(AccessType::Mount(MountVolume::default()));
        let status = driver.node_stage_volume(stage(mount, "/x")).await.expect_err("is busy");
        assert_eq!(status.code(), Code::Aborted);
        drop(turn);
        assert!(driver.turn("vol-1").is_ok());
    }

    #[tokio::test]
    async fn a_path_that_is_gone_is_not_found() {
        let request = NodeGetVolumeStatsRequest { volume_id: "vol-1".into(), volume_path: "/no/such".into() };
        let status = driver().node_get_volume_stats(Request::new(request)).await.expect_err("is gone");
        assert_eq!(status.code(), Code::NotFound);
    }
}

//! Claims: a volume for each that waits for one, a larger one for each that asks for more.

use super::parameters::{self, Parameters};
use super::{CLUSTER_TAG, DRIVER, NAME_TAG, PROVISIONED_TAG, RECLAIM_TAG, Storage, snapshots};
use crate::controller::{Outcome, Trouble};
use ekstra_cloud::ec2::volumes::{self, Change, NewVolume};
use ekstra_domain::ec2::{Volume, VolumeRefusal, VolumeState, performance};
use ekstra_wire::ApiError;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, TypedObjectReference};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::events::EventType;
use kube::{Resource, ResourceExt};
use serde_json::json;
use std::collections::BTreeMap;

const PROVISIONER: [&str; 2] =
    ["volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"];
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
pub(super) const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
pub(super) const FINALIZER: &str = "external-provisioner.volume.kubernetes.io/finalizer";
const ZONE: &str = "topology.kubernetes.io/zone";
const ZONES: [&str; 3] = [ZONE, "topology.ebs.csi.aws.com/zone", "failure-domain.beta.kubernetes.io/zone"];

/// A claim that waits for a volume, and everything that decides what it gets.
struct Wanted {
    claim: PersistentVolumeClaim,
    class: StorageClass,
    parameters: Parameters,
    /// Of volume and PersistentVolume: `pvc-<uid>`.
    name: String,
    size_gib: u32,
    zone: String,
    snapshot: Option<String>,
}

impl Storage {
    pub(super) async fn claim(&self, namespace: &str, name: &str) -> Result<Outcome, Trouble> {
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.place.client.clone(), namespace);
        let Some(claim) = claims.get_opt(name).await? else { return Ok(Outcome::Settled) };
        if claim.metadata.deletion_timestamp.is_some() {
            return self.release_source(&claims, &claim).await;
        }
        let about = claim.object_ref(&());
        let bound = claim.spec.as_ref().and_then(|s| s.volume_name.clone()).filter(|name| !name.is_empty());
        let (step, reason) = match bound {
            Some(volume) => (self.grow(&claims, &claim, &volume).await, "VolumeResizeFailed"),
            None => (self.provision(claim).await, "ProvisioningFailed"),
        };
        if let Err(Trouble::Refused(why)) = &step {
            self.tell(&about, EventType::Warning, reason, why.clone()).await;
        }
        step
    }

    async fn provision(&self, claim: PersistentVolumeClaim) -> Result<Outcome, Trouble> {
        let annotations = claim.annotations();
        if !PROVISIONER.iter().any(|key| annotations.get(*key).is_some_and(|value| value == DRIVER)) {
            return Ok(Outcome::Settled);
        }
        let Some(wanted) = self.wanted(claim).await? else { return Ok(Outcome::Settled) };
        let persistent: Api<PersistentVolume> = Api::all(self.place.client.clone());
        if persistent.get_opt(&wanted.name).await?.is_some() {
            return Ok(Outcome::Settled);
        }
        let Some(volume) = self.ensure_volume(&wanted).await? else { return Ok(Outcome::Waiting) };
        match persistent.create(&PostParams::default(), &persistent_volume(&wanted, &volume)).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            created => drop(created?),
        }
        self.tag_volume(&volume.id, PROVISIONED_TAG, "true").await?;
        let note = format!("Successfully provisioned volume {}", wanted.name);
        self.tell(&wanted.claim.object_ref(&()), EventType::Normal, "ProvisioningSucceeded", note).await;
        Ok(Outcome::Settled)
    }

    /// `None`: not yet, or not ours.
    async fn wanted(&self, claim: PersistentVolumeClaim) -> Result<Option<Wanted>, Trouble> {
        let spec = claim.spec.clone().unwrap_or_default();
        let classes: Api<StorageClass> = Api::all(self.place.client.clone());
        let class_name = spec.storage_class_name.clone().unwrap_or_default();
        let Some(class) = classes.get_opt(&class_name).await? else {
            return Err(Trouble::refused(format!("there is no StorageClass \"{class_name}\"")));
        };
        let node = claim.annotations().get(SELECTED_NODE).cloned();
        if let Some(name) = &node
            && Api::<Node>::all(self.place.client.clone()).get_opt(name).await?.is_none()
        {
            return self.choose_again(&claim).await;
        }
        let waits = class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer");
        if waits && node.is_none() {
            return Ok(None);
        }
        let fail = |why: String| {
            Trouble::refused(format!("failed to provision volume with StorageClass \"{class_name}\": {why}"))
        };
        check_modes(&claim).map_err(fail)?;
        let parameters =
            parameters::parse(class.parameters.as_ref().unwrap_or(&BTreeMap::new())).map_err(fail)?;
        let requests = spec.resources.and_then(|r| r.requests).unwrap_or_default();
        let asked = requests.get("storage").map(|q| q.0.clone()).unwrap_or_default();
        let size_gib = parameters::gib(&asked).map_err(fail)?;
        let snapshot = match source(&spec.data_source_ref).map_err(fail)? {
            Some(name) => Some(snapshots::handle(&self.place.client, &claim, &name).await?),
            None => None,
        };
        let zone = self.zone(&class, node.as_deref()).await?.map_err(fail)?;
        let name = format!("pvc-{}", claim.uid().unwrap_or_default());
        Ok(Some(Wanted { claim, class, parameters, name, size_gib, zone, snapshot }))
    }

    /// The node that the scheduler chose is gone, and it chooses no other while its choice stands.
    async fn choose_again(&self, claim: &PersistentVolumeClaim) -> Result<Option<Wanted>, Trouble> {
        let namespace = claim.namespace().unwrap_or_default();
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.place.client.clone(), &namespace);
        let patch = json!({"metadata": {
            "annotations": {SELECTED_NODE: serde_json::Value::Null},
            "resourceVersion": claim.resource_version(),
        }});
        claims.patch(&claim.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(None)
    }

    /// That of the node that the scheduler chose; without one, a zone that has nodes.
    async fn zone(
        &self,
        class: &StorageClass,
        node: Option<&str>,
    ) -> Result<Result<String, String>, Trouble> {
        let nodes: Api<Node> = Api::all(self.place.client.clone());
        let zone_of = |node: &Node| node.labels().get(ZONE).cloned();
        if let Some(name) = node {
            let Some(node) = nodes.get_opt(name).await? else {
                return Ok(Err(format!("node \"{name}\" is gone")));
            };
            return Ok(zone_of(&node).ok_or_else(|| format!("node \"{name}\" has no zone yet")));
        }
        let allowed = allowed_zones(class);
        let all = nodes.list(&ListParams::default()).await?;
        let mut zones: Vec<String> = all.iter().filter_map(zone_of).collect();
        zones.extend(allowed.clone().unwrap_or_default());
        zones.sort();
        let found = zones.into_iter().find(|zone| allowed.as_ref().is_none_or(|a| a.contains(zone)));
        Ok(found.ok_or_else(|| "there is no node, so no zone for the volume".to_owned()))
    }

    /// The volume, once it is there.
    async fn ensure_volume(&self, wanted: &Wanted) -> Result<Option<Volume>, Trouble> {
        let cloud = &self.place.eks.cloud;
        let scope = &self.place.cluster.scope;
        match self.volume_named(&wanted.name) {
            // The scheduler has chosen again, in another zone.
            Some(volume) if volume.zone != wanted.zone && volume.state != VolumeState::Deleting => {
                volumes::delete(cloud, scope, &volume.id).await?;
                Ok(None)
            }
            Some(volume) if volume.trouble.is_some() => {
                Err(Trouble::refused(volume.trouble.unwrap_or_default()))
            }
            Some(volume) => Ok((volume.state == VolumeState::Available).then_some(volume)),
            None => {
                let performance = wanted.parameters.performance(wanted.size_gib).map_err(Trouble::refused)?;
                let about = wanted.claim.object_ref(&());
                let (namespace, name) =
                    (wanted.claim.namespace().unwrap_or_default(), wanted.claim.name_any());
                let new = NewVolume {
                    scope: scope.clone(),
                    zone: wanted.zone.clone(),
                    size_gib: wanted.size_gib,
                    performance,
                    snapshot: wanted.snapshot.clone(),
                    tags: self.tags(wanted, &namespace, &name),
                    token: None,
                    digest: String::new(),
                };
                volumes::create(cloud, new).await?;
                let note =
                    format!("External provisioner is provisioning volume for claim \"{namespace}/{name}\"");
                self.tell(&about, EventType::Normal, "Provisioning", note).await;
                Ok(None)
            }
        }
    }

    /// As the driver of AWS tags its volumes, and what the sweep needs.
    fn tags(&self, wanted: &Wanted, namespace: &str, name: &str) -> BTreeMap<String, String> {
        let cluster = &self.place.cluster;
        let own = [
            (NAME_TAG, wanted.name.clone()),
            ("kubernetes.io/created-for/pvc/namespace", namespace.to_owned()),
            ("kubernetes.io/created-for/pvc/name", name.to_owned()),
            ("kubernetes.io/created-for/pv/name", wanted.name.clone()),
            ("ebs.csi.aws.com/cluster", "true".to_owned()),
            ("Name", format!("{}-dynamic-{}", cluster.name, wanted.name)),
            (CLUSTER_TAG, cluster.uid.clone()),
            (RECLAIM_TAG, reclaim_policy(&wanted.class)),
        ];
        let own = own.into_iter().map(|(key, value)| (key.to_owned(), value));
        wanted.parameters.tags.clone().into_iter().chain(own).collect()
    }

    /// What a claim asks for beyond what its volume has.
    async fn grow(
        &self,
        claims: &Api<PersistentVolumeClaim>,
        claim: &PersistentVolumeClaim,
        volume: &str,
    ) -> Result<Outcome, Trouble> {
        let persistent: Api<PersistentVolume> = Api::all(self.place.client.clone());
        let Some(pv) = persistent.get_opt(volume).await? else { return Ok(Outcome::Settled) };
        let Some(id) = volume_id(&pv).filter(|_| is_bound(claim, &pv)) else { return Ok(Outcome::Settled) };
        let spec = claim.spec.clone().unwrap_or_default();
        let asked = spec.resources.and_then(|r| r.requests).and_then(|r| r.get("storage").cloned());
        let has = pv.spec.as_ref().and_then(|s| s.capacity.as_ref()?.get("storage").cloned());
        let (Some(asked), Some(has)) = (asked, has) else { return Ok(Outcome::Settled) };
        let (want, have) = (
            parameters::gib(&asked.0).map_err(Trouble::refused)?,
            parameters::gib(&has.0).map_err(Trouble::refused)?,
        );
        if want <= have {
            // A predecessor may have told the volume of it, and not the claim.
            if lags_behind(claim, have) {
                return self.tell_resized(claims, claim, have).await;
            }
            return Ok(Outcome::Settled);
        }
        let Some(record) = self.volume_record(&id) else {
            return Err(Trouble::refused(format!("volume {id} is gone")));
        };
        let failed = record.modification.as_ref().filter(|m| m.target_gib == want);
        if let Some(why) = failed.and_then(|m| m.failure.clone()) {
            return Err(Trouble::refused(why));
        }
        let is_modified = record.modification.as_ref().is_none_or(|m| m.ended_ms.is_some());
        if record.size_gib < want {
            if is_modified {
                let change = |volume: &Volume| {
                    let now = &volume.performance;
                    let kept = now.kind != "gp2";
                    let (iops, throughput) = (now.iops.filter(|_| kept), now.throughput.filter(|_| kept));
                    let performance = performance(&now.kind, want, iops, throughput);
                    let refused =
                        |why: VolumeRefusal| ApiError::client("InvalidParameterValue", 400, why.to_string());
                    Ok(Change { size_gib: want, performance: performance.map_err(refused)? })
                };
                let cluster = &self.place.cluster;
                volumes::modify(&self.place.eks.cloud, &cluster.scope, &id, change).await?;
                let note = format!("External resizer is resizing volume {volume}");
                self.tell(&claim.object_ref(&()), EventType::Normal, "Resizing", note).await;
            }
            return Ok(Outcome::Waiting);
        }
        if !is_modified {
            return Ok(Outcome::Waiting);
        }
        let size = format!("{want}Gi");
        let capacity = json!({"spec": {"capacity": {"storage": size}}});
        persistent.patch(volume, &PatchParams::default(), &Patch::Merge(capacity)).await?;
        self.tell_resized(claims, claim, want).await
    }

    async fn tell_resized(
        &self,
        claims: &Api<PersistentVolumeClaim>,
        claim: &PersistentVolumeClaim,
        gib: u32,
    ) -> Result<Outcome, Trouble> {
        let status = Patch::Merge(resized(&format!("{gib}Gi")));
        claims.patch_status(&claim.name_any(), &PatchParams::default(), &status).await?;
        let note = "Require file system resize of volume on node".to_owned();
        self.tell(&claim.object_ref(&()), EventType::Normal, "FileSystemResizeRequired", note).await;
        Ok(Outcome::Settled)
    }
}

/// Both say so. A claim may name any volume, which is then not its own.
pub(super) fn is_bound(claim: &PersistentVolumeClaim, pv: &PersistentVolume) -> bool {
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
    let claimant = pv.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()?.uid.clone());
    phase == Some("Bound") && claimant.is_some() && claimant == claim.uid()
}

/// Whether the claim's file system is to become larger, and nobody has told it.
fn lags_behind(claim: &PersistentVolumeClaim, gib: u32) -> bool {
    let Some(status) = &claim.status else { return false };
    let told = status.allocated_resource_statuses.as_ref().is_some_and(|s| s.contains_key("storage"));
    let has = status.capacity.as_ref().and_then(|capacity| parameters::gib(&capacity.get("storage")?.0).ok());
    !told && has.is_some_and(|has| has < gib)
}

/// What the kubelet waits for before it grows the file system.
fn resized(size: &str) -> serde_json::Value {
    json!({"status": {
        "allocatedResources": {"storage": size},
        "allocatedResourceStatuses": {"storage": "NodeResizePending"},
        "conditions": [{
            "type": "FileSystemResizePending",
            "status": "True",
            "message": "Waiting for user to (re-)start a pod to finish file system resize of volume on node.",
        }],
    }})
}

fn check_modes(claim: &PersistentVolumeClaim) -> Result<(), String> {
    let spec = claim.spec.clone().unwrap_or_default();
    if spec.volume_mode.as_deref() == Some("Block") {
        return Err("raw block volumes (volumeMode: Block) are not supported".into());
    }
    let shared = |mode: &&String| *mode == "ReadWriteMany" || *mode == "ReadOnlyMany";
    match spec.access_modes.unwrap_or_default().iter().find(shared) {
        Some(mode) => Err(format!("an EBS volume is on one node at a time: {mode} is not supported")),
        None => Ok(()),
    }
}

/// The snapshot that a claim begins with.
fn source(reference: &Option<TypedObjectReference>) -> Result<Option<String>, String> {
    let Some(reference) = reference else { return Ok(None) };
    match (reference.api_group.as_deref(), reference.kind.as_str()) {
        (Some(snapshots::GROUP), "VolumeSnapshot") => Ok(Some(reference.name.clone())),
        (_, kind) => Err(format!("a volume cannot be made of a {kind}")),
    }
}

fn allowed_zones(class: &StorageClass) -> Option<Vec<String>> {
    let terms = class.allowed_topologies.as_ref()?;
    let expressions = terms.iter().flat_map(|term| term.match_label_expressions.iter().flatten());
    let zones = expressions.filter(|e| ZONES.contains(&e.key.as_str())).flat_map(|e| e.values.clone());
    Some(zones.collect())
}

fn reclaim_policy(class: &StorageClass) -> String {
    class.reclaim_policy.clone().unwrap_or_else(|| "Delete".into())
}

/// The volume behind a PersistentVolume that is ours.
pub(super) fn volume_id(pv: &PersistentVolume) -> Option<String> {
    let csi = pv.spec.as_ref()?.csi.as_ref()?;
    (csi.driver == DRIVER).then(|| csi.volume_handle.clone())
}

fn persistent_volume(wanted: &Wanted, volume: &Volume) -> PersistentVolume {
    let (claim, class) = (&wanted.claim, &wanted.class);
    let spec = claim.spec.clone().unwrap_or_default();
    let made = json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {
            "name": wanted.name,
            "annotations": {PROVISIONED_BY: DRIVER},
            "finalizers": [FINALIZER],
            "labels": {ZONE: volume.zone, "topology.kubernetes.io/region": volume.scope.region},
        },
        "spec": {
            "capacity": {"storage": format!("{}Gi", volume.size_gib)},
            "accessModes": spec.access_modes,
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": claim.namespace(),
                "name": claim.name_any(),
                "uid": claim.uid(),
                "resourceVersion": claim.resource_version(),
            },
            "persistentVolumeReclaimPolicy": reclaim_policy(class),
            "storageClassName": class.name_any(),
            "mountOptions": class.mount_options,
            "volumeMode": "Filesystem",
            "csi": {"driver": DRIVER, "volumeHandle": volume.id, "fsType": wanted.parameters.file_system},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{
                "matchExpressions": [{"key": ZONE, "operator": "In", "values": [volume.zone]}],
            }]}},
        },
    });
    serde_json::from_value(made).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(spec: serde_json::Value) -> PersistentVolumeClaim {
        serde_json::from_value(json!({"metadata": {"name": "data", "uid": "u"}, "spec": spec}))
            .expect("a claim")
    }

    #[test]
    fn what_an_ebs_volume_cannot_be_is_named() {
        assert!(check_modes(&claim(json!({"accessModes": ["ReadWriteOnce"]}))).is_ok());
        let shared = check_modes(&claim(json!({"accessModes": ["ReadWriteMany"]}))).expect_err("refused");
        assert!(shared.contains("ReadWriteMany"), "{shared}");
        let block = check_modes(&claim(json!({"volumeMode": "Block"}))).expect_err("refused");
        assert!(block.contains("volumeMode: Block"), "{block}");
    }

    #[test]
    fn a_claim_has_the_volume_that_has_it() {
        let bound = |phase: &str, uid: &str| {
            let mut claim = claim(json!({"volumeName": "pv"}));
            claim.status = serde_json::from_value(json!({"phase": phase})).expect("a status");
            let pv = json!({"metadata": {"name": "pv"}, "spec": {"claimRef": {"name": "data", "uid": uid}}});
            is_bound(&claim, &serde_json::from_value(pv).expect("a volume"))
        };
        assert!(bound("Bound", "u"));
        assert!(!bound("Pending", "u") && !bound("Bound", "another"));
    }

    #[test]
    fn a_claim_hears_of_its_size_once() {
        let lags = |status: serde_json::Value| {
            let mut claim = claim(json!({}));
            claim.status = serde_json::from_value(status).expect("a status");
            lags_behind(&claim, 2)
        };
        assert!(lags(json!({"capacity": {"storage": "1Gi"}})));
        assert!(!lags(json!({"capacity": {"storage": "2Gi"}})));
        let told = json!({"storage": "NodeResizePending"});
        assert!(!lags(json!({"capacity": {"storage": "1Gi"}, "allocatedResourceStatuses": told})));
    }

    #[test]
    fn only_snapshots_are_sources() {
        let reference = |group: &str, kind: &str| TypedObjectReference {
            api_group: Some(group.into()),
            kind: kind.into(),
            name: "s".into(),
            namespace: None,
        };
        assert_eq!(source(&None), Ok(None));
        assert_eq!(source(&Some(reference(snapshots::GROUP, "VolumeSnapshot"))), Ok(Some("s".into())));
        assert!(source(&Some(reference("", "PersistentVolumeClaim"))).is_err());
    }

    #[test]
    fn classes_may_name_zones_under_any_of_the_keys() {
        let class: StorageClass = serde_json::from_value(json!({
            "provisioner": DRIVER,
            "allowedTopologies": [{"matchLabelExpressions": [
                {"key": "topology.ebs.csi.aws.com/zone", "values": ["us-east-1b"]},
                {"key": "other", "values": ["x"]},
            ]}],
        }))
        .expect("a class");
        assert_eq!(allowed_zones(&class), Some(vec!["us-east-1b".into()]));
        assert_eq!(allowed_zones(&StorageClass::default()), None);
    }
}

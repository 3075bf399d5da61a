//! EBS volumes and snapshots: records, limits, and what a volume needs next.
//!
//! Invariant: a volume's content is touched by one machine at a time: it is detached, and seen to be, before it is
//! attached elsewhere or deleted.

use crate::names::Scope;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// EC2's volume states that ekstra passes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VolumeState {
    Creating,
    Available,
    InUse,
    Deleting,
}

impl VolumeState {
    pub fn wire(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Available => "available",
            Self::InUse => "in-use",
            Self::Deleting => "deleting",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttachmentState {
    Attaching,
    Attached,
    Detaching,
}

impl AttachmentState {
    pub fn wire(self) -> &'static str {
        match self {
            Self::Attaching => "attaching",
            Self::Attached => "attached",
            Self::Detaching => "detaching",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VolumeAttachment {
    pub instance: String,
    /// `/dev/xvdba`.
    pub device: String,
    pub state: AttachmentState,
    pub since_ms: i64,
}

/// The last change of size or performance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VolumeModification {
    pub original: Performance,
    pub original_gib: u32,
    /// What was asked for.
    #[serde(default)]
    pub target_gib: u32,
    pub started_ms: i64,
    pub ended_ms: Option<i64>,
    /// Why it came to nothing.
    #[serde(default)]
    pub failure: Option<String>,
}

/// What was paid for at AWS; here it is told, not limited.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Performance {
    /// `gp3`.
    pub kind: String,
    pub iops: Option<u32>,
    /// MiB/s.
    pub throughput: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Volume {
    pub id: String,
    pub scope: Scope,
    /// `us-east-1a`. Only instances of this zone can have it.
    pub zone: String,
    pub size_gib: u32,
    pub performance: Performance,
    /// As asked for. Nothing here is encrypted yet: it is told as false.
    pub snapshot: Option<String>,
    pub state: VolumeState,
    pub attachment: Option<VolumeAttachment>,
    pub modification: Option<VolumeModification>,
    pub created_ms: i64,
    pub tags: BTreeMap<String, String>,
    pub request_token: Option<String>,
    pub request_digest: String,
    /// Why it is still being created.
    #[serde(default)]
    pub trouble: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SnapshotState {
    Pending,
    Completed,
    Error,
}

impl SnapshotState {
    pub fn wire(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Completed => "completed",
            Self::Error => "error",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    pub id: String,
    pub scope: Scope,
    pub volume: String,
    pub size_gib: u32,
    pub description: String,
    pub state: SnapshotState,
    pub state_message: Option<String>,
    /// Deletion was asked for.
    pub deleting: bool,
    pub started_ms: i64,
    pub completed_ms: Option<i64>,
    pub tags: BTreeMap<String, String>,
}

/// Limits of a volume type. Source: "Amazon EBS volume types" in the EBS user guide.
struct Kind {
    name: &'static str,
    gib: (u32, u32),
    /// Allowed IOPS, and the most for a GiB; `None`: they cannot be chosen.
    iops: Option<((u32, u32), u32)>,
    /// Allowed MiB/s; `None`: they cannot be chosen.
    throughput: Option<(u32, u32)>,
}

const KINDS: [Kind; 7] = [
    Kind { name: "standard", gib: (1, 1024), iops: None, throughput: None },
    Kind { name: "gp2", gib: (1, 16_384), iops: None, throughput: None },
    Kind {
        name: "gp3",
        gib: (1, 65_536),
        iops: Some(((3_000, 80_000), 500)),
        throughput: Some((125, 2_000)),
    },
    Kind { name: "io1", gib: (4, 16_384), iops: Some(((100, 64_000), 50)), throughput: None },
    Kind { name: "io2", gib: (4, 65_536), iops: Some(((100, 256_000), 1_000)), throughput: None },
    Kind { name: "st1", gib: (125, 16_384), iops: None, throughput: None },
    Kind { name: "sc1", gib: (125, 16_384), iops: None, throughput: None },
];

/// Why there can be no such volume.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VolumeRefusal {
    #[error("Value ({0}) for parameter volumeType is invalid.")]
    UnknownType(String),
    #[error("Volume of {gib}GiB is {how} for volume type {kind}; {limit} is {word}")]
    Size { kind: &'static str, gib: u32, how: &'static str, limit: String, word: &'static str },
    #[error("The parameter {parameter} is not supported for {kind} volumes.")]
    Unsupported { parameter: &'static str, kind: &'static str },
    #[error("The parameter iops must be specified for {0} volumes.")]
    MissingIops(&'static str),
    #[error("Volume {parameter} of {value} is not in the range of {from} to {to} for volume type {kind}")]
    Range { parameter: &'static str, kind: &'static str, value: u32, from: u32, to: u32 },
    #[error("Iops to volume size ratio of {0} is too high; maximum is {1}")]
    Ratio(u32, u32),
}

/// Checks what was asked for and fills in AWS's defaults.
pub fn performance(
    kind: &str,
    gib: u32,
    iops: Option<u32>,
    throughput: Option<u32>,
) -> Result<Performance, VolumeRefusal> {
    let known =
        KINDS.iter().find(|k| k.name == kind).ok_or_else(|| VolumeRefusal::UnknownType(kind.to_owned()))?;
    check_size(known, gib)?;
    let within = |parameter, value: u32, (from, to): (u32, u32)| {
        let refused = VolumeRefusal::Range { parameter, kind: known.name, value, from, to };
        if (from..=to).contains(&value) { Ok(value) } else { Err(refused) }
    };
    let iops = match (known.iops, iops) {
        (None, Some(_)) => return Err(VolumeRefusal::Unsupported { parameter: "iops", kind: known.name }),
        (None, None) if kind == "gp2" => Some((gib * 3).clamp(100, 16_000)),
        (None, None) => None,
        (Some((range, _)), None) if kind == "gp3" => Some(range.0),
        (Some(_), None) => return Err(VolumeRefusal::MissingIops(known.name)),
        (Some((range, ratio)), Some(asked)) => {
            let asked = within("iops", asked, range)?;
            // The least that the type has is allowed at any size.
            if asked > range.0 && asked / gib > ratio {
                return Err(VolumeRefusal::Ratio(asked / gib, ratio));
            }
            Some(asked)
        }
    };
    let throughput = match (known.throughput, throughput) {
        (None, Some(_)) => {
            return Err(VolumeRefusal::Unsupported { parameter: "throughput", kind: known.name });
        }
        (None, None) => None,
        (Some(range), asked) => Some(within("throughput", asked.unwrap_or(range.0), range)?),
    };
    Ok(Performance { kind: known.name.to_owned(), iops, throughput })
}

fn check_size(kind: &Kind, gib: u32) -> Result<(), VolumeRefusal> {
    let (least, most) = kind.gib;
    let refused = |how, limit: u32, word| {
        let limit = format!("{limit}GiB");
        Err(VolumeRefusal::Size { kind: kind.name, gib, how, limit, word })
    };
    match gib {
        _ if gib < least => refused("too small", least, "the smallest"),
        _ if gib > most => refused("too large", most, "the largest"),
        _ => Ok(()),
    }
}

/// What the machine shows of a volume.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ObservedVolume {
    /// Of its file; `None`: there is none.
    pub bytes: Option<u64>,
    pub device: Device,
    /// The instance that its attachment names.
    pub instance: InstanceLife,
}

/// A volume's block device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    #[default]
    Absent,
    /// There is one, but not where the attachment says: it is left from before, or about to be in place.
    Elsewhere,
    /// The instance that the attachment names has it.
    InPlace,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InstanceLife {
    /// It boots, also after a reboot of the host.
    Pending,
    Running,
    /// It is ending or gone.
    #[default]
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VolumeAction {
    MakeFile,
    /// The file of a volume that has a content is not there: its disk may come back, a new file would be another volume.
    AwaitFile,
    Grow,
    Attach,
    Detach,
    /// The record says what is so.
    MarkAvailable,
    MarkAttached,
    MarkDetached,
    MarkModified,
    /// The file goes, whole or half made, and after it the record.
    Forget,
}

/// Actions that may be applied now, in order; a settled volume has none.
pub fn plan_volume(volume: &Volume, observed: &ObservedVolume) -> Vec<VolumeAction> {
    use VolumeAction::*;
    if volume.state == VolumeState::Deleting {
        let held = observed.device != Device::Absent;
        return if held { vec![Detach, Forget] } else { vec![Forget] };
    }
    let creating = volume.state == VolumeState::Creating;
    let Some(bytes) = observed.bytes else {
        if creating {
            return vec![MakeFile, MarkAvailable];
        }
        let leaving = |action: &VolumeAction| matches!(action, Detach | MarkDetached);
        return plan_attachment(volume, observed).into_iter().filter(leaving).chain([AwaitFile]).collect();
    };
    let mut actions = Vec::new();
    if creating {
        actions.push(MarkAvailable);
    }
    // Before it grows: a size that cannot be had must not keep it where it is.
    actions.extend(plan_attachment(volume, observed));
    let modified = volume.modification.as_ref().is_some_and(|m| m.ended_ms.is_none());
    // Also when the file is large enough: its device may not have heard.
    if modified || bytes < u64::from(volume.size_gib) << 30 {
        actions.push(Grow);
    }
    if modified {
        actions.push(MarkModified);
    }
    actions
}

fn plan_attachment(volume: &Volume, observed: &ObservedVolume) -> Vec<VolumeAction> {
    use VolumeAction::*;
    let Some(attachment) = &volume.attachment else { return Vec::new() };
    let leaves = attachment.state == AttachmentState::Detaching || observed.instance == InstanceLife::Over;
    let attached = attachment.state == AttachmentState::Attached;
    match (observed.device, observed.instance) {
        (Device::Absent, _) if leaves => vec![MarkDetached],
        _ if leaves => vec![Detach, MarkDetached],
        (Device::InPlace, InstanceLife::Running) if attached => Vec::new(),
        (Device::InPlace, InstanceLife::Running) => vec![MarkAttached],
        (_, InstanceLife::Running) if attached => vec![Attach],
        (_, InstanceLife::Running) => vec![Attach, MarkAttached],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(state: VolumeState) -> Volume {
        Volume {
            id: "vol-1".into(),
            scope: Scope::new("000000000000", "us-east-1"),
            zone: "us-east-1a".into(),
            size_gib: 1,
            performance: Performance { kind: "gp3".into(), iops: None, throughput: None },
            snapshot: None,
            state,
            attachment: None,
            modification: None,
            created_ms: 0,
            tags: BTreeMap::new(),
            request_token: None,
            request_digest: String::new(),
            trouble: None,
        }
    }

    fn attachment(state: AttachmentState) -> Option<VolumeAttachment> {
        Some(VolumeAttachment { instance: "i-1".into(), device: "/dev/xvdba".into(), state, since_ms: 0 })
    }

    /// What applying an action does to the record and to what is observed next; `false` when nothing is left.
    fn apply(action: VolumeAction, volume: &mut Volume, observed: &mut ObservedVolume) -> bool {
        match action {
            VolumeAction::AwaitFile => return false,
            VolumeAction::MakeFile | VolumeAction::Grow => {
                observed.bytes = Some(u64::from(volume.size_gib) << 30);
            }
            VolumeAction::Attach => observed.device = Device::InPlace,
            VolumeAction::Detach => observed.device = Device::Absent,
            VolumeAction::MarkAvailable => volume.state = VolumeState::Available,
            VolumeAction::MarkAttached => {
                volume.state = VolumeState::InUse;
                volume.attachment = attachment(AttachmentState::Attached);
            }
            VolumeAction::MarkDetached => {
                volume.state = VolumeState::Available;
                volume.attachment = None;
            }
            VolumeAction::MarkModified => {
                if let Some(modification) = &mut volume.modification {
                    modification.ended_ms = Some(1);
                }
            }
            VolumeAction::Forget => return false,
        }
        true
    }

    /// Interrupted after every action; answers what was done.
    fn converge(volume: &mut Volume, observed: &mut ObservedVolume) -> Vec<VolumeAction> {
        let mut trace = Vec::new();
        while let Some(action) = plan_volume(volume, observed).into_iter().next() {
            trace.push(action);
            assert!(trace.len() < 20, "{trace:?}");
            if !apply(action, volume, observed) {
                break;
            }
        }
        trace
    }

    #[test]
    fn a_volume_is_made_attached_moved_and_deleted() {
        use VolumeAction::*;
        let (mut it, mut seen) = (volume(VolumeState::Creating), ObservedVolume::default());
        assert_eq!(converge(&mut it, &mut seen), [MakeFile, MarkAvailable]);
        it.attachment = attachment(AttachmentState::Attaching);
        seen.instance = InstanceLife::Pending;
        assert_eq!(converge(&mut it, &mut seen), [], "until the instance runs");
        seen.instance = InstanceLife::Running;
        assert_eq!(converge(&mut it, &mut seen), [Attach, MarkAttached]);
        // The host was rebooted: devices are gone, the record is not.
        seen.device = Device::Absent;
        assert_eq!(converge(&mut it, &mut seen), [Attach]);
        it.size_gib = 2;
        assert_eq!(converge(&mut it, &mut seen), [Grow]);
        it.attachment = attachment(AttachmentState::Detaching);
        assert_eq!(converge(&mut it, &mut seen), [Detach, MarkDetached]);
        it.state = VolumeState::Deleting;
        assert_eq!(converge(&mut it, &mut seen), [Forget]);
    }

    #[test]
    fn an_instance_that_ends_lets_its_volumes_go() {
        use VolumeAction::*;
        let mut it = volume(VolumeState::InUse);
        it.attachment = attachment(AttachmentState::Attached);
        let mut seen =
            ObservedVolume { bytes: Some(1 << 30), device: Device::Elsewhere, instance: InstanceLife::Over };
        assert_eq!(converge(&mut it, &mut seen), [Detach, MarkDetached]);
        assert_eq!(it.state, VolumeState::Available);
        it.attachment = attachment(AttachmentState::Attaching);
        assert_eq!(converge(&mut it, &mut seen), [MarkDetached], "it ended before it had the volume");
    }

    #[test]
    fn a_content_that_is_missing_is_not_replaced_by_nothing() {
        use VolumeAction::*;
        let mut it = volume(VolumeState::InUse);
        it.attachment = attachment(AttachmentState::Attached);
        let mut seen = ObservedVolume { instance: InstanceLife::Running, ..Default::default() };
        assert_eq!(plan_volume(&it, &seen), [AwaitFile]);
        seen.instance = InstanceLife::Over;
        assert_eq!(plan_volume(&it, &seen), [MarkDetached, AwaitFile]);
        it.state = VolumeState::Deleting;
        assert_eq!(plan_volume(&it, &seen), [Forget]);
    }

    #[test]
    fn a_change_of_size_is_done_when_the_device_has_heard_of_it() {
        use VolumeAction::*;
        let mut it = volume(VolumeState::Available);
        it.size_gib = 2;
        it.modification = Some(VolumeModification {
            original: it.performance.clone(),
            original_gib: 1,
            target_gib: 2,
            started_ms: 0,
            ended_ms: None,
            failure: None,
        });
        let seen = ObservedVolume { bytes: Some(2 << 30), ..Default::default() };
        let again = plan_volume(&it, &seen);
        assert_eq!(again, [Grow, MarkModified], "it may have been killed between the file and its device");
    }

    #[test]
    fn a_volume_that_is_deleted_is_let_go_first() {
        let it = volume(VolumeState::Deleting);
        let seen =
            ObservedVolume { bytes: Some(1), device: Device::InPlace, instance: InstanceLife::Running };
        let plan = plan_volume(&it, &seen);
        assert_eq!(plan, [VolumeAction::Detach, VolumeAction::Forget]);
    }

    #[test]
    fn types_have_their_limits_and_defaults() {
        let of = |kind: &str, gib, iops, throughput| {
            performance(kind, gib, iops, throughput)
                .map(|p| (p.iops, p.throughput))
                .map_err(|e| e.to_string())
        };
        assert_eq!(of("gp3", 1, None, None), Ok((Some(3000), Some(125))));
        assert_eq!(of("gp2", 1000, None, None), Ok((Some(3000), None)));
        assert_eq!(of("gp2", 1, None, None), Ok((Some(100), None)));
        assert_eq!(of("standard", 1, None, None), Ok((None, None)));
        assert_eq!(of("gp3", 10, Some(5000), Some(250)), Ok((Some(5000), Some(250))));
        for (kind, gib, iops, throughput, why) in [
            ("gp9", 1, None, None, "Value (gp9) for parameter volumeType is invalid"),
            ("gp3", 0, None, None, "too small"),
            ("st1", 10, None, None, "too small for volume type st1; 125GiB is the smallest"),
            ("gp2", 20_000, None, None, "too large"),
            ("gp2", 10, Some(200), None, "iops is not supported for gp2"),
            ("io1", 10, None, None, "iops must be specified"),
            ("io1", 10, Some(600), None, "ratio of 60 is too high; maximum is 50"),
            ("gp3", 10, None, Some(5000), "throughput of 5000 is not in the range of 125 to 2000"),
            ("gp2", 10, None, Some(125), "throughput is not supported"),
        ] {
            let told = of(kind, gib, iops, throughput).expect_err(kind);
            assert!(told.contains(why), "{told}");
        }
    }
}

//! Add-ons: what a cluster shall have of a component, and what to do about it.
//!
//! Invariant: what is wanted has a number (`generation`); an add-on whose number was applied is looked after, and not
//! applied again until somebody asks for something else.

use super::HealthIssue;
use crate::names::Scope;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A new or changed add-on that is not healthy after this long is degraded: it waits for nodes, mostly.
pub const ADDON_PATIENCE_MS: i64 = 2 * 60 * 1000;
/// One that was healthy may lack a replica for a moment.
const GRACE_MS: i64 = 15 * 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum AddonStatus {
    Creating,
    Active,
    CreateFailed,
    Updating,
    Deleting,
    Degraded,
    UpdateFailed,
    DeleteFailed,
}

impl AddonStatus {
    pub fn wire(self) -> &'static str {
        match self {
            Self::Creating => "CREATING",
            Self::Active => "ACTIVE",
            Self::CreateFailed => "CREATE_FAILED",
            Self::Updating => "UPDATING",
            Self::Deleting => "DELETING",
            Self::Degraded => "DEGRADED",
            Self::UpdateFailed => "UPDATE_FAILED",
            Self::DeleteFailed => "DELETE_FAILED",
        }
    }
}

/// Whose value holds where somebody else has set a field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Conflicts {
    /// Nobody's: the add-on is not applied.
    #[default]
    None,
    /// The add-on's.
    Overwrite,
    /// The other's. For changes; a new add-on has nothing to preserve, and it is as `None`.
    Preserve,
}

impl Conflicts {
    pub fn wire(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::Overwrite => "OVERWRITE",
            Self::Preserve => "PRESERVE",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::None, Self::Overwrite, Self::Preserve].into_iter().find(|mode| mode.wire() == text)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Addon {
    pub name: String,
    pub cluster: String,
    pub scope: Scope,
    /// Distinguishes it from an earlier one of the same name.
    pub uid: String,
    pub version: String,
    pub status: AddonStatus,
    pub conflicts: Conflicts,
    /// JSON or YAML, as it was given.
    pub configuration: Option<String>,
    pub service_account_role: Option<String>,
    pub namespace: String,
    /// Deleted: its objects stay in the cluster.
    pub preserve: bool,
    /// Something of it may have been written: without that, what has its name in the cluster is somebody else's.
    pub touched: bool,
    /// Counts what was asked for.
    pub generation: u64,
    /// The last one that was applied.
    pub applied: Option<u64>,
    pub issues: Vec<HealthIssue>,
    pub tags: BTreeMap<String, String>,
    pub created_ms: i64,
    pub modified_ms: i64,
    /// Idempotency: the caller's token, and a digest of what was asked with it.
    pub request_token: Option<String>,
    pub request_digest: String,
}

impl Addon {
    pub fn arn(&self) -> String {
        self.scope.arn("eks", format_args!("addon/{}/{}/{}", self.cluster, self.name, self.uid))
    }

    /// Whether it is about to become something else, and cannot be asked for more.
    pub fn is_busy(&self) -> bool {
        matches!(self.status, AddonStatus::Creating | AddonStatus::Updating | AddonStatus::Deleting)
    }
}

/// What the cluster shows of an add-on's workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    Missing,
    /// Ready and current, of how many there should be.
    Replicas {
        ready: i64,
        wanted: i64,
    },
}

impl Workload {
    pub fn is_healthy(self) -> bool {
        matches!(self, Self::Replicas { ready, wanted } if ready >= wanted)
    }

    /// In EKS's words.
    pub fn issue(self) -> Option<HealthIssue> {
        let (code, message) = match self {
            _ if self.is_healthy() => return None,
            Self::Missing => {
                ("K8sResourceNotFound", "The add-on is unhealthy because its workload is not there.")
            }
            Self::Replicas { .. } => (
                "InsufficientNumberOfReplicas",
                "The add-on is unhealthy because it doesn't have the desired number of replicas.",
            ),
        };
        Some(HealthIssue { code: code.into(), message: message.into(), resource_ids: Vec::new() })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddonAction {
    /// Writes its objects into the cluster.
    Apply,
    /// Takes its objects out of the cluster.
    Remove,
    Forget,
    MarkActive,
    /// Not healthy, and it should be by now.
    MarkDegraded,
    /// What is told of it has changed.
    NoteIssues,
}

/// What to do next; nothing for one that is as it should be. `unhealthy_ms`: for how long it has not been healthy.
pub fn plan_addon(addon: &Addon, workload: Workload, unhealthy_ms: i64) -> Vec<AddonAction> {
    let issues: Vec<HealthIssue> = workload.issue().into_iter().collect();
    match addon.status {
        AddonStatus::Deleting if addon.preserve || !addon.touched => vec![AddonAction::Forget],
        AddonStatus::Deleting => vec![AddonAction::Remove, AddonAction::Forget],
        AddonStatus::CreateFailed | AddonStatus::UpdateFailed | AddonStatus::DeleteFailed => Vec::new(),
        _ if addon.applied != Some(addon.generation) => vec![AddonAction::Apply],
        AddonStatus::Active if issues.is_empty() => Vec::new(),
        _ if issues.is_empty() => vec![AddonAction::MarkActive],
        AddonStatus::Creating | AddonStatus::Updating if unhealthy_ms > ADDON_PATIENCE_MS => {
            vec![AddonAction::MarkDegraded]
        }
        AddonStatus::Active if unhealthy_ms > GRACE_MS => vec![AddonAction::MarkDegraded],
        AddonStatus::Active => Vec::new(),
        _ if issues != addon.issues => vec![AddonAction::NoteIssues],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEALTHY: Workload = Workload::Replicas { ready: 2, wanted: 2 };
    const LACKING: Workload = Workload::Replicas { ready: 1, wanted: 2 };

    fn addon(status: AddonStatus, applied: Option<u64>) -> Addon {
        Addon {
            name: "coredns".into(),
            cluster: "c".into(),
            scope: Scope::new("000000000000", "us-east-1"),
            uid: "u".into(),
            version: "v1.15.0-eksbuild.1".into(),
            status,
            conflicts: Conflicts::None,
            configuration: None,
            service_account_role: None,
            namespace: "kube-system".into(),
            preserve: false,
            touched: true,
            generation: 1,
            applied,
            issues: Vec::new(),
            tags: BTreeMap::new(),
            created_ms: 0,
            modified_ms: 0,
            request_token: None,
            request_digest: String::new(),
        }
    }

    #[test]
    fn it_is_applied_once_for_each_thing_that_is_asked_for() {
        use AddonStatus::*;
        for status in [Creating, Updating, Active, Degraded] {
            assert_eq!(plan_addon(&addon(status, None), HEALTHY, 0), [AddonAction::Apply]);
            assert_eq!(plan_addon(&addon(status, Some(0)), Workload::Missing, 0), [AddonAction::Apply]);
        }
        assert_eq!(plan_addon(&addon(Active, Some(1)), HEALTHY, 0), []);
        // What failed waits for its user.
        for status in [CreateFailed, UpdateFailed, DeleteFailed] {
            assert_eq!(plan_addon(&addon(status, None), Workload::Missing, i64::MAX), []);
        }
    }

    #[test]
    fn it_is_active_when_its_workload_is_and_degraded_when_that_lasts() {
        use AddonStatus::*;
        for status in [Creating, Updating, Degraded] {
            assert_eq!(plan_addon(&addon(status, Some(1)), HEALTHY, 0), [AddonAction::MarkActive]);
        }
        for status in [Creating, Updating] {
            let mut addon = addon(status, Some(1));
            assert_eq!(
                plan_addon(&addon, LACKING, ADDON_PATIENCE_MS),
                [AddonAction::NoteIssues],
                "told at once"
            );
            addon.issues.extend(LACKING.issue());
            assert_eq!(plan_addon(&addon, LACKING, ADDON_PATIENCE_MS), []);
            assert_eq!(plan_addon(&addon, LACKING, ADDON_PATIENCE_MS + 1), [AddonAction::MarkDegraded]);
            assert_eq!(plan_addon(&addon, Workload::Missing, 0), [AddonAction::NoteIssues]);
        }
        assert_eq!(plan_addon(&addon(Active, Some(1)), LACKING, GRACE_MS), []);
        assert_eq!(plan_addon(&addon(Active, Some(1)), LACKING, GRACE_MS + 1), [AddonAction::MarkDegraded]);
        let mut degraded = addon(Degraded, Some(1));
        degraded.issues.extend(LACKING.issue());
        assert_eq!(plan_addon(&degraded, LACKING, i64::MAX), []);
    }

    #[test]
    fn without_nodes_a_daemon_set_is_healthy_and_a_deployment_is_not() {
        assert!(Workload::Replicas { ready: 0, wanted: 0 }.is_healthy());
        assert!(!Workload::Replicas { ready: 0, wanted: 2 }.is_healthy() && !Workload::Missing.is_healthy());
    }

    #[test]
    fn a_deleted_one_takes_its_objects_along_unless_they_are_kept() {
        let mut addon = addon(AddonStatus::Deleting, None);
        assert_eq!(plan_addon(&addon, HEALTHY, 0), [AddonAction::Remove, AddonAction::Forget]);
        addon.preserve = true;
        assert_eq!(plan_addon(&addon, HEALTHY, 0), [AddonAction::Forget]);
        (addon.preserve, addon.touched) = (false, false);
        assert_eq!(plan_addon(&addon, HEALTHY, 0), [AddonAction::Forget], "nothing there is its own");
    }
}

//! An add-on's objects in its cluster: made of its record, written as its rule for conflicts says, taken out again.

use super::catalogue::Definition;
use super::{autoscaling, configuration, fields};
use crate::bootstrap::Facts;
use crate::manifest::{self, ManifestError, Object};
use ekstra_domain::eks::{Addon, AddonStatus, Bounds, Conflicts, HealthIssue};
use futures::future::{join_all, try_join_all};
use kube::Client;
use serde_json::{Map, Value};

/// Others may set further fields while theirs are being left out.
const MOST_TRIES: usize = 5;

/// Why an add-on was not applied, for its user.
pub(super) enum Refused {
    /// Nothing that its user could mend: it is tried again.
    Passing(ManifestError),
    For(HealthIssue),
}

/// An add-on in its cluster.
pub(super) struct Place<'a> {
    pub(super) key: &'a str,
    pub(super) addon: &'a Addon,
    /// Of the record that `addon` is.
    pub(super) revision: Option<u64>,
    pub(super) definition: &'static Definition,
    pub(super) client: Client,
    pub(super) facts: Facts,
}

/// Its configuration.
pub(super) fn values(place: &Place<'_>) -> Result<Map<String, Value>, ManifestError> {
    let given = place.addon.configuration.as_deref().unwrap_or_default();
    configuration::read(place.definition, given).map_err(ManifestError::Unreadable)
}

/// Its objects, as they shall be.
fn render(place: &Place<'_>, values: &Map<String, Value>) -> Result<Vec<Object>, ManifestError> {
    let mut objects = place.facts.fill(place.definition.manifest)?;
    let role = place.addon.service_account_role.as_deref();
    configuration::apply(place.definition, values, role, &mut objects);
    Ok(objects)
}

/// What is to be written.
pub(super) struct Prepared {
    objects: Vec<Object>,
    /// Replicas that grew with the cluster, and are to be these.
    rescale: Option<i64>,
}

/// Its objects, if they may be written.
pub(super) async fn check(place: &Place<'_>) -> Result<Prepared, Refused> {
    let values = values(place).map_err(Refused::Passing)?;
    let mut objects = render(place, &values).map_err(Refused::Passing)?;
    let rescale = take_over_scale(place, autoscaling::bounds(&values), &mut objects).await?;
    if conflicts(place) == Conflicts::None {
        refuse_conflicts(place, &objects).await?;
    }
    Ok(Prepared { objects, rescale })
}

fn replicas<'a>(definition: &Definition, objects: &'a mut [Object]) -> Option<&'a mut Value> {
    let is_workload = |object: &&mut Object| {
        object.value["kind"] == "Deployment" && object.value["metadata"]["name"] == definition.workload
    };
    objects.iter_mut().find(is_workload).map(|object| &mut object.value["spec"]["replicas"])
}

/// Replicas that grew with the cluster stay while they may. They are no conflict of the add-on with itself: as long as
/// nothing but a trial is written they are what they are, and the answer is what they are to be.
async fn take_over_scale(
    place: &Place<'_>,
    bounds: Option<Bounds>,
    objects: &mut [Object],
) -> Result<Option<i64>, Refused> {
    let definition = place.definition;
    let Some(replicas) = replicas(definition, objects).filter(|_| definition.is_autoscaled) else {
        return Ok(None);
    };
    let found = autoscaling::read(definition, &place.client).await;
    let Some(scale) = found.map_err(|source| scale_refused(place, source))? else { return Ok(None) };
    let wanted = scale.taken_over(bounds, replicas.as_i64().unwrap_or(1));
    *replicas = if scale.is_ours { scale.replicas } else { wanted }.into();
    Ok((scale.is_ours && wanted != scale.replicas).then_some(wanted))
}

fn scale_refused(place: &Place<'_>, source: kube::Error) -> Refused {
    sort(manifest::refused(place.definition.workload, source))
}

fn conflicts(place: &Place<'_>) -> Conflicts {
    match (place.addon.conflicts, place.addon.status) {
        (Conflicts::Preserve, AddonStatus::Creating) => Conflicts::None,
        (conflicts, _) => conflicts,
    }
}

pub(super) async fn write(place: &Place<'_>, prepared: Prepared) -> Result<(), Refused> {
    let Prepared { mut objects, rescale } = prepared;
    if let Some((wanted, replicas)) = rescale.zip(replicas(place.definition, &mut objects)) {
        *replicas = wanted.into();
        let set = autoscaling::set(place.definition, &place.client, wanted).await;
        set.map_err(|source| scale_refused(place, source))?;
    }
    match conflicts(place) {
        Conflicts::Overwrite => {
            try_join_all(objects.iter().map(|object| apply(place, object, manifest::Mode::Force))).await?;
        }
        Conflicts::Preserve => {
            try_join_all(objects.iter().map(|object| preserve(place, object.clone()))).await?;
        }
        Conflicts::None => {
            try_join_all(objects.iter().map(|object| apply(place, object, manifest::Mode::Yield))).await?;
        }
    }
    let budget = configuration::budget_path(place.definition);
    if !objects.iter().any(|object| object.path == budget) {
        manifest::remove_own(&place.client, &budget).await.map_err(sort)?;
    }
    Ok(())
}

async fn apply(place: &Place<'_>, object: &Object, mode: manifest::Mode) -> Result<(), Refused> {
    manifest::apply(&place.client, object, mode).await.map_err(sort)
}

/// Leaves out what others have set.
async fn preserve(place: &Place<'_>, mut object: Object) -> Result<(), Refused> {
    for _ in 0..MOST_TRIES {
        let Err(error) = manifest::apply(&place.client, &object, manifest::Mode::Yield).await else {
            return Ok(());
        };
        let Some(taken) = fields::conflicts(&error) else { return Err(sort(error)) };
        // All of them: each try may find further ones.
        let left_out = taken.iter().filter(|field| fields::remove(&mut object.value, field)).count();
        if left_out == 0 {
            return Err(sort(error));
        }
    }
    apply(place, &object, manifest::Mode::Yield).await
}

/// Nothing is written while any object has a field that somebody else has set.
async fn refuse_conflicts(place: &Place<'_>, objects: &[Object]) -> Result<(), Refused> {
    let mut found = Vec::new();
    let tries = objects.iter().map(|object| manifest::apply(&place.client, object, manifest::Mode::Try));
    for (object, tried) in objects.iter().zip(join_all(tries).await) {
        let Err(error) = tried else { continue };
        let Some(taken) = fields::conflicts(&error) else { return Err(sort(error)) };
        found.extend(taken.into_iter().map(|field| format!("{} - {field}", object.title())));
    }
    if found.is_empty() { Ok(()) } else { Err(conflict(&found)) }
}

/// In EKS's words.
fn conflict(found: &[String]) -> Refused {
    let message = format!(
        "Conflicts found when trying to apply. Will not continue due to resolve conflicts mode. Conflicts:\n{}",
        found.join("\n")
    );
    Refused::For(HealthIssue { code: "ConfigurationConflict".into(), message, resource_ids: Vec::new() })
}

fn sort(error: ManifestError) -> Refused {
    if let Some(taken) = fields::conflicts(&error) {
        return conflict(&taken);
    }
    match &error {
        // What an admission controller, or the API server itself, does not let in.
        ManifestError::Refused { source, .. } if matches!(source.as_ref(), kube::Error::Api(status) if matches!(status.code, 400 | 403 | 422)) =>
        {
            let message = error.to_string();
            Refused::For(HealthIssue {
                code: "AdmissionRequestDenied".into(),
                message,
                resource_ids: Vec::new(),
            })
        }
        _ => Refused::Passing(error),
    }
}

pub(super) async fn remove(place: &Place<'_>) -> Result<(), Refused> {
    let objects = place.facts.fill(place.definition.manifest).map_err(Refused::Passing)?;
    let removals = objects.iter().map(|object| manifest::remove(&place.client, &object.path));
    try_join_all(removals).await.map_err(sort)?;
    let budget = configuration::budget_path(place.definition);
    manifest::remove_own(&place.client, &budget).await.map_err(sort)
}

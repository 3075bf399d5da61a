//! Add-ons that a cluster has.

use super::{
    Repeat, digest, find_cluster, in_use, invalid_parameter, invalid_request, is_repeat, no_cluster,
    pod_identity, present,
};
use crate::Eks;
use crate::addons::catalogue::{self, Definition, NAMESPACE};
use crate::addons::configuration;
use ekstra_cloud::api::{Call, Refusal};
use ekstra_cloud::iam::find_role;
use ekstra_domain::eks::{Addon, AddonStatus, Cluster, Conflicts, UpdateOf, UpdateType};
use ekstra_domain::names::keys;
use ekstra_model::eks::{self as model, errors};
use ekstra_wire::ApiError;
use serde_json::json;

fn missing(cluster: &str, name: &str) -> ApiError {
    let message = format!("No addon: {name} found in cluster: {cluster}");
    ApiError::new(&errors::RESOURCE_NOT_FOUND_EXCEPTION, message)
        .with("clusterName", cluster)
        .with("addonName", name)
}

fn find(eks: &Eks, call: &Call, cluster: &str, name: &str) -> Result<Addon, ApiError> {
    find_cluster(eks, call, cluster)?;
    let key = keys::addon(&call.scope, cluster, name);
    eks.cloud.store.view().get_as(&key).ok_or_else(|| missing(cluster, name))
}

fn definition(name: &str, minor: &str) -> Result<&'static Definition, ApiError> {
    let refused = || {
        invalid_parameter(format!("Addon {name} specified is not supported in {minor} kubernetes version"))
    };
    catalogue::find(name).ok_or_else(|| refused().with("addonName", name))
}

/// The version asked for, or the one that clusters of this version have.
fn version(
    eks: &Eks,
    cluster: &Cluster,
    definition: &Definition,
    asked: Option<String>,
) -> Result<String, ApiError> {
    let known = eks.offered(&cluster.version).map(|version| definition.version(&version));
    match (known, asked) {
        (Some(known), None) => Ok(known),
        (Some(known), Some(asked)) if asked == known => Ok(known),
        _ => {
            Err(invalid_parameter("Addon version specified is not supported")
                .with("addonName", definition.name))
        }
    }
}

fn check_configuration(definition: &Definition, given: Option<&String>) -> Result<(), ApiError> {
    let read = configuration::read(definition, given.map(String::as_str).unwrap_or_default());
    read.map(drop).map_err(|refused| invalid_parameter(refused).with("addonName", definition.name))
}

fn check_role(eks: &Eks, call: &Call, role: Option<&String>) -> Result<(), ApiError> {
    let Some(arn) = role else { return Ok(()) };
    let found = find_role(&eks.cloud, arn).filter(|role| role.account == call.scope.account);
    found.map(drop).ok_or_else(|| invalid_parameter(format!("The role with name {arn} cannot be found.")))
}

fn conflicts(asked: Option<&String>) -> Result<Conflicts, ApiError> {
    let Some(text) = asked else { return Ok(Conflicts::default()) };
    Conflicts::parse(text).ok_or_else(|| invalid_parameter(format!("Invalid resolveConflicts: {text}")))
}

/// Service accounts with their roles, if anything is said of them.
fn associations(
    eks: &Eks,
    call: &Call,
    name: &str,
    asked: Option<Vec<model::AddonPodIdentityAssociations>>,
) -> Result<Option<Vec<(String, String)>>, ApiError> {
    let Some(asked) = asked else { return Ok(None) };
    let known = catalogue::find(name).and_then(|definition| definition.identity);
    let read = asked.into_iter().map(|one| {
        let (account, role) = (one.service_account.unwrap_or_default(), one.role_arn.unwrap_or_default());
        if known != Some(account.as_str()) {
            let message = format!(
                "Pod identity associations are not supported for service account {account} of addon {name}"
            );
            return Err(invalid_parameter(message).with("addonName", name));
        }
        pod_identity::check_role(eks, call, &role)?;
        Ok((account, role))
    });
    read.collect::<Result<Vec<_>, _>>().map(Some)
}

pub(super) async fn create(
    eks: Eks,
    call: Call,
    mut input: model::CreateAddonRequest,
) -> Result<model::CreateAddonResponse, ApiError> {
    let token = input.client_request_token.take();
    let asked = digest(&input);
    let name = input.cluster_name.clone().unwrap_or_default();
    let cluster = find_cluster(&eks, &call, &name)?;
    let wanted = input.pod_identity_associations.take();
    let addon = draft(&eks, &call, &cluster, input, token, asked)?;
    let wanted = associations(&eks, &call, &addon.name, wanted)?;
    let (cluster_key, key) =
        (keys::cluster(&call.scope, &name), keys::addon(&call.scope, &name, &addon.name));
    let addon = eks
        .cloud
        .store
        .transact(|txn| {
            if let Some(existing) = txn.get::<Addon>(&key)? {
                let (token, known) = (addon.request_token.as_ref(), existing.request_token.as_ref());
                if is_repeat(token, &addon.request_digest, known, &existing.request_digest) {
                    return Ok(existing);
                }
                let refused = in_use("Addon already exists.").with("clusterName", name.clone());
                return Err(Refusal::Api(refused.with("addonName", addon.name.clone())));
            }
            let now: Cluster = txn.get(&cluster_key)?.ok_or_else(|| no_cluster(&name))?;
            if now.uid != cluster.uid || !now.status.is_up() {
                let refused = invalid_request("Addons cannot be created while the cluster is not ACTIVE");
                return Err(refused.with("clusterName", name.clone()).into());
            }
            txn.put(&key, &addon)?;
            pod_identity::set_of_addon(&eks, txn, &addon, wanted.as_deref())?;
            Ok::<_, Refusal>(addon.clone())
        })
        .await?;
    Ok(model::CreateAddonResponse { addon: Some(present::addon(&eks, &addon)) })
}

fn draft(
    eks: &Eks,
    call: &Call,
    cluster: &Cluster,
    input: model::CreateAddonRequest,
    request_token: Option<String>,
    request_digest: String,
) -> Result<Addon, ApiError> {
    let definition = definition(&input.addon_name.unwrap_or_default(), &cluster.version)?;
    let namespace = input.namespace_config.and_then(|config| config.namespace);
    if namespace.as_ref().is_some_and(|namespace| namespace != NAMESPACE) {
        let message =
            format!("Addon {} cannot be installed in another namespace than {NAMESPACE}", definition.name);
        return Err(invalid_parameter(message));
    }
    let version = version(eks, cluster, definition, input.addon_version)?;
    check_configuration(definition, input.configuration_values.as_ref())?;
    check_role(eks, call, input.service_account_role_arn.as_ref())?;
    let now = eks.cloud.env.now_ms();
    Ok(Addon {
        name: definition.name.to_owned(),
        cluster: cluster.name.clone(),
        scope: call.scope.clone(),
        uid: eks.cloud.env.uuid(),
        version,
        status: AddonStatus::Creating,
        conflicts: conflicts(input.resolve_conflicts.as_ref())?,
        configuration: input.configuration_values.filter(|values| !values.is_empty()),
        service_account_role: input.service_account_role_arn,
        namespace: NAMESPACE.to_owned(),
        preserve: false,
        touched: false,
        generation: 1,
        applied: None,
        issues: Vec::new(),
        tags: input.tags.unwrap_or_default(),
        created_ms: now,
        modified_ms: now,
        request_token,
        request_digest,
    })
}

pub(super) async fn describe(
    eks: Eks,
    call: Call,
    input: model::DescribeAddonRequest,
) -> Result<model::DescribeAddonResponse, ApiError> {
    let (cluster, name) = (input.cluster_name.unwrap_or_default(), input.addon_name.unwrap_or_default());
    let addon = find(&eks, &call, &cluster, &name)?;
    Ok(model::DescribeAddonResponse { addon: Some(present::addon(&eks, &addon)) })
}

pub(super) async fn update(
    eks: Eks,
    call: Call,
    mut input: model::UpdateAddonRequest,
) -> Result<model::UpdateAddonResponse, ApiError> {
    let repeat = Repeat::of(&eks, input.client_request_token.take(), &input);
    let (cluster, name) =
        (input.cluster_name.clone().unwrap_or_default(), input.addon_name.clone().unwrap_or_default());
    let record = find_cluster(&eks, &call, &cluster)?;
    let wanted = associations(&eks, &call, &name, input.pod_identity_associations.clone())?;
    check_role(&eks, &call, input.service_account_role_arn.as_ref())?;
    let conflicts = conflicts(input.resolve_conflicts.as_ref())?;
    if let (Some(definition), Some(values)) = (catalogue::find(&name), &input.configuration_values) {
        find(&eks, &call, &cluster, &name)?;
        check_configuration(definition, Some(values))?;
    }
    let key = keys::addon(&call.scope, &cluster, &name);
    let cluster_key = keys::cluster(&call.scope, &cluster);
    let update = eks
        .cloud
        .store
        .transact(|txn| {
            if let Some(known) = repeat.find(txn, &keys::updates(&call.scope, &cluster))? {
                return Ok(known);
            }
            let mut addon: Addon = txn.get(&key)?.ok_or_else(|| missing(&cluster, &name))?;
            let now_is: Cluster = txn.get(&cluster_key)?.ok_or_else(|| no_cluster(&cluster))?;
            if !now_is.status.is_up() {
                let refused = invalid_request("Addons cannot be updated while the cluster is not ACTIVE");
                return Err(Refusal::Api(refused.with("clusterName", cluster.clone())));
            }
            if addon.is_busy() {
                let message = format!(
                    "Addon {name} cannot be updated as it is currently in {} state",
                    addon.status.wire()
                );
                let refused = in_use(message).with("clusterName", cluster.clone());
                return Err(Refusal::Api(refused.with("addonName", name.clone())));
            }
            let before = addon.version.clone();
            change(&eks, &record, &input, &mut addon)?;
            let version =
                (input.addon_version.is_some() || addon.version != before).then(|| addon.version.clone());
            addon.conflicts = conflicts;
            addon.status = AddonStatus::Updating;
            addon.issues = Vec::new();
            addon.generation += 1;
            addon.modified_ms = repeat.now;
            txn.put(&key, &addon)?;
            pod_identity::set_of_addon(&eks, txn, &addon, wanted.as_deref())?;
            let (of, kind) = (UpdateOf::Addon(&name), UpdateType::AddonUpdate);
            repeat.begin(txn, (&call.scope, &cluster), of, kind, params(&input, version, conflicts))
        })
        .await?;
    Ok(model::UpdateAddonResponse { update: Some(present::update(&update)) })
}

/// A configuration that is not given stays, and so does a version for as long as there is one; a role that is not given
/// goes. As at AWS, where clients rely on it.
fn change(
    eks: &Eks,
    cluster: &Cluster,
    input: &model::UpdateAddonRequest,
    addon: &mut Addon,
) -> Result<(), ApiError> {
    let definition = definition(&addon.name, &cluster.version)?;
    // What it has may be older than what there is by now: then the update brings the newer, and says so. eksctl names the
    // one that it has when it means none.
    let asked = input.addon_version.clone().filter(|asked| *asked != addon.version);
    addon.version = version(eks, cluster, definition, asked)?;
    if let Some(values) = &input.configuration_values {
        addon.configuration = Some(values.clone()).filter(|values| !values.is_empty());
    }
    addon.service_account_role = input.service_account_role_arn.clone();
    Ok(())
}

fn told(associations: &[model::AddonPodIdentityAssociations]) -> String {
    let one = |known: &model::AddonPodIdentityAssociations| json!({"serviceAccount": known.service_account, "roleArn": known.role_arn});
    json!(associations.iter().map(one).collect::<Vec<_>>()).to_string()
}

/// Of the version, the one that it will have.
fn params(
    input: &model::UpdateAddonRequest,
    version: Option<String>,
    conflicts: Conflicts,
) -> Vec<(String, String)> {
    let given = [
        ("AddonVersion", version),
        ("ServiceAccountRoleArn", input.service_account_role_arn.clone()),
        ("ResolveConflicts", input.resolve_conflicts.as_ref().map(|_| conflicts.wire().to_owned())),
        ("ConfigurationValues", input.configuration_values.clone()),
        ("PodIdentityAssociations", input.pod_identity_associations.as_ref().map(|all| told(all))),
    ];
    given.into_iter().filter_map(|(name, value)| value.map(|value| (name.to_owned(), value))).collect()
}

pub(super) async fn delete(
    eks: Eks,
    call: Call,
    input: model::DeleteAddonRequest,
) -> Result<model::DeleteAddonResponse, ApiError> {
    let (cluster, name) = (input.cluster_name.unwrap_or_default(), input.addon_name.unwrap_or_default());
    find_cluster(&eks, &call, &cluster)?;
    let key = keys::addon(&call.scope, &cluster, &name);
    let (preserve, now) = (input.preserve.unwrap_or(false), eks.cloud.env.now_ms());
    let addon = eks
        .cloud
        .store
        .transact(|txn| {
            let mut addon: Addon = txn.get(&key)?.ok_or_else(|| missing(&cluster, &name))?;
            // One that is under way may still be told to leave its objects.
            if addon.status != AddonStatus::Deleting || (preserve && !addon.preserve) {
                addon.status = AddonStatus::Deleting;
                addon.preserve = preserve;
                addon.modified_ms = now;
                txn.put(&key, &addon)?;
            }
            pod_identity::end_of_addon(txn, &addon, preserve)?;
            Ok::<_, Refusal>(addon)
        })
        .await?;
    Ok(model::DeleteAddonResponse { addon: Some(present::addon(&eks, &addon)) })
}

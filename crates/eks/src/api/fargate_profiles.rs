//! Fargate profiles: checked and kept. No pod runs on Fargate yet, which their status and health say.

use super::access::FARGATE_SERVICE;
use super::list::page;
use super::vpc_config::find_subnets;
use super::{digest, find_cluster, in_use, insert, invalid, invalid_parameter, kept_cluster, remove};
use crate::Eks;
use ekstra_cloud::access::trusts_service;
use ekstra_cloud::api::Call;
use ekstra_cloud::iam::{find_role, service_linked_roles};
use ekstra_domain::eks::{Asked, Cluster, FargateProfile, FargateSelector, check_fargate_profile_name};
use ekstra_domain::names::keys;
use ekstra_model::Timestamp;
use ekstra_model::eks::{self as model, errors};
use ekstra_store::Txn;
use ekstra_wire::ApiError;

/// Who takes the roles of Fargate's pods.
const PODS: &str = "eks-fargate-pods.amazonaws.com";
const MOST_SELECTORS: usize = 5;
const MOST_LABELS: usize = 5;
const NOT_RUN: &str = "ekstra runs no pods on Fargate yet: this profile is a record, and selects nothing";

fn missing(cluster: &str, name: &str) -> ApiError {
    let message = format!("No Fargate Profile found with name: {name}.");
    ApiError::new(&errors::RESOURCE_NOT_FOUND_EXCEPTION, message)
        .with("clusterName", cluster)
        .with("fargateProfileName", name)
}

fn present(profile: FargateProfile, status: &str) -> model::FargateProfile {
    let selector = |known: FargateSelector| model::FargateProfileSelector {
        namespace: Some(known.namespace),
        labels: Some(known.labels),
    };
    let issue = model::FargateProfileIssue {
        code: Some("InternalFailure".into()),
        message: Some(NOT_RUN.into()),
        resource_ids: Some(Vec::new()),
    };
    model::FargateProfile {
        fargate_profile_arn: Some(profile.arn()),
        fargate_profile_name: Some(profile.name),
        cluster_name: Some(profile.cluster),
        created_at: Some(Timestamp(profile.created_ms)),
        pod_execution_role_arn: Some(profile.role_arn),
        subnets: Some(profile.subnets),
        selectors: Some(profile.selectors.into_iter().map(selector).collect()),
        status: Some(status.into()),
        tags: Some(profile.tags),
        health: Some(model::FargateProfileHealth { issues: Some(vec![issue]) }),
    }
}

/// What there is of its kind is a failure.
const KEPT: &str = "CREATE_FAILED";

fn selectors(asked: Option<Vec<model::FargateProfileSelector>>) -> Result<Vec<FargateSelector>, ApiError> {
    let asked = asked.unwrap_or_default();
    if !(1..=MOST_SELECTORS).contains(&asked.len()) {
        return Err(invalid_parameter(format!("A Fargate profile has 1 to {MOST_SELECTORS} selectors")));
    }
    let read = asked.into_iter().map(|selector| {
        let (namespace, labels) =
            (selector.namespace.unwrap_or_default(), selector.labels.unwrap_or_default());
        if namespace.is_empty() {
            return Err(invalid_parameter("Fargate Profile selectors require a namespace"));
        }
        if labels.len() > MOST_LABELS {
            return Err(invalid_parameter(format!("A selector has at most {MOST_LABELS} labels")));
        }
        Ok(FargateSelector { namespace, labels })
    });
    read.collect()
}

fn draft(
    eks: &Eks,
    call: &Call,
    cluster: &Cluster,
    asked: Asked,
    input: model::CreateFargateProfileRequest,
) -> Result<FargateProfile, ApiError> {
    let name = input.fargate_profile_name.unwrap_or_default();
    check_fargate_profile_name(&name).map_err(invalid)?;
    let role_arn = input.pod_execution_role_arn.unwrap_or_default();
    let role = find_role(&eks.cloud, &role_arn).filter(|role| role.account == call.scope.account);
    let uid = eks.cloud.env.uuid();
    // Roles are advised to trust for these profiles only.
    let arn = call.scope.arn("eks", format_args!("fargateprofile/{}/{name}/{uid}", cluster.name));
    if !role.is_some_and(|role| trusts_service(&eks.cloud, call, &role, PODS, Some(arn))) {
        let message = format!(
            "Misconfigured PodExecutionRole Trust Policy; Please add the {PODS} Service Principal, if it does not exist"
        );
        return Err(invalid_parameter(message));
    }
    let given = input.subnets.unwrap_or_default();
    let subnets = find_subnets(eks, &call.scope, &given)?;
    if subnets.iter().any(|subnet| subnet.vpc != cluster.vpc.vpc) {
        return Err(invalid_parameter("Subnets must be in the cluster's VPC"));
    }
    Ok(FargateProfile {
        scope: call.scope.clone(),
        cluster: cluster.name.clone(),
        name,
        uid,
        role_arn,
        subnets: if given.is_empty() { cluster.vpc.subnets.clone() } else { given },
        selectors: selectors(input.selectors)?,
        tags: input.tags.unwrap_or_default(),
        created_ms: eks.cloud.env.now_ms(),
        asked,
    })
}

pub(super) async fn create(
    eks: Eks,
    call: Call,
    mut input: model::CreateFargateProfileRequest,
) -> Result<model::CreateFargateProfileResponse, ApiError> {
    let token = input.client_request_token.take();
    let asked = Asked { token, digest: digest(&input) };
    let name = input.cluster_name.clone().unwrap_or_default();
    let cluster = find_cluster(&eks, &call, &name)?;
    let profile = draft(&eks, &call, &cluster, asked, input)?;
    let body = |txn: &mut Txn| {
        kept_cluster(txn, &call.scope, &name)?;
        service_linked_roles::ensure(&eks.cloud, &call.scope.account, FARGATE_SERVICE, txn)?;
        let taken = in_use("A Fargate Profile already exists with this name in this cluster.")
            .with("clusterName", name.clone())
            .with("fargateProfileName", profile.name.clone());
        let key = keys::fargate_profile(&call.scope, &name, &profile.name);
        insert(txn, &key, &profile, |profile| &profile.asked, taken)
    };
    let profile = eks.cloud.store.transact(body).await?;
    Ok(model::CreateFargateProfileResponse { fargate_profile: Some(present(profile, KEPT)) })
}

pub(super) async fn describe(
    eks: Eks,
    call: Call,
    input: model::DescribeFargateProfileRequest,
) -> Result<model::DescribeFargateProfileResponse, ApiError> {
    let (cluster, name) =
        (input.cluster_name.unwrap_or_default(), input.fargate_profile_name.unwrap_or_default());
    find_cluster(&eks, &call, &cluster)?;
    let key = keys::fargate_profile(&call.scope, &cluster, &name);
    let found: Option<FargateProfile> = eks.cloud.store.view().get_as(&key);
    let found = found.ok_or_else(|| missing(&cluster, &name))?;
    Ok(model::DescribeFargateProfileResponse { fargate_profile: Some(present(found, KEPT)) })
}

pub(super) async fn list(
    eks: Eks,
    call: Call,
    input: model::ListFargateProfilesRequest,
) -> Result<model::ListFargateProfilesResponse, ApiError> {
    let cluster = input.cluster_name.unwrap_or_default();
    find_cluster(&eks, &call, &cluster)?;
    let all =
        eks.cloud.store.view().list_as::<FargateProfile>(&keys::fargate_profiles(&call.scope, &cluster));
    let names = all.into_iter().map(|(_, known)| known.name).collect();
    let page = page(names, String::clone, input.next_token.as_deref(), input.max_results)?;
    Ok(model::ListFargateProfilesResponse { fargate_profile_names: Some(page.items), next_token: page.next })
}

pub(super) async fn delete(
    eks: Eks,
    call: Call,
    input: model::DeleteFargateProfileRequest,
) -> Result<model::DeleteFargateProfileResponse, ApiError> {
    let (cluster, name) =
        (input.cluster_name.unwrap_or_default(), input.fargate_profile_name.unwrap_or_default());
    find_cluster(&eks, &call, &cluster)?;
    let key = keys::fargate_profile(&call.scope, &cluster, &name);
    let found: FargateProfile = remove(&eks, &key, || missing(&cluster, &name)).await?;
    Ok(model::DeleteFargateProfileResponse { fargate_profile: Some(present(found, "DELETING")) })
}

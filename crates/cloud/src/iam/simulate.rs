//! SimulatePrincipalPolicy: what an identity would be answered, by its policies as they are.

use super::{Entity, no_such_entity};
use crate::Cloud;
use crate::access::{Access, Need, simulate};
use crate::api::{Call, Router};
use ekstra_domain::iam::{Principal, Role, SessionTerms, User};
use ekstra_domain::names::Arn;
use ekstra_model::iam::{self as model, ops};
use ekstra_policy::{Decision, Reason};
use ekstra_wire::ApiError;

pub(super) fn serve(router: &mut Router, cloud: &Cloud) {
    let access = |_: &Cloud, _: &Call, input: &model::SimulatePrincipalPolicyRequest| {
        Access::on(input.policy_source_arn.clone().unwrap_or_default())
    };
    router.serve(ops::SimulatePrincipalPolicy, cloud, access, handle);
}

/// Pairs of one call.
const MOST: usize = 1000;

async fn handle(
    cloud: Cloud,
    call: Call,
    input: model::SimulatePrincipalPolicyRequest,
) -> Result<model::SimulatePolicyResponse, ApiError> {
    let source = input.policy_source_arn.clone().unwrap_or_default();
    refuse_unserved(&input)?;
    let principal = principal(&cloud, &call, &source)?;
    let asked = Call { principal, terms: SessionTerms::default(), session_issued: None, ..call };
    let resources = input.resource_arns.filter(|arns| !arns.is_empty()).unwrap_or_else(|| vec!["*".into()]);
    let context: Vec<(String, Vec<String>)> = input
        .context_entries
        .unwrap_or_default()
        .into_iter()
        .filter_map(|entry| Some((entry.context_key_name?, entry.context_key_values.unwrap_or_default())))
        .collect();
    let actions = input.action_names.unwrap_or_default();
    if actions.len().saturating_mul(resources.len()) > MOST {
        let message = format!("At most {MOST} pairs of an action and a resource are simulated at once");
        return Err(ApiError::client("InvalidInput", 400, message));
    }
    let mut results = Vec::new();
    for action in actions {
        for resource in &resources {
            let need =
                Need { action: action.clone(), resources: vec![resource.clone()], context: context.clone() };
            let decision = match simulate(&cloud, &asked, &need) {
                Decision::Allowed => "allowed",
                Decision::Denied(Reason::Explicit(_)) => "explicitDeny",
                Decision::Denied(Reason::Implicit(_)) => "implicitDeny",
            };
            results.push(model::EvaluationResult {
                eval_action_name: Some(action.clone()),
                eval_resource_name: Some(resource.clone()),
                eval_decision: Some(decision.into()),
                matched_statements: Some(Vec::new()),
                missing_context_values: Some(Vec::new()),
                ..Default::default()
            });
        }
    }
    Ok(model::SimulatePolicyResponse {
        evaluation_results: Some(results),
        is_truncated: Some(false),
        marker: None,
    })
}

/// An answer that leaves out what was asked for would be a wrong one.
fn refuse_unserved(input: &model::SimulatePrincipalPolicyRequest) -> Result<(), ApiError> {
    let unserved = [
        (input.policy_input_list.is_some(), "PolicyInputList"),
        (input.permissions_boundary_policy_input_list.is_some(), "PermissionsBoundaryPolicyInputList"),
        (input.policy_exclusion_list.is_some(), "PolicyExclusionList"),
        (input.resource_policy.is_some(), "ResourcePolicy"),
        (input.caller_arn.is_some(), "CallerArn"),
        (input.resource_owner.is_some(), "ResourceOwner"),
        (input.resource_handling_option.is_some(), "ResourceHandlingOption"),
        (input.marker.is_some() || input.max_items.is_some(), "paging"),
    ];
    match unserved.iter().find(|(given, _)| *given) {
        Some((_, name)) => {
            Err(ApiError::client("InvalidInput", 400, format!("{name} is not supported by ekstra")))
        }
        None => Ok(()),
    }
}

fn principal(cloud: &Cloud, call: &Call, source: &str) -> Result<Principal, ApiError> {
    let arn: Option<Arn> = source.parse().ok();
    let arn = arn.filter(|arn| arn.service == "iam" && arn.account == call.scope.account);
    let found = arn.as_ref().and_then(|arn| match (arn.user_name(), arn.role_name()) {
        (Some(user), _) => User::load(cloud, call, user).ok().map(|user| (user.arn(), user.id)),
        (_, Some(role)) => Role::load(cloud, call, role).ok().map(|role| (role.arn(), role.id)),
        _ => None,
    });
    let (arn, user_id) = found
        .filter(|(arn, _)| arn == source)
        .ok_or_else(|| no_such_entity(format!("The entity with ARN {source} cannot be found.")))?;
    Ok(Principal { account: call.scope.account.clone(), arn, user_id })
}

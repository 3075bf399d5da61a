//! AssociateEncryptionConfig: checked, and an update that says that there is no KMS yet. Secrets stay as they are.

use super::{Repeat, find_cluster, invalid_parameter, kept_cluster, present};
use crate::Eks;
use ekstra_cloud::api::Call;
use ekstra_domain::eks::{UpdateOf, UpdateType};
use ekstra_domain::names::{Arn, keys};
use ekstra_model::eks as model;
use ekstra_store::Txn;
use ekstra_wire::ApiError;
use serde_json::json;

const NO_KMS: &str = "ekstra has no KMS yet: nothing was encrypted";

/// The key, of a configuration that EKS would take.
fn read(asked: &[model::EncryptionConfig]) -> Result<String, ApiError> {
    let [config] = asked else {
        return Err(invalid_parameter("Exactly one encryption config is required"));
    };
    if config.resources.as_deref() != Some(&["secrets".to_owned()]) {
        return Err(invalid_parameter("The resources of an encryption config must be [secrets]"));
    }
    let key = config.provider.as_ref().and_then(|provider| provider.key_arn.clone()).unwrap_or_default();
    match key.parse::<Arn>() {
        Ok(arn) if arn.service == "kms" => Ok(key),
        _ => Err(invalid_parameter(format!("Invalid key ARN: {key}"))),
    }
}

pub(super) async fn associate(
    eks: Eks,
    call: Call,
    mut input: model::AssociateEncryptionConfigRequest,
) -> Result<model::AssociateEncryptionConfigResponse, ApiError> {
    let repeat = Repeat::of(&eks, input.client_request_token.take(), &input);
    let name = input.cluster_name.unwrap_or_default();
    find_cluster(&eks, &call, &name)?;
    let key = read(&input.encryption_config.unwrap_or_default())?;
    let config = json!([{"resources": ["secrets"], "provider": {"keyArn": key}}]);
    let body = |txn: &mut Txn| {
        kept_cluster(txn, &call.scope, &name)?;
        if let Some(known) = repeat.find(txn, &keys::updates(&call.scope, &name))? {
            return Ok(known);
        }
        let params = vec![("EncryptionConfig".to_owned(), config.to_string())];
        let kind = UpdateType::AssociateEncryptionConfig;
        let begun = repeat.begin(txn, (&call.scope, &name), UpdateOf::Cluster, kind, params)?;
        Repeat::end(txn, begun, Err(("OperationNotPermitted", NO_KMS.to_owned())))
    };
    let update = eks.cloud.store.transact(body).await?;
    Ok(model::AssociateEncryptionConfigResponse { update: Some(present::update(&update)) })
}

//! Whom roles trust. A user or a role is kept by its unique id, so that nobody is trusted who is made later under the name of one
//! who is gone.
//!
//! Source: IAM User Guide, "AWS JSON policy elements: Principal".

use super::{check_document, malformed, principal_id, role_behind};
use crate::Cloud;
use crate::defaults::is_known_account;
use ekstra_domain::iam::Role;
use ekstra_domain::names::Arn;
use ekstra_policy::Kind;
use ekstra_wire::ApiError;
use serde_json::Value;
use std::collections::BTreeMap;

/// The unique ids of the users, roles and sessions that a trust policy names, by ARN. It is refused if one of them is not there; of accounts
/// that nobody has made here nothing is known, and who is named in them is believed.
pub(super) fn read(cloud: &Cloud, text: &str) -> Result<BTreeMap<String, String>, ApiError> {
    let policy = check_document(text, Kind::Trust)?;
    let mut ids = BTreeMap::new();
    for name in policy.identities() {
        let Some(arn) = name.parse::<Arn>().ok().filter(is_somebody) else { continue };
        match id_of(cloud, name, &arn) {
            Some(id) => drop(ids.insert(name.to_owned(), id)),
            None if is_known_account(cloud, &arn.account) => {
                return Err(malformed(format!("Invalid principal in policy: \"AWS\":\"{name}\"")));
            }
            None => {}
        }
    }
    Ok(ids)
}

/// Not an account.
fn is_somebody(arn: &Arn) -> bool {
    arn.user_name().or(arn.role_name()).is_some()
}

/// Of a session it is the role's.
fn id_of(cloud: &Cloud, name: &str, arn: &Arn) -> Option<String> {
    if arn.service == "sts" {
        role_behind(cloud, name).map(|role| role.id)
    } else {
        principal_id(cloud, name)
    }
}

/// The policy as IAM answers it: a user or a role that is gone has an id in the place of the ARN.
pub(super) fn shown(cloud: &Cloud, role: &Role) -> String {
    let is_gone = |name: &str, id: &String| {
        let arn = name.parse::<Arn>().ok().filter(|arn| arn.service == "iam");
        arn.is_some_and(|arn| id_of(cloud, name, &arn).as_ref() != Some(id))
    };
    if !role.trusted.iter().any(|(arn, id)| is_gone(arn, id)) {
        return role.trust_policy.clone();
    }
    let mut policy: Value = serde_json::from_str(&role.trust_policy).unwrap_or_default();
    for statement in each(policy.get_mut("Statement")) {
        for name in each(statement.pointer_mut("/Principal/AWS")) {
            let known = name.as_str().and_then(|arn| role.trusted.get_key_value(arn));
            if let Some((_, id)) = known.filter(|(arn, id)| is_gone(arn, id)) {
                *name = id.as_str().into();
            }
        }
    }
    policy.to_string()
}

/// One is written as it is, several as a list.
fn each(value: Option<&mut Value>) -> impl Iterator<Item = &mut Value> {
    match value {
        Some(Value::Array(several)) => several.iter_mut(),
        one => one.map(std::slice::from_mut).unwrap_or_default().iter_mut(),
    }
}

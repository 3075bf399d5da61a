//! What was asked for, as JSON that may be kept: nothing that the model calls secret is in it.

use ekstra_model::{StructSchema, TypeSchema, Value};
use serde_json::{Map, Value as Json};

/// CloudTrail's word.
const HIDDEN: &str = "HIDDEN_DUE_TO_SECURITY_REASONS";
/// Longer texts are cut: documents, mostly.
const LONGEST: usize = 4096;

/// The members by name, the first letter small, as in CloudTrail's records.
pub fn parameters(schema: &StructSchema, value: &Value) -> Json {
    if schema.sensitive {
        return Json::from(HIDDEN);
    }
    let Value::Struct(members) = value else { return Json::Null };
    let pairs = members.iter().filter_map(|(index, value)| {
        let member = schema.members.get(*index)?;
        Some((small(member.name), shown(member.ty, value)))
    });
    Json::Object(pairs.collect())
}

fn small(name: &str) -> String {
    let mut letters = name.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

fn shown(ty: &TypeSchema, value: &Value) -> Json {
    let is_secret = match ty {
        TypeSchema::Str(schema) => schema.sensitive,
        TypeSchema::Blob { sensitive } => *sensitive,
        TypeSchema::List(schema) => schema.sensitive,
        TypeSchema::Map(schema) => schema.sensitive,
        _ => false,
    };
    if is_secret {
        return Json::from(HIDDEN);
    }
    match (ty, value) {
        (TypeSchema::Struct(schema), value) => parameters(schema, value),
        (TypeSchema::List(schema), Value::List(items)) => {
            items.iter().map(|item| shown(schema.member, item)).collect()
        }
        (TypeSchema::Map(schema), Value::Map(pairs)) => {
            let shown = pairs.iter().map(|(key, value)| (key.clone(), shown(schema.value, value)));
            Json::Object(shown.collect::<Map<_, _>>())
        }
        (_, Value::Bool(value)) => Json::from(*value),
        (_, Value::Int(value)) => Json::from(*value),
        (_, Value::Float(value)) => Json::from(*value),
        (_, Value::Str(text)) => Json::from(text.chars().take(LONGEST).collect::<String>()),
        (_, Value::Time(at)) => Json::from(crate::iso8601(at.0)),
        (_, Value::Blob(bytes)) => Json::from(format!("{} bytes", bytes.len())),
        _ => Json::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ekstra_model::{Shape, iam, sts};

    #[test]
    fn secrets_are_hidden_and_the_rest_is_told() {
        let asked = iam::CreateUserRequest {
            user_name: Some("anna".into()),
            tags: Some(vec![iam::Tag { key: Some("team".into()), value: Some("blue".into()) }]),
            ..Default::default()
        };
        let told = parameters(iam::CreateUserRequest::SCHEMA, &asked.to_value());
        assert_eq!(told, serde_json::json!({"userName": "anna", "tags": [{"key": "team", "value": "blue"}]}));
        let keys = iam::AccessKey {
            user_name: Some("anna".into()),
            secret_access_key: Some("secret".into()),
            ..Default::default()
        };
        let told = parameters(iam::AccessKey::SCHEMA, &keys.to_value());
        assert_eq!(told, serde_json::json!({"userName": "anna", "secretAccessKey": HIDDEN}));
        let session = sts::Credentials { session_token: Some("token".into()), ..Default::default() };
        let told = parameters(sts::Credentials::SCHEMA, &session.to_value()).to_string();
        assert!(!told.contains("\"token\""), "{told}");
    }
}

//! Whether a role's trust policy lets somebody assume it.
//!
//! The part of the policy language that trust policies of roles for people use: `Principal`, `Action`, `Effect`; a
//! statement with conditions is taken as not allowing, because they are not evaluated yet.

use super::Principal;
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Policy {
    statement: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Statement {
    effect: String,
    #[serde(default)]
    principal: Value,
    #[serde(default)]
    action: Value,
    condition: Option<Value>,
}

/// Explicit denial wins; nothing said is a denial.
pub fn trusts(policy: &str, caller: &Principal) -> bool {
    let Ok(policy) = serde_json::from_str::<Policy>(policy) else { return false };
    let statements = match policy.statement {
        Value::Array(statements) => statements,
        one => vec![one],
    };
    let mut allowed = false;
    for statement in statements {
        let Ok(statement) = serde_json::from_value::<Statement>(statement) else { return false };
        if !covers_action(&statement.action) || !names(&statement.principal, caller) {
            continue;
        }
        match statement.effect.as_str() {
            "Deny" => return false,
            "Allow" => allowed |= statement.condition.is_none(),
            _ => return false,
        }
    }
    allowed
}

fn strings(value: &Value) -> Vec<&str> {
    match value {
        Value::String(one) => vec![one],
        Value::Array(many) => many.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

fn covers_action(action: &Value) -> bool {
    strings(action).iter().any(|a| ["sts:assumerole", "sts:*", "*"].contains(&a.to_lowercase().as_str()))
}

fn names(principal: &Value, caller: &Principal) -> bool {
    let account_root = format!("arn:aws:iam::{}:root", caller.account);
    let canonical = caller.canonical_arn();
    let own = ["*", caller.account.as_str(), &account_root, &caller.arn, &canonical];
    let listed = if principal == "*" { vec!["*"] } else { strings(&principal["AWS"]) };
    listed.iter().any(|name| own.contains(name))
}

#[cfg(test)]
mod tests {
    use super::super::service_trust;
    use super::*;

    fn caller() -> Principal {
        Principal {
            account: "000000000000".into(),
            arn: "arn:aws:iam::000000000000:user/admin".into(),
            user_id: "AIDAX".into(),
        }
    }

    fn policy(principal: &str, action: &str, effect: &str, rest: &str) -> String {
        format!(r#"{{"Statement":{{"Effect":"{effect}","Principal":{principal},"Action":{action}{rest}}}}}"#)
    }

    #[test]
    fn who_is_named_may_and_nobody_else() {
        for (principal, expected) in [
            (r#"{"AWS":"*"}"#, true),
            (r#""*""#, true),
            (r#"{"AWS":"000000000000"}"#, true),
            (r#"{"AWS":["arn:aws:iam::000000000000:root"]}"#, true),
            (r#"{"AWS":"arn:aws:iam::000000000000:user/admin"}"#, true),
            (r#"{"AWS":"arn:aws:iam::000000000000:user/other"}"#, false),
            (r#"{"AWS":"111111111111"}"#, false),
            (r#"{"Service":"ec2.amazonaws.com"}"#, false),
        ] {
            let text = policy(principal, r#""sts:AssumeRole""#, "Allow", "");
            assert_eq!(trusts(&text, &caller()), expected, "{principal}");
        }
    }

    #[test]
    fn services_are_not_people_and_doubt_is_a_denial() {
        assert!(!trusts(&service_trust("ec2.amazonaws.com"), &caller()));
        assert!(!trusts("nonsense", &caller()));
        let everybody = r#"{"AWS":"*"}"#;
        assert!(!trusts(&policy(everybody, r#""sts:TagSession""#, "Allow", ""), &caller()));
        assert!(!trusts(&policy(everybody, r#""sts:AssumeRole""#, "Deny", ""), &caller()));
        let condition = r#","Condition":{"Bool":{"x":"true"}}"#;
        assert!(!trusts(&policy(everybody, r#"["sts:AssumeRole"]"#, "Allow", condition), &caller()));
        assert!(trusts(&policy(everybody, r#"["sts:AssumeRole"]"#, "Allow", ""), &caller()));
    }
}

//! Constraints of a model: required members, lengths, patterns, enums, ranges.
//!
//! The texts are those AWS services answer ("1 validation error detected: Value 'x' at 'name' failed to satisfy
//! constraint: …"). Invariant: secrets never appear in a violation.

use std::collections::HashMap;
use std::sync::{LazyLock, PoisonError, RwLock};

use ekstra_model::{Operation, Protocol, StringSchema, StructSchema, TypeSchema, Value};
use regex::Regex;

use crate::error::ApiError;

/// One constraint that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Where, from the input inwards: `resourcesVpcConfig.subnetIds`, `tags.1.member.key`.
    pub path: String,
    /// The value as AWS prints it (`'x'`, `null`); `None` when it is secret.
    pub value: Option<String>,
    /// `Member must have length less than or equal to 100`.
    pub constraint: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = self.value.as_deref().map(|v| format!(" {v}")).unwrap_or_default();
        write!(f, "Value{value} at '{}' failed to satisfy constraint: {}", self.path, self.constraint)
    }
}

/// How many violations are told: an input of the largest size can have a million.
const MOST: usize = 50;
/// Characters of a value or a path that are shown.
const SHOWN: usize = 1024;

/// The first constraints of `schema` that `value` breaks, in the order of the model.
pub fn validate(schema: &'static StructSchema, value: &Value) -> Vec<Violation> {
    let mut found = Vec::new();
    structure(schema, value, "", &mut found);
    found
}

/// All violations in one sentence, as AWS counts and joins them.
pub fn violations_message(violations: &[Violation]) -> String {
    let plural = if violations.len() == 1 { "" } else { "s" };
    let texts: Vec<String> = violations.iter().map(Violation::to_string).collect();
    format!("{} validation error{plural} detected: {}", violations.len(), texts.join("; "))
}

/// The answer to an input with violations: `InvalidParameterException` where the operation declares it (eks),
/// otherwise the protocol family's code.
pub fn violations_error(protocol: Protocol, operation: &Operation, violations: &[Violation]) -> ApiError {
    let message = violations_message(violations);
    if let Some(error) = operation.errors.iter().find(|e| e.code == "InvalidParameterException") {
        return ApiError::new(error, message);
    }
    let missing = violations.iter().any(|v| v.value.as_deref() == Some("null"));
    let code = match protocol {
        Protocol::RestJson | Protocol::AwsJson10 | Protocol::AwsJson11 => "ValidationException",
        Protocol::AwsQuery => "ValidationError",
        Protocol::Ec2Query if missing => "MissingParameter",
        Protocol::Ec2Query => "InvalidParameterValue",
    };
    ApiError::client(code, 400, message)
}

fn structure(schema: &'static StructSchema, value: &Value, path: &str, found: &mut Vec<Violation>) {
    for (index, member) in schema.members.iter().enumerate() {
        let path = join(path, &lower_first(member.name));
        match value.member(index) {
            Some(value) => check(member.ty, value, &path, found),
            None if member.required => absent(&path, found),
            None => {}
        }
    }
}

fn absent(path: &str, found: &mut Vec<Violation>) {
    tell(path, Some("null".to_owned()), "Member must not be null".to_owned(), found);
}

/// Of as many as are told, and no more of where it is than is shown.
fn tell(path: &str, value: Option<String>, constraint: String, found: &mut Vec<Violation>) {
    if found.len() < MOST {
        found.push(Violation { path: shortened(path, SHOWN).to_owned(), value, constraint });
    }
}

fn check(ty: &'static TypeSchema, value: &Value, path: &str, found: &mut Vec<Violation>) {
    if found.len() >= MOST {
        // Nor is the rest looked at.
        return;
    }
    let mut fail = |constraint: String| {
        let shown = (!ty.sensitive()).then(|| format!("'{}'", shortened(&show(value), SHOWN)));
        tell(path, shown, constraint, found);
    };
    match (ty, value) {
        (TypeSchema::Document, _) => {}
        // An item of a list or a map: members that are null are not given.
        (_, Value::Null) => absent(path, found),
        (TypeSchema::Str(schema), Value::Str(text)) => string(schema, text, &mut fail),
        (TypeSchema::Int { min, max } | TypeSchema::Long { min, max }, Value::Int(n)) => {
            bounds("value", *n, *min, *max, &mut fail);
        }
        (TypeSchema::Struct(schema), value) => structure(schema, value, path, found),
        (TypeSchema::List(list), Value::List(items)) => {
            length(items.len(), list.min, list.max, &mut fail);
            for (i, item) in items.iter().enumerate() {
                check(list.member, item, &format!("{path}.{}.member", i + 1), found);
            }
        }
        (TypeSchema::Map(map), Value::Map(entries)) => {
            length(entries.len(), map.min, map.max, &mut fail);
            for (key, value) in entries {
                check(map.key, &Value::from(key.as_str()), &format!("{path}.{key}.key"), found);
                check(map.value, value, &format!("{path}.{key}.member"), found);
            }
        }
        _ => {}
    }
}

fn string(schema: &'static StringSchema, text: &str, fail: &mut dyn FnMut(String)) {
    length(text.chars().count(), schema.min, schema.max, fail);
    if let Some(pattern) = schema.pattern
        && !matches(pattern, text)
    {
        fail(format!("Member must satisfy regular expression pattern: {pattern}"));
    }
    if !schema.enum_values.is_empty() && !schema.enum_values.contains(&text) {
        fail(format!("Member must satisfy enum value set: [{}]", schema.enum_values.join(", ")));
    }
}

fn length(len: usize, min: Option<u64>, max: Option<u64>, fail: &mut dyn FnMut(String)) {
    let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let len = i64::try_from(len).unwrap_or(i64::MAX);
    bounds("length", len, min.map(signed), max.map(signed), fail);
}

fn bounds(what: &str, n: i64, min: Option<i64>, max: Option<i64>, fail: &mut dyn FnMut(String)) {
    if let Some(min) = min.filter(|min| n < *min) {
        fail(format!("Member must have {what} greater than or equal to {min}"));
    }
    if let Some(max) = max.filter(|max| n > *max) {
        fail(format!("Member must have {what} less than or equal to {max}"));
    }
}

/// Whether the whole of `text` matches. Patterns come from statics, so the cache is bounded by the models.
fn matches(pattern: &'static str, text: &str) -> bool {
    static CACHE: LazyLock<RwLock<HashMap<&'static str, Option<Regex>>>> = LazyLock::new(RwLock::default);
    if let Some(regex) = CACHE.read().unwrap_or_else(PoisonError::into_inner).get(pattern) {
        return regex.as_ref().is_none_or(|r| r.is_match(text));
    }
    let compiled = compile(pattern);
    let verdict = compiled.as_ref().is_none_or(|r| r.is_match(text));
    CACHE.write().unwrap_or_else(PoisonError::into_inner).insert(pattern, compiled);
    verdict
}

/// Models write Java patterns: `\w`, `\d` and `\s` are ASCII there, and a match is of the whole string. `None` for
/// a pattern this engine lacks (none in the models served: a test compiles them all).
fn compile(pattern: &str) -> Option<Regex> {
    let mut ascii = String::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        match (c, if c == '\\' { chars.next() } else { None }) {
            ('\\', Some('w')) => ascii.push_str("[0-9A-Za-z_]"),
            ('\\', Some('d')) => ascii.push_str("[0-9]"),
            ('\\', Some('s')) => ascii.push_str("[ \\t\\n\\x0B\\f\\r]"),
            ('\\', Some(other)) => ascii.extend(['\\', other]),
            (c, _) => ascii.push(c),
        }
    }
    Regex::new(&format!("\\A(?:{ascii})\\z")).ok()
}

fn show(value: &Value) -> String {
    match value {
        Value::Str(s) => s.clone(),
        Value::Int(n) => n.to_string(),
        Value::List(items) => format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(", ")),
        Value::Map(entries) => {
            let entries: Vec<String> = entries.iter().map(|(k, v)| format!("{k}={}", show(v))).collect();
            format!("{{{}}}", entries.join(", "))
        }
        other => other.kind().to_owned(),
    }
}

/// At most so many characters of a text.
pub fn shortened(text: &str, most: usize) -> &str {
    text.char_indices().nth(most).map_or(text, |(end, _)| &text[..end])
}

fn join(path: &str, step: &str) -> String {
    if path.is_empty() { step.to_owned() } else { format!("{path}.{step}") }
}

fn lower_first(name: &str) -> String {
    let mut chars = name.chars();
    chars.next().map(|c| c.to_lowercase().collect::<String>() + chars.as_str()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use ekstra_model::{SERVICES, Shape, eks, iam};

    use super::*;

    #[test]
    fn what_aws_would_say() {
        let input = eks::CreateClusterRequest { name: Some("a b".to_owned()), ..Default::default() };
        let found = validate(eks::CreateClusterRequest::SCHEMA, &input.to_value());
        let texts: Vec<String> = found.iter().map(Violation::to_string).collect();
        assert_eq!(
            texts,
            [
                "Value 'a b' at 'name' failed to satisfy constraint: \
                 Member must satisfy regular expression pattern: ^[0-9A-Za-z][A-Za-z0-9\\-_]*",
                "Value null at 'roleArn' failed to satisfy constraint: Member must not be null",
                "Value null at 'resourcesVpcConfig' failed to satisfy constraint: Member must not be null",
            ]
        );
        assert!(violations_message(&found).starts_with("3 validation errors detected: Value 'a b'"));
    }

    #[test]
    fn enums_lengths_and_unicode_patterns() {
        let input = iam::CreateRoleRequest {
            role_name: Some("é".to_owned()),
            assume_role_policy_document: Some("{}".to_owned()),
            max_session_duration: Some(1),
            tags: Some(vec![iam::Tag {
                key: Some("größe ✓".to_owned()), value: Some("größe".to_owned())
            }]),
            ..Default::default()
        };
        let found = validate(iam::CreateRoleRequest::SCHEMA, &input.to_value());
        let paths: Vec<&str> = found.iter().map(|v| v.path.as_str()).collect();
        assert_eq!(paths, ["roleName", "maxSessionDuration", "tags.1.member.key"]);
    }

    #[test]
    fn an_item_that_is_null_is_told() {
        let nothing = Value::List(vec![Value::Null]);
        let mut found = Vec::new();
        let list = eks::VpcConfigRequest::SCHEMA.members.iter().find(|member| member.name == "subnetIds");
        check(list.expect("is there").ty, &nothing, "subnetIds", &mut found);
        let texts: Vec<String> = found.iter().map(Violation::to_string).collect();
        assert_eq!(
            texts,
            ["Value null at 'subnetIds.1.member' failed to satisfy constraint: Member must not be null"]
        );
    }

    #[test]
    fn what_is_told_is_bounded_whatever_was_sent() {
        let tag = iam::Tag { key: Some("\u{e9}".repeat(100_000)), value: None };
        let input = iam::CreateRoleRequest { tags: Some(vec![tag; 100]), ..Default::default() };
        let found = validate(iam::CreateRoleRequest::SCHEMA, &input.to_value());
        assert_eq!(found.len(), MOST);
        assert!(violations_message(&found).len() < 200_000);
    }

    #[test]
    fn every_pattern_served_compiles() {
        fn walk(ty: &'static TypeSchema, seen: &mut Vec<&'static str>) {
            match ty {
                TypeSchema::Str(s) => {
                    assert!(s.pattern.is_none_or(|p| compile(p).is_some()), "{:?}", s.pattern)
                }
                TypeSchema::Struct(s) if !seen.contains(&s.name) => {
                    seen.push(s.name);
                    s.members.iter().for_each(|m| walk(m.ty, seen));
                }
                TypeSchema::List(l) => walk(l.member, seen),
                TypeSchema::Map(m) => [m.key, m.value].iter().for_each(|t| walk(t, seen)),
                _ => {}
            }
        }
        for operation in SERVICES.iter().flat_map(|s| s.operations) {
            operation.input.members.iter().for_each(|m| walk(m.ty, &mut Vec::new()));
        }
    }
}

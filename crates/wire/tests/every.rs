//! Every operation that is served, with every member of its input and of its output: what botocore sends is understood,
//! and what we answer is what it reads (`tests/e2e/test_04_exchanges.py` shows the same bytes to its parsers).
//!
//! `golden/every.json` comes from `golden/generate.py`; `UPDATE_GOLDEN=1` rewrites `golden/every-answer.json`.

mod common;

use std::collections::BTreeMap;
use std::fs;

use ekstra_model::{SERVICES, Service, StructSchema, Timestamp, TypeSchema, Value};
use ekstra_wire::{decode_request, encode_response, route};
use serde_json::{Value as Json, json};

use common::{golden, request, text};

fn exchanges() -> Vec<Json> {
    let text = fs::read_to_string(golden("every.json")).expect("every.json is checked in");
    serde_json::from_str(&text).expect("every.json is JSON")
}

/// The value that a schema makes of JSON under AWS's names.
fn value(ty: &TypeSchema, json: &Json) -> Value {
    match (ty, json) {
        (TypeSchema::Struct(schema), json) => structure(schema, json),
        (TypeSchema::List(list), Json::Array(items)) => {
            Value::List(items.iter().map(|item| value(list.member, item)).collect())
        }
        (TypeSchema::Map(map), Json::Object(entries)) => {
            Value::Map(entries.iter().map(|(key, entry)| (key.clone(), value(map.value, entry))).collect())
        }
        (TypeSchema::Time { .. }, json) => Value::Time(Timestamp::from_secs(json.as_i64().expect("seconds"))),
        (TypeSchema::Float | TypeSchema::Double, json) => Value::Float(json.as_f64().expect("a number")),
        (TypeSchema::Blob { .. }, Json::String(text)) => Value::Blob(text.clone().into_bytes()),
        (_, Json::String(text)) => Value::Str(text.clone()),
        (_, Json::Bool(value)) => Value::Bool(*value),
        (_, Json::Number(number)) => Value::Int(number.as_i64().expect("whole")),
        (_, other) => panic!("{other} is in no exchange"),
    }
}

fn structure(schema: &StructSchema, json: &Json) -> Value {
    let given = json.as_object().unwrap_or_else(|| panic!("{json} is no structure"));
    let known = schema.members.iter().enumerate();
    let members: Vec<(usize, Value)> = known
        .filter_map(|(index, member)| Some((index, value(member.ty, given.get(member.name)?))))
        .collect();
    assert_eq!(members.len(), given.len(), "members of {} that are not known: {json}", schema.name);
    Value::Struct(members)
}

/// In the order of the schema, and as deep as it goes.
fn sorted(value: Value) -> Value {
    match value {
        Value::Struct(mut members) => {
            members.sort_by_key(|(index, _)| *index);
            Value::Struct(members.into_iter().map(|(index, member)| (index, sorted(member))).collect())
        }
        Value::List(items) => Value::List(items.into_iter().map(sorted).collect()),
        Value::Map(entries) => {
            Value::Map(entries.into_iter().map(|(key, entry)| (key, sorted(entry))).collect())
        }
        other => other,
    }
}

#[test]
fn every_operation_has_an_exchange() {
    let exchanges = exchanges();
    let known = exchanges.iter().map(|one| format!("{} {}", text(one, "service"), text(one, "operation")));
    let named = |service: &'static Service| {
        service.operations.iter().map(|operation| format!("{} {}", service.id, operation.name))
    };
    let served = SERVICES.iter().flat_map(|service| named(service));
    let (mut known, mut served): (Vec<_>, Vec<_>) = (known.collect(), served.collect());
    known.sort_unstable();
    served.sort_unstable();
    assert_eq!(known, served, "run golden/generate.py");
}

#[test]
fn every_request_is_understood() {
    for one in exchanges() {
        let (name, sent) = (text(&one, "operation"), &one["request"]);
        let service = SERVICES.iter().find(|known| known.id == text(&one, "service")).expect("is served");
        let request = request(sent);
        let routed = route(&request, Some(service.signing_name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(routed.operation.name, name);
        let decoded = decode_request(&routed, &request).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(sorted(decoded), structure(routed.operation.input, &one["input"]), "{name}");
    }
}

#[test]
fn every_answer_is_what_was_shown_to_botocore() {
    let mut answers = BTreeMap::new();
    for one in exchanges() {
        let service = SERVICES.iter().find(|known| known.id == text(&one, "service")).expect("is served");
        let operation = service.operation(&text(&one, "operation")).expect("is served");
        let output = structure(operation.output, &one["output"]);
        let answer = encode_response(service, operation, &output, "00000000-0000-0000-0000-000000000000");
        let body = String::from_utf8(answer.body).expect("text");
        let headers: BTreeMap<String, String> = answer.headers.into_iter().collect();
        let name = format!("{}.{}", service.id, operation.name);
        answers.insert(name, json!({"status": answer.status, "headers": headers, "body": body}));
    }
    let lines: Vec<String> =
        answers.iter().map(|(name, answer)| format!("{}: {answer}", json!(name))).collect();
    let told = format!("{{\n{}\n}}\n", lines.join(",\n"));
    let path = golden("every-answer.json");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &told).expect("writable");
    }
    let expected = fs::read_to_string(&path).expect("every-answer.json is checked in");
    for (ours, theirs) in told.lines().zip(expected.lines()) {
        assert_eq!(ours, theirs);
    }
    assert_eq!(told.len(), expected.len());
}

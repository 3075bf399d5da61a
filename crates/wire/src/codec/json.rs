//! JSON by schema, for restJson and awsJson.
//!
//! Answers are written straight from the value, members in the model's order; timestamps are epoch seconds.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ekstra_model::{Location, StructSchema, TimeFormat, Timestamp, TypeSchema, Value};
use serde_json::Value as Json;

use super::{DecodeError, scalar};
use crate::time::{parse_http_date, parse_iso8601};

/// Parses a body; an empty one is an empty object.
pub(crate) fn parse_body(body: &[u8]) -> Result<Json, DecodeError> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Json::Object(serde_json::Map::new()));
    }
    serde_json::from_slice(body)
        .map_err(|e| DecodeError::Malformed { what: "The JSON body", why: e.to_string() })
}

/// Reads the body members of a structure.
pub(crate) fn read_struct(schema: &StructSchema, json: &Json) -> Result<Vec<(usize, Value)>, DecodeError> {
    let Json::Object(object) = json else {
        return Err(mismatch("structure", json));
    };
    let mut members = Vec::new();
    for (index, member) in schema.members.iter().enumerate() {
        if member.location != Location::Body {
            continue;
        }
        match object.get(member.wire) {
            None | Some(Json::Null) => {}
            Some(json) => {
                members.push((index, read(member.ty, json).map_err(|e| e.within(member.wire))?));
            }
        }
    }
    Ok(members)
}

/// Reads a value.
pub(crate) fn read(ty: &TypeSchema, json: &Json) -> Result<Value, DecodeError> {
    let value = match (ty, json) {
        (_, Json::Null) => Some(Value::Null),
        (TypeSchema::Document, json) => Some(read_untyped(json)),
        (TypeSchema::Bool, Json::Bool(b)) => Some(Value::Bool(*b)),
        (TypeSchema::Int { .. }, Json::Number(n)) => {
            integer(n).filter(|n| i32::try_from(*n).is_ok()).map(Value::Int)
        }
        (TypeSchema::Long { .. }, Json::Number(n)) => integer(n).map(Value::Int),
        (TypeSchema::Float | TypeSchema::Double, json) => float(json).map(Value::Float),
        (TypeSchema::Str(_), Json::String(s)) => Some(Value::Str(s.clone())),
        (TypeSchema::Blob { .. }, Json::String(s)) => STANDARD.decode(s).ok().map(Value::Blob),
        (TypeSchema::Time { .. }, json) => time(json).map(Value::Time),
        (TypeSchema::Struct(schema), json) => return read_struct(schema, json).map(Value::Struct),
        (TypeSchema::List(list), Json::Array(items)) => {
            let read =
                |(i, item): (usize, &Json)| read(list.member, item).map_err(|e| e.within(&i.to_string()));
            Some(Value::List(items.iter().enumerate().map(read).collect::<Result<_, _>>()?))
        }
        (TypeSchema::Map(map), Json::Object(object)) => {
            let entry = |(k, v): (&String, &Json)| {
                read(map.value, v).map(|v| (k.clone(), v)).map_err(|e| e.within(k))
            };
            Some(Value::Map(object.iter().map(entry).collect::<Result<_, _>>()?))
        }
        _ => None,
    };
    value.ok_or_else(|| mismatch(scalar::name(ty), json))
}

fn integer(number: &serde_json::Number) -> Option<i64> {
    number.as_i64().or_else(|| {
        let float = number.as_f64()?;
        (float.fract() == 0.0 && float.abs() < 9e15).then_some(float as i64)
    })
}

fn float(json: &Json) -> Option<f64> {
    match json {
        Json::Number(n) => n.as_f64(),
        Json::String(s) => match s.as_str() {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    }
}

fn time(json: &Json) -> Option<Timestamp> {
    let ms = match json {
        Json::Number(n) => scalar::epoch_ms(n.as_f64()?),
        Json::String(s) => parse_iso8601(s).or_else(|| parse_http_date(s)),
        _ => None,
    };
    ms.map(Timestamp)
}

fn mismatch(expected: &str, json: &Json) -> DecodeError {
    let found = match json {
        Json::Null => "NULL_VALUE",
        Json::Bool(true) => "TRUE_VALUE",
        Json::Bool(false) => "FALSE_VALUE",
        Json::Number(_) => "NUMBER_VALUE",
        Json::String(_) => "STRING_VALUE",
        Json::Array(_) => "START_ARRAY",
        Json::Object(_) => "START_OBJECT",
    };
    DecodeError::member(format!("{found} can not be converted to {expected}"))
}

fn read_untyped(json: &Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(b) => Value::Bool(*b),
        Json::Number(n) => {
            n.as_i64().map_or_else(|| Value::Float(n.as_f64().unwrap_or_default()), Value::Int)
        }
        Json::String(s) => Value::Str(s.clone()),
        Json::Array(items) => Value::List(items.iter().map(read_untyped).collect()),
        Json::Object(object) => {
            Value::Map(object.iter().map(|(k, v)| (k.clone(), read_untyped(v))).collect())
        }
    }
}

/// Writes the body members of a structure as an object.
pub(crate) fn write_struct(out: &mut String, schema: &StructSchema, value: &Value) {
    let Value::Struct(members) = value else {
        return out.push_str("{}");
    };
    let members = members.iter().filter_map(|(index, value)| {
        let member = schema.members.get(*index)?;
        (member.location == Location::Body && *value != Value::Null).then_some((member, value))
    });
    separated(out, '{', '}', members, |out, (member, value)| {
        string(out, member.wire_out);
        out.push(':');
        write(out, member.ty, value);
    });
}

/// Writes a value.
pub(crate) fn write(out: &mut String, ty: &TypeSchema, value: &Value) {
    match (ty, value) {
        (TypeSchema::Struct(schema), value @ Value::Struct(_)) => write_struct(out, schema, value),
        (TypeSchema::List(list), Value::List(items)) => {
            separated(out, '[', ']', items.iter(), |out, item| write(out, list.member, item));
        }
        (TypeSchema::Map(map), Value::Map(entries)) => {
            separated(out, '{', '}', entries.iter(), |out, (key, value)| {
                string(out, key);
                out.push(':');
                write(out, map.value, value);
            });
        }
        (TypeSchema::Time { format: Some(format) }, Value::Time(t))
            if *format != TimeFormat::EpochSeconds =>
        {
            string(out, &scalar::time_text(*t, *format));
        }
        (_, value) => untyped(out, value),
    }
}

/// Writes a value whose kind alone says how.
pub(crate) fn write_untyped(value: &Value) -> String {
    let mut out = String::new();
    untyped(&mut out, value);
    out
}

fn untyped(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Value::Int(n) => out.push_str(&n.to_string()),
        Value::Float(n) if n.is_nan() => out.push_str("\"NaN\""),
        Value::Float(n) if n.is_infinite() => {
            out.push_str(if *n > 0.0 { "\"Infinity\"" } else { "\"-Infinity\"" })
        }
        Value::Float(n) => out.push_str(&n.to_string()),
        Value::Str(s) => string(out, s),
        Value::Blob(bytes) => string(out, &STANDARD.encode(bytes)),
        Value::Time(t) => out.push_str(&scalar::time_text(*t, TimeFormat::EpochSeconds)),
        Value::List(items) => separated(out, '[', ']', items.iter(), untyped),
        Value::Map(entries) => separated(out, '{', '}', entries.iter(), |out, (key, value)| {
            string(out, key);
            out.push(':');
            untyped(out, value);
        }),
        // Without its schema a structure has no names.
        Value::Struct(_) => out.push_str("{}"),
    }
}

fn separated<T>(
    out: &mut String,
    open: char,
    close: char,
    items: impl Iterator<Item = T>,
    mut write: impl FnMut(&mut String, T),
) {
    out.push(open);
    for (i, item) in items.enumerate() {
        if i > 0 {
            out.push(',');
        }
        write(out, item);
    }
    out.push(close);
}

fn string(out: &mut String, text: &str) {
    let is_plain = |byte: u8| byte >= b' ' && byte != b'"' && byte != b'\\';
    if text.bytes().all(is_plain) {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        out.push_str(&Json::from(text).to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_written_as_json_has_them() {
        let controls = (0..=0x20_u8).map(char::from);
        for letter in controls.chain(['"', '\\', '/', '\u{7f}', 'ü', '\u{2028}', '𝄞']) {
            let text = format!("a{letter}b");
            let mut out = String::new();
            string(&mut out, &text);
            assert_eq!(out, Json::from(text.as_str()).to_string(), "{letter:?}");
        }
    }
}

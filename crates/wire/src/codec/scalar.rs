//! Scalars as text: what labels, query strings, headers, form parameters and XML have in common.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ekstra_model::{TimeFormat, Timestamp, TypeSchema, Value};

use super::DecodeError;
use crate::time::{http_date, iso8601, parse_http_date, parse_iso8601};

/// Reads a scalar; `time` is the format where the schema names none.
pub(crate) fn parse(ty: &TypeSchema, text: &str, time: TimeFormat) -> Result<Value, DecodeError> {
    let value = match ty {
        TypeSchema::Str(_) => Some(Value::Str(text.to_owned())),
        TypeSchema::Bool => match text {
            "true" | "True" => Some(Value::Bool(true)),
            "false" | "False" => Some(Value::Bool(false)),
            _ => None,
        },
        TypeSchema::Int { .. } => text.parse::<i32>().ok().map(|n| Value::Int(n.into())),
        TypeSchema::Long { .. } => text.parse().ok().map(Value::Int),
        TypeSchema::Float | TypeSchema::Double => text.parse().ok().map(Value::Float),
        TypeSchema::Blob { .. } => STANDARD.decode(text).ok().map(Value::Blob),
        TypeSchema::Time { format } => {
            let ms = match format.unwrap_or(time) {
                TimeFormat::Iso8601 => parse_iso8601(text),
                TimeFormat::HttpDate => parse_http_date(text),
                TimeFormat::EpochSeconds => text.parse::<f64>().ok().and_then(epoch_ms),
            };
            ms.map(|ms| Value::Time(Timestamp(ms)))
        }
        _ => None,
    };
    value.ok_or_else(|| DecodeError::member(format!("'{text}' is not a valid {}", name(ty))))
}

/// Writes a scalar; structures, lists and maps have no text and come out empty.
pub(crate) fn text(ty: &TypeSchema, value: &Value, time: TimeFormat) -> String {
    match (ty, value) {
        (_, Value::Str(s)) => s.clone(),
        (_, Value::Bool(b)) => b.to_string(),
        (_, Value::Int(n)) => n.to_string(),
        (_, Value::Float(n)) => n.to_string(),
        (_, Value::Blob(bytes)) => STANDARD.encode(bytes),
        (TypeSchema::Time { format }, Value::Time(t)) => time_text(*t, format.unwrap_or(time)),
        (_, Value::Time(t)) => time_text(*t, time),
        _ => String::new(),
    }
}

/// An instant in one of the formats.
pub(crate) fn time_text(time: Timestamp, format: TimeFormat) -> String {
    match format {
        TimeFormat::Iso8601 => iso8601(time.0),
        TimeFormat::HttpDate => http_date(time.0),
        TimeFormat::EpochSeconds if time.0 % 1000 == 0 => time.secs().to_string(),
        TimeFormat::EpochSeconds => format!("{:.3}", time.0 as f64 / 1000.0),
    }
}

/// Milliseconds of epoch seconds, when they are in range.
pub(crate) fn epoch_ms(seconds: f64) -> Option<i64> {
    let ms = (seconds * 1000.0).round();
    (ms.is_finite() && ms.abs() < 1e15).then_some(ms as i64)
}

/// A type's name in messages.
pub(crate) fn name(ty: &TypeSchema) -> &'static str {
    match ty {
        TypeSchema::Bool => "boolean",
        TypeSchema::Int { .. } => "integer",
        TypeSchema::Long { .. } => "long",
        TypeSchema::Float => "float",
        TypeSchema::Double => "double",
        TypeSchema::Str(_) => "string",
        TypeSchema::Blob { .. } => "blob",
        TypeSchema::Time { .. } => "timestamp",
        TypeSchema::Struct(_) => "structure",
        TypeSchema::List(_) => "list",
        TypeSchema::Map(_) => "map",
        TypeSchema::Document => "document",
    }
}

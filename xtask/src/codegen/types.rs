//! Shapes that are no structures: their schema statics and their Rust types.

use std::fmt::Write as _;

use anyhow::{Context, Result, bail};

use super::json::Json;
use super::names::{camel, upper};

/// A model with what the service's configuration adds.
pub(crate) struct Model<'a> {
    pub(crate) shapes: &'a Json,
    pub(crate) ec2: bool,
    pub(crate) sensitive: &'a [String],
}

impl Model<'_> {
    pub(crate) fn shape(&self, name: &str) -> Result<&Json> {
        self.shapes.get(name).with_context(|| format!("no shape {name}"))
    }

    pub(crate) fn secret(&self, name: &str, shape: &Json) -> bool {
        shape.flag("sensitive") || self.sensitive.iter().any(|s| s == name)
    }

    /// The Rust type of a shape.
    pub(crate) fn rust_type(&self, name: &str) -> Result<String> {
        let shape = self.shape(name)?;
        Ok(match kind(shape) {
            "structure" => camel(name),
            "list" => format!("Vec<{}>", self.rust_type(target(shape, "member")?)?),
            "map" => format!("BTreeMap<String, {}>", self.rust_type(target(shape, "value")?)?),
            "string" | "character" => "String".to_owned(),
            "boolean" => "bool".to_owned(),
            "integer" => "i32".to_owned(),
            "long" => "i64".to_owned(),
            "float" | "double" => "f64".to_owned(),
            "blob" => "Vec<u8>".to_owned(),
            "timestamp" => "Timestamp".to_owned(),
            other => bail!("shape {name}: type {other} is not supported"),
        })
    }

    /// An expression for `&'static TypeSchema`: a shared static for plain scalars, otherwise the shape's own.
    pub(crate) fn type_ref(&self, name: &str) -> Result<String> {
        let shape = self.shape(name)?;
        if kind(shape) == "structure" {
            return Ok(format!("&TypeSchema::Struct(&{})", upper(name)));
        }
        Ok(format!("&{}", self.shared(name, shape).unwrap_or(&upper(name))))
    }

    /// The shared static of a scalar without constraints.
    fn shared(&self, name: &str, shape: &Json) -> Option<&'static str> {
        let plain =
            ["min", "max", "pattern", "enum", "timestampFormat"].iter().all(|k| shape.get(k).is_none());
        if !plain || self.secret(name, shape) {
            return None;
        }
        match kind(shape) {
            "string" | "character" => Some("STRING"),
            "boolean" => Some("BOOL"),
            "integer" => Some("INT"),
            "long" => Some("LONG"),
            "float" => Some("FLOAT"),
            "double" => Some("DOUBLE"),
            "blob" => Some("BLOB"),
            "timestamp" => Some("TIME"),
            _ => None,
        }
    }

    /// The static of a shape that is no structure; `None` when a shared one serves.
    pub(crate) fn type_static(&self, name: &str, shape: &Json) -> Result<Option<String>> {
        if kind(shape) == "structure" || self.shared(name, shape).is_some() {
            return Ok(None);
        }
        let secret = if self.secret(name, shape) { ".secret()" } else { "" };
        let bounds = || format!("min: {:?}, max: {:?}", number(shape, "min"), number(shape, "max"));
        let body = match kind(shape) {
            "string" | "character" => format!("Str(StringSchema::new(){}{secret})", string_traits(shape)),
            "integer" => format!("Int {{ {} }}", bounds()),
            "long" => format!("Long {{ {} }}", bounds()),
            // Bounds of floats and lengths of blobs occur in no model served here.
            "float" => "Float".to_owned(),
            "double" => "Double".to_owned(),
            "blob" => format!("Blob {{ sensitive: {} }}", !secret.is_empty()),
            "timestamp" => format!("Time {{ format: {} }}", time_format(shape)?),
            "list" => format!("List({}{secret})", self.list(shape)?),
            "map" => format!("Map({}{secret})", self.map(shape)?),
            other => bail!("shape {name}: type {other} is not supported"),
        };
        Ok(Some(format!("static {}: TypeSchema = TypeSchema::{body};\n", upper(name))))
    }

    fn list(&self, shape: &Json) -> Result<String> {
        let mut out = format!("ListSchema::new({})", self.type_ref(target(shape, "member")?)?);
        let default = if self.ec2 { "item" } else { "member" };
        let wire = shape.get("member").and_then(|m| m.text("locationName")).unwrap_or(default);
        if wire != "member" {
            write!(out, ".wire({wire:?})")?;
        }
        out.push_str(&container_traits(shape));
        Ok(out)
    }

    fn map(&self, shape: &Json) -> Result<String> {
        let (key, value) = (target(shape, "key")?, target(shape, "value")?);
        let mut out = format!("MapSchema::new({}, {})", self.type_ref(key)?, self.type_ref(value)?);
        let wire = |part: &str| shape.get(part).and_then(|m| m.text("locationName")).map(str::to_owned);
        if let (Some(key), Some(value)) = (wire("key"), wire("value")) {
            write!(out, ".wires({key:?}, {value:?})")?;
        }
        out.push_str(&container_traits(shape));
        Ok(out)
    }
}

pub(crate) fn kind(shape: &Json) -> &str {
    shape.text("type").unwrap_or_default()
}

pub(crate) fn target<'a>(shape: &'a Json, part: &str) -> Result<&'a str> {
    shape.get(part).and_then(|m| m.text("shape")).with_context(|| format!("{part} names no shape"))
}

fn number(shape: &Json, key: &str) -> Option<i64> {
    shape.atom(key).and_then(|n| n.parse().ok())
}

fn lengths(shape: &Json) -> String {
    let bound = |key| number(shape, key).map(|n| format!(".{key}({n})")).unwrap_or_default();
    bound("min") + &bound("max")
}

fn container_traits(shape: &Json) -> String {
    let flat = if shape.flag("flattened") { ".flat()" } else { "" };
    format!("{flat}{}", lengths(shape))
}

fn string_traits(shape: &Json) -> String {
    let mut out = lengths(shape);
    if let Some(pattern) = shape.text("pattern") {
        out.push_str(&format!(".pattern({pattern:?})"));
    }
    let values = shape.texts("enum");
    if !values.is_empty() {
        out.push_str(&format!(".values(&{values:?})"));
    }
    out
}

fn time_format(shape: &Json) -> Result<&'static str> {
    Ok(match shape.text("timestampFormat") {
        None => "None",
        Some("unixTimestamp") => "Some(TimeFormat::EpochSeconds)",
        Some("iso8601") => "Some(TimeFormat::Iso8601)",
        Some("rfc822") => "Some(TimeFormat::HttpDate)",
        Some(other) => bail!("timestampFormat {other} is not supported"),
    })
}

//! The dynamic value between a codec and a typed shape.
//!
//! Invariant: a `Value` carries no wire detail. Structure members are named by their index in the schema, so a
//! codec never has to know a Rust field and a shape never has to know a wire name.

use std::fmt;

/// An instant, in milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The instant `seconds` after the epoch.
    pub const fn from_secs(seconds: i64) -> Self {
        Self(seconds * 1000)
    }

    /// Whole seconds since the epoch, rounded down.
    pub const fn secs(self) -> i64 {
        self.0.div_euclid(1000)
    }
}

/// A decoded value. Codecs produce it by schema; [`crate::Shape`] turns it into a typed structure and back.
///
/// Its `Debug` prints everything, secrets too: log the typed structure, which redacts.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(String),
    Blob(Vec<u8>),
    Time(Timestamp),
    List(Vec<Value>),
    /// In wire order; keys are unique.
    Map(Vec<(String, Value)>),
    /// `(index into StructSchema::members, value)`; members that are absent are left out.
    Struct(Vec<(usize, Value)>),
}

impl Value {
    /// The kind, for messages.
    pub const fn kind(&self) -> &'static str {
        match self {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Int(_) => "integer",
            Value::Float(_) => "float",
            Value::Str(_) => "string",
            Value::Blob(_) => "blob",
            Value::Time(_) => "timestamp",
            Value::List(_) => "list",
            Value::Map(_) => "map",
            Value::Struct(_) => "structure",
        }
    }

    /// The member at `index` of a structure, unless absent or null.
    pub fn member(&self, index: usize) -> Option<&Value> {
        match self {
            Value::Struct(members) => {
                members.iter().find(|(i, v)| *i == index && *v != Value::Null).map(|(_, v)| v)
            }
            _ => None,
        }
    }

    /// The string, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::Str(s) => Some(s),
            _ => None,
        }
    }
}

impl From<&str> for Value {
    fn from(s: &str) -> Self {
        Value::Str(s.to_owned())
    }
}

impl From<String> for Value {
    fn from(s: String) -> Self {
        Value::Str(s)
    }
}

/// Stands for a secret in `Debug` output.
pub(crate) struct Redacted;

impl fmt::Debug for Redacted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

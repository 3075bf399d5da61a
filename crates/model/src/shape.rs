//! The traits that tie typed structures to their schema, and the macros the generated code expands.
//!
//! Invariant: the order of fields in `shape!` is the order of `StructSchema::members`; the index of a member is
//! the position of its field.

use std::collections::BTreeMap;

use crate::schema::{Operation, StructSchema};
use crate::value::{Redacted, Timestamp, Value};

/// A structure of an AWS model.
pub trait Shape: Default + Sized {
    const SCHEMA: &'static StructSchema;

    /// The members that are set, as `Value::Struct`.
    fn to_value(&self) -> Value;

    /// The inverse of [`Shape::to_value`]; absent and null members become `None`.
    fn from_value(value: Value) -> Result<Self, ShapeError>;
}

/// A marker type per operation, tying its input and output.
pub trait OperationShape {
    type Input: Shape;
    type Output: Shape;
    const OPERATION: &'static Operation;
}

/// A value that does not fit the type its schema promised: a codec's bug, never a caller's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShapeError {
    /// From the outermost structure inwards: `CreateClusterRequest.vpcConfig`.
    pub path: String,
    pub expected: &'static str,
    pub found: &'static str,
}

impl ShapeError {
    pub(crate) fn new(expected: &'static str, found: &Value) -> Self {
        Self { path: String::new(), expected, found: found.kind() }
    }

    fn within(mut self, step: &str) -> Self {
        self.path = if self.path.is_empty() { step.to_owned() } else { format!("{step}.{}", self.path) };
        self
    }
}

impl std::fmt::Display for ShapeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: expected {}, found {}", self.path, self.expected, self.found)
    }
}

impl std::error::Error for ShapeError {}

/// The shape of an operation that takes or answers nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Unit {}

/// The schema of [`Unit`].
pub(crate) static UNIT: StructSchema = StructSchema::new("Unit");

impl Shape for Unit {
    const SCHEMA: &'static StructSchema = &UNIT;

    fn to_value(&self) -> Value {
        Value::Struct(Vec::new())
    }

    fn from_value(_: Value) -> Result<Self, ShapeError> {
        Ok(Self {})
    }
}

/// A type a member can have.
pub trait Field: Sized {
    fn to_field(&self) -> Value;
    fn from_field(value: Value) -> Result<Self, ShapeError>;
}

/// Reads one member, naming it in the error.
pub(crate) fn read_member<T: Field>(
    schema: &StructSchema,
    index: usize,
    value: Value,
) -> Result<Option<T>, ShapeError> {
    if value == Value::Null {
        return Ok(None);
    }
    T::from_field(value).map(Some).map_err(|e| e.within(schema.members[index].name))
}

/// The members of a structure value.
pub(crate) fn members_of(schema: &StructSchema, value: Value) -> Result<Vec<(usize, Value)>, ShapeError> {
    match value {
        Value::Struct(members) => Ok(members),
        Value::Null => Ok(Vec::new()),
        other => Err(ShapeError::new("structure", &other).within(schema.name)),
    }
}

macro_rules! scalar_field {
    ($($ty:ty, $variant:ident, $expected:literal;)*) => {$(
        impl Field for $ty {
            fn to_field(&self) -> Value {
                Value::$variant(<$ty as Clone>::clone(self))
            }

            fn from_field(value: Value) -> Result<Self, ShapeError> {
                match value {
                    Value::$variant(v) => Ok(v),
                    other => Err(ShapeError::new($expected, &other)),
                }
            }
        }
    )*};
}

scalar_field! {
    bool, Bool, "boolean";
    i64, Int, "integer";
    String, Str, "string";
    Timestamp, Time, "timestamp";
}

impl Field for i32 {
    fn to_field(&self) -> Value {
        Value::Int(i64::from(*self))
    }

    fn from_field(value: Value) -> Result<Self, ShapeError> {
        match &value {
            Value::Int(v) => i32::try_from(*v).map_err(|_| ShapeError::new("32-bit integer", &value)),
            other => Err(ShapeError::new("integer", other)),
        }
    }
}

impl Field for f64 {
    fn to_field(&self) -> Value {
        Value::Float(*self)
    }

    fn from_field(value: Value) -> Result<Self, ShapeError> {
        match value {
            Value::Float(v) => Ok(v),
            Value::Int(v) => Ok(v as f64),
            other => Err(ShapeError::new("float", &other)),
        }
    }
}

/// A document: any JSON.
impl Field for Value {
    fn to_field(&self) -> Value {
        self.clone()
    }

    fn from_field(value: Value) -> Result<Self, ShapeError> {
        Ok(value)
    }
}

/// `Vec<u8>` is a blob, every other vector a list: `u8` is no [`Field`], so the two cannot meet.
impl Field for Vec<u8> {
    fn to_field(&self) -> Value {
        Value::Blob(self.clone())
    }

    fn from_field(value: Value) -> Result<Self, ShapeError> {
        match value {
            Value::Blob(v) => Ok(v),
            other => Err(ShapeError::new("blob", &other)),
        }
    }
}

impl<T: Field> Field for Vec<T> {
    fn to_field(&self) -> Value {
        Value::List(self.iter().map(Field::to_field).collect())
    }

    fn from_field(value: Value) -> Result<Self, ShapeError> {
        match value {
            Value::List(items) => items.into_iter().map(T::from_field).collect(),
            other => Err(ShapeError::new("list", &other)),
        }
    }
}

impl<T: Field> Field for BTreeMap<String, T> {
    fn to_field(&self) -> Value {
        Value::Map(self.iter().map(|(k, v)| (k.clone(), v.to_field())).collect())
    }

    fn from_field(value: Value) -> Result<Self, ShapeError> {
        match value {
            Value::Map(entries) => entries
                .into_iter()
                .map(|(k, v)| T::from_field(v).map(|v| (k.clone(), v)).map_err(|e| e.within(&k)))
                .collect(),
            other => Err(ShapeError::new("map", &other)),
        }
    }
}

impl<T: Field> Field for Box<T> {
    fn to_field(&self) -> Value {
        (**self).to_field()
    }

    fn from_field(value: Value) -> Result<Self, ShapeError> {
        T::from_field(value).map(Box::new)
    }
}

/// One structure: the struct, its schema static and its [`Shape`].
macro_rules! shape {
    ($name:ident $schema:ident = $base:expr; $($field:ident: $ty:ty = $member:expr;)*) => {
        #[derive(Clone, Default, PartialEq)]
        pub struct $name { $(pub $field: Option<$ty>,)* }

        static $schema: StructSchema = StructSchema { members: &[$($member,)*], ..$base };

        const _: () = {
            #[allow(non_camel_case_types, dead_code)]
            enum Index { $($field),* }

            impl Shape for $name {
                const SCHEMA: &'static StructSchema = &$schema;

                fn to_value(&self) -> Value {
                    #[allow(unused_mut)]
                    let mut members = Vec::new();
                    $(if let Some(v) = &self.$field {
                        members.push((Index::$field as usize, Field::to_field(v)));
                    })*
                    Value::Struct(members)
                }

                #[allow(unused_mut, unused_variables)]
                fn from_value(value: Value) -> Result<Self, ShapeError> {
                    let mut shape = Self::default();
                    for (index, value) in members_of(&$schema, value)? {
                        $(if index == Index::$field as usize {
                            shape.$field = read_member(&$schema, index, value)?;
                            continue;
                        })*
                    }
                    Ok(shape)
                }
            }

            impl Field for $name {
                fn to_field(&self) -> Value {
                    self.to_value()
                }

                fn from_field(value: Value) -> Result<Self, ShapeError> {
                    Self::from_value(value)
                }
            }

            impl std::fmt::Debug for $name {
                fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    let fields: &[(&str, Option<&dyn std::fmt::Debug>)] =
                        &[$((stringify!($field), self.$field.as_ref().map(|v| v as &dyn std::fmt::Debug)),)*];
                    debug_members(f, &$schema, fields)
                }
            }
        };
    };
}
pub(crate) use shape;

/// One operation: its static and the marker type that ties its input and output.
macro_rules! operation {
    ($name:ident $op:ident: $input:ty => $output:ty = $base:expr) => {
        pub(super) static $op: Operation =
            Operation { input: <$input>::SCHEMA, output: <$output>::SCHEMA, ..$base };

        #[derive(Clone, Copy, Debug)]
        pub struct $name;

        impl OperationShape for $name {
            type Input = $input;
            type Output = $output;
            const OPERATION: &'static Operation = &$op;
        }
    };
}
pub(crate) use operation;

/// What `Debug` of a structure shows: the members that are set, secrets redacted.
pub(crate) fn debug_members(
    f: &mut std::fmt::Formatter<'_>,
    schema: &StructSchema,
    fields: &[(&str, Option<&dyn std::fmt::Debug>)],
) -> std::fmt::Result {
    let mut out = f.debug_struct(schema.name);
    for ((name, value), member) in fields.iter().zip(schema.members) {
        match value {
            Some(_) if schema.sensitive || member.ty.sensitive() => out.field(name, &Redacted),
            Some(value) => out.field(name, value),
            None => &mut out,
        };
    }
    out.finish()
}

#[cfg(test)]
#[expect(unreachable_pub, reason = "the macro makes public structs")]
mod tests {
    use crate::schema::prelude::*;
    use crate::value::Redacted;

    shape! { Tree TREE = StructSchema::new("Tree");
        name: String = member("name", &SECRET);
        left: Box<Tree> = member("left", &TypeSchema::Struct(&TREE));
        more: Vec<Tree> = member("more", &TREES);
    }
    static TREES: TypeSchema = TypeSchema::List(ListSchema::new(&TypeSchema::Struct(&TREE)));
    static SECRET: TypeSchema = TypeSchema::Str(StringSchema::new().secret());

    #[test]
    fn recursive_shapes_round_trip_and_secrets_are_redacted() {
        let leaf = Tree { name: Some("hidden".to_owned()), ..Tree::default() };
        let tree = Tree { left: Some(Box::new(leaf.clone())), more: Some(vec![leaf]), name: None };
        assert_eq!(Tree::from_value(tree.to_value()), Ok(tree.clone()));
        let printed = format!("{tree:?}");
        assert!(printed.contains(&format!("{Redacted:?}")) && !printed.contains("hidden"), "{printed}");
    }
}

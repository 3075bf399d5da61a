//! Const descriptions of shapes, operations and services, as the Smithy and botocore models mean them.
//!
//! Everything here is plain data in statics. Invariant: structures are named by reference to a static, never
//! copied, so recursive shapes work.

/// How a service speaks on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    RestJson,
    AwsJson10,
    AwsJson11,
    AwsQuery,
    Ec2Query,
}

/// Where a member travels. Answers use `Body`, `Header` and `StatusCode` only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Location {
    Body,
    Uri,
    Query,
    Header,
    StatusCode,
}

/// Who is to blame for an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Client,
    Server,
}

/// A timestamp's text form, where the model names one. Otherwise the protocol and the location decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeFormat {
    EpochSeconds,
    Iso8601,
    HttpDate,
}

/// What an exception shape says about its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorSchema {
    /// The code a client sees.
    pub code: &'static str,
    /// HTTP status.
    pub status: u16,
    pub fault: Fault,
}

/// A structure: input, output, nested, or exception.
#[derive(Debug)]
pub struct StructSchema {
    /// The AWS shape name.
    pub name: &'static str,
    /// In the order of the model. `Value::Struct` indexes into this.
    pub members: &'static [MemberSchema],
    /// The member that alone is the HTTP body, by AWS name (REST protocols).
    pub payload: Option<&'static str>,
    /// Set on exceptions.
    pub error: Option<&'static ErrorSchema>,
    pub xml_namespace: Option<&'static str>,
    /// The whole structure is secret.
    pub sensitive: bool,
}

impl StructSchema {
    /// A structure without special traits.
    pub const fn new(name: &'static str) -> Self {
        Self { name, members: &[], payload: None, error: None, xml_namespace: None, sensitive: false }
    }

    /// Marks an exception.
    pub const fn error(self, error: &'static ErrorSchema) -> Self {
        Self { error: Some(error), ..self }
    }

    /// Names the payload member.
    pub const fn payload(self, member: &'static str) -> Self {
        Self { payload: Some(member), ..self }
    }

    /// Marks the whole structure secret.
    pub const fn secret(self) -> Self {
        Self { sensitive: true, ..self }
    }

    /// The index of the member with this AWS name.
    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.members.iter().position(|m| m.name == name)
    }
}

/// One member of a structure.
#[derive(Debug)]
pub struct MemberSchema {
    /// The AWS member name.
    pub name: &'static str,
    /// The name in a request, and in an answer unless `wire_out` differs: `locationName`, or for ec2 the query name.
    pub wire: &'static str,
    /// The name in an answer; differs from `wire` for ec2 only.
    pub wire_out: &'static str,
    pub location: Location,
    pub required: bool,
    /// The caller's SDK fills this in when the caller does not.
    pub idempotency_token: bool,
    pub ty: &'static TypeSchema,
}

impl MemberSchema {
    /// A member of the body under its own name.
    pub const fn new(name: &'static str, ty: &'static TypeSchema) -> Self {
        Self {
            name,
            wire: name,
            wire_out: name,
            location: Location::Body,
            required: false,
            idempotency_token: false,
            ty,
        }
    }

    /// Another name on the wire.
    pub const fn wire(self, wire: &'static str) -> Self {
        Self { wire, wire_out: wire, ..self }
    }

    /// One name in requests and another in answers (ec2).
    pub const fn wires(self, wire: &'static str, wire_out: &'static str) -> Self {
        Self { wire, wire_out, ..self }
    }

    /// Outside the body.
    pub const fn at(self, location: Location) -> Self {
        Self { location, ..self }
    }

    pub const fn required(self) -> Self {
        Self { required: true, ..self }
    }

    pub const fn token(self) -> Self {
        Self { idempotency_token: true, ..self }
    }
}

/// Constraints of a string. Lengths count Unicode scalar values.
#[derive(Debug)]
pub struct StringSchema {
    pub min: Option<u64>,
    pub max: Option<u64>,
    /// As in the model; the whole string must match.
    pub pattern: Option<&'static str>,
    /// Allowed values; empty when the string is no enum.
    pub enum_values: &'static [&'static str],
    pub sensitive: bool,
}

impl StringSchema {
    /// Any string.
    pub const fn new() -> Self {
        Self { min: None, max: None, pattern: None, enum_values: &[], sensitive: false }
    }

    pub const fn min(self, min: u64) -> Self {
        Self { min: Some(min), ..self }
    }

    pub const fn max(self, max: u64) -> Self {
        Self { max: Some(max), ..self }
    }

    pub const fn pattern(self, pattern: &'static str) -> Self {
        Self { pattern: Some(pattern), ..self }
    }

    pub const fn values(self, enum_values: &'static [&'static str]) -> Self {
        Self { enum_values, ..self }
    }

    pub const fn secret(self) -> Self {
        Self { sensitive: true, ..self }
    }
}

impl Default for StringSchema {
    fn default() -> Self {
        Self::new()
    }
}

/// A list.
#[derive(Debug)]
pub struct ListSchema {
    pub member: &'static TypeSchema,
    /// The element's name in XML answers and query requests (`member`, or for ec2 `item`).
    pub member_wire: &'static str,
    pub flattened: bool,
    pub min: Option<u64>,
    pub max: Option<u64>,
    pub sensitive: bool,
}

impl ListSchema {
    pub const fn new(member: &'static TypeSchema) -> Self {
        Self { member, member_wire: "member", flattened: false, min: None, max: None, sensitive: false }
    }

    pub const fn wire(self, member_wire: &'static str) -> Self {
        Self { member_wire, ..self }
    }

    pub const fn flat(self) -> Self {
        Self { flattened: true, ..self }
    }

    pub const fn min(self, min: u64) -> Self {
        Self { min: Some(min), ..self }
    }

    pub const fn max(self, max: u64) -> Self {
        Self { max: Some(max), ..self }
    }

    pub const fn secret(self) -> Self {
        Self { sensitive: true, ..self }
    }
}

/// A map from strings.
#[derive(Debug)]
pub struct MapSchema {
    pub key: &'static TypeSchema,
    pub value: &'static TypeSchema,
    /// The entry's names in XML and query (`key`, `value`).
    pub key_wire: &'static str,
    pub value_wire: &'static str,
    pub flattened: bool,
    pub min: Option<u64>,
    pub max: Option<u64>,
    pub sensitive: bool,
}

impl MapSchema {
    pub const fn new(key: &'static TypeSchema, value: &'static TypeSchema) -> Self {
        Self {
            key,
            value,
            key_wire: "key",
            value_wire: "value",
            flattened: false,
            min: None,
            max: None,
            sensitive: false,
        }
    }

    pub const fn wires(self, key_wire: &'static str, value_wire: &'static str) -> Self {
        Self { key_wire, value_wire, ..self }
    }

    pub const fn flat(self) -> Self {
        Self { flattened: true, ..self }
    }

    pub const fn min(self, min: u64) -> Self {
        Self { min: Some(min), ..self }
    }

    pub const fn max(self, max: u64) -> Self {
        Self { max: Some(max), ..self }
    }

    pub const fn secret(self) -> Self {
        Self { sensitive: true, ..self }
    }
}

/// The type of a member, an element, a key or a value.
#[derive(Debug)]
pub enum TypeSchema {
    Bool,
    /// 32 bits, inclusive bounds.
    Int {
        min: Option<i64>,
        max: Option<i64>,
    },
    /// 64 bits, inclusive bounds.
    Long {
        min: Option<i64>,
        max: Option<i64>,
    },
    Float,
    Double,
    Str(StringSchema),
    Blob {
        sensitive: bool,
    },
    Time {
        format: Option<TimeFormat>,
    },
    Struct(&'static StructSchema),
    List(ListSchema),
    Map(MapSchema),
    /// Any JSON.
    Document,
}

impl TypeSchema {
    /// Whether the model marks it secret; `Debug` of typed structures redacts such members.
    pub const fn sensitive(&self) -> bool {
        match self {
            TypeSchema::Str(s) => s.sensitive,
            TypeSchema::Blob { sensitive } => *sensitive,
            TypeSchema::Struct(s) => s.sensitive,
            TypeSchema::List(l) => l.sensitive || l.member.sensitive(),
            TypeSchema::Map(m) => m.sensitive || m.value.sensitive(),
            _ => false,
        }
    }
}

/// One operation of a service.
#[derive(Debug)]
pub struct Operation {
    /// The service's id (`eks`).
    pub service: &'static str,
    pub name: &'static str,
    pub http_method: &'static str,
    /// The template, raw: `/clusters/{name}/updates`.
    pub uri: &'static str,
    /// HTTP status of success.
    pub status: u16,
    pub input: &'static StructSchema,
    pub output: &'static StructSchema,
    /// awsQuery: the element between the response and the output's members.
    pub result_wrapper: Option<&'static str>,
    pub errors: &'static [&'static ErrorSchema],
    /// The model says callers need not sign.
    pub anonymous: bool,
}

impl Operation {
    /// A signed POST to `/` that answers 200: what every query and JSON-target operation is.
    pub const fn new(service: &'static str, name: &'static str) -> Self {
        Self {
            service,
            name,
            http_method: "POST",
            uri: "/",
            status: 200,
            input: &crate::shape::UNIT,
            output: &crate::shape::UNIT,
            result_wrapper: None,
            errors: &[],
            anonymous: false,
        }
    }

    pub const fn http(self, http_method: &'static str, uri: &'static str) -> Self {
        Self { http_method, uri, ..self }
    }

    pub const fn status(self, status: u16) -> Self {
        Self { status, ..self }
    }

    pub const fn wrapper(self, result_wrapper: &'static str) -> Self {
        Self { result_wrapper: Some(result_wrapper), ..self }
    }

    pub const fn errors(self, errors: &'static [&'static ErrorSchema]) -> Self {
        Self { errors, ..self }
    }

    pub const fn anonymous(self) -> Self {
        Self { anonymous: true, ..self }
    }
}

/// One service.
#[derive(Debug)]
pub struct Service {
    /// Our id: the file name of the model (`eks`).
    pub id: &'static str,
    /// The service in a SigV4 credential scope.
    pub signing_name: &'static str,
    pub protocol: Protocol,
    pub api_version: &'static str,
    /// awsJson: what precedes `.Operation` in `X-Amz-Target`.
    pub target_prefix: Option<&'static str>,
    pub xml_namespace: Option<&'static str>,
    pub operations: &'static [&'static Operation],
    /// Operations of the service that are not served, where a request does not name its operation: method, template and
    /// name.
    pub unserved: &'static [(&'static str, &'static str, &'static str)],
}

impl Service {
    /// The operation of this name, if it is served.
    pub fn operation(&self, name: &str) -> Option<&'static Operation> {
        self.operations.iter().copied().find(|op| op.name == name)
    }
}

/// What the generated modules import.
#[allow(dead_code, reason = "which scalars are used depends on what is served")]
pub(crate) mod prelude {
    pub(crate) use std::collections::BTreeMap;

    pub(crate) use super::*;
    pub(crate) use crate::shape::{
        Field, OperationShape, Shape, ShapeError, Unit, debug_members, members_of, operation, read_member,
        shape,
    };
    pub(crate) use crate::value::{Timestamp, Value};

    /// Scalars without constraints.
    pub(crate) static STRING: TypeSchema = TypeSchema::Str(StringSchema::new());
    pub(crate) static BOOL: TypeSchema = TypeSchema::Bool;
    pub(crate) static INT: TypeSchema = TypeSchema::Int { min: None, max: None };
    pub(crate) static LONG: TypeSchema = TypeSchema::Long { min: None, max: None };
    pub(crate) static FLOAT: TypeSchema = TypeSchema::Float;
    pub(crate) static DOUBLE: TypeSchema = TypeSchema::Double;
    pub(crate) static BLOB: TypeSchema = TypeSchema::Blob { sensitive: false };
    pub(crate) static TIME: TypeSchema = TypeSchema::Time { format: None };

    pub(crate) const fn member(name: &'static str, ty: &'static TypeSchema) -> MemberSchema {
        MemberSchema::new(name, ty)
    }
}

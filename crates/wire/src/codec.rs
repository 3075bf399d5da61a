//! Requests to values and values to answers: one codec a protocol behind one pair of functions.
//!
//! Invariant: a codec reads schemas, never operation names; unknown members of a request are ignored, as AWS does,
//! and a member of the wrong kind is an error that names its path.

use ekstra_model::{Operation, OperationShape, Protocol, Service, Shape, ShapeError, Value};

use crate::error::ApiError;
use crate::message::{Request, Response};
use crate::route::Routed;

mod aws_json;
mod aws_query;
mod ec2_query;
pub(crate) mod json;
mod params;
mod rest_json;
mod scalar;
pub(crate) mod xml;

/// A request that does not fit its operation's input.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("{what} is not well formed: {why}")]
    Malformed { what: &'static str, why: String },
    #[error("{path}: {why}")]
    Member { path: String, why: String },
    #[error(transparent)]
    Shape(#[from] ShapeError),
}

impl DecodeError {
    pub(crate) fn member(why: impl Into<String>) -> Self {
        Self::Member { path: String::new(), why: why.into() }
    }

    /// Puts a step in front of the path.
    pub(crate) fn within(self, step: &str) -> Self {
        match self {
            Self::Member { path, why } if path.is_empty() => Self::Member { path: step.to_owned(), why },
            Self::Member { path, why } => Self::Member { path: format!("{step}.{path}"), why },
            other => other,
        }
    }

    /// The answer: `SerializationException` where bodies are JSON, `MalformedInput` for query services,
    /// `InvalidParameterValue` for ec2.
    pub fn to_error(&self, protocol: Protocol) -> ApiError {
        let code = match protocol {
            Protocol::RestJson | Protocol::AwsJson10 | Protocol::AwsJson11 => "SerializationException",
            Protocol::AwsQuery => "MalformedInput",
            Protocol::Ec2Query => "InvalidParameterValue",
        };
        ApiError::client(code, 400, self.to_string())
    }
}

/// Reads a request's input by schema.
pub fn decode_request(routed: &Routed, request: &Request) -> Result<Value, DecodeError> {
    match routed.service.protocol {
        Protocol::RestJson => rest_json::decode(routed, request),
        Protocol::AwsJson10 | Protocol::AwsJson11 => aws_json::decode(routed, request),
        Protocol::AwsQuery => aws_query::decode(routed, request),
        Protocol::Ec2Query => ec2_query::decode(routed, request),
    }
}

/// Reads a request's typed input.
pub fn decode_input<O: OperationShape>(routed: &Routed, request: &Request) -> Result<O::Input, DecodeError> {
    Ok(O::Input::from_value(decode_request(routed, request)?)?)
}

/// Writes an operation's answer. `value` is a `Value::Struct` of the operation's output.
pub fn encode_response(
    service: &Service,
    operation: &Operation,
    value: &Value,
    request_id: &str,
) -> Response {
    let mut response = match service.protocol {
        Protocol::RestJson => rest_json::encode(operation, value),
        Protocol::AwsJson10 => aws_json::encode(operation, value, "application/x-amz-json-1.0"),
        Protocol::AwsJson11 => aws_json::encode(operation, value, "application/x-amz-json-1.1"),
        Protocol::AwsQuery => aws_query::encode(service, operation, value, request_id),
        Protocol::Ec2Query => ec2_query::encode(service, operation, value, request_id),
    };
    response.headers.push(("x-amzn-requestid".to_owned(), request_id.to_owned()));
    response
}

/// Writes an operation's typed answer.
pub fn encode_output<O: OperationShape>(service: &Service, output: &O::Output, request_id: &str) -> Response {
    encode_response(service, O::OPERATION, &output.to_value(), request_id)
}

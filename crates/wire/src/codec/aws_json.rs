//! awsJson 1.0 and 1.1: the whole input and output are one JSON object.

use ekstra_model::{Operation, Value};

use super::{DecodeError, json};
use crate::message::{Request, Response};
use crate::route::Routed;

pub(crate) fn decode(routed: &Routed, request: &Request) -> Result<Value, DecodeError> {
    json::read_struct(routed.operation.input, &json::parse_body(&request.body)?).map(Value::Struct)
}

pub(crate) fn encode(operation: &Operation, value: &Value, content_type: &str) -> Response {
    let mut body = String::new();
    json::write_struct(&mut body, operation.output, value);
    Response {
        status: operation.status,
        headers: vec![("content-type".to_owned(), content_type.to_owned())],
        body: body.into_bytes(),
    }
}

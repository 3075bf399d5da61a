//! The error a caller sees, and its envelope in each protocol.
//!
//! Invariant: every answer carries the request id where its protocol keeps it, and no error leaves without a code.

use ekstra_model::{ErrorSchema, Fault, Protocol, Shape, Value};

use crate::codec::json;
use crate::codec::xml::Xml;
use crate::message::Response;

/// An error as AWS clients understand it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct ApiError {
    /// What clients match on: `ResourceNotFoundException`, `NoSuchEntity`.
    pub code: String,
    pub message: String,
    /// HTTP status.
    pub status: u16,
    pub fault: Fault,
    /// Further members, by wire name (`clusterName`).
    pub extra: Vec<(String, Value)>,
}

impl ApiError {
    /// A modelled exception: `ApiError::new(&eks::errors::RESOURCE_NOT_FOUND_EXCEPTION, "…")`.
    pub fn new(error: &ErrorSchema, message: impl Into<String>) -> Self {
        Self {
            code: error.code.to_owned(),
            message: message.into(),
            status: error.status,
            fault: error.fault,
            extra: Vec::new(),
        }
    }

    /// The caller's fault, with a code of no model.
    pub fn client(code: &str, status: u16, message: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            message: message.into(),
            status,
            fault: Fault::Client,
            extra: Vec::new(),
        }
    }

    /// Our fault: `InternalFailure`, 500. Clients retry it.
    pub fn internal(message: impl Into<String>) -> Self {
        let code = "InternalFailure".to_owned();
        Self { code, message: message.into(), status: 500, fault: Fault::Server, extra: Vec::new() }
    }

    /// A further member.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.extra.push((name.to_owned(), value.into()));
        self
    }

    /// From a typed exception shape; its `message` member is the message, the others become extra members.
    pub fn from_shape<S: Shape>(shape: &S) -> Self {
        let schema = S::SCHEMA;
        let mut error = match schema.error {
            Some(e) => Self::new(e, ""),
            None => Self::client(schema.name, 400, ""),
        };
        if let Value::Struct(members) = shape.to_value() {
            for (index, value) in members {
                let member = &schema.members[index];
                match value {
                    Value::Str(text) if member.name.eq_ignore_ascii_case("message") => error.message = text,
                    value => error.extra.push((member.wire_out.to_owned(), value)),
                }
            }
        }
        error
    }
}

/// The error's answer in a protocol.
///
/// Envelopes: Smithy's pages of the protocols, "operation error serialization".
pub fn encode_error(protocol: Protocol, error: &ApiError, request_id: &str) -> Response {
    let (content_type, body) = match protocol {
        Protocol::RestJson => ("application/json", json_body(error, false)),
        Protocol::AwsJson10 => ("application/x-amz-json-1.0", json_body(error, true)),
        Protocol::AwsJson11 => ("application/x-amz-json-1.1", json_body(error, true)),
        Protocol::AwsQuery => ("text/xml", query_body(error, request_id)),
        Protocol::Ec2Query => ("text/xml;charset=UTF-8", ec2_body(error, request_id)),
    };
    let mut headers = vec![
        ("content-type".to_owned(), content_type.to_owned()),
        ("x-amzn-requestid".to_owned(), request_id.to_owned()),
    ];
    if matches!(protocol, Protocol::RestJson | Protocol::AwsJson10 | Protocol::AwsJson11) {
        headers.push(("x-amzn-errortype".to_owned(), error.code.clone()));
    }
    Response { status: error.status, headers, body: body.into_bytes() }
}

fn json_body(error: &ApiError, with_type: bool) -> String {
    let mut members = Vec::new();
    if with_type {
        members.push(("__type".to_owned(), Value::from(error.code.as_str())));
    }
    members.push(("message".to_owned(), Value::from(error.message.as_str())));
    members.extend(error.extra.iter().cloned());
    json::write_untyped(&Value::Map(members))
}

fn query_body(error: &ApiError, request_id: &str) -> String {
    let mut xml = Xml::default();
    xml.open("ErrorResponse");
    xml.open("Error");
    xml.leaf("Type", if error.fault == Fault::Client { "Sender" } else { "Receiver" });
    code_message_extra(&mut xml, error);
    xml.close("Error");
    xml.leaf("RequestId", request_id);
    xml.close("ErrorResponse");
    xml.finish()
}

fn ec2_body(error: &ApiError, request_id: &str) -> String {
    let mut xml = Xml::default();
    xml.open("Response");
    xml.open("Errors");
    xml.open("Error");
    code_message_extra(&mut xml, error);
    xml.close("Error");
    xml.close("Errors");
    xml.leaf("RequestID", request_id);
    xml.close("Response");
    xml.finish()
}

fn code_message_extra(xml: &mut Xml, error: &ApiError) {
    xml.leaf("Code", &error.code);
    xml.leaf("Message", &error.message);
    for (name, value) in &error.extra {
        if let Value::Str(text) = value {
            xml.leaf(name, text);
        }
    }
}

#[cfg(test)]
mod tests {
    use ekstra_model::eks;

    use super::*;

    fn body(protocol: Protocol) -> String {
        let error =
            ApiError::new(&eks::errors::RESOURCE_NOT_FOUND_EXCEPTION, "No cluster found for name: <x>.")
                .with("clusterName", "<x>");
        String::from_utf8(encode_error(protocol, &error, "id-1").body).expect("UTF-8")
    }

    #[test]
    fn every_protocol_has_its_envelope() {
        assert_eq!(
            body(Protocol::RestJson),
            r#"{"message":"No cluster found for name: <x>.","clusterName":"<x>"}"#
        );
        assert_eq!(
            body(Protocol::AwsJson11),
            r#"{"__type":"ResourceNotFoundException","message":"No cluster found for name: <x>.","clusterName":"<x>"}"#
        );
        assert!(body(Protocol::AwsQuery).contains(
            "<ErrorResponse><Error><Type>Sender</Type><Code>ResourceNotFoundException</Code>\
             <Message>No cluster found for name: &lt;x&gt;.</Message>"
        ));
        assert!(body(Protocol::AwsQuery).ends_with("<RequestId>id-1</RequestId></ErrorResponse>"));
        assert!(body(Protocol::Ec2Query).ends_with("</Errors><RequestID>id-1</RequestID></Response>"));
    }

    #[test]
    fn a_typed_exception_becomes_an_error() {
        let shape = eks::ResourceInUseException {
            cluster_name: Some("c".to_owned()),
            message: Some("Cluster already exists with name: c".to_owned()),
            ..Default::default()
        };
        let error = ApiError::from_shape(&shape);
        assert_eq!((error.code.as_str(), error.status), ("ResourceInUseException", 409));
        assert_eq!(error.message, "Cluster already exists with name: c");
        assert_eq!(error.extra, [("clusterName".to_owned(), Value::from("c"))]);
    }
}

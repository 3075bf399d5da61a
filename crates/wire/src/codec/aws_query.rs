//! awsQuery: form parameters in, XML with a result wrapper out.

use ekstra_model::{Operation, Service, Value};

use super::params::{Dialect, read_struct, tree};
use super::{DecodeError, xml::Xml};
use crate::message::{Request, Response};
use crate::route::Routed;

pub(crate) fn decode(routed: &Routed, request: &Request) -> Result<Value, DecodeError> {
    read_struct(Dialect::Query, routed.operation.input, &tree(request)?)
}

pub(crate) fn encode(service: &Service, operation: &Operation, value: &Value, request_id: &str) -> Response {
    let root = format!("{}Response", operation.name);
    let mut xml = Xml::default();
    xml.open_root(&root, service.xml_namespace);
    match operation.result_wrapper {
        Some(wrapper) => xml.within(wrapper, |xml| xml.members(operation.output, value)),
        None => xml.members(operation.output, value),
    }
    xml.within("ResponseMetadata", |xml| xml.leaf("RequestId", request_id));
    xml.close(&root);
    Response {
        status: operation.status,
        headers: vec![("content-type".to_owned(), "text/xml".to_owned())],
        body: xml.finish().into_bytes(),
    }
}

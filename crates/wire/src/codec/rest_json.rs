//! restJson1: members in the path, the query, headers and a JSON body.

use ekstra_model::{Location, MemberSchema, Operation, StructSchema, TimeFormat, TypeSchema, Value};

use super::{DecodeError, json, scalar};
use crate::message::{Request, Response};
use crate::route::Routed;
use crate::text::parse_query;

pub(crate) fn decode(routed: &Routed, request: &Request) -> Result<Value, DecodeError> {
    let schema = routed.operation.input;
    let query = parse_query(&request.query)
        .ok_or(DecodeError::Malformed { what: "The query string", why: "not UTF-8".to_owned() })?;
    let mut members = body(schema, request)?;
    for (index, member) in schema.members.iter().enumerate() {
        let value = match member.location {
            Location::Uri => routed
                .labels
                .iter()
                .find(|(label, _)| *label == member.wire)
                .map(|(_, text)| scalar::parse(member.ty, text, TimeFormat::Iso8601))
                .transpose(),
            Location::Query => from_query(member, &query),
            Location::Header => request
                .header(&member.wire.to_ascii_lowercase())
                .map(|text| scalar::parse(member.ty, text, TimeFormat::HttpDate))
                .transpose(),
            Location::Body | Location::StatusCode => Ok(None),
        };
        if let Some(value) = value.map_err(|e| e.within(member.wire))? {
            members.push((index, value));
        }
    }
    members.sort_by_key(|(index, _)| *index);
    Ok(Value::Struct(members))
}

fn body(schema: &StructSchema, request: &Request) -> Result<Vec<(usize, Value)>, DecodeError> {
    let Some(index) = schema.payload.and_then(|name| schema.index_of(name)) else {
        let has_body = schema.members.iter().any(|m| m.location == Location::Body);
        return if has_body {
            json::read_struct(schema, &json::parse_body(&request.body)?)
        } else {
            Ok(Vec::new())
        };
    };
    let member = &schema.members[index];
    let value = match member.ty {
        TypeSchema::Blob { .. } => Value::Blob(request.body.clone()),
        TypeSchema::Str(_) => Value::Str(String::from_utf8_lossy(&request.body).into_owned()),
        ty => json::read(ty, &json::parse_body(&request.body)?)?,
    };
    Ok(vec![(index, value)])
}

/// A list repeats its key; a map takes every parameter no other member names (none is served yet).
fn from_query(member: &MemberSchema, query: &[(String, String)]) -> Result<Option<Value>, DecodeError> {
    let mut values = query.iter().filter(|(k, _)| k == member.wire).map(|(_, v)| v);
    let parse = |ty: &TypeSchema, text: &String| scalar::parse(ty, text, TimeFormat::Iso8601);
    match member.ty {
        TypeSchema::List(list) => {
            let items = values.map(|v| parse(list.member, v)).collect::<Result<Vec<_>, _>>()?;
            Ok((!items.is_empty()).then_some(Value::List(items)))
        }
        ty => values.next().map(|v| parse(ty, v)).transpose(),
    }
}

pub(crate) fn encode(operation: &Operation, value: &Value) -> Response {
    let schema = operation.output;
    let mut response = Response { status: operation.status, ..Response::default() };
    response.headers.push(("content-type".to_owned(), "application/json".to_owned()));
    for (index, member) in schema.members.iter().enumerate() {
        match (member.location, value.member(index)) {
            (Location::Header, Some(value)) => {
                let text = scalar::text(member.ty, value, TimeFormat::HttpDate);
                response.headers.push((member.wire_out.to_ascii_lowercase(), text));
            }
            (Location::StatusCode, Some(Value::Int(status))) => {
                response.status = u16::try_from(*status).unwrap_or(operation.status);
            }
            _ => {}
        }
    }
    if response.status != 204 {
        response.body = answer_body(schema, value);
    }
    response
}

fn answer_body(schema: &StructSchema, value: &Value) -> Vec<u8> {
    let mut out = String::new();
    match schema.payload.and_then(|name| schema.index_of(name)) {
        None => json::write_struct(&mut out, schema, value),
        Some(index) => match value.member(index) {
            Some(Value::Blob(bytes)) => return bytes.clone(),
            Some(Value::Str(text)) => return text.clone().into_bytes(),
            Some(value) => json::write(&mut out, schema.members[index].ty, value),
            None => {}
        },
    }
    out.into_bytes()
}

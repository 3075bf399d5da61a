//! Dotted parameters (`Filter.1.Value.2=x`) as a tree, and the tree by schema. Shared by awsQuery and ec2Query.
//!
//! Invariant: depth is bounded before anything recurses.

use std::collections::BTreeMap;

use ekstra_model::{ListSchema, MapSchema, MemberSchema, StructSchema, TimeFormat, TypeSchema, Value};

use super::{DecodeError, scalar};
use crate::message::Request;
use crate::text::parse_query;

const MAX_DEPTH: usize = 64;

/// How the two protocols spell lists.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// `List.member.1`, unless flattened.
    Query,
    /// `List.1`, always.
    Ec2,
}

/// One dotted name and what lies below it.
#[derive(Default)]
pub(crate) struct Node {
    text: Option<String>,
    children: BTreeMap<String, Node>,
}

/// The parameters of the query string and of a form body.
pub(crate) fn tree(request: &Request) -> Result<Node, DecodeError> {
    let malformed = |why: &str| DecodeError::Malformed { what: "The form", why: why.to_owned() };
    let body = std::str::from_utf8(&request.body).map_err(|_| malformed("not UTF-8"))?;
    let mut root = Node::default();
    for raw in [request.query.as_str(), body.trim_end()] {
        for (key, text) in parse_query(raw).ok_or_else(|| malformed("not UTF-8"))? {
            if key.split('.').count() > MAX_DEPTH {
                return Err(malformed("a parameter is nested too deeply"));
            }
            let mut node = &mut root;
            for step in key.split('.') {
                node = node.children.entry(step.to_owned()).or_default();
            }
            node.text = Some(text);
        }
    }
    Ok(root)
}

/// Reads a structure.
pub(crate) fn read_struct(
    dialect: Dialect,
    schema: &StructSchema,
    node: &Node,
) -> Result<Value, DecodeError> {
    let mut members = Vec::new();
    for (index, member) in schema.members.iter().enumerate() {
        let Some(child) = find(member, node) else { continue };
        let value = read(dialect, member.ty, child).map_err(|e| e.within(member.wire))?;
        members.push((index, value));
    }
    Ok(Value::Struct(members))
}

/// A flattened list may travel under its element's name (Smithy, awsQuery: `xmlFlattened`).
fn find<'n>(member: &MemberSchema, node: &'n Node) -> Option<&'n Node> {
    node.children.get(member.wire).or_else(|| match member.ty {
        TypeSchema::List(list) if list.flattened => node.children.get(list.member_wire),
        _ => None,
    })
}

fn read(dialect: Dialect, ty: &TypeSchema, node: &Node) -> Result<Value, DecodeError> {
    match ty {
        TypeSchema::Struct(schema) => read_struct(dialect, schema, node),
        TypeSchema::List(list) => read_list(dialect, list, node),
        TypeSchema::Map(map) => read_map(dialect, map, node),
        ty => {
            let text =
                node.text.as_deref().ok_or_else(|| DecodeError::member("has members but is no structure"))?;
            scalar::parse(ty, text, TimeFormat::Iso8601)
        }
    }
}

fn read_list(dialect: Dialect, list: &ListSchema, node: &Node) -> Result<Value, DecodeError> {
    let nested = || node.children.get(list.member_wire).or_else(|| node.children.get("member"));
    let node = if dialect == Dialect::Ec2 || list.flattened { node } else { nested().unwrap_or(node) };
    let read =
        |(i, node): (u32, &Node)| read(dialect, list.member, node).map_err(|e| e.within(&i.to_string()));
    Ok(Value::List(numbered(node)?.into_iter().map(read).collect::<Result<_, _>>()?))
}

fn read_map(dialect: Dialect, map: &MapSchema, node: &Node) -> Result<Value, DecodeError> {
    let node = if map.flattened { node } else { node.children.get("entry").unwrap_or(node) };
    let mut entries: Vec<(String, Value)> = Vec::new();
    for (i, entry) in numbered(node)? {
        let part = |wire: &str| {
            entry
                .children
                .get(wire)
                .ok_or_else(|| DecodeError::member(format!("no {wire}")).within(&i.to_string()))
        };
        let key = part(map.key_wire)?.text.clone().unwrap_or_default();
        let value = read(dialect, map.value, part(map.value_wire)?).map_err(|e| e.within(&key))?;
        if entries.iter().any(|(k, _)| *k == key) {
            return Err(DecodeError::member(format!("the key '{key}' is there twice")));
        }
        entries.push((key, value));
    }
    Ok(Value::Map(entries))
}

/// Numbered children, in the order of their numbers. An empty list is `List=`.
fn numbered(node: &Node) -> Result<Vec<(u32, &Node)>, DecodeError> {
    let mut items = node
        .children
        .iter()
        .map(|(key, child)| {
            let number = key.parse().map_err(|_| DecodeError::member(format!("'{key}' is not an index")))?;
            Ok((number, child))
        })
        .collect::<Result<Vec<(u32, &Node)>, DecodeError>>()?;
    items.sort_by_key(|(number, _)| *number);
    Ok(items)
}

//! XML answers by schema, for awsQuery and ec2Query. Nothing here reads XML.

use ekstra_model::{StructSchema, TimeFormat, TypeSchema, Value};

use super::scalar;
use crate::text::xml_escape;

/// A document being written. Element names come from schemas; text is escaped here.
#[derive(Default)]
pub(crate) struct Xml {
    out: String,
}

impl Xml {
    pub(crate) fn open(&mut self, name: &str) {
        self.out.push('<');
        self.out.push_str(name);
        self.out.push('>');
    }

    /// Opens the root with its namespace.
    pub(crate) fn open_root(&mut self, name: &str, namespace: Option<&str>) {
        match namespace {
            Some(ns) => self.open(&format!("{name} xmlns=\"{}\"", xml_escape(ns))),
            None => self.open(name),
        }
    }

    pub(crate) fn close(&mut self, name: &str) {
        self.out.push_str("</");
        self.out.push_str(name);
        self.out.push('>');
    }

    pub(crate) fn leaf(&mut self, name: &str, text: &str) {
        self.open(name);
        self.out.push_str(&xml_escape(text));
        self.close(name);
    }

    /// The members of a structure, without an element around them.
    pub(crate) fn members(&mut self, schema: &StructSchema, value: &Value) {
        let Value::Struct(members) = value else { return };
        for (index, value) in members {
            if let Some(member) = schema.members.get(*index) {
                self.value(member.wire_out, member.ty, value);
            }
        }
    }

    /// A value in its element; absent values write nothing.
    pub(crate) fn value(&mut self, name: &str, ty: &TypeSchema, value: &Value) {
        match (ty, value) {
            (_, Value::Null) => {}
            (TypeSchema::Struct(schema), value) => self.within(name, |xml| xml.members(schema, value)),
            (TypeSchema::List(list), Value::List(items)) if list.flattened => {
                let name = if list.member_wire == "member" { name } else { list.member_wire };
                items.iter().for_each(|item| self.value(name, list.member, item));
            }
            (TypeSchema::List(list), Value::List(items)) => self.within(name, |xml| {
                items.iter().for_each(|item| xml.value(list.member_wire, list.member, item));
            }),
            (TypeSchema::Map(map), Value::Map(entries)) => {
                let entry = |xml: &mut Self, name: &str| {
                    for (key, value) in entries {
                        xml.within(name, |xml| {
                            xml.leaf(map.key_wire, key);
                            xml.value(map.value_wire, map.value, value);
                        });
                    }
                };
                if map.flattened { entry(self, name) } else { self.within(name, |xml| entry(xml, "entry")) }
            }
            (ty, value) => self.leaf(name, &scalar::text(ty, value, TimeFormat::Iso8601)),
        }
    }

    /// An element around what `body` writes.
    pub(crate) fn within(&mut self, name: &str, body: impl FnOnce(&mut Self)) {
        self.open(name);
        body(self);
        self.close(name);
    }

    pub(crate) fn finish(self) -> String {
        format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{}", self.out)
    }
}

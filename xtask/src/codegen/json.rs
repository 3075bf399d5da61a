//! JSON that keeps the order of object members, which service models rely on.
//!
//! `serde_json`'s own map sorts (its `preserve_order` feature would reach every crate of a build), so this reads
//! the structure and leaves strings to it. For trusted, pinned files.

use anyhow::{Result, bail};

/// A JSON value; numbers keep their text.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Json {
    Atom(String),
    Str(String),
    List(Vec<Json>),
    Map(Vec<(String, Json)>),
}

impl Json {
    /// The member of an object.
    pub(crate) fn get(&self, key: &str) -> Option<&Json> {
        self.entries().iter().find(|(k, _)| k == key).map(|(_, v)| v)
    }

    /// The text of a member that is a string.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        match self.get(key) {
            Some(Json::Str(s)) => Some(s),
            _ => None,
        }
    }

    /// The text of a member that is a number, `true`, `false` or `null`.
    pub(crate) fn atom(&self, key: &str) -> Option<&str> {
        match self.get(key) {
            Some(Json::Atom(s)) => Some(s),
            _ => None,
        }
    }

    /// Whether a member is `true`.
    pub(crate) fn flag(&self, key: &str) -> bool {
        self.atom(key) == Some("true")
    }

    /// The strings of a member that is a list of strings.
    pub(crate) fn texts(&self, key: &str) -> Vec<&str> {
        match self.get(key) {
            Some(Json::List(items)) => items
                .iter()
                .filter_map(|v| if let Json::Str(s) = v { Some(s.as_str()) } else { None })
                .collect(),
            _ => Vec::new(),
        }
    }

    /// The members of an object, in order.
    pub(crate) fn entries(&self) -> &[(String, Json)] {
        match self {
            Json::Map(entries) => entries,
            _ => &[],
        }
    }
}

pub(crate) fn parse(text: &str) -> Result<Json> {
    let mut reader = Reader { text, at: 0 };
    let value = reader.value()?;
    reader.space();
    if reader.at != text.len() {
        bail!("trailing text at byte {}", reader.at);
    }
    Ok(value)
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn space(&mut self) {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
    }

    fn peek(&mut self) -> Option<u8> {
        self.space();
        self.text.as_bytes().get(self.at).copied()
    }

    fn eat(&mut self, byte: u8) -> bool {
        let hit = self.peek() == Some(byte);
        self.at += usize::from(hit);
        hit
    }

    fn expect(&mut self, byte: u8) -> Result<()> {
        if !self.eat(byte) {
            bail!("expected {:?} at byte {}", char::from(byte), self.at);
        }
        Ok(())
    }

    fn value(&mut self) -> Result<Json> {
        match self.peek() {
            Some(b'{') => self.map(),
            Some(b'[') => self.list(),
            Some(b'"') => self.string().map(Json::Str),
            Some(_) => {
                let rest = &self.text[self.at..];
                let end = rest.find([',', '}', ']', ' ', '\n']).unwrap_or(rest.len());
                self.at += end;
                Ok(Json::Atom(rest[..end].to_owned()))
            }
            None => bail!("unexpected end"),
        }
    }

    fn map(&mut self) -> Result<Json> {
        self.expect(b'{')?;
        let mut entries = Vec::new();
        while !self.eat(b'}') {
            if !entries.is_empty() {
                self.expect(b',')?;
            }
            let key = self.string()?;
            self.expect(b':')?;
            entries.push((key, self.value()?));
        }
        Ok(Json::Map(entries))
    }

    fn list(&mut self) -> Result<Json> {
        self.expect(b'[')?;
        let mut items = Vec::new();
        while !self.eat(b']') {
            if !items.is_empty() {
                self.expect(b',')?;
            }
            items.push(self.value()?);
        }
        Ok(Json::List(items))
    }

    fn string(&mut self) -> Result<String> {
        self.expect(b'"')?;
        let start = self.at - 1;
        let bytes = self.text.as_bytes();
        while let Some(byte) = bytes.get(self.at) {
            self.at += if *byte == b'\\' { 2 } else { 1 };
            if *byte == b'"' {
                return Ok(serde_json::from_str(&self.text[start..self.at])?);
            }
        }
        bail!("unterminated string at byte {start}")
    }
}

/// Text of a value: one line where it fits, otherwise one member a line.
pub(crate) fn render(value: &Json, indent: usize) -> String {
    let line = flat(value);
    if line.len() + indent <= 110 {
        return line;
    }
    let pad = " ".repeat(indent + 1);
    let (open, close, lines): (_, _, Vec<String>) = match value {
        Json::Map(entries) => {
            ('{', '}', entries.iter().map(|(k, v)| entry(k, &render(v, indent + 1))).collect())
        }
        Json::List(items) => ('[', ']', items.iter().map(|v| render(v, indent + 1)).collect()),
        _ => return line,
    };
    format!("{open}\n{pad}{}\n{}{close}", lines.join(&format!(",\n{pad}")), " ".repeat(indent))
}

fn flat(value: &Json) -> String {
    match value {
        Json::Atom(text) => text.clone(),
        Json::Str(text) => quote(text),
        Json::List(items) => format!("[{}]", items.iter().map(flat).collect::<Vec<_>>().join(", ")),
        Json::Map(entries) => {
            let entries: Vec<String> = entries.iter().map(|(k, v)| entry(k, &flat(v))).collect();
            format!("{{{}}}", entries.join(", "))
        }
    }
}

fn entry(key: &str, value: &str) -> String {
    format!("{}: {value}", quote(key))
}

fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_escapes_survive() {
        let text = r#"{"b": [1, -2.5, true], "a": {"x\"\n": "é\\"}, "c": [], "d": {}}"#;
        let value = parse(text).expect("valid JSON");
        assert_eq!(render(&value, 0), text);
    }
}

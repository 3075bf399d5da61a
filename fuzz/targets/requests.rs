//! Whatever comes to the port: found its way, decoded by the codec of its service, validated, and answered. What was understood
//! can be said again, and so can an answer with whatever in it.
#![no_main]

use ekstra_model::{Protocol, SERVICES, StructSchema, Timestamp, TypeSchema, Value};
use ekstra_wire::{
    Request, decode_request, encode_error, encode_response, route, validate, violations_error,
};
use libfuzzer_sys::fuzz_target;

/// Lines of a head as in HTTP, an empty one, the body. The first line: service, method, path with its query.
fn request(data: &[u8]) -> Option<(Option<&'static str>, Request)> {
    let split = data.windows(2).position(|two| two == b"\n\n").unwrap_or(data.len());
    let head = std::str::from_utf8(&data[..split]).ok()?;
    let mut lines = head.lines();
    let mut first = lines.next()?.split(' ');
    let (service, method, target) = (first.next()?, first.next()?, first.next().unwrap_or("/"));
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let headers = lines.filter_map(|line| line.split_once(": "));
    let scope = SERVICES.iter().find(|known| known.id == service).map(|known| known.signing_name);
    Some((
        scope,
        Request {
            method: method.to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
            headers: headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect(),
            body: data.get(split + 2..).unwrap_or_default().to_vec(),
        },
    ))
}

/// Of a schema, as the input's bytes choose.
struct Answer<'a> {
    text: &'a str,
    /// From the end: the beginning finds the way.
    choices: std::iter::Rev<std::slice::Iter<'a, u8>>,
}

impl Answer<'_> {
    /// How deep shapes hold themselves.
    const DEEPEST: usize = 6;

    fn choice(&mut self) -> usize {
        self.choices.next().copied().unwrap_or(1).into()
    }

    fn structure(&mut self, schema: &'static StructSchema, depth: usize) -> Value {
        let mut members = Vec::new();
        for (index, member) in schema.members.iter().enumerate() {
            if depth < Self::DEEPEST && self.choice() % 4 != 0 {
                members.push((index, self.value(member.ty, depth + 1)));
            }
        }
        Value::Struct(members)
    }

    fn word(&mut self) -> String {
        let skipped = self.choice();
        self.text.chars().cycle().skip(skipped).take(8).collect()
    }

    fn value(&mut self, ty: &'static TypeSchema, depth: usize) -> Value {
        match ty {
            TypeSchema::Struct(schema) => self.structure(schema, depth),
            TypeSchema::List(list) => {
                let length = self.choice() % 3;
                Value::List((0..length).map(|_| self.value(list.member, depth + 1)).collect())
            }
            TypeSchema::Map(map) => {
                let length = self.choice() % 3;
                Value::Map((0..length).map(|_| (self.word(), self.value(map.value, depth + 1))).collect())
            }
            TypeSchema::Bool => Value::Bool(self.choice() % 2 == 0),
            TypeSchema::Int { .. } | TypeSchema::Long { .. } => {
                Value::Int(i64::try_from(self.choice()).unwrap_or_default() - 100)
            }
            TypeSchema::Float | TypeSchema::Double => Value::Float(1.0 / self.choice() as f64),
            TypeSchema::Time { .. } => Value::Time(Timestamp(
                i64::try_from(self.choice()).unwrap_or_default() << (self.choice() % 50),
            )),
            TypeSchema::Blob { .. } => Value::Blob(self.word().into_bytes()),
            TypeSchema::Str(_) | TypeSchema::Document => Value::Str(self.word()),
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((scope, request)) = request(data) else { return };
    let routed = match route(&request, scope) {
        Ok(routed) => routed,
        Err(error) => {
            encode_error(error.protocol(), &error.to_error(), "r");
            return;
        }
    };
    let protocol = routed.service.protocol;
    match decode_request(&routed, &request) {
        Err(error) => drop(encode_error(protocol, &error.to_error(protocol), "r")),
        Ok(value) => {
            let violations = validate(routed.operation.input, &value);
            if !violations.is_empty() {
                let refused = violations_error(protocol, routed.operation, &violations);
                encode_error(protocol, &refused, "r");
            }
            let shown = ekstra_wire::parameters(routed.operation.input, &value);
            assert!(shown.is_object() || shown.is_null());
            let text = String::from_utf8_lossy(data);
            let mut answer = Answer { text: &text, choices: data.iter().rev() };
            let answer = answer.structure(routed.operation.output, 0);
            let told = encode_response(routed.service, routed.operation, &answer, "r");
            if matches!(protocol, Protocol::RestJson | Protocol::AwsJson11) {
                serde_json::from_slice::<serde_json::Value>(&told.body).expect("JSON");
            }
        }
    }
});

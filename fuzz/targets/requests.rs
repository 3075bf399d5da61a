//! Whatever comes to the port: found its way, decoded by the codec of its service, validated, and answered. What was understood
//! can be said again.
#![no_main]

use ekstra_model::SERVICES;
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
            let empty = ekstra_model::Value::Struct(Vec::new());
            encode_response(routed.service, routed.operation, &empty, "r");
        }
    }
});

//! Every operation that is served: what it says to an empty request; to somebody who may do nothing and asks with every
//! member; and to somebody who may do this alone. `operations.txt` has all of it; `UPDATE_GOLDEN=1 cargo test --release -p ekstra-eks --test operations` writes it again.
//!
//! The requests are those that botocore sent (`crates/wire/tests/golden/every.json`).

use ekstra_model::{SERVICES, Value};
use ekstra_testkit::Caller;
use ekstra_wire::{decode_request, route, validate, violations_error};
use serde_json::Value as Json;
use std::fmt::Write;
use std::path::Path;

mod served;

use served::{World, allow};

const NOBODY: &str = "nobody";
const DENIED: &str = "is not authorized to perform";
/// What any operation of a service may say, whatever its model has. Source: the services' "Common errors".
const COMMON: [&str; 4] = ["AccessDenied", "AccessDeniedException", "ValidationError", "ValidationException"];
/// Operations that ask for no permission, and say so in their code.
const UNASKED: [&str; 4] =
    ["sts.GetCallerIdentity", "sts.AssumeRole", "sts.AssumeRoleWithWebIdentity", "sts.GetSessionToken"];

fn recorded() -> Vec<Json> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wire/tests/golden/every.json");
    serde_json::from_str(&std::fs::read_to_string(path).expect("is checked in")).expect("is JSON")
}

/// The action that a refusal names.
fn denied_action(answer: &str) -> Option<&str> {
    answer.split_once(DENIED)?.1.trim_start_matches(": ").split(' ').next()
}

#[tokio::test]
async fn every_operation_checks_and_asks() {
    let world = World::new().await;
    world.user(NOBODY, "").await;
    let (mut told, mut unasked) = (String::new(), Vec::new());
    for one in recorded() {
        let request = served::request(&one["request"]);
        let id = one["service"].as_str().expect("a string");
        let service = SERVICES.iter().find(|known| known.id == id).expect("is served");
        let routed = route(&request, Some(service.signing_name)).expect("has a way");
        let operation = routed.operation;
        let name = format!("{id}.{}", operation.name);
        let violations = validate(operation.input, &Value::Struct(Vec::new()));
        let checked = match violations.is_empty() {
            true => "nothing is required".to_owned(),
            false => violations_error(service.protocol, operation, &violations).message,
        };
        let input = decode_request(&routed, &request).expect("is understood");
        let asked = async |who: &str| {
            let call = world.env.signed(Caller::from(world.env.user(who)));
            let answer = world.router.call(id, operation.name, call, input.clone());
            match answer.expect("is served").await {
                Ok(_) => "allowed".to_owned(),
                Err(error) => {
                    // EC2's models have no errors.
                    let known = operation.errors.iter().any(|known| known.code == error.code);
                    let is_known = known || id == "ec2" || COMMON.contains(&error.code.as_str());
                    let mark = if is_known { "" } else { " (not in its model)" };
                    format!("{}{mark}: {}", error.code, error.message)
                }
            }
        };
        let answered = asked(NOBODY).await;
        writeln!(told, "{name}\n  empty   {checked}\n  nobody  {answered}").expect("a string grows");
        let Some(action) = denied_action(&answered) else {
            unasked.push(name);
            continue;
        };
        // Somebody new each time: what one made is not the next one's to be refused for.
        let only = format!("only-{}", operation.name);
        world.user(&only, &allow(&format!("\"{action}\""), "*")).await;
        let answered = asked(&only).await;
        assert_ne!(denied_action(&answered), Some(action), "{name}: {answered}");
        writeln!(told, "  only    {answered}").expect("a string grows");
    }
    assert_eq!(unasked, UNASKED);
    served::compare("operations.txt", &told);
}

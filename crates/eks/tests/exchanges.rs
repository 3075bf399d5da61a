//! One exchange of every operation: what botocore sends, and what the operation's own code answers, byte by byte
//! (`tests/e2e/test_04_exchanges.py` shows the answers to botocore's parsers).
//!
//! `exchanges/scenario.json` has the steps, in an order that makes sense. `crates/wire/tests/golden/generate.py` writes
//! `requests.json`, `UPDATE_GOLDEN=1 cargo test --release -p ekstra-eks --test exchanges` writes `answers.json`. What they lack has its
//! reason in [`ELSEWHERE`]. Nothing runs here: a reconciler is played by writing what it would (`settle`).

use ekstra_domain::iam::FIRST_USER;
use ekstra_domain::names::keys;
use ekstra_model::SERVICES;
use ekstra_store::Txn;
use ekstra_testkit::Caller;
use ekstra_wire::{
    ApiError, Request, Response, decode_request, encode_error, encode_response, route, validate,
};
use serde_json::{Value as Json, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

mod served;

use served::World;

/// Operations that cannot succeed without a machine, and the cases where they do with one.
const ELSEWHERE: [(&str, &str); 7] = [
    ("eks.UpdateNodegroupVersion", "there is one version yet: test_54_every_operation.py has its refusal"),
    (
        "eks.CancelUpdate",
        "no update that there is can be cancelled: test_54_every_operation.py has its refusal",
    ),
    ("eks.DescribeInsight", "takes what a cluster shows: test_49_insights.py"),
    ("eks-auth.AssumeRoleForPodIdentity", "takes a pod's token: test_51_pod_identity.py"),
    ("sts.AssumeRoleWithWebIdentity", "takes a token of a cluster: test_44_trust.py"),
    ("ec2.AttachVolume", "takes an instance: test_25_storage.py"),
    ("ec2.DetachVolume", "takes an instance: test_25_storage.py"),
];
/// Refused as a rule, for now.
const REFUSED: [&str; 2] = ["eks.UpdateClusterVersion", "eks.ActivateCertificateAuthority"];

fn place(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/exchanges").join(name)
}

fn text(json: &Json) -> String {
    json.as_str().unwrap_or_else(|| panic!("{json} is no string")).to_owned()
}

/// What earlier answers said, put in the places that are kept for it: names and ids, which need no escape.
fn filled(request: &Json, kept: &BTreeMap<String, String>) -> Request {
    let put = |told: String, (name, value): (&String, &String)| told.replace(&format!("__{name}__"), value);
    let told = kept.iter().fold(request.to_string(), put);
    served::request(&serde_json::from_str(&told).expect("is JSON"))
}

/// The first member of that name, in JSON or in XML; after a dot, the first behind the one before it.
fn member(body: &str, name: &str) -> String {
    if let Some((outer, inner)) = name.split_once('.') {
        let (_, behind) = body.split_once(outer).unwrap_or_else(|| panic!("no {outer} in {body}"));
        return member(behind, inner);
    }
    let marks = [(format!("\"{name}\":\""), '"'), (format!("<{name}>"), '<')];
    let found = marks.iter().find_map(|(mark, end)| body.split_once(mark)?.1.split(*end).next());
    found.unwrap_or_else(|| panic!("no {name} in {body}")).to_owned()
}

/// Whatever is being made is there, and whatever goes is gone.
async fn settle(world: &World) {
    let body = |txn: &mut Txn| {
        for (kind, member) in [("eks/", "status"), (keys::VOLUMES, "state"), (keys::SNAPSHOTS, "state")] {
            for (key, mut record) in txn.list::<Json>(kind)? {
                let end = match record[member].as_str() {
                    Some("CREATING" | "UPDATING") => "ACTIVE",
                    Some("InProgress") => "Successful",
                    Some("creating") => "available",
                    Some("pending") => "completed",
                    Some("DELETING" | "deleting") => {
                        txn.delete(&key);
                        continue;
                    }
                    _ => continue,
                };
                record[member] = json!(end);
                txn.put(&key, &record)?;
            }
        }
        Ok(())
    };
    world.env.write(body).await;
}

async fn answer(world: &World, step: &Json, kept: &BTreeMap<String, String>) -> Response {
    let service = SERVICES.iter().find(|known| known.id == step["service"]).expect("is served");
    let request = filled(&step["request"], kept);
    let routed = route(&request, Some(service.signing_name)).expect("has a way");
    let operation = routed.operation;
    assert_eq!(operation.name, step["operation"]);
    let input = decode_request(&routed, &request).expect("is understood");
    assert_eq!(validate(operation.input, &input), [], "{}", operation.name);
    let call = world.env.signed(Caller::from(world.env.user(FIRST_USER)));
    let answered: Result<_, ApiError> =
        world.router.call(service.id, operation.name, call, input).expect("is served").await;
    match answered {
        Ok(output) => encode_response(service, operation, &output, "r"),
        Err(error) => encode_error(service.protocol, &error, "r"),
    }
}

#[tokio::test]
async fn every_operation_answers_as_before() {
    let world = World::new().await;
    let steps = std::fs::read_to_string(place("requests.json")).expect("is checked in");
    let steps: Vec<Json> = serde_json::from_str(&steps).expect("is JSON");
    let (mut kept, mut lines) = (BTreeMap::new(), Vec::new());
    let mut done = BTreeSet::new();
    for step in &steps {
        let name = format!("{}.{}", text(&step["service"]), text(&step["operation"]));
        let answer = answer(&world, step, &kept).await;
        let body = String::from_utf8(answer.body).expect("text");
        assert_eq!(answer.status == 200, !REFUSED.contains(&name.as_str()), "{name}: {body}");
        for (kept_as, from) in step["keep"].as_object().into_iter().flatten() {
            kept.insert(kept_as.clone(), member(&body, &text(from)));
        }
        settle(&world).await;
        let headers: BTreeMap<String, String> = answer.headers.into_iter().collect();
        let told = json!({"status": answer.status, "headers": headers, "body": body});
        lines.push(format!("[{}, {told}]", json!(name)));
        done.insert(name);
    }
    let all = SERVICES.iter().flat_map(|service| {
        service.operations.iter().map(|operation| format!("{}.{}", service.id, operation.name))
    });
    let missing: BTreeSet<String> = all.filter(|name| !done.contains(name)).collect();
    assert_eq!(missing, ELSEWHERE.iter().map(|(name, _)| (*name).to_owned()).collect());
    served::compare("exchanges/answers.json", &format!("[\n{}\n]\n", lines.join(",\n")));
}

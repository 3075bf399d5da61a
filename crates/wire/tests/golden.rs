//! What botocore sends is routed, verified and decoded; what we answer is what its parsers were shown to read.
//!
//! `golden/requests.json` comes from `golden/generate.py`. `UPDATE_GOLDEN=1` rewrites `golden/answers`; after that
//! `generate.py answers` shows what botocore makes of them.

mod common;

use std::fs;

use ekstra_model::{
    Protocol, Service, Shape, StructSchema, Timestamp, TypeSchema, Value, ec2, eks, iam, sts,
};
use ekstra_wire::sigv4::{self, Credentials, SecretKey, VerifyOptions};
use ekstra_wire::{ApiError, Request, Response, decode_request, encode_error, encode_output, route};
use serde_json::{Value as Json, json};

use common::{golden, request, text};

fn requests() -> Json {
    let text = fs::read_to_string(golden("requests.json")).expect("requests.json is checked in");
    serde_json::from_str(&text).expect("requests.json is JSON")
}

/// A value under AWS's names, to compare with what botocore was given.
fn named(ty: &TypeSchema, value: &Value) -> Json {
    match (ty, value) {
        (TypeSchema::Struct(schema), value) => named_struct(schema, value),
        (TypeSchema::List(list), Value::List(items)) => items.iter().map(|v| named(list.member, v)).collect(),
        (TypeSchema::Map(map), Value::Map(entries)) => {
            Json::Object(entries.iter().map(|(k, v)| (k.clone(), named(map.value, v))).collect())
        }
        (_, Value::Str(s)) => json!(s),
        (_, Value::Int(n)) => json!(n),
        (_, Value::Bool(b)) => json!(b),
        (_, other) => panic!("{other:?} is in no golden request"),
    }
}

fn named_struct(schema: &StructSchema, value: &Value) -> Json {
    let Value::Struct(members) = value else { panic!("{value:?} is no structure") };
    let member =
        |(i, v): &(usize, Value)| (schema.members[*i].name.to_owned(), named(schema.members[*i].ty, v));
    Json::Object(members.iter().map(member).collect())
}

fn lookup(access_key: &str, token: Option<&str>) -> Option<SecretKey> {
    let known = access_key == "AKIDEXAMPLE" && token.is_none_or(|t| t == "token/with+chars==");
    known.then(|| SecretKey::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"))
}

#[test]
fn botocores_requests_are_understood() {
    let golden = requests();
    let now = golden["now"].as_i64().expect("a time");
    for case in golden["requests"].as_array().expect("cases") {
        let name = text(case, "name");
        let request = request(&case["request"]);
        let scope = sigv4::scope(&request).expect("signed");
        assert_eq!(scope.service, text(case, "service"), "{name}");
        let verified = sigv4::verify(&request, lookup, now, &VerifyOptions::default());
        assert!(verified.is_ok(), "{name}: {verified:?}");
        let routed = route(&request, Some(&scope.service)).expect("routable");
        assert_eq!(routed.operation.name, text(case, "operation"), "{name}");
        let value = decode_request(&routed, &request).expect("decodable");
        assert_eq!(named_struct(routed.operation.input, &value), case["input"], "{name}");
        let violations = ekstra_wire::validate(routed.operation.input, &value);
        assert!(violations.is_empty(), "{name}: {violations:?}");
    }
}

#[test]
fn we_sign_as_botocore_does() {
    let golden = requests();
    let now = golden["now"].as_i64().expect("a time");
    for case in golden["requests"].as_array().expect("cases") {
        let original = request(&case["request"]);
        let mut ours = original.clone();
        ours.headers.retain(|(n, _)| n != "authorization");
        let credentials = Credentials {
            access_key_id: text(&golden, "access_key_id"),
            secret_access_key: text(&golden, "secret_access_key"),
            session_token: original.header("x-amz-security-token").map(str::to_owned),
        };
        sigv4::sign(&mut ours, &credentials, "us-east-1", &text(case, "service"), now);
        assert_eq!(ours.header("authorization"), original.header("authorization"), "{}", text(case, "name"));
    }
}

/// Compares an answer with its golden file, or writes it.
fn check(file: &str, response: &Response) {
    let path = golden("answers").join(file);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::create_dir_all(golden("answers")).expect("a directory");
        fs::write(&path, &response.body).expect("writable");
    }
    let expected = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert_eq!(String::from_utf8_lossy(&response.body), expected, "{file}");
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[test]
fn rest_json_answers() {
    let cluster = eks::Cluster {
        name: some("demo"),
        created_at: Some(Timestamp(1_767_323_045_123)),
        status: some("ACTIVE"),
        endpoint: some("https://127.0.0.1:6443"),
        logging: Some(eks::Logging {
            cluster_logging: Some(vec![eks::LogSetup {
                types: Some(vec!["api".to_owned(), "audit".to_owned()]),
                enabled: Some(false),
            }]),
        }),
        tags: Some([("a b".to_owned(), "grüße \"x\"\n".to_owned())].into()),
        encryption_config: Some(Vec::new()),
        deletion_protection: Some(false),
        ..Default::default()
    };
    let output = eks::DescribeClusterResponse { cluster: Some(cluster) };
    let response = encode_output::<eks::ops::DescribeCluster>(&eks::SERVICE, &output, "id-1");
    assert_eq!((response.status, response.header("x-amzn-requestid")), (200, Some("id-1")));
    check("eks.DescribeCluster.json", &response);
    let response = encode_output::<eks::ops::TagResource>(&eks::SERVICE, &Default::default(), "id-1");
    check("eks.TagResource.json", &response);
}

#[test]
fn query_answers() {
    let credentials = sts::Credentials {
        access_key_id: some("ASIAEXAMPLEEXAMPLE00"),
        secret_access_key: some("secret<&>"),
        session_token: some("token"),
        expiration: Some(Timestamp(1_767_323_045_000)),
    };
    assert!(!format!("{credentials:?}").contains("secret<&>"), "secrets are redacted");
    let output = sts::AssumeRoleResponse {
        credentials: Some(credentials),
        packed_policy_size: Some(6),
        ..Default::default()
    };
    check("sts.AssumeRole.xml", &encode_output::<sts::ops::AssumeRole>(&sts::SERVICE, &output, "id-2"));
    let role = |name: &str| iam::Role {
        role_name: some(name),
        create_date: Some(Timestamp(1_767_323_045_000)),
        description: some("<a> & 'b'"),
        tags: Some(vec![iam::Tag { key: some("k"), value: some("") }]),
        ..Default::default()
    };
    let output = iam::ListRolesResponse {
        roles: Some(vec![role("a"), role("b")]),
        is_truncated: Some(false),
        marker: None,
    };
    check("iam.ListRoles.xml", &encode_output::<iam::ops::ListRoles>(&iam::SERVICE, &output, "id-3"));
    let unit = encode_output::<iam::ops::AttachRolePolicy>(&iam::SERVICE, &Default::default(), "id-4");
    let body = String::from_utf8(unit.body).expect("UTF-8");
    assert!(body.ends_with(
        "<ResponseMetadata><RequestId>id-4</RequestId></ResponseMetadata></AttachRolePolicyResponse>"
    ));
}

#[test]
fn ec2_answers() {
    let subnet = ec2::Subnet {
        subnet_id: some("subnet-1"),
        available_ip_address_count: Some(250),
        map_public_ip_on_launch: Some(true),
        tags: Some(vec![ec2::Tag { key: some("Name"), value: some("a & b") }]),
        ipv6_cidr_block_association_set: Some(Vec::new()),
        ..Default::default()
    };
    let output = ec2::DescribeSubnetsResult { subnets: Some(vec![subnet]), next_token: None };
    check(
        "ec2.DescribeSubnets.xml",
        &encode_output::<ec2::ops::DescribeSubnets>(&ec2::SERVICE, &output, "id-5"),
    );
    let instance = ec2::Instance {
        instance_id: some("i-1"),
        launch_time: Some(Timestamp(1_767_323_045_000)),
        state: Some(ec2::InstanceState { code: Some(16), name: some("running") }),
        security_groups: Some(vec![ec2::GroupIdentifier { group_id: some("sg-1"), group_name: some("g") }]),
        ..Default::default()
    };
    let reservation = ec2::Reservation { instances: Some(vec![instance]), ..Default::default() };
    let output = ec2::DescribeInstancesResult { reservations: Some(vec![reservation]), next_token: None };
    check(
        "ec2.DescribeInstances.xml",
        &encode_output::<ec2::ops::DescribeInstances>(&ec2::SERVICE, &output, "id-6"),
    );
}

#[test]
fn errors() {
    let error = ApiError::new(&eks::errors::RESOURCE_NOT_FOUND_EXCEPTION, "No cluster found for name: <x>.")
        .with("clusterName", "<x>");
    check("eks.error.json", &encode_error(Protocol::RestJson, &error, "id-7"));
    let error =
        ApiError::new(&iam::errors::NO_SUCH_ENTITY_EXCEPTION, "The role with name <r> cannot be found.");
    check("iam.error.xml", &encode_error(Protocol::AwsQuery, &error, "id-8"));
    let error = ApiError::client("InvalidVpcID.NotFound", 400, "The vpc ID 'vpc-1' does not exist");
    check("ec2.error.xml", &encode_error(Protocol::Ec2Query, &error, "id-9"));
}

#[test]
fn values_and_shapes_round_trip() {
    let input = eks::CreateNodegroupRequest {
        cluster_name: some("c"),
        subnets: Some(vec!["s".to_owned()]),
        labels: Some([("a".to_owned(), "b".to_owned())].into()),
        disk_size: Some(20),
        ..Default::default()
    };
    assert_eq!(eks::CreateNodegroupRequest::from_value(input.to_value()), Ok(input));
    let wrong = Value::Struct(vec![(0, Value::Int(1))]);
    let error = eks::CreateNodegroupRequest::from_value(wrong).expect_err("no string");
    assert_eq!(error.to_string(), "clusterName: expected string, found integer");
}

/// No awsJson service is served yet: eks's shapes under a service that speaks it.
#[test]
fn aws_json_reads_and_answers() {
    static LOGS: Service = Service {
        id: "logs",
        signing_name: "logs",
        protocol: Protocol::AwsJson11,
        api_version: "2014-03-28",
        target_prefix: Some("Logs_20140328"),
        xml_namespace: None,
        operations: &[],
        unserved: &[],
    };
    let operation = eks::SERVICE.operation("DescribeClusterVersions").expect("served");
    let routed = ekstra_wire::Routed { service: &LOGS, operation, labels: Vec::new() };
    let request = Request { body: b" ".to_vec(), ..Request::default() };
    assert_eq!(decode_request(&routed, &request), Ok(Value::Struct(Vec::new())));
    let bad = Request { body: b"{".to_vec(), ..Request::default() };
    let error = decode_request(&routed, &bad).expect_err("not JSON").to_error(LOGS.protocol);
    assert_eq!((error.code.as_str(), error.status), ("SerializationException", 400));
    let output = eks::DescribeClusterVersionsResponse { next_token: some("n"), ..Default::default() };
    let response = encode_output::<eks::ops::DescribeClusterVersions>(&LOGS, &output, "id");
    assert_eq!(response.header("content-type"), Some("application/x-amz-json-1.1"));
    assert_eq!(response.body, br#"{"nextToken":"n"}"#);
}

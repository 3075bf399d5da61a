//! Policy documents: parsed as identities', trust and resource policies, and asked. What is parsed never panics when it is
//! asked, and an explicit denial of everything denies.
#![no_main]

use ekstra_policy::{Context, Kind, Policies, Policy, Request, decide};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static NOTHING: LazyLock<Policy> = LazyLock::new(|| {
    let text = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Action":"*","Resource":"*"}]}"#;
    Policy::parse(text, Kind::Identity).expect("a policy")
});

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut context = Context::default();
    for (key, value) in [
        ("aws:username", "ada"),
        ("aws:CurrentTime", "2026-01-02T03:04:05Z"),
        ("aws:EpochTime", "1767323045"),
        ("aws:SourceIp", "192.0.2.1"),
        ("aws:SecureTransport", "true"),
        ("aws:PrincipalArn", "arn:aws:iam::000000000000:user/ada"),
        ("aws:RequestTag/team", "blue"),
    ] {
        context.set(key, value);
    }
    context.set_all("aws:TagKeys", ["team".to_owned(), "other".to_owned()]);
    let resources = ["arn:aws:eks:us-east-1:000000000000:cluster/one".to_owned()];
    let request = Request { action: "eks:DescribeCluster", resources: &resources, context: &context };
    for kind in [Kind::Identity, Kind::Trust] {
        let Ok(policy) = Policy::parse(text, kind) else { continue };
        let alone = [&policy];
        let denied = [&policy, &*NOTHING];
        decide(&Policies { identity: &alone, ..Policies::default() }, &request);
        decide(&Policies { boundary: Some(&policy), ..Policies::default() }, &request);
        decide(&Policies { session: Some(&alone), ..Policies::default() }, &request);
        assert!(!decide(&Policies { identity: &denied, ..Policies::default() }, &request).is_allowed());
    }
});

//! What people and programs write down: `aws-auth`, configurations of add-ons, web identities' tokens, prefixes of networks, marks of pages, packed bodies.
//! What is read is what was written, and no more than was allowed.
#![no_main]

use ekstra_domain::eks::{AwsAuth, ConfigurationSchema, LONGEST_CONFIGURATION, Mapping};
use ekstra_domain::iam::Claims;
use ekstra_domain::page::Page;
use ekstra_domain::prefix::Prefix;
use ekstra_wire::{Request, encoding};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

/// Of an unpacked body.
const LARGEST: usize = 16 * 1024;

static CONFIGURATION: LazyLock<ConfigurationSchema> = LazyLock::new(|| {
    let read = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
    let mut schema = read(include_str!("../../crates/eks/src/addons/coredns.schema.json"));
    schema["definitions"] = read(include_str!("../../crates/eks/src/addons/definitions.json"));
    ConfigurationSchema::new(&schema).expect("a schema")
});

fn aws_auth(text: &str) {
    let somebody = Mapping { arn: "arn".into(), username: "somebody".into(), groups: Vec::new() };
    let known = AwsAuth {
        roles: vec![somebody.clone()],
        users: vec![somebody],
        accounts: vec!["000000000000".into()],
    };
    for (name, only) in [
        ("mapRoles", AwsAuth { users: Vec::new(), accounts: Vec::new(), ..known.clone() }),
        ("mapUsers", AwsAuth { roles: Vec::new(), accounts: Vec::new(), ..known.clone() }),
        ("mapAccounts", AwsAuth { roles: Vec::new(), users: Vec::new(), ..known.clone() }),
    ] {
        let data = BTreeMap::from([(name.to_owned(), text.to_owned())]);
        let (read, complaints) = AwsAuth::read(&data, known.clone());
        // What is not there is empty; what cannot be read stays.
        if complaints.iter().any(|why| why.contains("stays as it was")) {
            assert_eq!(read, only);
        }
    }
}

fn configuration(text: &str) {
    match CONFIGURATION.read(text, |_| Ok(())) {
        Ok(values) => {
            let written = Value::Object(values.clone()).to_string();
            assert!(written.len() <= LONGEST_CONFIGURATION);
            assert_eq!(CONFIGURATION.read(&written, |_| Ok(())), Ok(values), "{written}");
        }
        Err(why) => assert!(why.chars().count() < 4000, "{why}"),
    }
}

fn page(text: &str) {
    let all: Vec<String> = text.split(' ').take(64).map(str::to_owned).collect();
    let _ = Page::of(all.clone(), String::clone, Some(text), 2);
    let Ok(first) = Page::of(all.clone(), String::clone, None, 2) else { panic!("no mark is asked for") };
    assert!(first.items.len() <= 2);
    let mut seen = first.items;
    let mut mark = first.next;
    while let Some(last) = mark {
        let next = Page::of(all.clone(), String::clone, Some(&last), 2).expect("its own mark");
        assert!(next.items.iter().all(|item| Some(item) > seen.last()));
        seen.extend(next.items);
        mark = next.next;
    }
    // Nothing is passed over, but for what is called the same.
    let known = |all: Vec<String>| all.into_iter().collect::<BTreeSet<_>>();
    assert_eq!(known(seen), known(all));
}

fn packed(data: &[u8]) {
    let headers = vec![("content-encoding".to_owned(), "gzip".to_owned())];
    let request = Request { headers, body: data.to_vec(), ..Request::default() };
    if let Ok(plain) = encoding::unpacked(&request, LARGEST) {
        assert!(plain.body.len() <= LARGEST);
    }
}

fuzz_target!(|data: &[u8]| {
    packed(data);
    let Ok(text) = std::str::from_utf8(data) else { return };
    aws_auth(text);
    configuration(text);
    page(text);
    if let Ok(claims) = text.parse::<Claims>() {
        claims.audiences();
    }
    if let Ok(prefix) = text.parse::<Prefix>() {
        assert_eq!(prefix.to_string().parse::<Prefix>().ok(), Some(prefix));
    }
});

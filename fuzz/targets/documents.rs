//! What people and programs write down: `aws-auth`, web identities' tokens, prefixes of networks, marks of pages, packed bodies.
//! What is read is what was written, and no more than was allowed.
#![no_main]

use ekstra_domain::eks::AwsAuth;
use ekstra_domain::iam::Claims;
use ekstra_domain::page::Page;
use ekstra_domain::prefix::Prefix;
use ekstra_wire::{Request, encoding};
use libfuzzer_sys::fuzz_target;
use std::collections::BTreeMap;

/// Of an unpacked body.
const LARGEST: usize = 16 * 1024;

fn aws_auth(text: &str) {
    for name in ["mapRoles", "mapUsers", "mapAccounts"] {
        let known = AwsAuth { accounts: vec!["000000000000".into()], ..AwsAuth::default() };
        let data = BTreeMap::from([(name.to_owned(), text.to_owned())]);
        let (read, complaints) = AwsAuth::read(&data, known.clone());
        let stayed = complaints.iter().any(|why| why.contains("stays as it was"));
        assert!(!stayed || name != "mapAccounts" || read == known);
    }
}

fn page(text: &str) {
    let all: Vec<String> = text.split(' ').map(str::to_owned).collect();
    let _ = Page::of(all.clone(), String::clone, Some(text), 2);
    let Ok(first) = Page::of(all.clone(), String::clone, None, 2) else { panic!("no mark is asked for") };
    assert!(first.items.len() <= 2);
    if let Some(mark) = first.next {
        let next = Page::of(all, String::clone, Some(&mark), 2).expect("its own mark");
        assert!(next.items.iter().all(|item| Some(item) > first.items.last()));
    }
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
    page(text);
    if let Ok(claims) = text.parse::<Claims>() {
        claims.audiences();
    }
    if let Ok(prefix) = text.parse::<Prefix>() {
        assert_eq!(prefix.to_string().parse::<Prefix>().ok(), Some(prefix));
    }
});

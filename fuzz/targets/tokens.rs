//! What is shown to prove who somebody is: tokens of clusters, session tokens, ARNs, durations.
#![no_main]

use ekstra_domain::eks::parse_event_ttl;
use ekstra_domain::iam::{MasterKey, Principal};
use ekstra_domain::names::Arn;
use ekstra_wire::sigv4::{self, SecretKey};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let lookup =
        |_: &str, _: Option<&str>| Some(SecretKey::new("a secret of 256 bits that nobody has written down"));
    assert!(sigv4::verify_eks_token(text, "c", lookup, 1_767_323_045).is_err());
    assert!(MasterKey([7; 32]).open(text, 0).is_err());
    if let Ok(arn) = text.parse::<Arn>() {
        let principal = Principal { account: arn.account.clone(), arn: text.into(), user_id: text.into() };
        principal.canonical_arn();
        principal.session_name();
    }
    let _ = parse_event_ttl(text);
    let _ = ekstra_wire::parse_iso8601(text);
    let _ = ekstra_wire::parse_amz_date(text);
});

//! The policies that AWS manages: those that clients of EKS name (`spec/clients.md`), and a few that everybody uses.
//!
//! Source of what they allow: the AWS managed policy reference. A document lists the actions that matter to who uses the
//! policy with EKS; it is not AWS's text, and has none of its conditions on tags.

use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// Documents by path and name.
static ALL: LazyLock<BTreeMap<String, String>> = LazyLock::new(|| {
    let documents: BTreeMap<String, Value> =
        serde_json::from_str(include_str!("aws_managed.json")).expect("it is JSON: a test reads it");
    documents.into_iter().map(|(name, document)| (name, document.to_string())).collect()
});

/// What their ARNs begin with.
pub const AWS_MANAGED: &str = "arn:aws:iam::aws:policy/";

/// The document behind such an ARN.
pub fn aws_managed(arn: &str) -> Option<&'static str> {
    ALL.get(arn.strip_prefix(AWS_MANAGED)?).map(String::as_str)
}

/// The ARNs of all of them.
pub fn aws_managed_arns() -> impl Iterator<Item = String> {
    ALL.keys().map(|name| format!("{AWS_MANAGED}{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_found_by_their_arns() {
        let all: Vec<String> = aws_managed_arns().collect();
        assert!(all.len() > 20);
        assert!(all.iter().all(|arn| aws_managed(arn).is_some_and(|text| text.contains("2012-10-17"))));
        assert!(aws_managed("arn:aws:iam::aws:policy/service-role/AmazonEBSCSIDriverPolicy").is_some());
        for none in
            ["arn:aws:iam::aws:policy/Unheard", "AdministratorAccess", "arn:aws:iam::000000000000:policy/x"]
        {
            assert_eq!(aws_managed(none), None, "{none}");
        }
    }
}

//! EC2's filters, tags and pages: the same for every Describe operation.
//!
//! Source: "Filter" in the EC2 API reference: filters are ANDed, values ORed, `*` and `?` are wildcards.

use ekstra_domain::page::Page;
use ekstra_model::ec2::{Filter, Tag};
use ekstra_wire::ApiError;
use std::collections::BTreeMap;

/// The value of one filter name on a resource; `None`: this resource knows no such filter.
pub(super) type Attribute<'a> = dyn Fn(&str) -> Option<Vec<String>> + 'a;

/// Whether a resource passes; a filter name that no resource knows is the caller's error.
pub(super) fn matches(
    filters: &[Filter],
    tags: &BTreeMap<String, String>,
    attribute: &Attribute<'_>,
) -> Result<bool, ApiError> {
    for filter in filters {
        let name = filter.name.as_deref().unwrap_or_default();
        let wanted = filter.values.as_deref().unwrap_or_default();
        let actual = match tag_filter(name, tags) {
            Some(values) => values,
            None => attribute(name).ok_or_else(|| {
                ApiError::client("InvalidParameterValue", 400, format!("The filter '{name}' is invalid"))
            })?,
        };
        if !wanted.iter().any(|pattern| actual.iter().any(|value| wildcard(pattern, value))) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn tag_filter(name: &str, tags: &BTreeMap<String, String>) -> Option<Vec<String>> {
    if name == "tag-key" {
        return Some(tags.keys().cloned().collect());
    }
    name.strip_prefix("tag:").map(|key| tags.get(key).cloned().into_iter().collect())
}

/// In time proportional to the product of the lengths: only the last `*` is ever gone back to.
fn wildcard(pattern: &str, value: &str) -> bool {
    let (pattern, value) = (pattern.as_bytes(), value.as_bytes());
    let (mut p, mut v) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while v < value.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, v));
                p += 1;
            }
            Some(b) if *b == b'?' || *b == value[v] => (p, v) = (p + 1, v + 1),
            _ => {
                let Some((at, from)) = star else { return false };
                star = Some((at, from + 1));
                (p, v) = (at + 1, from + 1);
            }
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

pub(super) fn tags(tags: &BTreeMap<String, String>) -> Option<Vec<Tag>> {
    Some(tags.iter().map(|(k, v)| Tag { key: Some(k.clone()), value: Some(v.clone()) }).collect())
}

/// What the caller may do is not looked at: IAM policies are not enforced yet.
pub(super) fn refuse_dry_run(asked: Option<bool>) -> Result<(), ApiError> {
    match asked {
        Some(true) => {
            let message = "Request would have succeeded, but DryRun flag is set.";
            Err(ApiError::client("DryRunOperation", 412, message))
        }
        _ => Ok(()),
    }
}

/// One page in the order of ids, and the token of the next. EC2 answers everything when no size is given.
pub(super) fn page<T>(
    all: Vec<T>,
    id: fn(&T) -> &Option<String>,
    token: Option<&str>,
    size: Option<i32>,
) -> Result<(Vec<T>, Option<String>), ApiError> {
    let invalid = |what: &str| ApiError::client("InvalidParameterValue", 400, what);
    let size = match size {
        None => usize::MAX,
        Some(n) if (5..=1000).contains(&n) => n as usize,
        Some(n) => {
            let range = "Expecting a value between 5 and 1000.";
            return Err(invalid(&format!("Value ( {n} ) for parameter maxResults is invalid. {range}")));
        }
    };
    let key = |item: &T| id(item).clone().unwrap_or_default();
    let page = Page::of(all, key, token, size).map_err(|_| invalid("Unable to parse pagination token"))?;
    Ok((page.items, page.next))
}

/// Every id asked for must exist.
pub(super) fn require_ids(
    asked: &[String],
    known: &[String],
    code: &str,
    what: &str,
) -> Result<(), ApiError> {
    match asked.iter().find(|id| !known.contains(id)) {
        None => Ok(()),
        Some(id) => Err(ApiError::client(code, 400, format!("The {what} ID '{id}' does not exist"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards() {
        for (pattern, value, expected) in [
            ("*", "", true),
            ("a*c", "abbc", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("abc", "abd", false),
            ("", "", true),
            ("", "a", false),
            ("*b*", "abab", true),
            ("a*b", "abab", true),
            ("a*b", "aba", false),
            (&"*a".repeat(30), &"a".repeat(29), false),
            (&"*a".repeat(30), &"a".repeat(60), true),
        ] {
            assert_eq!(wildcard(pattern, value), expected, "{pattern} {value}");
        }
    }

    #[test]
    fn filters_are_anded_and_unknown_ones_refused() {
        let tags = BTreeMap::from([("k".to_owned(), "v".to_owned())]);
        let filter =
            |name: &str, value: &str| Filter { name: Some(name.into()), values: Some(vec![value.into()]) };
        let attribute = |name: &str| (name == "vpc-id").then(|| vec!["vpc-1".to_owned()]);
        let check = |filters: &[Filter]| matches(filters, &tags, &attribute).map_err(|e| e.code);
        assert_eq!(check(&[filter("vpc-id", "vpc-1"), filter("tag:k", "v*")]), Ok(true));
        assert_eq!(check(&[filter("vpc-id", "vpc-1"), filter("tag:k", "w")]), Ok(false));
        assert_eq!(check(&[filter("nonsense", "1")]), Err("InvalidParameterValue".to_owned()));
    }
}

//! Labels and taints that nodes can have (Kubernetes, "Labels and Selectors", syntax and character set).
//!
//! Invariant: what is let through here, a kubelet starts with and the API server takes.

use super::validate::Invalid;

/// Of Kubernetes and EKS; users' labels are not among them.
const RESERVED: [&str; 3] = ["kubernetes.io", "k8s.io", "eks.amazonaws.com"];
/// Kubernetes leaves these to whoever runs nodes (its NodeRestriction admission).
const FREE: [&str; 2] = ["node.kubernetes.io", "kubelet.kubernetes.io"];
const LONGEST_NAME: usize = 63;
const LONGEST_DOMAIN: usize = 253;

pub fn check_label(key: &str, value: &str) -> Result<(), Invalid> {
    let domain = check_key("Label", key)?;
    if is_reserved(domain) {
        // In EKS's words.
        let message = "Label cannot contain reserved prefixes [kubernetes.io/, k8s.io/, eks.amazonaws.com/]";
        return Err(Invalid(message.to_owned()));
    }
    check_value("Label", value)
}

pub fn check_taint(key: &str, value: Option<&str>) -> Result<(), Invalid> {
    check_key("Taint", key)?;
    check_value("Taint", value.unwrap_or_default())
}

/// The key's domain, empty without one.
fn check_key<'a>(what: &str, key: &'a str) -> Result<&'a str, Invalid> {
    let (domain, name) = key.rsplit_once('/').unwrap_or(("", key));
    let is_bare = !key.contains('/');
    if is_name(name) && (is_bare || is_domain(domain)) {
        return Ok(domain);
    }
    Err(Invalid(format!(
        "{what} key \"{key}\" is invalid: a name of 1 to {LONGEST_NAME} letters, digits, -, _ and ., beginning and \
         ending with a letter or a digit, after an optional DNS domain and /"
    )))
}

fn check_value(what: &str, value: &str) -> Result<(), Invalid> {
    if value.is_empty() || is_name(value) {
        return Ok(());
    }
    Err(Invalid(format!(
        "{what} value \"{value}\" is invalid: up to {LONGEST_NAME} letters, digits, -, _ and ., beginning and ending \
         with a letter or a digit"
    )))
}

fn is_reserved(domain: &str) -> bool {
    let within = |of: &str| {
        let rest = domain.strip_suffix(of);
        rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    RESERVED.into_iter().any(within) && !FREE.into_iter().any(within)
}

fn is_name(text: &str) -> bool {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    text.len() <= LONGEST_NAME
        && ends(text.chars().next())
        && ends(text.chars().next_back())
        && text.chars().all(allowed)
}

fn is_domain(text: &str) -> bool {
    let label = |label: &str| {
        let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        ends(label.chars().next())
            && ends(label.chars().next_back())
            && label.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    };
    text.len() <= LONGEST_DOMAIN && text.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels() {
        let long = "x".repeat(63);
        for (key, value) in [
            ("team", "a"),
            ("team", ""),
            ("example.com/Team_1.x", "A.b-c"),
            ("node.kubernetes.io/pool", "x"),
            ("alpha.eksctl.io/cluster-name", "c"),
            (&long, &long),
        ] {
            assert_eq!(check_label(key, value), Ok(()), "{key}={value}");
        }
        let longer = "x".repeat(64);
        for (key, value) in [
            ("a b", "c"),
            ("", "c"),
            ("/x", "c"),
            ("Example.com/x", "c"),
            ("a/b/c", "c"),
            ("team", "a b"),
            ("team", "-a"),
            ("team", "ä"),
            (&longer, "c"),
            ("team", &longer),
        ] {
            assert!(check_label(key, value).is_err(), "{key}={value}");
        }
        for key in
            ["kubernetes.io/x", "node-role.kubernetes.io/worker", "k8s.io/x", "eks.amazonaws.com/nodegroup"]
        {
            assert!(check_label(key, "c").expect_err("refused").0.contains("reserved prefixes"), "{key}");
        }
        assert_eq!(check_label("notkubernetes.io/x", "c"), Ok(()));
    }

    #[test]
    fn taints() {
        assert_eq!(check_taint("node.cilium.io/agent-not-ready", Some("true")), Ok(()));
        assert_eq!(check_taint("dedicated", None), Ok(()));
        assert!(check_taint("a b", None).is_err() && check_taint("a", Some("b c")).is_err());
    }
}

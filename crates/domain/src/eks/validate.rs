//! What EKS refuses before anything happens, in its words where they are known.

use crate::prefix::Prefix;
use std::net::Ipv4Addr;

/// A refused parameter: the message of InvalidParameterException.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);

/// `^[0-9A-Za-z][A-Za-z0-9\-_]*`, 1 to 100 characters (`spec/eks-semantics.md` §3.1).
pub fn check_cluster_name(name: &str) -> Result<(), Invalid> {
    check_name("cluster", name, 100)
}

/// As a cluster's, 1 to 63 characters.
pub fn check_nodegroup_name(name: &str) -> Result<(), Invalid> {
    check_name("nodegroup", name, 63)
}

/// As a cluster's.
pub fn check_identity_provider_name(name: &str) -> Result<(), Invalid> {
    check_name("identity provider config", name, 100)
}

/// As a cluster's.
pub fn check_fargate_profile_name(name: &str) -> Result<(), Invalid> {
    check_name("Fargate profile", name, 100)
}

/// As a cluster's.
pub fn check_capability_name(name: &str) -> Result<(), Invalid> {
    check_name("capability", name, 100)
}

fn check_name(what: &str, name: &str, longest: usize) -> Result<(), Invalid> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let starts = name.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
    if starts && name.len() <= longest && name.chars().all(allowed) {
        return Ok(());
    }
    Err(Invalid(format!(
        "The {what} name should be valid: 1 to {longest} characters, letters, digits, - and _, \
         beginning with a letter or a digit"
    )))
}

pub fn check_version<'a>(version: &str, offered: impl Iterator<Item = &'a str>) -> Result<(), Invalid> {
    let offered: Vec<&str> = offered.collect();
    if offered.contains(&version) {
        return Ok(());
    }
    Err(Invalid(format!("unsupported Kubernetes version {version}; offered: {}", offered.join(", "))))
}

/// /24 to /12 inside a private range (`spec/eks-semantics.md` §3.4), and not the VPC's own addresses.
pub fn check_service_cidr(text: &str, vpc: Prefix) -> Result<Prefix, Invalid> {
    let refuse = |why: &str| Invalid(format!("The specified service CIDR range {text} is invalid: {why}"));
    let cidr: Prefix = text.parse().map_err(|_| refuse("not a CIDR block"))?;
    if !(12..=24).contains(&cidr.length()) {
        return Err(refuse("it must be between /24 and /12"));
    }
    let private = [
        Prefix::new(Ipv4Addr::new(10, 0, 0, 0), 8),
        Prefix::new(Ipv4Addr::new(172, 16, 0, 0), 12),
        Prefix::new(Ipv4Addr::new(192, 168, 0, 0), 16),
    ];
    if !private.iter().any(|p| p.contains(cidr.base()) && p.length() <= cidr.length()) {
        return Err(refuse("it must be in 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16"));
    }
    if cidr.overlaps(vpc) {
        return Err(refuse("it overlaps with the VPC"));
    }
    Ok(cidr)
}

/// `None` fields keep what was there. EKS: 0 ≤ min ≤ desired ≤ max ≤ 450, max ≥ 1.
pub fn check_scaling(
    min: Option<i64>,
    max: Option<i64>,
    desired: Option<i64>,
    before: super::Scaling,
) -> Result<super::Scaling, Invalid> {
    let field = |value: Option<i64>, old: u32, name: &str, least: i64| match value {
        None => Ok(old),
        Some(n) if (least..=450).contains(&n) => {
            u32::try_from(n).map_err(|_| Invalid(format!("{name} is not a size")))
        }
        Some(n) => Err(Invalid(format!("{name} {n} must be between {least} and 450"))),
    };
    let scaling = super::Scaling {
        min: field(min, before.min, "minSize", 0)?,
        max: field(max, before.max, "maxSize", 1)?,
        desired: field(desired, before.desired, "desiredSize", 0)?,
    };
    if scaling.min > scaling.max {
        return Err(Invalid(format!(
            "Minimum capacity {} can't be greater than maximum {}",
            scaling.min, scaling.max
        )));
    }
    if scaling.desired < scaling.min {
        return Err(Invalid(format!(
            "Desired capacity {} can't be less than min size {}",
            scaling.desired, scaling.min
        )));
    }
    if scaling.desired > scaling.max {
        return Err(Invalid(format!(
            "desired capacity {} can't be greater than max size {}",
            scaling.desired, scaling.max
        )));
    }
    Ok(scaling)
}

/// The number of items of a page.
pub fn page_size(asked: Option<i64>, longest: usize) -> Result<usize, Invalid> {
    let Some(asked) = asked else { return Ok(longest) };
    let size = usize::try_from(asked).ok().filter(|n| (1..=longest).contains(n));
    size.ok_or_else(|| Invalid(format!("maxResults needs to be between 1 and {longest}")))
}

#[cfg(test)]
mod tests {
    use super::super::Scaling;
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "my-eks-managed", "9_x", &"x".repeat(100)] {
            assert_eq!(check_cluster_name(good), Ok(()), "{good}");
        }
        for bad in ["", "-a", "a b", "ä", "a.b", &"x".repeat(101)] {
            assert!(check_cluster_name(bad).is_err(), "{bad}");
        }
        assert!(check_nodegroup_name(&"x".repeat(64)).is_err());
    }

    #[test]
    fn scaling() {
        let before = Scaling { min: 2, max: 2, desired: 2 };
        let check = |min, max, desired| check_scaling(min, max, desired, before);
        assert_eq!(check(Some(1), Some(3), None), Ok(Scaling { min: 1, max: 3, desired: 2 }));
        assert_eq!(check(None, None, None), Ok(before));
        for (min, max, desired, says) in [
            (Some(3), None, None, "Minimum capacity 3 can't be greater than maximum 2"),
            (None, None, Some(3), "desired capacity 3 can't be greater than max size 2"),
            (None, None, Some(1), "Desired capacity 1 can't be less than min size 2"),
            (Some(-1), None, None, "minSize -1 must be between 0 and 450"),
            (None, Some(0), None, "maxSize 0 must be between 1 and 450"),
            (None, Some(451), None, "maxSize 451 must be between 1 and 450"),
        ] {
            assert_eq!(check(min, max, desired), Err(Invalid(says.into())));
        }
    }

    #[test]
    fn service_ranges() {
        let vpc: Prefix = "172.31.0.0/16".parse().expect("valid");
        assert!(check_service_cidr("10.100.0.0/16", vpc).is_ok());
        for bad in ["10.100.0.0/25", "10.0.0.0/8", "11.0.0.0/16", "172.31.0.0/20", "x", "10.100.0.1/16"] {
            assert!(check_service_cidr(bad, vpc).is_err(), "{bad}");
        }
    }

    #[test]
    fn pages() {
        assert_eq!(page_size(None, 100), Ok(100));
        assert_eq!(page_size(Some(2), 100), Ok(2));
        assert!(page_size(Some(0), 100).is_err() && page_size(Some(101), 100).is_err());
    }
}

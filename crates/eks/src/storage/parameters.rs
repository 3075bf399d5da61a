//! What a StorageClass asks for. Pure.
//!
//! Source: "CreateVolume Parameters" of the AWS EBS CSI driver. What is not served is refused by name, since a claim that
//! waits for ever says less.

use crate::quantity::whole;
use ekstra_domain::ec2::{Performance, performance};
use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Parameters {
    kind: String,
    iops: Option<u32>,
    iops_per_gib: Option<u32>,
    throughput: Option<u32>,
    pub(super) file_system: String,
    pub(super) tags: BTreeMap<String, String>,
}

const FILE_SYSTEMS: [&str; 3] = ["ext4", "ext3", "ext2"];

pub(super) fn parse(parameters: &BTreeMap<String, String>) -> Result<Parameters, String> {
    let mut parsed = Parameters {
        kind: "gp3".into(),
        iops: None,
        iops_per_gib: None,
        throughput: None,
        file_system: "ext4".into(),
        tags: BTreeMap::new(),
    };
    for (key, value) in parameters {
        let number = || value.parse::<u32>().map_err(|_| format!("{key}: {value} is not a number"));
        match key.to_lowercase().as_str() {
            "type" => parsed.kind = value.to_lowercase(),
            "iops" => parsed.iops = Some(number()?),
            "iopspergb" => parsed.iops_per_gib = Some(number()?),
            "throughput" => parsed.throughput = Some(number()?),
            "fstype" | "csi.storage.k8s.io/fstype" => parsed.file_system = value.to_lowercase(),
            "allowautoiopspergbincrease" => {}
            "encrypted" if value == "false" => {}
            "encrypted" | "kmskeyid" => {
                return Err(format!("{key}: encrypted volumes are not supported yet"));
            }
            key if key.starts_with("tagspecification_") => {
                let (name, tag) =
                    value.split_once('=').ok_or_else(|| format!("{key}: {value} is not <key>=<value>"))?;
                parsed.tags.insert(name.trim().to_owned(), tag.trim().to_owned());
            }
            _ => return Err(format!("the parameter {key} is not supported")),
        }
    }
    if !FILE_SYSTEMS.contains(&parsed.file_system.as_str()) {
        let offered = FILE_SYSTEMS.join(", ");
        return Err(format!("file system {} is not supported here; there is {offered}", parsed.file_system));
    }
    Ok(parsed)
}

impl Parameters {
    pub(super) fn performance(&self, gib: u32) -> Result<Performance, String> {
        let by_size = || {
            // The driver rounds up to what the type has at least.
            let least = if self.kind == "gp3" { 3000 } else { 100 };
            self.iops_per_gib.map(|per_gib| per_gib.saturating_mul(gib).clamp(least, 64_000))
        };
        let iops = self.iops.or_else(by_size);
        performance(&self.kind, gib, iops, self.throughput).map_err(|refused| refused.to_string())
    }
}

/// Whole GiB, rounded up, of a Kubernetes quantity in bytes.
pub(super) fn gib(quantity: &str) -> Result<u32, String> {
    let bytes = whole(quantity).ok_or_else(|| format!("{quantity} is not a size"))?;
    u32::try_from(bytes.div_ceil(1 << 30).max(1)).map_err(|_| format!("{quantity} is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Result<Parameters, String> {
        parse(&pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn classes_of_the_driver_and_of_its_predecessor_are_read() {
        let gp3 =
            of(&[("type", "gp3"), ("csi.storage.k8s.io/fstype", "ext4"), ("iops", "4000")]).expect("reads");
        assert_eq!(gp3.performance(10).expect("allowed").iops, Some(4000));
        let gp2 = of(&[("type", "gp2"), ("fsType", "ext4")]).expect("reads");
        assert_eq!(gp2.performance(1).expect("allowed").kind, "gp2");
        let io1 = of(&[("type", "io1"), ("iopsPerGB", "50")]).expect("reads");
        assert_eq!(io1.performance(10).expect("allowed").iops, Some(500));
        assert_eq!(of(&[]).expect("reads").performance(1).expect("allowed").kind, "gp3");
        let tags = of(&[("tagSpecification_1", "team=web")]).expect("reads").tags;
        assert_eq!(tags.get("team").map(String::as_str), Some("web"));
    }

    #[test]
    fn what_is_not_served_is_named() {
        for (pairs, why) in [
            (&[("encrypted", "true")][..], "encrypted volumes are not supported yet"),
            (&[("csi.storage.k8s.io/fstype", "xfs")], "xfs is not supported here; there is ext4"),
            (&[("blockExpress", "true")], "blockExpress"),
            (&[("iops", "many")], "iops: many is not a number"),
            (&[("tagSpecification_1", "team")], "is not <key>=<value>"),
        ] {
            let told = of(pairs).expect_err(why).to_lowercase();
            assert!(told.contains(&why.to_lowercase()), "{told}");
        }
    }

    #[test]
    fn quantities_become_whole_gib() {
        for (quantity, expected) in [
            ("1Gi", 1),
            ("1.5Gi", 2),
            ("100Mi", 1),
            ("1G", 1),
            ("2G", 2),
            ("10Ti", 10_240),
            ("1073741825", 2),
            ("3e9", 3),
            ("0.5Gi", 1),
        ] {
            assert_eq!(gib(quantity), Ok(expected), "{quantity}");
        }
        for bad in ["", "x", "1Xi", "-1Gi", "9999999Ei", "1e99"] {
            assert!(gib(bad).is_err(), "{bad}");
        }
    }
}

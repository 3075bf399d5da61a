//! Instance types: processors, memory, and how many pods EKS puts on them.
//!
//! Source: EC2's instance type pages; pods by the rule of the VPC CNI's `eni-max-pods.txt`,
//! interfaces × (addresses each − 1) + 2.

/// A size that a node may have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InstanceType {
    pub name: &'static str,
    pub vcpus: u32,
    pub memory_mib: u64,
    pub interfaces: u32,
    pub addresses_per_interface: u32,
}

impl InstanceType {
    pub fn max_pods(&self) -> u32 {
        self.interfaces * (self.addresses_per_interface - 1) + 2
    }
}

const fn of(
    name: &'static str,
    vcpus: u32,
    memory_mib: u64,
    interfaces: u32,
    addresses: u32,
) -> InstanceType {
    InstanceType { name, vcpus, memory_mib, interfaces, addresses_per_interface: addresses }
}

const TYPES: [InstanceType; 24] = [
    of("t3.micro", 2, 1024, 2, 2),
    of("t3.small", 2, 2048, 3, 4),
    of("t3.medium", 2, 4096, 3, 6),
    of("t3.large", 2, 8192, 3, 12),
    of("t3.xlarge", 4, 16384, 4, 15),
    of("t3.2xlarge", 8, 32768, 4, 15),
    of("t3a.medium", 2, 4096, 3, 6),
    of("t3a.large", 2, 8192, 3, 12),
    of("m5.large", 2, 8192, 3, 10),
    of("m5.xlarge", 4, 16384, 4, 15),
    of("m5.2xlarge", 8, 32768, 4, 15),
    of("m6i.large", 2, 8192, 3, 10),
    of("m6i.xlarge", 4, 16384, 4, 15),
    of("m6i.2xlarge", 8, 32768, 4, 15),
    of("m7i.large", 2, 8192, 3, 10),
    of("m7i.xlarge", 4, 16384, 4, 15),
    of("c5.large", 2, 4096, 3, 10),
    of("c5.xlarge", 4, 8192, 4, 15),
    of("c6i.large", 2, 4096, 3, 10),
    of("c6i.xlarge", 4, 8192, 4, 15),
    of("r5.large", 2, 16384, 3, 10),
    of("r5.xlarge", 4, 32768, 4, 15),
    of("r6i.large", 2, 16384, 3, 10),
    of("r6i.xlarge", 4, 32768, 4, 15),
];

pub fn instance_types() -> &'static [InstanceType] {
    &TYPES
}

pub fn instance_type(name: &str) -> Option<&'static InstanceType> {
    TYPES.iter().find(|t| t.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_as_in_eni_max_pods() {
        for (name, pods) in
            [("t3.micro", 4), ("t3.small", 11), ("t3.medium", 17), ("m5.large", 29), ("m5.xlarge", 58)]
        {
            assert_eq!(instance_type(name).map(InstanceType::max_pods), Some(pods), "{name}");
        }
    }
}

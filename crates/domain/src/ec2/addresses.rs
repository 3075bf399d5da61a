//! Which addresses of a subnet a new interface gets.
//!
//! Primary addresses are taken from the bottom, pod prefixes (/28, as the VPC CNI's prefix delegation) from the top, so
//! that the one does not break up the room of the other. An address that has become free is the last to be taken again:
//! nodes are named by it, and a name that comes back at once is taken for the node that went.

use crate::prefix::Prefix;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// AWS keeps the first four addresses of a subnet and the last one.
const RESERVED_BELOW: u32 = 4;
pub(crate) const POD_PREFIX_LENGTH: u8 = 28;

/// What of a subnet is taken.
#[derive(Clone, Debug, Default)]
pub struct SubnetUse {
    pub addresses: BTreeSet<Ipv4Addr>,
    pub prefixes: BTreeSet<Prefix>,
    /// The address that was given last.
    pub latest: Option<Ipv4Addr>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct AddressPlan {
    pub address: Ipv4Addr,
    pub prefixes: Vec<Prefix>,
}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("subnet {subnet} has no room for one address and {prefixes} prefixes of /28")]
pub struct InsufficientFreeAddresses {
    pub subnet: Prefix,
    pub prefixes: usize,
}

/// One address and `prefixes` free /28 blocks of `subnet`.
pub fn plan_addresses(
    subnet: Prefix,
    used: &SubnetUse,
    prefixes: usize,
) -> Result<AddressPlan, InsufficientFreeAddresses> {
    let full = || InsufficientFreeAddresses { subnet, prefixes };
    let last = u32::try_from(subnet.size() - 1).map_err(|_| full())?;
    let in_prefix = |a: Ipv4Addr| used.prefixes.iter().any(|p| p.contains(a));
    let latest = used.latest.filter(|a| subnet.contains(*a)).map(|a| u32::from(a) - u32::from(subnet.base()));
    let next = latest.map_or(RESERVED_BELOW, |n| (n + 1).clamp(RESERVED_BELOW, last));
    let address = (next..last)
        .chain(RESERVED_BELOW..next)
        .filter_map(|n| subnet.nth(n))
        .find(|a| !used.addresses.contains(a) && !in_prefix(*a))
        .ok_or_else(full)?;
    let mut blocks: Vec<Prefix> = subnet.blocks(POD_PREFIX_LENGTH).collect();
    // The first block holds reserved addresses, the last one the broadcast address.
    blocks.pop();
    let free = |block: &Prefix| {
        !used.prefixes.contains(block)
            && !block.contains(address)
            && !used.addresses.range(block.base()..).next().is_some_and(|a| block.contains(*a))
    };
    let chosen: Vec<Prefix> = blocks.into_iter().skip(1).rev().filter(free).take(prefixes).collect();
    if chosen.len() == prefixes { Ok(AddressPlan { address, prefixes: chosen }) } else { Err(full()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_from_below_and_prefixes_from_above() {
        let subnet: Prefix = "172.31.0.0/20".parse().expect("valid");
        let mut used = SubnetUse::default();
        let first = plan_addresses(subnet, &used, 2).expect("room");
        assert_eq!(first.address.to_string(), "172.31.0.4");
        let shown: Vec<_> = first.prefixes.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["172.31.15.224/28", "172.31.15.208/28"]);
        used.addresses.insert(first.address);
        used.prefixes.extend(first.prefixes);
        let second = plan_addresses(subnet, &used, 1).expect("room");
        assert_eq!(second.address.to_string(), "172.31.0.5");
        assert_eq!(second.prefixes[0].to_string(), "172.31.15.192/28");
    }

    #[test]
    fn an_address_comes_back_only_after_all_others() {
        let subnet: Prefix = "10.0.0.0/28".parse().expect("valid");
        let mut used = SubnetUse::default();
        let mut given = Vec::new();
        for _ in 0..13 {
            let plan = plan_addresses(subnet, &used, 0).expect("nothing is kept, so there is room");
            used.latest = Some(plan.address);
            given.push(plan.address.octets()[3]);
        }
        assert_eq!(given, [4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 4, 5]);
        used.addresses.insert("10.0.0.6".parse().expect("valid"));
        assert_eq!(plan_addresses(subnet, &used, 0).expect("room").address.octets()[3], 7);
    }

    #[test]
    fn a_full_subnet_says_so() {
        let subnet: Prefix = "10.0.0.0/26".parse().expect("valid");
        assert!(plan_addresses(subnet, &SubnetUse::default(), 2).is_ok());
        let refused = plan_addresses(subnet, &SubnetUse::default(), 3);
        assert_eq!(refused, Err(InsufficientFreeAddresses { subnet, prefixes: 3 }));
    }

    #[test]
    fn nothing_is_given_twice() {
        let subnet: Prefix = "10.0.0.0/24".parse().expect("valid");
        let mut used = SubnetUse::default();
        while let Ok(plan) = plan_addresses(subnet, &used, 1) {
            assert!(used.addresses.insert(plan.address), "{plan:?}");
            assert!(used.prefixes.insert(plan.prefixes[0]), "{plan:?}");
            assert!(!used.prefixes.iter().any(|p| used.addresses.iter().any(|a| p.contains(*a))), "{used:?}");
        }
        assert_eq!(used.prefixes.len(), 13);
    }
}

//! IPv4 prefixes (CIDR blocks): parsing as AWS prints them, containment, carving.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// A CIDR block whose host bits are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    base: u32,
    length: u8,
}

/// The text is not a CIDR block.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{0:?} is not an IPv4 CIDR block such as 172.31.0.0/16")]
pub struct PrefixError(String);

impl Prefix {
    /// Host bits are cleared; lengths past 32 count as 32.
    pub fn new(address: Ipv4Addr, length: u8) -> Self {
        let length = length.min(32);
        Self { base: u32::from(address) & mask(length), length }
    }

    pub fn base(self) -> Ipv4Addr {
        self.base.into()
    }

    pub fn length(self) -> u8 {
        self.length
    }

    /// Number of addresses.
    pub fn size(self) -> u64 {
        1 << (32 - self.length)
    }

    pub fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address) & mask(self.length) == self.base
    }

    pub fn overlaps(self, other: Self) -> bool {
        let shorter = mask(self.length.min(other.length));
        self.base & shorter == other.base & shorter
    }

    /// The `n`th address, the base being 0.
    pub fn nth(self, n: u32) -> Option<Ipv4Addr> {
        (u64::from(n) < self.size()).then(|| Ipv4Addr::from(self.base + n))
    }

    /// The blocks of `length` inside this one, in order.
    pub fn blocks(self, length: u8) -> impl Iterator<Item = Self> {
        let count = if length < self.length { 0 } else { 1_u64 << (length - self.length) };
        let step = 1_u64 << (32 - length.min(32));
        (0..count).map(move |n| Self { base: (u64::from(self.base) + n * step) as u32, length })
    }
}

fn mask(length: u8) -> u32 {
    u32::MAX.checked_shl(u32::from(32 - length)).unwrap_or(0)
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base(), self.length)
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let refuse = || PrefixError(text.to_owned());
        let (address, length) = text.split_once('/').ok_or_else(refuse)?;
        let address: Ipv4Addr = address.parse().map_err(|_| refuse())?;
        let length: u8 = length.parse().ok().filter(|l| *l <= 32).ok_or_else(refuse)?;
        let prefix = Self::new(address, length);
        if prefix.base() == address { Ok(prefix) } else { Err(refuse()) }
    }
}

impl Serialize for Prefix {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_contain_and_carve() {
        let vpc: Prefix = "172.31.0.0/16".parse().expect("valid");
        assert!(vpc.contains(Ipv4Addr::new(172, 31, 255, 1)));
        assert!(!vpc.contains(Ipv4Addr::new(172, 32, 0, 1)));
        let zones: Vec<String> = vpc.blocks(20).take(2).map(|b| b.to_string()).collect();
        assert_eq!(zones, ["172.31.0.0/20", "172.31.16.0/20"]);
        assert_eq!(vpc.nth(2), Some(Ipv4Addr::new(172, 31, 0, 2)));
        assert_eq!("0.0.0.0/0".parse::<Prefix>().expect("valid").size(), 1 << 32);
        for bad in ["172.31.0.1/16", "172.31.0.0", "172.31.0.0/33", "x/8"] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad}");
        }
    }
}

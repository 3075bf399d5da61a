//! Settings of a control plane's programs that users may choose (`spec/eks-semantics.md` §3.5).

use super::Invalid;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const DEFAULT_EVENT_MINUTES: u32 = 60;
const DEFAULT_NODE_PORTS: (i32, i32) = (30_000, 32_767);
/// Upstream's.
const DEFAULT_TERMINATED_PODS: i32 = 12_500;
const LOWEST_NODE_PORT: i32 = 10_260;
const HIGHEST_NODE_PORT: i32 = 32_767;

/// What is not chosen is the default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tuning {
    pub event_minutes: Option<u32>,
    /// The first and the last.
    pub node_ports: Option<(i32, i32)>,
    pub scoring: Option<Scoring>,
    pub terminated_pods: Option<i32>,
}

impl Tuning {
    /// As EKS and the API server write it.
    pub fn event_ttl(&self) -> String {
        format!("{}m", self.event_minutes.unwrap_or(DEFAULT_EVENT_MINUTES))
    }

    /// The first and the last.
    pub fn node_ports(&self) -> (i32, i32) {
        self.node_ports.unwrap_or(DEFAULT_NODE_PORTS)
    }

    pub fn terminated_pods(&self) -> i32 {
        self.terminated_pods.unwrap_or(DEFAULT_TERMINATED_PODS)
    }
}

/// How the scheduler ranks nodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scoring {
    /// `LeastAllocated` or `MostAllocated`.
    pub kind: String,
    /// Names with weights.
    pub resources: Vec<(String, i32)>,
}

impl Default for Scoring {
    fn default() -> Self {
        let resources = [("cpu", 1), ("memory", 1)].map(|(name, weight)| (name.to_owned(), weight));
        Self { kind: "LeastAllocated".into(), resources: resources.into() }
    }
}

impl Scoring {
    /// The arguments of the scheduler's plugin NodeResourcesFit.
    pub fn arguments(&self) -> Value {
        let one = |(name, weight): &(String, i32)| json!({"name": name, "weight": weight});
        let resources: Vec<Value> = self.resources.iter().map(one).collect();
        json!({"scoringStrategy": {"type": self.kind, "resources": resources}})
    }
}

/// Minutes, as EKS writes durations: `30m`, `1h`, `600s`.
pub fn parse_event_ttl(text: &str) -> Result<u32, Invalid> {
    let refused = || Invalid(format!("eventTtl must be a duration from 10m to 60m: {text}"));
    let (number, unit) = text.split_at(text.len() - text.chars().last().map_or(0, char::len_utf8));
    let number: u32 = number.parse().map_err(|_| refused())?;
    let seconds = match unit {
        "s" => Some(number),
        "m" => number.checked_mul(60),
        "h" => number.checked_mul(3600),
        _ => None,
    };
    let minutes = seconds.filter(|seconds| seconds % 60 == 0).map(|seconds| seconds / 60);
    minutes.filter(|minutes| (10..=60).contains(minutes)).ok_or_else(refused)
}

pub fn check_node_ports(first: i32, last: i32) -> Result<(i32, i32), Invalid> {
    if LOWEST_NODE_PORT <= first && first <= last && last <= HIGHEST_NODE_PORT {
        return Ok((first, last));
    }
    Err(Invalid(format!(
        "serviceNodePortRange must lie within {LOWEST_NODE_PORT} and {HIGHEST_NODE_PORT}: {first} to {last}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_kept_for_ten_minutes_to_an_hour() {
        for (text, minutes) in [("10m", 10), ("60m", 60), ("1h", 60), ("600s", 10)] {
            assert_eq!(parse_event_ttl(text), Ok(minutes), "{text}");
        }
        for text in ["", "m", "9m", "61m", "2h", "610s", "-10m", "10", "10d", "1h30m", "10ü", "4294967295h"]
        {
            assert!(parse_event_ttl(text).is_err(), "{text}");
        }
    }

    #[test]
    fn node_ports_are_a_range() {
        assert!(check_node_ports(10_260, 32_767).is_ok() && check_node_ports(30_000, 30_000).is_ok());
        for (first, last) in [(10_259, 20_000), (20_000, 32_768), (30_001, 30_000), (0, 0)] {
            assert!(check_node_ports(first, last).is_err(), "{first} {last}");
        }
    }
}

//! How many replicas of CoreDNS a cluster is to have, when that follows from its size.
//!
//! Source: EKS User Guide, "Scale CoreDNS Pods for high DNS traffic": the larger of nodes/16 and cores/256; the peak of ten
//! minutes counts; more at once, and a third less every three minutes.

const NODES_EACH: i64 = 16;
const CORES_EACH: i64 = 256;
const PEAK_MS: i64 = 10 * 60 * 1000;
const LOWERED_EVERY_MS: i64 = 3 * 60 * 1000;
/// Of a hundred, but one at least.
const LOWERED_BY: i64 = 33;

/// What was chosen for it; the least is not more than the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    pub least: i64,
    pub most: i64,
}

impl Bounds {
    pub fn clamp(self, replicas: i64) -> i64 {
        replicas.max(self.least).min(self.most)
    }
}

/// Of which size a cluster was.
#[derive(Clone, Debug)]
pub struct Demand {
    /// Each with what it asks for, the oldest first.
    seen: Vec<(i64, i64)>,
    lowered_ms: i64,
}

impl Demand {
    /// Nothing is known of the time before `now_ms`, so nothing is lowered soon.
    pub fn since(now_ms: i64) -> Self {
        Self { seen: Vec::new(), lowered_ms: now_ms }
    }

    /// How many replicas there shall be instead of `current`.
    pub fn replicas(&mut self, now_ms: i64, (nodes, cores): (i64, i64), current: i64, bounds: Bounds) -> i64 {
        let whole = |amount: i64, each: i64| amount.saturating_add(each - 1) / each;
        self.seen.push((now_ms, whole(nodes, NODES_EACH).max(whole(cores, CORES_EACH))));
        self.seen.retain(|(at, _)| now_ms - at <= PEAK_MS);
        let peak = self.seen.iter().map(|(_, asked)| *asked).max().unwrap_or(0);
        let (wanted, current) = (bounds.clamp(peak), current.min(bounds.most));
        if wanted >= current || now_ms - self.lowered_ms < LOWERED_EVERY_MS {
            return wanted.max(current);
        }
        self.lowered_ms = now_ms;
        wanted.max(current - (current * LOWERED_BY / 100).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60 * 1000;

    #[test]
    fn replicas_follow_nodes_or_cores_within_bounds() {
        let bounds = Bounds { least: 2, most: 10 };
        for (size, expected) in
            [((0, 0), 2), ((32, 128), 2), ((33, 66), 3), ((33, 1024), 4), ((33, 1025), 5), ((1000, 4000), 10)]
        {
            assert_eq!(Demand::since(0).replicas(0, size, 2, bounds), expected, "{size:?}");
        }
        assert_eq!(Demand::since(0).replicas(0, (1, 2), 1, bounds), 2, "at least so many, at once");
        for now in [0, 5 * MINUTE] {
            let most = Demand::since(0).replicas(now, (200, 400), 30, bounds);
            assert_eq!(most, 10, "and at most");
        }
        assert_eq!(Demand::since(0).replicas(0, (1, i64::MAX), 2, bounds), 10);
    }

    #[test]
    fn they_grow_at_once_and_shrink_step_by_step_when_the_peak_is_over() {
        let bounds = Bounds { least: 2, most: 1000 };
        let mut demand = Demand::since(0);
        let mut current = 2;
        let mut changes = Vec::new();
        for minute in 0..40 {
            let nodes = if minute == 5 { 160 } else { 10 };
            let next = demand.replicas(minute * MINUTE, (nodes, nodes), current, bounds);
            if next != current {
                changes.push((minute, next));
            }
            current = next;
        }
        assert_eq!(changes, [(5, 10), (16, 7), (19, 5), (22, 4), (25, 3), (28, 2)]);
    }
}

//! How soon a program that ended is started again: at once, and slower each time if it comes to nothing.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Whoever lived this long is started again at once.
const HEALTHY_MS: i64 = 30_000;
const FIRST_PAUSE_MS: i64 = 50;
const LONGEST_PAUSE_MS: i64 = 10_000;

/// The starts of this process's children, by id.
#[derive(Debug, Default)]
pub(crate) struct Restarts {
    started: Mutex<HashMap<String, Start>>,
}

#[derive(Debug)]
struct Start {
    at_ms: i64,
    /// Starts in a row, each within [`HEALTHY_MS`] of the one before.
    row: u32,
}

impl Restarts {
    /// How long to wait before starting `child`.
    pub(crate) fn pause(&self, child: &str, now_ms: i64) -> Duration {
        let started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(start) = started.get(child).filter(|s| s.row > 1) else {
            return Duration::ZERO;
        };
        let pause = FIRST_PAUSE_MS.saturating_mul(1 << start.row.min(10)).min(LONGEST_PAUSE_MS);
        // A clock that was set back must not make this wait longer.
        let waited = (now_ms - start.at_ms).max(0);
        let left = if waited >= HEALTHY_MS { 0 } else { pause - waited };
        Duration::from_millis(u64::try_from(left).unwrap_or(0))
    }

    /// Starts in a row, each of which came to nothing.
    pub(crate) fn row(&self, child: &str) -> u32 {
        let started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        started.get(child).map_or(0, |start| start.row)
    }

    pub(crate) fn note(&self, child: &str, now_ms: i64) {
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        let start = started.entry(child.to_owned()).or_insert(Start { at_ms: now_ms, row: 0 });
        start.row = if now_ms - start.at_ms < HEALTHY_MS { start.row + 1 } else { 1 };
        start.at_ms = now_ms;
    }

    /// It did what it is for: should it end, then not because it cannot start.
    pub(crate) fn works(&self, child: &str) {
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(start) = started.get_mut(child) {
            start.row = 0;
        }
    }

    pub(crate) fn forget(&self, child: &str) {
        self.started.lock().unwrap_or_else(PoisonError::into_inner).remove(child);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_restart_is_at_once_and_a_crash_loop_is_slow() {
        let restarts = Restarts::default();
        let mut now = 0;
        let mut pauses = Vec::new();
        for _ in 0..10 {
            let pause = restarts.pause("c", now);
            pauses.push(pause.as_millis());
            now += i64::try_from(pause.as_millis()).expect("short");
            assert_eq!(restarts.pause("c", now), Duration::ZERO, "the pause is over");
            restarts.note("c", now);
        }
        assert_eq!(pauses, [0, 0, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        assert_eq!(restarts.pause("other", now), Duration::ZERO);
        now += HEALTHY_MS;
        assert_eq!(restarts.pause("c", now), Duration::ZERO);
        restarts.note("c", now);
        assert_eq!(restarts.pause("c", now), Duration::ZERO, "it had lived");
    }

    #[test]
    fn what_works_before_it_ends_is_started_at_once_each_time() {
        let restarts = Restarts::default();
        for now in (0..40_000).step_by(2_000) {
            assert_eq!(restarts.pause("c", now), Duration::ZERO);
            restarts.note("c", now);
            restarts.works("c");
        }
    }
}

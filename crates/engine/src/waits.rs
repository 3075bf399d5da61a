//! How long something has been waited for, whatever happens to the clock.
//!
//! A limit that is counted in the time of day is over at once when the clock is set forward, or when a laptop wakes after a
//! night, and never when it is set back. So limits count what this process has seen go by while the machine was awake.
//!
//! # Caveats
//! A process that starts anew counts anew: limits get longer by that, never shorter.

use crate::Env;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// What is waited for, by key.
#[derive(Debug, Default)]
pub struct Waits {
    begun: Mutex<HashMap<String, i64>>,
}

impl Waits {
    /// Milliseconds since this was first asked for `key`.
    pub fn elapsed_ms(&self, env: &Env, key: &str) -> i64 {
        let now = env.steady_ms();
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        now - *begun.entry(key.to_owned()).or_insert(now)
    }

    /// It is not waited for any more; the next time counts from nothing.
    pub fn end(&self, key: &str) {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Clock, SystemChance};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};

    /// The time of day, and the time that went by.
    #[derive(Debug, Default)]
    struct Hands(AtomicI64, AtomicI64);

    impl Clock for Hands {
        fn now_ms(&self) -> i64 {
            self.0.load(Ordering::SeqCst)
        }

        fn steady_ms(&self) -> i64 {
            self.1.load(Ordering::SeqCst)
        }
    }

    #[test]
    fn only_time_that_went_by_counts() {
        let hands = Arc::new(Hands::default());
        let (env, waits) = (Env::with(hands.clone(), Arc::new(SystemChance)), Waits::default());
        assert_eq!(waits.elapsed_ms(&env, "a"), 0);
        for jump in [86_400_000, -2 * 86_400_000] {
            hands.0.fetch_add(jump, Ordering::SeqCst);
            assert_eq!(waits.elapsed_ms(&env, "a"), 0);
        }
        hands.1.fetch_add(5, Ordering::SeqCst);
        assert_eq!(waits.elapsed_ms(&env, "a"), 5);
        assert_eq!(waits.elapsed_ms(&env, "b"), 0);
        waits.end("a");
        assert_eq!(waits.elapsed_ms(&env, "a"), 0);
    }
}

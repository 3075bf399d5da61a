//! How a long job says how far it is. The library never touches a terminal: callers draw.
//! Invariant: fractions of one job never go backwards.

use std::sync::Mutex;
use std::time::Duration;

/// Hears of every build. Called from several threads at once.
pub trait Progress: Sync {
    /// A job begins. `estimate` is a first guess of its wall time.
    fn started(&self, name: &str, version: &str, estimate: Duration);
    /// `fraction` (0 to 1) is done; `detail` is what happens now.
    fn advanced(&self, name: &str, fraction: f32, detail: &str);
    /// The job is complete.
    fn finished(&self, name: &str, took: Duration);
}

/// Says nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn started(&self, _: &str, _: &str, _: Duration) {}
    fn advanced(&self, _: &str, _: f32, _: &str) {}
    fn finished(&self, _: &str, _: Duration) {}
}

/// One job's view of a [`Progress`].
pub(crate) struct Job<'a> {
    name: &'a str,
    progress: &'a dyn Progress,
    highest: Mutex<f32>,
}

impl<'a> Job<'a> {
    pub(crate) fn new(name: &'a str, progress: &'a dyn Progress) -> Self {
        Self { name, progress, highest: Mutex::new(0.0) }
    }

    /// Reports; a fraction below an earlier one is lifted to it.
    pub(crate) fn at(&self, fraction: f32, detail: &str) {
        let mut highest = self.highest.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        *highest = highest.max(fraction.clamp(0.0, 1.0));
        self.progress.advanced(self.name, *highest, detail);
    }

    /// Reports what happens now, without having moved.
    pub(crate) fn note(&self, detail: &str) {
        self.at(0.0, detail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Heard(Mutex<Vec<f32>>);

    impl Progress for Heard {
        fn started(&self, _: &str, _: &str, _: Duration) {}
        fn advanced(&self, _: &str, fraction: f32, _: &str) {
            self.0.lock().expect("no test thread panics").push(fraction);
        }
        fn finished(&self, _: &str, _: Duration) {}
    }

    #[test]
    fn fractions_never_go_back() {
        let heard = Heard(Mutex::new(Vec::new()));
        let job = Job::new("etcd", &heard);
        for fraction in [0.1, 0.5, 0.2, 7.0, 0.9] {
            job.at(fraction, "");
        }
        job.note("waiting");
        assert_eq!(*heard.0.lock().expect("no test thread panics"), [0.1, 0.5, 0.5, 1.0, 1.0, 1.0]);
    }
}

//! The reconcile driver: wakes reconcilers by change and by time.
//!
//! # Guarantees
//! - At most one `reconcile` per key is in flight; a change during it causes another one after it.
//! - A failed key is tried again with growing delay; other keys are not held up. A change of it is not delayed.
//! - A panic of a reconciler is a failure of that key.
//! - After shutdown nothing new starts; what is in flight is dropped at its next await.
//!
//! # Assumptions
//! - `reconcile` may be dropped at any await and called again.

use ekstra_store::{Revision, Store};
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Every key is looked at this often even when nothing seems to have changed.
const RESYNC: Duration = Duration::from_secs(10);
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(10);

/// When a key wants to be seen again without a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    OnChange,
    After(Duration),
}

/// One kind of thing that is kept as its record says.
pub trait Reconciler: Send + Sync + 'static {
    type Error: std::fmt::Display + Send;

    fn name(&self) -> &'static str;
    /// Every key there is.
    fn keys(&self) -> Vec<String>;
    /// Keys that a change of this store key concerns.
    fn affected(&self, changed: &str) -> Vec<String>;
    fn reconcile(&self, key: String) -> BoxFuture<'_, Result<Next, Self::Error>>;
}

/// Told once; everybody who holds a clone sees it.
pub type Shutdown = watch::Receiver<bool>;

struct Driver<R: Reconciler> {
    reconciler: Arc<R>,
    store: Store,
    seen: Revision,
    due: BTreeMap<String, Instant>,
    busy: BTreeSet<String>,
    /// Changed while busy.
    again: BTreeSet<String>,
    failures: BTreeMap<String, Failures>,
}

/// Of a key, since it last went well.
#[derive(Default)]
struct Failures {
    count: u32,
    /// The last attempt came at once because of a change. If it changed the key itself and fails, the next must not.
    hurried: bool,
}

enum Failure<E> {
    Error(E),
    Panic(String),
}

type Outcome<R> = (String, Result<Next, Failure<<R as Reconciler>::Error>>);

/// Runs until shutdown.
pub async fn drive<R: Reconciler>(reconciler: Arc<R>, store: Store, mut shutdown: Shutdown) {
    let mut head = store.head();
    let seen = store.view().revision();
    let mut driver = Driver {
        reconciler: reconciler.clone(),
        store,
        seen,
        due: BTreeMap::new(),
        busy: BTreeSet::new(),
        again: BTreeSet::new(),
        failures: BTreeMap::new(),
    };
    let mut running: FuturesUnordered<BoxFuture<'_, Outcome<R>>> = FuturesUnordered::new();
    let mut resync = tokio::time::interval(RESYNC);
    loop {
        for key in driver.take_due() {
            let reconciler = &reconciler;
            running.push(
                async move {
                    let attempt = key.clone();
                    let outcome = contain(async { reconciler.reconcile(attempt).await }).await;
                    (key, outcome)
                }
                .boxed(),
            );
        }
        let wake = driver.next_due();
        tokio::select! {
            _ = shutdown.wait_for(|stop| *stop) => return,
            changed = head.changed() => match changed {
                Ok(()) => driver.note_changes(),
                Err(_) => return,
            },
            Some((key, outcome)) = running.next() => driver.note_outcome(key, outcome),
            _ = resync.tick() => driver.note_all(),
            () = sleep_until(wake) => {}
        }
    }
}

/// Unwinding through the driver would end every key of the reconciler, and nobody would notice. What a reconciler
/// shares with its next attempt must bear being dropped at any await, so it bears this too.
async fn contain<E>(attempt: impl Future<Output = Result<Next, E>>) -> Result<Next, Failure<E>> {
    match AssertUnwindSafe(attempt).catch_unwind().await {
        Ok(outcome) => outcome.map_err(Failure::Error),
        Err(panic) => Err(Failure::Panic(message(&*panic))),
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a message".into())
}

async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

impl<R: Reconciler> Driver<R> {
    fn take_due(&mut self) -> Vec<String> {
        let now = Instant::now();
        let ready: Vec<String> =
            self.due.iter().filter(|(_, at)| **at <= now).map(|(k, _)| k.clone()).collect();
        for key in &ready {
            self.due.remove(key);
            self.busy.insert(key.clone());
        }
        ready
    }

    fn next_due(&self) -> Option<Instant> {
        self.due.values().min().copied()
    }

    fn note_all(&mut self) {
        for key in self.reconciler.keys() {
            self.wake(key, Instant::now());
        }
    }

    fn note_changes(&mut self) {
        let revision = self.store.view().revision();
        match self.store.view().changed_since(self.seen) {
            Some(changed) => {
                let keys: BTreeSet<String> =
                    changed.iter().flat_map(|key| self.reconciler.affected(key)).collect();
                for key in keys {
                    self.wake(key, Instant::now());
                }
            }
            None => self.note_all(),
        }
        self.seen = revision;
    }

    fn wake(&mut self, key: String, at: Instant) {
        if self.busy.contains(&key) {
            self.again.insert(key);
        } else {
            let due = self.due.entry(key).or_insert(at);
            *due = (*due).min(at);
        }
    }

    fn note_outcome(&mut self, key: String, outcome: Result<Next, Failure<R::Error>>) {
        self.busy.remove(&key);
        let changed = self.again.remove(&key);
        match outcome {
            Ok(next) => {
                self.failures.remove(&key);
                if changed {
                    self.wake(key, Instant::now());
                } else if let Next::After(delay) = next {
                    self.wake(key, Instant::now() + delay);
                }
            }
            Err(failure) => self.note_failure(key, &failure, changed),
        }
    }

    fn note_failure(&mut self, key: String, failure: &Failure<R::Error>, changed: bool) {
        let failures = self.failures.entry(key.clone()).or_default();
        let delay = failures.delay(changed);
        let (reconciler, count) = (self.reconciler.name(), failures.count);
        match failure {
            Failure::Error(error) => tracing::warn!(reconciler, key, %error, count, ?delay, "trying again"),
            Failure::Panic(panic) => tracing::error!(reconciler, key, panic, count, ?delay, "panicked"),
        }
        self.wake(key, Instant::now() + delay);
    }
}

impl Failures {
    /// Counts one more, and says how long to wait.
    fn delay(&mut self, changed: bool) -> Duration {
        let grown = FIRST_RETRY.saturating_mul(1 << self.count.min(10)).min(LAST_RETRY);
        let delay = match (changed, self.hurried) {
            (true, false) => Duration::ZERO,
            (true, true) => FIRST_RETRY,
            (false, _) => grown,
        };
        self.hurried = changed;
        self.count += 1;
        delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ekstra_store::CommitError;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Default)]
    struct Recorder {
        calls: Mutex<Vec<String>>,
        in_flight: AtomicUsize,
        fail_first: AtomicUsize,
        panic_first: AtomicUsize,
        /// Attempts wait here when they are told to.
        gate: Option<tokio::sync::Semaphore>,
    }

    impl Reconciler for Recorder {
        type Error = &'static str;

        fn name(&self) -> &'static str {
            "recorder"
        }

        fn keys(&self) -> Vec<String> {
            vec!["start".into()]
        }

        fn affected(&self, changed: &str) -> Vec<String> {
            vec![changed.to_owned()]
        }

        fn reconcile(&self, key: String) -> BoxFuture<'_, Result<Next, Self::Error>> {
            async move {
                assert_eq!(self.in_flight.fetch_add(1, Ordering::SeqCst), 0, "one key, one at a time");
                tokio::task::yield_now().await;
                self.in_flight.fetch_sub(1, Ordering::SeqCst);
                self.calls.lock().expect("not poisoned").push(key);
                if let Some(gate) = &self.gate {
                    gate.acquire().await.expect("open").forget();
                }
                let left = self.panic_first.load(Ordering::SeqCst);
                if left > 0 {
                    self.panic_first.store(left - 1, Ordering::SeqCst);
                    panic!("on purpose");
                }
                let left = self.fail_first.load(Ordering::SeqCst);
                if left > 0 {
                    self.fail_first.store(left - 1, Ordering::SeqCst);
                    return Err("not yet");
                }
                Ok(Next::OnChange)
            }
            .boxed()
        }
    }

    async fn wait_for(recorder: &Recorder, count: usize) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let calls = recorder.calls.lock().expect("not poisoned").clone();
            if calls.len() >= count {
                return;
            }
            assert!(Instant::now() < deadline, "only {calls:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn wakes_by_start_by_change_and_after_failure() {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = Store::open(&dir.path().join("state.db")).expect("opens");
        let recorder = Arc::new(Recorder { fail_first: AtomicUsize::new(2), ..Default::default() });
        let (stop, shutdown) = watch::channel(false);
        let task = tokio::spawn(drive(recorder.clone(), store.clone(), shutdown));
        wait_for(&recorder, 3).await;
        store.transact::<_, CommitError>(|txn| Ok(txn.put("start", &1)?)).await.expect("commits");
        wait_for(&recorder, 4).await;
        stop.send_replace(true);
        task.await.expect("ends");
        assert!(recorder.calls.lock().expect("not poisoned").iter().all(|k| k == "start"));
    }

    struct Driven {
        _dir: tempfile::TempDir,
        store: Store,
        recorder: Arc<Recorder>,
        stop: watch::Sender<bool>,
        task: tokio::task::JoinHandle<()>,
    }

    fn driven(recorder: Recorder) -> Driven {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = Store::open(&dir.path().join("state.db")).expect("opens");
        let recorder = Arc::new(recorder);
        let (stop, shutdown) = watch::channel(false);
        let task = tokio::spawn(drive(recorder.clone(), store.clone(), shutdown));
        Driven { _dir: dir, store, recorder, stop, task }
    }

    #[tokio::test]
    async fn a_panic_is_a_failure_of_its_key() {
        let driven = driven(Recorder { panic_first: AtomicUsize::new(2), ..Default::default() });
        wait_for(&driven.recorder, 3).await;
        driven.store.transact::<_, CommitError>(|txn| Ok(txn.put("other", &1)?)).await.expect("commits");
        wait_for(&driven.recorder, 4).await;
        driven.stop.send_replace(true);
        driven.task.await.expect("the driver lives through it");
    }

    /// Its back-off is far longer than the test waits.
    #[tokio::test]
    async fn a_change_during_an_attempt_that_fails_wakes_at_once() {
        let mut failures = Failures { count: 20, hurried: false };
        assert_eq!(failures.delay(false), LAST_RETRY);
        assert_eq!(failures.delay(true), Duration::ZERO);
        assert_eq!(failures.delay(true), FIRST_RETRY, "it may be the attempt itself that changes the key");
        assert_eq!(failures.delay(false), LAST_RETRY);

        let gate = Some(tokio::sync::Semaphore::new(0));
        let driven = driven(Recorder { fail_first: AtomicUsize::new(5), gate, ..Default::default() });
        let open = |count| driven.recorder.gate.as_ref().expect("has one").add_permits(count);
        open(4);
        wait_for(&driven.recorder, 5).await;
        driven.store.transact::<_, CommitError>(|txn| Ok(txn.put("start", &1)?)).await.expect("commits");
        let before = Instant::now();
        open(2);
        wait_for(&driven.recorder, 6).await;
        assert!(before.elapsed() < FIRST_RETRY * 8, "the fifth failure waits {:?}", FIRST_RETRY * 16);
        driven.stop.send_replace(true);
        driven.task.await.expect("ends");
    }
}

//! A named scope of tasks.
//!
//! # Guarantees
//! - Dropped, it ends every task that was started in it, at the task's next await.
//! - A task that panics is logged under the scope's name; the others go on.

use futures::FutureExt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use tokio::sync::watch;

#[derive(Debug)]
pub(crate) struct Scope {
    name: String,
    /// Each task holds a receiver, so this knows when the last one has ended, and they when this is gone.
    tasks: watch::Sender<()>,
}

impl Scope {
    pub(crate) fn new(name: String) -> Self {
        Self { name, tasks: watch::Sender::new(()) }
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let name = self.name.clone();
        let mut end = self.tasks.subscribe();
        tokio::spawn(async move {
            tokio::select! {
                // Nothing is ever sent: this completes when the sender is gone.
                _ = end.changed() => {}
                outcome = AssertUnwindSafe(task).catch_unwind() => if let Err(panic) = outcome {
                    tracing::error!(scope = name, panic = message(&*panic), "a task panicked");
                },
            }
        });
    }

    /// Completes when no task is left.
    pub(crate) async fn drained(&self) {
        self.tasks.closed().await;
    }
}

fn message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn a_dropped_scope_ends_its_tasks() {
        let scope = Scope::new("test".into());
        let (held, ended) = oneshot::channel::<()>();
        scope.spawn(async move {
            std::future::pending::<()>().await;
            drop(held);
        });
        drop(scope);
        let ended = tokio::time::timeout(Duration::from_secs(5), ended).await;
        assert!(ended.expect("the task ends").is_err());
    }

    #[tokio::test]
    async fn a_panic_ends_its_own_task_only() {
        let scope = Scope::new("test".into());
        let (said, heard) = oneshot::channel();
        scope.spawn(async { panic!("as it happens") });
        scope.spawn(async move { said.send(7).expect("the test listens") });
        assert_eq!(heard.await, Ok(7));
        tokio::time::timeout(Duration::from_secs(5), scope.drained()).await.expect("both have ended");
    }
}

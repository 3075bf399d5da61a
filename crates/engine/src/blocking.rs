//! Work that blocks, off the threads that must not.

/// Runs `work` on a thread that may block. A panic goes on in the caller; at shutdown this never returns, and whoever
/// waits is dropped at this await.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => std::future::pending().await,
        },
    }
}

//! Calls of the machine from async code.

use ekstra_engine::blocking;
use ekstra_host::{Host, HostError};
use std::sync::Arc;

/// Calls the host on a thread that may block.
pub async fn on_host<T: Send + 'static>(
    host: &Arc<dyn Host>,
    call: impl FnOnce(&dyn Host) -> Result<T, HostError> + Send + 'static,
) -> Result<T, HostError> {
    let host = host.clone();
    blocking(move || call(&*host)).await
}

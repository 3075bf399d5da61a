//! Renews the node image's package lock in this checkout. Build again afterwards: the lock is compiled in.

use std::path::Path;

use ekstra_components::{Store, default_cache_dir, relock};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let cache = default_cache_dir().ok_or("no cache directory: HOME is not set")?;
    let lock = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../components/node-image/packages.lock");
    let count = relock(&Store::open(cache, None)?, &lock)?;
    println!("{count} packages locked in {}", lock.display());
    Ok(())
}

//! Renews the node image's package locks in this checkout. Build again afterwards: they are compiled in.

use std::path::Path;

use ekstra_components::{Store, default_cache_dir, relock};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let cache = default_cache_dir().ok_or("no cache directory: HOME is not set")?;
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../components/node-image");
    for (architecture, count) in relock(&Store::open(cache, None)?, &dir)? {
        println!("{architecture}: {count} packages locked in {}", dir.display());
    }
    Ok(())
}

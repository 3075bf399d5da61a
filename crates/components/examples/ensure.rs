//! Builds every component, the node image and the system images, and prints where they lie.
//!
//! ```text
//! cargo run --release -p ekstra-components --example ensure [list]
//! ```

use std::time::{Duration, Instant};

use ekstra_components::{Group, Progress, Recipes, Store, default_cache_dir};

/// One line whenever a job has moved by a twentieth, or does something else.
struct Lines {
    begun: Instant,
    last: std::sync::Mutex<std::collections::HashMap<String, i32>>,
}

impl Lines {
    fn print(&self, text: &str) {
        println!("{:7.1} s  {text}", self.begun.elapsed().as_secs_f32());
    }
}

impl Progress for Lines {
    fn started(&self, name: &str, version: &str, estimate: Duration) {
        self.print(&format!("{name} {version}: about {} s", estimate.as_secs()));
    }

    fn advanced(&self, name: &str, fraction: f32, detail: &str) {
        let step = (fraction * 20.0) as i32;
        let mut last = self.last.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if last.insert(name.to_owned(), step) != Some(step) || detail.contains("waiting") {
            self.print(&format!("{name}: {:3.0} %  {detail}", fraction * 100.0));
        }
    }

    fn finished(&self, name: &str, took: Duration) {
        self.print(&format!("{name}: done in {:.1} s", took.as_secs_f32()));
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let store = Store::open(default_cache_dir().ok_or("no cache directory: HOME is not set")?, None)?;
    if std::env::args().any(|argument| argument == "list") {
        return list(&store);
    }
    let lines = Lines { begun: Instant::now(), last: Default::default() };
    let recipes = Recipes::get();
    let kubernetes = recipes.default_kubernetes();
    let groups = [Group::ControlPlane, Group::Client, Group::Node, Group::Images];
    let what: Vec<_> = groups.iter().flat_map(|group| recipes.group(*group, kubernetes)).collect();
    for (component, name, path) in store.ensure(&what, &lines)?.iter() {
        println!("{component}: {name} {}", path.display());
    }
    for lower in store.node_image(kubernetes, &lines)?.lowers {
        println!("node image: {}", lower.display());
    }
    for image in store.system_images(kubernetes, &lines)? {
        println!("image: {} {}", image.names.join(", "), image.archive.display());
    }
    lines.print("all there");
    Ok(())
}

fn list(store: &Store) -> Result<(), Box<dyn std::error::Error>> {
    for one in store.list()? {
        let path = one.path.map_or(String::new(), |path| path.display().to_string());
        println!("{:30} {:?} {:5} MB {path}", one.component.to_string(), one.state, one.size / 1_000_000);
    }
    Ok(())
}

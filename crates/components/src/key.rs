//! The content address of a build: everything that decides its bytes, hashed.
//! Invariant: stable across machines and releases of ekstra while none of that changes.

use sha2::{Digest, Sha256};

use crate::embedded::Module;
use crate::recipe::Recipe;

/// Hex digits of a key in a directory name.
const DIGITS: usize = 12;

/// Hashes parts so that no two lists of parts look alike.
#[derive(Debug, Clone, Default)]
pub(crate) struct KeyHasher(Sha256);

impl KeyHasher {
    pub(crate) fn add(&mut self, part: impl AsRef<[u8]>) -> &mut Self {
        let part = part.as_ref();
        self.0.update((part.len() as u64).to_le_bytes());
        self.0.update(part);
        self
    }

    pub(crate) fn key(&self) -> String {
        let mut hex = hex::encode(self.0.clone().finalize());
        hex.truncate(DIGITS);
        hex
    }
}

/// What the recipe alone decides, whichever Go builds it.
pub(crate) fn recipe_hasher(recipe: &Recipe, module: &Module, flags: &[&str]) -> KeyHasher {
    let mut hasher = KeyHasher::default();
    for (name, content) in module.files {
        hasher.add(name).add(content);
    }
    for (program, package) in &recipe.programs {
        hasher.add(program).add(package);
    }
    for (program, names) in &recipe.links {
        hasher.add(program).add(names.join(" "));
    }
    hasher.add(recipe.tags.join(",")).add(&recipe.ldflags).add([u8::from(recipe.cgo)]);
    hasher.add(flags.join(" "));
    hasher
}

/// The key of a build by one Go release for one platform.
pub(crate) fn build_key(recipe: &KeyHasher, go: &str) -> String {
    recipe.clone().add(go).key()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Recipes;

    const MODULE: Module = Module { dir: "x", files: &[("go.mod", "module x"), ("go.sum", "")] };
    const OTHER: Module = Module { dir: "x", files: &[("go.mod", "module x"), ("go.sum", "y")] };

    fn recipe() -> Recipe {
        Recipes::get().all()[0].clone()
    }

    fn key(recipe: &Recipe, module: &Module, flags: &[&str], go: &str) -> String {
        build_key(&recipe_hasher(recipe, module, flags), go)
    }

    #[test]
    fn the_key_is_stable() {
        let first = key(&recipe(), &MODULE, &["-trimpath"], "go1.26.8 linux/amd64");
        assert_eq!(first, key(&recipe(), &MODULE, &["-trimpath"], "go1.26.8 linux/amd64"));
        assert_eq!(first.len(), DIGITS);
    }

    #[test]
    fn the_key_feels_every_part() {
        let (go, flags) = ("go1.26.8 linux/amd64", ["-trimpath"]);
        let mut keys = vec![
            key(&recipe(), &MODULE, &flags, go),
            key(&recipe(), &OTHER, &flags, go),
            key(&recipe(), &MODULE, &[], go),
            key(&recipe(), &MODULE, &flags, "go1.26.9 linux/amd64"),
        ];
        let changes: [fn(&mut Recipe); 5] = [
            |r| r.tags.push("seccomp".into()),
            |r| r.cgo = !r.cgo,
            |r| r.ldflags.push_str(" -extldflags -static"),
            |r| drop(r.programs.insert("more".into(), "example.com/more".into())),
            |r| drop(r.links.insert("etcd".into(), vec!["etcd2".into()])),
        ];
        for change in changes {
            let mut changed = recipe();
            change(&mut changed);
            keys.push(key(&changed, &MODULE, &flags, go));
        }
        let count = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), count);
    }

    #[test]
    fn parts_do_not_run_together() {
        let apart = KeyHasher::default().add("ab").add("c").key();
        assert_ne!(apart, KeyHasher::default().add("a").add("bc").key());
    }
}

//! The programs of the machine that builds need, looked up before anything starts: a missing one is told in
//! the first second, by name and with the command that installs it.
//! Invariant: nothing here changes the machine, and the user's GOMODCACHE, GOCACHE and proxies stay as they are.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::embedded::Module;
use crate::error::EnsureError;
use crate::recipe::Recipe;

/// Where distributions and go.dev put Go when it is not on PATH, as under sudo.
const GO_HOMES: [&str; 2] = ["/usr/local/go/bin", "/usr/lib/go/bin"];
const INSTALL_GO: &str =
    "see https://go.dev/doc/install, or `apt-get install golang-go` where that is recent enough";

/// A search path for programs.
#[derive(Debug, Clone)]
pub(crate) struct Tools {
    path: OsString,
}

/// The Go toolchain.
#[derive(Debug, Clone)]
pub(crate) struct Go {
    pub(crate) program: PathBuf,
    /// As in `go1.26.8`.
    pub(crate) release: String,
    /// As in `go1.26.8 linux/amd64`.
    pub(crate) identity: String,
}

impl Tools {
    /// The PATH of this process, then Go's usual homes.
    pub(crate) fn of_environment() -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let dirs = std::env::split_paths(&path).chain(GO_HOMES.map(PathBuf::from));
        Self { path: std::env::join_paths(dirs).unwrap_or(path) }
    }

    #[cfg(test)]
    pub(crate) fn on(path: impl Into<OsString>) -> Self {
        Self { path: path.into() }
    }

    /// The first executable file of that name.
    pub(crate) fn find(&self, program: &str) -> Option<PathBuf> {
        std::env::split_paths(&self.path).map(|dir| dir.join(program)).find(|path| is_executable(path))
    }

    /// The same, or an error that says what for and how to get it.
    pub(crate) fn need(&self, tool: &str, purpose: &str, install: &str) -> Result<PathBuf, EnsureError> {
        self.find(tool).ok_or_else(|| missing(tool, purpose, install))
    }

    /// A command that finds its own helpers on the same search path.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env("PATH", &self.path).stdin(Stdio::null());
        command
    }

    /// The same, for a long job: it ends when the thread that starts it does, so that a killed ekstra leaves no
    /// builds running. One that is not `urgent` leaves the cores to those that are. Where coreutils' `nice` or
    /// util-linux's `setpriv` is missing, the job runs all the same.
    pub(crate) fn long_command(&self, program: &Path, urgent: bool) -> Command {
        let nice = if urgent { None } else { self.find("nice") };
        let nice = nice.map(|nice| vec![nice.into_os_string(), "-n".into(), "10".into()]);
        let setpriv = self
            .find("setpriv")
            .map(|setpriv| vec![setpriv.into_os_string(), "--pdeathsig".into(), "TERM".into(), "--".into()]);
        let wrappers = nice.into_iter().chain(setpriv).flatten();
        let mut words = wrappers.chain([program.as_os_str().to_owned()]);
        let mut command = self.command(Path::new(&words.next().unwrap_or_default()));
        command.args(words);
        command
    }

    /// The Go toolchain, whichever version it is.
    pub(crate) fn go(&self) -> Result<Go, EnsureError> {
        let program = self.need("go", "to build Kubernetes and what it runs on", INSTALL_GO)?;
        let mut command = self.command(&program);
        command.args(["env", "GOVERSION", "GOOS", "GOARCH"]).env("GOTOOLCHAIN", "local").current_dir("/");
        let spawn = |source| EnsureError::Spawn { program: program.clone(), source };
        let output = command.output().map_err(spawn)?;
        let text = String::from_utf8_lossy(&output.stdout);
        let mut words = text.split_whitespace();
        let (Some(release), Some(os), Some(arch)) = (words.next(), words.next(), words.next()) else {
            return Err(missing("a Go toolchain that works", "to build Kubernetes", INSTALL_GO));
        };
        let identity = format!("{release} {os}/{arch}");
        Ok(Go { program: program.clone(), release: release.to_owned(), identity })
    }

    /// Everything a recipe needs on this machine, Go itself apart.
    pub(crate) fn check(&self, recipe: &Recipe, module: &Module, go: &Go) -> Result<(), EnsureError> {
        check_release(recipe, module, go)?;
        if !recipe.cgo {
            return Ok(());
        }
        let purpose = format!("to build {}", recipe.component);
        self.need("gcc", &purpose, "apt-get install gcc libc6-dev")?;
        if !recipe.tags.iter().any(|tag| tag == "seccomp") {
            return Ok(());
        }
        self.need("pkg-config", &purpose, "apt-get install pkg-config")?;
        if self.library_version("libseccomp").is_none() {
            return Err(missing(
                "libseccomp's development files",
                &purpose,
                "apt-get install libseccomp-dev",
            ));
        }
        Ok(())
    }

    /// Of a C library that can be linked, by pkg-config.
    pub(crate) fn library_version(&self, library: &str) -> Option<String> {
        let pkg_config = self.find("pkg-config")?;
        let output = self.command(&pkg_config).args(["--modversion", library]).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

fn missing(tool: &str, purpose: &str, install: &str) -> EnsureError {
    EnsureError::MissingTool {
        tool: tool.to_owned(),
        purpose: purpose.to_owned(),
        install: install.to_owned(),
    }
}

fn check_release(recipe: &Recipe, module: &Module, go: &Go) -> Result<(), EnsureError> {
    let needed = module.go_release();
    if numbers(&go.release) >= numbers(needed) {
        return Ok(());
    }
    Err(EnsureError::OldGo {
        component: recipe.component.clone(),
        needed: needed.to_owned(),
        found: go.release.clone(),
        install: INSTALL_GO.to_owned(),
    })
}

/// `go1.26.8` as `[1, 26, 8]`; a release candidate counts as its release.
fn numbers(release: &str) -> [u32; 3] {
    let mut parts = release.trim_start_matches("go").split('.').map(|part| {
        let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap_or(0)
    });
    [(); 3].map(|()| parts.next().unwrap_or(0))
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded;
    use crate::recipe::Recipes;

    fn named(name: &str) -> &'static Recipe {
        let recipes = Recipes::get();
        recipes.named(name, recipes.default_kubernetes()).expect("there is such a recipe")
    }

    fn go(release: &str) -> Go {
        Go { program: "/go".into(), release: release.into(), identity: release.into() }
    }

    #[test]
    fn missing_go_says_how_to_get_it() {
        let told = Tools::on("/nowhere").go().expect_err("no Go there").to_string();
        assert!(told.contains("go is needed") && told.contains("go.dev"), "{told}");
    }

    #[test]
    fn a_missing_compiler_names_its_package() {
        let recipe = named("runc");
        let module = embedded::module(&recipe.module).expect("embedded");
        let told =
            Tools::on("/nowhere").check(recipe, module, &go("go1.99.0")).expect_err("no gcc").to_string();
        assert!(told.contains("apt-get install gcc"), "{told}");
    }

    #[test]
    fn an_old_go_is_refused_by_both_versions() {
        let recipe = named("containerd");
        let module = embedded::module(&recipe.module).expect("embedded");
        let tools = Tools::on("/nowhere");
        let told = tools.check(recipe, module, &go("go1.19.8")).expect_err("too old").to_string();
        assert!(told.contains("go1.19.8") && told.contains(module.go_release()), "{told}");
        tools.check(recipe, module, &go("go1.100.0")).expect("newer will do");
    }

    #[test]
    fn releases_compare_by_number() {
        assert!(numbers("go1.26.10") > numbers("1.26.6"));
        assert!(numbers("go1.27rc1") > numbers("1.26.6"));
        assert_eq!(numbers("go1.26"), [1, 26, 0]);
    }
}

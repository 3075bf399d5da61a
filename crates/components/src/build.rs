//! One `go build`: from embedded module to programs in a scratch directory, with progress as Go reports it.
//! Invariant: reads nothing of the checkout; the environment is the user's but for what decides the bytes.

use std::collections::{HashSet, VecDeque};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::cache::Cache;
use crate::embedded::Module;
use crate::error::EnsureError;
use crate::progress::Job;
use crate::recipe::{Group, Recipe};
use crate::tools::{Go, Tools};

/// The flags of every build. They are part of the key.
pub(crate) const FLAGS: &[&str] = &["-mod=readonly", "-trimpath", "-buildvcs=false"];
/// And the linker's.
const LINK: &str = "-s -w";
/// Lines of a failed build that the error shows.
const TAIL: usize = 20;
/// Share of the bar that compiling gets; the rest is linking the last program.
const COMPILING: f32 = 0.95;

/// What a build works with.
pub(crate) struct Build<'a> {
    pub(crate) recipe: &'a Recipe,
    pub(crate) module: &'a Module,
    pub(crate) tools: &'a Tools,
    pub(crate) go: &'a Go,
    pub(crate) job: &'a Job<'a>,
    log: File,
    log_path: PathBuf,
    tail: VecDeque<String>,
}

impl<'a> Build<'a> {
    pub(crate) fn new(
        recipe: &'a Recipe,
        module: &'a Module,
        (tools, go): (&'a Tools, &'a Go),
        job: &'a Job<'a>,
        cache: &Cache,
    ) -> Result<Self, EnsureError> {
        let log_path = cache.log(&format!("{}-{}", recipe.component.name, recipe.component.version));
        let log = File::create(&log_path).map_err(EnsureError::cache(&log_path))?;
        Ok(Self { recipe, module, tools, go, job, log, log_path, tail: VecDeque::new() })
    }

    /// Builds every program of the recipe into `<scratch>/out/bin`; returns `<scratch>/out`.
    pub(crate) fn run(&mut self, scratch: &Path) -> Result<PathBuf, EnsureError> {
        let (source, out) = (scratch.join("src"), scratch.join("out"));
        self.unpack(&source)
            .and_then(|()| fs::create_dir_all(out.join("bin")))
            .map_err(EnsureError::cache(scratch))?;
        let packages = self.list_packages(&source)?;
        let mut compiled = 0;
        for (program, package) in &self.recipe.programs {
            self.compile(&source, &out.join("bin").join(program), package, &packages, &mut compiled)?;
        }
        self.link_names(&out.join("bin")).map_err(EnsureError::cache(&out))?;
        Ok(out)
    }

    fn unpack(&self, source: &Path) -> io::Result<()> {
        fs::create_dir_all(source)?;
        self.module.files.iter().try_for_each(|(name, content)| fs::write(source.join(name), content))
    }

    fn link_names(&self, bin: &Path) -> io::Result<()> {
        for (program, names) in &self.recipe.links {
            names.iter().try_for_each(|name| symlink(program, bin.join(name)))?;
        }
        Ok(())
    }

    /// `go list -deps`: every package that takes part. Downloads the modules on the way.
    fn list_packages(&mut self, source: &Path) -> Result<HashSet<String>, EnsureError> {
        self.job.note("resolving packages");
        let mut command = self.go_command(source, "list");
        command.args(["-deps", "-f", "{{.ImportPath}}"]).args(self.recipe.programs.values());
        let mut child = self.spawn(&mut command)?;
        let stdout = child.stdout.take();
        let listing = std::thread::spawn(move || read_all(stdout));
        self.follow(&mut child, |build, line| {
            if let Some(module) = line.strip_prefix("go: ") {
                build.job.note(module);
            }
        })?;
        Ok(listing.join().unwrap_or_default().lines().map(str::to_owned).collect())
    }

    fn compile(
        &mut self,
        source: &Path,
        program: &Path,
        package: &str,
        packages: &HashSet<String>,
        compiled: &mut usize,
    ) -> Result<(), EnsureError> {
        let name = program.file_name().map_or(package.into(), |name| name.to_string_lossy());
        let mut command = self.go_command(source, "build");
        command.args(["-v", "-ldflags", &self.ldflags(), "-o"]).arg(program).arg(package);
        // Until Go names a package it compiles; it names none when its own cache has them all.
        self.job.note(&format!("building {name}"));
        let mut child = self.spawn(&mut command)?;
        let total = packages.len().max(1) as f32;
        self.follow(&mut child, |build, line| {
            if !packages.contains(line) {
                return;
            }
            *compiled += 1;
            let fraction = COMPILING * *compiled as f32 / total;
            match is_last(line, package) {
                true => build.job.at(fraction, &format!("linking {name}")),
                false => build.job.at(fraction, line),
            }
        })
    }

    fn ldflags(&self) -> String {
        format!("{LINK} {}", self.recipe.ldflags).trim().to_owned()
    }

    /// `go <verb>` in the module, with the flags and the environment that every step shares.
    fn go_command(&self, source: &Path, verb: &str) -> Command {
        let mut command = self.tools.long_command(&self.go.program, self.recipe.group == Group::ControlPlane);
        command.current_dir(source).arg(verb).args(FLAGS);
        if !self.recipe.tags.is_empty() {
            command.arg("-tags").arg(self.recipe.tags.join(","));
        }
        command.env("GOTOOLCHAIN", "local").env("GOFLAGS", "").env("GOWORK", "off");
        command.env("CGO_ENABLED", if self.recipe.cgo { "1" } else { "0" });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn spawn(&self, command: &mut Command) -> Result<Child, EnsureError> {
        command.spawn().map_err(|source| EnsureError::Spawn { program: self.go.program.clone(), source })
    }

    /// Logs what the child says on stderr, shows each line to `heed`, and waits for success.
    fn follow(&mut self, child: &mut Child, mut heed: impl FnMut(&Self, &str)) -> Result<(), EnsureError> {
        let stderr = child.stderr.take().map(BufReader::new);
        for line in stderr.into_iter().flat_map(|reader| reader.split(b'\n')).map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            self.record(&line);
            heed(self, &line);
        }
        match child.wait() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(self.failed(&status.to_string())),
            Err(source) => Err(EnsureError::Spawn { program: self.go.program.clone(), source }),
        }
    }

    fn record(&mut self, line: &str) {
        if let Err(error) = writeln!(self.log, "{line}") {
            tracing::warn!(log = %self.log_path.display(), %error, "could not write the build log");
        }
        self.tail.push_back(line.to_owned());
        if self.tail.len() > TAIL {
            self.tail.pop_front();
        }
    }

    fn failed(&self, status: &str) -> EnsureError {
        let mut tail: Vec<&str> = self.tail.iter().map(String::as_str).collect();
        if tail.is_empty() {
            tail.push(status);
        }
        let component = self.recipe.component.clone();
        EnsureError::Build { component, tail: tail.join("\n"), log: self.log_path.clone() }
    }
}

/// Go compiles a program's own package last; what follows is linking.
fn is_last(line: &str, package: &str) -> bool {
    line == package || (package == "." && line.starts_with("ekstra.dev/components/"))
}

fn read_all(stdout: Option<impl Read>) -> String {
    let mut text = Vec::new();
    if let Some(mut stdout) = stdout {
        let _ = stdout.read_to_end(&mut text);
    }
    String::from_utf8_lossy(&text).into_owned()
}

//! Debian packages by the host's own apt, with a private state: the host's package lists and database are
//! neither read nor touched, its mirrors, keys and proxies are used.
//! Invariant: every package handed out is one that apt has verified by signature.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::NodeImageError;
use super::lock::Package;
use crate::error::EnsureError;
use crate::tools::Tools;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const TAIL: usize = 20;

/// A private apt under a scratch directory.
pub(crate) struct Apt<'a> {
    tools: &'a Tools,
    home: PathBuf,
    log: PathBuf,
    architecture: String,
}

impl<'a> Apt<'a> {
    /// Sets it up and fetches the package lists.
    pub(crate) fn new(
        tools: &'a Tools,
        home: &Path,
        log: &Path,
        suite: &str,
        architecture: &str,
    ) -> Result<Self, NodeImageError> {
        let (home, log) = (home.to_owned(), log.to_owned());
        let apt = Self { tools, home, log, architecture: architecture.to_owned() };
        apt.set_up(suite).map_err(NodeImageError::files("setting up apt", &apt.home))?;
        if apt.uses_default_mirror() && !Path::new(KEYRING).exists() {
            let install = "apt-get install debian-archive-keyring".to_owned();
            let (tool, purpose) = ("Debian's archive key".to_owned(), "for the node image".to_owned());
            return Err(EnsureError::MissingTool { tool, purpose, install }.into());
        }
        apt.run("fetching package lists", &["-oAPT::Update::Error-Mode=any", "update"], &apt.home)?;
        Ok(apt)
    }

    /// What a system of Debian's essential set and these packages consists of: names with versions.
    pub(crate) fn resolve(&self, packages: &[String]) -> Result<Vec<String>, NodeImageError> {
        let mut arguments = vec!["-s", "install", "?essential"];
        arguments.extend(packages.iter().map(String::as_str));
        let output = self.run("resolving the node image's packages", &arguments, &self.home)?;
        Ok(String::from_utf8_lossy(&output.stdout).lines().filter_map(resolved).collect())
    }

    /// Downloads exactly these (`name=version`) into a directory.
    pub(crate) fn download(&self, exactly: &[String], into: &Path) -> Result<(), NodeImageError> {
        let mut arguments = vec!["download"];
        arguments.extend(exactly.iter().map(String::as_str));
        let output = self.output("downloading packages", &arguments, into)?;
        if output.status.success() {
            return Ok(());
        }
        let packages: Vec<String> =
            String::from_utf8_lossy(&output.stderr).lines().filter_map(gone).collect();
        match packages.is_empty() {
            true => Err(self.failed("downloading packages", &output)),
            false => Err(NodeImageError::VersionGone { packages }),
        }
    }

    fn set_up(&self, suite: &str) -> io::Result<()> {
        for dir in ["state/lists/partial", "cache/archives/partial", "sources"] {
            fs::create_dir_all(self.home.join(dir))?;
        }
        fs::write(self.home.join("status"), "")?;
        let (lines, stanzas) = host_sources(suite);
        if lines.is_empty() && stanzas.is_empty() {
            return fs::write(self.default_sources(), debian_sources(suite));
        }
        fs::write(self.home.join("sources/host.list"), lines)?;
        fs::write(self.home.join("sources/host.sources"), stanzas)
    }

    fn default_sources(&self) -> PathBuf {
        self.home.join("sources/debian.sources")
    }

    fn uses_default_mirror(&self) -> bool {
        self.default_sources().exists()
    }

    fn run(&self, step: &str, arguments: &[&str], dir: &Path) -> Result<Output, NodeImageError> {
        let output = self.output(step, arguments, dir)?;
        if output.status.success() { Ok(output) } else { Err(self.failed(step, &output)) }
    }

    fn output(&self, step: &str, arguments: &[&str], dir: &Path) -> Result<Output, NodeImageError> {
        let program =
            self.tools.need("apt-get", "for the node image", "a Debian or Ubuntu machine has it")?;
        let mut command = self.tools.command(&program);
        command.args(self.options()).args(arguments).current_dir(dir).env("LC_ALL", "C");
        let output = command.output().map_err(|source| EnsureError::Spawn { program, source })?;
        let mut text = format!("== {step}\n").into_bytes();
        text.extend_from_slice(&output.stdout);
        text.extend_from_slice(&output.stderr);
        append(&self.log, &text).map_err(NodeImageError::files("writing the log", &self.log))?;
        Ok(output)
    }

    fn failed(&self, step: &str, output: &Output) -> NodeImageError {
        let tail = last_lines(&String::from_utf8_lossy(&output.stderr));
        NodeImageError::Command { step: step.to_owned(), tail, log: self.log.clone() }
    }

    /// An empty database, our own lists, and no more than what was asked for, for that architecture alone.
    fn options(&self) -> Vec<String> {
        let home = self.home.display();
        vec![
            format!("-oDir::State={home}/state"),
            format!("-oDir::State::status={home}/status"),
            format!("-oDir::Cache={home}/cache"),
            "-oDir::Etc::sourcelist=/dev/null".to_owned(),
            format!("-oDir::Etc::sourceparts={home}/sources"),
            "-oDir::Etc::preferences=/dev/null".to_owned(),
            "-oDir::Etc::preferencesparts=/dev/null".to_owned(),
            format!("-oAPT::Architecture={}", self.architecture),
            format!("-oAPT::Architectures::={}", self.architecture),
            "-oAPT::Sandbox::User=root".to_owned(),
            "-oAPT::Install-Recommends=false".to_owned(),
            // apt counts itself as essential; a node has no use for it.
            "-opkgCacheGen::ForceEssential=,".to_owned(),
            "-qq".to_owned(),
        ]
    }
}

/// Runs a step that is not apt's, its output in the log; `heed` sees each line of it.
pub(crate) fn run_logged(
    step: &str,
    command: &mut Command,
    log: &Path,
    mut heed: impl FnMut(&str),
) -> Result<(), NodeImageError> {
    use std::io::{BufRead, BufReader};
    let program = PathBuf::from(command.get_program());
    let spawn = |source| NodeImageError::from(EnsureError::Spawn { program: program.clone(), source });
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().map_err(spawn)?;
    let mut text = format!("== {step}\n");
    let stderr = child.stderr.take().map(BufReader::new);
    for line in stderr.into_iter().flat_map(|reader| reader.split(b'\n')).map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        heed(&line);
        text.push_str(&line);
        text.push('\n');
    }
    let status = child.wait().map_err(spawn)?;
    append(log, text.as_bytes()).map_err(NodeImageError::files("writing the log", log))?;
    if status.success() {
        return Ok(());
    }
    Err(NodeImageError::Command { step: step.to_owned(), tail: last_lines(&text), log: log.to_owned() })
}

fn append(log: &Path, text: &[u8]) -> io::Result<()> {
    io::Write::write_all(&mut OpenOptions::new().create(true).append(true).open(log)?, text)
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}

/// `Inst libc6 (2.36-9 Debian:12/stable [amd64])` as `libc6=2.36-9`.
fn resolved(line: &str) -> Option<String> {
    let (name, rest) = line.strip_prefix("Inst ")?.split_once(" (")?;
    Some(format!("{name}={}", rest.split(' ').next()?))
}

/// What apt says about a version that its lists do not have.
fn gone(line: &str) -> Option<String> {
    if let Some(name) = line.strip_prefix("E: Unable to locate package ") {
        return Some(name.to_owned());
    }
    let mut quoted = line.strip_prefix("E: Version ")?.split('\'').skip(1).step_by(2);
    let (version, name) = (quoted.next()?, quoted.next()?);
    Some(format!("{name}={version}"))
}

/// Name, version and architecture out of apt's file name; the digest is the caller's.
pub(crate) fn package_of(file_name: &str, sha256: String) -> Option<Package> {
    let mut parts = file_name.strip_suffix(".deb")?.splitn(3, '_').map(str::to_owned);
    let (name, version, architecture) = (parts.next()?, parts.next()?.replace("%3a", ":"), parts.next()?);
    Some(Package { name, version, architecture, sha256 })
}

/// Debian's own mirror, for a host of another release.
fn debian_sources(suite: &str) -> String {
    let stanza = |path: &str, suites: &str| {
        format!(
            "Types: deb\nURIs: http://deb.debian.org/{path}\nSuites: {suites}\nComponents: main\n\
             Signed-By: {KEYRING}\n\n"
        )
    };
    let main = stanza("debian", &format!("{suite} {suite}-updates"));
    main + &stanza("debian-security", &format!("{suite}-security"))
}

/// The host's sources for that release: one-line entries, and stanzas. Both empty when it has none for the
/// release itself, as on a host of another release.
fn host_sources(suite: &str) -> (String, String) {
    let parts = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = parts.map(|entry| entry.path()).collect();
    files.push("/etc/apt/sources.list".into());
    files.sort();
    let (mut lines, mut stanzas) = (String::new(), String::new());
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else {
            continue;
        };
        match file.extension().and_then(|name| name.to_str()) {
            Some("sources") => stanzas.push_str(&stanzas_for(&text, suite)),
            Some("list") => lines.push_str(&lines_for(&text, suite)),
            _ => {}
        }
    }
    let has_release = |text: &str| text.split_whitespace().any(|word| word == suite);
    if has_release(&lines) || has_release(&stanzas) { (lines, stanzas) } else { Default::default() }
}

fn is_of(word: &str, suite: &str) -> bool {
    let pocket = word.strip_prefix(suite);
    pocket.is_some_and(|pocket| matches!(pocket, "" | "-updates" | "-security"))
}

fn lines_for(text: &str, suite: &str) -> String {
    let wanted = text.lines().filter(|line| {
        let mut words = line.split_whitespace();
        words.next() == Some("deb") && words.any(|word| is_of(word, suite)) && has_main(line)
    });
    wanted.map(|line| format!("{line}\n")).collect()
}

fn stanzas_for(text: &str, suite: &str) -> String {
    let wanted = text.split("\n\n").filter(|stanza| {
        let field = |name: &str| {
            stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or("").trim()
        };
        let all_of_suite = field("Suites").split_whitespace().all(|word| is_of(word, suite));
        let binary = field("Types").split_whitespace().any(|kind| kind == "deb");
        let named = !field("Suites").is_empty() && has_main(field("Components"));
        named && all_of_suite && binary && field("Enabled") != "no"
    });
    wanted.map(|stanza| format!("{}\n\n", stanza.trim_end())).collect()
}

fn has_main(line: &str) -> bool {
    line.split_whitespace().any(|word| word == "main")
}

/// The host's and the node's architecture, as dpkg calls it.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sources_of_the_release_are_taken() {
        let text = "deb http://deb.debian.org/debian bookworm main\n# deb http://x bookworm main\n\
                    deb http://deb.debian.org/debian trixie main\ndeb https://x.example bookworm stable\n";
        assert_eq!(lines_for(text, "bookworm"), "deb http://deb.debian.org/debian bookworm main\n");
        let text = "Types: deb\nURIs: http://a\nSuites: bookworm bookworm-updates\nComponents: main\n\n\
                    Types: deb\nURIs: http://b\nSuites: nodistro\nComponents: main\n\n\
                    Types: deb\nURIs: http://c\nSuites: bookworm-security\nComponents: main\nEnabled: no\n";
        let stanzas = stanzas_for(text, "bookworm");
        assert!(
            stanzas.contains("http://a") && !stanzas.contains("http://b") && !stanzas.contains("http://c")
        );
    }

    #[test]
    fn what_is_gone_is_named() {
        assert_eq!(gone("E: Version '9.9' for 'libc6' was not found").as_deref(), Some("libc6=9.9"));
        assert_eq!(gone("E: Unable to locate package nosuch").as_deref(), Some("nosuch"));
        assert_eq!(gone("W: something else"), None);
    }

    #[test]
    fn apts_lines_are_read() {
        let line = "Inst libc6 (2.36-9+deb12u14 Debian:12.15/oldstable [amd64]) []";
        assert_eq!(resolved(line).as_deref(), Some("libc6=2.36-9+deb12u14"));
        assert_eq!(resolved("Conf libc6 (2.36-9 x)"), None);
        let package = package_of("libcap2-bin_1%3a2.66-4_amd64.deb", String::new()).expect("reads");
        assert_eq!(package.file_name(), "libcap2-bin_1%3a2.66-4_amd64.deb");
        assert_eq!(package.version, "1:2.66-4");
    }
}

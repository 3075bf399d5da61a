//! The package lock: every package of the base, dependencies included, by exact version and digest.
//!
//! One line each: `name=version architecture sha256`. Lines that begin with `#` are comments.
//! Invariant: sorted by name, no name twice.

use std::fmt::Write;

use super::NodeImageError;
use crate::embedded;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    /// `amd64`, `all`.
    pub(crate) architecture: String,
    /// Lower-case hex.
    pub(crate) sha256: String,
}

impl Package {
    /// As apt names the file it downloads: epochs are escaped.
    pub(crate) fn file_name(&self) -> String {
        format!("{}_{}_{}.deb", self.name, self.version.replace(':', "%3a"), self.architecture)
    }

    /// As apt is asked for it.
    pub(crate) fn exactly(&self) -> String {
        format!("{}={}", self.name, self.version)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lock {
    pub(crate) packages: Vec<Package>,
}

impl Lock {
    pub(crate) fn new(mut packages: Vec<Package>) -> Self {
        packages.sort();
        Self { packages }
    }

    pub(crate) fn parse(text: &str) -> Result<Self, NodeImageError> {
        let lines = text.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let packages = lines.map(|(index, line)| {
            parse_line(line).map_err(|reason| NodeImageError::Lock { line: index + 1, reason })
        });
        Ok(Self { packages: packages.collect::<Result<_, _>>()? })
    }

    /// The one that was committed for that architecture.
    pub(crate) fn committed(architecture: &str) -> Result<Self, NodeImageError> {
        match embedded::PACKAGE_LOCKS.iter().find(|(name, _)| *name == architecture) {
            Some((_, text)) => Self::parse(text),
            None => Err(NodeImageError::Architecture { host: architecture.to_owned() }),
        }
    }

    /// The text of a lock file for that Debian release.
    pub(crate) fn render(&self, suite: &str) -> String {
        let mut text = format!("# The packages of the node image, Debian {suite}. Written by `relock`.\n");
        for package in &self.packages {
            let Package { architecture, sha256, .. } = package;
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{} {architecture} {sha256}", package.exactly());
        }
        text
    }
}

fn parse_line(line: &str) -> Result<Package, &'static str> {
    let [package, architecture, sha256] = line.split(' ').collect::<Vec<_>>()[..] else {
        return Err("not `name=version architecture sha256`");
    };
    let (name, version) = package.split_once('=').ok_or("a package without a version")?;
    if sha256.len() != 64 || !sha256.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return Err("not a SHA-256 in lower-case hex");
    }
    let [name, version, architecture, sha256] = [name, version, architecture, sha256].map(str::to_owned);
    Ok(Package { name, version, architecture, sha256 })
}

#[cfg(test)]
mod tests {
    use super::super::spec::Spec;
    use super::*;

    #[test]
    fn the_committed_locks_are_well_formed() {
        for (architecture, text) in embedded::PACKAGE_LOCKS {
            let lock = Lock::committed(architecture).expect("parses");
            let names: Vec<&str> = lock.packages.iter().map(|package| package.name.as_str()).collect();
            assert!(names.is_sorted_by(|a, b| a < b), "{architecture}: sorted, none twice");
            for wanted in &Spec::get().packages {
                assert!(names.contains(&wanted.as_str()), "{wanted} is not locked for {architecture}");
            }
            let of_another =
                lock.packages.iter().find(|p| !["all", architecture].contains(&p.architecture.as_str()));
            assert_eq!(of_another, None);
            assert_eq!(lock.render(&Spec::get().suite), *text);
        }
    }

    #[test]
    fn a_machine_without_a_lock_is_told_so() {
        let told = Lock::committed("riscv64").expect_err("none").to_string();
        assert!(told.contains("riscv64"), "{told}");
    }

    #[test]
    fn bad_lines_are_named() {
        let digest = "0".repeat(64);
        let good = format!("# comment\nlibc6=2.36-9 amd64 {digest}\n");
        assert_eq!(Lock::parse(&good).expect("parses").packages[0].architecture, "amd64");
        for bad in ["libc6 amd64 00", "libc6=1 amd64 00", "libc6=1 amd64", &format!("libc6 all {digest}")] {
            let error = Lock::parse(&format!("# comment\n{bad}")).expect_err(bad);
            assert!(matches!(error, NodeImageError::Lock { line: 2, .. }), "{error}");
        }
    }

    #[test]
    fn epochs_are_escaped_in_file_names() {
        let lock = Lock::parse(&format!("libcap2-bin=1:2.66-4 amd64 {}", "a".repeat(64))).expect("parses");
        assert_eq!(lock.packages[0].file_name(), "libcap2-bin_1%3a2.66-4_amd64.deb");
    }
}

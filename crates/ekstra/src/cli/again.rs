//! The same service, cluster and files in the commands that are printed for the user to type next.
//!
//! Invariant: what is printed does what it says in the shell that it is printed into: flags that chose a home, a region or
//! a kubeconfig come again where neither the environment nor the default stands for them.

use super::words::home_region;
use crate::home::Home;
use std::ffi::OsString;
use std::fmt::Display;
use std::path::Path;

/// What a shell has.
pub(super) struct Shell {
    variable: fn(&str) -> Option<OsString>,
}

impl Shell {
    pub(super) fn new() -> Self {
        Self { variable: |name| std::env::var_os(name).filter(|value| !value.is_empty()) }
    }

    /// How `ekstra` is called here.
    pub(super) fn ekstra(&self, home: &Home) -> String {
        let on_path = |dirs: OsString| std::env::split_paths(&dirs).any(|dir| dir.join("ekstra").is_file());
        let mut words = match (self.variable)("PATH").is_some_and(on_path) {
            true => "ekstra".to_owned(),
            false => quoted(home.program().display()),
        };
        let located = Home::locate((self.variable)("EKSTRA_HOME").map(Into::into));
        if !located.is_ok_and(|located| located.root == home.root) {
            words.push_str(&format!(" --home {}", quoted(home.root.display())));
        }
        words
    }

    /// ` --region R`, or nothing.
    pub(super) fn region(&self, home: &Home, region: &str) -> String {
        match (self.variable)("AWS_REGION") {
            Some(of_shell) => flag(&of_shell.to_string_lossy(), region),
            None => self.region_after_env(home, region),
        }
    }

    /// The same in a shell that has taken what `ekstra env` says.
    pub(super) fn region_after_env(&self, home: &Home, region: &str) -> String {
        flag(&home_region(home), region)
    }

    /// `KUBECONFIG=PATH `, or nothing.
    pub(super) fn kubeconfig(&self, written: &Path) -> String {
        let read = crate::kubeconfig::default_path();
        match read.is_ok_and(|read| read == written) {
            true => String::new(),
            false => format!("KUBECONFIG={} ", quoted(written.display())),
        }
    }
}

fn flag(of_shell: &str, region: &str) -> String {
    if of_shell == region { String::new() } else { format!(" --region {region}") }
}

/// One word of a shell.
pub(super) fn quoted(text: impl Display) -> String {
    let text = text.to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@,".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_come_again_where_the_shell_does_not_stand_for_them() {
        let home = Home { root: "/srv/my homes/other".into() };
        let bare = Shell { variable: |name| (name == "HOME").then(|| "/root".into()) };
        let program = "'/srv/my homes/other/bin/ekstra'";
        assert_eq!(bare.ekstra(&home), format!("{program} --home '/srv/my homes/other'"));
        assert_eq!(bare.region(&home, "us-east-1"), "");
        assert_eq!(bare.region(&home, "eu-west-1"), " --region eu-west-1");
        let set = Shell {
            variable: |name| match name {
                "EKSTRA_HOME" => Some("/srv/my homes/other".into()),
                "AWS_REGION" => Some("eu-west-1".into()),
                _ => None,
            },
        };
        assert_eq!(set.ekstra(&home), program);
        assert_eq!(set.region(&home, "eu-west-1"), "");
        assert_eq!(set.region_after_env(&home, "eu-west-1"), " --region eu-west-1");
        assert_eq!(set.region(&home, "us-east-1"), " --region us-east-1");
    }
}

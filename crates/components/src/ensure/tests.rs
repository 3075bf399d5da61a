//! Builds with a stand-in for Go: a script that compiles nothing and can be told to fail or to wait.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use super::*;
use crate::recipe::Recipes;
use crate::store::State;
use crate::tools::Tools;

/// Says two packages, then writes the program named after -o. Counts its builds in `calls`.
const FAKE_GO: &str = r#"#!/bin/sh
home=$(dirname "$0")
case "$1" in
env) printf 'go1.99.0\nlinux\namd64\n'; exit 0 ;;
list) printf 'unsafe\nfmt\nmain\n'; exit 0 ;;
esac
while [ "$1" != -o ]; do shift; done
echo build >> "$home/calls"
echo half > "$2"
echo unsafe >&2
while [ -e "$home/wait" ]; do sleep 0.01; done
if [ -e "$home/large" ]; then dd if=/dev/zero of="$2" bs=64k count=64 status=none || exit 1; fi
if [ -e "$home/fail" ]; then echo 'main.go:1: no such thing' >&2; exit 1; fi
echo fmt >&2
echo main >&2
echo whole > "$2"
chmod 755 "$2"
"#;

struct Bench {
    home: tempfile::TempDir,
}

impl Bench {
    /// The script is written by a child process: a descriptor open for writing here could be inherited by
    /// another test's child, and the script would then be "busy".
    fn new() -> Self {
        let home = tempfile::tempdir().expect("tmp");
        let script = "printf %s \"$1\" > \"$2\" && chmod 755 \"$2\"";
        let status =
            Command::new("sh").args(["-c", script, "sh", FAKE_GO]).arg(home.path().join("go")).status();
        assert!(status.expect("sh runs").success());
        Self { home }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn touch(&self, name: &str) {
        fs::write(self.file(name), "").expect("writable");
    }

    fn store(&self, overrides: Option<PathBuf>) -> Store {
        let path = format!("{}:/usr/bin:/bin", self.home.path().display());
        Store::with_tools(&self.file("cache"), overrides, Tools::on(path)).expect("opens")
    }

    fn builds(&self) -> usize {
        fs::read_to_string(self.file("calls")).map_or(0, |text| text.lines().count())
    }

    fn entries(&self, dir: &str) -> usize {
        fs::read_dir(self.file("cache").join(dir)).expect("there").count()
    }
}

#[derive(Default)]
struct Heard(Mutex<Vec<(f32, String)>>);

impl Heard {
    fn all(&self) -> Vec<(f32, String)> {
        self.0.lock().expect("no test thread panics").clone()
    }
}

impl Progress for Heard {
    fn started(&self, _: &str, _: &str, _: Duration) {}
    fn advanced(&self, _: &str, fraction: f32, detail: &str) {
        self.0.lock().expect("no test thread panics").push((fraction, detail.to_owned()));
    }
    fn finished(&self, _: &str, _: Duration) {}
}

fn named(name: &str) -> Component {
    let recipes = Recipes::get();
    recipes.named(name, recipes.default_kubernetes()).expect("offered").component.clone()
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn read(path: Option<&Path>) -> String {
    fs::read_to_string(path.expect("ensured")).expect("readable")
}

#[test]
fn builds_once_and_then_finds_it() {
    let bench = Bench::new();
    let store = bench.store(None);
    let paths = store.ensure(&[named("pause")], &crate::Silent).expect("builds");
    assert_eq!(read(paths.program("pause")), "whole\n");
    store.ensure(&[named("pause")], &crate::Silent).expect("there");
    assert_eq!(bench.builds(), 1);
    assert_eq!(bench.entries("tmp"), 0);
}

#[test]
fn a_failed_build_leaves_nothing_and_shows_its_log() {
    let bench = Bench::new();
    bench.touch("fail");
    let store = bench.store(None);
    let error = store.ensure(&[named("pause")], &crate::Silent).expect_err("told to fail");
    let EnsureError::Build { tail, log, .. } = error else { panic!("{error}") };
    assert!(tail.contains("main.go:1: no such thing"), "{tail}");
    assert!(fs::read_to_string(log).expect("kept").contains("unsafe"));
    assert_eq!((bench.entries("tmp"), bench.entries("components")), (0, 0));
    let listed = store.list().expect("lists");
    assert!(listed.iter().all(|one| one.state == State::Missing));
}

/// A disk of two megabytes where the cache is, while it lives.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` without the rights to mount.
    fn on(path: PathBuf) -> Option<Self> {
        fs::create_dir_all(&path).expect("made");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"]).arg(&path).status();
        mount.is_ok_and(|status| status.success()).then_some(Self(path))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_ends_a_build_and_leaves_nothing() {
    let bench = Bench::new();
    let Some(_disk) = SmallDisk::on(bench.file("cache")) else {
        eprintln!("skipped: mounting needs root");
        return;
    };
    bench.touch("large");
    let store = bench.store(None);
    let error = store.ensure(&[named("pause")], &crate::Silent).expect_err("there is no room");
    assert!(error.to_string().contains("No space left on device"), "{error}");
    assert_eq!((bench.entries("tmp"), bench.entries("components")), (0, 0));
    fs::remove_file(bench.file("large")).expect("removed");
    store.ensure(&[named("pause")], &crate::Silent).expect("there is room again");
}

#[test]
fn a_multi_call_program_has_all_its_names() {
    let bench = Bench::new();
    let paths = bench.store(None).ensure(&[named("kube-control")], &crate::Silent).expect("builds");
    for name in ["kube-control", "kube-apiserver", "kube-controller-manager", "kube-scheduler"] {
        assert_eq!(read(paths.program(name)), "whole\n");
    }
}

#[test]
fn the_second_process_waits_and_says_so() {
    let bench = Arc::new(Bench::new());
    bench.touch("wait");
    let first = thread::spawn({
        let bench = Arc::clone(&bench);
        move || bench.store(None).ensure(&[named("pause")], &crate::Silent).map(drop)
    });
    wait_until("the first build runs", || bench.builds() == 1);
    let heard = Arc::new(Heard::default());
    let second = thread::spawn({
        let (bench, heard) = (Arc::clone(&bench), Arc::clone(&heard));
        move || bench.store(None).ensure(&[named("pause")], &*heard).map(drop)
    });
    wait_until("the second waits", || heard.all().iter().any(|(_, detail)| detail.contains("waiting")));
    fs::remove_file(bench.file("wait")).expect("there");
    first.join().expect("no panic").expect("builds");
    second.join().expect("no panic").expect("finds it");
    assert_eq!(bench.builds(), 1);
}

#[test]
fn fractions_rise_to_one() {
    let bench = Bench::new();
    let heard = Heard::default();
    bench.store(None).ensure(&[named("etcd")], &heard).expect("builds");
    let fractions: Vec<f32> = heard.all().iter().map(|(fraction, _)| *fraction).collect();
    assert!(fractions.is_sorted(), "{fractions:?}");
    assert!(fractions.iter().any(|one| (0.1..0.9).contains(one)), "{fractions:?}");
    assert_eq!(fractions.last(), Some(&1.0));
}

#[test]
fn a_tool_that_only_the_last_build_needs_is_told_before_the_first() {
    let bench = Bench::new();
    let store = Store::with_tools(&bench.file("cache"), None, Tools::on(bench.home.path())).expect("opens");
    let what = [named("etcd"), named("runc")];
    let told = store.check(&what).expect_err("there is no gcc").to_string();
    assert!(told.contains("gcc") && told.contains("apt-get install"), "{told}");
    assert_eq!(bench.builds(), 0);
    store.check(&what[..1]).expect("etcd needs Go alone");
}

#[test]
fn given_programs_are_taken_instead() {
    let bench = Bench::new();
    let given = bench.file("given");
    fs::create_dir_all(given.join("1.36")).expect("writable");
    fs::write(given.join("pause"), "given").expect("writable");
    fs::write(given.join("1.36/kubelet"), "given 1.36").expect("writable");
    fs::write(given.join("etcd"), "given without etcdutl").expect("writable");
    let store = bench.store(Some(given));
    let what = ["pause", "kubelet", "etcd"].map(named);
    let paths = store.ensure(&what, &crate::Silent).expect("there");
    assert_eq!(read(paths.program("pause")), "given");
    assert_eq!(read(paths.program("kubelet")), "given 1.36");
    assert_eq!(read(paths.program("etcd")), "whole\n", "half a component is not taken");
    let states: Vec<State> = store.list().expect("lists").iter().map(|one| one.state).collect();
    assert_eq!(states.iter().filter(|state| **state == State::Prebuilt).count(), 2);
}

#[test]
fn without_go_what_was_built_is_still_found() {
    let bench = Bench::new();
    bench.store(None).ensure(&[named("pause")], &crate::Silent).expect("builds");
    fs::remove_file(bench.file("go")).expect("there");
    let path = bench.home.path().as_os_str().to_owned();
    let store = Store::with_tools(&bench.file("cache"), None, Tools::on(path)).expect("opens");
    let paths = store.ensure(&[named("pause")], &crate::Silent).expect("built before");
    assert_eq!(read(paths.program("pause")), "whole\n");
    let error = store.ensure(&[named("etcd")], &crate::Silent).expect_err("no Go");
    assert!(matches!(error, EnsureError::MissingTool { .. }), "{error}");
}

#[test]
fn another_cache_s_builds_are_borrowed_and_nothing_is_written_there() {
    let bench = Bench::new();
    bench.store(None).ensure(&[named("pause")], &crate::Silent).expect("builds");
    let own = || {
        let path = format!("{}:/usr/bin:/bin", bench.home.path().display());
        let store = Store::with_tools(&bench.file("own"), None, Tools::on(path)).expect("opens");
        store.borrowing(bench.file("cache"))
    };
    let paths = own().ensure(&[named("pause")], &crate::Silent).expect("is there");
    assert!(paths.program("pause").is_some_and(|path| path.starts_with(bench.file("cache"))));
    assert_eq!(bench.builds(), 1);
    own().ensure(&[named("etcd")], &crate::Silent).expect("builds what is not");
    assert!(bench.builds() > 1);
    assert_eq!(bench.entries("components"), 1, "in a cache of its own");
}

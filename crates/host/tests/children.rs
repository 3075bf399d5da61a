//! Children on the real machine: this program is also the launcher that starts them, so it has a `main` of its own.
//!
//! Invariant: each test has its own home; what it starts is gone when it ends.

use ekstra_host::{
    ChildId, ChildSpec, ChildStatus, DiskSpec, Host, Limits, LinuxHost, Names, Sandbox, faults,
};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

type Test = fn(&Home);

/// After how many steps the launcher and what becomes the child are killed.
const STEPS: &str = "EKSTRA_TEST_STEPS";

const TESTS: [(&str, Test); 6] = [
    (
        "it_finds_what_is_laid_over_etc_and_nobody_else_does",
        it_finds_what_is_laid_over_etc_and_nobody_else_does,
    ),
    ("asked_for_many_times_at_once_it_runs_once", asked_for_many_times_at_once_it_runs_once),
    (
        "a_launcher_that_outlives_its_service_is_waited_for",
        a_launcher_that_outlives_its_service_is_waited_for,
    ),
    ("a_removal_takes_away_what_a_launcher_still_starts", a_removal_takes_away_what_a_launcher_still_starts),
    ("killed_after_any_step_a_child_is_started_once", killed_after_any_step_a_child_is_started_once),
    ("killed_after_any_step_an_instance_is_started_once", killed_after_any_step_an_instance_is_started_once),
];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        // No thread has been started.
        Some("launch") => {
            if let Ok(steps) = std::env::var(STEPS) {
                faults::arm(steps.parse().expect("a number"));
            }
            std::process::exit(ekstra_host::launch_main())
        }
        Some("ensure") => {
            let home = Home { root: PathBuf::from(&args[1]) };
            home.host(&home.slow_launcher()).ensure_child(&home.spec()).expect("started");
        }
        Some("--list") => {}
        _ if !is_root() => println!("skipped: control groups need root"),
        filter => run(filter.filter(|f| !f.starts_with('-')).unwrap_or_default()),
    }
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0)
}

fn run(filter: &str) {
    for (number, (name, test)) in TESTS.iter().enumerate().filter(|(_, (name, _))| name.contains(filter)) {
        let root = std::env::temp_dir().join(format!("ekstra-children-{number}-{}", std::process::id()));
        fs::create_dir_all(&root).expect("made");
        let home = Home { root };
        test(&home);
        home.host(&own_program()).remove_child(&home.spec().id, Duration::ZERO).expect("removed");
        home.assert_nothing_is_left();
        fs::remove_dir_all(&home.root).expect("removed");
        println!("test {name} ... ok");
    }
}

fn own_program() -> PathBuf {
    std::env::current_exe().expect("runs")
}

struct Home {
    root: PathBuf,
}

impl Home {
    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn id(&self) -> String {
        let name = self.root.file_name().expect("has one").to_string_lossy().into_owned();
        name.trim_start_matches("ekstra-").to_owned()
    }

    fn host(&self, launcher: &Path) -> LinuxHost {
        LinuxHost::new(Names { home_id: self.id() }, self.path("run"), launcher.to_owned()).expect("a host")
    }

    /// Says that it is there and stays.
    fn spec(&self) -> ChildSpec {
        ChildSpec {
            id: ChildId("sleeper".into()),
            program: "/bin/sh".into(),
            args: vec!["-c".into(), "echo started; exec sleep 600".into()],
            env: vec![("PATH".into(), "/usr/bin:/bin".into()), ("SECRET".into(), "word".into())],
            namespace: None,
            log: self.path("sleeper.log"),
            limits: Limits::default(),
            etc: None,
            sandbox: None,
        }
    }

    /// Waits for a word before it does anything.
    fn slow_launcher(&self) -> PathBuf {
        let first =
            format!("touch {0}/waiting; until [ -e {0}/go ]; do sleep 0.01; done", self.root.display());
        self.launcher("slow", &first)
    }

    fn mortal_launcher(&self, steps: u32) -> PathBuf {
        self.launcher("mortal", &format!("export {STEPS}={steps}"))
    }

    /// Does something else first.
    fn launcher(&self, name: &str, first: &str) -> PathBuf {
        let path = self.path(name);
        let script = format!("#!/bin/sh\n{first}\nexec {} launch\n", own_program().display());
        fs::write(&path, script).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("allowed");
        path
    }

    /// Processes in the child's group; version 1 has a group in each hierarchy.
    fn members(&self) -> BTreeSet<i32> {
        let group = format!("/ekstra-{}/{}", self.id(), self.spec().id);
        let in_group = |pid: &i32| {
            let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            groups.lines().any(|line| line.ends_with(&group))
        };
        processes().filter(in_group).collect()
    }

    /// A service that is killed while its launcher has done nothing yet.
    fn lose_a_service(&self) {
        let mut service = Command::new(own_program())
            .arg("ensure")
            .arg(&self.root)
            .stdin(Stdio::null())
            .spawn()
            .expect("runs");
        wait_until("the launcher waits", || self.path("waiting").exists());
        service.kill().expect("killed");
        service.wait().expect("ended");
    }

    fn starts(&self) -> usize {
        fs::read_to_string(self.path("sleeper.log")).unwrap_or_default().lines().count()
    }

    fn assert_nothing_is_left(&self) {
        let left: Vec<_> = fs::read_dir(self.path("run")).expect("listed").flatten().collect();
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(self.host(&own_program()).children().expect("listed"), []);
        let name = format!("ekstra-{}", self.id());
        let groups = fs::read_dir("/sys/fs/cgroup").expect("listed").flatten().map(|h| h.path().join(&name));
        for group in groups.chain([Path::new("/sys/fs/cgroup").join(&name)]) {
            let _ = fs::remove_dir(&group);
            assert!(!group.exists(), "{}", group.display());
        }
    }
}

fn it_finds_what_is_laid_over_etc_and_nobody_else_does(home: &Home) {
    let layer = home.path("etc");
    fs::create_dir_all(&layer).expect("made");
    let name = format!("ekstra-test-{}", home.id());
    fs::write(layer.join(&name), "laid over\n").expect("written");
    fs::write(layer.join("hostname"), "another\n").expect("written");
    let script = format!("cat /etc/{name} /etc/hostname; test -e /etc/passwd && echo passwd; exec sleep 600");
    let spec = ChildSpec { args: vec!["-c".into(), script], etc: Some(layer), ..home.spec() };
    home.host(&own_program()).ensure_child(&spec).expect("started");
    let said = || fs::read_to_string(home.path("sleeper.log")).unwrap_or_default();
    wait_until("it has looked", || said().lines().count() >= 3);
    assert_eq!(said(), "laid over\nanother\npasswd\n");
    assert!(!Path::new("/etc").join(name).exists());
}

fn processes() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").expect("listed").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Launchers, and children that are no other program yet.
fn launchers() -> usize {
    let own = format!("{}\0launch\0", own_program().display());
    let is_one =
        |pid: &i32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == own.as_bytes());
    processes().filter(is_one).count()
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "not in 20 s: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn asked_for_many_times_at_once_it_runs_once(home: &Home) {
    let ensure = || home.host(&own_program()).ensure_child(&home.spec()).expect("started");
    let running = std::thread::scope(|scope| {
        let asked: Vec<_> = (0..4).map(|_| scope.spawn(ensure)).collect();
        asked.into_iter().map(|a| a.join().expect("no panic")).collect::<Vec<_>>()
    });
    assert!(running.iter().all(|r| *r == running[0]), "{running:?}");
    wait_until("it says that it runs", || home.starts() > 0);
    assert_eq!(home.starts(), 1);
    let kept = fs::read(home.path("run/sleeper.lock")).expect("is there");
    assert!(kept.is_empty(), "the request is not kept: {}", String::from_utf8_lossy(&kept));
}

fn a_launcher_that_outlives_its_service_is_waited_for(home: &Home) {
    home.lose_a_service();
    let host = home.host(&own_program());
    assert_eq!(host.child_status(&home.spec().id).expect("read"), ChildStatus::Absent);
    let running = std::thread::scope(|scope| {
        let next = scope.spawn(|| host.ensure_child(&home.spec()).expect("started"));
        fs::write(home.path("go"), "").expect("written");
        next.join().expect("no panic")
    });
    assert_eq!(host.child_status(&home.spec().id).expect("read"), ChildStatus::Running(running));
    wait_until("it says that it runs", || home.starts() > 0);
    assert_eq!(home.starts(), 1, "the first launcher's child is the only one");
}

fn a_removal_takes_away_what_a_launcher_still_starts(home: &Home) {
    home.lose_a_service();
    let host = home.host(&own_program());
    std::thread::scope(|scope| {
        let removal = scope.spawn(|| host.remove_child(&home.spec().id, Duration::from_secs(1)));
        fs::write(home.path("go"), "").expect("written");
        removal.join().expect("no panic").expect("removed");
    });
    assert_eq!(host.child_status(&home.spec().id).expect("read"), ChildStatus::Absent);
}

fn killed_after_any_step_a_child_is_started_once(home: &Home) {
    survive_every_step(home, &home.spec());
}

fn killed_after_any_step_an_instance_is_started_once(home: &Home) {
    let disk = home.path("disk");
    let made = home.host(&own_program()).ensure_disk(&DiskSpec { path: disk.clone(), bytes: 64 << 20 });
    made.expect("a disk");
    let sandbox = Sandbox {
        hostname: "sleeper".into(),
        layers: vec!["/".into()],
        disk: disk.clone(),
        mountpoint: home.path("root"),
        memory_bytes: 1 << 30,
        cpus: 1,
    };
    let limits = Limits { restrict_devices: true, ..Limits::default() };
    survive_every_step(home, &ChildSpec { sandbox: Some(sandbox), limits, ..home.spec() });
}

/// Launchers live for one step more each time, until one comes to its end.
fn survive_every_step(home: &Home, spec: &ChildSpec) {
    let host = home.host(&own_program());
    for steps in 1.. {
        let what = format!("killed after {steps} steps");
        let mortal = home.host(&home.mortal_launcher(steps)).ensure_child(spec);
        // One that dies before it is the program says no word; it may take a moment.
        let is_dead = || host.child_status(&spec.id).expect("read") == ChildStatus::Exited;
        let lived = mortal.is_ok_and(|child| {
            wait_until("it lives or dies", || is_program(child.pid) || is_dead());
            is_program(child.pid)
        });
        // What was about to die may have been taken for one that lives.
        let mut running = host.ensure_child(spec).expect(&what);
        wait_until("it is the program that was asked for", || {
            running = host.ensure_child(spec).expect(&what);
            is_program(running.pid)
        });
        assert_eq!(
            host.child_status(&spec.id).expect("read"),
            ChildStatus::Running(running.clone()),
            "{what}"
        );
        assert_eq!(home.members(), BTreeSet::from([running.pid]), "{what}");
        wait_until("no launcher is left", || launchers() == 0);
        host.remove_child(&spec.id, Duration::ZERO).expect(&what);
        assert_eq!(home.members(), BTreeSet::new(), "{what}");
        if let Some(sandbox) = &spec.sandbox {
            wait_until("its disk is free", || !is_in_use(&sandbox.disk));
        }
        assert!(steps < 200, "launchers take so many steps?");
        if lived {
            println!("survived {} kills", steps - 1);
            assert!(steps > 10, "the steps are counted");
            return;
        }
    }
}

fn is_program(pid: i32) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    [&b"sleep\0"[..], b"/bin/sh\0"].iter().any(|program| line.starts_with(program))
}

/// Whether a loop device has it.
fn is_in_use(disk: &Path) -> bool {
    let listed = Command::new("losetup").arg("--associated").arg(disk).output().expect("runs");
    !listed.stdout.is_empty()
}

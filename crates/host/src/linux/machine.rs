//! Facts and settings of the machine as a whole.
//!
//! Invariant: what a setting was is on disk before it is changed. The file is shared by all homes of the machine; the
//! last one that stops puts back what nobody else has changed since.

use super::firewall;
use crate::HostError;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

/// A kubelet takes about 50 inotify instances and the kernel's default is 128 for all of root's processes. Routers
/// reach the outside through the host.
const WANTED: [(&str, u64); 3] = [
    ("/proc/sys/fs/inotify/max_user_instances", 8192),
    ("/proc/sys/fs/inotify/max_user_watches", 524_288),
    (FORWARDING, 1),
];
const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";

/// Changes with every boot.
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|s| s.trim().to_owned()).unwrap_or_default()
}

/// A setting that was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingChange {
    pub setting: PathBuf,
    pub before: String,
    pub now: String,
}

/// Raises what nodes need, on behalf of `home`. `directory` is the one that all homes of the machine share.
pub fn raise_settings(directory: &Path, home: &Path) -> Result<Vec<SettingChange>, HostError> {
    let wanted: Vec<_> = WANTED.iter().map(|(path, least)| (PathBuf::from(path), *least)).collect();
    Ledger::open(directory)?.raise(home, &wanted)
}

/// Puts back what was raised, if `home` is the last that needed it.
pub fn restore_settings(directory: &Path, home: &Path) -> Result<Vec<SettingChange>, HostError> {
    // Whoever translates addresses here has found forwarding on, and relies on it.
    let needed = |setting: &Path| setting == Path::new(FORWARDING) && firewall::others_route();
    Ledger::open(directory)?.restore(home, needed)
}

/// The content of the file.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    /// Settings do not outlive their boot.
    boot_id: String,
    /// Who has raised settings and not stopped.
    homes: BTreeSet<PathBuf>,
    raised: BTreeMap<PathBuf, Raised>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Raised {
    before: String,
    now: String,
}

/// The file, locked.
#[derive(Debug)]
struct Ledger {
    path: PathBuf,
    record: Record,
    _lock: File,
}

impl Ledger {
    fn open(directory: &Path) -> Result<Self, HostError> {
        fs::create_dir_all(directory).map_err(HostError::io("create", directory))?;
        let lock = directory.join("settings.lock");
        let file =
            File::options().create(true).append(true).open(&lock).map_err(HostError::io("open", &lock))?;
        file.lock().map_err(HostError::io("lock", &lock))?;
        let path = directory.join("settings.json");
        let stored = fs::read(&path).ok().and_then(|text| serde_json::from_slice::<Record>(&text).ok());
        let mut record = stored.filter(|record| record.boot_id == boot_id()).unwrap_or_default();
        record.boot_id = boot_id();
        record.homes.retain(|home| home.exists());
        Ok(Self { path, record, _lock: file })
    }

    fn save(&self) -> Result<(), HostError> {
        let partial = self.path.with_extension("partial");
        let text = serde_json::to_vec_pretty(&self.record).map_err(std::io::Error::other);
        let write = |text: Vec<u8>| {
            let mut file = File::create(&partial)?;
            file.write_all(&text)?;
            file.sync_data()?;
            fs::rename(&partial, &self.path)
        };
        text.and_then(write).map_err(HostError::io("write", &self.path))
    }

    fn raise(mut self, home: &Path, wanted: &[(PathBuf, u64)]) -> Result<Vec<SettingChange>, HostError> {
        self.record.homes.insert(home.to_owned());
        let mut changes = Vec::new();
        for (setting, least) in wanted {
            let before = read(setting)?;
            if before.parse::<u64>().is_ok_and(|value| value >= *least) {
                continue;
            }
            let now = least.to_string();
            let raised = self.record.raised.entry(setting.clone());
            raised.or_insert_with(|| Raised { before: before.clone(), now: now.clone() });
            changes.push(SettingChange { setting: setting.clone(), before, now });
        }
        self.save()?;
        changes.iter().try_for_each(|change| write(&change.setting, &change.now))?;
        Ok(changes)
    }

    fn restore(
        mut self,
        home: &Path,
        needed_by_others: impl Fn(&Path) -> bool,
    ) -> Result<Vec<SettingChange>, HostError> {
        self.record.homes.remove(home);
        if !self.record.homes.is_empty() {
            return self.save().map(|()| Vec::new());
        }
        let mut changes = Vec::new();
        for (setting, Raised { before, now }) in std::mem::take(&mut self.record.raised) {
            // Another value is somebody else's by now.
            if read(&setting)? == now && !needed_by_others(&setting) {
                write(&setting, &before)?;
                changes.push(SettingChange { setting, before: now, now: before });
            }
        }
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(HostError::io("remove", &self.path)(error))
            }
            _ => Ok(changes),
        }
    }
}

fn read(setting: &Path) -> Result<String, HostError> {
    fs::read_to_string(setting).map(|value| value.trim().to_owned()).map_err(HostError::io("read", setting))
}

fn write(setting: &Path, value: &str) -> Result<(), HostError> {
    fs::write(setting, value).map_err(HostError::io("write", setting))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with two homes and two settings: one too low, one high enough.
    struct World {
        root: PathBuf,
    }

    impl World {
        fn new(name: &str) -> Self {
            let root = std::env::temp_dir().join(format!("ekstra-settings-{name}-{}", std::process::id()));
            for directory in ["shared", "a", "b"] {
                fs::create_dir_all(root.join(directory)).expect("made");
            }
            let world = Self { root };
            world.set("low", "128\n");
            world.set("high", "9000\n");
            world
        }

        fn path(&self, name: &str) -> PathBuf {
            self.root.join(name)
        }

        fn set(&self, setting: &str, value: &str) {
            fs::write(self.path(setting), value).expect("written");
        }

        fn value(&self, setting: &str) -> String {
            read(&self.path(setting)).expect("read")
        }

        fn ledger(&self) -> Ledger {
            Ledger::open(&self.path("shared")).expect("opened")
        }

        fn raise(&self, home: &str) -> usize {
            let wanted = ["low", "high"].map(|name| (self.path(name), 8192));
            self.ledger().raise(&self.path(home), &wanted).expect("raised").len()
        }

        fn restore(&self, home: &str) -> usize {
            self.ledger().restore(&self.path(home), |_| false).expect("restored").len()
        }
    }

    impl Drop for World {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.root);
        }
    }

    #[test]
    fn the_last_home_puts_back_what_the_first_found() {
        let world = World::new("last");
        assert_eq!((world.raise("a"), world.raise("a"), world.raise("b")), (1, 0, 0));
        assert_eq!((world.value("low"), world.value("high")), ("8192".into(), "9000".into()));
        assert_eq!((world.restore("a"), world.value("low")), (0, "8192".into()));
        assert_eq!((world.restore("b"), world.value("low")), (1, "128".into()));
        assert_eq!((world.restore("b"), world.value("high")), (0, "9000".into()));
        assert!(!world.path("shared/settings.json").exists());
    }

    #[test]
    fn a_home_that_was_deleted_keeps_nothing_raised() {
        let world = World::new("deleted");
        world.raise("a");
        world.raise("b");
        fs::remove_dir_all(world.path("b")).expect("deleted");
        assert_eq!((world.restore("a"), world.value("low")), (1, "128".into()));
    }

    #[test]
    fn what_others_have_changed_or_need_is_left() {
        let world = World::new("others");
        world.raise("a");
        world.set("low", "20000");
        assert_eq!((world.restore("a"), world.value("low")), (0, "20000".into()));
        world.set("low", "128");
        world.raise("a");
        let changes = world.ledger().restore(&world.path("a"), |_| true).expect("left");
        assert_eq!((changes, world.value("low")), (Vec::new(), "8192".into()));
    }

    #[test]
    fn killed_between_record_and_setting_the_first_value_is_kept() {
        let world = World::new("killed");
        world.raise("a");
        // As if nothing had been written, and then half.
        world.set("low", "128");
        assert_eq!(world.raise("a"), 1);
        assert_eq!((world.restore("a"), world.value("low")), (1, "128".into()));
    }

    #[test]
    fn the_record_of_another_boot_is_worth_nothing() {
        let world = World::new("boot");
        world.raise("a");
        let text = fs::read_to_string(world.path("shared/settings.json")).expect("read");
        fs::write(world.path("shared/settings.json"), text.replace(&boot_id(), "another")).expect("written");
        assert_eq!((world.restore("a"), world.value("low")), (0, "8192".into()));
    }
}

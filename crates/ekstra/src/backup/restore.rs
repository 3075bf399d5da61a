//! A file into a home.

use super::archive::{FORMAT, MANIFEST, Manifest, STATE};
use crate::home::{Home, sync_directory};
use crate::takedown;
use anyhow::{Context, Result, bail};
use ekstra_cloud::Settings;
use flate2::read::GzDecoder;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};

/// While it is there, a restore was begun and has not come to its end.
const UNPACKED: &str = "restoring";
const SETTINGS: &str = "service.json";
/// The home's owner needs them; the others are root's.
const OWNERS: [&str; 4] = [SETTINGS, "ca.crt", "components", "proxies.json"];
/// So are these, one an account.
const CREDENTIALS: &str = "credentials";

/// Whether a restore was interrupted.
pub(crate) fn is_begun(home: &Home) -> bool {
    home.path(UNPACKED).exists()
}

/// Makes the home what an archive has. What is replaced is moved aside; where it is now is answered, if there was any.
/// No service runs.
pub(crate) fn restore(home: &Home, archive: &Path, force: bool, now_ms: i64) -> Result<Option<PathBuf>> {
    home.create()?;
    home.create_parts()?;
    let _lock = home.lock_to_stop()?;
    if !force && !is_begun(home) && is_sound(home) {
        bail!("{} has a state already; --force moves it aside", home.root.display());
    }
    let unpacked = home.path(UNPACKED);
    unpack(archive, &unpacked)?;
    if let Err(error) = check(&unpacked).and_then(|()| check_kind(home, &unpacked)) {
        fs::remove_dir_all(&unpacked)?;
        return Err(error.context(archive.display().to_string()));
    }
    end_everything(home)?;
    replace(home, &unpacked, now_ms)
}

/// Whether a backup is of a service without root, which its user puts in place alone; also when that was interrupted.
pub(crate) fn is_rootless(home: &Home, archive: &Path) -> Result<bool> {
    let of = |bytes: &[u8]| serde_json::from_slice::<Settings>(bytes).is_ok_and(|settings| settings.rootless);
    if let Ok(bytes) = fs::read(home.path(UNPACKED).join(SETTINGS)) {
        return Ok(of(&bytes));
    }
    let file = File::open(archive).with_context(|| archive.display().to_string())?;
    let mut tar = tar::Archive::new(GzDecoder::new(file));
    // What is no archive is told by who unpacks it.
    for entry in tar.entries().into_iter().flatten().map_while(Result::ok) {
        let mut entry = entry;
        if entry.path().is_ok_and(|path| path == Path::new(SETTINGS)) {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            return Ok(of(&bytes));
        }
    }
    Ok(false)
}

/// Puts the newest copy of the state in the place of a damaged one. No service runs.
pub(crate) fn restore_state(home: &Home, force: bool, now_ms: i64) -> Result<(i64, Option<PathBuf>)> {
    let _lock = home.lock_to_stop()?;
    if !force && !is_begun(home) && is_sound(home) {
        bail!("the state in {} is well; --force replaces it with its last copy", home.root.display());
    }
    let (at, copy) = super::newest(home).context("there is no copy of the state; name a backup")?;
    let unpacked = home.path(UNPACKED);
    let _ = fs::remove_dir_all(&unpacked);
    fs::DirBuilder::new().mode(0o700).create(&unpacked)?;
    fs::copy(&copy, unpacked.join(STATE)).with_context(|| copy.display().to_string())?;
    ekstra_store::check(&unpacked.join(STATE))?;
    // What was made since would be nobody's: the next start begins with an empty machine.
    end_everything(home)?;
    Ok((at, replace(home, &unpacked, now_ms)?))
}

fn is_sound(home: &Home) -> bool {
    let state = home.state_file();
    state.exists() && ekstra_store::check(&state).is_ok()
}

fn unpack(archive: &Path, to: &Path) -> Result<()> {
    let open = || archive.display().to_string();
    let file = File::open(archive).with_context(open)?;
    let _ = fs::remove_dir_all(to);
    fs::DirBuilder::new().mode(0o700).create(to).with_context(|| to.display().to_string())?;
    let mut tar = tar::Archive::new(GzDecoder::new(file));
    // Owners are decided by what a file is; names that lead out of `to` are skipped.
    let unpacked = tar.unpack(to);
    unpacked.inspect_err(|_| drop(fs::remove_dir_all(to))).with_context(open)
}

fn check(unpacked: &Path) -> Result<()> {
    let manifest = fs::read(unpacked.join(MANIFEST)).context("it is not a backup of ekstra")?;
    let manifest: Manifest = serde_json::from_slice(&manifest).context("it is not a backup of ekstra")?;
    if manifest.format > FORMAT {
        bail!("it was made by ekstra {}, which is newer than this one", manifest.version);
    }
    Ok(ekstra_store::check(&unpacked.join(STATE))?)
}

/// Control planes that were made by root are not to be had without, and the other way round.
fn check_kind(home: &Home, unpacked: &Path) -> Result<()> {
    let settings: Settings = serde_json::from_slice(&fs::read(unpacked.join(SETTINGS))?)?;
    match (settings.rootless, home.is_rootless()) {
        (true, false) if home.settings().is_some() => {
            bail!("it is of a service without root, and this home's has it")
        }
        (false, true) => bail!("it is of a service that ran as root, and this home's runs without"),
        _ => Ok(()),
    }
}

fn end_everything(home: &Home) -> Result<()> {
    let Some(settings) = home.settings() else { return Ok(()) };
    takedown::take_down(home, &*home.host(&settings)?, &settings)
}

/// The state goes in last, and the marker after it.
fn replace(home: &Home, unpacked: &Path, now_ms: i64) -> Result<Option<PathBuf>> {
    let aside = home.path(&format!("replaced-{now_ms}"));
    let mut moved = false;
    let mut set_aside = |name: &str| -> Result<()> {
        let path = home.path(name);
        // An empty directory is nothing to keep.
        if !path.exists() || fs::remove_dir(&path).is_ok() {
            return Ok(());
        }
        fs::create_dir_all(&aside)?;
        moved = true;
        fs::rename(&path, aside.join(name)).with_context(|| path.display().to_string())
    };
    let mut names: Vec<String> = fs::read_dir(unpacked)?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name != MANIFEST && name != STATE)
        .collect();
    names.sort();
    let owner = home.owner()?;
    for name in names {
        set_aside(&name)?;
        let path = home.path(&name);
        fs::rename(unpacked.join(&name), &path).with_context(|| path.display().to_string())?;
        let is_owners = OWNERS.contains(&name.as_str()) || name.starts_with(CREDENTIALS);
        let uid = if is_owners { (owner.uid, owner.gid) } else { (0, 0) };
        if nix::unistd::geteuid().is_root() {
            chown(&path, Some(uid.0), Some(uid.1))?;
        }
    }
    for name in ["state.db-wal", "state.db-shm", STATE] {
        set_aside(name)?;
    }
    fs::rename(unpacked.join(STATE), home.state_file())?;
    sync_directory(&home.state_file())?;
    fs::remove_dir_all(unpacked)?;
    Ok(moved.then_some(aside))
}

#[cfg(test)]
mod tests {
    use super::super::create;
    use super::*;
    use ekstra_store::{CommitError, Store};

    async fn home(directory: &Path, value: i32) -> Home {
        let home = Home { root: directory.to_owned() };
        home.create().expect("makes");
        fs::write(
            home.path("service.json"),
            serde_json::json!({
                "home_id": "beef", "address": "169.254.80.1", "port": 4566, "registry_port": 4567,
                "first_cluster_port": 16443, "transit": "198.18.0.0/24", "mtu": 1500, "region": "us-east-1",
            })
            .to_string(),
        )
        .expect("writes");
        fs::write(home.path("master.key"), [7; 32]).expect("writes");
        fs::create_dir_all(home.path("slots/cp-1/pki")).expect("makes");
        fs::write(home.path("slots/cp-1/pki/ca.key"), "key").expect("writes");
        fs::create_dir_all(home.path("slots/cp-1/etcd/member")).expect("makes");
        fs::create_dir_all(home.path("slots/cp-1/snapshots")).expect("makes");
        for at in [1_000, 2_000] {
            fs::write(home.path(&format!("slots/cp-1/snapshots/{at}.db")), at.to_string()).expect("writes");
        }
        fs::write(home.path("logs/serve.log"), "not in it").expect("writes");
        let store = Store::open(&home.state_file()).expect("opens");
        store.transact::<_, CommitError>(|txn| Ok(txn.put("value", &value)?)).await.expect("commits");
        home
    }

    fn value(home: &Home) -> Option<i32> {
        Store::open(&home.state_file()).expect("opens").view().get_as("value")
    }

    #[tokio::test]
    async fn a_home_is_what_its_backup_was() {
        let directory = tempfile::tempdir().expect("tempdir");
        let first = home(&directory.path().join("a"), 1).await;
        let archive = {
            let store = Store::open(&first.state_file()).expect("opens");
            create(&first, &store, 5).expect("archived")
        };
        let second = Home { root: directory.path().join("b") };
        assert_eq!(restore(&second, &archive, false, 6).expect("restored"), None);
        assert_eq!(value(&second), Some(1));
        assert_eq!(fs::read(second.path("master.key")).expect("is there"), [7; 32]);
        assert_eq!(fs::read_to_string(second.path("slots/cp-1/pki/ca.key")).expect("is there"), "key");
        assert!(second.path("slots/cp-1/snapshots/2000.db").exists(), "the newest");
        assert!(!second.path("slots/cp-1/snapshots/1000.db").exists());
        assert!(!second.path("slots/cp-1/etcd").exists() && !second.path("logs/serve.log").exists());
        let refused = restore(&second, &archive, false, 7).expect_err("has a state");
        assert!(refused.to_string().contains("--force"), "{refused}");
        fs::write(second.state_file(), "damaged").expect("writes");
        // Nothing of it runs: there is no machine to clear.
        fs::remove_file(second.path("service.json")).expect("removes");
        let aside = restore(&second, &archive, false, 8).expect("restored").expect("was replaced");
        assert_eq!(fs::read_to_string(aside.join("state.db")).expect("kept"), "damaged");
        assert_eq!(value(&second), Some(1));
    }

    #[tokio::test]
    async fn what_is_no_backup_changes_nothing_and_an_interrupted_restore_is_known() {
        let directory = tempfile::tempdir().expect("tempdir");
        let home = home(&directory.path().join("a"), 3).await;
        let archive = directory.path().join("x.tar.gz");
        for content in [&b"not an archive"[..], &[]] {
            fs::write(&archive, content).expect("writes");
            assert!(restore(&home, &archive, true, 1).is_err());
            assert!(!is_begun(&home));
        }
        assert_eq!(value(&home), Some(3));
        fs::create_dir(home.path(UNPACKED)).expect("makes");
        assert!(is_begun(&home));
    }
}

//! Logs of children, which are plain files that only grow.
//!
//! Invariant: a log is never replaced, since its writer holds it open; it is copied and emptied. Writers append
//! (`O_APPEND`), so they go on at the new end, and whoever follows the file sees it become shorter and starts at its
//! beginning.

use crate::HostError;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// A log may grow to this and its older copy lies beside it, so a child keeps twice as much at most.
pub const LOG_LIMIT: u64 = 32 << 20;

/// Where the older copy of a log is.
pub fn older_log(log: &Path) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// Removes a log with its older copy.
pub fn remove_log(log: &Path) -> Result<(), HostError> {
    for path in [log.to_owned(), older_log(log)] {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(HostError::io("remove", path)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Empties every `*.log` of the directory that is longer than `limit`, keeping one older copy. Returns which.
pub fn rotate_logs(directory: &Path, limit: u64) -> Result<Vec<PathBuf>, HostError> {
    let mut rotated = Vec::new();
    for entry in fs::read_dir(directory).map_err(HostError::io("list", directory))?.flatten() {
        let path = entry.path();
        let is_log = path.extension().is_some_and(|extension| extension == "log");
        if is_log && entry.metadata().is_ok_and(|m| m.is_file() && m.len() > limit) {
            rotate(&path).map_err(HostError::io("rotate", &path))?;
            rotated.push(path);
        }
    }
    Ok(rotated)
}

fn rotate(log: &Path) -> io::Result<()> {
    let file = match File::options().read(true).write(true).open(log) {
        // Its child was removed just now.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    let older = older_log(log);
    let partial = log.with_extension("partial");
    match copy(&file, &partial) {
        Err(error) if error.kind() == io::ErrorKind::StorageFull => {
            // A full disk has no room for two copies; the newer one is worth more.
            let _ = fs::remove_file(&older);
            copy(&file, &partial)?;
        }
        copied => copied?,
    }
    fs::rename(&partial, older)?;
    // What was written since the copy saw the end is lost: microseconds' worth.
    file.set_len(0)
}

fn copy(mut log: &File, to: &Path) -> io::Result<()> {
    use io::Seek;
    log.rewind()?;
    let copied = io::copy(&mut log, &mut File::create(to)?);
    if copied.is_err() {
        let _ = fs::remove_file(to);
    }
    copied.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("ekstra-logs-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("made");
        path
    }

    #[test]
    fn a_long_log_goes_on_empty_and_its_older_part_is_kept() {
        let logs = directory("long");
        let path = logs.join("gate.log");
        let mut writer = File::options().create(true).append(true).open(&path).expect("opened");
        fs::write(logs.join("short.log"), "short").expect("written");
        fs::write(logs.join("state.db"), "not a log, and long").expect("written");
        writer.write_all(b"first, which is long\n").expect("written");
        assert_eq!(rotate_logs(&logs, 10).expect("rotated"), std::slice::from_ref(&path));
        writer.write_all(b"second\n").expect("written");
        assert_eq!(fs::read_to_string(&path).expect("read"), "second\n");
        assert_eq!(fs::read_to_string(older_log(&path)).expect("read"), "first, which is long\n");
        assert_eq!(rotate_logs(&logs, 10).expect("nothing"), Vec::<PathBuf>::new());
        writer.write_all(b"third, which is long\n").expect("written");
        rotate_logs(&logs, 10).expect("rotated");
        assert_eq!(fs::read_to_string(older_log(&path)).expect("read"), "second\nthird, which is long\n");
        let mut names: Vec<_> =
            fs::read_dir(&logs).expect("listed").flatten().map(|e| e.file_name()).collect();
        names.sort();
        assert_eq!(names, ["gate.log", "gate.log.1", "short.log", "state.db"]);
        remove_log(&path).expect("removed");
        remove_log(&path).expect("removed already");
        assert!(!path.exists() && !older_log(&path).exists());
        fs::remove_dir_all(logs).expect("removed");
    }

    /// Whose writer did not append would leave zeros up to where it was.
    #[test]
    fn whoever_reads_along_sees_every_line_and_no_holes() {
        let logs = directory("follow");
        let path = logs.join("serve.log");
        let mut writer = File::options().create(true).append(true).open(&path).expect("opened");
        let mut seen = Vec::new();
        for number in 0..2000 {
            writeln!(writer, "line {number:08}").expect("written");
            if number % 100 == 99 {
                File::open(&path).and_then(|mut f| f.read_to_end(&mut seen)).expect("read");
                rotate_logs(&logs, 10).expect("rotated");
                assert_eq!(fs::metadata(&path).expect("there").len(), 0);
            }
        }
        let expected: String = (0..2000).map(|n| format!("line {n:08}\n")).collect();
        assert_eq!(String::from_utf8(seen).expect("no zeros from a hole"), expected);
        fs::remove_dir_all(logs).expect("removed");
    }
}

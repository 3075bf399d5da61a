//! The SQLite file: schema, loading, appending commits, pruning the log.
//!
//! Invariant: `kv` is the fold of every commit up to `max(log.revision)`, since both are written in one SQL transaction.

use crate::Revision;
use crate::memory::{Change, Entry, State};
use rusqlite::{Connection, OpenFlags, params};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Written to `PRAGMA user_version`; a file of a newer version is refused.
const SCHEMA_VERSION: i64 = 1;
/// Commits that stay in the log for followers.
const LOG_KEPT: u64 = 10_000;

/// Why a state file was refused. The file is as it was.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{path}: {source}")]
    Sqlite { path: PathBuf, source: rusqlite::Error },
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "{path} is damaged ({detail}); it was not touched. Restore a backup, or move it away to start empty"
    )]
    Corrupt { path: PathBuf, detail: String },
    #[error("{path} was written by a newer ekstra (schema {found}, this one knows {known}); upgrade ekstra")]
    Newer { path: PathBuf, found: i64, known: i64 },
    #[error("{path} does not hold an ekstra state yet")]
    Empty { path: PathBuf },
}

const CREATE: &str = "
CREATE TABLE kv (key TEXT PRIMARY KEY, value BLOB NOT NULL, revision INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE log (revision INTEGER NOT NULL, key TEXT NOT NULL, value BLOB, PRIMARY KEY (revision, key)) WITHOUT ROWID;
CREATE TABLE head (one INTEGER PRIMARY KEY CHECK (one = 1), revision INTEGER NOT NULL);
INSERT INTO head VALUES (1, 0);
";

/// A revision and what it changed.
pub(crate) type Commit = (Revision, Vec<Change>);

/// One open connection to the file.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) connection: Connection,
}

impl Disk {
    pub(crate) fn open_writer(path: &Path) -> Result<Self, OpenError> {
        let wrap = |source| OpenError::Sqlite { path: path.to_owned(), source };
        if path.exists() {
            check(path)?;
        }
        make_private(path)?;
        let connection = Connection::open(path).map_err(wrap)?;
        connection.pragma_update(None, "journal_mode", "WAL").map_err(wrap)?;
        connection.pragma_update(None, "synchronous", "FULL").map_err(wrap)?;
        if version(&connection).map_err(wrap)? == 0 {
            let create = format!("BEGIN; {CREATE} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;");
            connection.execute_batch(&create).map_err(wrap)?;
        }
        Ok(Self { connection })
    }

    pub(crate) fn open_reader(path: &Path) -> Result<Self, OpenError> {
        let wrap = |source| OpenError::Sqlite { path: path.to_owned(), source };
        // Not SQLITE_OPEN_READ_ONLY: a WAL reader must be able to create the shared-memory index.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(wrap)?;
        connection.pragma_update(None, "query_only", true).map_err(wrap)?;
        refuse_newer(path, &connection)?;
        if version(&connection).map_err(wrap)? == 0 {
            return Err(OpenError::Empty { path: path.to_owned() });
        }
        Ok(Self { connection })
    }

    pub(crate) fn load(&self) -> rusqlite::Result<State> {
        let read = self.connection.unchecked_transaction()?;
        let revision: i64 = read.query_row("SELECT revision FROM head", [], |row| row.get(0))?;
        let mut statement = read.prepare("SELECT key, value, revision FROM kv")?;
        let rows = statement.query_map([], |row| {
            let (key, value, revision): (String, Vec<u8>, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            Ok((Arc::from(key), Entry::new(value.into(), revision as Revision)))
        })?;
        let entries = rows.collect::<rusqlite::Result<BTreeMap<Arc<str>, Entry>>>()?;
        Ok(State::loaded(revision as Revision, entries))
    }

    /// Writes a group of commits in one SQL transaction.
    pub(crate) fn append(&mut self, commits: &[(Revision, Vec<Change>)]) -> rusqlite::Result<()> {
        let sql = self.connection.transaction()?;
        for (revision, changes) in commits {
            for change in changes {
                write_change(&sql, *revision, change)?;
            }
        }
        if let Some((last, _)) = commits.last() {
            sql.prepare_cached("UPDATE head SET revision = ?1")?.execute([*last as i64])?;
            if last.is_multiple_of(512) {
                let oldest = last.saturating_sub(LOG_KEPT) as i64;
                sql.execute("DELETE FROM log WHERE revision < ?1", [oldest])?;
            }
        }
        sql.commit()
    }

    /// The commits after `since`, or `None` when the log no longer reaches back that far.
    pub(crate) fn commits_after(&self, since: Revision) -> rusqlite::Result<Option<Vec<Commit>>> {
        let read = self.connection.unchecked_transaction()?;
        let head: i64 = read.query_row("SELECT revision FROM head", [], |row| row.get(0))?;
        let mut statement = read
            .prepare_cached("SELECT revision, key, value FROM log WHERE revision > ?1 ORDER BY revision")?;
        let mut commits: Vec<(Revision, Vec<Change>)> = Vec::new();
        let mut rows = statement.query([since as i64])?;
        while let Some(row) = rows.next()? {
            let revision = row.get::<_, i64>(0)? as Revision;
            let key: String = row.get(1)?;
            let value: Option<Vec<u8>> = row.get(2)?;
            let change = Change { key: key.into(), value: value.map(Into::into) };
            match commits.last_mut() {
                Some((last, changes)) if *last == revision => changes.push(change),
                _ => commits.push((revision, vec![change])),
            }
        }
        let gap = commits.first().map_or(head as Revision != since, |(first, _)| *first != since + 1);
        Ok(if gap { None } else { Some(commits) })
    }

    /// Changes whenever another connection has committed.
    pub(crate) fn data_version(&self) -> rusqlite::Result<i64> {
        self.connection.query_row("PRAGMA data_version", [], |row| row.get(0))
    }
}

fn write_change(
    sql: &rusqlite::Transaction<'_>,
    revision: Revision,
    change: &Change,
) -> rusqlite::Result<()> {
    let revision = revision as i64;
    sql.prepare_cached("INSERT INTO log (revision, key, value) VALUES (?1, ?2, ?3)")?.execute(params![
        revision,
        &*change.key,
        change.value.as_deref()
    ])?;
    match &change.value {
        Some(value) => sql
            .prepare_cached("INSERT OR REPLACE INTO kv (key, value, revision) VALUES (?1, ?2, ?3)")?
            .execute(params![&*change.key, &**value, revision])?,
        None => sql.prepare_cached("DELETE FROM kv WHERE key = ?1")?.execute([&*change.key])?,
    };
    Ok(())
}

fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

fn refuse_newer(path: &Path, connection: &Connection) -> Result<(), OpenError> {
    let found = version(connection).map_err(|source| OpenError::Sqlite { path: path.to_owned(), source })?;
    if found > SCHEMA_VERSION {
        return Err(OpenError::Newer { path: path.to_owned(), found, known: SCHEMA_VERSION });
    }
    Ok(())
}

/// Everything that is committed, in a new file of its own.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<(), OpenError> {
    let io = |source| OpenError::Io { path: to.to_owned(), source };
    match fs::remove_file(to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let wrap = |source| OpenError::Sqlite { path: from.to_owned(), source };
    let connection = Connection::open_with_flags(from, flags).map_err(wrap)?;
    connection.execute("VACUUM INTO ?1", [to.to_string_lossy()]).map_err(wrap)?;
    let private = fs::set_permissions(to, fs::Permissions::from_mode(0o600));
    private.and_then(|()| fs::File::open(to)?.sync_all()).map_err(io)
}

/// Secrets lie in it. SQLite gives its side files the mode of the main one, when it makes them.
fn make_private(path: &Path) -> Result<(), OpenError> {
    let wrap = |source| OpenError::Io { path: path.to_owned(), source };
    let private = || fs::Permissions::from_mode(0o600);
    let file = fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path).map_err(wrap)?;
    file.set_permissions(private()).map_err(wrap)?;
    for side in [beside(path, "-wal"), beside(path, "-shm")] {
        match fs::set_permissions(&side, private()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(wrap(error)),
            _ => {}
        }
    }
    Ok(())
}

/// One of SQLite's side files.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// Looks at an existing file without being able to change it.
pub fn check(path: &Path) -> Result<(), OpenError> {
    let corrupt = |detail: String| OpenError::Corrupt { path: path.to_owned(), detail };
    let connection = open_for_check(path).map_err(|e| corrupt(e.to_string()))?;
    let verdict: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|e| corrupt(e.to_string()))?;
    if verdict != "ok" {
        return Err(corrupt(verdict));
    }
    refuse_newer(path, &connection)
}

/// With a log of commits beside it the file is only complete together with that, which needs SQLite's shared index
/// (`-shm`, derived from the log); a read-only connection cannot move the log into the file. Without one the file is
/// read as it lies there, and not even an index is made.
fn open_for_check(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    if fs::metadata(beside(path, "-wal")).is_ok_and(|log| log.len() > 0) {
        return Connection::open_with_flags(path, flags);
    }
    let escaped = path.to_string_lossy().replace('%', "%25").replace('?', "%3f").replace('#', "%23");
    Connection::open_with_flags(format!("file:{escaped}?immutable=1"), flags | OpenFlags::SQLITE_OPEN_URI)
}

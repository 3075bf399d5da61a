//! Whether etcd ends because its data is damaged: by its own last words.
//!
//! Invariant: only words that etcd has for damage count. A full disk, a lack of memory or a wrong key end it just as often,
//! and restoring a snapshot then would lose what is well.

use crate::control_plane::log_end;
use std::io;
use std::path::Path;

/// How much of the log is looked at.
const LAST_WORDS: u64 = 64 * 1024;

/// Of etcd and its database; where each comes from is beside it.
const DAMAGED: [&str; 14] = [
    // go.etcd.io/bbolt: the two first pages, a page that is none, the list of free pages.
    "invalid database",
    "version mismatch",
    "checksum error",
    "invalid freelist page",
    "invalid page type",
    "freelist: ",
    // A page beyond the file's end, or a length that is none.
    "unexpected fault address",
    "slice bounds out of range",
    "index out of range",
    // go.etcd.io/etcd/server: the log of commits and what it belongs to.
    "crc mismatch",
    "failed to find database snapshot file",
    "file not found in member/wal",
    "failed to recover v3 backend from snapshot",
    "is corrupted",
];
/// What ends etcd and is not damage, whatever else it says.
const NOT_DAMAGED: [&str; 3] = ["no space left on device", "cannot allocate memory", "permission denied"];

/// By the end of etcd's log.
pub(crate) fn is_damaged(log: &Path) -> io::Result<bool> {
    Ok(says_damaged(&log_end(log, LAST_WORDS)?))
}

fn says_damaged(words: &str) -> bool {
    // A run ends with a line of level panic or fatal, or with Go's own report.
    let last_run: Vec<&str> = words.lines().rev().take(200).collect();
    let says = |any: &[&str]| last_run.iter().any(|line| any.iter().any(|word| line.contains(word)));
    says(&DAMAGED) && !says(&NOT_DAMAGED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_damage_and_what_only_ends_etcd() {
        let damage = [
            r#"{"level":"panic","msg":"failed to open database","error":"invalid database"}"#,
            "panic: freelist: 3 reachable freed",
            "panic: assertion failed: Page expected to be: 5, but self identifies as 0\npanic: invalid page type: 5: 0",
            "unexpected fault address 0x7f2c2a400000\nfatal error: fault",
            r#"{"level":"fatal","msg":"failed to read WAL, cannot be repaired","error":"walpb: crc mismatch"}"#,
        ];
        for words in damage {
            assert!(says_damaged(words), "{words}");
        }
        let other = [
            "",
            r#"{"level":"fatal","msg":"discovery failed","error":"listen tcp 127.0.0.1:2379: bind: address already in use"}"#,
            r#"{"level":"fatal","msg":"failed to load certificate"}"#,
            // Full, out of memory or locked out, whatever it says about its data then.
            "panic: invalid database\nwrite /data/member/wal/0.wal: no space left on device",
            "panic: invalid page type\nmmap: cannot allocate memory",
            "failed to find database snapshot file: open /data/member/snap: permission denied",
        ];
        for words in other {
            assert!(!says_damaged(words), "{words}");
        }
    }

    #[test]
    fn words_of_long_ago_do_not_count() {
        let mut words = "panic: invalid database\n".to_owned();
        words.push_str(&"{\"level\":\"warn\",\"msg\":\"slow\"}\n".repeat(200));
        assert!(!says_damaged(&words));
    }
}

//! Who asked for what, and what came of it: records as CloudTrail has them, in files of the home.
//!
//! Invariant: a call has its record before it has its answer, also when the service is killed at once. **Invariant:** no
//! secret is in a record: what was asked for comes through [`ekstra_wire::parameters`], and what was answered is not kept.

mod lookup;

use crate::Cloud;
use crate::access::Access;
use crate::api::{Call, Router};
use ekstra_domain::iam::Principal;
use ekstra_domain::names::Arn;
use ekstra_model::cloudtrail::{self as model, ops};
use ekstra_wire::{iso8601, shortened};
use serde::Serialize;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

const DIRECTORY: &str = "events";
/// A file that is larger is followed by another.
const LARGEST: u64 = 16 << 20;
/// The oldest goes when there are more.
const MOST_FILES: usize = 8;
/// Of a record, as CloudTrail cuts them.
const LONGEST: usize = 256 << 10;
/// Characters of an error's message and of what a client calls itself.
const TOLD: usize = 1 << 10;
/// What most of them have room in.
const USUAL: usize = 1 << 10;

/// One call.
#[derive(Debug)]
pub struct Record<'a> {
    pub service: &'a str,
    pub operation: &'a str,
    pub region: &'a str,
    /// Who called; nobody who is known, when the signature was wrong.
    pub principal: Option<&'a Principal>,
    pub access_key: Option<&'a str>,
    pub address: Option<IpAddr>,
    pub user_agent: Option<&'a str>,
    pub is_tls: bool,
    pub parameters: Value,
    /// Code and message of what was refused.
    pub error: Option<(&'a str, &'a str)>,
    pub request_id: &'a str,
}

/// Takes records.
#[derive(Debug)]
pub struct Trail {
    files: Mutex<Files>,
}

impl Trail {
    /// Writes below the home from now on.
    pub fn open(home: &Path) -> io::Result<Self> {
        let files = Files::open(&home.join(DIRECTORY))?;
        Ok(Self { files: Mutex::new(files) })
    }

    /// Hands the record to the kernel: one short write, for which it is not worth waking another thread. Calls of nobody who
    /// is known have none, as at AWS: whoever can reach the port could push out all others.
    pub fn note(&self, cloud: &Cloud, record: Record<'_>) {
        let Some(principal) = record.principal else { return };
        let mut line = render(cloud, &record, principal);
        if line.len() > LONGEST {
            let parameters = json!({"omitted": "too large for a record"});
            line = render(cloud, &Record { parameters, ..record }, principal);
        }
        self.files.lock().unwrap_or_else(PoisonError::into_inner).take(line);
    }
}

/// Source: "CloudTrail record contents for management, data, and network activity events".
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Event<'a> {
    event_version: &'static str,
    user_identity: Value,
    event_time: String,
    event_source: String,
    event_name: &'a str,
    aws_region: &'a str,
    #[serde(rename = "sourceIPAddress")]
    source_ip_address: String,
    user_agent: Option<&'a str>,
    error_code: Option<&'a str>,
    error_message: Option<&'a str>,
    request_parameters: &'a Value,
    response_elements: Option<()>,
    #[serde(rename = "requestID")]
    request_id: &'a str,
    #[serde(rename = "eventID")]
    event_id: String,
    read_only: bool,
    event_type: &'static str,
    management_event: bool,
    recipient_account_id: &'a str,
    event_category: &'static str,
    tls_details: Option<Value>,
}

/// With the end of its line.
fn render(cloud: &Cloud, record: &Record<'_>, principal: &Principal) -> Vec<u8> {
    let event = Event {
        event_version: "1.11",
        user_identity: identity(principal, record.access_key),
        event_time: iso8601(cloud.env.now_ms() / 1000 * 1000),
        event_source: format!("{}.amazonaws.com", record.service),
        event_name: record.operation,
        aws_region: record.region,
        source_ip_address: record.address.map_or("AWS Internal".to_owned(), |address| address.to_string()),
        user_agent: record.user_agent.map(|name| shortened(name, TOLD)),
        error_code: record.error.map(|(code, _)| code),
        error_message: record.error.map(|(_, message)| shortened(message, TOLD)),
        request_parameters: &record.parameters,
        response_elements: None,
        request_id: record.request_id,
        event_id: cloud.env.uuid(),
        read_only: is_read_only(record.operation),
        event_type: "AwsApiCall",
        management_event: true,
        recipient_account_id: &principal.account,
        event_category: "Management",
        tls_details: record.is_tls.then(|| json!({"clientProvidedHostHeader": null})),
    };
    let mut line = Vec::with_capacity(USUAL);
    serde_json::to_writer(&mut line, &event).expect("strings as keys, and a vector takes everything");
    line.push(b'\n');
    line
}

fn identity(principal: &Principal, access_key: Option<&str>) -> Value {
    let arn: Option<Arn> = principal.arn.parse().ok();
    let (kind, name) = match &arn {
        Some(arn) if arn.role_name().is_some() => ("AssumedRole", None),
        Some(arn) if arn.user_name().is_some() => ("IAMUser", arn.user_name()),
        Some(arn) if arn.resource.starts_with("oidc-provider/") => return web_identity(principal),
        _ => ("Root", None),
    };
    let issuer = (kind == "AssumedRole").then(|| {
        json!({"sessionIssuer": {
            "type": "Role",
            "arn": principal.canonical_arn(),
            "accountId": principal.account,
            "principalId": principal.user_id.split(':').next(),
            "userName": arn.as_ref().and_then(Arn::role_name),
        }})
    });
    json!({
        "type": kind,
        "principalId": principal.user_id,
        "arn": principal.arn,
        "accountId": principal.account,
        "accessKeyId": access_key,
        "userName": name,
        "sessionContext": issuer,
    })
}

/// Whoever has shown a token of an identity provider: its ARN, and behind it the audience and the subject.
fn web_identity(principal: &Principal) -> Value {
    let known = principal.user_id.strip_prefix(&principal.arn).and_then(|rest| rest.strip_prefix(':'));
    json!({
        "type": "WebIdentityUser",
        "principalId": principal.user_id,
        "userName": known.and_then(|rest| rest.split_once(':')).map(|(_, subject)| subject),
        "identityProvider": principal.arn,
    })
}

fn is_read_only(operation: &str) -> bool {
    ["Get", "List", "Describe", "Lookup", "AssumeRole"].iter().any(|verb| operation.starts_with(verb))
}

/// Named by when they begin.
#[derive(Debug)]
struct Files {
    directory: PathBuf,
    current: File,
    written: u64,
    sequence: u64,
    /// Whether the last record could not be written whole.
    is_cut: bool,
    /// Whether no further file could be opened, so that this one grows.
    is_stuck: bool,
}

impl Files {
    fn open(directory: &Path) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let last = list(directory).last().and_then(|path| number(path)).unwrap_or(0);
        let sequence = last.max(1);
        let (mut current, written) = Self::start(directory, sequence)?;
        // A line that was cut off is not the beginning of the next.
        let is_cut = written > 0 && current.write_all(b"\n").is_err();
        Ok(Self { directory: directory.to_owned(), current, written, sequence, is_cut, is_stuck: false })
    }

    fn start(directory: &Path, sequence: u64) -> io::Result<(File, u64)> {
        let path = directory.join(format!("{sequence:012}.jsonl"));
        let file = fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        let written = file.metadata()?.len();
        Ok((file, written))
    }

    /// Says so once when records can no longer be written.
    fn take(&mut self, line: Vec<u8>) {
        let was_cut = self.is_cut;
        let outcome = self.write(line);
        self.is_cut = outcome.is_err();
        if let Err(error) = outcome
            && !was_cut
        {
            tracing::error!(%error, "records of calls cannot be written");
        }
    }

    fn write(&mut self, mut line: Vec<u8>) -> io::Result<()> {
        if self.written > LARGEST {
            let followed = self.follow();
            if let Err(error) = &followed
                && !self.is_stuck
            {
                tracing::error!(%error, "no further file of records can be opened; the last one grows");
            }
            self.is_stuck = followed.is_err();
        }
        if self.is_cut {
            line.insert(0, b'\n');
        }
        self.written += line.len() as u64;
        self.current.write_all(&line)
    }

    /// With the next file.
    fn follow(&mut self) -> io::Result<()> {
        let sequence = self.sequence + 1;
        (self.current, self.written) = Self::start(&self.directory, sequence)?;
        self.sequence = sequence;
        for old in list(&self.directory).iter().rev().skip(MOST_FILES) {
            let _ = fs::remove_file(old);
        }
        Ok(())
    }
}

fn number(path: &Path) -> Option<u64> {
    path.file_stem()?.to_str()?.parse().ok()
}

/// The oldest first.
fn list(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = entries.filter(|path| number(path).is_some()).collect();
    files.sort();
    files
}

pub(crate) fn serve(router: &mut Router, cloud: &Cloud) {
    let everything = |_: &Cloud, _: &Call, _: &model::LookupEventsRequest| Access::everything();
    router.serve(ops::LookupEvents, cloud, everything, lookup::handle);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(directory: &Path) -> Vec<String> {
        let text = |path: &PathBuf| fs::read_to_string(path).expect("reads");
        let text: String = list(directory).iter().map(text).collect();
        text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }

    #[test]
    fn a_line_that_was_cut_off_is_not_the_beginning_of_the_next() {
        let home = tempfile::tempdir().expect("tempdir");
        let directory = home.path().join(DIRECTORY);
        Files::open(&directory).expect("opens").take(b"one\n".to_vec());
        fs::write(&list(&directory)[0], "one\ntw").expect("writes");
        Files::open(&directory).expect("opens").take(b"three\n".to_vec());
        assert_eq!(lines(&directory), ["one", "tw", "three"]);
    }

    #[test]
    fn a_record_that_could_not_be_written_is_followed_by_whole_ones() {
        let home = tempfile::tempdir().expect("tempdir");
        let directory = home.path().join(DIRECTORY);
        let mut files = Files::open(&directory).expect("opens");
        let read_only = File::open(&list(&directory)[0]).expect("opens");
        let good = std::mem::replace(&mut files.current, read_only);
        files.take(b"one\n".to_vec());
        assert!(files.is_cut);
        files.current = good;
        files.take(b"two\n".to_vec());
        assert!(!files.is_cut);
        assert_eq!(fs::read(&list(&directory)[0]).expect("reads"), b"\ntwo\n");
    }

    #[test]
    fn without_a_further_file_the_last_one_grows() {
        let home = tempfile::tempdir().expect("tempdir");
        let directory = home.path().join(DIRECTORY);
        let mut files = Files::open(&directory).expect("opens");
        files.directory = home.path().join("gone");
        files.written = LARGEST + 1;
        files.take(b"one\n".to_vec());
        assert!(files.is_stuck && !files.is_cut);
        files.directory.clone_from(&directory);
        files.take(b"two\n".to_vec());
        assert_eq!(
            (lines(&directory), list(&directory).len()),
            (vec!["one".to_owned(), "two".to_owned()], 2)
        );
    }

    #[test]
    fn the_oldest_files_go() {
        let home = tempfile::tempdir().expect("tempdir");
        let directory = home.path().join(DIRECTORY);
        let mut files = Files::open(&directory).expect("opens");
        for number in 0..20 {
            files.written = LARGEST + 1;
            files.take(format!("{number}\n").into_bytes());
        }
        assert_eq!(list(&directory).len(), MOST_FILES);
        assert_eq!(lines(&directory), ["12", "13", "14", "15", "16", "17", "18", "19"]);
    }
}

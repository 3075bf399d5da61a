//! Who asked for what, and what came of it: records as CloudTrail has them, in files of the home.
//!
//! Invariant: a call has its record before it has its answer. **Invariant:** no secret is in a record: what was asked for
//! comes through [`ekstra_wire::parameters`], and what was answered is not kept.

mod lookup;

use crate::Cloud;
use crate::access::Access;
use crate::api::{Call, Router};
use ekstra_domain::iam::Principal;
use ekstra_domain::names::Arn;
use ekstra_model::cloudtrail::{self as model, ops};
use ekstra_wire::iso8601;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;

const DIRECTORY: &str = "events";
/// A file that is larger is followed by another.
const LARGEST: u64 = 16 << 20;
/// The oldest goes when there are more.
const MOST_FILES: usize = 8;
/// Of a record, as CloudTrail cuts them.
const LONGEST: usize = 256 << 10;
/// Records that wait for the disk.
const QUEUE: usize = 4096;

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

/// Takes records; cheap to clone.
#[derive(Clone, Debug)]
pub struct Trail {
    records: mpsc::Sender<String>,
}

impl Trail {
    /// Writes below the home from now on, for as long as somebody has it.
    pub fn open(home: &Path) -> io::Result<Self> {
        let mut files = Files::open(&home.join(DIRECTORY))?;
        let (records, mut waiting) = mpsc::channel::<String>(QUEUE);
        std::thread::Builder::new().name("trail".into()).spawn(move || {
            while let Some(record) = waiting.blocking_recv() {
                let mut outcome = files.write(&record);
                while let Ok(record) = waiting.try_recv() {
                    outcome = outcome.and_then(|()| files.write(&record));
                }
                if let Err(error) = outcome.and_then(|()| files.flush()) {
                    tracing::error!(%error, "records of calls cannot be written");
                }
            }
        })?;
        Ok(Self { records })
    }

    /// Calls of nobody who is known have none, as at AWS: whoever can reach the port could push out all others.
    pub async fn note(&self, cloud: &Cloud, record: Record<'_>) {
        if record.principal.is_none() {
            return;
        }
        let mut line = render(cloud, &record).to_string();
        if line.len() > LONGEST {
            let parameters = json!({"omitted": "too large for a record"});
            line = render(cloud, &Record { parameters, ..record }).to_string();
        }
        // Only a thread that ended by a panic takes none.
        if self.records.send(line).await.is_err() {
            tracing::error!(operation = record.operation, "a call has no record");
        }
    }
}

/// Source: "CloudTrail record contents for management, data, and network activity events".
fn render(cloud: &Cloud, record: &Record<'_>) -> Value {
    let address = record.address.map_or("AWS Internal".to_owned(), |address| address.to_string());
    json!({
        "eventVersion": "1.11",
        "userIdentity": identity(record),
        "eventTime": iso8601(cloud.env.now_ms() / 1000 * 1000),
        "eventSource": format!("{}.amazonaws.com", record.service),
        "eventName": record.operation,
        "awsRegion": record.region,
        "sourceIPAddress": address,
        "userAgent": record.user_agent,
        "errorCode": record.error.map(|(code, _)| code),
        "errorMessage": record.error.map(|(_, message)| message),
        "requestParameters": record.parameters,
        "responseElements": null,
        "requestID": record.request_id,
        "eventID": cloud.env.uuid(),
        "readOnly": is_read_only(record.operation),
        "eventType": "AwsApiCall",
        "managementEvent": true,
        "recipientAccountId": record.principal.map(|principal| &principal.account),
        "eventCategory": "Management",
        "tlsDetails": record.is_tls.then(|| json!({"clientProvidedHostHeader": null})),
    })
}

fn identity(record: &Record<'_>) -> Value {
    let Some(principal) = record.principal else {
        return json!({"type": "Unknown", "accessKeyId": record.access_key});
    };
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
        "accessKeyId": record.access_key,
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
struct Files {
    directory: PathBuf,
    current: BufWriter<File>,
    written: u64,
    sequence: u64,
}

impl Files {
    fn open(directory: &Path) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let last = list(directory).last().and_then(|path| number(path)).unwrap_or(0);
        let (current, written) = Self::start(directory, last.max(1))?;
        Ok(Self { directory: directory.to_owned(), current, written, sequence: last.max(1) })
    }

    fn start(directory: &Path, sequence: u64) -> io::Result<(BufWriter<File>, u64)> {
        let path = directory.join(format!("{sequence:012}.jsonl"));
        let file = fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        let written = file.metadata()?.len();
        let mut file = BufWriter::new(file);
        if written > 0 {
            // A line that a crash cut off is not the beginning of the next.
            writeln!(file)?;
        }
        Ok((file, written))
    }

    fn write(&mut self, record: &str) -> io::Result<()> {
        if self.written > LARGEST {
            self.flush()?;
            self.sequence += 1;
            (self.current, self.written) = Self::start(&self.directory, self.sequence)?;
            let all = list(&self.directory);
            for old in all.iter().rev().skip(MOST_FILES) {
                let _ = fs::remove_file(old);
            }
        }
        self.written += record.len() as u64 + 1;
        writeln!(self.current, "{record}")
    }

    fn flush(&mut self) -> io::Result<()> {
        self.current.flush()
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

//! LookupEvents: an account's records in a region, the newest first.

use super::{DIRECTORY, list, number};
use crate::Cloud;
use crate::api::Call;
use ekstra_engine::blocking;
use ekstra_model::Timestamp;
use ekstra_model::cloudtrail::{self as model, errors};
use ekstra_wire::{ApiError, parse_iso8601};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;

const PAGE: usize = 50;

/// What is looked for.
struct Search {
    account: String,
    region: String,
    attribute: Option<(String, String)>,
    from_ms: Option<i64>,
    to_ms: Option<i64>,
    /// Where the page before ended.
    behind: Option<Position>,
    most: usize,
}

/// Where a record begins: a token names the last one of its page, and what is older follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Position {
    file: u64,
    offset: usize,
}

impl Position {
    fn token(self) -> String {
        format!("{}-{}", self.file, self.offset)
    }

    fn of(token: &str) -> Option<Self> {
        let (file, offset) = token.split_once('-')?;
        Some(Self { file: file.parse().ok()?, offset: offset.parse().ok()? })
    }
}

pub(super) async fn handle(
    cloud: Cloud,
    call: Call,
    input: model::LookupEventsRequest,
) -> Result<model::LookupEventsResponse, ApiError> {
    let mut attributes = input.lookup_attributes.unwrap_or_default();
    if attributes.len() > 1 {
        let message = "You can specify only one attribute.";
        return Err(ApiError::new(&errors::INVALID_LOOKUP_ATTRIBUTES_EXCEPTION, message));
    }
    let (from_ms, to_ms) = (input.start_time.map(|at| at.0), input.end_time.map(|at| at.0));
    if from_ms.zip(to_ms).is_some_and(|(from, to)| from > to) {
        let message = "The start time must be before the end time.";
        return Err(ApiError::new(&errors::INVALID_TIME_RANGE_EXCEPTION, message));
    }
    let unknown = || {
        let message = "The NextToken is not of an earlier answer, or its event is gone.";
        ApiError::new(&errors::INVALID_NEXT_TOKEN_EXCEPTION, message)
    };
    let behind = input.next_token.map(|token| Position::of(&token).ok_or_else(unknown)).transpose()?;
    let attribute = attributes.pop();
    let most = input.max_results.and_then(|n| usize::try_from(n).ok()).unwrap_or(PAGE).clamp(1, PAGE);
    let search = Search {
        account: call.scope.account,
        region: call.scope.region,
        attribute: attribute.and_then(|a| Some((a.attribute_key?, a.attribute_value?))),
        from_ms,
        to_ms,
        behind,
        most,
    };
    let directory = cloud.home.join(DIRECTORY);
    let found = blocking(move || search.run(&list(&directory))).await;
    let mut found = found.ok_or_else(unknown)?;
    let more = found.len() > most;
    found.truncate(most);
    let next_token = found.last().filter(|_| more).map(|(at, _)| at.token());
    let events = found.iter().map(|(_, record)| describe(record)).collect();
    Ok(model::LookupEventsResponse { events: Some(events), next_token })
}

fn text(record: &Value, pointer: &str) -> Option<String> {
    record.pointer(pointer)?.as_str().map(str::to_owned)
}

/// CloudTrail's: of a session its name.
fn user_name(record: &Value) -> Option<String> {
    let session =
        || text(record, "/userIdentity/principalId")?.split_once(':').map(|(_, name)| name.to_owned());
    text(record, "/userIdentity/userName")
        .or_else(session)
        .or_else(|| (text(record, "/userIdentity/type")? == "Root").then(|| "root".to_owned()))
}

fn describe(record: &Value) -> model::Event {
    let time = text(record, "/eventTime").and_then(|time| parse_iso8601(&time));
    model::Event {
        event_id: text(record, "/eventID"),
        event_name: text(record, "/eventName"),
        read_only: Some((record["readOnly"] == true).to_string()),
        access_key_id: text(record, "/userIdentity/accessKeyId"),
        event_time: time.map(Timestamp),
        event_source: text(record, "/eventSource"),
        username: user_name(record),
        resources: Some(Vec::new()),
        cloud_trail_event: Some(record.to_string()),
    }
}

impl Search {
    /// One more than a page, so that it is known whether there is more; `None` if there is no place where the page before
    /// ended.
    fn run(&self, files: &[PathBuf]) -> Option<Vec<(Position, Value)>> {
        let mut found = Vec::new();
        let mut is_known = self.behind.is_none();
        for path in files.iter().rev() {
            let Some(file) = number(path) else { continue };
            let until = match self.behind {
                Some(at) if file > at.file => continue,
                Some(at) if file == at.file => Some(at.offset),
                _ => None,
            };
            is_known |= until.is_some();
            let content = fs::read(path).unwrap_or_default();
            self.search(file, content.get(..until.unwrap_or(content.len()))?, &mut found);
            if found.len() > self.most {
                break;
            }
        }
        is_known.then_some(found)
    }

    /// The records of a file, or of the beginning of one.
    fn search(&self, file: u64, content: &[u8], found: &mut Vec<(Position, Value)>) {
        let mut end = content.len();
        for line in content.rsplit(|byte| *byte == b'\n') {
            let offset = end - line.len();
            end = offset.saturating_sub(1);
            if found.len() > self.most {
                return;
            }
            let Ok(record) = serde_json::from_slice::<Value>(line) else { continue };
            if self.wants(&record) {
                found.push((Position { file, offset }, record));
            }
        }
    }

    fn wants(&self, record: &Value) -> bool {
        let at = || text(record, "/eventTime").and_then(|time| parse_iso8601(&time)).unwrap_or(0);
        record["recipientAccountId"] == self.account.as_str()
            && record["awsRegion"] == self.region.as_str()
            && self.from_ms.is_none_or(|from| at() >= from)
            && self.to_ms.is_none_or(|to| at() <= to)
            && self.attribute.as_ref().is_none_or(|(key, value)| has(record, key, value))
    }
}

fn has(record: &Value, key: &str, value: &str) -> bool {
    let found = match key {
        "EventId" => text(record, "/eventID"),
        "EventName" => text(record, "/eventName"),
        "EventSource" => text(record, "/eventSource"),
        "AccessKeyId" => text(record, "/userIdentity/accessKeyId"),
        "Username" => user_name(record),
        "ReadOnly" => Some((record["readOnly"] == true).to_string()),
        // Records name no resources.
        _ => None,
    };
    found.as_deref() == Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn record(id: &str, name: &str, user: &str, account: &str) -> String {
        json!({
            "eventID": id, "eventName": name, "eventTime": "2026-11-01T12:00:00Z", "awsRegion": "us-east-1",
            "recipientAccountId": account, "readOnly": true, "userIdentity": {"userName": user},
        })
        .to_string()
    }

    fn search(most: usize, behind: Option<Position>, attribute: Option<(&str, &str)>) -> Search {
        Search {
            account: "1".into(),
            region: "us-east-1".into(),
            attribute: attribute.map(|(k, v)| (k.into(), v.into())),
            from_ms: None,
            to_ms: None,
            behind,
            most,
        }
    }

    #[test]
    fn the_newest_come_first_and_pages_go_on_where_they_ended() {
        let directory = tempfile::tempdir().expect("a directory");
        let lines = [
            record("a", "ListClusters", "anna", "1"),
            record("b", "CreateCluster", "anna", "1"),
            record("c", "ListClusters", "bert", "2"),
            "{\"torn".to_owned(),
            record("d", "ListClusters", "bert", "1"),
        ];
        let (old, new) = (directory.path().join("1.jsonl"), directory.path().join("2.jsonl"));
        fs::write(&old, lines[..2].join("\n")).expect("written");
        fs::write(&new, lines[2..].join("\n")).expect("written");
        let files = [old, new];
        let ids = |search: Search| {
            let found = search.run(&files)?;
            Some(found.iter().filter_map(|(_, record)| text(record, "/eventID")).collect::<String>())
        };
        let shown = |ids: &str| Some(ids.to_owned());
        assert_eq!(ids(search(50, None, None)), shown("dba"));
        assert_eq!(ids(search(1, None, None)), shown("db"), "one more than asked for");
        let (first, _) = search(50, None, None).run(&files).expect("reads")[0];
        assert_eq!(Position::of(&first.token()), Some(first));
        assert_eq!(ids(search(50, Some(first), None)), shown("ba"));
        let (second, _) = search(50, None, None).run(&files).expect("reads")[1];
        assert_eq!(ids(search(50, Some(second), None)), shown("a"));
        for gone in [Position { file: 3, offset: 0 }, Position { file: 1, offset: 1 << 20 }] {
            assert_eq!(ids(search(50, Some(gone), None)), None);
        }
        assert_eq!(ids(search(50, None, Some(("EventName", "ListClusters")))), shown("da"));
        assert_eq!(ids(search(50, None, Some(("Username", "anna")))), shown("ba"));
        assert_eq!(ids(search(50, None, Some(("ResourceName", "x")))), shown(""));
    }
}

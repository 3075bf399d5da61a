//! LookupEvents: an account's records in a region, the newest first.

use super::{DIRECTORY, list};
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
    /// The last one of the page before.
    behind: Option<String>,
    most: usize,
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
    let attribute = attributes.pop();
    let search = Search {
        account: call.scope.account,
        region: call.scope.region,
        attribute: attribute.and_then(|a| Some((a.attribute_key?, a.attribute_value?))),
        from_ms,
        to_ms,
        behind: input.next_token,
        most: input.max_results.and_then(|n| usize::try_from(n).ok()).unwrap_or(PAGE).clamp(1, PAGE),
    };
    let directory = cloud.home.join(DIRECTORY);
    let found = blocking(move || search.run(&list(&directory))).await;
    let (mut found, is_token_known) = found;
    if !is_token_known {
        let message = "The NextToken is not of an earlier answer, or its event is gone.";
        return Err(ApiError::new(&errors::INVALID_NEXT_TOKEN_EXCEPTION, message));
    }
    let more = found.len() > search_size(input.max_results);
    found.truncate(search_size(input.max_results));
    let next_token = found.last().filter(|_| more).and_then(|last| text(last, "/eventID"));
    Ok(model::LookupEventsResponse { events: Some(found.iter().map(describe).collect()), next_token })
}

fn search_size(asked: Option<i32>) -> usize {
    asked.and_then(|n| usize::try_from(n).ok()).unwrap_or(PAGE).clamp(1, PAGE)
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
    /// One more than a page, so that it is known whether there is more; and whether the token was found, if there is one.
    fn run(&self, files: &[PathBuf]) -> (Vec<Value>, bool) {
        let mut found = Vec::new();
        let mut is_behind = self.behind.is_none();
        for file in files.iter().rev() {
            let content = fs::read(file).unwrap_or_default();
            let content = String::from_utf8_lossy(&content);
            for line in content.lines().rev() {
                let Ok(record) = serde_json::from_str::<Value>(line) else { continue };
                if !is_behind {
                    is_behind = text(&record, "/eventID") == self.behind;
                } else if self.wants(&record) {
                    found.push(record);
                    if found.len() > self.most {
                        return (found, true);
                    }
                }
            }
        }
        (found, is_behind)
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

    fn search(most: usize, behind: Option<&str>, attribute: Option<(&str, &str)>) -> Search {
        Search {
            account: "1".into(),
            region: "us-east-1".into(),
            attribute: attribute.map(|(k, v)| (k.into(), v.into())),
            from_ms: None,
            to_ms: None,
            behind: behind.map(str::to_owned),
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
            let (found, known) = search.run(&files);
            (found.iter().filter_map(|r| text(r, "/eventID")).collect::<String>(), known)
        };
        assert_eq!(ids(search(50, None, None)), ("dba".into(), true));
        assert_eq!(ids(search(1, None, None)), ("db".into(), true), "one more than asked for");
        assert_eq!(ids(search(50, Some("d"), None)), ("ba".into(), true));
        assert_eq!(ids(search(50, Some("gone"), None)), (String::new(), false));
        assert_eq!(ids(search(50, None, Some(("EventName", "ListClusters")))), ("da".into(), true));
        assert_eq!(ids(search(50, None, Some(("Username", "anna")))), ("ba".into(), true));
        assert_eq!(ids(search(50, None, Some(("ResourceName", "x")))), (String::new(), true));
    }
}

//! `events`: who called what, as LookupEvents has it.

use super::Shown;
use super::output::{Column, print};
use super::words::Region;
use crate::client::Client;
use crate::home::Home;
use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

const TARGET: &str = "com.amazonaws.cloudtrail.v20131101.CloudTrail_20131101.LookupEvents";
/// As many as one answer has.
const PAGE: usize = 50;
const COLUMNS: [Column; 6] = [
    ("TIME", "/eventTime"),
    ("USER", "/userIdentity/arn"),
    ("FROM", "/sourceIPAddress"),
    ("SERVICE", "/eventSource"),
    ("EVENT", "/eventName"),
    ("ERROR", "/errorCode"),
];

#[derive(Debug, Args)]
pub(super) struct Events {
    /// Of one operation, such as CreateCluster
    #[arg(long)]
    name: Option<String>,
    /// Of one user, or of one session of a role
    #[arg(long, conflicts_with = "name")]
    user: Option<String>,
    /// Calls that change nothing, too
    #[arg(long)]
    all: bool,
    /// How many
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    max: u32,
    #[command(flatten)]
    region: Region,
    #[command(flatten)]
    shown: Shown,
}

impl Events {
    /// The newest first.
    pub(super) async fn run(self, home: &Home) -> Result<()> {
        let client = Client::new(home, &self.region.of(home))?;
        let most = usize::try_from(self.max)?;
        // Whoever names an operation wants it, whatever it does.
        let all = self.all || self.name.is_some();
        let is_wanted = |event: &Value| all || event["readOnly"] != true;
        let mut found: Vec<Value> = Vec::new();
        let mut token = Value::Null;
        while found.len() < most {
            let request = json!({
                "LookupAttributes": self.attribute(),
                "MaxResults": PAGE,
                "NextToken": token,
            });
            let answer = client.json("cloudtrail", TARGET, &request).await?;
            let records = answer["Events"].as_array().into_iter().flatten();
            let records = records.filter_map(|event| event["CloudTrailEvent"].as_str());
            let records = records.filter_map(|text| serde_json::from_str(text).ok());
            found.extend(records.filter(is_wanted));
            token = answer["NextToken"].clone();
            if token.is_null() {
                break;
            }
        }
        found.truncate(most);
        print(&found, &COLUMNS, self.shown.output)
    }

    /// One at most, as LookupEvents takes it.
    fn attribute(&self) -> Vec<Value> {
        let pair = |key: &str, value: &str| json!({"AttributeKey": key, "AttributeValue": value});
        match (&self.name, &self.user) {
            (Some(name), _) => vec![pair("EventName", name)],
            (None, Some(user)) => vec![pair("Username", user)],
            (None, None) if !self.all => vec![pair("ReadOnly", "false")],
            (None, None) => Vec::new(),
        }
    }
}

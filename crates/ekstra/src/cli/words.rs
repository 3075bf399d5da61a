//! Arguments that several commands share.

use crate::home::Home;
use anyhow::{Result, bail};
use clap::Args;
use ekstra_domain::names::{DEFAULT_REGION, is_region};
use std::time::Duration;

/// How often something that is waited for is asked about.
pub(super) const POLL: Duration = Duration::from_millis(50);
/// For a cluster, or a node group; eksctl's.
pub(super) const PATIENCE: Duration = Duration::from_secs(25 * 60);

#[derive(Debug, Args)]
pub(super) struct Region {
    /// An AWS region [default: the one of the home's first start, us-east-1 unless it said another]
    #[arg(long, env = "AWS_REGION", value_parser = parse_region)]
    region: Option<String>,
}

impl Region {
    pub(super) fn of(&self, home: &Home) -> String {
        let given = self.region.clone().filter(|region| !region.is_empty());
        given.unwrap_or_else(|| home_region(home))
    }
}

pub(super) fn home_region(home: &Home) -> String {
    home.settings().map_or_else(|| DEFAULT_REGION.to_owned(), |settings| settings.region)
}

/// An empty variable is as good as none.
fn parse_region(text: &str) -> Result<String, String> {
    if text.is_empty() || is_region(text) {
        return Ok(text.to_owned());
    }
    Err(format!("a region is such as {DEFAULT_REGION}"))
}

pub(super) fn parse_count(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| "a number of nodes is 0 or more".to_owned())
}

/// `--name NAME`, or NAME alone, as eksctl takes it.
#[derive(Debug, Args)]
pub(super) struct Named {
    /// The name; also without `--name`
    #[arg(short, long)]
    name: Option<String>,
    #[arg(value_name = "NAME", hide = true, conflicts_with = "name")]
    alone: Option<String>,
}

impl Named {
    pub(super) fn given(self) -> Option<String> {
        self.name.or(self.alone)
    }

    pub(super) fn required(self) -> Result<String> {
        match self.given() {
            Some(name) if !name.is_empty() => Ok(name),
            _ => bail!("a name is missing; say --name NAME"),
        }
    }
}

//! `create|get|scale|delete nodegroup`.

use super::Shown;
use super::lifecycle::ensure_known_service;
use super::output::{Column, print};
use super::words::{Named, PATIENCE, POLL, Region, parse_count};
use crate::client::{Client, code, segment};
use crate::home::Home;
use crate::progress::Waiting;
use anyhow::{Result, bail};
use clap::Args;
use ekstra_domain::ec2::{instance_type, instance_types};
use serde_json::{Value, json};
use std::time::Instant;

const COLUMNS: [Column; 8] = [
    ("CLUSTER", "/clusterName"),
    ("NODEGROUP", "/nodegroupName"),
    ("STATUS", "/status"),
    ("DESIRED", "/scalingConfig/desiredSize"),
    ("MIN", "/scalingConfig/minSize"),
    ("MAX", "/scalingConfig/maxSize"),
    ("TYPE", "/instanceTypes"),
    ("VERSION", "/version"),
];

/// How many nodes, and of what kind. Defaults are eksctl's.
#[derive(Debug, Args)]
pub(super) struct Size {
    /// Number of nodes
    #[arg(short = 'N', long, default_value_t = 2, value_parser = parse_count, allow_negative_numbers = true)]
    nodes: u32,
    /// Fewest nodes [default: --nodes]
    #[arg(short = 'm', long, value_parser = parse_count, allow_negative_numbers = true)]
    nodes_min: Option<u32>,
    /// Most nodes [default: --nodes]
    #[arg(short = 'M', long, value_parser = parse_count, allow_negative_numbers = true)]
    nodes_max: Option<u32>,
    /// EC2 instance type
    #[arg(short = 't', long, default_value = "m5.large")]
    node_type: String,
    /// Disk of each node, GiB
    #[arg(long, default_value_t = 80)]
    node_volume_size: u32,
}

impl Size {
    fn least(&self) -> u32 {
        self.nodes_min.unwrap_or(self.nodes)
    }

    fn most(&self) -> u32 {
        self.nodes_max.unwrap_or(self.nodes.max(1))
    }

    /// What the service would refuse.
    pub(super) fn check(&self) -> Result<()> {
        let (least, most, nodes) = (self.least(), self.most(), self.nodes);
        if least > most || nodes < least || nodes > most {
            bail!("--nodes-min {least}, --nodes {nodes}, --nodes-max {most}: they have to ascend");
        }
        if instance_type(&self.node_type).is_none() {
            let offered: Vec<&str> = instance_types().iter().map(|kind| kind.name).collect();
            bail!("--node-type {} is not offered; there is {}", self.node_type, offered.join(", "));
        }
        Ok(())
    }
}

/// Nodes need root.
pub(super) fn check_home(home: &Home) -> Result<()> {
    if home.is_rootless() {
        bail!(
            "the service in {} runs without root, and nodes need it; --without-nodegroup makes a control plane alone, a \
             home whose service runs as root has nodes",
            home.root.display()
        );
    }
    Ok(())
}

#[derive(Debug, Args)]
pub(super) struct Create {
    /// The cluster's name
    #[arg(long)]
    cluster: String,
    /// [default: ng]
    #[command(flatten)]
    name: Named,
    #[command(flatten)]
    region: Region,
    /// A managed node group
    #[arg(long)]
    managed: bool,
    #[command(flatten)]
    size: Size,
}

impl Create {
    pub(super) async fn run(self, home: &Home) -> Result<()> {
        if !self.managed {
            bail!("self-managed nodes are not offered yet; add --managed for a managed node group");
        }
        let name = self.name.given().unwrap_or_else(|| "ng".into());
        self.size.check()?;
        check_home(home)?;
        ensure_known_service(home).await?;
        let client = Client::new(home, &self.region.of(home))?;
        let answer = client.eks("GET", &format!("/clusters/{}", segment(&self.cluster)?), None).await?;
        let subnets: Vec<String> =
            serde_json::from_value(answer["cluster"]["resourcesVpcConfig"]["subnetIds"].clone())?;
        create(&client, &self.cluster, &name, &self.size, &subnets).await?;
        let mut waiting = Waiting::new();
        wait(&client, &self.cluster, &name, &mut waiting).await?;
        waiting.done(&format!("node group {} is ACTIVE", name));
        Ok(())
    }
}

fn path(cluster: &str, name: &str) -> Result<String> {
    Ok(format!("/clusters/{}/node-groups/{}", segment(cluster)?, segment(name)?))
}

pub(super) async fn create(
    client: &Client,
    cluster: &str,
    name: &str,
    size: &Size,
    subnets: &[String],
) -> Result<()> {
    let request = json!({
        "nodegroupName": name,
        "nodeRole": format!("arn:aws:iam::{}:role/eksNodeRole", client.account),
        "subnets": subnets,
        "instanceTypes": [size.node_type],
        "diskSize": size.node_volume_size,
        "scalingConfig": {
            "minSize": size.least(),
            "maxSize": size.most(),
            "desiredSize": size.nodes,
        },
        "labels": {"alpha.eksctl.io/cluster-name": cluster, "alpha.eksctl.io/nodegroup-name": name},
    });
    client.eks("POST", &format!("/clusters/{}/node-groups", segment(cluster)?), Some(request)).await?;
    Ok(())
}

pub(super) async fn wait(client: &Client, cluster: &str, name: &str, waiting: &mut Waiting) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = client.eks("GET", &path(cluster, name)?, None).await?;
        let group = &answer["nodegroup"];
        match group["status"].as_str() {
            Some("ACTIVE") => return Ok(()),
            Some(failed @ ("CREATE_FAILED" | "DEGRADED")) => {
                bail!("node group {name} is {failed}: {}", issues(group));
            }
            Some(status) => waiting.on(&format!("waiting for nodes of {name} ({status})")),
            None => bail!("an answer without a status"),
        }
        if Instant::now() > deadline {
            bail!(
                "node group {name} is not ACTIVE after {} minutes; see `ekstra logs`",
                PATIENCE.as_secs() / 60
            );
        }
        tokio::time::sleep(POLL).await;
    }
}

/// What DescribeCluster or DescribeNodegroup says is wrong.
pub(super) fn issues(group: &Value) -> String {
    let list = group["health"]["issues"].as_array().cloned().unwrap_or_default();
    let text = |issue: &Value| issue["message"].as_str().unwrap_or_default().to_owned();
    list.iter().map(text).collect::<Vec<_>>().join("; ")
}

pub(super) async fn delete(client: &Client, cluster: &str, name: &str) -> Result<()> {
    client.eks("DELETE", &path(cluster, name)?, None).await.map(drop)
}

pub(super) async fn wait_gone(
    client: &Client,
    cluster: &str,
    name: &str,
    waiting: &mut Waiting,
) -> Result<()> {
    loop {
        match client.eks("GET", &path(cluster, name)?, None).await {
            Ok(_) => waiting.on(&format!("draining and terminating the nodes of {name}")),
            Err(error) if code(&error) == Some("ResourceNotFoundException") => return Ok(()),
            Err(error) => return Err(error),
        }
        tokio::time::sleep(POLL).await;
    }
}

#[derive(Debug, Args)]
pub(super) struct Get {
    /// The cluster's name
    #[arg(long)]
    cluster: String,
    #[command(flatten)]
    name: Named,
    #[command(flatten)]
    region: Region,
    #[command(flatten)]
    shown: Shown,
}

impl Get {
    pub(super) async fn run(self, home: &Home) -> Result<()> {
        let client = Client::new(home, &self.region.of(home))?;
        let all = format!("/clusters/{}/node-groups", segment(&self.cluster)?);
        let names = match self.name.given() {
            Some(name) => vec![name],
            None => super::cluster::list(&client, &all, "nodegroups").await?,
        };
        let mut groups = Vec::new();
        for name in names {
            let answer = client.eks("GET", &path(&self.cluster, &name)?, None).await?;
            groups.push(answer["nodegroup"].clone());
        }
        print(&groups, &COLUMNS, self.shown.output)
    }
}

#[derive(Debug, Args)]
pub(super) struct Scale {
    /// The cluster's name
    #[arg(long)]
    cluster: String,
    #[command(flatten)]
    name: Named,
    #[arg(short = 'N', long, value_parser = parse_count, allow_negative_numbers = true)]
    nodes: u32,
    #[arg(short = 'm', long, value_parser = parse_count, allow_negative_numbers = true)]
    nodes_min: Option<u32>,
    #[arg(short = 'M', long, value_parser = parse_count, allow_negative_numbers = true)]
    nodes_max: Option<u32>,
    #[command(flatten)]
    region: Region,
}

impl Scale {
    /// As eksctl: limits that are not given are kept, and refused when the number does not fit between them.
    pub(super) async fn run(self, home: &Home) -> Result<()> {
        let name = self.name.required()?;
        ensure_known_service(home).await?;
        let client = Client::new(home, &self.region.of(home))?;
        let target = path(&self.cluster, &name)?;
        let before = client.eks("GET", &target, None).await?;
        let now = &before["nodegroup"]["scalingConfig"];
        let limit = |name: &str| now[name].as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(self.nodes);
        let (min, max) =
            (self.nodes_min.unwrap_or(limit("minSize")), self.nodes_max.unwrap_or(limit("maxSize")));
        if self.nodes < min || self.nodes > max {
            bail!("{} nodes are outside of {min} to {max}; say --nodes-min and --nodes-max too", self.nodes);
        }
        let scaling = json!({"minSize": min, "maxSize": max, "desiredSize": self.nodes});
        let body = json!({"scalingConfig": scaling});
        client.eks("POST", &format!("{target}/update-config"), Some(body)).await?;
        let mut waiting = Waiting::new();
        wait(&client, &self.cluster, &name, &mut waiting).await?;
        waiting.done(&format!("node group {} has {} nodes", name, self.nodes));
        Ok(())
    }
}

#[derive(Debug, Args)]
pub(super) struct Delete {
    /// The cluster's name
    #[arg(long)]
    cluster: String,
    #[command(flatten)]
    name: Named,
    #[command(flatten)]
    region: Region,
}

impl Delete {
    pub(super) async fn run(self, home: &Home) -> Result<()> {
        let name = self.name.required()?;
        ensure_known_service(home).await?;
        let client = Client::new(home, &self.region.of(home))?;
        delete(&client, &self.cluster, &name).await?;
        let mut waiting = Waiting::new();
        wait_gone(&client, &self.cluster, &name, &mut waiting).await?;
        waiting.done(&format!("node group {} is gone", name));
        Ok(())
    }
}

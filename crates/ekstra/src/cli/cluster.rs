//! `create|get|delete cluster`.

use super::Shown;
use super::again::Shell;
use super::components::Given;
use super::lifecycle::{Serve, ensure_known_service, ensure_service};
use super::nodegroup::{self, issues};
use super::output::{Column, print};
use super::words::{Named, PATIENCE, POLL, Region};
use crate::client::{Client, code, elements, segment};
use crate::home::Home;
use crate::kubeconfig;
use crate::progress::Waiting;
use anyhow::{Result, anyhow, bail};
use clap::Args;
use ekstra_domain::eks::{check_cluster_name, check_nodegroup_name};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Instant;

const COLUMNS: [Column; 5] = [
    ("NAME", "/name"),
    ("STATUS", "/status"),
    ("VERSION", "/version"),
    ("ENDPOINT", "/endpoint"),
    ("ARN", "/arn"),
];

#[derive(Debug, Args)]
pub(super) struct Create {
    #[command(flatten)]
    name: Named,
    /// Kubernetes version, such as 1.36 [default: the newest that ekstra offers by default]
    #[arg(long)]
    version: Option<String>,
    #[command(flatten)]
    region: Region,
    /// Also create a managed node group
    #[arg(long)]
    managed: bool,
    /// A control plane alone
    #[arg(long, conflicts_with = "managed")]
    without_nodegroup: bool,
    /// The node group's name
    #[arg(long, default_value = "ng")]
    nodegroup_name: String,
    #[command(flatten)]
    size: nodegroup::Size,
    #[command(flatten)]
    components: Given,
    /// Without root or sudo: with --without-nodegroup, in a home of its own
    #[arg(long, requires = "without_nodegroup")]
    rootless: bool,
    /// Where to write the kubeconfig [default: $KUBECONFIG or ~/.kube/config]
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
}

impl Create {
    pub(super) async fn run(self, home: &Home) -> Result<()> {
        if !self.managed && !self.without_nodegroup {
            bail!(
                "self-managed nodes are not offered yet; add --managed for a managed node group, or --without-nodegroup"
            );
        }
        let name = self.name.required()?;
        let version = super::components::find(self.version.as_deref())?;
        check_cluster_name(&name)?;
        // Told now, not when the cluster stands.
        if self.managed {
            nodegroup::check_home(home)?;
            check_nodegroup_name(&self.nodegroup_name)?;
            self.size.check()?;
        }
        let kubeconfig = self.kubeconfig.map_or_else(kubeconfig::default_path, Ok)?;
        kubeconfig::check(&kubeconfig)?;
        let started = Instant::now();
        ensure_service(home, &Serve::of_environment(self.components.clone(), self.rootless)?).await?;
        super::components::ensure_for(home, version, self.components).await?;
        let client = Client::new(home, &self.region.of(home))?;
        let subnets = elements(
            &client
                .ec2("DescribeSubnets", &[("Filter.1.Name", "default-for-az"), ("Filter.1.Value.1", "true")])
                .await?,
            "subnetId",
        );
        let role = |name: &str| format!("arn:aws:iam::{}:role/{name}", client.account);
        let mut request = json!({
            "name": name,
            "roleArn": role("eksClusterRole"),
            "resourcesVpcConfig": {"subnetIds": subnets},
            "accessConfig": {"authenticationMode": "API_AND_CONFIG_MAP"},
        });
        if self.version.is_some() {
            request["version"] = json!(version.minor);
        }
        let shell = Shell::new();
        let (ekstra, region) = (shell.ekstra(home), shell.region(home, &client.region));
        client.eks("POST", "/clusters", Some(request)).await.map_err(|error| match code(&error) {
            Some("ResourceInUseException") => anyhow!(
                "{error:#}; nodes for it: {ekstra} create nodegroup --cluster {name} --managed{region}"
            ),
            _ => error,
        })?;
        let mut waiting = Waiting::new();
        let cluster = wait_active(&client, &name, &mut waiting).await?;
        write_kubeconfig(home, &client, &cluster, &kubeconfig)?;
        if self.managed {
            waiting.on("control plane is ACTIVE");
            nodegroup::create(&client, &name, &self.nodegroup_name, &self.size, &subnets).await?;
            nodegroup::wait(&client, &name, &self.nodegroup_name, &mut waiting).await?;
        }
        waiting.done(&format!("cluster {} is ready ({:.1} s in all)", name, started.elapsed().as_secs_f32()));
        println!("kubeconfig: {}", kubeconfig.display());
        let nodes = shell.kubeconfig(&kubeconfig);
        let what = if self.managed { "nodes" } else { "namespaces" };
        println!("\nNext:\n  {nodes}kubectl get {what}      # or: {nodes}{ekstra} kubectl get {what}");
        if self.managed {
            println!("  {ekstra} get nodegroup --cluster {name}{region}");
        }
        // That one's region is the shell's from there on.
        let after = if region.is_empty() { shell.region_after_env(home, &client.region) } else { region };
        println!("  eval \"$({ekstra} env)\" && aws eks describe-cluster --name {name}{after}");
        println!("  {ekstra} delete cluster --name {name}{after}");
        Ok(())
    }
}

async fn wait_active(client: &Client, name: &str, waiting: &mut Waiting) -> Result<Value> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = client.eks("GET", &format!("/clusters/{}", segment(name)?), None).await?;
        let cluster = &answer["cluster"];
        match cluster["status"].as_str() {
            Some("ACTIVE") => return Ok(cluster.clone()),
            Some("FAILED") => bail!("cluster {name} failed: {}", issues(cluster)),
            _ => match issues(cluster).lines().next() {
                Some(trouble) => waiting.on(&format!("trying again: {trouble}")),
                None => waiting.on("waiting for the control plane"),
            },
        }
        if Instant::now() > deadline {
            bail!(
                "cluster {name} is not ACTIVE after {} minutes; see `ekstra logs`",
                PATIENCE.as_secs() / 60
            );
        }
        tokio::time::sleep(POLL).await;
    }
}

fn write_kubeconfig(home: &Home, client: &Client, cluster: &Value, path: &Path) -> Result<()> {
    let text = |pointer: &str| cluster.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let entry = kubeconfig::Entry {
        cluster: text("/name"),
        arn: text("/arn"),
        region: &client.region,
        endpoint: text("/endpoint"),
        ca: text("/certificateAuthority/data"),
    };
    kubeconfig::write(path, home, &entry)
}

pub(super) async fn update_kubeconfig(
    home: &Home,
    name: &str,
    region: &str,
    path: Option<PathBuf>,
) -> Result<()> {
    let client = Client::new(home, region)?;
    let answer = client.eks("GET", &format!("/clusters/{}", segment(name)?), None).await?;
    if answer["cluster"]["endpoint"].is_null() {
        bail!("cluster {name} is {} and has no endpoint yet", answer["cluster"]["status"]);
    }
    let path = path.map_or_else(kubeconfig::default_path, Ok)?;
    write_kubeconfig(home, &client, &answer["cluster"], &path)?;
    println!("wrote {}", path.display());
    Ok(())
}

#[derive(Debug, Args)]
pub(super) struct Get {
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
        let names = match self.name.given() {
            Some(name) => vec![name],
            None => list(&client, "/clusters", "clusters").await?,
        };
        let mut clusters = Vec::new();
        for name in names {
            let answer = client.eks("GET", &format!("/clusters/{}", segment(&name)?), None).await?;
            clusters.push(answer["cluster"].clone());
        }
        print(&clusters, &COLUMNS, self.shown.output)
    }
}

/// Every page of a List operation.
pub(super) async fn list(client: &Client, path: &str, member: &str) -> Result<Vec<String>> {
    let mut names = Vec::new();
    let mut token: Option<String> = None;
    loop {
        let target = token
            .map_or_else(|| path.to_owned(), |t| format!("{path}?nextToken={}", ekstra_wire::uri_encode(&t)));
        let answer = client.eks("GET", &target, None).await?;
        names.extend(
            answer[member].as_array().into_iter().flatten().filter_map(|n| n.as_str().map(str::to_owned)),
        );
        token = answer["nextToken"].as_str().map(str::to_owned);
        if token.is_none() {
            return Ok(names);
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct Delete {
    #[command(flatten)]
    name: Named,
    #[command(flatten)]
    region: Region,
    /// The kubeconfig to take the cluster's entry out of [default: $KUBECONFIG or ~/.kube/config]
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
}

impl Delete {
    /// Node groups first, as eksctl does; then the cluster.
    pub(super) async fn run(self, home: &Home) -> Result<()> {
        let name = self.name.required()?;
        ensure_known_service(home).await?;
        let client = Client::new(home, &self.region.of(home))?;
        let path = format!("/clusters/{}", segment(&name)?);
        let cluster = client.eks("GET", &path, None).await?;
        let mut waiting = Waiting::new();
        let groups = list(&client, &format!("{path}/node-groups"), "nodegroups").await?;
        for group in &groups {
            nodegroup::delete(&client, &name, group).await?;
        }
        for group in &groups {
            nodegroup::wait_gone(&client, &name, group, &mut waiting).await?;
        }
        client.eks("DELETE", &path, None).await?;
        loop {
            match client.eks("GET", &path, None).await {
                Ok(_) => waiting.on("waiting for the control plane to end"),
                Err(error) if code(&error) == Some("ResourceNotFoundException") => break,
                Err(error) => return Err(error),
            }
            tokio::time::sleep(POLL).await;
        }
        let kubeconfig = self.kubeconfig.map_or_else(kubeconfig::default_path, Ok)?;
        kubeconfig::remove(&kubeconfig, cluster["cluster"]["arn"].as_str().unwrap_or_default())?;
        waiting.done(&format!("cluster {} is gone", name));
        Ok(())
    }
}

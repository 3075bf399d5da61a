//! `cargo xtask bench [--components-cold] [--rounds N]`: how fast and how large, as a table and as `target/bench.json`.
//!
//! Invariant: everything is measured from outside, through the AWS API, kubectl and /proc, in a home of its own that is
//! gone afterwards. Goals (`design.md` §8) stand beside the figures; missing one is shown, not an error.

use crate::workspace;
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

mod aws;
mod machine;
mod service;
mod workloads;

use aws::Aws;
use service::Service;

const REGION: &str = "us-east-1";
const CLUSTER: &str = "bench";
const IDLE: Duration = Duration::from_secs(60);
/// Programs clear up after their start, and clusters after their pods, before their idle load is looked at.
const SETTLE: Duration = Duration::from_secs(45);
const LOAD: Duration = Duration::from_secs(5);
const CONNECTIONS: usize = 4;

/// One row of the table.
struct Figure {
    name: &'static str,
    unit: &'static str,
    /// As `design.md` puts it.
    goal: &'static str,
    samples: Vec<f64>,
    reached: fn(f64) -> bool,
}

impl Figure {
    fn sorted(&self) -> Vec<f64> {
        let mut samples = self.samples.clone();
        samples.sort_by(f64::total_cmp);
        samples
    }

    fn median(&self) -> f64 {
        let sorted = self.sorted();
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }

    fn ends(&self) -> (f64, f64) {
        let sorted = self.sorted();
        let nothing = f64::NAN;
        (sorted.first().copied().unwrap_or(nothing), sorted.last().copied().unwrap_or(nothing))
    }
}

/// The entry point of the chore.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let (mut cold, mut rounds) = (false, 5);
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        match arg.as_str() {
            "--components-cold" => cold = true,
            "--rounds" => rounds = rest.next().and_then(|n| n.parse().ok()).context("--rounds: a number")?,
            other => bail!("bench: unknown argument {other:?}; expected --components-cold or --rounds N"),
        }
    }
    build()?;
    let mut figures = Vec::new();
    if cold {
        figures.push(components_cold()?);
    }
    ensure_components()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(measure(&mut figures, rounds))?;
    show(&figures);
    write(&figures)
}

fn build() -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--release", "--quiet", "-p", "ekstra"]).current_dir(workspace::root());
    service::succeed(&mut command)
}

fn ensure_components() -> Result<()> {
    service::succeed(Command::new(workspace::ekstra()?).args(["components", "ensure"]))
}

/// Everything built from nothing, the Go toolchain's own cache included; modules are downloaded already.
fn components_cold() -> Result<Figure> {
    let cache = tempfile::tempdir_in("/var/tmp")?;
    let started = Instant::now();
    let mut command = Command::new(workspace::ekstra()?);
    command.args(["components", "ensure"]);
    command.env("EKSTRA_CACHE", cache.path().join("ekstra")).env("GOCACHE", cache.path().join("go"));
    service::succeed(&mut command)?;
    let samples = vec![started.elapsed().as_secs_f64() / 60.0];
    Ok(Figure { name: "components, cold", unit: "min", goal: "", samples, reached: |_| true })
}

async fn measure(figures: &mut Vec<Figure>, rounds: usize) -> Result<()> {
    let service = Service::start()?;
    let aws = service.aws()?;
    let subnets = aws.subnets().await?;
    figures.push(clusters(&service, &aws, &subnets, rounds).await?);
    let bare = usage(&service).await?;
    figures.push(memory("control plane, anonymous memory", vec![bare.control]));
    figures.push(share("control plane, idle processor", vec![bare.control_cpu]));
    figures.push(nodegroups(&service, &aws, &subnets, rounds.min(3)).await?);
    figures.push(workloads::pods(&service, rounds)?);
    figures.push(workloads::volumes(&service, rounds)?);
    figures.push(workloads::balancers(&service, rounds)?);
    let used = usage(&service).await?;
    figures.push(memory("  the same, two nodes, after pods", vec![used.control]));
    figures.push(share("  its idle processor", vec![used.control_cpu]));
    figures.push(Figure { goal: "", reached: |_| true, ..memory("node, anonymous memory", used.nodes) });
    figures.push(share("node, idle processor", used.nodes_cpu));
    figures.push(requests(&aws, rounds.min(3)).await?);
    figures.push(workloads::recoveries(&service, rounds.min(3))?);
    figures.extend(crowd(&service, &aws, &subnets).await?);
    Ok(())
}

/// CreateCluster → ACTIVE → first `kubectl get ns`. The last one stays.
async fn clusters(service: &Service, aws: &Aws, subnets: &[String], rounds: usize) -> Result<Figure> {
    let mut samples = Vec::new();
    for round in 1..=rounds {
        let started = Instant::now();
        create(aws, CLUSTER, subnets).await?;
        service.ekstra(&["update-kubeconfig", "--name", CLUSTER])?;
        service.kubectl(&["get", "ns"])?;
        samples.push(started.elapsed().as_secs_f64());
        if round < rounds {
            aws.eks("DELETE", &cluster_path(), "").await?;
            aws.wait_gone(&cluster_path()).await?;
        }
    }
    Ok(Figure {
        name: "CreateCluster → ACTIVE → kubectl",
        unit: "s",
        goal: "< 4",
        samples,
        reached: |s| s < 4.0,
    })
}

/// Until it is ACTIVE.
async fn create(aws: &Aws, name: &str, subnets: &[String]) -> Result<()> {
    let request = json!({
        "name": name,
        "roleArn": aws.role("eksClusterRole"),
        "resourcesVpcConfig": {"subnetIds": subnets},
    });
    aws.eks("POST", "/clusters", &request.to_string()).await?;
    aws.wait_status(&format!("/clusters/{name}"), "/cluster/status").await
}

/// What five clusters with two nodes each cost together: the one that is there, and four more.
async fn crowd(service: &Service, aws: &Aws, subnets: &[String]) -> Result<Vec<Figure>> {
    for number in 2..=5 {
        let name = format!("{CLUSTER}-{number}");
        create(aws, &name, subnets).await?;
        let groups = format!("/clusters/{name}/node-groups");
        aws.eks("POST", &groups, &two_nodes(aws, "ng", subnets)).await?;
        aws.wait_status(&format!("{groups}/ng"), "/nodegroup/status").await?;
    }
    let used = usage(service).await?;
    let memory = used.control + used.nodes.iter().sum::<f64>();
    let share_of_all = used.control_cpu + used.nodes_cpu.iter().sum::<f64>();
    let name = "5 clusters, 10 nodes, anonymous memory";
    Ok(vec![
        Figure { name, unit: "MiB", goal: "", samples: vec![memory], reached: |_| true },
        share("  their idle processor", vec![share_of_all]),
    ])
}

/// The body of CreateNodegroup.
fn two_nodes(aws: &Aws, name: &str, subnets: &[String]) -> String {
    let request = json!({
        "nodegroupName": name,
        "nodeRole": aws.role("eksNodeRole"),
        "subnets": subnets,
        "scalingConfig": {"minSize": 2, "desiredSize": 2, "maxSize": 2},
    });
    request.to_string()
}

fn cluster_path() -> String {
    format!("/clusters/{CLUSTER}")
}

/// CreateNodegroup → two nodes Ready, as kubectl sees them. The last one stays.
async fn nodegroups(service: &Service, aws: &Aws, subnets: &[String], rounds: usize) -> Result<Figure> {
    let mut samples = Vec::new();
    for round in 1..=rounds {
        let name = format!("ng{round}");
        let started = Instant::now();
        let groups = format!("{}/node-groups", cluster_path());
        aws.eks("POST", &groups, &two_nodes(aws, &name, subnets)).await?;
        service.wait_nodes(&name, 2)?;
        samples.push(started.elapsed().as_secs_f64());
        let group = format!("{groups}/{name}");
        aws.wait_status(&group, "/nodegroup/status").await?;
        if round < rounds {
            aws.eks("DELETE", &group, "").await?;
            aws.wait_gone(&group).await?;
        }
    }
    Ok(Figure {
        name: "CreateNodegroup → 2 nodes Ready",
        unit: "s",
        goal: "< 4",
        samples,
        reached: |s| s < 4.0,
    })
}

/// Megabytes of anonymous memory, and percent of a processor, of the control plane and of each node.
#[derive(Default)]
struct Usage {
    control: f64,
    control_cpu: f64,
    nodes: Vec<f64>,
    nodes_cpu: Vec<f64>,
}

async fn usage(service: &Service) -> Result<Usage> {
    tokio::time::sleep(SETTLE).await;
    let groups = service.groups()?;
    let before: Vec<f64> = groups.iter().map(|g| machine::cpu_seconds(g)).collect::<Result<_>>()?;
    let started = Instant::now();
    tokio::time::sleep(IDLE).await;
    let elapsed = started.elapsed().as_secs_f64();
    let mut used = Usage::default();
    for (group, before) in groups.iter().zip(before) {
        let memory = machine::anonymous_mebibytes(group)?;
        let cpu = (machine::cpu_seconds(group)? - before) / elapsed * 100.0;
        if is_node(group) {
            used.nodes.push(memory);
            used.nodes_cpu.push(cpu);
        } else {
            used.control += memory;
            used.control_cpu += cpu;
        }
    }
    Ok(used)
}

fn memory(name: &'static str, samples: Vec<f64>) -> Figure {
    Figure { name, unit: "MiB", goal: "≤ 220", samples, reached: |mib| mib <= 220.0 }
}

fn share(name: &'static str, samples: Vec<f64>) -> Figure {
    Figure { name, unit: "% of one", goal: "", samples, reached: |_| true }
}

fn is_node(group: &Path) -> bool {
    group.file_name().is_some_and(|n| n.to_string_lossy().starts_with("i-"))
}

/// Signed DescribeCluster calls a second over kept connections.
async fn requests(aws: &Aws, rounds: usize) -> Result<Figure> {
    let mut samples = Vec::new();
    for _ in 0..rounds {
        samples.push(aws.load(&cluster_path(), CONNECTIONS, LOAD).await?);
    }
    Ok(Figure {
        name: "signed DescribeCluster",
        unit: "/s",
        goal: "> 5000",
        samples,
        reached: |n| n > 5000.0,
    })
}

fn show(figures: &[Figure]) {
    println!("{:<38} {:>9} {:>9} {:>9}  {:<9} {:<7}", "", "min", "median", "max", "unit", "goal");
    for figure in figures {
        let ((least, most), median) = (figure.ends(), figure.median());
        let missed = if (figure.reached)(median) { "" } else { "  missed" };
        println!(
            "{:<38} {least:>9.2} {median:>9.2} {most:>9.2}  {:<9} {:<7}{missed}",
            figure.name, figure.unit, figure.goal
        );
    }
}

fn write(figures: &[Figure]) -> Result<()> {
    let rows: Vec<_> = figures
        .iter()
        .map(|f| {
            let (least, most) = f.ends();
            json!({
                "name": f.name, "unit": f.unit, "goal": f.goal, "samples": f.samples,
                "min": least, "median": f.median(), "max": most, "reached": (f.reached)(f.median()),
            })
        })
        .collect();
    let path = workspace::target()?.join("bench.json");
    std::fs::write(&path, serde_json::to_vec_pretty(&rows)?).with_context(|| path.display().to_string())?;
    println!("written to {}", path.display());
    Ok(())
}

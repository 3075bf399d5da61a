//! Control planes and nodes: how soon they serve, and what they cost.

use super::aws::Aws;
use super::figure::Figure;
use super::service::Service;
use super::{machine, workloads};
use anyhow::Result;
use serde_json::json;
use std::path::Path;
use std::time::{Duration, Instant};

const CLUSTER: &str = "bench";
const IDLE: Duration = Duration::from_secs(60);
/// Programs clear up after their start, and clusters after their pods, before their idle load is looked at.
const SETTLE: Duration = Duration::from_secs(45);

pub(super) async fn measure(figures: &mut Vec<Figure>, rounds: usize) -> Result<()> {
    let service = Service::start().await?;
    let aws = service.aws()?;
    let subnets = aws.subnets().await?;
    figures.push(clusters(&service, &aws, &subnets, rounds).await?);
    let bare = usage(&service).await?;
    figures.push(memory("control plane, anonymous memory", vec![bare.control]));
    figures.push(share("control plane, idle processor", vec![bare.control_cpu]));
    figures.push(nodegroups(&service, &aws, &subnets, rounds.min(3)).await?);
    figures.push(workloads::pods(&service, rounds).await?);
    figures.push(workloads::volumes(&service, rounds).await?);
    figures.push(workloads::balancers(&service, rounds).await?);
    let used = usage(&service).await?;
    figures.push(memory("  the same, two nodes, after pods", vec![used.control]));
    figures.push(share("  its idle processor", vec![used.control_cpu]));
    figures.push(Figure::new("node, anonymous memory", "MiB", used.nodes));
    figures.push(share("node, idle processor", used.nodes_cpu));
    figures.push(workloads::recoveries(&service, rounds.min(3)).await?);
    figures.extend(crowd(&service, &aws, &subnets).await?);
    Ok(())
}

/// CreateCluster → ACTIVE → first `kubectl get ns`. The last one stays.
async fn clusters(service: &Service, aws: &Aws, subnets: &[String], rounds: usize) -> Result<Figure> {
    let mut samples = Vec::new();
    for round in 1..=rounds {
        let started = Instant::now();
        create(aws, CLUSTER, subnets).await?;
        service.ekstra(&["update-kubeconfig", "--name", CLUSTER]).await?;
        service.kubectl(&["get", "ns"]).await?;
        samples.push(started.elapsed().as_secs_f64());
        if round < rounds {
            aws.eks("DELETE", &cluster_path(), "").await?;
            aws.wait_gone(&cluster_path()).await?;
        }
    }
    Ok(Figure::new("CreateCluster → ACTIVE → kubectl", "s", samples).with_goal("< 4", |s| s < 4.0))
}

/// Until it is ACTIVE.
async fn create(aws: &Aws, name: &str, subnets: &[String]) -> Result<()> {
    aws.create_cluster(name, subnets).await?;
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
    Ok(vec![Figure::new(name, "MiB", vec![memory]), share("  their idle processor", vec![share_of_all])])
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
        service.wait_nodes(&name, 2).await?;
        samples.push(started.elapsed().as_secs_f64());
        let group = format!("{groups}/{name}");
        aws.wait_status(&group, "/nodegroup/status").await?;
        if round < rounds {
            aws.eks("DELETE", &group, "").await?;
            aws.wait_gone(&group).await?;
        }
    }
    Ok(Figure::new("CreateNodegroup → 2 nodes Ready", "s", samples).with_goal("< 4", |s| s < 4.0))
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
    Figure::new(name, "MiB", samples).with_goal("≤ 220", |mib| mib <= 220.0)
}

fn share(name: &'static str, samples: Vec<f64>) -> Figure {
    Figure::new(name, "% of one", samples)
}

fn is_node(group: &Path) -> bool {
    group.file_name().is_some_and(|n| n.to_string_lossy().starts_with("i-"))
}

//! What a cluster with nodes does for its users: pods, volumes, load balancers; and how soon it is well again.

use super::figure::Figure;
use super::service::Service;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);
/// Every node has it.
const IMAGE: &str = "registry.k8s.io/pause:3.10";

/// `kubectl run` of an image that the node has → Running. The two kubectl programs are included.
pub(super) async fn pods(service: &Service, rounds: usize) -> Result<Figure> {
    let mut samples = Vec::new();
    for round in 1..=rounds {
        let name = format!("pod{round}");
        let started = Instant::now();
        service.kubectl(&["run", &name, &format!("--image={IMAGE}"), "--restart=Never"]).await?;
        wait_running(service, &name).await?;
        samples.push(started.elapsed().as_secs_f64());
        service.kubectl(&["delete", "--now", &format!("pod/{name}")]).await?;
    }
    Ok(Figure::new("pod created → Running", "s", samples).with_goal("< 1", |s| s < 1.0))
}

async fn wait_running(service: &Service, pod: &str) -> Result<()> {
    let pod = format!("pod/{pod}");
    service
        .kubectl(&["wait", "--for=jsonpath={.status.phase}=Running", &pod, "--timeout=60s"])
        .await
        .map(drop)
}

/// A claim and its pod → Running: the volume made, attached, formatted, mounted.
pub(super) async fn volumes(service: &Service, rounds: usize) -> Result<Figure> {
    let mut samples = Vec::new();
    for round in 1..=rounds {
        let name = format!("volume{round}");
        let claim = json!({
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": name},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": "gp3",
                "resources": {"requests": {"storage": "1Gi"}},
            },
        });
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name},
            "spec": {
                "containers": [{
                    "name": "main", "image": IMAGE, "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                }],
                "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": name}}],
            },
        });
        let started = Instant::now();
        service.apply(&[claim, pod]).await?;
        wait_running(service, &name).await?;
        samples.push(started.elapsed().as_secs_f64());
        service.kubectl(&["delete", "--now", &format!("pod/{name}"), &format!("pvc/{name}")]).await?;
    }
    Ok(Figure::new("pod with a new volume → Running", "s", samples))
}

/// A Service of type LoadBalancer → its address takes connections.
pub(super) async fn balancers(service: &Service, rounds: usize) -> Result<Figure> {
    let mut samples = Vec::new();
    for _ in 0..rounds {
        let balancer = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "bench", "namespace": "kube-system"},
            "spec": {
                "type": "LoadBalancer",
                "selector": {"k8s-app": "kube-dns"},
                "ports": [{"port": 53, "targetPort": 53}],
            },
        });
        let started = Instant::now();
        service.apply(&[balancer]).await?;
        wait_connected(service).await?;
        samples.push(started.elapsed().as_secs_f64());
        service.kubectl(&["delete", "service", "bench", "-n", "kube-system"]).await?;
    }
    Ok(Figure::new("LoadBalancer → takes connections", "s", samples))
}

async fn wait_connected(service: &Service) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let address = "jsonpath={.status.loadBalancer.ingress[0].ip}";
    loop {
        let told = service.kubectl(&["get", "service", "bench", "-n", "kube-system", "-o", address]).await?;
        // Only an address that the service says is its own is knocked at.
        if let Ok(address) = told.parse()
            && TcpStream::connect_timeout(&SocketAddr::new(address, 53), POLL).is_ok()
        {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("the load balancer takes no connections; its address: {told:?}");
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The API server killed → kubectl is answered again. A client that asks meanwhile waits at the front door.
pub(super) async fn recoveries(service: &Service, rounds: usize) -> Result<Figure> {
    let mut samples = Vec::new();
    for _ in 0..rounds {
        let groups = service.groups()?;
        let of_server = |name: &str| name.ends_with("-kube-apiserver");
        let group = groups.iter().find(|g| g.file_name().is_some_and(|n| of_server(&n.to_string_lossy())));
        let procs = group.context("no API server")?.join("cgroup.procs");
        let pid: i32 = fs::read_to_string(&procs)?.trim().parse().context("its pid")?;
        let started = Instant::now();
        kill(pid)?;
        service.kubectl(&["get", "ns"]).await?;
        samples.push(started.elapsed().as_secs_f64());
    }
    Ok(Figure::new("API server killed → kubectl", "s", samples).with_goal("< 3", |s| s < 3.0))
}

fn kill(pid: i32) -> Result<()> {
    let status = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status()?;
    if status.success() { Ok(()) } else { bail!("kill -9 {pid}: {status}") }
}

impl Service {
    async fn apply(&self, objects: &[Value]) -> Result<()> {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        let path = self.path("bench-objects.json");
        fs::write(&path, list.to_string())?;
        self.kubectl(&["apply", "-f", &path.to_string_lossy()]).await.map(drop)
    }
}

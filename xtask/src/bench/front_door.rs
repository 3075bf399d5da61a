//! The API itself, beside moto's in the same run: five typical calls, by a user with policies, among twenty records of
//! clusters; how soon the first call is answered; memory when nothing else has been asked.
//!
//! moto verifies no signature, evaluates no policy and keeps no record unless told to, and is not: it is measured as it is
//! used. The client is one thread on one of the processors, and takes its part of what both are measured on.

use super::aws::{Aws, CLUSTER_ROLE, Call, describe_subnets, get_caller_identity, texts};
use super::figure::Figure;
use super::machine;
use super::moto::Moto;
use super::service::Service;
use anyhow::{Context, Result, bail};
use ekstra_wire::uri_encode;
use serde_json::json;
use std::path::Path;
use std::time::{Duration, Instant};

const CLUSTERS: usize = 20;
const LOAD: Duration = Duration::from_secs(5);
const CONNECTIONS: usize = 4;
/// What starting up leaves running, until memory is looked at.
const SETTLE: Duration = Duration::from_secs(5);
/// What a new cluster's controllers do at first.
const SETTLE_CLUSTER: Duration = Duration::from_secs(30);
const CLUSTER: &str = "bench-1";

pub(super) async fn measure(figures: &mut Vec<Figure>, rounds: usize) -> Result<()> {
    let moto = Moto::install()?;
    let (service, ours) = start_ours(rounds).await?;
    let (moto, theirs) = start_moto(&moto, rounds).await?;
    let soon = Figure::new("start → first answer", "s", ours.first_answers);
    figures.push(soon.with_goal("< 0.1", |s| s < 0.1));
    figures.push(Figure::new("start → first answer, moto", "s", theirs.first_answers));
    let memory = Figure::new("idle memory, serve and gate", "MB", ours.memory);
    figures.push(memory.with_goal("< 40", |mb| mb < 40.0));
    figures.push(Figure::new("idle memory, moto", "MB", theirs.memory));

    let caller = prepare_ours(&service.aws()?).await?;
    let other = moto.aws();
    prepare_moto(&other).await?;
    tokio::time::sleep(SETTLE_CLUSTER).await;
    for (name, call) in calls() {
        figures.extend(compare(name, &call, &caller, &other, rounds).await?);
    }
    Ok(())
}

fn calls() -> [(&'static str, Call); 5] {
    [
        ("DescribeCluster", Call::eks("GET", format!("/clusters/{CLUSTER}"), "")),
        ("ListClusters", Call::eks("GET", "/clusters", "").with_query("include=all")),
        ("GetCallerIdentity", get_caller_identity()),
        ("GetRole", iam("GetRole", &[("RoleName", CLUSTER_ROLE)])),
        ("DescribeSubnets", describe_subnets()),
    ]
}

/// How soon a server answered, and how large it was then, each time that it was started.
#[derive(Default)]
struct Starts {
    first_answers: Vec<f64>,
    memory: Vec<f64>,
}

/// In a new home each time. The last one stays.
async fn start_ours(rounds: usize) -> Result<(Service, Starts)> {
    let mut starts = Starts::default();
    loop {
        let service = Service::new()?;
        let started = Instant::now();
        service.ekstra(&["start"]).await?;
        service.aws()?.call(&get_caller_identity()).await?;
        starts.first_answers.push(started.elapsed().as_secs_f64());
        tokio::time::sleep(SETTLE).await;
        starts.memory.push(machine::proportional_megabytes(&service.processes()?)?);
        if starts.memory.len() >= rounds {
            return Ok((service, starts));
        }
    }
}

async fn start_moto(program: &Path, rounds: usize) -> Result<(Moto, Starts)> {
    let mut starts = Starts::default();
    loop {
        let started = Instant::now();
        let moto = Moto::start(program).await?;
        starts.first_answers.push(started.elapsed().as_secs_f64());
        tokio::time::sleep(SETTLE).await;
        starts.memory.push(machine::proportional_megabytes(&[moto.process()])?);
        if starts.memory.len() >= rounds {
            return Ok((moto, starts));
        }
    }
}

/// A cluster that runs, further ones that are registered; and who asks: a user with a policy of its own, one of its group,
/// and a boundary.
async fn prepare_ours(admin: &Aws) -> Result<Aws> {
    let subnets = admin.subnets().await?;
    admin.create_cluster(CLUSTER, &subnets).await?;
    admin.wait_status(&format!("/clusters/{CLUSTER}"), "/cluster/status").await?;
    let trust = json!({
        "Version": "2012-10-17",
        "Statement": [{
            "Effect": "Allow", "Principal": {"Service": "ssm.amazonaws.com"}, "Action": "sts:AssumeRole",
        }],
    });
    let trust = [("RoleName", "connector"), ("AssumeRolePolicyDocument", &trust.to_string())];
    admin.call(&iam("CreateRole", &trust)).await?;
    for number in 2..=CLUSTERS {
        let config = json!({"roleArn": admin.role("connector"), "provider": "OTHER"});
        let request = json!({"name": format!("bench-{number}"), "connectorConfig": config});
        admin.eks("POST", "/cluster-registrations", &request.to_string()).await?;
    }
    caller(admin).await
}

async fn caller(admin: &Aws) -> Result<Aws> {
    let may = json!({
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": ["eks:*", "iam:*", "sts:*", "ec2:*"], "Resource": "*"},
        ],
    });
    let reads = json!({
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow", "Action": ["eks:Describe*", "eks:List*", "ec2:Describe*"], "Resource": "*",
                "Condition": {"StringEquals": {"aws:RequestedRegion": ["eu-central-1", super::REGION]}},
            },
            {"Effect": "Allow", "Action": "iam:Get*", "Resource": admin.arn("iam", "role/eks*")},
        ],
    });
    let guard = json!({
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Deny", "Action": "eks:*", "Resource": "*", "Condition": {"StringLike": {"aws:username": "x*"}}},
            {"Effect": "Deny", "NotAction": ["eks:Describe*", "eks:List*", "ec2:Describe*", "sts:Get*", "iam:Get*"], "Resource": "*"},
        ],
    });
    let user = ("UserName", "bench");
    let (may, boundary) = (may.to_string(), admin.arn("iam", "policy/bench"));
    admin.call(&iam("CreatePolicy", &[("PolicyName", "bench"), ("PolicyDocument", &may)])).await?;
    admin.call(&iam("CreateUser", &[user, ("PermissionsBoundary", &boundary)])).await?;
    admin.call(&iam("CreateGroup", &[("GroupName", "readers")])).await?;
    admin.call(&iam("AddUserToGroup", &[user, ("GroupName", "readers")])).await?;
    for (action, whom, name, document) in [
        ("PutGroupPolicy", ("GroupName", "readers"), "reads", reads.to_string()),
        ("PutUserPolicy", user, "guard", guard.to_string()),
    ] {
        let policy = [whom, ("PolicyName", name), ("PolicyDocument", &document)];
        admin.call(&iam(action, &policy)).await?;
    }
    let answer = admin.call(&iam("CreateAccessKey", &[user])).await?;
    let text = |element| texts(&answer, element).pop().with_context(|| format!("no {element}: {answer}"));
    let caller = admin.with_key(text("AccessKeyId")?, text("SecretAccessKey")?);
    // The policies decide, or this would measure something else.
    let (status, answer) = caller.send(&Call::eks("DELETE", format!("/clusters/{CLUSTER}"), "")).await?;
    if status != 403 {
        bail!("DeleteCluster by a user whose policy denies it: {status} {answer}");
    }
    Ok(caller)
}

async fn prepare_moto(moto: &Aws) -> Result<()> {
    let role = [("RoleName", CLUSTER_ROLE), ("AssumeRolePolicyDocument", "{}")];
    moto.call(&iam("CreateRole", &role)).await?;
    let subnets = moto.subnets().await?;
    for number in 1..=CLUSTERS {
        moto.create_cluster(&format!("bench-{number}"), &subnets).await?;
    }
    Ok(())
}

fn iam(action: &str, parameters: &[(&str, &str)]) -> Call {
    let mut body = format!("Action={action}&Version=2010-05-08");
    for (name, value) in parameters {
        body += &format!("&{name}={}", uri_encode(value));
    }
    Call::form("iam", body)
}

/// One after the other in each round, so that both meet the same machine.
async fn compare(name: &str, call: &Call, ours: &Aws, moto: &Aws, rounds: usize) -> Result<[Figure; 5]> {
    let (mut rates, mut p99s) = (Vec::new(), Vec::new());
    let (mut moto_rates, mut moto_p99s) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let borne = ours.load(call, CONNECTIONS, LOAD).await?;
        rates.push(borne.rate);
        p99s.push(borne.p99);
        let borne = moto.load(call, CONNECTIONS, LOAD).await?;
        moto_rates.push(borne.rate);
        moto_p99s.push(borne.p99);
    }
    let ratios = rates.iter().zip(&moto_rates).map(|(ours, moto)| ours / moto).collect();
    Ok([
        Figure::new(name, "/s", rates).with_goal("> 5000", |n| n > 5000.0),
        Figure::new(format!("{name}, p99"), "ms", p99s),
        Figure::new(format!("{name}, moto"), "/s", moto_rates),
        Figure::new(format!("{name}, moto's p99"), "ms", moto_p99s),
        Figure::new(format!("{name}, times moto's rate"), "", ratios)
            .with_goal("≥ 40", |times| times >= 40.0),
    ])
}

//! `ekstra-sdk-client CLUSTER`: what programs that use AWS's SDK for Rust do with EKS, against the endpoint and with the
//! credentials of the environment (`AWS_ENDPOINT_URL`). Prints each step that is as it should be; the first that is not ends
//! it with an error.
//!
//! Invariant: the SDK is as it comes: nothing but its HTTP client is chosen, one without TLS, since that is not what is tried.

use anyhow::{Context, Result, ensure};
use aws_sdk_eks::Client;
use aws_sdk_eks::client::Waiters;
use aws_sdk_eks::config::Credentials;
use aws_sdk_eks::error::ProvideErrorMetadata;
use aws_sdk_eks::types::{
    ClusterStatus, LogSetup, LogType, Logging, UpdateStatus, UpdateType, VpcConfigRequest,
};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let cluster = std::env::args().nth(1).context("usage: ekstra-sdk-client CLUSTER")?;
    let http = aws_smithy_http_client::Builder::new().build_http();
    let config = aws_config::from_env().http_client(http).load().await;
    let client = Client::new(&config);
    let arn = describe(&client, &cluster).await?;
    told("describe, list and wait");
    errors(&client, &cluster).await?;
    told("errors have their types");
    tags(&client, &arn).await?;
    told("tags");
    addons(&client, &cluster).await?;
    told("add-ons");
    update(&client, &cluster).await?;
    told("updates");
    let strange = Credentials::new("AKIAIOSFODNN7EXAMPLE", "secret", None, None, "test");
    let strange = aws_sdk_eks::config::Builder::from(&config).credentials_provider(strange).build();
    let refused = Client::from_conf(strange).list_clusters().send().await.err().context("a key of nobody")?;
    ensure!(refused.code() == Some("UnrecognizedClientException"), "{refused:?}");
    told("a key of nobody");
    Ok(())
}

fn told(step: &str) {
    println!("ok: {step}");
}

async fn describe(client: &Client, name: &str) -> Result<String> {
    client.wait_until_cluster_active().name(name).wait(PATIENCE).await?;
    let cluster = client.describe_cluster().name(name).send().await?.cluster.context("a cluster")?;
    ensure!(cluster.status == Some(ClusterStatus::Active), "{:?}", cluster.status);
    ensure!(cluster.created_at.is_some_and(|at| at.secs() > 1_700_000_000), "{:?}", cluster.created_at);
    ensure!(cluster.endpoint.is_some_and(|url| url.starts_with("https://")));
    let certificate = cluster.certificate_authority.and_then(|authority| authority.data);
    ensure!(certificate.is_some_and(|data| data.len() > 100));
    let pages = client.list_clusters().into_paginator().page_size(1).items().send();
    let names: Vec<String> = pages.collect::<Result<_, _>>().await?;
    ensure!(names.iter().filter(|one| *one == name).count() == 1, "{names:?}");
    cluster.arn.context("an ARN")
}

async fn errors(client: &Client, name: &str) -> Result<()> {
    let absent = client.describe_cluster().name("absent").send().await.err().context("there is none")?;
    let absent = absent.into_service_error();
    ensure!(absent.is_resource_not_found_exception(), "{absent:?}");
    ensure!(absent.message() == Some("No cluster found for name: absent."), "{absent:?}");
    let vpc = VpcConfigRequest::builder().subnet_ids("subnet-00000000").build();
    let role = "arn:aws:iam::000000000000:role/eksClusterRole";
    let request = client.create_cluster().name("never").role_arn(role).resources_vpc_config(vpc);
    let refused = request.send().await.err().context("no such subnet")?.into_service_error();
    ensure!(refused.is_invalid_parameter_exception(), "{refused:?}");
    let request = client.delete_nodegroup().cluster_name(name).nodegroup_name("absent");
    let refused = request.send().await.err().context("there is none")?.into_service_error();
    ensure!(refused.is_resource_not_found_exception(), "{refused:?}");
    Ok(())
}

async fn tags(client: &Client, arn: &str) -> Result<()> {
    client.tag_resource().resource_arn(arn).tags("sdk", "rust ü").send().await?;
    let tags = client.list_tags_for_resource().resource_arn(arn).send().await?.tags.unwrap_or_default();
    ensure!(tags.get("sdk").map(String::as_str) == Some("rust ü"), "{tags:?}");
    client.untag_resource().resource_arn(arn).tag_keys("sdk").send().await?;
    let tags = client.list_tags_for_resource().resource_arn(arn).send().await?.tags.unwrap_or_default();
    ensure!(!tags.contains_key("sdk"), "{tags:?}");
    Ok(())
}

async fn addons(client: &Client, cluster: &str) -> Result<()> {
    let pages = client.describe_addon_versions().into_paginator().page_size(2).items().send();
    let known: Vec<_> = pages.collect::<Result<_, _>>().await?;
    let coredns = known.iter().find(|one| one.addon_name() == Some("coredns")).context("no coredns")?;
    ensure!(!coredns.addon_versions().is_empty(), "{coredns:?}");
    let request = client.list_addons().cluster_name(cluster).into_paginator().page_size(1).items().send();
    let names: Vec<String> = request.collect::<Result<_, _>>().await?;
    ensure!(names.iter().all(|name| known.iter().any(|one| one.addon_name() == Some(name))), "{names:?}");
    let version = coredns.addon_versions()[0].addon_version().context("a version")?;
    let request = client.describe_addon_configuration().addon_name("coredns").addon_version(version);
    let schema = request.send().await?.configuration_schema.context("a schema")?;
    ensure!(schema.contains("replicaCount"), "{schema}");
    Ok(())
}

/// On, and off again.
async fn update(client: &Client, name: &str) -> Result<()> {
    for enabled in [true, false] {
        let setup = LogSetup::builder().types(LogType::Audit).enabled(enabled).build();
        let logging = Logging::builder().cluster_logging(setup).build();
        let started = client.update_cluster_config().name(name).logging(logging).send().await?;
        let started = started.update.context("an update")?;
        ensure!(started.r#type == Some(UpdateType::LoggingUpdate), "{started:?}");
        let id = started.id.context("an id")?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = client.describe_update().name(name).update_id(&id).send().await?;
            match seen.update.context("an update")?.status {
                Some(UpdateStatus::Successful) => break,
                Some(UpdateStatus::InProgress) if Instant::now() < deadline => tokio::time::sleep(POLL).await,
                other => anyhow::bail!("the update is {other:?}"),
            }
        }
    }
    client.wait_until_cluster_active().name(name).wait(PATIENCE).await?;
    Ok(())
}

//! The command line, in eksctl's grammar: a verb, a noun, flags.

mod again;
mod backup;
mod cluster;
mod components;
mod doctor;
mod events;
mod image;
mod lifecycle;
mod mistakes;
mod nodegroup;
mod output;
mod show;
mod words;

use crate::credentials::parse_account;
use crate::home::Home;
use crate::{gate, serve};
use anyhow::Result;
use clap::builder::OsStringValueParser;
use clap::{Args, CommandFactory, Parser, Subcommand};
use output::Format;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;
use tracing_subscriber::EnvFilter;
use words::{Named, Region};

/// How long a step on the machine that was under way may still take before everything is ended.
const LAST_PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Parser)]
#[command(
    name = "ekstra",
    version,
    about = "Amazon EKS on your own machine: real Kubernetes clusters behind AWS's API"
)]
#[command(after_help = "Examples:
  ekstra create cluster --name my-eks-managed --managed
  ekstra get nodegroup --cluster my-eks-managed
  ekstra scale nodegroup --cluster my-eks-managed --name ng --nodes 3 --nodes-max 3
  ekstra delete cluster --name my-eks-managed
  eval \"$(ekstra env)\"; aws eks list-clusters")]
struct Cli {
    /// The directory with all of the service's state [default: ~/.ekstra]
    #[arg(long, env = "EKSTRA_HOME", global = true, value_parser = OsStringValueParser::new())]
    home: Option<OsString>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create a cluster or a node group, and wait until it is usable
    #[command(subcommand)]
    Create(Create),
    /// Show clusters or node groups
    #[command(subcommand)]
    Get(Get),
    /// Change the number of nodes
    #[command(subcommand)]
    Scale(Scale),
    /// Delete a cluster or a node group, and wait until nothing of it is left
    #[command(subcommand)]
    Delete(Delete),
    /// Run kubectl, built with the other components, with the given arguments
    #[command(after_help = "Example:\n  ekstra kubectl get pods -A")]
    Kubectl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Images for nodes, without a registry
    #[command(subcommand)]
    Image(image::Command),
    /// The upstream programs that clusters are made of
    #[command(subcommand)]
    Components(components::Command),
    /// Start the service in the background
    #[command(after_help = "Examples:
  ekstra start
  EKSTRA_LISTEN=4600 ekstra --home /srv/other start
  ekstra start --components https://example.com/components.tar.zst@sha256:DIGEST")]
    Start(lifecycle::Start),
    /// Stop the service; clusters go on running unless --all is given
    Stop {
        /// Also end every cluster's processes and take down its network; data stays
        #[arg(long)]
        all: bool,
    },
    /// Stop the service and start it with this program; clusters go on meanwhile
    Restart(lifecycle::Start),
    /// Is the service there, and what does it run
    Status,
    /// Write everything that cannot be made again into one file: state, keys, clusters' data, images
    #[command(after_help = "Example:\n  ekstra backup before-the-move.tar.gz")]
    Backup(backup::Backup),
    /// Make the home what a backup has, or put the last copy of a damaged state in its place
    #[command(after_help = "Examples:
  ekstra restore                             # of a damaged state, its last copy
  ekstra restore before-the-move.tar.gz      # into an empty home; --force moves aside what is there")]
    Restore(backup::Restore),
    /// Print what AWS clients need: eval "$(ekstra env)"
    Env {
        /// Another account than the command line's own; it is there with the first use
        #[arg(long, value_parser = parse_account)]
        account: Option<String>,
    },
    /// What this machine lacks, and how to get it
    Doctor,
    /// Who called what: CloudTrail's record of every call of the AWS endpoint
    #[command(after_help = "Examples:
  ekstra events
  ekstra events --name CreateCluster
  ekstra events --user reader --all -o json")]
    Events(events::Events),
    /// Print the service's logs
    #[command(after_help = "Examples:
  ekstra logs -f
  ekstra logs gate
  ekstra logs '?'        # which there are")]
    Logs {
        /// serve, gate, or the beginning of another log's name
        #[arg(default_value = "serve")]
        name: String,
        /// Go on with what is written from now on
        #[arg(short, long)]
        follow: bool,
    },
    /// Print the completion script of a shell: source <(ekstra completion bash)
    Completion { shell: clap_complete::Shell },
    /// Write a cluster's kubeconfig entry
    UpdateKubeconfig {
        #[command(flatten)]
        name: Named,
        #[command(flatten)]
        region: Region,
        #[arg(long)]
        kubeconfig: Option<PathBuf>,
    },
    /// Print a sign-in token (kubectl calls this)
    #[command(hide = true)]
    Token {
        #[arg(long)]
        cluster_name: String,
        #[command(flatten)]
        region: Region,
    },
    /// Run the service in the foreground
    Serve(lifecycle::Serve),
    /// Run the data side (the service starts it)
    #[command(hide = true)]
    Gate,
}

#[derive(Debug, Args)]
struct Shown {
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

#[derive(Debug, Subcommand)]
enum Create {
    /// A cluster, with a managed node group if you like
    #[command(
        alias = "clusters",
        after_help = "Examples:
  ekstra create cluster --name my-eks-managed --managed
  ekstra create cluster --name big --managed --nodes 3 --nodes-max 6 --node-type m5.xlarge
  ekstra create cluster --name newer --version 1.37 --without-nodegroup
  ekstra create cluster --name ci --managed --kubeconfig ./kubeconfig"
    )]
    Cluster(cluster::Create),
    /// A managed node group
    #[command(
        aliases = ["nodegroups", "ng"],
        after_help = "Example:
  ekstra create nodegroup --cluster my-eks-managed --name big --managed --node-type m5.xlarge --nodes 1"
    )]
    Nodegroup(nodegroup::Create),
}

#[derive(Debug, Subcommand)]
enum Get {
    /// Clusters, or one
    #[command(
        alias = "clusters",
        after_help = "Examples:
  ekstra get cluster
  ekstra get cluster --name my-eks-managed -o yaml"
    )]
    Cluster(cluster::Get),
    /// A cluster's node groups, or one
    #[command(aliases = ["nodegroups", "ng"])]
    Nodegroup(nodegroup::Get),
}

#[derive(Debug, Subcommand)]
enum Scale {
    /// A node group
    #[command(
        aliases = ["nodegroups", "ng"],
        after_help = "Example; a group never grows beyond its --nodes-max:
  ekstra scale nodegroup --cluster my-eks-managed --name ng --nodes 3 --nodes-max 3"
    )]
    Nodegroup(nodegroup::Scale),
}

#[derive(Debug, Subcommand)]
enum Delete {
    /// A cluster, its node groups first
    #[command(alias = "clusters")]
    Cluster(cluster::Delete),
    /// A node group, its nodes drained
    #[command(aliases = ["nodegroups", "ng"])]
    Nodegroup(nodegroup::Delete),
}

/// Returns the exit code.
pub(crate) fn main() -> i32 {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return mistakes::report(&error),
    };
    let is_daemon = matches!(cli.command, Command::Serve(_) | Command::Gate);
    if is_daemon {
        let filter =
            EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,kube_client=off"));
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(false)
            .with_writer(std::io::stderr)
            // It would be said where it cannot be said, which ends the thread: a full disk has to cost lines of the log alone.
            .log_internal_errors(false)
            .init();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match runtime.map_err(Into::into).and_then(|runtime| settle(runtime, cli)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ekstra: {}", mistakes::told(&error));
            1
        }
    }
}

/// How a command ends.
enum End {
    Code(i32),
    /// Something is to be done when no other thread is left.
    Last(serve::Last),
}

fn settle(runtime: tokio::runtime::Runtime, cli: Cli) -> Result<i32> {
    match runtime.block_on(run(cli)) {
        Ok(End::Last(last)) => {
            runtime.shutdown_timeout(LAST_PATIENCE);
            last().map(|()| 0)
        }
        Ok(End::Code(code)) => {
            runtime.shutdown_background();
            Ok(code)
        }
        Err(error) => {
            runtime.shutdown_background();
            Err(error)
        }
    }
}

async fn run(cli: Cli) -> Result<End> {
    // An empty variable is as good as none.
    let home = Home::locate(cli.home.filter(|home| !home.is_empty()).map(Into::into))?;
    match cli.command {
        Command::Create(Create::Cluster(command)) => command.run(&home).await?,
        Command::Create(Create::Nodegroup(command)) => command.run(&home).await?,
        Command::Get(Get::Cluster(command)) => command.run(&home).await?,
        Command::Get(Get::Nodegroup(command)) => command.run(&home).await?,
        Command::Scale(Scale::Nodegroup(command)) => command.run(&home).await?,
        Command::Delete(Delete::Cluster(command)) => command.run(&home).await?,
        Command::Delete(Delete::Nodegroup(command)) => command.run(&home).await?,
        Command::Kubectl { args } => return components::kubectl(&home, &args).map(End::Code),
        Command::Image(command) => command.run(&home).await?,
        Command::Components(command) => command.run(&home)?,
        Command::Start(command) => command.run(&home).await?,
        Command::Stop { all } => lifecycle::stop(&home, all).await?,
        Command::Restart(command) => command.again(&home).await?,
        Command::Backup(command) => command.run(&home).await?,
        Command::Restore(command) => command.run(&home)?,
        Command::Status => return lifecycle::status(&home).await.map(End::Code),
        Command::Env { account } => show::env(&home, account).await?,
        Command::Doctor => return doctor::run().map(End::Code),
        Command::Events(command) => command.run(&home).await?,
        Command::Logs { name, follow } => show::logs(&home, &name, follow).await?,
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "ekstra", &mut std::io::stdout());
        }
        Command::UpdateKubeconfig { name, region, kubeconfig } => {
            cluster::update_kubeconfig(&home, &name.required()?, &region.of(&home), kubeconfig).await?;
        }
        Command::Token { cluster_name, region } => show::token(&home, &cluster_name, &region.of(&home))?,
        Command::Serve(command) => {
            return Ok(serve::run(command.options(home)?).await?.map_or(End::Code(0), End::Last));
        }
        Command::Gate => gate::run(home).await?,
    }
    Ok(End::Code(0))
}

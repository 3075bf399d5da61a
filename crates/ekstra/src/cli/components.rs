//! `components ensure|list`, and `kubectl`.

use crate::control::Control;
use crate::home::Home;
use crate::privilege::is_root;
use crate::programs::{ensure_all, ensure_programs, open_store};
use crate::progress::{Bars, Waiting};
use anyhow::{Context, Result};
use clap::builder::OsStringValueParser;
use clap::{Args, Subcommand};
use ekstra_components::{Group, KubernetesVersion, Recipes, Silent, State};
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::time::Duration;

/// Programs that are taken instead of built ones.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct Prebuilt {
    /// A directory with prebuilt programs by name
    #[arg(long = "components", value_name = "DIR", env = "EKSTRA_COMPONENTS", value_parser = OsStringValueParser::new())]
    directory: Option<OsString>,
}

impl Prebuilt {
    pub(super) fn is_given(&self) -> bool {
        self.directory.as_ref().is_some_and(|directory| !directory.is_empty())
    }

    /// An absolute path, for a service that runs elsewhere; refused when there is nothing of use in it.
    pub(super) fn checked(self) -> Result<Option<PathBuf>> {
        let Some(directory) = self.directory.filter(|directory| !directory.is_empty()) else {
            return Ok(None);
        };
        let directory = std::path::absolute(directory)?;
        open_store(Some(directory.clone()))?;
        Ok(Some(directory))
    }
}

/// What takes longer is not there yet.
const WORTH_SAYING: Duration = Duration::from_millis(500);

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Build what is missing (about 12 minutes of two cores the first time)
    Ensure {
        /// Kubernetes version
        #[arg(long)]
        version: Option<String>,
        #[command(flatten)]
        components: Prebuilt,
    },
    /// What there is
    List,
}

impl Command {
    pub(super) fn run(self) -> Result<()> {
        match self {
            Self::Ensure { version, components } => {
                let store = open_store(components.checked()?)?;
                let version = find(version.as_deref())?;
                if is_root() {
                    return ensure_all(&store, version, &Bars::new());
                }
                ensure_programs(&store, version, &Bars::new())
            }
            Self::List => list(),
        }
    }
}

pub(super) fn find(version: Option<&str>) -> Result<&'static KubernetesVersion> {
    let recipes = Recipes::get();
    match version {
        None => Ok(recipes.default_kubernetes()),
        Some(text) => recipes.find_kubernetes(text).with_context(|| {
            let offered: Vec<&str> = recipes.kubernetes().iter().map(|v| v.minor.as_str()).collect();
            format!("Kubernetes {text} is not offered; there is {}", offered.join(", "))
        }),
    }
}

/// What a cluster of that version needs, with progress; quick when everything is there. Who is not root builds the
/// programs, and has the service make what nodes boot from.
pub(super) async fn ensure_for(home: &Home, version: &KubernetesVersion, components: Prebuilt) -> Result<()> {
    let store = open_store(components.checked()?)?;
    if is_root() {
        return ensure_all(&store, version, &Bars::new());
    }
    ensure_programs(&store, version, &Bars::new())?;
    let service =
        Control::connect(home).await?.context("the service does not run; `ekstra start` starts it")?;
    let mut making = std::pin::pin!(service.make_node_image(&version.minor));
    match tokio::time::timeout(WORTH_SAYING, &mut making).await {
        Ok(made) => made,
        Err(_) => {
            let mut waiting = Waiting::new();
            waiting.on("the service makes the node image (about a minute, once)");
            making.await
        }
    }
}

fn list() -> Result<()> {
    println!("{:<20} {:<10} {:<9} {:>8}  PATH", "COMPONENT", "VERSION", "STATE", "SIZE");
    for listed in open_store(None)?.list()? {
        let state = match listed.state {
            State::Built => "built",
            State::Missing => "missing",
            State::Prebuilt => "prebuilt",
        };
        let path = listed.path.map(|p| p.display().to_string()).unwrap_or_default();
        let (name, version) = (&listed.component.name, &listed.component.version);
        println!("{name:<20} {version:<10} {state:<9} {:>4} MiB  {path}", listed.size >> 20);
    }
    Ok(())
}

/// Becomes kubectl.
pub(super) fn kubectl(args: &[String]) -> Result<i32> {
    let store = open_store(None)?;
    let components = Recipes::get().group(Group::Client, Recipes::get().default_kubernetes());
    let listed = store.list()?;
    let built = listed.iter().any(|l| l.component.name == "kubectl" && l.state != State::Missing);
    let paths =
        if built { store.ensure(&components, &Silent)? } else { store.ensure(&components, &Bars::new())? };
    let program = paths.program("kubectl").context("no component provides kubectl")?;
    Err(std::process::Command::new(program).args(args).exec().into())
}

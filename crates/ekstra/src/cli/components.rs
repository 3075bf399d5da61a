//! `components ensure|list|bundle`, and `kubectl`.

use crate::control::Control;
use crate::home::Home;
use crate::privilege::is_root;
use crate::programs::{ensure_all, ensure_control_plane, ensure_programs, open_store, parse_prebuilt};
use crate::progress::{Bars, Waiting};
use anyhow::{Context, Result};
use clap::builder::OsStringValueParser;
use clap::{Args, Subcommand};
use ekstra_components::{Group, KubernetesVersion, Prebuilt, Recipes, Silent, State};
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::time::Duration;

/// Programs that are taken instead of built ones.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct Given {
    /// Prebuilt programs: a directory with them by name, or a bundle as FILE@sha256:HEX or URL@sha256:HEX
    #[arg(long = "components", value_name = "PREBUILT", env = "EKSTRA_COMPONENTS", value_parser = OsStringValueParser::new())]
    word: Option<OsString>,
}

impl Given {
    pub(super) fn is_given(&self) -> bool {
        self.word.as_ref().is_some_and(|word| !word.is_empty())
    }

    /// With absolute paths, for a service that runs elsewhere; refused when there is nothing of use in it.
    pub(super) fn checked(self, home: &Home) -> Result<Option<Prebuilt>> {
        let Some(word) = self.word.filter(|word| !word.is_empty()) else {
            return Ok(None);
        };
        let prebuilt = parse_prebuilt(&word)?.absolute()?;
        open_store(home, Some(prebuilt.clone()), &Bars::new())?;
        Ok(Some(prebuilt))
    }
}

/// What takes longer is not there yet.
const WORTH_SAYING: Duration = Duration::from_millis(500);

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Build what is missing (about 13 minutes of two cores the first time)
    Ensure {
        /// Kubernetes version
        #[arg(long)]
        version: Option<String>,
        #[command(flatten)]
        components: Given,
    },
    /// What there is
    List,
    /// Pack what clusters of one version need into one file, for machines that build nothing
    Bundle {
        /// Kubernetes version
        #[arg(long)]
        version: Option<String>,
        /// [default: ekstra-components-VERSION-ARCHITECTURE.tar.zst]
        #[arg(long, short)]
        output: Option<PathBuf>,
    },
}

impl Command {
    pub(super) fn run(self, home: &Home) -> Result<()> {
        match self {
            Self::Ensure { version, components } => {
                let version = find(version.as_deref())?;
                let store = open_store(home, components.checked(home)?, &Bars::new())?;
                if is_root() {
                    return ensure_all(&store, version, &Bars::new());
                }
                ensure_programs(&store, version, &Bars::new())
            }
            Self::List => list(home),
            Self::Bundle { version, output } => bundle(home, find(version.as_deref())?, output),
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
pub(super) async fn ensure_for(home: &Home, version: &KubernetesVersion, components: Given) -> Result<()> {
    let store = open_store(home, components.checked(home)?, &Bars::new())?;
    if home.is_rootless() {
        return ensure_control_plane(&store, version, &Bars::new());
    }
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

fn list(home: &Home) -> Result<()> {
    println!("{:<20} {:<10} {:<9} {:>8}  PATH", "COMPONENT", "VERSION", "STATE", "SIZE");
    for listed in open_store(home, None, &Bars::new())?.list()? {
        let state = match listed.state {
            State::Built => "built",
            State::Missing => "missing",
            State::Prebuilt => "prebuilt",
            State::Bundled => "bundled",
        };
        let path = listed.path.map(|p| p.display().to_string()).unwrap_or_default();
        let (name, version) = (&listed.component.name, &listed.component.version);
        println!("{name:<20} {version:<10} {state:<9} {:>4} MiB  {path}", listed.size >> 20);
    }
    Ok(())
}

fn bundle(home: &Home, version: &KubernetesVersion, output: Option<PathBuf>) -> Result<()> {
    let store = open_store(home, None, &Bars::new())?;
    ensure_all(&store, version, &Bars::new())?;
    let name = || format!("ekstra-components-{}-{}.tar.zst", version.version, std::env::consts::ARCH).into();
    let packed = store.bundle(version, &output.unwrap_or_else(name), &Bars::new())?;
    println!("{}  {} MiB", packed.path.display(), packed.size >> 20);
    println!("sha256:{}", packed.digest);
    println!("elsewhere: ekstra start --components {}@sha256:{}", packed.path.display(), packed.digest);
    Ok(())
}

/// Becomes kubectl.
pub(super) fn kubectl(home: &Home, args: &[String]) -> Result<i32> {
    let store = open_store(home, None, &Bars::new())?;
    let components = Recipes::get().group(Group::Client, Recipes::get().default_kubernetes());
    let listed = store.list()?;
    let built = listed.iter().any(|l| l.component.name == "kubectl" && l.state != State::Missing);
    let paths =
        if built { store.ensure(&components, &Silent)? } else { store.ensure(&components, &Bars::new())? };
    let program = paths.program("kubectl").context("no component provides kubectl")?;
    Err(std::process::Command::new(program).args(args).exec().into())
}

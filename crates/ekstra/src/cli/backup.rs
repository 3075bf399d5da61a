//! `backup|restore`.

use crate::backup;
use crate::control::Control;
use crate::home::Home;
use crate::privilege::as_root;
use anyhow::{Context, Result, bail};
use clap::Args;
use ekstra_engine::Env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
pub(super) struct Backup {
    /// The file to write [default: ekstra-<time>.tar.gz]
    file: Option<PathBuf>,
}

impl Backup {
    pub(super) async fn run(self, home: &Home) -> Result<()> {
        home.known()?;
        let service = Control::connect(home).await?;
        let service = service.context("the service does not run; `ekstra start` starts it")?;
        let to = self.file.unwrap_or_else(|| format!("ekstra-{}.tar.gz", stamp()).into());
        if to.exists() {
            bail!("{} is there already", to.display());
        }
        let made = service.back_up().await?;
        let from = PathBuf::from(made["path"].as_str().context("the service named no file")?);
        let size = fs::metadata(&from)?.len();
        carry(&from, &to).with_context(|| to.display().to_string())?;
        for cluster in made["missed"].as_array().into_iter().flatten().filter_map(|name| name.as_str()) {
            eprintln!(
                "note: {cluster} did not answer; its data are those of its last snapshot, if there is one"
            );
        }
        let megabytes = size as f64 / 1e6;
        println!("{} ({megabytes:.1} MB); volumes and disks of nodes are not in it", to.display());
        Ok(())
    }
}

/// To another file system, too.
fn carry(from: &Path, to: &Path) -> std::io::Result<()> {
    if fs::rename(from, to).is_ok() {
        return Ok(());
    }
    let copied = fs::copy(from, to).and_then(|_| fs::File::open(to)?.sync_all());
    fs::remove_file(from)?;
    copied.inspect_err(|_| drop(fs::remove_file(to)))
}

/// `20261125T221000Z`, in UTC.
fn stamp() -> String {
    let time = ekstra_wire::iso8601(Env::system().now_ms());
    let digits: String = time.chars().filter(char::is_ascii_alphanumeric).take(15).collect();
    digits + "Z"
}

#[derive(Debug, Args)]
pub(super) struct Restore {
    /// A backup [default: the last copy of the state, made by the service itself]
    file: Option<PathBuf>,
    /// Also when the home has a state that is well; it is moved aside
    #[arg(long)]
    force: bool,
}

impl Restore {
    pub(super) fn run(self, home: &Home) -> Result<()> {
        let file = self.file.as_deref().map(std::path::absolute).transpose()?;
        if let Some(file) = &file {
            fs::File::open(file).with_context(|| file.display().to_string())?;
        }
        if home.root.exists() && home.serving_process()?.is_some() {
            bail!("the service runs; `ekstra stop --all` ends it with its clusters");
        }
        let is_ours = match &file {
            Some(file) => backup::is_rootless(home, file)?,
            None => false,
        };
        if !is_ours && !home.may_serve() {
            home.create()?;
            home.install_program()?;
            let words = ["restore".into()].into_iter().chain(file.map(OsString::from));
            let words: Vec<OsString> = words.chain(self.force.then(|| "--force".into())).collect();
            as_root(home, &words)?;
            println!("restored; `ekstra start` starts the service with it");
            return Ok(());
        }
        let now = Env::system().now_ms();
        let aside = match file {
            Some(file) => backup::restore(home, &file, self.force, now)?,
            None => {
                home.known()?;
                let (at, aside) = backup::restore_state(home, self.force, now)?;
                println!("the state is that of {}", ekstra_wire::iso8601(at));
                aside
            }
        };
        if let Some(aside) = aside {
            println!("what it replaced is in {}", aside.display());
        }
        println!("restored; `ekstra start` starts the service with it");
        Ok(())
    }
}

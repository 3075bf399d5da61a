//! `env|logs|token`: what is told without asking the service, or next to.

use super::again::quoted;
use super::doctor::{Known, PACKAGED_BUILD, RUNTIME, found};
use crate::control::Control;
use crate::credentials::StoredCredentials;
use crate::home::Home;
use anyhow::{Context, Result, bail};
use ekstra_wire::sigv4;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const FOLLOW_EVERY: Duration = Duration::from_millis(300);

pub(super) async fn env(home: &Home, account: Option<String>) -> Result<()> {
    let settings = home.known()?;
    let stored = match account {
        None => StoredCredentials::load(home)?,
        Some(account) => of_account(home, &account).await?,
    };
    let own = [
        "127.0.0.1".to_owned(),
        "localhost".to_owned(),
        settings.address.to_string(),
        settings.balancers().to_string(),
    ];
    let hosts = quoted(exceptions(|name| std::env::var(name).ok(), &own));
    let mut out = std::io::stdout().lock();
    writeln!(out, "export AWS_ENDPOINT_URL=http://127.0.0.1:{}", settings.port)?;
    writeln!(out, "export AWS_ACCESS_KEY_ID={}", stored.access_key_id)?;
    writeln!(out, "export AWS_SECRET_ACCESS_KEY={}", stored.secret_access_key)?;
    writeln!(out, "unset AWS_SESSION_TOKEN AWS_PROFILE")?;
    writeln!(out, "export AWS_REGION={0} AWS_DEFAULT_REGION={0}", settings.region)?;
    writeln!(out, "export NO_PROXY={hosts} no_proxy={hosts}")?;
    Ok(())
}

/// What no proxy is asked for: the shell's exceptions, in either spelling of the variable, and our own.
fn exceptions(variable: impl Fn(&str) -> Option<String>, own: &[String]) -> String {
    let given = ["NO_PROXY", "no_proxy"].map(|name| variable(name).unwrap_or_default()).join(",");
    let mut hosts: Vec<&str> = Vec::new();
    for host in given.split(',').map(str::trim).chain(own.iter().map(String::as_str)) {
        if !host.is_empty() && !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    hosts.join(",")
}

/// The service makes them the first time.
async fn of_account(home: &Home, account: &str) -> Result<StoredCredentials> {
    if let Ok(stored) = StoredCredentials::of_account(home, account) {
        return Ok(stored);
    }
    let service = Control::connect(home).await?;
    let service = service.context("the service does not run; `ekstra start` starts it")?;
    service.make_credentials(account).await?;
    StoredCredentials::of_account(home, account)
}

/// Refuses to start what cannot run. Whoever lacks one tool has a new machine: the other packages are named too.
pub(super) fn check_tools() -> Result<()> {
    let lacks = |(tool, ..): &&Known| found(tool).is_none();
    let needed: Vec<&str> = RUNTIME.iter().filter(lacks).map(|(tool, ..)| *tool).collect();
    if needed.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> =
        RUNTIME.iter().chain(&PACKAGED_BUILD).filter(lacks).map(|(_, packages, _)| *packages).collect();
    bail!("{} missing; Debian and Ubuntu: apt-get install {}", needed.join(", "), packages.join(" "))
}

pub(super) async fn logs(home: &Home, name: &str, follow: bool) -> Result<()> {
    home.known()?;
    let entries = fs::read_dir(home.path("logs"))?;
    let is_log = |p: &std::path::PathBuf| p.extension().is_some_and(|extension| extension == "log");
    let mut files: Vec<_> = entries.flatten().map(|e| e.path()).filter(is_log).collect();
    files.sort();
    let matches =
        |p: &std::path::PathBuf| p.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with(name));
    let found: Vec<_> = files.iter().filter(|p| matches(p)).collect();
    if found.is_empty() {
        let names: Vec<_> = files.iter().filter_map(|p| p.file_stem()?.to_str()).collect();
        bail!("no log begins with {name}; there is {}", names.join(", "));
    }
    let mut read = Vec::new();
    for log in found {
        let older = ekstra_host::older_log(log);
        if older.exists() {
            std::io::copy(&mut fs::File::open(&older)?, &mut std::io::stdout().lock())?;
        }
        let length = std::io::copy(&mut fs::File::open(log)?, &mut std::io::stdout().lock())?;
        read.push((log.clone(), length));
    }
    if !follow {
        return Ok(());
    }
    loop {
        tokio::time::sleep(FOLLOW_EVERY).await;
        for (log, length) in &mut read {
            *length = print_from(log, *length)?;
        }
    }
}

/// What a log has beyond what was read of it; one that is shorter has begun anew.
fn print_from(log: &Path, read: u64) -> Result<u64> {
    let Ok(mut file) = fs::File::open(log) else { return Ok(0) };
    let start = if file.metadata()?.len() < read { 0 } else { read };
    file.seek(SeekFrom::Start(start))?;
    Ok(start + std::io::copy(&mut file, &mut std::io::stdout().lock())?)
}

/// The exec plugin of kubeconfigs; needs the home and nothing else, so it works when the service is down.
pub(super) fn token(home: &Home, cluster: &str, region: &str) -> Result<()> {
    let settings = home.known()?;
    let stored = StoredCredentials::load(home)?;
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?;
    let endpoint = format!("https://{}:{}", settings.address, settings.port);
    let token = sigv4::make_eks_token(&stored.signing(), region, &endpoint, cluster, now);
    println!("{}", sigv4::exec_credential(&token, now));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_of_either_spelling_stay() {
        let own = ["127.0.0.1".to_owned(), "localhost".to_owned()];
        let of = |upper: &'static str, lower: &'static str| {
            let variable = move |name: &str| Some(if name == "NO_PROXY" { upper } else { lower }.to_owned());
            exceptions(variable, &own)
        };
        assert_eq!(of("", ""), "127.0.0.1,localhost");
        assert_eq!(of("localhost, .corp", ""), "localhost,.corp,127.0.0.1");
        assert_eq!(of("a", ".corp,a"), "a,.corp,127.0.0.1,localhost");
    }
}

//! moto's server, the peer that most people have: pinned, in an environment of its own, ended when dropped.

use super::aws::{Aws, get_caller_identity};
use super::service::free_port;
use crate::python;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);
/// What moto calls everybody's account.
const ACCOUNT: &str = "123456789012";

pub(super) struct Moto {
    child: Child,
    port: u16,
}

impl Moto {
    /// Its program, installed if it is not.
    pub(super) fn install() -> Result<PathBuf> {
        let python = python::environment("moto-venv", "xtask/moto-requirements.txt")?;
        Ok(python.with_file_name("moto_server"))
    }

    /// Until it answers.
    pub(super) async fn start(program: &Path) -> Result<Self> {
        let port = free_port()?;
        let mut command = Command::new(program);
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().with_context(|| format!("{command:?}"))?;
        let mut moto = Self { child, port };
        moto.wait().await?;
        Ok(moto)
    }

    async fn wait(&mut self) -> Result<()> {
        let (deadline, aws) = (Instant::now() + PATIENCE, self.aws());
        while aws.call(&get_caller_identity()).await.is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("moto ended: {status}");
            }
            if Instant::now() > deadline {
                bail!("moto does not answer");
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    pub(super) fn aws(&self) -> Aws {
        // It asks for a signature and does not look at it.
        Aws::new(self.port, "AKIAIOSFODNN7EXAMPLE".into(), "any".into(), ACCOUNT.into())
    }

    pub(super) fn process(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        // One that has ended by itself cannot be killed, only waited for.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

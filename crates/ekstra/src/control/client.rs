//! The command line's end of the private socket.

use super::upload::Body;
use crate::home::Home;
use anyhow::{Context, Result, bail};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use tokio::net::UnixStream;

/// A connection to a service that runs.
pub(crate) struct Control(UnixStream);

impl Control {
    /// `None` when no service runs.
    pub(crate) async fn connect(home: &Home) -> Result<Option<Self>> {
        match UnixStream::connect(super::path(home)).await {
            Ok(stream) => Ok(Some(Self(stream))),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                Ok(None)
            }
            Err(error) => Err(error).with_context(|| super::path(home).display().to_string()),
        }
    }

    pub(crate) async fn images(self) -> Result<Value> {
        self.call("GET", "/images", Body::empty()).await
    }

    /// A file, a directory, or `-` for standard input.
    pub(crate) async fn load(self, path: PathBuf, name: Option<&str>) -> Result<Value> {
        self.upload(name, move |to| archive(&path, to)).await
    }

    /// An archive that `write` writes.
    pub(crate) async fn upload(
        self,
        name: Option<&str>,
        write: impl FnOnce(&mut dyn io::Write) -> io::Result<()> + Send + 'static,
    ) -> Result<Value> {
        let query = name.map(|name| format!("?name={}", ekstra_wire::uri_encode(name))).unwrap_or_default();
        self.call("POST", &format!("/images{query}"), Body::of(write)).await
    }

    pub(crate) async fn make_node_image(self, version: &str) -> Result<()> {
        let target = format!("/node-image?version={}", ekstra_wire::uri_encode(version));
        self.call("POST", &target, Body::empty()).await.map(drop)
    }

    pub(crate) async fn status(self) -> Result<Value> {
        self.call("GET", "/status", Body::empty()).await
    }

    /// A backup, as the owner's file in the home.
    pub(crate) async fn back_up(self) -> Result<Value> {
        self.call("POST", "/backup", Body::empty()).await
    }

    /// The file of the account's credentials is there afterwards.
    pub(crate) async fn make_credentials(self, account: &str) -> Result<()> {
        self.call("POST", &format!("/credentials?account={account}"), Body::empty()).await.map(drop)
    }

    /// Asks only; the end is seen by the home's lock.
    pub(crate) async fn stop(self, all: bool) -> Result<()> {
        match self.call("POST", &format!("/stop?all={all}"), Body::empty()).await {
            // It may have ended before its answer was on the way.
            Err(error) if error.is::<hyper::Error>() => Ok(()),
            answer => answer.map(drop),
        }
    }

    async fn call(self, method: &str, target: &str, body: Body) -> Result<Value> {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(self.0)).await?;
        let driver = tokio::spawn(connection);
        let request =
            hyper::Request::builder().method(method).uri(target).header("host", "ekstra").body(body)?;
        let answer = sender.send_request(request).await?;
        let succeeded = answer.status().is_success();
        let body = answer.into_body().collect().await?.to_bytes();
        driver.abort();
        let value: Value = serde_json::from_slice(&body)?;
        if !succeeded {
            bail!("{}", value["message"].as_str().unwrap_or("the service refused"));
        }
        Ok(value)
    }
}

/// What the service can take in as one stream.
fn archive(path: &Path, to: &mut dyn io::Write) -> io::Result<()> {
    if path == Path::new("-") {
        io::copy(&mut io::stdin().lock(), to)?;
    } else if path.is_dir() {
        let mut tar = tar::Builder::new(to);
        tar.append_dir_all("", path)?;
        tar.finish()?;
    } else {
        io::copy(&mut std::fs::File::open(path)?, to)?;
    }
    Ok(())
}

//! The private side of the service: what is nobody's business but the home's owner's (images, stop, what runs), on a
//! UNIX socket in the home.
//!
//! Invariant: none of it is reachable by TCP. The socket is the owner's alone (0600), and a peer that is neither the
//! owner nor root is hung up on, whatever the file's mode.

mod client;
mod upload;

pub(crate) use client::Control;

use crate::backup;
use crate::credentials::{self, parse_account};
use crate::home::Home;
use crate::programs::Components;
use anyhow::{Context, Error, Result, bail};
use bytes::Bytes;
use ekstra_cloud::ec2::instances::MachineImages;
use ekstra_eks::Eks;
use ekstra_host::{ChildId, ChildStatus, Host};
use ekstra_images::import::{ImportOptions, import_reader};
use ekstra_images::{ImageStore, Reference};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

/// What is asked of the service as a whole.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Stop {
    /// Every cluster, too.
    pub(crate) all: bool,
}

/// What the socket's requests work on.
pub(crate) struct Private {
    pub(crate) home: Home,
    pub(crate) host: Arc<dyn Host>,
    pub(crate) components: Arc<Components>,
    pub(crate) eks: Eks,
    pub(crate) stop: mpsc::Sender<Stop>,
}

fn path(home: &Home) -> PathBuf {
    home.path("run/control.sock")
}

pub(crate) fn bind(home: &Home) -> Result<UnixListener> {
    let listener = bind_private(&path(home))?;
    let owner = home.owner()?;
    chown(path(home), Some(owner.uid), Some(owner.gid))?;
    Ok(listener)
}

/// The caller holds the home's lock: a socket that is there is a dead service's.
pub(crate) fn bind_private(path: &Path) -> Result<UnixListener> {
    let _ = fs::remove_file(path);
    let listener = UnixListener::bind(path).with_context(|| path.display().to_string())?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

pub(crate) fn unbind(home: &Home) {
    for socket in [path(home), ekstra_gate::endpoint_path(&home.root)] {
        let _ = fs::remove_file(socket);
    }
}

pub(crate) async fn serve(listener: UnixListener, private: Arc<Private>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) if is_allowed(&stream, &private.home) => {
                tokio::spawn(exchange(stream, private.clone()));
            }
            Ok(_) => tracing::warn!("somebody else's process on the private socket"),
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
        }
    }
}

fn is_allowed(stream: &UnixStream, home: &Home) -> bool {
    let peer = stream.peer_cred().map(|peer| peer.uid());
    peer.is_ok_and(|uid| uid == 0 || home.owner().is_ok_and(|owner| owner.uid == uid))
}

async fn exchange(stream: UnixStream, private: Arc<Private>) {
    let answer = service_fn(move |request: hyper::Request<Incoming>| {
        let private = private.clone();
        async move { Ok::<_, Infallible>(answer(&private, request).await) }
    });
    // A client that hangs up is not an error of ours.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
}

async fn answer(private: &Private, request: hyper::Request<Incoming>) -> hyper::Response<Full<Bytes>> {
    let what = format!("{} {}", request.method(), request.uri().path());
    let query = request.uri().query().unwrap_or_default().to_owned();
    let mut sent = request.into_body();
    let outcome = operate(private, &what, &query, &mut sent).await;
    // What nobody wanted: a client that is cut off while it sends would not read the answer.
    while let Some(Ok(_)) = sent.frame().await {}
    let (status, body) = match outcome {
        Ok(body) => (200, body),
        Err(error) => {
            tracing::info!(what, error = format!("{error:#}"), "refused");
            (400, json!({"message": format!("{error:#}")}))
        }
    };
    let mut response = hyper::Response::new(Full::new(body.to_string().into()));
    *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or(hyper::StatusCode::BAD_REQUEST);
    response
}

async fn operate(private: &Private, what: &str, query: &str, sent: &mut Incoming) -> Result<Value> {
    let argument = |name: &str| argument(query, name);
    match what {
        "GET /images" => private.list_images(),
        "POST /images" => private.load_image(argument("name")?, sent).await,
        "POST /node-image" => private.make_node_image(argument("version")?).await,
        "GET /status" => private.status(),
        "POST /backup" => private.back_up().await,
        "POST /credentials" => private.make_credentials(argument("account")?).await,
        "POST /stop" => {
            private.stop.send(Stop { all: argument("all")?.as_deref() == Some("true") }).await?;
            Ok(json!({}))
        }
        _ => bail!("there is no {what}"),
    }
}

fn argument(query: &str, name: &str) -> Result<Option<String>> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let found = pairs.into_iter().find(|(key, _)| *key == name);
    found.map(|(_, value)| decode(value)).transpose()
}

/// What [`ekstra_wire::uri_encode`] has encoded.
fn decode(text: &str) -> Result<String> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits: Vec<u8> = rest.by_ref().take(2).collect();
        bytes.push(u8::from_str_radix(std::str::from_utf8(&digits)?, 16)?);
    }
    Ok(String::from_utf8(bytes)?)
}

impl Private {
    fn images(&self) -> Result<ImageStore> {
        Ok(ImageStore::open(self.home.path("images"))?)
    }

    fn list_images(&self) -> Result<Value> {
        Ok(present(&self.images()?.list()?))
    }

    /// Takes in an archive as it arrives.
    async fn load_image(&self, name: Option<String>, sent: &mut Incoming) -> Result<Value> {
        let options = ImportOptions { name: name.as_deref().map(Reference::parse).transpose()? };
        let store = self.images()?;
        let (feed, reader) = upload::channel();
        let importing = tokio::task::spawn_blocking(move || import_reader(&store, reader, &options));
        while let Some(frame) = sent.frame().await {
            let frame = frame.map_err(std::io::Error::other);
            let broken = frame.is_err();
            let data = frame.map(|frame| frame.into_data().unwrap_or_default());
            let heard_enough = feed.send(data).await.is_err();
            if broken || heard_enough {
                break;
            }
        }
        drop(feed);
        Ok(present(&importing.await??))
    }

    /// What a node of that version boots from. The programs in it are there, or are built.
    async fn make_node_image(&self, version: Option<String>) -> Result<Value> {
        let (components, version) = (self.components.clone(), version.context("version is missing")?);
        let made = tokio::task::spawn_blocking(move || components.layers(&version)).await?;
        made.map_err(anyhow::Error::msg)?;
        Ok(json!({}))
    }

    /// Of an account that has none yet.
    async fn make_credentials(&self, account: Option<String>) -> Result<Value> {
        let account = parse_account(&account.unwrap_or_default()).map_err(Error::msg)?;
        credentials::ensure(&self.home, &self.eks.cloud, &account).await?;
        Ok(json!({}))
    }

    /// With the data of every cluster as they are now; those that do not answer are in it as they last were.
    async fn back_up(&self) -> Result<Value> {
        let missed = self.eks.snapshot_all().await;
        let (home, store) = (self.home.clone(), self.eks.cloud.store.clone());
        let now = self.eks.cloud.env.now_ms();
        let path = tokio::task::spawn_blocking(move || backup::create(&home, &store, now)).await??;
        Ok(json!({"path": path, "missed": missed}))
    }

    fn status(&self) -> Result<Value> {
        let children = self.host.children()?;
        let running = |id: &ChildId| matches!(self.host.child_status(id), Ok(ChildStatus::Running(_)));
        let count =
            |prefix: &str| children.iter().filter(|id| id.0.starts_with(prefix) && running(id)).count();
        let gate = crate::gate_keeper::CHILDREN.iter().any(|id| running(&ChildId((*id).into())));
        Ok(json!({"gate": gate, "controlPlaneProcesses": count("cp-"), "instances": count("i-")}))
    }
}

fn present(images: &[ekstra_images::store::Image]) -> Value {
    let one = |image: &ekstra_images::store::Image| json!({"name": image.reference.to_string(), "digest": image.target.digest.to_string()});
    json!({"images": images.iter().map(one).collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests;

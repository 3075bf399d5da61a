//! `image load|pack|list`: images for every node, written once.

use crate::control::Control;
use crate::home::Home;
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use ekstra_images::digest::Digest;
use ekstra_images::import::{ImportOptions, import_path, import_reader};
use ekstra_images::pack::{PackOptions, Packed, pack};
use ekstra_images::{ImageStore, Reference};
use serde_json::{Value, json};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Take in a docker archive or an OCI layout (a file, a directory, or - for standard input)
    #[command(after_help = "Examples:
  docker save my-app:1 | ekstra image load -
  ekstra image load image.tar --name my-app:1")]
    Load {
        path: PathBuf,
        /// A name, for an archive that has none
        #[arg(long)]
        name: Option<String>,
    },
    /// Make an image of a directory or a tar file
    #[command(
        after_help = "Example:\n  ekstra image pack rootfs --name hello:1 --entrypoint /hello --env GREETING=hi"
    )]
    Pack(Pack),
    /// What the nodes can pull from here
    List,
}

#[derive(Debug, Args)]
pub(super) struct Pack {
    rootfs: PathBuf,
    #[arg(long)]
    name: String,
    #[arg(long, num_args = 1.., allow_hyphen_values = true)]
    entrypoint: Vec<String>,
    #[arg(long = "env")]
    env: Vec<String>,
    #[arg(long)]
    workdir: Option<String>,
    #[arg(long)]
    user: Option<String>,
}

/// What makes a layout of an image store's directory.
const LAYOUT: [&str; 3] = ["oci-layout", "index.json", "blobs"];

impl Command {
    pub(super) async fn run(self, home: &Home) -> Result<()> {
        match Control::connect(home).await? {
            Some(service) => self.through(service).await,
            None => self.directly(home),
        }
    }

    /// By the service, which alone reads and writes the home's images while it runs.
    async fn through(self, service: Control) -> Result<()> {
        match self {
            Self::Load { path, name } => {
                if path != Path::new("-") {
                    std::fs::metadata(&path).with_context(|| path.display().to_string())?;
                }
                tell(&service.load(path, name.as_deref()).await?);
            }
            Self::Pack(pack) => {
                let name = pack.name.clone();
                let work = Scratch::new()?;
                let layout = work.0.clone();
                tokio::task::block_in_place(|| {
                    let store = ImageStore::open(&layout)?;
                    let packed = pack.into(&store)?;
                    write_index(&store, &packed.digest)
                })?;
                let write = move |to: &mut dyn io::Write| {
                    let mut tar = tar::Builder::new(to);
                    for part in LAYOUT {
                        let path = layout.join(part);
                        match path.is_dir() {
                            true => tar.append_dir_all(part, path)?,
                            false => tar.append_path_with_name(path, part)?,
                        }
                    }
                    tar.finish()
                };
                tell(&service.upload(Some(&name), write).await?);
            }
            Self::List => tell(&service.images().await?),
        }
        Ok(())
    }

    fn directly(self, home: &Home) -> Result<()> {
        if !home.may_serve() {
            bail!("the service does not run; `ekstra start` starts it");
        }
        home.create()?;
        let store = ImageStore::open(home.path("images"))?;
        let images = match self {
            Self::Load { path, name } => {
                let options = ImportOptions { name: name.as_deref().map(Reference::parse).transpose()? };
                match path == Path::new("-") {
                    true => import_reader(&store, io::stdin().lock(), &options)?,
                    false => {
                        import_path(&store, &path, &options).with_context(|| path.display().to_string())?
                    }
                }
            }
            Self::Pack(pack) => {
                let name = pack.name.clone();
                println!("{name} {}", pack.into(&store)?.digest);
                return Ok(());
            }
            Self::List => store.list()?,
        };
        for image in images {
            println!("{} {}", image.reference, image.target.digest);
        }
        Ok(())
    }
}

impl Pack {
    fn into(self, store: &ImageStore) -> Result<Packed> {
        let mut options = PackOptions::new(Reference::parse(&self.name)?);
        options.entrypoint = self.entrypoint;
        options.env = self.env;
        options.workdir = self.workdir;
        options.user = self.user;
        let packed = pack(store, &self.rootfs, &options)?;
        for skipped in &packed.skipped {
            eprintln!("left out (neither file, directory nor link): {}", skipped.display());
        }
        Ok(packed)
    }
}

/// The store's blobs lie as those of a layout do; this makes it one.
fn write_index(store: &ImageStore, digest: &Digest) -> Result<()> {
    let images = store.list()?;
    let image = images.iter().find(|image| image.target.digest == *digest).context("the image is gone")?;
    let manifests = json!([image.target]);
    let index = json!({"schemaVersion": 2, "manifests": manifests});
    std::fs::write(store.dir().join("index.json"), index.to_string())?;
    Ok(std::fs::write(store.dir().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?)
}

fn tell(answer: &Value) {
    for image in answer["images"].as_array().into_iter().flatten() {
        let text = |name: &str| image[name].as_str().unwrap_or_default();
        println!("{} {}", text("name"), text("digest"));
    }
}

/// A directory of this command alone; goes with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("ekstra-pack-{}", std::process::id()));
        std::fs::DirBuilder::new().mode(0o700).create(&path).with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

//! `image load|pack|list`: images for every node, written once.

use crate::home::Home;
use anyhow::{Context, Result};
use clap::Subcommand;
use ekstra_images::import::{ImportOptions, import_path, import_reader};
use ekstra_images::pack::{PackOptions, pack};
use ekstra_images::{ImageStore, Reference};
use std::path::{Path, PathBuf};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Take in a docker archive or an OCI layout (a file, a directory, or - for standard input)
    Load {
        path: PathBuf,
        /// A name, for an archive that has none
        #[arg(long)]
        name: Option<String>,
    },
    /// Make an image of a directory or a tar file
    Pack {
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
    },
    /// What the nodes can pull from here
    List,
}

impl Command {
    pub(super) fn run(self, home: &Home) -> Result<()> {
        home.create()?;
        let store = ImageStore::open(home.path("images"))?;
        match self {
            Self::Load { path, name } => load(&store, &path, name.as_deref()),
            Self::Pack { rootfs, name, entrypoint, env, workdir, user } => {
                let mut options = PackOptions::new(Reference::parse(&name)?);
                options.entrypoint = entrypoint;
                options.env = env;
                options.workdir = workdir;
                options.user = user;
                let packed = pack(&store, &rootfs, &options)?;
                for skipped in &packed.skipped {
                    eprintln!("left out (neither file, directory nor link): {}", skipped.display());
                }
                println!("{name} {}", packed.digest);
                Ok(())
            }
            Self::List => {
                for image in store.list()? {
                    println!("{} {}", image.reference, image.target.digest);
                }
                Ok(())
            }
        }
    }
}

fn load(store: &ImageStore, path: &Path, name: Option<&str>) -> Result<()> {
    let options = ImportOptions { name: name.map(Reference::parse).transpose()? };
    let images = if path == Path::new("-") {
        import_reader(store, std::io::stdin().lock(), &options)?
    } else {
        import_path(store, path, &options).with_context(|| path.display().to_string())?
    };
    for image in images {
        println!("{} {}", image.reference, image.target.digest);
    }
    Ok(())
}

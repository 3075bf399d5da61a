//! The pinned modules, compiled in: the installed program builds components without its own checkout.
//! Invariant: every module that a recipe names is here.

/// The recipes' text.
pub(crate) const RECIPES: &str = include_str!("../../../components/recipes.toml");

/// The container images' recipes.
pub(crate) const IMAGES: &str = include_str!("../../../components/images.toml");

/// What the node image consists of.
pub(crate) const NODE_IMAGE: &str = include_str!("../../../components/node-image/image.toml");

/// Every package of the node image, with its digest, for each architecture as dpkg calls it.
pub(crate) const PACKAGE_LOCKS: &[(&str, &str)] = &[
    ("amd64", include_str!("../../../components/node-image/packages.amd64.lock")),
    ("arm64", include_str!("../../../components/node-image/packages.arm64.lock")),
];

/// The files of one directory of `components/`.
#[derive(Debug)]
pub(crate) struct Module {
    pub(crate) dir: &'static str,
    /// File name and content.
    pub(crate) files: &'static [(&'static str, &'static str)],
}

macro_rules! module {
    ($dir:literal, $($file:literal),+ $(; $shared:literal: $($more:literal),+)?) => {
        Module {
            dir: $dir,
            files: &[
                $(($file, include_str!(concat!("../../../components/", $dir, "/", $file)))),+
                $(, $(($more, include_str!(concat!("../../../components/", $shared, "/", $more)))),+)?
            ],
        }
    };
}

pub(crate) const MODULES: &[Module] = &[
    module!("cni-plugins", "go.mod", "go.sum"),
    module!("containerd", "go.mod", "go.sum"),
    module!("coredns", "go.mod", "go.sum"),
    module!("etcd", "go.mod", "go.sum"),
    module!("kubernetes-1.34", "go.mod", "go.sum"; "kube-control": "main.go", "memory.go"),
    module!("kubernetes-1.35", "go.mod", "go.sum"; "kube-control": "main.go", "memory.go"),
    module!("kubernetes-1.36", "go.mod", "go.sum"; "kube-control": "main.go", "memory.go"),
    module!("kubernetes-1.37", "go.mod", "go.sum"; "kube-control": "main.go", "memory.go"),
    module!("metrics-server", "go.mod", "go.sum"),
    module!("pause", "go.mod", "go.sum", "main.go"),
    module!("runc", "go.mod", "go.sum"),
];

/// The module of that directory name.
pub(crate) fn module(dir: &str) -> Option<&'static Module> {
    MODULES.iter().find(|module| module.dir == dir)
}

impl Module {
    /// The Go release the module asks for, as in its `go` directive.
    pub(crate) fn go_release(&self) -> &'static str {
        let go_mod = self.files.iter().find(|(name, _)| *name == "go.mod").map_or("", |(_, text)| text);
        go_mod.lines().find_map(|line| line.strip_prefix("go ")).map_or("1.21", str::trim)
    }
}

//! Bundles of a cache that a stand-in for Go filled, taken into an empty one on a machine without Go.

use super::*;
use crate::progress::Silent;
use crate::recipe::{Component, Group, Recipes};
use crate::store::{MANIFEST as COMPONENT, State, Store};
use crate::tools::Tools;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, symlink};

struct Bench {
    home: tempfile::TempDir,
    bundle: Packed,
}

fn release() -> &'static KubernetesVersion {
    Recipes::get().default_kubernetes()
}

/// No program at all is found by it.
fn store(directory: &Path) -> Store {
    Store::with_tools(directory, None, Tools::on(OsString::new())).expect("opens")
}

/// A cache as builds leave it, with a base that has a link, a set-user-ID program and a closed directory.
fn fill(cache: &Path) {
    let store = store(cache);
    for recipe in Recipes::get().all() {
        let site = store.site(&recipe.component).expect("offered");
        let Component { name, version } = &recipe.component;
        let dir = cache.join("components").join(format!("{name}-{version}-{}", site.hasher.key()));
        fs::create_dir_all(dir.join("bin")).expect("made");
        for program in recipe.programs.keys() {
            fs::write(dir.join("bin").join(program), format!("program {program}")).expect("written");
        }
        for (program, names) in &recipe.links {
            names.iter().for_each(|n| symlink(program, dir.join("bin").join(n)).expect("linked"));
        }
        let manifest = serde_json::json!({
            "name": name, "version": version, "recipe": site.hasher.key(), "go": "go1.99.0 linux/amd64",
        });
        fs::write(dir.join(COMPONENT), manifest.to_string()).expect("written");
    }
    let base = crate::node_image::base_directory(&store).expect("the lock parses").join("rootfs");
    fs::create_dir_all(base.join("root")).expect("made");
    fs::write(base.join("su"), "su").expect("written");
    fs::set_permissions(base.join("su"), fs::Permissions::from_mode(0o4755)).expect("set");
    fs::set_permissions(base.join("root"), fs::Permissions::from_mode(0o500)).expect("set");
    symlink("su", base.join("sudo")).expect("linked");
}

impl Bench {
    fn new() -> Self {
        let home = tempfile::tempdir().expect("tmp");
        fill(&home.path().join("full"));
        let target = home.path().join("x.tar.zst");
        let bundle = store(&home.path().join("full")).bundle(release(), &target, &Silent).expect("packed");
        Self { home, bundle }
    }

    fn given(&self) -> Bundle {
        Bundle { origin: Origin::File(self.bundle.path.clone()), digest: self.bundle.digest.clone() }
    }

    fn other(&self, name: &str) -> Store {
        store(&self.home.path().join(name))
    }

    /// The same bundle with something changed in its tar, and its new digest.
    fn rewritten(&self, change: impl Fn(&mut Vec<u8>)) -> Bundle {
        let file = fs::File::open(&self.bundle.path).expect("there");
        let mut tar = zstd::decode_all(file).expect("zstd");
        change(&mut tar);
        let packed = zstd::encode_all(tar.as_slice(), 1).expect("zstd");
        let path = self.home.path().join("changed.tar.zst");
        fs::write(&path, &packed).expect("written");
        Bundle { origin: Origin::File(path), digest: digest_of(packed.as_slice()).expect("hashed") }
    }
}

fn replace(bytes: &mut [u8], from: &[u8], to: &[u8]) {
    assert_eq!(from.len(), to.len());
    let at = bytes.windows(from.len()).position(|window| window == from).expect("there");
    bytes[at..at + to.len()].copy_from_slice(to);
}

#[test]
fn what_was_packed_is_there_without_go() {
    let bench = Bench::new();
    let other = bench.other("empty");
    other.take(&bench.given(), &Silent).expect("taken");
    let control = Recipes::get().group(Group::ControlPlane, release());
    let paths = other.ensure(&control, &Silent).expect("nothing has to be built");
    let program = paths.program("kube-apiserver").expect("provided");
    assert_eq!(fs::read_to_string(program).expect("a link that leads somewhere"), "program kube-control");
    let of_release = |l: &&crate::Listed| l.state == State::Bundled;
    assert!(other.list().expect("listed").iter().filter(of_release).count() > 8);
    if unpack::is_root() {
        let base = other.node_base(&Silent).expect("bundled");
        assert_eq!(fs::read_link(base.join("sudo")).expect("a link"), Path::new("su"));
        let mode = |name: &str| fs::metadata(base.join(name)).expect("there").permissions().mode() & 0o7777;
        assert_eq!((mode("su"), mode("root")), (0o4755, 0o500));
    }
    fs::remove_file(&bench.bundle.path).expect("removed");
    other.take(&bench.given(), &Silent).expect("what was taken is not read again");
}

#[test]
fn another_digest_takes_nothing() {
    let bench = Bench::new();
    let other = bench.other("empty");
    let wrong = Bundle { digest: "0".repeat(64), ..bench.given() };
    let refused = other.take(&wrong, &Silent).expect_err("refused").to_string();
    assert!(
        refused.contains(&bench.bundle.digest) && refused.contains("nothing of it was taken"),
        "{refused}"
    );
    assert_eq!(fs::read_dir(other.cache_dir().join("components")).expect("there").count(), 0);
    assert_eq!(fs::read_dir(other.cache_dir().join("tmp")).expect("there").count(), 0);
}

#[test]
fn a_file_that_is_not_what_the_list_says_takes_nothing() {
    let bench = Bench::new();
    let other = bench.other("empty");
    let bundle = bench.rewritten(|tar| replace(tar, b"program etcd", b"program evil"));
    let refused = other.take(&bundle, &Silent).expect_err("refused").to_string();
    assert!(refused.contains("bin/etcd is not what its list says"), "{refused}");
    assert_eq!(fs::read_dir(other.cache_dir().join("components")).expect("there").count(), 0);
}

#[test]
fn places_outside_of_the_cache_are_refused() {
    let bench = Bench::new();
    let other = bench.other("empty");
    for (from, to) in
        [("\"components/pause", "\"elsewhere./pause"), ("\"components/pause", "\"../../.././pause")]
    {
        let bundle = bench.rewritten(|tar| replace(tar, from.as_bytes(), to.as_bytes()));
        let refused = other.take(&bundle, &Silent).expect_err("refused").to_string();
        assert!(refused.contains("has no place in a cache"), "{refused}");
    }
}

#[test]
fn what_is_no_bundle_says_so() {
    let bench = Bench::new();
    let other = bench.other("empty");
    let path = bench.home.path().join("text");
    fs::write(&path, "not zstd at all").expect("written");
    let digest = digest_of(fs::File::open(&path).expect("there")).expect("hashed");
    let bundle = Bundle { origin: Origin::File(path), digest };
    let refused = other.take(&bundle, &Silent).expect_err("refused").to_string();
    assert!(refused.contains("is not a bundle of components"), "{refused}");
    let gone = Bundle { origin: Origin::File("/nowhere".into()), digest: "0".repeat(64) };
    assert!(other.take(&gone, &Silent).expect_err("refused").to_string().starts_with("/nowhere: "));
}

/// Answers one request after another on the loopback, as long as it is asked: a redirect, then the file, else 404.
fn web_server(file: Vec<u8>) -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut asked = String::new();
            BufReader::new(&stream).read_line(&mut asked).expect("a request");
            let (head, body): (&str, &[u8]) = match asked.split(' ').nth(1) {
                Some("/latest") => ("302 Found\r\nLocation: /x.tar.zst", b""),
                Some("/x.tar.zst") => ("200 OK", &file),
                _ => ("404 Not Found", b"no"),
            };
            let head =
                format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            // A client may have seen enough.
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
        }
    });
    address
}

#[test]
fn from_a_url_it_is_the_digest_that_counts() {
    let bench = Bench::new();
    let address = web_server(fs::read(&bench.bundle.path).expect("packed"));
    let take = |cache: &str, path: &str, digest: &str| {
        let origin = Origin::Url(format!("http://{address}{path}"));
        let other = Store::with_tools(&bench.home.path().join(cache), None, Tools::of_environment());
        other.expect("opens").take(&Bundle { origin, digest: digest.to_owned() }, &Silent).map(drop)
    };
    take("by-redirect", "/latest", &bench.bundle.digest).expect("taken");
    let control = Recipes::get().group(Group::ControlPlane, release());
    bench.other("by-redirect").ensure(&control, &Silent).expect("nothing has to be built");
    let refused = take("other-digest", "/x.tar.zst", &"0".repeat(64)).expect_err("refused").to_string();
    assert!(refused.contains(&bench.bundle.digest), "{refused}");
    let refused = take("no-file", "/elsewhere", &bench.bundle.digest).expect_err("refused").to_string();
    assert!(refused.contains("404"), "{refused}");
    for cache in ["other-digest", "no-file"] {
        let left =
            |part: &str| fs::read_dir(bench.home.path().join(cache).join(part)).map_or(0, Iterator::count);
        assert_eq!((left("components"), left("tmp")), (0, 0), "{cache}");
    }
}

#[test]
fn without_curl_a_url_says_what_to_install() {
    let bench = Bench::new();
    let url = Bundle { origin: Origin::Url("http://127.0.0.1:1/x".into()), digest: "0".repeat(64) };
    let refused = bench.other("empty").take(&url, &Silent).expect_err("refused").to_string();
    assert!(refused.contains("apt-get install curl"), "{refused}");
}

//! The socket from end to end, without a service behind it.

use super::*;
use ekstra_images::pack::{PackOptions, pack};
use ekstra_testkit::TestEnv;
use std::io::Write;
use std::path::Path;

struct Running {
    _directory: tempfile::TempDir,
    home: Home,
    stops: mpsc::Receiver<Stop>,
}

async fn running() -> Running {
    let directory = tempfile::tempdir().expect("tempdir");
    let home = Home { root: directory.path().join("home") };
    home.create().expect("makes");
    fs::create_dir_all(home.path("run")).expect("makes");
    let cache = directory.path().join("cache");
    let (stop, stops) = mpsc::channel(1);
    let TestEnv { cloud, host, names, .. } = TestEnv::new().await;
    let store = ekstra_components::Store::open(cache, None).expect("opens");
    let components = Arc::new(Components::of_store(&home, store));
    let eks = Eks::new(cloud, host.clone(), names, components.clone());
    let private = Private { home: home.clone(), host, components, eks, stop };
    tokio::spawn(serve(bind(&home).expect("binds"), Arc::new(private)));
    Running { _directory: directory, home, stops }
}

async fn control(home: &Home) -> Control {
    Control::connect(home).await.expect("connects").expect("is there")
}

/// A layout as another tool would write it.
fn layout(directory: &Path) -> PathBuf {
    let root = directory.join("rootfs");
    fs::create_dir_all(&root).expect("makes");
    // Larger than what is under way at any moment.
    fs::write(root.join("data"), vec![7; 3 << 20]).expect("writes");
    let path = directory.join("layout");
    let store = ImageStore::open(&path).expect("opens");
    let name = Reference::parse("x:1").expect("parses");
    let packed = pack(&store, &root, &PackOptions::new(name)).expect("packs");
    let target = store.list().expect("lists").remove(0).target;
    assert_eq!(target.digest, packed.digest);
    let index = json!({"schemaVersion": 2, "manifests": [target]});
    fs::write(path.join("index.json"), index.to_string()).expect("writes");
    fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("writes");
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_is_taken_in_as_it_arrives() {
    let service = running().await;
    let directory = tempfile::tempdir().expect("tempdir");
    let path = layout(directory.path());
    let loaded = control(&service.home).await.load(path, Some("hello world:1")).await;
    assert!(loaded.expect_err("not a name").to_string().contains("hello world"), "what was encoded arrives");
    let loaded = control(&service.home).await.load(directory.path().join("layout"), Some("hello:1")).await;
    let loaded = loaded.expect("loads");
    assert_eq!(control(&service.home).await.images().await.expect("lists"), loaded);
    assert!(loaded["images"][0]["name"].as_str().is_some_and(|name| name.ends_with("hello:1")), "{loaded}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_or_breaks_off_is_told_and_leaves_no_name() {
    let service = running().await;
    let rubbish = |to: &mut dyn Write| to.write_all(&vec![0x5a; 4 << 20]);
    let told = control(&service.home).await.upload(Some("x:1"), rubbish).await.expect_err("no archive");
    assert!(told.to_string().contains("tar"), "{told}");
    let broken = |to: &mut dyn Write| {
        to.write_all(&[0; 4096])?;
        Err(std::io::Error::other("the disk is gone"))
    };
    control(&service.home).await.upload(Some("x:1"), broken).await.expect_err("breaks off");
    let images = control(&service.home).await.images().await.expect("lists");
    assert_eq!(images, json!({"images": []}));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_the_owner_s_alone_and_takes_what_is_asked() {
    let mut service = running().await;
    let mode = fs::metadata(path(&service.home)).expect("is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    control(&service.home).await.stop(true).await.expect("is taken");
    assert_eq!(service.stops.recv().await, Some(Stop { all: true }));
    let status = control(&service.home).await.status().await.expect("answers");
    assert_eq!(status, json!({"gate": false, "controlPlaneProcesses": 0, "instances": 0}));
    unbind(&service.home);
    assert!(Control::connect(&service.home).await.expect("looks").is_none());
}

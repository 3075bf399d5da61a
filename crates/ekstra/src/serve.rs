//! `ekstra serve`: the composition of the service.
//!
//! Order: the home's lock, its settings and its state; what an interrupted `stop --all` left; the endpoint's port; the
//! machine's addresses; then listeners, gate and reconcilers start together. What fails before the port is bound has
//! written to the home and to the registry of homes alone.

use crate::control::{self, Private, Stop};
use crate::home::{Home, Wish, registry_directory, sync};
use crate::http::Door;
use crate::privilege::{Owner, is_root};
use crate::programs::Components;
use crate::service::Service;
use crate::takedown::service_address;
use crate::{backup, credentials, gate_keeper, http, proxies, takedown, tls};
use anyhow::{Context, Result, anyhow};
use ekstra_cloud::api::Router;
use ekstra_cloud::ec2::instances::InstanceReconciler;
use ekstra_cloud::ec2::routers::RouterReconciler;
use ekstra_cloud::ec2::volumes::{SnapshotReconciler, VolumeReconciler};
use ekstra_cloud::elb::BalancerReconciler;
use ekstra_cloud::trail::Trail;
use ekstra_cloud::{Cloud, Settings, ensure_scope};
use ekstra_components::Prebuilt;
use ekstra_domain::names::{DEFAULT_ACCOUNT, Scope};
use ekstra_eks::{
    AddonReconciler, ClusterReconciler, Eks, EtcdSnapshots, IdentityProviderReconciler, InsightsReconciler,
    Liveness, NodeControllers, NodegroupReconciler, admission_webhooks, aws_auth_mirrors, load_balancers,
    metrics_apis, storage_controllers,
};
use ekstra_engine::{Env, Reconciler, drive};
use ekstra_host::descriptors::raise_descriptors;
use ekstra_host::faults::{self, Faulty};
use ekstra_host::{Host, LOG_LIMIT, Names, raise_settings, rotate_logs};
use ekstra_store::{OpenError, Store};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};

/// The service is killed after so many steps (`ekstra_host::faults`).
const CRASH_AFTER: &str = "EKSTRA_CRASH_AFTER";
/// A log grows by less than its limit in this time, and a firewall's new rules stop nodes for no longer.
const TEND_EVERY: Duration = Duration::from_secs(15);
/// When the first call has been answered.
const STARTED: Duration = Duration::from_secs(1);

pub(crate) struct Options {
    pub(crate) home: Home,
    /// The port of the AWS endpoint, at the first start.
    pub(crate) listen: Option<u16>,
    pub(crate) region: String,
    /// Run without root, at the first start.
    pub(crate) rootless: bool,
    pub(crate) drain_limit_seconds: Option<i64>,
    /// Programs that are taken instead of built ones.
    pub(crate) components: Option<Prebuilt>,
    /// Another user's cache, whose builds are used.
    pub(crate) lender: Option<PathBuf>,
    /// Leave the terminal that it was started from.
    pub(crate) detached: bool,
}

/// What remains to be done when no thread of the service is left that could start anything.
pub(crate) type Last = Box<dyn FnOnce() -> Result<()> + Send>;

/// What everything stands on.
struct Ground {
    settings: Settings,
    store: Store,
    names: Names,
    host: Arc<dyn Host>,
    components: Arc<Components>,
    cloud: Cloud,
}

pub(crate) async fn run(options: Options) -> Result<Option<Last>> {
    if options.detached {
        nix::unistd::setsid()?;
    }
    let home = options.home.clone();
    let rootless = options.rootless || home.is_rootless();
    if !rootless && !is_root() {
        anyhow::bail!("the service needs root (`ekstra start` asks for it by sudo), or --rootless");
    }
    home.create()?;
    if rootless && home.owner()? != Owner::own() {
        anyhow::bail!(
            "the service of {} runs as the user whose home it is, without root",
            home.root.display()
        );
    }
    home.create_parts()?;
    raise_descriptors()?;
    // One that was started in the background was told by who started it.
    if !options.detached {
        proxies::remember(&home)?;
    }
    let lock = home.lock()?;
    if backup::is_begun(&home) {
        anyhow::bail!("a restore of {} was interrupted; run `ekstra restore` again", home.root.display());
    }
    let ground = prepare(&home, &options, rootless)?;
    takedown::finish(&home, &*ground.host, &ground.settings)?;
    let (ask, mut asked) = mpsc::channel(1);
    let (stop, shutdown) = watch::channel(false);
    let (mut tasks, mut doors) = compose(&home, &ground, &options, ask, &shutdown).await?;
    let Ground { settings, store, host, .. } = ground;
    tracing::info!(port = settings.port, address = %settings.address, "serving");
    let end = tokio::select! {
        signal = wait_for_signal() => signal.map(|()| Stop { all: false }),
        Some(stop) = asked.recv() => Ok(stop),
        () = store.closed() => Err(anyhow!("the state can no longer be written; start the service again")),
        Some(ended) = doors.join_next() => Err(anyhow!("the endpoint ended ({ended:?}); start it again")),
        Some(ended) = tasks.join_next() => Err(anyhow!("a part of the service ended ({ended:?}); start it again")),
    };
    stop.send_replace(true);
    // Whoever has asked is answered.
    doors.join_all().await;
    tasks.shutdown().await;
    control::unbind(&home);
    let take_down = move || {
        let _lock = lock;
        takedown::take_down(&home, &*host, &settings)?;
        takedown::restore_machine(&home, &settings)
    };
    Ok(if end?.all { Some(Box::new(take_down)) } else { None })
}

fn prepare(home: &Home, options: &Options, rootless: bool) -> Result<Ground> {
    let components = Components::open(home, options.components.clone(), options.lender.clone())?;
    let env = Env::system();
    let settings =
        home.settle(&Wish { env: &env, listen: options.listen, region: &options.region, rootless })?;
    let store = Store::open(&home.state_file()).map_err(|error| with_remedy(home, error))?;
    home.install_program()?;
    let names = home.names(&settings);
    let mut host = home.host(&settings)?;
    if let Some(steps) = steps_to_live()? {
        tracing::warn!(steps, "{CRASH_AFTER} is set: ends after so many steps");
        faults::arm(steps);
        store.on_commit(faults::step);
        host = Arc::new(Faulty(host));
    }
    let cloud = Cloud {
        store: store.clone(),
        master: home.master_key(&env)?,
        env,
        settings: Arc::new(settings.clone()),
        home: home.root.clone(),
        router_use: Arc::default(),
    };
    Ok(Ground { settings, store, names, host, components: Arc::new(components), cloud })
}

/// For tests of recovery alone.
fn steps_to_live() -> Result<Option<u64>> {
    let given = std::env::var(CRASH_AFTER).ok().filter(|text| !text.is_empty());
    given.map(|text| text.parse().with_context(|| format!("{CRASH_AFTER}={text}"))).transpose()
}

/// A damaged state has copies.
fn with_remedy(home: &Home, error: OpenError) -> anyhow::Error {
    match (&error, backup::newest(home)) {
        (OpenError::Corrupt { path, detail }, Some((at, _))) => anyhow!(
            "{} is damaged ({detail}); it was not touched. `ekstra restore` puts its copy of {} in its place",
            path.display(),
            ekstra_wire::iso8601(at)
        ),
        _ => error.into(),
    }
}

/// Binds every listener, then starts everything that runs as long as the service; the listeners of the AWS endpoint end by
/// themselves.
async fn compose(
    home: &Home,
    ground: &Ground,
    options: &Options,
    ask: mpsc::Sender<Stop>,
    shutdown: &watch::Receiver<bool>,
) -> Result<(JoinSet<()>, JoinSet<()>)> {
    let Ground { settings, names, host, components, cloud, .. } = ground;
    let furnished = ensure_scope(cloud, &Scope::new(DEFAULT_ACCOUNT, &settings.region)).await;
    furnished.map_err(|refusal| anyhow!("{refusal:?}"))?;
    credentials::ensure(home, cloud, DEFAULT_ACCOUNT).await?;
    let loopback = bind(Ipv4Addr::LOCALHOST, settings.port).await?;
    prepare_machine(&**host, home, settings)?;
    let mut listeners = vec![loopback];
    if !settings.rootless {
        listeners.push(bind(settings.address, settings.port).await?);
    }
    let private_listener = control::bind(home)?;
    let given_listener = control::bind_private(&ekstra_gate::endpoint_path(&home.root))?;
    let mut eks = Eks::new(cloud.clone(), host.clone(), names.clone(), components.clone());
    eks.drain_limit_seconds = options.drain_limit_seconds;
    eks.proxies = proxies::remembered(home);
    let mut router = Router::new(cloud.clone());
    ekstra_cloud::serve(&mut router, cloud);
    ekstra_eks::serve(&mut router, &eks);
    let trail = Trail::open(&home.root).context("the records of calls")?;
    let service =
        Arc::new(Service { cloud: cloud.clone(), router, trail, home: home.root.display().to_string() });
    let door = Door { tls: tls::acceptor(home, settings.address)?, service, shutdown: shutdown.clone() };
    if !settings.rootless {
        let prefetch = components.clone();
        tokio::task::spawn_blocking(move || prefetch.prefetch());
    }
    let mut doors = JoinSet::new();
    for listener in listeners {
        doors.spawn(http::serve(listener, door.clone()));
    }
    doors.spawn(http::serve_given(given_listener, door));
    let mut tasks = JoinSet::new();
    let private = Private {
        home: home.clone(),
        host: host.clone(),
        components: components.clone(),
        eks: eks.clone(),
        stop: ask,
    };
    tasks.spawn(control::serve(private_listener, Arc::new(private)));
    tasks.spawn(gate_keeper::keep(host.clone(), home.clone()));
    tasks.spawn(backup::keep(cloud.store.clone(), home.clone(), cloud.env.clone()));
    tasks.spawn(tend(host.clone(), home.clone(), settings.clone()));
    start_reconcilers(&mut tasks, ground, eks, shutdown);
    Ok((tasks, doors))
}

fn start_reconcilers(tasks: &mut JoinSet<()>, ground: &Ground, eks: Eks, shutdown: &watch::Receiver<bool>) {
    let Ground { store, names, host, components, cloud, .. } = ground;
    let (cloud, host, names) = (cloud.clone(), host.clone(), names.clone());
    let routers = RouterReconciler { cloud: cloud.clone(), host: host.clone(), names: names.clone() };
    let volumes = VolumeReconciler { cloud: cloud.clone(), host: host.clone() };
    let snapshots = SnapshotReconciler::new(cloud.clone(), host.clone());
    let balancers = BalancerReconciler::new(cloud.clone(), host.clone(), names.clone());
    let instances = InstanceReconciler { cloud, host, names, images: components.clone() };
    start(tasks, routers, store, shutdown);
    start(tasks, instances, store, shutdown);
    start(tasks, balancers, store, shutdown);
    start(tasks, volumes, store, shutdown);
    start(tasks, snapshots, store, shutdown);
    start(tasks, ClusterReconciler::new(eks.clone()), store, shutdown);
    start(tasks, Liveness::new(eks.clone()), store, shutdown);
    start(tasks, EtcdSnapshots::new(eks.clone()), store, shutdown);
    start(tasks, NodegroupReconciler::new(eks.clone()), store, shutdown);
    start(tasks, AddonReconciler::new(eks.clone()), store, shutdown);
    start(tasks, InsightsReconciler::new(eks.clone()), store, shutdown);
    start(tasks, storage_controllers(&eks), store, shutdown);
    start(tasks, load_balancers(&eks), store, shutdown);
    start(tasks, IdentityProviderReconciler::new(eks.clone()), store, shutdown);
    start(tasks, metrics_apis(&eks), store, shutdown);
    start(tasks, admission_webhooks(&eks), store, shutdown);
    start(tasks, aws_auth_mirrors(&eks), store, shutdown);
    start(tasks, NodeControllers::new(eks), store, shutdown);
}

fn start<R: Reconciler>(
    tasks: &mut JoinSet<()>,
    reconciler: R,
    store: &Store,
    shutdown: &watch::Receiver<bool>,
) {
    tasks.spawn(drive(Arc::new(reconciler), store.clone(), shutdown.clone()));
}

fn prepare_machine(host: &dyn Host, home: &Home, settings: &Settings) -> Result<()> {
    if settings.rootless {
        return Ok(());
    }
    for change in raise_settings(&registry_directory()?, &home.root)? {
        let setting = change.setting.display();
        tracing::info!(%setting, before = change.before, now = change.now, "raised until the last home stops");
    }
    Ok(host.ensure_service_address(&service_address(settings))?)
}

/// What grows and what others may undo, seen to now and then; the home's program first, whose way to the disk would have
/// held up the start.
async fn tend(host: Arc<dyn Host>, home: Home, settings: Settings) {
    tokio::time::sleep(STARTED).await;
    let program = home.program();
    told(tokio::task::spawn_blocking(move || sync(&program)).await);
    loop {
        tokio::time::sleep(TEND_EVERY).await;
        let (host, logs, address) = (host.clone(), home.path("logs"), service_address(&settings));
        let tended = tokio::task::spawn_blocking(move || {
            Ok(rotate_logs(&logs, LOG_LIMIT).and_then(|_| host.tend_service_address(&address))?)
        });
        told(tended.await);
    }
}

fn told(tended: Result<Result<()>, JoinError>) {
    if let Ok(Err(error)) = tended {
        tracing::warn!("looking after the machine: {error:#}");
    }
}

async fn bind(address: Ipv4Addr, port: u16) -> Result<TcpListener> {
    TcpListener::bind(SocketAddr::new(IpAddr::V4(address), port))
        .await
        .with_context(|| crate::home::port_in_use(port))
}

async fn wait_for_signal() -> Result<()> {
    let (mut term, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

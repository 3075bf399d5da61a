//! From PID 1 to a running kubelet.

use crate::cgroup;
use crate::config::{self, Facts};
use crate::files;
use crate::health;
use crate::metadata::Metadata;
use crate::supervise::{Service, Supervisor, block_signals};
use crate::user_data::{self, UserData};
use std::io;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const STOP_GRACE: Duration = Duration::from_secs(2);

pub(crate) fn run() -> io::Result<()> {
    let mut supervisor = Supervisor::new(block_signals()?);
    cgroup::leave_root_group()?;
    let clock = Instant::now();
    let say = |what: &str| say!("ekstra-node: {:.2} s {what}", clock.elapsed().as_secs_f32());
    let (facts, data) = read_metadata()?;
    files::write_all(&facts, &data)?;
    files::apply_network_settings()?;
    run_scripts(&data.scripts)?;
    say("configured");
    let containerd = vec!["--config".to_owned(), config::CONTAINERD_CONFIG.to_owned()];
    let environment = |service| data.node.spec.instance.environment(service);
    let service = Service::new("containerd", "/usr/local/bin/containerd", containerd)
        .with_environment(environment("containerd"));
    supervisor.start(service.with_alarm(health::watch(health::containerd)?));
    let own = std::env::current_exe()?.to_string_lossy().into_owned();
    supervisor.start(Service::new("csi", &own, vec!["csi".to_owned()]));
    let up = || UnixStream::connect(config::CONTAINERD_SOCKET).is_ok();
    if supervisor.run_until(up)? {
        say("containerd answers");
        let flags = config::kubelet_flags(&facts, &data.node.spec);
        let mut service =
            Service::new("kubelet", "/usr/local/bin/kubelet", flags).with_environment(environment("kubelet"));
        if let Some(address) = config::kubelet_health(&data.node.spec) {
            service = service.with_alarm(health::watch(move || health::kubelet(address))?);
        }
        supervisor.start(service);
        supervisor.run()?;
    }
    say("stopping");
    supervisor.stop_all(STOP_GRACE);
    Ok(())
}

fn read_metadata() -> io::Result<(Facts, UserData)> {
    let metadata = Metadata::connect()?;
    let get = |path: &str| metadata.require(&format!("meta-data/{path}"));
    let interface = metadata.interface()?;
    let (open_files, _) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)?;
    let facts = Facts {
        instance_id: get("instance-id")?,
        instance_type: get("instance-type")?,
        zone: get("placement/availability-zone")?,
        address: get("local-ipv4")?.parse().map_err(io::Error::other)?,
        hostname: get("local-hostname")?,
        domain: get("services/private-domain")?,
        vpc_cidr: metadata
            .require(&format!("{interface}/vpc-ipv4-cidr-block"))?
            .parse()
            .map_err(io::Error::other)?,
        prefixes: metadata.prefixes(&interface)?,
        registry: metadata.get("meta-data/services/image-registry")?,
        open_files,
    };
    let data = user_data::parse(&metadata.get("user-data")?.unwrap_or_default())?;
    Ok((facts, data))
}

fn run_scripts(scripts: &[String]) -> io::Result<()> {
    for (number, script) in scripts.iter().enumerate() {
        let path = format!("/run/user-data-{number}");
        std::fs::write(&path, script)?;
        let status = Command::new("/bin/sh").arg(&path).stdin(Stdio::null()).status()?;
        say!("ekstra-node: user data script {number}: {status}");
    }
    Ok(())
}

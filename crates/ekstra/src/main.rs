//! The program: one static binary that is the service (`serve`), its data side (`gate`), the launcher of children, PID 1
//! of instances, and the command line.
//!
//! Invariant: what runs as PID 1 or as the launcher is decided before any thread exists.

mod backup;
mod cli;
mod client;
mod control;
mod credentials;
mod gate;
mod gate_keeper;
mod home;
mod http;
mod kubeconfig;
mod privilege;
mod programs;
mod progress;
mod proxies;
mod serve;
mod service;
mod takedown;
mod tls;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let own_name = args.first().map(|a| a.rsplit('/').next().unwrap_or(a)).unwrap_or_default();
    if own_name == "ekstra-node" {
        std::process::exit(ekstra_node::main(&args[1..]));
    }
    match args.get(1).map(String::as_str) {
        Some("launch") => std::process::exit(ekstra_host::launch_main()),
        Some("freeze") => std::process::exit(ekstra_host::freeze_main()),
        _ => std::process::exit(cli::main()),
    }
}

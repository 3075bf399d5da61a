//! The small AWS underneath EKS, a folder a service: identities, credentials, networks and machines.
//!
//! Invariant: an operation validates, writes intent in one transaction and answers; only reconcilers touch the host.

pub mod access;
pub mod api;
mod context;
mod defaults;
pub mod ec2;
pub mod elb;
pub mod iam;
mod machine;
pub mod sts;
pub mod trail;

pub use context::{Cloud, Settings};
pub use defaults::{ensure_scope, first_user, is_known_account};
pub use machine::on_host;

/// Every operation of this crate.
pub fn serve(router: &mut api::Router, cloud: &Cloud) {
    sts::serve(router, cloud);
    trail::serve(router, cloud);
    iam::serve(router, cloud);
    ec2::serve(router, cloud);
}

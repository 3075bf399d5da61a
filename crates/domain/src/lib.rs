//! Every rule of the service, a folder a service: names, records and their states, validation, planners.
//!
//! Invariant: pure. No clock, no I/O, no randomness; what they need is an argument. A folder imports no other but
//! `names`, `page` and `prefix`.

pub mod ec2;
pub mod eks;
pub mod elb;
pub mod iam;
pub mod names;
pub mod page;
pub mod prefix;

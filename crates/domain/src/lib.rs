//! Every rule of the service. Pure: no clock, no I/O, no randomness; what they need is an argument.
pub mod prefix;

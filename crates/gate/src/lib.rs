//! ekstra-wire

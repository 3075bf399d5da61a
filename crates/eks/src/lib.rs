//! ekstra-model

//! The reconciler: makes the machine match a directory of Kubernetes YAML and keeps it so.
//!
//! `source -> documents -> desired (pure); engine -> actual; plan(desired, actual) (pure) -> apply -> status`.

pub mod desired;
pub mod manifest;

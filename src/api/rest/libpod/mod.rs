//! podman's own dialect.

pub mod kube;
pub mod system;

//! podman's own dialect.

pub mod archive;
pub mod attach;
pub mod containers;
pub mod create;
pub mod events;
pub mod exec;
pub mod images;
pub mod inspect;
pub mod kube;
pub mod logs;
pub mod networks;
pub mod pods;
pub mod stats;
pub mod system;
pub mod top;
pub mod volumes;

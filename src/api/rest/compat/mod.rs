//! docker's dialect, with podman's additions.

pub mod containers;
pub mod create;
pub mod images;
pub mod inspect;
pub mod networks;
pub mod stats;
pub mod system;
pub mod volumes;

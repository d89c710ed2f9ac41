//! Attaching to a container's standard streams.

use std::path::Path;

use crate::engine::error::Result;
use crate::engine::monitor::Monitors;
use crate::engine::{AttachOptions, AttachSession};

/// Attaches to the container whose monitor is in `run_dir`; `name` is for messages.
#[allow(unused_variables)]
pub async fn attach(
    monitors: &Monitors,
    run_dir: &Path,
    name: &str,
    options: AttachOptions,
) -> Result<AttachSession> {
    todo!("monitor")
}

/// Sets the size of its terminal.
#[allow(unused_variables)]
pub async fn resize(monitors: &Monitors, run_dir: &Path, name: &str, columns: u16, rows: u16) -> Result<()> {
    todo!("monitor")
}

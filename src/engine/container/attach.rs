//! Attaching to a container's standard streams.

use std::path::Path;

use crate::engine::error::{EngineError, Result, Subject};
use crate::engine::monitor::{MonitorError, Monitors};
use crate::engine::{AttachOptions, AttachSession};

/// Attaches to the container whose monitor is in `run_dir`; `name` is for messages.
pub async fn attach(
    monitors: &Monitors,
    run_dir: &Path,
    name: &str,
    options: AttachOptions,
) -> Result<AttachSession> {
    let halves = monitors.attach(run_dir, options).await.map_err(|error| failed(name, "attach", error))?;
    Ok(AttachSession { output: halves.output, input: halves.input })
}

/// Sets the size of its terminal.
pub async fn resize(monitors: &Monitors, run_dir: &Path, name: &str, columns: u16, rows: u16) -> Result<()> {
    monitors.resize(run_dir, columns, rows).await.map_err(|error| failed(name, "resize the terminal", error))
}

/// An operation on a container that its monitor did not do.
pub(super) fn failed(name: &str, step: &'static str, error: MonitorError) -> EngineError {
    EngineError::new(error.kind(), Subject::Container(name.to_owned()), step).with_source(error)
}

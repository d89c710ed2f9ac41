//! Further commands in a running container.

use std::path::Path;

use crate::engine::container::{ExecOutput, ExecRequest};
use crate::engine::error::Result;
use crate::engine::monitor::protocol::ExecLifetime;
use crate::engine::monitor::{ExecSession, Monitors};

/// How a session's streams are set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExecStreams {
    /// Columns and rows of a new pseudo-terminal; `None`: pipes.
    pub terminal: Option<(u16, u16)>,
    pub stdin: bool,
    pub lifetime: ExecLifetime,
}

/// Starts a session in the container whose monitor is in `run_dir`; `name` is for messages. `pid` is the
/// container's first process, for looking up user names in its own `/etc/passwd`.
#[allow(unused_variables)]
pub async fn start(
    monitors: &Monitors,
    run_dir: &Path,
    name: &str,
    pid: i32,
    request: &ExecRequest,
    streams: ExecStreams,
) -> Result<ExecSession> {
    todo!("monitor")
}

/// Runs a command to its end and collects at most `output_limit` bytes of what it printed. Killed when
/// the future is dropped.
#[allow(unused_variables)]
pub async fn run(
    monitors: &Monitors,
    run_dir: &Path,
    name: &str,
    pid: i32,
    request: &ExecRequest,
    output_limit: usize,
) -> Result<ExecOutput> {
    todo!("monitor")
}

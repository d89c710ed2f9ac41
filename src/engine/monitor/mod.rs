//! The monitor: parent of one container, owner of its streams and its log. This side starts monitors
//! and finds them again after a restart of the daemon; `process.rs` is what runs inside one.

use std::path::{Path, PathBuf};
use std::pin::Pin;

use bytes::Bytes;
use tokio::io::AsyncWrite;

use crate::engine::config::EngineConfig;
use crate::engine::container::OutputStream;
use crate::engine::container::state::{ExitStatus, Process};
use crate::engine::error::ErrorKind;
use crate::engine::runtime::ExecProcess;
use crate::engine::{AttachOptions, BoxStream};

pub mod protocol;

use protocol::{ExecLifetime, LaunchRequest, MonitorState};

/// What went wrong between daemon and monitor, or inside the monitor.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    #[error("{0}")]
    CommandNotFound(String),
    #[error("{0}")]
    CommandNotExecutable(String),
    /// The container is not in a state for this.
    #[error("{0}")]
    WrongState(String),
    #[error("no such exec session")]
    NoSuchExec,
    /// The monitor did what it could and failed.
    #[error("{0}")]
    Failed(String),
    #[error("{step}: no answer from the monitor within {secs} s")]
    Timeout { step: &'static str, secs: u64 },
    /// The monitor ended, or is not there.
    #[error("{step}: the monitor has ended")]
    Gone { step: &'static str },
    #[error("{step}: unexpected answer from the monitor: {detail}")]
    Protocol { step: &'static str, detail: String },
    #[error("{step} {}", path.display())]
    Io { step: &'static str, path: PathBuf, source: std::io::Error },
}

impl MonitorError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::CommandNotFound(_) => ErrorKind::CommandNotFound,
            Self::CommandNotExecutable(_) => ErrorKind::CommandNotExecutable,
            Self::WrongState(_) => ErrorKind::WrongState,
            Self::NoSuchExec => ErrorKind::NotFound,
            Self::Failed(_)
            | Self::Timeout { .. }
            | Self::Gone { .. }
            | Self::Protocol { .. }
            | Self::Io { .. } => ErrorKind::Internal,
        }
    }
}

/// What became of a container while no daemon watched.
#[derive(Debug, Clone, PartialEq)]
pub enum Adopted {
    /// Its monitor lives and now is watched.
    Alive { state: MonitorState, monitor_pid: i32 },
    /// It ended, seen by its monitor. Nothing of it is left.
    Ended(ExitStatus),
    /// Its monitor is gone without a word (killed, or the machine rebooted). What was left of the
    /// container has been killed and cleaned up.
    Lost,
}

/// A process to add to a container, and who holds its streams.
#[derive(Debug, Clone, PartialEq)]
pub struct ExecStart {
    pub process: ExecProcess,
    /// Columns and rows of a new pseudo-terminal.
    pub terminal: Option<(u16, u16)>,
    /// Keep a writing end; otherwise it reads `/dev/null`.
    pub stdin: bool,
    pub lifetime: ExecLifetime,
}

/// A running exec session. Dropping it kills a session of [`ExecLifetime::Connection`].
pub struct ExecSession {
    pub pid: i32,
    /// Standard output and error (only the former with a terminal), to the end of both.
    pub output: BoxStream<(OutputStream, Bytes)>,
    /// Shutting it down closes the process's standard input. Writes go nowhere if none was asked for.
    pub input: Pin<Box<dyn AsyncWrite + Send>>,
    pub control: ExecControl,
}

/// What can be asked of an exec session besides its data.
pub struct ExecControl {}

#[allow(unused_variables)]
impl ExecControl {
    /// Its exit code, 128 + signal when killed.
    pub async fn wait(&mut self) -> Result<i32, MonitorError> {
        todo!("monitor")
    }
    pub async fn kill(&self, signal: i32) -> Result<(), MonitorError> {
        todo!("monitor")
    }
    /// Nothing happens without a terminal.
    pub fn resize(&self, columns: u16, rows: u16) -> Result<(), MonitorError> {
        todo!("monitor")
    }
}

/// Two halves of an attached container; see [`crate::engine::AttachSession`], which has the same shape.
pub struct AttachHalves {
    pub output: BoxStream<(OutputStream, Bytes)>,
    pub input: Pin<Box<dyn AsyncWrite + Send>>,
}

/// The monitors of one engine. Cheap to clone. `run_dir` names the container everywhere:
/// [`LaunchRequest::run_dir`].
#[derive(Clone)]
pub struct Monitors {}

#[allow(unused_variables)]
impl Monitors {
    pub fn new(config: &EngineConfig) -> Self {
        todo!("monitor")
    }

    /// Spawns a monitor and waits (60 s at most) until it has prepared the container. `started_at` is
    /// the present time until [`Monitors::start`] gives the real one. On error nothing is left.
    pub async fn launch(&self, request: LaunchRequest) -> Result<Process, MonitorError> {
        todo!("monitor")
    }

    /// Lets the prepared container execute its command.
    pub async fn start(&self, run_dir: &Path) -> Result<Process, MonitorError> {
        todo!("monitor")
    }

    /// After a restart of the daemon: what became of the container.
    pub async fn adopt(&self, run_dir: &Path) -> Adopted {
        todo!("monitor")
    }

    /// Resolves when the container has ended and nothing of it is left. Event driven. Any number of
    /// callers, also after the fact.
    pub async fn exited(&self, run_dir: &Path, process: &Process) -> ExitStatus {
        todo!("monitor")
    }

    pub async fn kill(&self, run_dir: &Path, signal: i32) -> Result<(), MonitorError> {
        todo!("monitor")
    }
    pub async fn pause(&self, run_dir: &Path) -> Result<(), MonitorError> {
        todo!("monitor")
    }
    pub async fn resume(&self, run_dir: &Path) -> Result<(), MonitorError> {
        todo!("monitor")
    }
    /// Of the container's terminal; nothing happens without one.
    pub async fn resize(&self, run_dir: &Path, columns: u16, rows: u16) -> Result<(), MonitorError> {
        todo!("monitor")
    }
    /// Closes and reopens the log file, for an outside rotation.
    pub async fn reopen_log(&self, run_dir: &Path) -> Result<(), MonitorError> {
        todo!("monitor")
    }

    pub async fn exec(&self, run_dir: &Path, exec: ExecStart) -> Result<ExecSession, MonitorError> {
        todo!("monitor")
    }

    pub async fn attach(&self, run_dir: &Path, options: AttachOptions) -> Result<AttachHalves, MonitorError> {
        todo!("monitor")
    }

    /// The request a container was launched with, as long as its run directory stands.
    pub fn launch_request(run_dir: &Path) -> Result<LaunchRequest, MonitorError> {
        todo!("monitor")
    }
}

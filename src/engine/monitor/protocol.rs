//! What daemon and monitor say to each other: the only thing they share.
//!
//! A monitor listens on `ctl` (SOCK_SEQPACKET) in the container's run directory. Each request is one
//! packet of JSON, answered by one packet; descriptors travel with their packet. It outlives the
//! daemon: everything a new daemon must know is in its files or asked again.
//!
//! Files beside the socket: `state` (JSON [`MonitorState`], replaced by rename whenever it changes).

use serde::{Deserialize, Serialize};

use crate::engine::config::RuntimeName;
use crate::engine::container::spec::LogConfig;
use crate::engine::container::state::ExitStatus;
use crate::engine::runtime::{CreateRequest, ExecProcess};

/// Written to the monitor's standard input once, as JSON, when it is spawned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LaunchRequest {
    pub create: CreateRequest,
    pub runtime: RuntimeName,
    pub terminal: bool,
    pub stdin_open: bool,
    pub log: LogConfig,
    /// Where the log goes when `log.path` is `None`.
    pub log_path: std::path::PathBuf,
    /// The container's run directory: control socket and state file.
    pub run_dir: std::path::PathBuf,
}

/// Daemon to monitor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    State,
    Start,
    Kill {
        signal: i32,
    },
    Pause,
    Resume,
    Resize {
        columns: u16,
        rows: u16,
    },
    /// Three descriptors of the caller travel with it when `terminal` is false, none otherwise; the
    /// console's other end comes back with the answer.
    Exec {
        id: String,
        process: Box<ExecProcess>,
        terminal: bool,
        columns: u16,
        rows: u16,
    },
    /// Blocks until the exec session has ended.
    ExecWait {
        id: String,
    },
    ExecResize {
        id: String,
        columns: u16,
        rows: u16,
    },
    ExecKill {
        id: String,
        signal: i32,
    },
    /// Turns this connection into an attach stream: afterwards it carries [`AttachFrame`]s both ways.
    Attach {
        stdin: bool,
        stdout: bool,
        stderr: bool,
    },
    /// Reopen or rotate the log file.
    ReopenLog,
}

/// Monitor to daemon.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    Done,
    State(MonitorState),
    ExecStarted { pid: i32 },
    ExecExited { code: i32 },
    Failed { kind: FailureKind, message: String },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    CommandNotFound,
    CommandNotExecutable,
    NoSuchExec,
    WrongState,
    Internal,
}

/// A monitor's whole knowledge of its container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MonitorState {
    /// Prepared, waiting for `Start`.
    Created {
        pid: i32,
        start_ticks: u64,
    },
    Running {
        pid: i32,
        start_ticks: u64,
        started_at: jiff::Timestamp,
    },
    Paused {
        pid: i32,
        start_ticks: u64,
        started_at: jiff::Timestamp,
    },
    /// The monitor ends after writing this.
    Exited(ExitStatus),
    /// The launch failed; nothing is left of it. The monitor ends after writing this.
    Failed {
        kind: FailureKind,
        message: String,
    },
}

/// One packet of an attach stream: a channel byte, then data. An empty standard-input packet closes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Channel {
    Stdin = 0,
    Stdout = 1,
    Stderr = 2,
}

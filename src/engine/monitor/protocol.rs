//! What daemon and monitor say to each other: the only thing they share.
//!
//! A monitor listens on `ctl` (SOCK_SEQPACKET) in the container's run directory. Each request is one
//! packet of JSON, answered by one packet; descriptors travel with their packet. It outlives the
//! daemon: everything a new daemon must know is in its files or asked again.
//!
//! Files in the run directory:
//! - `launch.json`: the [`LaunchRequest`]. It is also the monitor's standard input, opened and locked
//!   (`flock`) by the daemon before the spawn: the lock is held for exactly as long as the monitor
//!   lives, from its very first instruction on, even when the daemon dies in between.
//! - `ctl`: the socket. Connecting succeeds only while the monitor lives.
//! - `state`: JSON [`MonitorState`], replaced by rename whenever it changes.
//! - `monitor.log`: the monitor's own complaints, usually empty.

use serde::{Deserialize, Serialize};

use crate::engine::config::RuntimeName;
use crate::engine::container::spec::LogConfig;
use crate::engine::container::state::ExitStatus;
use crate::engine::runtime::{CreateRequest, ExecProcess};

/// What a monitor reads from its standard input, as JSON, when it is spawned.
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
    /// console's other end comes back with the answer. The monitor keeps none of them: whoever
    /// started the session moves its data and sets its terminal's size.
    Exec {
        id: String,
        process: Box<ExecProcess>,
        terminal: bool,
        columns: u16,
        rows: u16,
        lifetime: ExecLifetime,
    },
    /// Answered when the exec session has ended. An exit code is kept until it was asked for.
    ExecWait {
        id: String,
    },
    ExecKill {
        id: String,
        signal: i32,
    },
    /// Turns this connection into an attach stream, after `Done`: see [`Channel`]. It ends when the
    /// container does. A client that is slow makes the container wait, as the reader of any pipe does;
    /// one that holds it up and takes nothing for five seconds loses its connection.
    Attach {
        stdin: bool,
        stdout: bool,
        stderr: bool,
    },
    /// Reopen or rotate the log file.
    ReopenLog,
}

/// How long an exec session lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExecLifetime {
    /// Killed when the connection that started it closes: whatever happens to the caller, nothing stays behind.
    Connection,
    /// Until it ends by itself (`exec --detach`).
    Own,
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

/// The beginning of every packet of an attach stream; data follows. Standard input goes to the monitor,
/// and an empty packet of it closes the container's; the others come from it. A connection that
/// merely closes leaves the container's standard input as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Channel {
    Stdin = 0,
    Stdout = 1,
    Stderr = 2,
}

impl Channel {
    pub fn from_byte(byte: u8) -> Option<Self> {
        [Self::Stdin, Self::Stdout, Self::Stderr].into_iter().find(|channel| *channel as u8 == byte)
    }
}

/// The most data of one packet of an attach stream.
pub const MAX_ATTACH_BYTES: usize = 32 * 1024;

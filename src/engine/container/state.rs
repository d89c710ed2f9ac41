//! The life of a container, and what may be done when. Pure.
//!
//! ```text
//!  Configured ──init──▶ Created ──start──▶ Running ⇄ Paused
//!      ▲                   │                 │ │       │
//!      │                   └────────┬────────┘ stop    │
//!      │                            ▼          ▼       │
//!      └──(restart: init again)── Exited ◀── Stopping ◀┘
//!                                   │
//!                                   └──remove──▶ Removing ──▶ (gone)
//! ```

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A container's first process, identified so that a reused pid is never mistaken for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: i32,
    /// Start time of `pid` in clock ticks since boot, field 22 of `/proc/PID/stat`.
    pub start_ticks: u64,
    pub monitor_pid: i32,
    pub started_at: Timestamp,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitStatus {
    /// 0-255; 128 + signal when killed; -1 when nobody saw it (power loss).
    pub code: i32,
    pub oom_killed: bool,
    pub finished_at: Timestamp,
    /// When the run that ended had begun; `None` if it never started.
    pub started_at: Option<Timestamp>,
    /// Why it could not be started, if that is how it ended.
    pub error: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContainerState {
    /// Recorded, nothing started. podman prints `created`.
    Configured,
    /// The process is prepared and waits to execute. podman prints `initialized`.
    Created(Process),
    Running(Process),
    Paused(Process),
    /// The stop signal was sent.
    Stopping(Process),
    Exited(ExitStatus),
    Removing,
}

/// What someone asks of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Init,
    Start,
    Stop,
    Kill,
    Pause,
    Unpause,
    Exec,
    Attach,
    Remove,
    /// Remove whatever it is doing.
    RemoveForce,
}

/// What an allowed operation has to do first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Go,
    /// Nothing to do: the container already is as asked.
    AlreadyThere,
    /// A fresh launch must come first.
    InitFirst,
    UnpauseFirst,
    StopFirst,
}

/// The operation does not fit the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("can not {operation} a container that is {state}")]
pub struct WrongState {
    pub operation: &'static str,
    pub state: &'static str,
}

impl Operation {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Init => "initialize",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Kill => "kill",
            Self::Pause => "pause",
            Self::Unpause => "unpause",
            Self::Exec => "exec in",
            Self::Attach => "attach to",
            Self::Remove | Self::RemoveForce => "remove",
        }
    }
}

impl ContainerState {
    /// libpod's word for the state.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Configured => "created",
            Self::Created(_) => "initialized",
            Self::Running(_) => "running",
            Self::Paused(_) => "paused",
            Self::Stopping(_) => "stopping",
            Self::Exited(_) => "exited",
            Self::Removing => "removing",
        }
    }

    /// The live process, if there is one.
    pub fn process(&self) -> Option<&Process> {
        match self {
            Self::Created(process)
            | Self::Running(process)
            | Self::Paused(process)
            | Self::Stopping(process) => Some(process),
            Self::Configured | Self::Exited(_) | Self::Removing => None,
        }
    }

    pub fn exit_status(&self) -> Option<&ExitStatus> {
        match self {
            Self::Exited(status) => Some(status),
            _ => None,
        }
    }

    pub fn is_running(&self) -> bool {
        matches!(self, Self::Running(_) | Self::Paused(_) | Self::Stopping(_))
    }

    /// Whether `operation` is allowed now, and what it takes.
    pub fn check(&self, operation: Operation) -> Result<Step, WrongState> {
        use ContainerState as S;
        use Operation as O;
        let step = match (operation, self) {
            (O::Init, S::Configured | S::Exited(_)) => Step::Go,
            (O::Init, S::Created(_)) => Step::AlreadyThere,
            (O::Start, S::Created(_)) => Step::Go,
            (O::Start, S::Configured | S::Exited(_)) => Step::InitFirst,
            (O::Start, S::Running(_) | S::Stopping(_)) => Step::AlreadyThere,
            (O::Stop, S::Running(_) | S::Stopping(_) | S::Created(_)) => Step::Go,
            (O::Stop, S::Paused(_)) => Step::UnpauseFirst,
            (O::Stop, S::Configured | S::Exited(_)) => Step::AlreadyThere,
            (O::Kill, S::Running(_) | S::Stopping(_) | S::Paused(_)) => Step::Go,
            (O::Pause, S::Running(_)) => Step::Go,
            (O::Unpause, S::Paused(_)) => Step::Go,
            (O::Exec, S::Running(_)) => Step::Go,
            (O::Attach, S::Running(_) | S::Created(_) | S::Paused(_) | S::Stopping(_)) => Step::Go,
            (O::Attach, S::Configured | S::Exited(_)) => Step::InitFirst,
            (O::Remove | O::RemoveForce, S::Configured | S::Exited(_) | S::Removing) => Step::Go,
            // A container that is prepared and never ran is removed without force, as in podman.
            (O::Remove | O::RemoveForce, S::Created(_)) => Step::StopFirst,
            (O::RemoveForce, S::Running(_) | S::Paused(_) | S::Stopping(_)) => Step::StopFirst,
            (
                O::Init
                | O::Start
                | O::Stop
                | O::Kill
                | O::Pause
                | O::Unpause
                | O::Exec
                | O::Attach
                | O::Remove,
                _,
            ) => {
                return Err(WrongState { operation: operation.as_str(), state: self.as_str() });
            }
        };
        Ok(step)
    }
}

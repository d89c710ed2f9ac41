//! Containers: records, lookup, life cycle.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::engine::id::{ContainerId, ContainerName, ImageId, PodId, VolumeName};
use crate::engine::network::NetworkStatus;

pub mod archive;
pub mod attach;
pub mod capability;
pub mod command;
mod create;
mod devices;
pub mod exec;
pub(in crate::engine) mod files;
pub(in crate::engine) mod follow;
pub(in crate::engine) mod lifecycle;
mod list;
pub mod logs;
pub mod mounts;
pub mod oci_spec;
pub(in crate::engine) mod prepare;
mod rename;
mod shutdown;
pub mod spec;
pub mod state;
pub mod stats;
mod streams;
pub(in crate::engine) mod table;
pub mod top;
pub mod user;
pub(in crate::engine) mod validate;
pub(in crate::engine) mod wait;

use spec::ContainerSpec;
use state::{ContainerState, Operation};

/// A container as the engine knows it: durable, except `state`'s process, which dies with the boot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerRecord {
    pub id: ContainerId,
    pub name: ContainerName,
    pub spec: ContainerSpec,
    /// `None` with a prepared root file system.
    pub image_id: Option<ImageId>,
    /// Fully qualified name of the image, as it was resolved.
    pub image_name: String,
    pub created_at: Timestamp,
    pub state: ContainerState,
    /// Written before an effect and cleared with its result: what a crash may have left half done.
    pub pending: Option<Pending>,
    /// How often the engine's own restart policy has restarted it since a user last started it.
    pub restart_count: u32,
    /// A user stopped it: `unless-stopped` leaves it alone.
    pub stopped_by_user: bool,
    /// While its network stands. Containers of a pod have the pod's.
    pub network: Option<NetworkStatus>,
    pub anonymous_volumes: Vec<VolumeName>,
}

/// An effect that was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pending {
    Launch,
    Stop,
    Remove,
}

impl ContainerRecord {
    pub fn pod(&self) -> Option<&PodId> {
        self.spec.pod.as_ref()
    }

    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.spec.labels
    }

    pub fn allows(&self, operation: Operation) -> bool {
        self.state.check(operation).is_ok()
    }
}

/// What `start` did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartOutcome {
    Started,
    AlreadyRunning,
}

/// What `stop` did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopOutcome {
    Stopped,
    AlreadyStopped,
}

#[derive(Debug, Clone, Default)]
pub struct StopOptions {
    /// Default: the container's own.
    pub timeout_secs: Option<u32>,
}

#[derive(Debug, Clone, Default)]
pub struct RemoveOptions {
    /// Stop it first if it runs.
    pub force: bool,
    /// Remove its anonymous volumes too.
    pub volumes: bool,
    pub stop_timeout_secs: Option<u32>,
}

/// What `wait` waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitCondition {
    Configured,
    Created,
    Running,
    Paused,
    Stopped,
    Exited,
    Removing,
    /// Gone altogether.
    Removed,
    /// The next exit, even if it is not running now.
    NextExit,
    NotRunning,
}

/// Which containers a list shows. Every condition set must hold.
#[derive(Debug, Clone, Default)]
pub struct ContainerFilter {
    pub all: bool,
    pub labels: Vec<(String, Option<String>)>,
    pub pod: Option<PodId>,
}

/// A command to run in a container, with its output collected (probes, hooks).
#[derive(Debug, Clone)]
pub struct ExecRequest {
    pub command: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub user: Option<String>,
    pub working_dir: Option<String>,
    pub privileged: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutput {
    pub code: i32,
    /// Standard output and error together, cut at the limit the caller gave.
    pub output: Vec<u8>,
}

/// Which log lines to read.
#[derive(Debug, Clone)]
pub struct LogOptions {
    pub stdout: bool,
    pub stderr: bool,
    pub follow: bool,
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
    /// Only the last so many lines.
    pub tail: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    pub time: Timestamp,
    pub stream: OutputStream,
    /// Without the line end, unless `partial`.
    pub text: Vec<u8>,
    /// The line goes on in the next entry.
    pub partial: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputStream {
    Stdout,
    Stderr,
}

impl OutputStream {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

//! What an operator can ask: what was wanted and how far it is. Kubernetes words where it has some.
//!
//! Plain data, filled in by `mod.rs` from the last pass and the pod workers; reading it touches nothing.

use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::engine::id::PodId;
use crate::reconcile::desired::{
    Location, ManifestError, ManifestWarning, ObjectName, SourceName, StackName,
};

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusReport {
    pub sources: Vec<SourceStatus>,
    pub stacks: Vec<StackStatus>,
    /// When the last pass ended.
    pub last_pass: Option<Timestamp>,
    /// Nothing is under way and nothing waits.
    pub settled: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceStatus {
    pub source: SourceName,
    /// Why nothing that came from it is removed for now; `None`: it was read.
    pub held: Option<String>,
    /// Image archives that could not be loaded and the like.
    pub warnings: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StackStatus {
    pub stack: StackName,
    pub state: StackState,
    /// Why it is held or what it waits for; empty when neither.
    pub message: String,
    /// What is wrong in its files.
    pub errors: Vec<ManifestError>,
    pub warnings: Vec<ManifestWarning>,
    pub pods: Vec<PodStatus>,
    pub services: Vec<ServiceStatus>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StackState {
    /// What is written is what runs (whether it is ready is said per pod).
    Applied,
    /// Actions are under way or wait.
    Progressing,
    /// Errors, a conflict or an unreadable source: what runs stays as it is.
    Held,
    /// Its source is not watched by this daemon (it was applied once).
    Unwatched,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    pub pod: ObjectName,
    /// `Deployment/web`; a bare pod's is itself, `Pod/web`.
    pub owner: String,
    pub location: Option<Location>,
    /// `None` while it is not created.
    pub id: Option<PodId>,
    pub uid: Option<String>,
    pub phase: PodPhase,
    /// `CrashLoopBackOff`, `ImagePullBackOff`, `Completed`, `Terminating` ...: the most telling one.
    pub reason: Option<String>,
    pub message: Option<String>,
    pub conditions: Vec<Condition>,
    pub pod_ip: Option<IpAddr>,
    /// `127.0.0.1:8080->80/tcp`
    pub ports: Vec<String>,
    pub started_at: Option<Timestamp>,
    /// Restarts of all its containers.
    pub restarts: u32,
    pub containers: Vec<ContainerStatus>,
    /// Pending changes and what was repaired after someone else's intervention.
    pub notes: Vec<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PodPhase {
    #[default]
    Pending,
    Running,
    Succeeded,
    Failed,
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    #[serde(rename = "type")]
    pub kind: ConditionKind,
    pub status: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConditionKind {
    PodScheduled,
    Initialized,
    ContainersReady,
    Ready,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerStatus {
    pub name: String,
    pub role: ContainerRole,
    pub id: Option<String>,
    pub image: String,
    pub image_id: Option<String>,
    pub ready: bool,
    /// The startup probe has succeeded, or there is none and it runs.
    pub started: bool,
    pub restart_count: u32,
    pub state: ContainerStateStatus,
    /// How the run before this one ended.
    pub last_state: Option<ContainerStateStatus>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ContainerRole {
    Init,
    Sidecar,
    Main,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ContainerStateStatus {
    Waiting {
        reason: String,
        message: Option<String>,
    },
    #[serde(rename_all = "camelCase")]
    Running {
        started_at: Timestamp,
    },
    #[serde(rename_all = "camelCase")]
    Terminated {
        exit_code: i32,
        /// `Completed`, `Error`, `OOMKilled`, `ContainerCannotRun`.
        reason: String,
        message: Option<String>,
        started_at: Option<Timestamp>,
        finished_at: Timestamp,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceStatus {
    pub service: ObjectName,
    /// `None`: headless, or not yet applied.
    pub address: Option<IpAddr>,
    /// `80/tcp`, `80:30080/tcp`
    pub ports: Vec<String>,
    /// Ready endpoints, `10.88.0.5`.
    pub endpoints: Vec<IpAddr>,
}

impl PodStatus {
    pub fn is_ready(&self) -> bool {
        self.condition(ConditionKind::Ready)
    }

    pub fn condition(&self, kind: ConditionKind) -> bool {
        self.conditions.iter().any(|c| c.kind == kind && c.status)
    }

    /// `1/2`: ready containers of those that shall run.
    pub fn ready_count(&self) -> (usize, usize) {
        let counted = || self.containers.iter().filter(|c| c.role != ContainerRole::Init);
        (counted().filter(|c| c.ready).count(), counted().count())
    }
}

impl StatusReport {
    pub fn pods(&self) -> impl Iterator<Item = &PodStatus> {
        self.stacks.iter().flat_map(|stack| &stack.pods)
    }

    /// Every pod is ready, or has done its job.
    pub fn all_ready(&self) -> bool {
        self.pods().all(|pod| pod.is_ready() || pod.phase == PodPhase::Succeeded)
    }
}

//! The reconciler: makes the machine match a directory of Kubernetes YAML and keeps it so.
//!
//! `source -> documents -> desired (pure); engine -> actual; plan(desired, actual) (pure) -> apply -> status`.

pub mod action;
pub mod actual;
pub mod backoff;
mod claim;
pub mod desired;
pub mod generate;
pub mod manifest;
pub mod plan;
pub mod status;

use std::path::PathBuf;

use crate::engine::Engine;
use crate::engine::error::EngineError;
use crate::engine::id::PodId;

use action::Plan;
use status::StatusReport;

/// A handle on the running reconciler. Cheap to clone.
#[derive(Clone)]
pub struct Reconciler {}

/// How this reconciler works.
#[derive(Debug, Clone)]
pub struct ReconcilerOptions {
    /// Pods that are created and started at the same time.
    pub launches: usize,
    /// Images that are fetched at the same time.
    pub fetches: usize,
    /// What `spec.nodeName` of the downward API says.
    pub node_name: String,
}

impl Default for ReconcilerOptions {
    fn default() -> Self {
        Self { launches: 16, fetches: 4, node_name: "localhost".to_owned() }
    }
}

/// How manifests are played over the API.
#[derive(Debug, Clone)]
pub struct PlayRequest {
    pub yaml: String,
    /// `false`: create, do not start.
    pub start: bool,
    /// Remove pods of the same names first. Without it they are a conflict.
    pub replace: bool,
    /// Networks to join instead of the default.
    pub networks: Vec<String>,
    pub log_driver: Option<String>,
    pub tls_verify: Option<bool>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct PlayOutcome {
    pub pods: Vec<PlayedPod>,
    /// Names of volumes that were created.
    pub volumes: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct PlayedPod {
    pub id: PodId,
    pub containers: Vec<String>,
    pub init_containers: Vec<String>,
    /// Containers that did not start, and why.
    pub container_errors: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct DownOutcome {
    /// Pods stopped and removed, with the error if one failed.
    pub pods: Vec<(PodId, Option<String>)>,
}

#[allow(unused_variables)]
impl Reconciler {
    /// `directory`: the watched one (`selkie up DIR`); `None`: played manifests only.
    pub async fn spawn(
        engine: Engine,
        directory: Option<PathBuf>,
        options: ReconcilerOptions,
    ) -> Result<Self, EngineError> {
        todo!("reconciler")
    }

    /// Keeps the manifests and runs them; returns when their containers have been started.
    pub async fn play(&self, request: PlayRequest) -> Result<PlayOutcome, EngineError> {
        todo!("reconciler")
    }

    /// Forgets the manifests and removes their pods. Their volumes go only with `force`.
    pub async fn down(&self, yaml: String, force: bool) -> Result<DownOutcome, EngineError> {
        todo!("reconciler")
    }

    /// What was asked for and how far it is. Answered from memory.
    pub fn status(&self) -> StatusReport {
        todo!("reconciler")
    }

    /// What one pass over `directory` (default: the watched one) would do.
    pub async fn plan(&self, directory: Option<PathBuf>) -> Result<Plan, EngineError> {
        todo!("reconciler")
    }

    /// One pass over `directory` (default: the watched one), carried out.
    pub async fn apply(&self, directory: Option<PathBuf>) -> Result<StatusReport, EngineError> {
        todo!("reconciler")
    }

    /// Ends the loop and the pod workers. Containers run on.
    pub async fn shutdown(&self) {
        todo!("reconciler")
    }
}

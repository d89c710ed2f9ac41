//! What the doors need of the reconciler, and no more. `lib.rs` supplies it.

use std::path::PathBuf;

use futures_util::future::BoxFuture;

use crate::engine::error::EngineError;
use crate::engine::id::PodId;

/// Kubernetes YAML over the API. Status and plan are JSON documents of the reconciler's own schema
/// (`reconcile/status.rs`), which the doors pass through.
pub trait Kube: Send + Sync {
    /// Keeps the manifests and runs them; returns when their containers have been started.
    fn play(&self, yaml: String, options: PlayOptions) -> BoxFuture<'_, Result<PlayReport, EngineError>>;
    /// Forgets the manifests and removes their pods. Volumes stay unless `force`.
    fn down(&self, yaml: String, force: bool) -> BoxFuture<'_, Result<DownReport, EngineError>>;
    /// Kubernetes YAML of running containers and pods, that `play` accepts.
    fn generate(&self, names: Vec<String>, options: GenerateOptions) -> Result<String, EngineError>;
    /// What was asked for and how far it is.
    fn status(&self) -> serde_json::Value;
    /// What one pass over `directory` (default: the daemon's) would do.
    fn plan(&self, directory: Option<PathBuf>) -> BoxFuture<'_, Result<serde_json::Value, EngineError>>;
    /// One pass over `directory` (default: the daemon's), carried out; returns the status.
    fn apply(&self, directory: Option<PathBuf>) -> BoxFuture<'_, Result<serde_json::Value, EngineError>>;
}

#[derive(Debug, Clone)]
pub struct PlayOptions {
    /// `false`: create, do not start.
    pub start: bool,
    /// Remove the same pods first if they exist (`--replace`). Without it an existing pod is a conflict.
    pub replace: bool,
    /// Networks to join instead of the default.
    pub networks: Vec<String>,
    pub log_driver: Option<String>,
    pub tls_verify: Option<bool>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct PlayReport {
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
    pub logs: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct DownReport {
    /// Ids of pods stopped and removed, with the error if one failed.
    pub pods: Vec<(PodId, Option<String>)>,
}

#[derive(Debug, Clone, Default)]
pub struct GenerateOptions {
    /// Also print a Service for published ports.
    pub service: bool,
}

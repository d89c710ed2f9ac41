//! REST in podman's two dialects: `libpod/` is its own, `compat/` is docker's.
//!
//! A handler extracts typed input, calls the engine once, and renders. What both dialects need of a
//! request is in `extract.rs`, of a reply in `reply.rs` and `stream.rs`.

use std::path::PathBuf;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::error::ApiError;
use super::kube::Kube;
use crate::engine::Engine;

pub mod compat;
pub mod detach;
mod dispatch;
pub mod exec_sessions;
pub mod extract;
pub mod filter;
mod host_facts;
pub mod json;
pub mod libpod;
pub mod registry_auth;
pub mod reply;
pub mod router;
pub mod selkie;
#[cfg(test)]
mod shapes;
pub mod signal;
pub mod stream;
pub mod time;
pub mod version;
pub mod view;

use exec_sessions::ExecSessions;
use reply::Reply;

/// What every handler may use.
pub struct Context {
    pub engine: Engine,
    pub kube: Arc<dyn Kube>,
    /// The first socket served, for `info`.
    pub socket: Option<PathBuf>,
    /// Cancelled when the server is told to end: streams end then.
    pub closing: CancellationToken,
    /// Ends a server that would end by itself when idle; `None`: this one stays.
    pub hand_over: Option<CancellationToken>,
    pub exec_sessions: ExecSessions,
}

/// What a handler returns.
pub type Outcome = Result<Reply, ApiError>;

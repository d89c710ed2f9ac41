//! REST in podman's two dialects: `libpod/` is its own, `compat/` is docker's.
//!
//! axum carries it: `router.rs` is the table, `address.rs` and `layers.rs` are around it. A handler
//! extracts typed input, calls the engine once, and renders. What both dialects need of a request is in
//! `extract.rs`, of a reply in `reply.rs` and `stream.rs`.

use std::path::Path;
use std::sync::Arc;

use axum::extract::FromRef;
use tokio_util::sync::CancellationToken;

use super::error::ApiError;
use super::kube::Kube;
use crate::engine::Engine;

mod address;
pub mod compat;
pub mod detach;
pub mod exec_sessions;
pub mod extract;
pub mod filter;
mod host_facts;
pub mod json;
mod layers;
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

/// What every handler may use: the state of the router.
#[derive(Clone)]
pub struct Context {
    pub engine: Engine,
    pub kube: Arc<dyn Kube>,
    /// The first socket served, for `info`.
    pub socket: Option<Arc<Path>>,
    /// Cancelled when the server is told to end: streams end then.
    pub closing: CancellationToken,
    /// Ends a server that would end by itself when idle; `None`: this one stays.
    pub hand_over: Option<CancellationToken>,
    pub exec_sessions: Arc<ExecSessions>,
}

impl FromRef<Context> for Engine {
    fn from_ref(context: &Context) -> Self {
        context.engine.clone()
    }
}

impl FromRef<Context> for Arc<dyn Kube> {
    fn from_ref(context: &Context) -> Self {
        context.kube.clone()
    }
}

/// What a handler returns.
pub type Outcome = Result<Reply, ApiError>;

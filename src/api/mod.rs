//! The doors: REST today, varlink later. They translate and call the engine; behaviour lives there.
//!
//! This file opens the sockets and serves them; one connection is `connection.rs`, what a request
//! means is `rest/`.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::engine::Engine;

pub mod activity;
pub mod connection;
pub mod error;
pub mod kube;
mod listener;
pub mod rest;

pub use listener::{ListenAddress, ListenError, Listeners};

use activity::Activity;
use kube::Kube;
use rest::Context;

/// How long requests may go on after a shutdown was asked for. Streams are told at once.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

pub struct ApiOptions {
    pub listen: Vec<ListenAddress>,
    /// Return when no request was open for so long; `None`: serve for ever.
    pub idle_timeout: Option<Duration>,
}

/// Opens the sockets and serves them until `shutdown` completes or nobody has asked for anything
/// for `idle_timeout`.
pub async fn serve(
    engine: Engine,
    kube: Arc<dyn Kube>,
    options: ApiOptions,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ListenError> {
    let listeners = Listeners::open(&options.listen)?;
    serve_listeners(engine, kube, listeners, options.idle_timeout, shutdown).await;
    Ok(())
}

/// The second half of [`serve`], for a caller that has to say "ready" in between.
pub async fn serve_listeners(
    engine: Engine,
    kube: Arc<dyn Kube>,
    listeners: Listeners,
    idle_timeout: Option<Duration>,
    shutdown: impl Future<Output = ()>,
) {
    let closing = CancellationToken::new();
    let activity = Activity::default();
    let connections = TaskTracker::new();
    let hand_over = idle_timeout.map(|_| CancellationToken::new());
    let api = rest::router::api(Context {
        engine,
        kube,
        socket: listeners.first_path().map(Arc::from),
        closing: closing.clone(),
        hand_over: hand_over.clone(),
        exec_sessions: Arc::default(),
    });

    let (accepted, mut streams) = mpsc::channel(64);
    let accepting = listeners.spawn_accepting(accepted);
    let idle = activity.idle_for(idle_timeout);
    let handed_over = async {
        match &hand_over {
            Some(asked) => asked.cancelled().await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(shutdown, idle, handed_over);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            () = &mut idle => {
                tracing::info!("nobody asked for anything, ending");
                break;
            }
            () = &mut handed_over => {
                tracing::info!("another daemon takes over, ending");
                break;
            }
            stream = streams.recv() => match stream {
                Some(stream) => {
                    let serving =
                        connection::serve(stream, api.clone(), closing.clone(), activity.clone());
                    connections.spawn(serving);
                }
                None => break,
            },
        }
    }
    drop(accepting);
    closing.cancel();
    connections.close();
    if tokio::time::timeout(SHUTDOWN_GRACE, connections.wait()).await.is_err() {
        tracing::warn!(connections = connections.len(), "closed connections with requests under way");
    }
}

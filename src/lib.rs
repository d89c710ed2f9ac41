//! Selkie: a container engine for one machine whose heart is a Kubernetes-style reconciler.
//!
//! # Map
//!
//! ```text
//!  manifests dir ──watch──▶ reconcile ──plan/apply──▶ ┌────────┐ ──▶ monitor (one per container) ──▶ container
//!  REST, CLI ────────────────── api ────────────────▶ │ engine │ ──▶ overlay layers, volumes, networks
//!                                                     └────────┘ ◀── SQLite state
//! ```
//!
//! | where | what |
//! |---|---|
//! | [`engine`] | containers, pods, images, networks, volumes of this machine. [`engine::Engine`] is the whole vocabulary of the other two |
//! | [`engine::container`], [`engine::pod`] | records, life cycles (`state.rs` is the rule book, pure), OCI runtime spec (`oci_spec.rs`, pure) |
//! | [`engine::monitor`] | the small program that launches one container and stays with it, and how the daemon talks to it |
//! | [`engine::runtime`] | inside the monitor: our own launcher, and `crun`, `runc`, `youki` behind the same trait |
//! | [`engine::image`], [`engine::network`], [`engine::volume`] | pull and unpack; bridges, addresses, ports, Services, DNS; named directories |
//! | [`engine::store`] | SQLite, one writer thread; all SQL |
//! | [`engine::host`] | every dangerous touch of the kernel |
//! | [`reconcile`] | manifests -> desired (pure), engine -> actual, plan (pure), apply, pod workers, status |
//! | [`api`] | the doors: they translate and call the engine |
//! | `main.rs`, `cli/` | the program: the daemon's roles, and a client of its socket |
//! | `bin/selkie-monitor.rs` | the monitor's program: static, single-threaded, no store |
//!
//! # Invariants
//!
//! - `api -> engine` and `reconcile -> engine`; the engine knows neither, and they do not know each other.
//!   What a door needs of the reconciler it declares in [`api::kube`]; this file, the only place that
//!   knows all three, supplies it. `tests/fast/tidy.rs` reads the sources and holds us to it.
//! - Decisions are pure and apart from effects. The planner cannot do I/O.
//! - Intent is durable before an effect, the result after it: a crash in between is a state with a name.
//! - Containers never depend on the daemon being alive.
//! - There is no global lock, and no lock is held while someone else's work is awaited.

pub mod api;
pub mod engine;
pub mod reconcile;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use api::kube::{DownReport, GenerateOptions, Kube, PlayOptions, PlayReport, PlayedPod};
use api::{ListenAddress, Listeners};
use engine::Engine;
use engine::config::EngineConfig;
use engine::error::{EngineError, ErrorKind, Subject};
use engine::id::NameOrId;
use reconcile::{PlayRequest, Reconciler, ReconcilerOptions};

/// What one daemon shall do.
#[derive(Debug, Clone)]
pub struct DaemonOptions {
    pub engine: EngineConfig,
    /// Manifests to keep true; `None`: only those played over the API.
    pub directory: Option<PathBuf>,
    /// Unix sockets to serve REST on, unless systemd passes some.
    pub sockets: Vec<PathBuf>,
    /// End after so long without a request.
    pub idle_timeout: Option<Duration>,
}

/// How long a daemon waits for another one on the same root to end.
const TAKE_OVER_DEADLINE: Duration = Duration::from_secs(15);

/// How long systemd may take to say whether it stops everything.
const SYSTEMD_PATIENCE: Duration = Duration::from_secs(5);

/// The other one may not listen yet.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// Runs a daemon until SIGTERM, SIGINT or idleness. Its containers run on.
pub async fn run_daemon(options: DaemonOptions) -> anyhow::Result<()> {
    let engine = open_engine(options.engine, &options.sockets).await?;
    let reconciler_options = ReconcilerOptions { node_name: node_name(), ..ReconcilerOptions::default() };
    let reconciler = Reconciler::spawn(engine.clone(), options.directory, reconciler_options).await?;
    let door = Arc::new(ReconcilerDoor { reconciler: reconciler.clone() });
    // Sockets passed by systemd win over all others.
    let listen: Vec<_> = match std::env::var_os("LISTEN_FDS") {
        Some(_) => vec![ListenAddress::Systemd],
        None => options.sockets.into_iter().map(ListenAddress::Unix).collect(),
    };
    let listeners = Listeners::open(&listen)?;
    // Recovery is over, the sockets listen: systemd may start what depends on us.
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::warn!("tell systemd that the daemon is ready: {error}");
    }
    api::serve_listeners(engine.clone(), door, listeners, options.idle_timeout, terminated()).await;
    reconciler.shutdown().await;
    match machine_goes_down().await {
        true => {
            tracing::info!("the machine goes down: stopping every container");
            engine.close_and_end_containers().await;
        }
        false => engine.close().await,
    }
    Ok(())
}

/// Whether systemd stops us because it stops everything. It would wait in vain for most containers to end,
/// whose first process ignores the SIGTERM it sends to all.
async fn machine_goes_down() -> bool {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return false;
    }
    let asked =
        tokio::process::Command::new("systemctl").arg("is-system-running").kill_on_drop(true).output();
    match tokio::time::timeout(SYSTEMD_PATIENCE, asked).await {
        Ok(Ok(output)) => output.stdout.trim_ascii() == b"stopping",
        Ok(Err(error)) => {
            tracing::warn!("ask systemd whether the machine goes down: {error}");
            false
        }
        Err(_) => false,
    }
}

/// Opens the engine; a service started on demand that has it open is asked to make room.
async fn open_engine(config: EngineConfig, sockets: &[PathBuf]) -> Result<Engine, EngineError> {
    let root = config.root.clone();
    match Engine::open(config.clone()).await {
        Err(error) if error.kind() == ErrorKind::InUse => {}
        opened => return opened,
    }
    tracing::info!("waiting for the daemon that uses {} to end", root.display());
    let ask = async {
        loop {
            for socket in sockets {
                ask_to_hand_over(socket).await;
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    };
    tokio::select! {
        opened = Engine::open_when_free(config, TAKE_OVER_DEADLINE) => opened,
        () = ask => unreachable!("it asks for ever"),
    }
}

/// Best effort: a daemon that stays refuses, and the deadline tells the user.
async fn ask_to_hand_over(socket: &Path) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let ask = async {
        let mut stream = tokio::net::UnixStream::connect(socket).await?;
        let request =
            "POST /selkie/v1/hand-over HTTP/1.1\r\nHost: d\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        stream.write_all(request.as_bytes()).await?;
        stream.read_to_end(&mut Vec::new()).await
    };
    if let Ok(Err(error)) = tokio::time::timeout(Duration::from_secs(1), ask).await {
        tracing::debug!("ask the daemon on {} to make room: {error}", socket.display());
    }
}

fn node_name() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "localhost".to_owned())
}

async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        // Without handlers the signals end the process at once, which it is made to survive.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// The reconciler as the doors see it.
struct ReconcilerDoor {
    reconciler: Reconciler,
}

impl Kube for ReconcilerDoor {
    fn play(&self, yaml: String, options: PlayOptions) -> BoxFuture<'_, Result<PlayReport, EngineError>> {
        let request = PlayRequest {
            yaml,
            start: options.start,
            replace: options.replace,
            networks: options.networks,
            log_driver: options.log_driver,
            tls_verify: options.tls_verify,
        };
        async move {
            let outcome = self.reconciler.play(request).await?;
            let pods = outcome.pods.into_iter().map(|pod| PlayedPod {
                id: pod.id,
                containers: pod.containers,
                init_containers: pod.init_containers,
                container_errors: pod.container_errors,
                logs: Vec::new(),
            });
            Ok(PlayReport { pods: pods.collect(), volumes: outcome.volumes })
        }
        .boxed()
    }

    fn down(&self, yaml: String, force: bool) -> BoxFuture<'_, Result<DownReport, EngineError>> {
        async move { Ok(DownReport { pods: self.reconciler.down(yaml, force).await?.pods }) }.boxed()
    }

    fn generate(&self, names: Vec<String>, options: GenerateOptions) -> Result<String, EngineError> {
        let names: Vec<NameOrId> = names.into_iter().map(NameOrId::from).collect();
        self.reconciler.generate(&names, options.service)
    }

    fn status(&self) -> serde_json::Value {
        serde_json::to_value(self.reconciler.status()).expect("the status is plain data")
    }

    fn plan(&self, directory: Option<PathBuf>) -> BoxFuture<'_, Result<serde_json::Value, EngineError>> {
        async move { document(&self.reconciler.plan(directory).await?) }.boxed()
    }

    fn apply(&self, directory: Option<PathBuf>) -> BoxFuture<'_, Result<serde_json::Value, EngineError>> {
        async move { document(&self.reconciler.apply(directory).await?) }.boxed()
    }
}

fn document<T: serde::Serialize>(value: &T) -> Result<serde_json::Value, EngineError> {
    serde_json::to_value(value)
        .map_err(|error| EngineError::internal(Subject::Engine, "render the answer", error))
}

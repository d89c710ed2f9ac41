//! The monitor: parent of one container, owner of its streams and its log. This side starts monitors
//! and finds them again after a restart of the daemon; `process.rs` is what runs inside one.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::sync::watch;

use crate::engine::config::EngineConfig;
use crate::engine::container::OutputStream;
use crate::engine::container::state::{ExitStatus, Process};
use crate::engine::error::{ErrorKind, chain};
use crate::engine::host::process::{self as process_host, SealedProgram};
use crate::engine::runtime::{self, ExecProcess};
use crate::engine::{AttachOptions, BoxStream};

mod attach;
mod client;
mod control;
mod io;
mod launch;
mod log;
mod packet;
pub mod process;
pub mod protocol;
mod reaper;
mod session;

use client::Client;
use process::OpenRuntime;
use protocol::{ExecLifetime, LaunchRequest, MonitorState, Request, Response};
pub use session::{ExecControl, ExecSession};

/// The monitor's state, in its run directory.
const STATE_FILE: &str = "state";
const SIGKILL: i32 = 9;

/// What went wrong between daemon and monitor, or inside the monitor.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    #[error("{0}")]
    CommandNotFound(String),
    #[error("{0}")]
    CommandNotExecutable(String),
    /// The container is not in a state for this.
    #[error("{0}")]
    WrongState(String),
    #[error("no such exec session")]
    NoSuchExec,
    /// The monitor did what it could and failed.
    #[error("{0}")]
    Failed(String),
    #[error("{step}: no answer from the monitor within {secs} s")]
    Timeout { step: &'static str, secs: u64 },
    /// The monitor ended, or is not there.
    #[error("{step}: the monitor has ended")]
    Gone { step: &'static str },
    #[error("{step}: unexpected answer from the monitor: {detail}")]
    Protocol { step: &'static str, detail: String },
    #[error("{step} {}", path.display())]
    Io { step: &'static str, path: PathBuf, source: std::io::Error },
}

impl MonitorError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::CommandNotFound(_) => ErrorKind::CommandNotFound,
            Self::CommandNotExecutable(_) => ErrorKind::CommandNotExecutable,
            Self::WrongState(_) | Self::Gone { .. } => ErrorKind::WrongState,
            Self::NoSuchExec => ErrorKind::NotFound,
            Self::Failed(_) | Self::Timeout { .. } | Self::Protocol { .. } | Self::Io { .. } => {
                ErrorKind::Internal
            }
        }
    }
}

/// What became of a container while no daemon watched.
#[derive(Debug, Clone, PartialEq)]
pub enum Adopted {
    /// Its monitor lives and now is watched.
    Alive { state: MonitorState, monitor_pid: i32 },
    /// It ended.
    Ended(ExitStatus),
    /// Nothing is known of it: it never came to be prepared, or the machine was rebooted. If its monitor
    /// was killed, that is an end with code 137. In each case nothing of it is left.
    Lost,
}

/// A process to add to a container, and who holds its streams.
#[derive(Debug, Clone, PartialEq)]
pub struct ExecStart {
    pub process: ExecProcess,
    /// Columns and rows of a new pseudo-terminal.
    pub terminal: Option<(u16, u16)>,
    /// Keep a writing end; otherwise it reads `/dev/null`.
    pub stdin: bool,
    pub lifetime: ExecLifetime,
}

/// Two halves of an attached container; see [`crate::engine::AttachSession`], which has the same shape.
pub struct AttachHalves {
    /// Ends with the container. Cut short, it ends with an error.
    pub output: BoxStream<(OutputStream, Bytes)>,
    pub input: Pin<Box<dyn AsyncWrite + Send>>,
}

/// The monitors of one engine. Cheap to clone. `run_dir` names the container everywhere:
/// [`LaunchRequest::run_dir`].
///
/// Spawns one task per monitor, which waits for its end, reaps it if it is a child of this process, and
/// removes what a killed one has left.
#[derive(Clone)]
pub struct Monitors(Arc<Inner>);

struct Inner {
    program: PathBuf,
    /// The runtime that removes what a killed monitor has left.
    open: OpenRuntime,
    /// What is executed: a copy of the program that no container can write to, made at the first launch.
    sealed: OnceLock<SealedProgram>,
    watched: Mutex<HashMap<PathBuf, Watched>>,
}

/// A monitor whose end is waited for.
#[derive(Clone)]
struct Watched {
    pid: i32,
    pidfd: Arc<AsyncFd<OwnedFd>>,
    /// What became of the container, once the monitor has ended and nothing is left.
    ended: watch::Receiver<Option<Adopted>>,
}

impl Monitors {
    pub fn new(config: &EngineConfig) -> Self {
        Self::with(config.monitor.clone(), runtime::open)
    }

    fn with(program: PathBuf, open: OpenRuntime) -> Self {
        Self(Arc::new(Inner { program, open, sealed: OnceLock::new(), watched: Mutex::default() }))
    }

    /// Spawns a monitor and waits (60 s at most) until it has prepared the container. `started_at` is
    /// the present time until [`Monitors::start`] gives the real one. On error, and when the future is
    /// dropped, nothing is left.
    pub async fn launch(&self, request: LaunchRequest) -> Result<Process, MonitorError> {
        const STEP: &str = "launch";
        let run_dir = request.run_dir.clone();
        let this = self.clone();
        let spawned = tokio::task::spawn_blocking(move || launch::spawn(&this.program()?, &request))
            .await
            .map_err(|error| MonitorError::Failed(format!("spawn the monitor: {error}")))??;
        let watched = self.watch(&run_dir, spawned.pid, spawned.pidfd)?;
        let mut abandoned = KillOnDrop(Some(watched.clone()));
        let report = tokio::time::timeout(launch::LAUNCH_LIMIT, read_report(spawned.report)).await;
        let error = match report {
            Ok(Some(MonitorState::Created { pid, start_ticks })) => {
                abandoned.disarm();
                return Ok(Process {
                    pid,
                    start_ticks,
                    monitor_pid: watched.pid,
                    started_at: Timestamp::now(),
                });
            }
            Ok(Some(MonitorState::Failed { kind, message })) => {
                abandoned.disarm();
                client::failure(kind, message)
            }
            Ok(Some(state)) => MonitorError::Protocol { step: STEP, detail: format!("{state:?}") },
            Ok(None) => MonitorError::Gone { step: STEP },
            Err(_) => MonitorError::Timeout { step: STEP, secs: launch::LAUNCH_LIMIT.as_secs() },
        };
        // Kills it, unless it ends by itself.
        drop(abandoned);
        watched.ended().await;
        Err(error)
    }

    /// Lets the prepared container execute its command. On error the container has ended, and nothing
    /// of it is left, unless the monitor did not answer at all.
    pub async fn start(&self, run_dir: &Path) -> Result<Process, MonitorError> {
        const STEP: &str = "start";
        let client = Client::connect(run_dir, STEP)?;
        let monitor_pid = peer_pid(&client, STEP)?;
        match client.call(STEP, &Request::Start, &[]).await {
            Ok((Response::State(MonitorState::Running { pid, start_ticks, started_at }), _)) => {
                Ok(Process { pid, start_ticks, monitor_pid, started_at })
            }
            Ok((response, _)) => Err(client::unexpected(STEP, &response)),
            Err(error) => {
                let final_error = match error {
                    MonitorError::CommandNotFound(_)
                    | MonitorError::CommandNotExecutable(_)
                    | MonitorError::Failed(_)
                    | MonitorError::Gone { .. } => true,
                    MonitorError::WrongState(_)
                    | MonitorError::NoSuchExec
                    | MonitorError::Timeout { .. }
                    | MonitorError::Protocol { .. }
                    | MonitorError::Io { .. } => false,
                };
                if final_error && let Some(watched) = self.watched(run_dir) {
                    watched.ended().await;
                }
                Err(error)
            }
        }
    }

    /// After a restart of the daemon: what became of the container. A monitor that lives is watched from
    /// then on.
    pub async fn adopt(&self, run_dir: &Path) -> Adopted {
        // Long enough for a monitor between its spawn and its socket, or on its way out.
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match self.find(run_dir).await {
                Ok(alive) => return alive,
                Err(MonitorError::Gone { .. }) => {}
                Err(error) => tracing::warn!(
                    path = %run_dir.display(),
                    error = chain(&error),
                    "a monitor does not answer"
                ),
            }
            if !launch::is_locked(run_dir) || Instant::now() > deadline {
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        conclude(run_dir.to_owned(), self.0.open).await
    }

    /// Resolves when the container has ended and nothing of it is left. Event driven. Any number of
    /// callers, also after the fact.
    pub async fn exited(&self, run_dir: &Path, process: &Process) -> ExitStatus {
        let outcome = loop {
            if let Some(watched) = self.watched(run_dir)
                && watched.pid == process.monitor_pid
            {
                break watched.ended().await;
            }
            match self.adopt(run_dir).await {
                Adopted::Alive { monitor_pid, .. } if monitor_pid == process.monitor_pid => {}
                // The directory has a later run in it: nothing tells about this one any more.
                Adopted::Alive { .. } => break Adopted::Lost,
                ended @ (Adopted::Ended(_) | Adopted::Lost) => break ended,
            }
        };
        match outcome {
            Adopted::Ended(status) => status,
            Adopted::Alive { .. } | Adopted::Lost => ExitStatus {
                code: -1,
                oom_killed: false,
                finished_at: Timestamp::now(),
                started_at: Some(process.started_at),
                error: Some("nobody saw the container end".to_owned()),
            },
        }
    }

    pub async fn kill(&self, run_dir: &Path, signal: i32) -> Result<(), MonitorError> {
        done(run_dir, "signal", Request::Kill { signal }).await
    }

    pub async fn pause(&self, run_dir: &Path) -> Result<(), MonitorError> {
        done(run_dir, "pause", Request::Pause).await
    }

    pub async fn resume(&self, run_dir: &Path) -> Result<(), MonitorError> {
        done(run_dir, "resume", Request::Resume).await
    }

    /// Of the container's terminal; nothing happens without one.
    pub async fn resize(&self, run_dir: &Path, columns: u16, rows: u16) -> Result<(), MonitorError> {
        done(run_dir, "resize", Request::Resize { columns, rows }).await
    }

    /// Closes and reopens the log file, for an outside rotation.
    pub async fn reopen_log(&self, run_dir: &Path) -> Result<(), MonitorError> {
        done(run_dir, "reopen log", Request::ReopenLog).await
    }

    pub async fn exec(&self, run_dir: &Path, exec: ExecStart) -> Result<ExecSession, MonitorError> {
        session::exec(run_dir.to_owned(), exec).await
    }

    pub async fn attach(&self, run_dir: &Path, options: AttachOptions) -> Result<AttachHalves, MonitorError> {
        session::attach(run_dir.to_owned(), options).await
    }

    /// The request a container was launched with, as long as its run directory stands.
    pub fn launch_request(run_dir: &Path) -> Result<LaunchRequest, MonitorError> {
        launch::read_request(run_dir)
    }

    /// Kills and removes what a container may have left, whatever its monitor did: the last step of
    /// removing it, before its run directory goes. Does nothing where nothing is left.
    pub async fn cleanup(&self, run_dir: &Path) {
        self.0.watched.lock().expect("no panic under this lock").remove(run_dir);
        let (run_dir, open) = (run_dir.to_owned(), self.0.open);
        let _ = tokio::task::spawn_blocking(move || launch::cleanup_leftovers(&run_dir, open)).await;
    }

    /// The path to execute.
    fn program(&self) -> Result<PathBuf, MonitorError> {
        if let Some(sealed) = self.0.sealed.get() {
            return Ok(sealed.path());
        }
        let sealed =
            SealedProgram::open(&self.0.program).map_err(|error| MonitorError::Failed(chain(&error)))?;
        Ok(self.0.sealed.get_or_init(|| sealed).path())
    }

    fn watched(&self, run_dir: &Path) -> Option<Watched> {
        self.0.watched.lock().expect("no panic under this lock").get(run_dir).cloned()
    }

    /// Waits for the end of a monitor from now on.
    fn watch(&self, run_dir: &Path, pid: i32, pidfd: OwnedFd) -> Result<Watched, MonitorError> {
        let pidfd = client::readiness(pidfd).map_err(|source| MonitorError::Io {
            step: "watch the monitor of",
            path: run_dir.to_owned(),
            source,
        })?;
        let pidfd = Arc::new(pidfd);
        let (sender, ended) = watch::channel(None);
        let watched = Watched { pid, pidfd: pidfd.clone(), ended };
        self.0.watched.lock().expect("no panic under this lock").insert(run_dir.to_owned(), watched.clone());
        let run_dir = run_dir.to_owned();
        let monitors = Arc::downgrade(&self.0);
        let open = self.0.open;
        tokio::spawn(async move {
            if let Err(error) = pidfd.readable().await {
                tracing::error!(path = %run_dir.display(), %error, "cannot wait for a monitor");
                return;
            }
            if let Err(error) = process_host::reap(pidfd.get_ref()) {
                tracing::error!(path = %run_dir.display(), error = chain(&error), "cannot reap a monitor");
            }
            let outcome = conclude(run_dir.clone(), open).await;
            // Who asks from now on finds the same in the directory.
            if let Some(monitors) = monitors.upgrade() {
                let mut watched = monitors.watched.lock().expect("no panic under this lock");
                if watched.get(&run_dir).is_some_and(|entry| entry.pid == pid) {
                    watched.remove(&run_dir);
                }
            }
            let _ = sender.send(Some(outcome));
        });
        Ok(watched)
    }

    /// Asks a monitor for its state, and watches it if it was not yet.
    async fn find(&self, run_dir: &Path) -> Result<Adopted, MonitorError> {
        const STEP: &str = "adopt";
        let client = Client::connect(run_dir, STEP)?;
        let monitor_pid = peer_pid(&client, STEP)?;
        let pidfd = process_host::pidfd_open(monitor_pid);
        // It answers after that: the descriptor is of the monitor, and not of a later process of its number.
        let state = match client.send(STEP, &Request::State, &[]).await {
            // While it still launches, the answer takes as long as that.
            Ok(()) => tokio::time::timeout(launch::LAUNCH_LIMIT, client.answer(STEP))
                .await
                .unwrap_or(Err(MonitorError::Timeout { step: STEP, secs: launch::LAUNCH_LIMIT.as_secs() }))?,
            Err(error) => return Err(error),
        };
        let state = match state {
            (Response::State(state), _) => state,
            (response, _) => return Err(client::unexpected(STEP, &response)),
        };
        if self.watched(run_dir).is_none_or(|watched| watched.pid != monitor_pid) {
            let pidfd = pidfd.map_err(|error| MonitorError::Failed(chain(&error)))?;
            self.watch(run_dir, monitor_pid, pidfd)?;
        }
        Ok(Adopted::Alive { state, monitor_pid })
    }
}

impl Watched {
    async fn ended(mut self) -> Adopted {
        match self.ended.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or(Adopted::Lost),
            // The task that waited is gone: only a runtime that shuts down does that.
            Err(_) => Adopted::Lost,
        }
    }
}

/// Kills a monitor whose launch nobody waits for any more; its end is seen to as any other's.
struct KillOnDrop(Option<Watched>);

impl KillOnDrop {
    fn disarm(&mut self) {
        self.0 = None;
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Some(watched) = &self.0 {
            let _ = process_host::pidfd_signal(watched.pidfd.get_ref().as_fd(), SIGKILL);
        }
    }
}

/// What the run directory says, now that no monitor lives in it. Most often that is one small file.
async fn conclude(run_dir: PathBuf, open: OpenRuntime) -> Adopted {
    tokio::task::spawn_blocking(move || launch::conclude(&run_dir, open)).await.unwrap_or(Adopted::Lost)
}

/// A request without an answer of its own.
async fn done(run_dir: &Path, step: &'static str, request: Request) -> Result<(), MonitorError> {
    match Client::connect(run_dir, step)?.call(step, &request, &[]).await? {
        (Response::Done, _) => Ok(()),
        (response, _) => Err(client::unexpected(step, &response)),
    }
}

/// Whose socket it is: the process that listens.
fn peer_pid(client: &Client, step: &'static str) -> Result<i32, MonitorError> {
    rustix::net::sockopt::socket_peercred(client.as_fd())
        .map(|peer| peer.pid.as_raw_nonzero().get())
        .map_err(|error| MonitorError::Protocol { step, detail: error.to_string() })
}

/// The monitor's report: one line. `None`: it ended without one.
async fn read_report(report: OwnedFd) -> Option<MonitorState> {
    let mut report = tokio::net::unix::pipe::Receiver::from_owned_fd(report).ok()?;
    let mut text = Vec::new();
    // To the end of the line and no further: a process of the container might hold the pipe open.
    while !text.ends_with(b"\n") {
        if text.len() > packet::MAX_PACKET_BYTES || report.read_buf(&mut text).await.ok()? == 0 {
            return None;
        }
    }
    serde_json::from_slice(&text).ok()
}

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;

//! Spawning a monitor, and what its run directory tells about one that has gone. Blocking.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use jiff::Timestamp;
use rustix::fs::FlockOperation;
use rustix::process::Signal;

use super::process::OpenRuntime;
use super::protocol::{FailureKind, LaunchRequest, MonitorState};
use super::{Adopted, MonitorError, STATE_FILE, packet};
use crate::engine::container::state::ExitStatus;
use crate::engine::error::chain;
use crate::engine::host::process;

const REQUEST_FILE: &str = "launch.json";
const LOG_FILE: &str = "monitor.log";
/// What remains of a container is killed outright: only an uninterruptible sleep takes longer.
const KILL_LIMIT_MS: u16 = 10_000;

/// A monitor just spawned.
pub struct Spawned {
    pub pid: i32,
    pub pidfd: OwnedFd,
    /// Where it reports.
    pub report: OwnedFd,
}

/// Spawns a monitor with `request` as its standard input.
pub fn spawn(program: &Path, request: &LaunchRequest) -> Result<Spawned, MonitorError> {
    let run_dir = &request.run_dir;
    let failed = |step, path: &Path| {
        let path = path.to_owned();
        move |source: io::Error| MonitorError::Io { step, path, source }
    };
    std::fs::create_dir_all(run_dir).map_err(failed("create run directory", run_dir))?;
    let path = run_dir.join(REQUEST_FILE);
    let stdin = write_request(&path, request).map_err(failed("write launch request", &path))?;
    let path = run_dir.join(LOG_FILE);
    let log = File::options()
        .create(true)
        .append(true)
        .open(&path)
        .map_err(failed("open the monitor's log", &path))?;
    let mut child = Command::new(program)
        .arg0("selkie-monitor")
        .arg(&request.create.id)
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        // For people and tests that look for the monitors of one engine.
        .env("SELKIE_RUN_DIR", run_dir)
        .current_dir("/")
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(failed("start the monitor program", program))?;
    let pid = child.id() as i32;
    // Not reaped yet, so the number is its own.
    let pidfd = process::pidfd_open(pid)
        .map_err(|error| MonitorError::Failed(format!("watch the monitor: {}", chain(&error))))
        .inspect_err(|_| {
            let _ = child.kill();
            let _ = child.wait();
        })?;
    let report = child.stdout.take().expect("standard output is a pipe").into();
    Ok(Spawned { pid, pidfd, report })
}

/// The request a monitor was launched with.
pub fn read_request(run_dir: &Path) -> Result<LaunchRequest, MonitorError> {
    let path = run_dir.join(REQUEST_FILE);
    let step = "read launch request";
    let text =
        std::fs::read(&path).map_err(|source| MonitorError::Io { step, path: path.clone(), source })?;
    serde_json::from_slice(&text).map_err(|source| MonitorError::Io { step, path, source: source.into() })
}

pub fn read_state(run_dir: &Path) -> Option<MonitorState> {
    serde_json::from_slice(&std::fs::read(run_dir.join(STATE_FILE)).ok()?).ok()
}

/// Whether a monitor holds the lock of `run_dir`: it lives, be it from the first moment of its start.
pub fn is_locked(run_dir: &Path) -> bool {
    File::open(run_dir.join(REQUEST_FILE)).is_ok_and(|file| {
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK)
    })
}

/// The monitor of `run_dir` has ended: what became of the container. Kills and removes what is left.
pub fn conclude(run_dir: &Path, open: OpenRuntime) -> Adopted {
    let state = read_state(run_dir);
    // The last thing a monitor does, when nothing is left, is to remove its socket.
    let clean = !run_dir.join(packet::SOCKET_NAME).exists();
    match state {
        Some(MonitorState::Exited(status)) => {
            if !clean {
                cleanup_leftovers(run_dir, open);
            }
            Adopted::Ended(status)
        }
        Some(MonitorState::Failed { kind, message }) => {
            if !clean {
                cleanup_leftovers(run_dir, open);
            }
            Adopted::Ended(failed_status(kind, message))
        }
        Some(MonitorState::Created { .. } | MonitorState::Running { .. } | MonitorState::Paused { .. }) => {
            cleanup_leftovers(run_dir, open);
            match read_state(run_dir) {
                Some(MonitorState::Exited(status)) => Adopted::Ended(status),
                _ => Adopted::Lost,
            }
        }
        None => {
            cleanup_leftovers(run_dir, open);
            Adopted::Lost
        }
    }
}

/// Kills and removes what a monitor that was killed has left of its container. May be called again.
/// What cannot be removed is logged and tried again when the container is launched or removed.
pub fn cleanup_leftovers(run_dir: &Path, open: OpenRuntime) {
    let Ok(request) = read_request(run_dir) else { return };
    let state = read_state(run_dir);
    if let Some(
        MonitorState::Created { pid, start_ticks }
        | MonitorState::Running { pid, start_ticks, .. }
        | MonitorState::Paused { pid, start_ticks, .. },
    ) = state
    {
        if let Ok(Some(process)) = process::pidfd_open_same(pid, start_ticks) {
            let _ = process::pidfd_signal(process.as_fd(), Signal::KILL.as_raw());
            process::wait_ended(process.as_fd(), KILL_LIMIT_MS);
        }
        // Next time nothing needs to be found out again. The socket stays until nothing is left.
        let end = state.as_ref().map(|state| MonitorState::Exited(died_status(state)));
        let written = serde_json::to_vec(&end)
            .map_err(io::Error::from)
            .and_then(|text| std::fs::write(run_dir.join(STATE_FILE), text));
        if let Err(error) = written {
            tracing::warn!(container.id = request.create.id, %error, "cannot record the end of a container");
        }
    }
    let deleted = open(&request.runtime, &request.create).and_then(|mut runtime| runtime.delete());
    match deleted {
        Ok(()) => drop(std::fs::remove_file(run_dir.join(packet::SOCKET_NAME))),
        Err(error) => tracing::warn!(
            container.id = request.create.id,
            error = chain(&error),
            "cannot remove what a killed monitor has left"
        ),
    }
}

/// The end of a container whose monitor was killed: nobody saw its exit code, and it was killed too.
fn died_status(state: &MonitorState) -> ExitStatus {
    ExitStatus {
        code: 137,
        oom_killed: false,
        finished_at: Timestamp::now(),
        started_at: state.started_at(),
        error: Some("the monitor died".to_owned()),
    }
}

fn failed_status(kind: FailureKind, message: String) -> ExitStatus {
    let code = match kind {
        FailureKind::CommandNotFound => 127,
        FailureKind::CommandNotExecutable => 126,
        FailureKind::NoSuchExec | FailureKind::WrongState | FailureKind::Internal => 125,
    };
    ExitStatus {
        code,
        oom_killed: false,
        finished_at: Timestamp::now(),
        started_at: None,
        error: Some(message),
    }
}

/// Written, locked, and open at its beginning. The lock belongs to the open file, which the monitor
/// inherits: there is no moment at which a monitor that was spawned does not hold it.
fn write_request(path: &Path, request: &LaunchRequest) -> io::Result<File> {
    let mut file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    // The end of an earlier run must not be taken for this one's.
    match std::fs::remove_file(request.run_dir.join(STATE_FILE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    file.set_len(0)?;
    file.write_all(&serde_json::to_vec(request)?)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}

/// How long the launch of a container may take.
pub const LAUNCH_LIMIT: Duration = Duration::from_secs(60);

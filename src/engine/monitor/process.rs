//! The monitor's own process: one container, one thread, one loop.
//!
//! ```text
//!  request on stdin ─▶ listen on ctl ─▶ create ─▶ Created ──Start──▶ Running ⇄ Paused
//!                                          │                           │
//!                                          ▼ (nothing left)            ▼
//!                                        Failed                drain, Exited, delete, end
//! ```
//!
//! It depends on nothing of the daemon: neither its life, nor its files, nor its descriptors. Its
//! `state` file is replaced before anyone is told what it says. At rest it waits in one `poll`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::SocketFlags;

use super::control::Connection;
use super::io::{Chunk, Streams, complain};
use super::log::Log;
use super::protocol::{FailureKind, LaunchRequest, MonitorState};
use super::reaper::{self, Sessions};
use super::{STATE_FILE, packet};
use crate::engine::config::RuntimeName;
use crate::engine::container::OutputStream;
use crate::engine::container::state::ExitStatus;
use crate::engine::error::chain;
use crate::engine::host;
use crate::engine::runtime::{CreateRequest, LaunchError, OciRuntime};

/// How many connections are served at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 256;
/// How much is still read from streams that someone holds open when the container has ended.
const MAX_FINAL_READS: usize = 64;

/// Makes the runtime that a request names.
pub type OpenRuntime = fn(&RuntimeName, &CreateRequest) -> Result<Box<dyn OciRuntime>, LaunchError>;

/// The program: `selkie-monitor ID` with a [`LaunchRequest`] as standard input, or
/// `selkie-monitor pause`.
pub fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|word| word == "pause") {
        return match host::pause::run() {
            Ok(never) => match never {},
            Err(error) => {
                complain(format_args!("pause: {}", chain(&error)));
                ExitCode::FAILURE
            }
        };
    }
    if let Err(error) = host::process::ensure_protected_executable() {
        complain(format_args!("{}", chain(&error)));
        return ExitCode::FAILURE;
    }
    match serve(crate::engine::runtime::open) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// Launches one container and stays with it to its end. Says whether nothing of it is left.
pub(super) fn serve(open: OpenRuntime) -> bool {
    // Executed by way of a descriptor, it would be called by that one's number.
    let _ = std::fs::write("/proc/self/comm", "selkie-monitor");
    let (request, lock) = match read_request() {
        Ok(read) => read,
        Err(error) => {
            complain(format_args!("read launch request: {error}"));
            return false;
        }
    };
    let run_dir = request.run_dir.clone();
    let clean = match Monitor::launch(request, lock, open) {
        Ok(mut monitor) => {
            report(&monitor.state);
            monitor.run()
        }
        Err((state, clean)) => {
            if let Err(error) = write_state(&run_dir, &state) {
                complain(format_args!("write state: {error}"));
            }
            report(&state);
            clean
        }
    };
    if clean {
        // A socket that is gone, beside a final state, says that there is nothing to clean up.
        let _ = std::fs::remove_file(run_dir.join(packet::SOCKET_NAME));
    }
    clean
}

pub(super) struct Monitor {
    pub(super) request: LaunchRequest,
    pub(super) state: MonitorState,
    pub(super) streams: Streams,
    pub(super) sessions: Sessions,
    pub(super) connections: Vec<Connection>,
    /// One packet as it arrives.
    pub(super) packet: Vec<u8>,
    /// Starting it failed: what the end looks like.
    pub(super) start_failure: Option<(FailureKind, String)>,
    runtime: Box<dyn OciRuntime>,
    next_connection: u64,
    listener: OwnedFd,
    signals: SignalFd,
    /// The runtime's descriptor of memory kills is worth waiting for.
    watch_oom: bool,
    oom_killed: bool,
    pid: i32,
    /// The first process's exit code, once it has been reaped.
    exit_code: Option<i32>,
    /// Held for its lock, which tells that this monitor lives.
    _lock: OwnedFd,
}

/// What a descriptor that became ready belongs to.
#[derive(Clone, Copy)]
enum Source {
    Signals,
    Listener,
    Output(OutputStream),
    Input,
    Oom,
    Connection(u64),
}

impl Monitor {
    /// Everything up to the prepared container. On error: the final state, and whether nothing is left.
    fn launch(
        request: LaunchRequest,
        lock: OwnedFd,
        open: OpenRuntime,
    ) -> Result<Self, (MonitorState, bool)> {
        let nothing_left = |step: &str, error: io::Error| (failed(format!("{step}: {error}")), true);
        // A child of the daemon until that ends, and in no session or group that it could signal.
        let _ = rustix::process::setsid();
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .map_err(|error| nothing_left("become a subreaper", error.into()))?;
        rustix::process::chdir("/").map_err(|error| nothing_left("enter /", error.into()))?;
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        // First of all: whoever connects from now on waits for the outcome instead of guessing it.
        let listener = packet::listen(&request.run_dir)
            .map_err(|error| nothing_left("listen on the control socket", error))?;
        let log_path = request.log.path.as_ref().unwrap_or(&request.log_path);
        let log = Log::open(request.log.driver, log_path, request.log.max_size_bytes)
            .map_err(|error| nothing_left(&format!("open log {}", log_path.display()), error))?;
        let (mut streams, stdio) =
            Streams::open(&request, log).map_err(|error| nothing_left("make standard streams", error))?;

        let mut runtime =
            open(&request.runtime, &request.create).map_err(|error| (launch_failed(&error), true))?;
        let launched = match runtime.create(&request.create, stdio) {
            Ok(launched) => launched,
            Err(error) => return Err((launch_failed(&error), delete(runtime.as_mut()))),
        };
        let watched = watch(launched.pid).and_then(|watched| {
            launched.console.map_or(Ok(()), |console| streams.set_console(console))?;
            Ok(watched)
        });
        let (start_ticks, signals) = match watched {
            Ok(watched) => watched,
            Err(error) => {
                let clean = delete(runtime.as_mut());
                return Err((failed(format!("watch the container: {error}")), clean));
            }
        };
        let monitor = Self {
            state: MonitorState::Created { pid: launched.pid, start_ticks },
            request,
            streams,
            sessions: Sessions::default(),
            connections: Vec::new(),
            packet: vec![0; packet::MAX_PACKET_BYTES],
            start_failure: None,
            watch_oom: runtime.oom_events().is_some(),
            oom_killed: false,
            runtime,
            next_connection: 0,
            listener,
            signals,
            pid: launched.pid,
            exit_code: None,
            _lock: lock,
        };
        block_signals();
        monitor.save_state();
        Ok(monitor)
    }

    /// Serves until the container has ended. Says whether nothing of it is left.
    fn run(&mut self) -> bool {
        // Children that ended before signals were watched.
        self.reap();
        while self.exit_code.is_none() && self.start_failure.is_none() {
            for (source, events) in self.wait() {
                self.serve(source, events);
                if self.exit_code.is_some() {
                    break;
                }
            }
            self.drop_stalled();
        }
        self.finish()
    }

    /// Waits until something is ready.
    fn wait(&self) -> Vec<(Source, PollFlags)> {
        let held_up_until = self.connections.iter().filter_map(Connection::holds_up_until).min();
        let mut waited = vec![(Source::Signals, self.signals.as_fd(), PollFlags::IN)];
        if self.connections.len() < MAX_CONNECTIONS {
            waited.push((Source::Listener, self.listener.as_fd(), PollFlags::IN));
        }
        if held_up_until.is_none() {
            for stream in [OutputStream::Stdout, OutputStream::Stderr] {
                let output = self.streams.output(stream);
                waited.extend(output.map(|descriptor| (Source::Output(stream), descriptor, PollFlags::IN)));
            }
        }
        let input = self.streams.blocked_input();
        waited.extend(input.map(|descriptor| (Source::Input, descriptor, PollFlags::OUT)));
        if self.watch_oom {
            let events = self.runtime.oom_events();
            waited.extend(events.map(|descriptor| (Source::Oom, descriptor, PollFlags::IN)));
        }
        let input_has_room = self.streams.input_has_room();
        for connection in &self.connections {
            // A hung-up socket is ready for ever: one that nothing can be done for is left out.
            if let Some(events) = connection.wanted_events(input_has_room) {
                waited.push((Source::Connection(connection.id), connection.socket.as_fd(), events));
            }
        }
        let mut polled: Vec<_> = waited
            .iter()
            .map(|(_, descriptor, events)| PollFd::from_borrowed_fd(*descriptor, *events))
            .collect();
        let timeout = held_up_until.map(|until| timespec(until.saturating_duration_since(Instant::now())));
        match rustix::event::poll(&mut polled, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                // The kernel is out of memory, the only cause left. It will pass.
                complain(format_args!("poll: {error}"));
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        let events = polled.iter().map(PollFd::revents);
        let sources = waited.iter().map(|(source, ..)| *source);
        sources.zip(events).filter(|(_, events)| !events.is_empty()).collect()
    }

    fn serve(&mut self, source: Source, events: PollFlags) {
        match source {
            Source::Signals => self.read_signals(),
            Source::Listener => self.accept(),
            Source::Output(stream) => drop(self.read_output(stream)),
            Source::Input => self.streams.flush_input(),
            Source::Oom => self.read_oom(),
            Source::Connection(id) => self.serve_connection(id, events),
        }
    }

    fn read_signals(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            // The machine goes down, or an operator wants it so: the container is asked, and its end recorded.
            if info.ssi_signo == Signal::SIGTERM as u32 {
                let signal = match self.state {
                    MonitorState::Created { .. } => Signal::SIGKILL,
                    _ => Signal::SIGTERM,
                };
                if let Err(error) = self.call_runtime(|runtime| runtime.kill(signal as i32)) {
                    complain(format_args!("pass on {signal}: {}", chain(&error)));
                }
            }
        }
        self.reap();
    }

    fn reap(&mut self) {
        while let Some((pid, code)) = reaper::reap() {
            if pid == self.pid {
                self.exit_code = Some(code);
            } else if let Some(id) = self.sessions.ended(pid, code) {
                let id = id.to_owned();
                self.tell_waiting(&id);
            }
        }
    }

    fn accept(&mut self) {
        match rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(socket) if is_friend(&socket) => {
                self.connections.push(Connection::new(self.next_connection, socket));
                self.next_connection += 1;
            }
            Ok(stranger) => drop(stranger),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => {}
            Err(error) => {
                // Out of descriptors or memory. The listener stays ready: do not spin on it.
                complain(format_args!("accept: {error}"));
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }

    /// Reads once, for the log and all clients. Says whether more may follow.
    fn read_output(&mut self, stream: OutputStream) -> bool {
        match self.streams.read(stream) {
            Chunk::Data(channel, packet) => {
                let mut shared = None;
                for connection in &mut self.connections {
                    connection.offer(channel, packet, &mut shared);
                }
                true
            }
            Chunk::Nothing | Chunk::End => false,
        }
    }

    fn read_oom(&mut self) {
        let mut events = [0; 512];
        let read = self.runtime.oom_events().map(|descriptor| rustix::io::read(descriptor, &mut events));
        self.watch_oom =
            matches!(read, Some(Ok(1..) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR)));
        self.oom_killed |= self.runtime.oom_killed();
    }

    /// Gives up clients that have held the container up for too long.
    fn drop_stalled(&mut self) {
        let now = Instant::now();
        let sessions = &mut self.sessions;
        self.connections.retain(|connection| {
            let stalled = connection.holds_up_until().is_some_and(|until| until <= now);
            if stalled {
                complain(format_args!("an attached client reads nothing: disconnected"));
                sessions.connection_closed(connection.id);
            }
            !stalled
        });
    }

    /// Calls the runtime as it expects to be called: with no signal blocked, which its children would inherit.
    pub(super) fn call_runtime<T>(&mut self, call: impl FnOnce(&mut dyn OciRuntime) -> T) -> T {
        self.call_runtime_then(call, |_, _| {})
    }

    /// The same; `then` is called before anything is reaped that the call may have left.
    pub(super) fn call_runtime_then<T>(
        &mut self,
        call: impl FnOnce(&mut dyn OciRuntime) -> T,
        then: impl FnOnce(&mut Self, &T),
    ) -> T {
        let _ = handled().thread_unblock();
        let result = call(self.runtime.as_mut());
        block_signals();
        then(self, &result);
        // A SIGCHLD may have come and gone.
        self.reap();
        result
    }

    /// Replaces the state file.
    pub(super) fn save_state(&self) {
        if let Err(error) = write_state(&self.request.run_dir, &self.state) {
            complain(format_args!("write state: {error}"));
        }
    }

    /// The container has ended: what it printed and how it ended is kept first, then its remains go.
    fn finish(&mut self) -> bool {
        self.oom_killed |= self.runtime.oom_killed();
        self.drain();
        self.state = match (self.start_failure.take(), self.exit_code) {
            (Some((kind, message)), _) => MonitorState::Failed { kind, message },
            (None, code) => MonitorState::Exited(ExitStatus {
                code: code.unwrap_or(-1),
                oom_killed: self.oom_killed,
                finished_at: Timestamp::now(),
                started_at: self.state.started_at(),
                error: None,
            }),
        };
        self.save_state();
        let clean = delete(self.runtime.as_mut());
        // In a shared PID namespace only `delete` ends what the first process left behind.
        self.reap();
        self.drain();
        self.streams.finish_log();
        self.sessions.end_all();
        for connection in std::mem::take(&mut self.connections) {
            connection.finish(&self.sessions);
        }
        clean
    }

    /// Reads what is there, and does not wait for who may still hold the streams open.
    fn drain(&mut self) {
        for stream in [OutputStream::Stdout, OutputStream::Stderr] {
            for _ in 0..MAX_FINAL_READS {
                if !self.read_output(stream) {
                    break;
                }
            }
        }
    }
}

/// The request, and the lock that came with it.
fn read_request() -> io::Result<(LaunchRequest, OwnedFd)> {
    let stdin = io::stdin();
    let mut text = Vec::new();
    stdin.lock().take(packet::MAX_MESSAGE_BYTES as u64).read_to_end(&mut text)?;
    Ok((serde_json::from_slice(&text)?, stdin.as_fd().try_clone_to_owned()?))
}

/// Tells whoever spawned this monitor, and lets go of them. If they are gone already, the state file tells.
fn report(state: &MonitorState) {
    let mut text = serde_json::to_vec(state).expect("a state is always JSON");
    text.push(b'\n');
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(&text).and_then(|()| stdout.flush());
    if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
    }
}

/// Replaces the state file as a whole.
fn write_state(run_dir: &Path, state: &MonitorState) -> io::Result<()> {
    let aside = run_dir.join("state.new");
    std::fs::write(&aside, serde_json::to_vec(state)?)?;
    std::fs::rename(aside, run_dir.join(STATE_FILE))
}

fn watch(pid: i32) -> io::Result<(u64, SignalFd)> {
    let ticks = host::process::start_ticks(pid)
        .map_err(io::Error::other)?
        .ok_or_else(|| io::Error::other("the container's process has gone"))?;
    Ok((ticks, SignalFd::with_flags(&handled(), SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?))
}

/// Removes what is left. Says whether that succeeded.
fn delete(runtime: &mut dyn OciRuntime) -> bool {
    match runtime.delete() {
        Ok(()) => true,
        Err(error) => {
            complain(format_args!("delete: {}", chain(&error)));
            false
        }
    }
}

fn failed(message: String) -> MonitorState {
    MonitorState::Failed { kind: FailureKind::Internal, message }
}

fn launch_failed(error: &LaunchError) -> MonitorState {
    let (kind, message) = failure(error);
    MonitorState::Failed { kind, message }
}

/// What the daemon is told of a runtime's error.
pub(super) fn failure(error: &LaunchError) -> (FailureKind, String) {
    let kind = match error {
        LaunchError::CommandNotFound { .. } => FailureKind::CommandNotFound,
        LaunchError::CommandNotExecutable { .. } => FailureKind::CommandNotExecutable,
        LaunchError::Failed { .. } => FailureKind::Internal,
    };
    (kind, chain(error))
}

/// Only the daemon's user may speak here. The directory says so too; this does not depend on it.
fn is_friend(socket: &OwnedFd) -> bool {
    rustix::net::sockopt::socket_peercred(socket)
        .is_ok_and(|peer| peer.uid.is_root() || peer.uid == rustix::process::geteuid())
}

fn handled() -> SigSet {
    [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().collect()
}

fn block_signals() {
    handled().thread_block().expect("blocking signals cannot fail");
}

fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: duration.as_secs() as i64, tv_nsec: i64::from(duration.subsec_nanos()) }
}

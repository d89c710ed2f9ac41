//! The control socket: one request, one answer, until a connection becomes something else.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Instant;

use jiff::Timestamp;
use rustix::event::PollFlags;
use rustix::process::Signal;

use super::attach::Client;
use super::packet::{self, Packet};
use super::process::{Monitor, failure};
use super::protocol::{Channel, ExecLifetime, FailureKind, MonitorState, Request, Response};
use super::reaper::{self, SessionState, Sessions};
use crate::engine::runtime::{ExecProcess, LaunchError, Stdio};

/// How many exec sessions run at once.
const MAX_SESSIONS: usize = 1024;
/// How many packets of one client are read before others have their turn.
const MAX_READS: usize = 8;

/// One connection of the daemon.
pub struct Connection {
    pub id: u64,
    pub socket: OwnedFd,
    role: Role,
}

enum Role {
    /// Waits for a request.
    Control,
    /// Waits for the end of an exec session.
    Waiting(String),
    Attached {
        client: Client,
        /// The other side will send nothing more.
        input_ended: bool,
    },
}

/// Whether a connection goes on.
#[derive(PartialEq, Eq)]
enum Next {
    Open,
    Closed,
}

impl Connection {
    pub fn new(id: u64, socket: OwnedFd) -> Self {
        Self { id, socket, role: Role::Control }
    }

    /// What to wait for; a hang-up always comes along. `None`: nothing can be done for it now.
    pub fn wanted_events(&self, input_has_room: bool) -> Option<PollFlags> {
        match &self.role {
            Role::Control => Some(PollFlags::IN),
            Role::Waiting(_) => Some(PollFlags::empty()),
            Role::Attached { client, input_ended } => {
                let mut events = PollFlags::empty();
                if client.has_queue() {
                    events |= PollFlags::OUT;
                }
                if *input_ended {
                    return Some(events);
                }
                if !client.stdin || input_has_room {
                    events |= PollFlags::IN;
                }
                (!events.is_empty()).then_some(events)
            }
        }
    }

    /// Output of the container, for an attached client.
    pub fn offer(&mut self, channel: Channel, packet: &[u8], shared: &mut Option<Rc<[u8]>>) {
        if let Role::Attached { client, .. } = &mut self.role
            && client.offer(self.socket.as_fd(), channel, packet, shared).is_err()
        {
            // Gone: the next poll reports the hang-up. What it sent before is still read.
            client.drop_output();
        }
    }

    /// An attached client makes the container wait, at most until then.
    pub fn holds_up_until(&self) -> Option<Instant> {
        match &self.role {
            Role::Attached { client, .. } => client.holds_up_until(),
            Role::Control | Role::Waiting(_) => None,
        }
    }

    /// The monitor is about to end: what is owed is sent.
    pub fn finish(self, sessions: &Sessions) {
        match self.role {
            Role::Control => {}
            Role::Waiting(id) => drop(answer_wait(self.socket.as_fd(), &id, sessions)),
            Role::Attached { mut client, .. } => client.flush_at_end(self.socket.as_fd()),
        }
    }
}

impl Monitor {
    /// Does what a ready connection asks for.
    pub(super) fn serve_connection(&mut self, id: u64, events: PollFlags) {
        let Some(at) = self.connections.iter().position(|connection| connection.id == id) else { return };
        // Taken out while it is served: serving it may touch all the others.
        let mut connection = self.connections.swap_remove(at);
        let next = match &mut connection.role {
            Role::Control => self.serve_control(&mut connection),
            Role::Waiting(_) => match events.intersects(PollFlags::HUP | PollFlags::ERR) {
                true => Next::Closed,
                false => Next::Open,
            },
            Role::Attached { client, input_ended } => {
                self.serve_attached(connection.socket.as_fd(), client, input_ended, events)
            }
        };
        match next {
            Next::Open => self.connections.push(connection),
            Next::Closed => self.sessions.connection_closed(id),
        }
    }

    /// An exec session has ended: who waits for it is answered.
    pub(super) fn tell_waiting(&mut self, id: &str) {
        let mut told = false;
        for connection in &mut self.connections {
            if matches!(&connection.role, Role::Waiting(waited) if waited == id) {
                // One that cannot be told has hung up, which the next poll reports.
                told |= answer_wait(connection.socket.as_fd(), id, &self.sessions) == Next::Open;
                connection.role = Role::Control;
            }
        }
        if told {
            self.sessions.forget(id);
        }
    }

    fn serve_attached(
        &mut self,
        socket: BorrowedFd<'_>,
        client: &mut Client,
        input_ended: &mut bool,
        events: PollFlags,
    ) -> Next {
        if events.contains(PollFlags::OUT) && client.flush(socket).is_err() {
            return Next::Closed;
        }
        for _ in 0..MAX_READS {
            if *input_ended || (client.stdin && !self.streams.input_has_room()) {
                break;
            }
            match packet::receive(socket, &mut self.packet) {
                Ok(Some(packet)) => {
                    if client.stdin && self.packet[0] == Channel::Stdin as u8 {
                        match &self.packet[1..packet.length] {
                            [] => self.streams.close_input(),
                            data => self.streams.write_input(data),
                        }
                    }
                }
                Ok(None) => *input_ended = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return Next::Closed,
            }
        }
        match *input_ended && events.intersects(PollFlags::HUP | PollFlags::ERR) {
            true => Next::Closed,
            false => Next::Open,
        }
    }

    fn serve_control(&mut self, connection: &mut Connection) -> Next {
        let mut packet = match packet::receive(&connection.socket, &mut self.packet) {
            Ok(Some(packet)) => packet,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Next::Open,
            Ok(None) | Err(_) => return Next::Closed,
        };
        match packet::read_message(&mut packet, &self.packet) {
            Ok(request) => self.handle(connection, request, packet),
            Err(error) => answer(connection, &internal(format!("read request: {error}"))),
        }
    }

    fn handle(&mut self, connection: &mut Connection, request: Request, packet: Packet) -> Next {
        let response = match request {
            Request::State => Response::State(self.state.clone()),
            Request::Start => self.start(),
            Request::Kill { signal } => done(self.call_runtime(|runtime| runtime.kill(signal))),
            Request::Pause => self.pause(),
            Request::Resume => self.resume(),
            Request::Resize { columns, rows } => done_io(self.streams.resize(columns, rows)),
            Request::ReopenLog => done_io(self.streams.reopen_log()),
            Request::Exec { id, process, terminal, columns, rows, lifetime } => {
                let size = terminal.then_some((columns, rows));
                match self.exec(connection.id, id, *process, size, lifetime, packet) {
                    Ok((pid, console)) => {
                        let console: Vec<_> = console.iter().map(AsFd::as_fd).collect();
                        let response = Response::ExecStarted { pid };
                        return sent(packet::send_message(&connection.socket, &response, &console));
                    }
                    Err(response) => response,
                }
            }
            Request::ExecKill { id, signal } => self.exec_kill(&id, signal),
            Request::ExecWait { id } => match self.sessions.state(&id) {
                Some(SessionState::Running) => {
                    connection.role = Role::Waiting(id);
                    return Next::Open;
                }
                Some(SessionState::Ended(code)) => {
                    self.sessions.forget(&id);
                    Response::ExecExited { code }
                }
                None => no_such_exec(),
            },
            Request::Attach { stdin, stdout, stderr } => {
                let next = answer(connection, &Response::Done);
                let client = Client::new(stdin, stdout, stderr);
                connection.role = Role::Attached { client, input_ended: false };
                return next;
            }
        };
        answer(connection, &response)
    }

    fn start(&mut self) -> Response {
        let (pid, start_ticks) = match self.state {
            MonitorState::Created { pid, start_ticks } => (pid, start_ticks),
            // Asked again by a daemon that did not live to see the answer.
            MonitorState::Running { .. } => return Response::State(self.state.clone()),
            MonitorState::Paused { .. } | MonitorState::Exited(_) | MonitorState::Failed { .. } => {
                return wrong_state("start", &self.state);
            }
        };
        let started_at = Timestamp::now();
        match self.call_runtime(|runtime| runtime.start()) {
            Ok(()) => {
                self.state = MonitorState::Running { pid, start_ticks, started_at };
                self.save_state();
                Response::State(self.state.clone())
            }
            Err(error) => {
                let (kind, message) = failure(&error);
                self.start_failure = Some((kind, message.clone()));
                Response::Failed { kind, message }
            }
        }
    }

    fn pause(&mut self) -> Response {
        match self.state {
            MonitorState::Running { pid, start_ticks, started_at } => {
                let result = self.call_runtime(|runtime| runtime.pause());
                if result.is_ok() {
                    self.state = MonitorState::Paused { pid, start_ticks, started_at };
                    self.save_state();
                }
                done(result)
            }
            MonitorState::Paused { .. } => Response::Done,
            MonitorState::Created { .. } | MonitorState::Exited(_) | MonitorState::Failed { .. } => {
                wrong_state("pause", &self.state)
            }
        }
    }

    fn resume(&mut self) -> Response {
        match self.state {
            MonitorState::Paused { pid, start_ticks, started_at } => {
                let result = self.call_runtime(|runtime| runtime.resume());
                if result.is_ok() {
                    self.state = MonitorState::Running { pid, start_ticks, started_at };
                    self.save_state();
                }
                done(result)
            }
            MonitorState::Running { .. } => Response::Done,
            MonitorState::Created { .. } | MonitorState::Exited(_) | MonitorState::Failed { .. } => {
                wrong_state("resume", &self.state)
            }
        }
    }

    fn exec(
        &mut self,
        connection: u64,
        id: String,
        process: ExecProcess,
        terminal: Option<(u16, u16)>,
        lifetime: ExecLifetime,
        packet: Packet,
    ) -> Result<(i32, Option<OwnedFd>), Response> {
        // A paused container would never answer, an unstarted one has nothing to join.
        if !matches!(self.state, MonitorState::Running { .. }) {
            return Err(wrong_state("exec in", &self.state));
        }
        if self.sessions.len() >= MAX_SESSIONS {
            return Err(internal("too many exec sessions in one container".to_owned()));
        }
        let stdio = match (terminal, <[OwnedFd; 3]>::try_from(packet.descriptors)) {
            (Some((columns, rows)), _) => Stdio::Terminal { columns, rows },
            (None, Ok([stdin, stdout, stderr])) => Stdio::Pipes { stdin, stdout, stderr },
            (None, Err(_)) => return Err(internal("exec without three descriptors".to_owned())),
        };
        // Registered before children are reaped again, so that its end is not missed.
        let launched = self.call_runtime_then(
            |runtime| runtime.exec(&process, stdio),
            |monitor, launched| {
                if let Ok(launched) = launched {
                    monitor.sessions.add(id, launched.pid, connection, lifetime);
                }
            },
        );
        match launched {
            Ok(launched) => Ok((launched.pid, launched.console)),
            Err(error) => Err(launch_failure(&error)),
        }
    }

    fn exec_kill(&mut self, id: &str, signal: i32) -> Response {
        match (self.sessions.state(id), self.sessions.running(id), Signal::from_named_raw(signal)) {
            (None, ..) => no_such_exec(),
            (Some(_), Some(pid), Some(signal)) => {
                reaper::kill(pid, signal);
                Response::Done
            }
            (Some(_), None, _) => Response::Done,
            (Some(_), Some(_), None) => internal(format!("no such signal: {signal}")),
        }
    }
}

impl MonitorState {
    /// When the container executed its command.
    pub fn started_at(&self) -> Option<Timestamp> {
        match self {
            Self::Running { started_at, .. } | Self::Paused { started_at, .. } => Some(*started_at),
            Self::Exited(status) => status.started_at,
            Self::Created { .. } | Self::Failed { .. } => None,
        }
    }

    fn as_str(&self) -> &'static str {
        match self {
            Self::Created { .. } => "initialized",
            Self::Running { .. } => "running",
            Self::Paused { .. } => "paused",
            Self::Exited(_) | Self::Failed { .. } => "exited",
        }
    }
}

fn answer_wait(socket: BorrowedFd<'_>, id: &str, sessions: &Sessions) -> Next {
    let response = match sessions.state(id) {
        Some(SessionState::Ended(code)) => Response::ExecExited { code },
        Some(SessionState::Running) | None => no_such_exec(),
    };
    sent(packet::send_message(socket, &response, &[]))
}

fn answer(connection: &Connection, response: &Response) -> Next {
    sent(packet::send_message(&connection.socket, response, &[]))
}

/// Answers are small: a socket that does not take one at once has a caller that does not read.
fn sent(result: io::Result<()>) -> Next {
    match result {
        Ok(()) => Next::Open,
        Err(_) => Next::Closed,
    }
}

fn done(result: Result<(), LaunchError>) -> Response {
    match result {
        Ok(()) => Response::Done,
        Err(error) => launch_failure(&error),
    }
}

fn done_io(result: io::Result<()>) -> Response {
    match result {
        Ok(()) => Response::Done,
        Err(error) => internal(error.to_string()),
    }
}

fn launch_failure(error: &LaunchError) -> Response {
    let (kind, message) = failure(error);
    Response::Failed { kind, message }
}

fn internal(message: String) -> Response {
    Response::Failed { kind: FailureKind::Internal, message }
}

fn no_such_exec() -> Response {
    Response::Failed { kind: FailureKind::NoSuchExec, message: "no such exec session".to_owned() }
}

fn wrong_state(operation: &str, state: &MonitorState) -> Response {
    let message = format!("can not {operation} a container that is {}", state.as_str());
    Response::Failed { kind: FailureKind::WrongState, message }
}

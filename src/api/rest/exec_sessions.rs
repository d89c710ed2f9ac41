//! Exec sessions between their creation and their inspection: clients make one, start it, and ask
//! for its exit code afterwards. They live in memory; a running one outlives the daemon, its exit
//! code does not.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::sync::{mpsc, watch};

use crate::engine::container::ExecRequest;
use crate::engine::error::{EngineError, ErrorKind, Result, Subject};
use crate::engine::id::{ContainerId, ExecId};
use crate::engine::monitor::ExecControl;

/// More ended sessions are not remembered: a health check a second would fill any memory.
const ENDED_SESSIONS_KEPT: usize = 1000;

#[derive(Default)]
pub struct ExecSessions(Mutex<HashMap<ExecId, Arc<Session>>>);

/// One session: what shall run, and how far it is.
pub struct Session {
    pub id: ExecId,
    pub container: ContainerId,
    pub request: ExecRequest,
    pub terminal: bool,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub detach_keys: String,
    state: watch::Sender<SessionState>,
    sizes: Mutex<Option<mpsc::UnboundedSender<(u16, u16)>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionState {
    Created,
    /// Being started: a second start is refused.
    Starting,
    Running {
        pid: i32,
    },
    Exited {
        code: i32,
    },
}

/// What a client wants to run.
pub struct NewSession {
    pub container: ContainerId,
    pub request: ExecRequest,
    pub terminal: bool,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub detach_keys: String,
}

impl ExecSessions {
    pub fn create(&self, new: NewSession) -> Arc<Session> {
        let session = Arc::new(Session {
            id: ExecId::random(),
            container: new.container,
            request: new.request,
            terminal: new.terminal,
            stdin: new.stdin,
            stdout: new.stdout,
            stderr: new.stderr,
            detach_keys: new.detach_keys,
            state: watch::Sender::new(SessionState::Created),
            sizes: Mutex::default(),
        });
        let mut sessions = self.0.lock().unwrap();
        if sessions.len() >= ENDED_SESSIONS_KEPT {
            sessions.retain(|_, session| !matches!(session.state(), SessionState::Exited { .. }));
        }
        sessions.insert(session.id.clone(), session.clone());
        session
    }

    pub fn find(&self, id: &str) -> Result<Arc<Session>> {
        let found = id.parse::<ExecId>().ok().and_then(|id| self.0.lock().unwrap().get(&id).cloned());
        found.ok_or_else(|| EngineError::no_such(Subject::Exec(id.to_owned())))
    }

    /// Those that have not ended, as inspection of the container shows them.
    pub fn of_container(&self, container: &ContainerId) -> Vec<String> {
        let sessions = self.0.lock().unwrap();
        let of_it = sessions.values().filter(|session| {
            session.container == *container && !matches!(session.state(), SessionState::Exited { .. })
        });
        of_it.map(|session| session.id.to_string()).collect()
    }

    pub fn remove(&self, id: &ExecId) {
        self.0.lock().unwrap().remove(id);
    }
}

impl Session {
    pub fn state(&self) -> SessionState {
        *self.state.borrow()
    }

    /// Claims the right to start it, once.
    pub fn begin(&self) -> Result<()> {
        let claimed = self.state.send_if_modified(|state| {
            let first = *state == SessionState::Created;
            if first {
                *state = SessionState::Starting;
            }
            first
        });
        match claimed {
            true => Ok(()),
            false => {
                let subject = Subject::Exec(self.id.to_string());
                Err(EngineError::new(
                    ErrorKind::WrongState,
                    subject,
                    "exec session state improper: it was started before",
                ))
            }
        }
    }

    /// It could not be started: 126 and 127 say why, as a shell does.
    pub fn failed(&self, error: &EngineError) {
        let code = match error.kind() {
            ErrorKind::CommandNotExecutable => 126,
            ErrorKind::CommandNotFound => 127,
            ErrorKind::NotFound
            | ErrorKind::InvalidArgument
            | ErrorKind::AlreadyExists
            | ErrorKind::InUse
            | ErrorKind::WrongState
            | ErrorKind::NotSupported
            | ErrorKind::Upstream
            | ErrorKind::Internal => 125,
        };
        self.state.send_replace(SessionState::Exited { code });
    }

    /// Follows it to its end in the background.
    pub fn follow(self: &Arc<Self>, pid: i32, mut control: ExecControl) {
        let (sizes, mut resized) = mpsc::unbounded_channel();
        *self.sizes.lock().unwrap() = Some(sizes);
        self.state.send_replace(SessionState::Running { pid });
        let session = self.clone();
        tokio::spawn(async move {
            let code = loop {
                tokio::select! {
                    ended = control.wait() => match ended {
                        Ok(code) => break code,
                        Err(error) => {
                            let error = crate::engine::error::chain(&error);
                            tracing::warn!(container.id = %session.container, error, "lost an exec session");
                            break -1;
                        }
                    },
                    Some((columns, rows)) = resized.recv() => {
                        if let Err(error) = control.resize(columns, rows) {
                            tracing::debug!(%error, "could not resize the terminal of an exec session");
                        }
                    }
                }
            };
            session.sizes.lock().unwrap().take();
            session.state.send_replace(SessionState::Exited { code });
        });
    }

    /// Whether there is a terminal to set the size of.
    pub fn resize(&self, columns: u16, rows: u16) -> bool {
        let sizes = self.sizes.lock().unwrap();
        sizes.as_ref().is_some_and(|sizes| sizes.send((columns, rows)).is_ok())
    }

    pub async fn ended(&self) {
        let mut states = self.state.subscribe();
        let _ = states.wait_for(|state| matches!(state, SessionState::Exited { .. })).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(sessions: &ExecSessions) -> Arc<Session> {
        let request = ExecRequest {
            command: vec!["true".into()],
            env: Default::default(),
            user: None,
            working_dir: None,
            privileged: false,
        };
        sessions.create(NewSession {
            container: ContainerId::random(),
            request,
            terminal: false,
            stdin: false,
            stdout: true,
            stderr: true,
            detach_keys: String::new(),
        })
    }

    #[test]
    fn a_session_starts_once() {
        let sessions = ExecSessions::default();
        let session = session(&sessions);
        assert_eq!(session.state(), SessionState::Created);
        session.begin().unwrap();
        assert_eq!(session.begin().unwrap_err().kind(), ErrorKind::WrongState);
        assert_eq!(sessions.of_container(&session.container), [session.id.to_string()]);
        session.failed(&EngineError::new(ErrorKind::CommandNotFound, Subject::Engine, "x"));
        assert_eq!(session.state(), SessionState::Exited { code: 127 });
        assert!(sessions.of_container(&session.container).is_empty());
    }

    #[test]
    fn ended_sessions_are_forgotten_in_the_long_run() {
        let sessions = ExecSessions::default();
        let kept = session(&sessions);
        for _ in 0..2 * ENDED_SESSIONS_KEPT {
            session(&sessions).failed(&EngineError::new(ErrorKind::Internal, Subject::Engine, "x"));
        }
        assert!(sessions.0.lock().unwrap().len() <= ENDED_SESSIONS_KEPT);
        assert!(sessions.find(kept.id.as_str()).is_ok());
        assert!(sessions.find("nonsense").is_err());
    }
}

//! Children: the container's first process, exec sessions, and whatever the container's processes leave
//! behind (the monitor is a subreaper). All are reaped, some are known.

use rustix::process::{Pid, Signal, WaitOptions};

use super::protocol::ExecLifetime;

/// How many ended sessions nobody has asked about are remembered.
const ENDED_SESSIONS: usize = 64;

/// The exec sessions of a container.
#[derive(Default)]
pub struct Sessions(Vec<Session>);

struct Session {
    id: String,
    pid: i32,
    /// The connection it lives and dies with.
    owner: Option<u64>,
    code: Option<i32>,
}

/// What is known of an exec session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionState {
    Running,
    Ended(i32),
}

/// The next child that has ended: pid and exit code, 128 + signal if it was killed.
pub fn reap() -> Option<(i32, i32)> {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => {
                let code = status.exit_status().or(status.terminating_signal().map(|signal| 128 + signal));
                if let Some(code) = code {
                    return Some((pid.as_raw_nonzero().get(), code));
                }
            }
            Ok(None) => return None,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
    }
}

impl Sessions {
    pub fn add(&mut self, id: String, pid: i32, connection: u64, lifetime: ExecLifetime) {
        let owner = match lifetime {
            ExecLifetime::Connection => Some(connection),
            ExecLifetime::Own => None,
        };
        self.0.push(Session { id, pid, owner, code: None });
        let ended = self.0.iter().filter(|session| session.code.is_some()).count();
        if ended > ENDED_SESSIONS
            && let Some(oldest) = self.0.iter().position(|session| session.code.is_some())
        {
            self.0.remove(oldest);
        }
    }

    /// Records the end of a session's process; its id, if it was one.
    pub fn ended(&mut self, pid: i32, code: i32) -> Option<&str> {
        let session = self.0.iter_mut().find(|session| session.pid == pid && session.code.is_none())?;
        session.code = Some(code);
        Some(&session.id)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// All that are left die with the container.
    pub fn end_all(&mut self) {
        for session in &mut self.0 {
            session.code.get_or_insert(128 + Signal::KILL.as_raw());
        }
    }

    pub fn state(&self, id: &str) -> Option<SessionState> {
        let session = self.0.iter().find(|session| session.id == id)?;
        Some(session.code.map_or(SessionState::Running, SessionState::Ended))
    }

    /// Its exit code was told.
    pub fn forget(&mut self, id: &str) {
        self.0.retain(|session| session.id != id || session.code.is_none());
    }

    /// The process of a session that still runs. It has not been reaped: its number is still its own.
    pub fn running(&self, id: &str) -> Option<i32> {
        self.0.iter().find(|session| session.id == id && session.code.is_none()).map(|session| session.pid)
    }

    /// A connection has closed: kills what lived with it.
    pub fn connection_closed(&mut self, connection: u64) {
        self.0.retain_mut(|session| {
            let owned = session.owner == Some(connection);
            if owned && session.code.is_none() {
                kill(session.pid, Signal::KILL);
                // Nobody can ask any more. It stays known until it is reaped.
                session.id = String::new();
            }
            !owned || session.code.is_none()
        });
    }
}

/// Signals a process, and its group if it leads one: exec'd shells do not take their children along.
pub fn kill(pid: i32, signal: Signal) {
    let Some(pid) = Pid::from_raw(pid) else { return };
    if rustix::process::getpgid(Some(pid)) == Ok(pid) {
        let _ = rustix::process::kill_process_group(pid, signal);
    } else {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_known_until_told() {
        let mut sessions = Sessions::default();
        sessions.add("a".into(), 10, 1, ExecLifetime::Own);
        assert_eq!(sessions.state("a"), Some(SessionState::Running));
        assert_eq!(sessions.ended(11, 0), None);
        assert_eq!(sessions.ended(10, 3), Some("a"));
        sessions.connection_closed(1);
        assert_eq!(sessions.state("a"), Some(SessionState::Ended(3)));
        assert_eq!(sessions.running("a"), None);
        sessions.forget("a");
        assert_eq!(sessions.state("a"), None);
    }

    #[test]
    fn ended_sessions_do_not_pile_up() {
        let mut sessions = Sessions::default();
        for pid in 1..1000 {
            sessions.add(pid.to_string(), pid, 1, ExecLifetime::Own);
            sessions.ended(pid, 0);
        }
        assert!(sessions.0.len() <= ENDED_SESSIONS + 1);
        assert_eq!(sessions.state("999"), Some(SessionState::Ended(0)));
        assert_eq!(sessions.state("1"), None);
    }
}

//! Waiting for a container to reach a condition.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::WaitCondition;
use super::state::ContainerState;
use super::table::View;
use crate::engine::Inner;
use crate::engine::error::{EngineError, ErrorKind, Result, Subject};
use crate::engine::id::NameOrId;

/// Exit codes of removed containers are remembered for so long, as podman does: a client that started a
/// container with auto-remove asks for its code only afterwards.
const REMEMBERED_FOR: Duration = Duration::from_secs(300);
const REMEMBERED: usize = 1024;

/// Exit codes of containers that are gone.
#[derive(Default)]
pub(in crate::engine) struct PastExits(Mutex<VecDeque<PastExit>>);

struct PastExit {
    id: String,
    name: String,
    code: i32,
    at: Instant,
}

impl PastExits {
    fn push(&self, exit: PastExit) {
        let mut exits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while exits.front().is_some_and(|old| old.at.elapsed() > REMEMBERED_FOR) || exits.len() >= REMEMBERED
        {
            exits.pop_front();
        }
        exits.push_back(exit);
    }

    /// The newest of that name or id.
    fn code(&self, wanted: &str) -> Option<i32> {
        let exits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        exits
            .iter()
            .rev()
            .find(|exit| {
                (exit.name == wanted || (wanted.len() >= 12 && exit.id.starts_with(wanted)))
                    && exit.at.elapsed() <= REMEMBERED_FOR
            })
            .map(|exit| exit.code)
    }
}

/// Whether a condition holds, given how often the container had ended when the wait began. Pure.
fn holds(condition: WaitCondition, view: &View, ended_before: u64) -> bool {
    use ContainerState as S;
    use WaitCondition as W;
    let ended = view.ended_runs > ended_before;
    let state = &view.record.state;
    match condition {
        W::Configured => matches!(state, S::Configured) && !view.removed,
        W::Created => matches!(state, S::Created(_)) && !view.removed,
        W::Running => matches!(state, S::Running(_) | S::Stopping(_)) && !view.removed,
        W::Paused => matches!(state, S::Paused(_)) && !view.removed,
        W::Stopped | W::Exited => ended || matches!(state, S::Exited(_)) || view.removed,
        W::NotRunning => {
            ended
                || view.removed
                || matches!(state, S::Exited(_) | S::Configured | S::Created(_) | S::Removing)
        }
        W::NextExit => ended,
        W::Removing => matches!(state, S::Removing) || view.removed,
        W::Removed => view.removed,
    }
}

impl Inner {
    pub async fn wait_container(
        self: &Arc<Self>,
        wanted: &NameOrId,
        conditions: &[WaitCondition],
    ) -> Result<i32> {
        let entry = match self.containers.find(&self.names, wanted) {
            Ok(entry) => entry,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return self.code_of_removed(wanted, conditions).ok_or(error);
            }
            Err(error) => return Err(error),
        };
        let mut views = entry.watch();
        let ended_before = views.borrow_and_update().ended_runs;
        loop {
            let view = views.borrow_and_update().clone();
            if conditions.iter().any(|condition| holds(*condition, &view, ended_before)) {
                return Ok(view.last_exit_code.unwrap_or(-1));
            }
            let name = || Subject::Container(view.record.name.to_string());
            if view.removed {
                return Err(EngineError::no_such(name()));
            }
            tokio::select! {
                changed = views.changed() => {
                    changed.map_err(|_| EngineError::no_such(name()))?;
                }
                () = self.closing.cancelled() => {
                    return Err(EngineError::new(ErrorKind::Internal, name(), "wait: the engine is closing"));
                }
            }
        }
    }

    fn code_of_removed(&self, wanted: &NameOrId, conditions: &[WaitCondition]) -> Option<i32> {
        use WaitCondition as W;
        let over = conditions.iter().any(|condition| match condition {
            W::Stopped | W::Exited | W::NotRunning | W::NextExit | W::Removing | W::Removed => true,
            W::Configured | W::Created | W::Running | W::Paused => false,
        });
        if over { self.past_exits.code(wanted.as_str()) } else { None }
    }

    /// Called when a container is removed.
    pub fn remember_exit(&self, view: &View) {
        let Some(code) = view.last_exit_code else { return };
        self.past_exits.push(PastExit {
            id: view.record.id.to_string(),
            name: view.record.name.to_string(),
            code,
            at: Instant::now(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::container::ContainerRecord;
    use crate::engine::container::spec::ContainerSpec;
    use crate::engine::container::state::{ExitStatus, Process};
    use crate::engine::id::ContainerId;
    use jiff::Timestamp;

    fn view(state: ContainerState, ended_runs: u64, removed: bool) -> View {
        let record = Arc::new(ContainerRecord {
            id: ContainerId::random(),
            name: "x".parse().unwrap(),
            spec: ContainerSpec::new("x"),
            image_id: None,
            image_name: String::new(),
            created_at: Timestamp::UNIX_EPOCH,
            state,
            pending: None,
            restart_count: 0,
            stopped_by_user: false,
            network: None,
            anonymous_volumes: Vec::new(),
        });
        View { record, ended_runs, last_exit_code: None, removed }
    }

    #[test]
    fn conditions_of_every_state() {
        use WaitCondition as W;
        let process = Process { pid: 1, start_ticks: 1, monitor_pid: 1, started_at: Timestamp::UNIX_EPOCH };
        let exited = ExitStatus {
            code: 0,
            oom_killed: false,
            finished_at: Timestamp::UNIX_EPOCH,
            started_at: None,
            error: None,
        };
        let all = [
            W::Configured,
            W::Created,
            W::Running,
            W::Paused,
            W::Stopped,
            W::Exited,
            W::NotRunning,
            W::NextExit,
            W::Removing,
            W::Removed,
        ];
        let rows: Vec<(View, Vec<WaitCondition>)> = vec![
            (view(ContainerState::Configured, 0, false), vec![W::Configured, W::NotRunning]),
            (view(ContainerState::Created(process), 0, false), vec![W::Created, W::NotRunning]),
            (view(ContainerState::Running(process), 0, false), vec![W::Running]),
            (view(ContainerState::Stopping(process), 0, false), vec![W::Running]),
            (view(ContainerState::Paused(process), 0, false), vec![W::Paused]),
            (
                view(ContainerState::Exited(exited.clone()), 0, false),
                vec![W::Stopped, W::Exited, W::NotRunning],
            ),
            // It ended and runs again: whoever waited for an end has seen one.
            (
                view(ContainerState::Running(process), 1, false),
                vec![W::Running, W::Stopped, W::Exited, W::NotRunning, W::NextExit],
            ),
            (
                view(ContainerState::Removing, 0, true),
                vec![W::Stopped, W::Exited, W::NotRunning, W::Removing, W::Removed],
            ),
        ];
        for (view, expected) in rows {
            let held: Vec<_> = all.into_iter().filter(|condition| holds(*condition, &view, 0)).collect();
            assert_eq!(held, expected, "{:?}", view.record.state);
        }
    }

    #[test]
    fn exit_codes_of_removed_containers_are_remembered() {
        let exits = PastExits::default();
        for (number, code) in [(1, 5), (2, 6)] {
            exits.push(PastExit {
                id: number.to_string().repeat(64),
                name: "web".into(),
                code,
                at: Instant::now(),
            });
        }
        assert_eq!(exits.code("web"), Some(6));
        assert_eq!(exits.code(&"1".repeat(12)), Some(5));
        assert_eq!(exits.code("1"), None, "too short to be meant");
        assert_eq!(exits.code("other"), None);
    }
}

//! What happens when a container ends: one task per live container waits for it, records the end, tears down
//! its network, and does what its restart policy says. Nothing polls.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::lifecycle::{StartReason, container_event, is_run};
use super::spec::RestartPolicy;
use super::state::{ContainerState, ExitStatus, Process};
use super::table::Entry;
use super::{ContainerRecord, StartOutcome};
use crate::engine::event::EventAction;
use crate::engine::host::namespace;
use crate::engine::{Inner, failpoint};

/// What the engine does by itself after an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum AfterExit {
    Stay,
    Remove,
    Restart { delay: Duration },
}

/// A run that lasted this long was no failure to start: the next restart comes at once.
const STEADY_RUN: Duration = Duration::from_secs(10);
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(60);

/// The decision, pure. podman restarts at once, however often; a container that ends right away would keep the
/// machine busy for ever, so repeated quick ends are slowed down as docker does it: 100 ms, doubling to a minute.
pub(in crate::engine) fn after_exit(
    policy: RestartPolicy,
    auto_remove: bool,
    record: &ContainerRecord,
    status: &ExitStatus,
    quick_exits: u32,
) -> AfterExit {
    if auto_remove {
        return AfterExit::Remove;
    }
    if record.stopped_by_user {
        return AfterExit::Stay;
    }
    let again = match policy {
        RestartPolicy::No => false,
        RestartPolicy::Always | RestartPolicy::UnlessStopped => true,
        RestartPolicy::OnFailure { max_retries } => {
            status.code != 0 && max_retries.is_none_or(|max| record.restart_count < max)
        }
    };
    if again { AfterExit::Restart { delay: delay(quick_exits.saturating_sub(1)) } } else { AfterExit::Stay }
}

fn delay(quick_exits: u32) -> Duration {
    match quick_exits {
        0 => Duration::ZERO,
        n => FIRST_DELAY.saturating_mul(1 << (n - 1).min(16)).min(LONGEST_DELAY),
    }
}

fn was_quick(status: &ExitStatus) -> bool {
    let lasted = status.started_at.map(|started| status.finished_at.duration_since(started));
    lasted.and_then(|lasted| Duration::try_from(lasted).ok()).unwrap_or_default() < STEADY_RUN
}

impl Inner {
    /// Waits for the end of the run that the container's record shows.
    pub fn follow(self: &Arc<Self>, entry: &Arc<Entry>) {
        let record = entry.record();
        let Some(process) = record.state.process().copied() else { return };
        let (inner, entry) = (self.clone(), entry.clone());
        self.tasks.spawn(async move {
            let run_dir = inner.config.container_run_dir(&record.id);
            let status = tokio::select! {
                status = inner.monitors.exited(&run_dir, &process) => status,
                () = inner.closing.cancelled() => return,
            };
            inner.handle_exit(&entry, &process, status).await;
        });
    }

    /// Records the end of a run and does what comes after it.
    pub async fn handle_exit(self: &Arc<Self>, entry: &Arc<Entry>, process: &Process, status: ExitStatus) {
        let next = {
            let _effects = entry.effects.lock().await;
            let record = entry.record();
            if entry.is_removed() || !is_run(&record, process) {
                return;
            }
            self.record_exit(entry, &record, status).await
        };
        match next {
            AfterExit::Stay | AfterExit::Remove => {}
            AfterExit::Restart { delay } => self.restart_later(entry.clone(), delay),
        }
    }

    /// The caller holds the container's lock. Network first: when the end is visible, its ports and addresses are
    /// free. Its state file goes last: until the end is durable, a new daemon finds it there again.
    pub async fn record_exit(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        record: &ContainerRecord,
        status: ExitStatus,
    ) -> AfterExit {
        failpoint::pass("exit-seen");
        self.disconnect(record).await;
        failpoint::pass("exit-network");
        let started_at = match &record.state {
            ContainerState::Running(process)
            | ContainerState::Paused(process)
            | ContainerState::Stopping(process) => status.started_at.or(Some(process.started_at)),
            ContainerState::Created(_)
            | ContainerState::Configured
            | ContainerState::Exited(_)
            | ContainerState::Removing => status.started_at,
        };
        let status = ExitStatus { started_at, ..status };
        let ended = ContainerRecord {
            state: ContainerState::Exited(status.clone()),
            pending: None,
            network: None,
            ..record.clone()
        };
        let quick_exits = entry.count_exit(was_quick(&status));
        let next =
            after_exit(record.spec.restart_policy, record.spec.auto_remove, record, &status, quick_exits);
        let event = container_event(&ended, EventAction::Died);
        let durable = self.put_fact(entry, ended.clone(), vec![event]).await;
        failpoint::pass("exit-recorded");
        if durable {
            // Failures are logged there, and the next launch or start of the engine tries again.
            let _ = self.unprepare_files(&ended);
        }
        tracing::debug!(container.id = %record.id, code = status.code, ?next, "container ended");
        if next == AfterExit::Remove
            && let Err(error) = self.remove_locked(entry, &ended, true).await
        {
            tracing::error!(container.id = %record.id, error = error.chain(), "remove a container that has ended");
        }
        next
    }

    async fn disconnect(&self, record: &ContainerRecord) {
        let Some(netns) = self.own_netns(record) else { return };
        if record.network.is_some()
            && let Err(error) = self.disconnect_network(record, &netns).await
        {
            tracing::warn!(container.id = %record.id, error = error.chain(), "tear down a container's network");
        }
        let dir = self.config.container_run_dir(&record.id).join("ns");
        if let Err(error) = namespace::remove_pinned(&dir) {
            tracing::warn!(container.id = %record.id, error = crate::engine::error::chain(&error),
                "let go of a container's network namespace");
        }
    }

    /// Starts it again after `delay`, unless somebody decided otherwise meanwhile.
    pub fn restart_later(self: &Arc<Self>, entry: Arc<Entry>, delay: Duration) {
        let inner = self.clone();
        let ended = entry.record();
        self.tasks.spawn(async move {
            let mut delay = delay;
            for attempt in 1_u32.. {
                tokio::select! {
                    () = tokio::time::sleep(delay) => {}
                    () = inner.closing.cancelled() => return,
                }
                let _effects = entry.effects.lock().await;
                let now = entry.record();
                let undecided = !entry.is_removed() && !now.stopped_by_user && now.state == ended.state;
                if !undecided {
                    return;
                }
                match inner.start_locked(&entry, StartReason::Policy).await {
                    Ok(StartOutcome::Started | StartOutcome::AlreadyRunning) => return,
                    Err(error) => {
                        tracing::warn!(container.id = %now.id, error = error.chain(), attempt,
                            "restart a container by its policy");
                        // The command itself can not be executed: it never will be.
                        if entry.record().state != ended.state {
                            return;
                        }
                    }
                }
                delay = self::delay(attempt);
            }
        });
    }

    /// What recovery records when nobody saw the end.
    pub fn unseen_exit() -> ExitStatus {
        ExitStatus {
            code: -1,
            oom_killed: false,
            finished_at: Timestamp::now(),
            started_at: None,
            error: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::container::spec::ContainerSpec;
    use crate::engine::id::ContainerId;

    fn record(restart_count: u32, stopped_by_user: bool) -> ContainerRecord {
        ContainerRecord {
            id: ContainerId::random(),
            name: "x".parse().unwrap(),
            spec: ContainerSpec::new("x"),
            image_id: None,
            image_name: String::new(),
            created_at: Timestamp::UNIX_EPOCH,
            state: ContainerState::Configured,
            pending: None,
            restart_count,
            stopped_by_user,
            network: None,
            anonymous_volumes: Vec::new(),
        }
    }

    fn status(code: i32, lasted_secs: i64) -> ExitStatus {
        ExitStatus {
            code,
            oom_killed: false,
            finished_at: Timestamp::from_second(1_000 + lasted_secs).unwrap(),
            started_at: Some(Timestamp::from_second(1_000).unwrap()),
            error: None,
        }
    }

    #[test]
    fn restart_policies() {
        use RestartPolicy as P;
        let on_failure = |max| P::OnFailure { max_retries: max };
        let stay = AfterExit::Stay;
        let again = AfterExit::Restart { delay: Duration::ZERO };
        // policy, exit code, restarts so far, stopped by a user, decision
        let rows = [
            (P::No, 1, 0, false, stay),
            (P::Always, 0, 99, false, again),
            (P::Always, 0, 0, true, stay),
            (P::UnlessStopped, 0, 0, false, again),
            (P::UnlessStopped, 137, 0, true, stay),
            (on_failure(None), 0, 0, false, stay),
            (on_failure(None), 1, 1_000, false, again),
            (on_failure(Some(2)), 1, 1, false, again),
            (on_failure(Some(2)), 1, 2, false, stay),
            (on_failure(Some(0)), 1, 0, false, stay),
        ];
        for (policy, code, restarts, stopped, expected) in rows {
            let decision = after_exit(policy, false, &record(restarts, stopped), &status(code, 60), 0);
            assert_eq!(decision, expected, "{policy:?} {code} {restarts} {stopped}");
        }
        assert_eq!(after_exit(P::No, true, &record(0, false), &status(0, 0), 0), AfterExit::Remove);
    }

    #[test]
    fn quick_ends_are_slowed_down() {
        let millis = |n| delay(n).as_millis();
        assert_eq!([0, 1, 2, 3].map(millis), [0, 100, 200, 400]);
        assert_eq!(delay(11), LONGEST_DELAY);
        assert_eq!(delay(u32::MAX), LONGEST_DELAY);
        assert!(was_quick(&status(0, 9)));
        assert!(!was_quick(&status(0, 10)));
    }
}

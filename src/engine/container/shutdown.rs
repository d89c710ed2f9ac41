//! The machine goes down: every process ends as gracefully as it may, and nothing of that is recorded.
//! What runs is to run after the next boot, as after a power cut; only the power cut is a gentle one.

use std::time::Duration;

use nix::libc::SIGKILL;

use super::ContainerRecord;
use super::command::stop_signal;
use super::lifecycle::KILL_DEADLINE;
use super::state::ContainerState;
use crate::engine::Inner;

impl Inner {
    /// Call when nobody follows the containers any more: an end that is seen is recorded.
    pub(in crate::engine) async fn end_processes(&self) {
        let records = self.containers.records();
        futures_util::future::join_all(records.iter().map(|record| self.end_process(record))).await;
    }

    async fn end_process(&self, record: &ContainerRecord) {
        let Some(process) = record.state.process().copied() else { return };
        let run_dir = self.config.container_run_dir(&record.id);
        let (signal, grace) = match &record.state {
            ContainerState::Paused(_) | ContainerState::Running(_) | ContainerState::Stopping(_) => {
                let image = self.image_config(record).ok().flatten();
                (
                    stop_signal(&record.spec, image.as_ref()),
                    Duration::from_secs(record.spec.stop_timeout_secs.into()),
                )
            }
            // Nothing runs that could react to a signal.
            ContainerState::Created(_) => (SIGKILL, KILL_DEADLINE),
            ContainerState::Configured | ContainerState::Exited(_) | ContainerState::Removing => return,
        };
        if matches!(record.state, ContainerState::Paused(_))
            && let Err(error) = self.monitors.resume(&run_dir).await
        {
            tracing::debug!(container.id = %record.id, %error, "unpause a container that is to end");
        }
        self.signal(record, signal).await;
        if tokio::time::timeout(grace, self.monitors.exited(&run_dir, &process)).await.is_ok() {
            return;
        }
        self.signal(record, SIGKILL).await;
        let _ = tokio::time::timeout(KILL_DEADLINE, self.monitors.exited(&run_dir, &process)).await;
    }
}

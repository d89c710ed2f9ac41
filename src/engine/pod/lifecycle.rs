//! Pods: create, start, stop, kill, remove. Their state is computed from their containers'.

use std::sync::Arc;

use futures_util::future::join_all;
use jiff::Timestamp;

use super::table::Entry;
use super::{PodRecord, PodSandboxSpec, PodState};
use crate::engine::container::spec::NetworkMode;
use crate::engine::container::state::ContainerState;
use crate::engine::container::{Pending, RemoveOptions, StopOptions, validate};
use crate::engine::error::{EngineError, ErrorKind, Result, Subject};
use crate::engine::event::{Event, EventAction, EventKind};
use crate::engine::id::{ContainerId, NameOrId, PodId};
use crate::engine::names::Owner;
use crate::engine::store::Change;
use crate::engine::{Inner, failpoint};

/// A pod's state from its containers', by podman's rules. Pure.
pub(in crate::engine) fn pod_state<'a>(containers: impl IntoIterator<Item = &'a ContainerState>) -> PodState {
    let (mut all, mut running, mut paused, mut stopped) = (0, 0, 0, 0);
    for state in containers {
        all += 1;
        match state {
            ContainerState::Running(_) | ContainerState::Stopping(_) => running += 1,
            ContainerState::Paused(_) => paused += 1,
            ContainerState::Exited(_) => stopped += 1,
            ContainerState::Configured | ContainerState::Created(_) | ContainerState::Removing => {}
        }
    }
    if all == 0 {
        PodState::Created
    } else if running == all {
        PodState::Running
    } else if running > 0 {
        PodState::Degraded
    } else if paused == all {
        PodState::Paused
    } else if stopped == all {
        PodState::Exited
    } else if stopped > 0 {
        PodState::Stopped
    } else {
        PodState::Created
    }
}

impl Inner {
    pub async fn create_pod(self: &Arc<Self>, spec: PodSandboxSpec) -> Result<Arc<PodRecord>> {
        let subject = || Subject::Pod(spec.name.to_string());
        check(&spec).map_err(|detail| EngineError::invalid(subject(), detail))?;
        let id = PodId::random();
        self.names.take(spec.name.as_str(), Owner::Pod(id.clone()))?;
        let name = spec.name.to_string();
        let record = Arc::new(PodRecord {
            id,
            created_at: Timestamp::now(),
            containers: Vec::new(),
            network: None,
            spec,
        });
        let committed = self
            .commit(
                || (Subject::Pod(name.clone()), "record the new pod"),
                vec![Change::PutPod(record.clone())],
                vec![pod_event(&record, EventAction::Create)],
                || {
                    self.pods.insert(record.clone());
                },
            )
            .await;
        if let Err(error) = committed {
            self.names.give_back(&name);
            return Err(error);
        }
        failpoint::pass("pod-recorded");
        Ok(record)
    }

    pub fn state_of_pod(&self, pod: &PodRecord) -> PodState {
        let containers: Vec<_> =
            pod.containers.iter().filter_map(|id| Some(self.containers.by_id(id)?.record())).collect();
        pod_state(containers.iter().map(|container| &container.state))
    }

    /// Starts every container that does not run, in order of creation.
    pub async fn start_pod(self: &Arc<Self>, wanted: &NameOrId) -> Result<()> {
        let entry = self.pods.find(&self.names, wanted)?;
        self.ensure_sandbox(&entry).await?;
        let mut outcome = Ok(());
        for id in &entry.record().containers {
            outcome = outcome.and(self.start_container(&id.into()).await.map(|_| ()));
        }
        self.tell(vec![pod_event(&entry.record(), EventAction::Start)]).await;
        outcome
    }

    /// Stops all its containers at once, each with its own time; then address and ports are free.
    pub async fn stop_pod(self: &Arc<Self>, wanted: &NameOrId, options: StopOptions) -> Result<()> {
        let entry = self.pods.find(&self.names, wanted)?;
        self.stop_containers(&entry.record().containers, &options).await?;
        let mut effects = entry.effects.lock().await;
        let pod = entry.record();
        // Somebody may have started one meanwhile: what it stands on is not taken away.
        if !self.has_live_containers(&pod) {
            self.remove_sandbox(&entry, &mut effects).await?;
        }
        drop(effects);
        self.tell(vec![pod_event(&pod, EventAction::Stop)]).await;
        Ok(())
    }

    pub async fn kill_pod(self: &Arc<Self>, wanted: &NameOrId, signal: i32) -> Result<()> {
        let entry = self.pods.find(&self.names, wanted)?;
        let mut outcome = Ok(());
        for id in &entry.record().containers {
            match self.kill_container(&id.into(), signal).await {
                // One that does not run (any more) has no use for a signal.
                Err(error) if matches!(error.kind(), ErrorKind::WrongState | ErrorKind::NotFound) => {}
                killed => outcome = outcome.and(killed),
            }
        }
        self.tell(vec![pod_event(&entry.record(), EventAction::Kill)]).await;
        outcome
    }

    pub async fn remove_pod(self: &Arc<Self>, wanted: &NameOrId, options: RemoveOptions) -> Result<()> {
        let entry = self.pods.find(&self.names, wanted)?;
        let id = entry.record().id.clone();
        if !options.force && self.has_live_containers(&entry.record()) {
            return Err(EngineError::wrong_state(
                Subject::Pod(entry.record().spec.name.to_string()),
                "it has running containers and can not be removed without force",
            ));
        }
        {
            let mut effects = entry.effects.lock().await;
            if self.pods.by_id(&id).is_none() {
                return Err(EngineError::no_such(Subject::Pod(wanted.to_string())));
            }
            effects.removed = true;
        }
        let removed = self.remove_marked_pod(&entry, &options).await;
        if removed.is_err() {
            entry.effects.lock().await.removed = false;
        }
        removed
    }

    /// From here on nothing is added to the pod.
    async fn remove_marked_pod(self: &Arc<Self>, entry: &Entry, options: &RemoveOptions) -> Result<()> {
        let containers = entry.record().containers.clone();
        let stop = StopOptions { timeout_secs: options.stop_timeout_secs };
        // All at once first: the pod's grace period is its slowest container's, not their sum.
        if options.force {
            self.stop_containers(&containers, &stop).await?;
        }
        for id in &containers {
            let options = RemoveOptions { force: true, volumes: true, ..options.clone() };
            match self.remove_container(&id.into(), options).await {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        failpoint::pass("pod-remove-containers");
        let _effects = entry.effects.lock().await;
        let pod = entry.record();
        let name = pod.spec.name.to_string();
        self.take_down(&pod).await?;
        failpoint::pass("pod-remove-sandbox");
        self.commit(
            || (Subject::Pod(name.clone()), "record the removal"),
            vec![Change::RemovePod(pod.id.clone())],
            vec![pod_event(&pod, EventAction::Remove)],
            || {
                self.pods.remove(&pod.id);
                self.names.give_back(&name);
            },
        )
        .await?;
        failpoint::pass("pod-remove-recorded");
        Ok(())
    }

    async fn stop_containers(self: &Arc<Self>, ids: &[ContainerId], options: &StopOptions) -> Result<()> {
        let stops = ids.iter().map(|id| {
            let inner = self.clone();
            let (id, options) = (NameOrId::from(id), options.clone());
            async move {
                match inner.stop_container(&id, options).await {
                    Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
                    Ok(_) | Err(_) => Ok(()),
                }
            }
        });
        join_all(stops).await.into_iter().collect()
    }

    fn has_live_containers(&self, pod: &PodRecord) -> bool {
        pod.containers
            .iter()
            .filter_map(|id| self.containers.by_id(id))
            .map(|container| container.record())
            .any(|record| record.state.process().is_some() || record.pending == Some(Pending::Launch))
    }
}

fn check(spec: &PodSandboxSpec) -> Result<(), String> {
    match spec.network {
        NetworkMode::Bridge(_) | NetworkMode::Host | NetworkMode::None => {}
        NetworkMode::Pod | NetworkMode::Container(_) | NetworkMode::Path(_) => {
            return Err("a pod's network is its own, the host's or none".into());
        }
    }
    if let Some(hostname) = &spec.hostname {
        validate::check_hostname(hostname)?;
    }
    if spec.published_ports.iter().any(|port| port.range == 0 || port.container_port == 0) {
        return Err("a published port needs a container port and a range of at least 1".into());
    }
    if !spec.published_ports.is_empty() && (spec.network == NetworkMode::None || !spec.share.net) {
        return Err("ports can not be published without a network of its own".into());
    }
    Ok(())
}

pub(in crate::engine) fn pod_event(pod: &PodRecord, action: EventAction) -> Event {
    Event {
        time: Timestamp::now(),
        kind: EventKind::Pod,
        action,
        id: pod.id.to_string(),
        name: pod.spec.name.to_string(),
        attributes: pod.spec.labels.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::container::state::{ExitStatus, Process};

    #[test]
    fn pod_state_follows_its_containers() {
        let process = Process { pid: 1, start_ticks: 1, monitor_pid: 1, started_at: Timestamp::UNIX_EPOCH };
        let running = ContainerState::Running(process);
        let stopping = ContainerState::Stopping(process);
        let paused = ContainerState::Paused(process);
        let initialised = ContainerState::Created(process);
        let configured = ContainerState::Configured;
        let exited = ContainerState::Exited(ExitStatus {
            code: 0,
            oom_killed: false,
            finished_at: Timestamp::UNIX_EPOCH,
            started_at: None,
            error: None,
        });
        let rows: &[(&[&ContainerState], PodState)] = &[
            (&[], PodState::Created),
            (&[&configured, &initialised], PodState::Created),
            (&[&running, &stopping], PodState::Running),
            (&[&running, &exited], PodState::Degraded),
            (&[&running, &paused], PodState::Degraded),
            (&[&paused], PodState::Paused),
            (&[&exited, &exited], PodState::Exited),
            (&[&exited, &configured], PodState::Stopped),
            (&[&paused, &exited], PodState::Stopped),
        ];
        for (containers, expected) in rows {
            assert_eq!(pod_state(containers.iter().copied()), *expected, "{containers:?}");
        }
    }
}

//! What a pod looks like from outside, in Kubernetes' words. Pure.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::time::Instant;

use crate::engine::container::spec::NetworkMode;
use crate::engine::container::state::ExitStatus;
use crate::engine::id::PodId;
use crate::engine::network::NetworkStatus;
use crate::reconcile::desired::DesiredContainer;
use crate::reconcile::records::PodNote;
use crate::reconcile::status::{
    Condition, ConditionKind, ContainerRole, ContainerStateStatus, ContainerStatus, PodPhase, PodStatus,
};
use crate::reconcile::worker::machine::{Decision, Memory, Observed, Outcome, Seen, SeenState};

/// What a worker tells of its pod.
#[derive(Debug, Clone)]
pub struct PodReport {
    pub note: Arc<PodNote>,
    pub id: PodId,
    pub status: PodStatus,
    /// In its Services.
    pub ready: bool,
    pub address: Option<IpAddr>,
    /// Every container has been started, or there is an error to tell of, or the pod has ended.
    pub launched: bool,
    pub leaving: bool,
    pub errors: Vec<String>,
}

/// One look at the pod, as the worker has it.
pub struct Scene<'a> {
    pub note: &'a Arc<PodNote>,
    pub id: &'a PodId,
    pub seen: &'a Observed,
    pub memory: &'a Memory,
    pub decision: &'a Decision,
    pub network: Option<&'a NetworkStatus>,
    /// The address of a pod on the host's network.
    pub host_address: IpAddr,
    pub images: &'a std::collections::BTreeMap<String, String>,
    pub now: Instant,
}

impl Scene<'_> {
    pub fn report(&self) -> PodReport {
        let pod = &self.note.pod;
        let init = pod.init_containers.iter().map(|container| match container.sidecar {
            true => (container, ContainerRole::Sidecar),
            false => (container, ContainerRole::Init),
        });
        let main = pod.containers.iter().map(|container| (container, ContainerRole::Main));
        let containers: Vec<ContainerStatus> =
            init.chain(main).map(|(container, role)| self.container(container, role)).collect();
        let phase = self.phase();
        let initialized = self.initialized(&containers);
        let containers_ready = containers
            .iter()
            .filter(|container| container.role != ContainerRole::Init)
            .all(|container| container.ready);
        let ready = containers_ready && phase == PodPhase::Running && !self.memory.leaving;
        let (reason, message) = self.reason(&containers);
        let condition = |kind, status, reason: Option<&str>| Condition {
            kind,
            status,
            reason: reason.filter(|_| !status).map(str::to_owned),
        };
        let unready = match phase {
            PodPhase::Succeeded => "PodCompleted",
            PodPhase::Failed => "PodFailed",
            PodPhase::Pending | PodPhase::Running | PodPhase::Unknown => "ContainersNotReady",
        };
        let address = match pod.sandbox.network {
            NetworkMode::Host => Some(self.host_address),
            _ => self.network.and_then(NetworkStatus::primary_address),
        };
        let status = PodStatus {
            pod: pod.name.clone(),
            owner: format!("{}/{}", pod.owner.kind, pod.owner.object.name),
            location: Some(pod.location.clone()),
            id: Some(self.id.clone()),
            uid: Some(self.note.uid.clone()),
            phase,
            reason,
            message,
            conditions: vec![
                condition(ConditionKind::PodScheduled, true, None),
                condition(ConditionKind::Initialized, initialized, Some("ContainersNotInitialized")),
                condition(ConditionKind::ContainersReady, containers_ready, Some(unready)),
                condition(ConditionKind::Ready, ready, Some(unready)),
            ],
            pod_ip: address,
            ports: self.ports(),
            started_at: Some(self.seen.created_at),
            restarts: containers.iter().map(|container| container.restart_count).sum(),
            containers,
            notes: self.memory.repairs.values().cloned().collect(),
        };
        PodReport {
            note: self.note.clone(),
            id: self.id.clone(),
            ready,
            address,
            launched: self.launched(&status.containers),
            leaving: self.memory.leaving,
            errors: self.errors(),
            status,
        }
    }

    fn seen(&self, name: &str) -> Option<&Seen> {
        self.seen.containers.get(name)
    }

    fn phase(&self) -> PodPhase {
        match &self.decision.outcome {
            Some(Outcome::Succeeded) => return PodPhase::Succeeded,
            Some(Outcome::Failed { .. }) => return PodPhase::Failed,
            None => {}
        }
        let began = |container: &DesiredContainer| {
            self.seen(&container.name)
                .is_some_and(|seen| !matches!(seen.state, SeenState::New) || seen.restarts > 0)
        };
        match self.note.pod.containers.iter().any(began) {
            true => PodPhase::Running,
            false => PodPhase::Pending,
        }
    }

    fn initialized(&self, containers: &[ContainerStatus]) -> bool {
        if containers.iter().any(|container| container.role == ContainerRole::Main && container.id.is_some())
        {
            return true;
        }
        containers.iter().all(|container| match container.role {
            ContainerRole::Init => {
                matches!(container.state, ContainerStateStatus::Terminated { exit_code: 0, .. })
            }
            ContainerRole::Sidecar => container.started,
            ContainerRole::Main => true,
        })
    }

    fn container(&self, container: &DesiredContainer, role: ContainerRole) -> ContainerStatus {
        let seen = self.seen(&container.name);
        let track = self.memory.tracks.get(&container.name);
        let fault = track.and_then(|track| track.fault.as_ref());
        let waiting = |reason: &str, message: Option<String>| ContainerStateStatus::Waiting {
            reason: reason.to_owned(),
            message,
        };
        let mut last_state = track.and_then(|track| track.last_exit.as_ref()).map(terminated);
        let state = match (seen.map(|seen| &seen.state), fault) {
            (Some(SeenState::Running { started_at }), _) => {
                ContainerStateStatus::Running { started_at: *started_at }
            }
            (Some(SeenState::Stopping), _) => {
                ContainerStateStatus::Running { started_at: self.seen.created_at }
            }
            (_, Some(fault)) => waiting(fault.reason, Some(fault.message.clone())),
            (None | Some(SeenState::New | SeenState::Removing), None) => match &self.memory.sandbox_fault {
                Some(fault) => waiting(fault.reason, Some(fault.message.clone())),
                None if role == ContainerRole::Main && !self.note.pod.init_containers.is_empty() => {
                    waiting("PodInitializing", None)
                }
                None => waiting("ContainerCreating", None),
            },
            (Some(SeenState::Exited(exit)), None) => {
                let waits = track.and_then(|track| track.restart).filter(|restart| restart.at > self.now);
                let will_restart = waits.filter(|_| self.restarts(container, role, exit));
                match will_restart {
                    Some(restart) => {
                        let left = restart.at.saturating_duration_since(self.now).as_secs() + 1;
                        waiting("CrashLoopBackOff", Some(format!("restarts in {left} s")))
                    }
                    None => {
                        last_state = None;
                        terminated(exit)
                    }
                }
            }
        };
        ContainerStatus {
            name: container.name.clone(),
            role,
            id: seen.map(|seen| seen.id.to_string()),
            image: container.spec.image.clone(),
            image_id: self.images.get(&container.name).cloned(),
            ready: match role {
                ContainerRole::Init => {
                    matches!(state, ContainerStateStatus::Terminated { exit_code: 0, .. })
                }
                ContainerRole::Sidecar | ContainerRole::Main => self.memory.is_ready(container, self.seen),
            },
            started: self.memory.is_started(container, self.seen),
            restart_count: seen.map_or(0, |seen| seen.restarts),
            state,
            last_state,
        }
    }

    fn restarts(&self, container: &DesiredContainer, role: ContainerRole, exit: &ExitStatus) -> bool {
        use crate::reconcile::desired::PodRestartPolicy as Policy;
        if self.decision.outcome.is_some() {
            return false;
        }
        match (role, self.note.pod.restart_policy) {
            _ if container.sidecar => true,
            (ContainerRole::Init, _) => exit.code != 0,
            (_, Policy::Always) => true,
            (_, Policy::OnFailure) => exit.code != 0,
            (_, Policy::Never) => self.note.pod.job.is_some() && exit.code != 0,
        }
    }

    /// The most telling reason, and its sentence.
    fn reason(&self, containers: &[ContainerStatus]) -> (Option<String>, Option<String>) {
        if self.memory.leaving {
            return (Some("Terminating".to_owned()), None);
        }
        match &self.decision.outcome {
            Some(Outcome::Succeeded) => return (Some("Completed".to_owned()), None),
            Some(Outcome::Failed { reason, message }) => {
                return (Some((*reason).to_owned()), Some(message.clone()));
            }
            None => {}
        }
        let waiting = containers.iter().filter_map(|container| match &container.state {
            ContainerStateStatus::Waiting { reason, message } => {
                Some((reason, message.as_ref().map(|message| format!("{}: {message}", container.name))))
            }
            ContainerStateStatus::Running { .. } | ContainerStateStatus::Terminated { .. } => None,
        });
        let (usual, telling): (Vec<_>, Vec<_>) = waiting
            .partition(|(reason, _)| matches!(reason.as_str(), "ContainerCreating" | "PodInitializing"));
        if let Some((reason, message)) = telling.into_iter().chain(usual).next() {
            return (Some(reason.clone()), message);
        }
        let unhealthy =
            self.memory.tracks.iter().find_map(|(name, track)| {
                track.unhealthy.as_ref().map(|message| format!("{name}: {message}"))
            });
        match unhealthy {
            Some(message) => (Some("Unhealthy".to_owned()), Some(message)),
            None => (None, None),
        }
    }

    fn ports(&self) -> Vec<String> {
        let ports = self.network.map(|network| network.ports.as_slice()).unwrap_or_default();
        ports
            .iter()
            .map(|port| {
                let protocol = port.protocol.as_str();
                format!("{}:{}->{}/{protocol}", port.host_address, port.host_port, port.container_port)
            })
            .collect()
    }

    fn launched(&self, containers: &[ContainerStatus]) -> bool {
        if self.decision.outcome.is_some() || !self.errors().is_empty() {
            return true;
        }
        let launching = self.memory.tracks.values().any(|track| track.busy.is_some());
        let begun = |container: &ContainerStatus| match (&container.state, self.note.start) {
            (_, false) => container.id.is_some(),
            (ContainerStateStatus::Running { .. } | ContainerStateStatus::Terminated { .. }, true) => true,
            (ContainerStateStatus::Waiting { reason, .. }, true) => reason == "CrashLoopBackOff",
        };
        let crashing = containers.iter().any(|container| {
            matches!(&container.state, ContainerStateStatus::Waiting { reason, .. } if reason == "CrashLoopBackOff")
        });
        crashing || (!launching && containers.iter().all(begun))
    }

    fn errors(&self) -> Vec<String> {
        let sandbox = self.memory.sandbox_fault.iter().map(|fault| fault.message.clone());
        let tracks = self.memory.tracks.iter().filter_map(|(name, track)| {
            track.fault.as_ref().map(|fault| format!("container {name}: {}", fault.message))
        });
        sandbox.chain(tracks).collect()
    }
}

fn terminated(exit: &ExitStatus) -> ContainerStateStatus {
    let reason = match exit {
        ExitStatus { oom_killed: true, .. } => "OOMKilled",
        ExitStatus { error: Some(_), .. } => "ContainerCannotRun",
        ExitStatus { code: 0, .. } => "Completed",
        _ => "Error",
    };
    ContainerStateStatus::Terminated {
        exit_code: exit.code,
        reason: reason.to_owned(),
        message: exit.error.clone(),
        started_at: exit.started_at,
        finished_at: exit.finished_at,
    }
}

//! Puts the status together from what the last pass decided and what the workers say. From memory only.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::reconcile::action::{Action, Gate, Hold, HoldCause, HoldSubject, PlannedAction};
use crate::reconcile::desired::{
    DesiredPod, DesiredStack, ObjectName, SourceHealth, SourceName, StackName, StackObjects,
};
use crate::reconcile::records::service_key;
use crate::reconcile::services::AddressedService;
use crate::reconcile::status::{
    Condition, ConditionKind, ContainerRole, ContainerStateStatus, ContainerStatus, PodPhase, PodStatus,
    ServiceStatus, SourceStatus, StackState, StackStatus, StatusReport,
};
use crate::reconcile::worker::report::PodReport;
use crate::reconcile::{Inner, Picture};

pub fn status(inner: &Inner) -> StatusReport {
    let picture = inner.picture().clone();
    let reports = inner.site.reports.all();
    let services = services(inner);
    let mut stacks: BTreeMap<StackName, StackStatus> = BTreeMap::new();
    for (name, stack) in &picture.desired.stacks {
        let status = entry(&mut stacks, name);
        match stack {
            DesiredStack::Loaded(objects) => {
                status.warnings = objects.warnings.clone();
                missing_pods(&picture, name, objects, &reports, status);
            }
            DesiredStack::Held { errors } => status.errors = errors.clone(),
        }
    }
    for report in reports.values() {
        let mut pod = report.status.clone();
        pod.notes.splice(0..0, notes(&picture, &report.note.pod.name));
        entry(&mut stacks, &report.note.stack).pods.push(pod);
    }
    for (stack, service) in services {
        entry(&mut stacks, &stack).services.push(service);
    }
    for (name, status) in &mut stacks {
        status.pods.sort_by(|a, b| a.pod.cmp(&b.pod));
        (status.state, status.message) = state(&picture, name);
    }
    let settled = picture.last_pass.is_some()
        && picture.plan.actions.is_empty()
        && !inner.hands().any_busy()
        && reports.values().all(|report| report.launched);
    StatusReport {
        sources: sources(&picture),
        stacks: stacks.into_values().collect(),
        last_pass: picture.last_pass,
        settled,
    }
}

fn entry<'a>(stacks: &'a mut BTreeMap<StackName, StackStatus>, name: &StackName) -> &'a mut StackStatus {
    stacks.entry(name.clone()).or_insert_with(|| StackStatus {
        stack: name.clone(),
        state: StackState::Applied,
        message: String::new(),
        errors: Vec::new(),
        warnings: Vec::new(),
        pods: Vec::new(),
        services: Vec::new(),
    })
}

fn sources(picture: &Picture) -> Vec<SourceStatus> {
    let held_by_plan = |source: &SourceName| {
        picture.plan.holds.iter().find_map(|hold| match (&hold.subject, &hold.cause) {
            (HoldSubject::Source(held), HoldCause::Source { cause }) if held == source => Some(cause.clone()),
            _ => None,
        })
    };
    picture
        .desired
        .sources
        .iter()
        .map(|(source, health)| SourceStatus {
            source: source.clone(),
            held: match health {
                SourceHealth::Held { cause } => Some(cause.clone()),
                SourceHealth::Read => held_by_plan(source),
            },
            warnings: match source {
                SourceName::Directory(_) => picture.warnings.clone(),
                SourceName::Played => Vec::new(),
            },
        })
        .collect()
}

fn state(picture: &Picture, stack: &StackName) -> (StackState, String) {
    let holds = |hold: &&Hold| match &hold.subject {
        HoldSubject::Stack(held) => held == stack,
        HoldSubject::Source(source) => *source == stack.source,
    };
    if let Some(hold) = picture.plan.holds.iter().find(holds) {
        let message = match &hold.cause {
            // The errors are listed by themselves.
            HoldCause::Errors { errors } if errors.len() == 1 => "1 error".to_owned(),
            HoldCause::Errors { errors } => format!("{} errors", errors.len()),
            cause @ (HoldCause::Source { .. } | HoldCause::Renaming { .. } | HoldCause::Conflict { .. }) => {
                cause.to_string()
            }
        };
        return (StackState::Held, message);
    }
    if !picture.desired.sources.contains_key(&stack.source) {
        return (StackState::Unwatched, "its directory is not watched by this daemon".to_owned());
    }
    if let Some(failure) = picture.stack_failures.get(stack) {
        return (StackState::Progressing, failure.message.clone());
    }
    let mut waiting = picture.plan.actions.iter().filter(|planned| planned.stack == *stack).peekable();
    if waiting.peek().is_none() {
        return (StackState::Applied, String::new());
    }
    let gate = waiting.find_map(|planned| planned.gate.as_ref());
    (StackState::Progressing, gate.map(ToString::to_string).unwrap_or_default())
}

/// What is planned for a pod, and what someone else did to it.
fn notes(picture: &Picture, pod: &ObjectName) -> Vec<String> {
    let planned = picture.plan.actions.iter().filter(|planned| planned.action.pod() == Some(pod));
    let planned = planned.map(|planned| planned.to_string().trim().replace("\n      ", "; "));
    planned.chain(picture.repairs.get(pod).cloned()).collect()
}

/// Pods that are wanted and are not there: what they wait for.
fn missing_pods(
    picture: &Picture,
    stack: &StackName,
    objects: &StackObjects,
    reports: &BTreeMap<ObjectName, Arc<PodReport>>,
    status: &mut StackStatus,
) {
    for pod in &objects.pods {
        if reports.contains_key(&pod.name) {
            continue;
        }
        let planned = picture
            .plan
            .actions
            .iter()
            .find(|planned| planned.stack == *stack && planned.action.pod() == Some(&pod.name));
        status.pods.push(pending(pod, planned, notes(picture, &pod.name)));
    }
}

fn pending(pod: &DesiredPod, planned: Option<&PlannedAction>, notes: Vec<String>) -> PodStatus {
    let gate = planned.and_then(|planned| planned.gate.as_ref());
    let creates = planned.is_some_and(|planned| matches!(planned.action, Action::CreatePod { .. }));
    let (reason, message) = match gate {
        Some(Gate::ImageFailed { image, reason, message }) => {
            (Some(reason.clone()), Some(format!("{image}: {message}")))
        }
        Some(Gate::Images { missing }) => {
            (Some("Pulling".to_owned()), Some(format!("fetching {}", missing.join(", "))))
        }
        Some(Gate::BackOff { message }) => (Some("CreatePodError".to_owned()), Some(message.clone())),
        Some(gate @ (Gate::InFlight | Gate::Rolling { .. } | Gate::Taken { .. })) => {
            (Some("Waiting".to_owned()), Some(gate.to_string()))
        }
        None if creates => (Some("ContainerCreating".to_owned()), None),
        None => (Some("Held".to_owned()), None),
    };
    let container = |container: &crate::reconcile::desired::DesiredContainer, role| ContainerStatus {
        name: container.name.clone(),
        role,
        id: None,
        image: container.spec.image.clone(),
        image_id: None,
        ready: false,
        started: false,
        restart_count: 0,
        state: ContainerStateStatus::Waiting {
            reason: reason.clone().unwrap_or_default(),
            message: message.clone(),
        },
        last_state: None,
    };
    let init = pod.init_containers.iter().map(|each| match each.sidecar {
        true => container(each, ContainerRole::Sidecar),
        false => container(each, ContainerRole::Init),
    });
    let containers =
        init.chain(pod.containers.iter().map(|each| container(each, ContainerRole::Main))).collect();
    let condition = |kind| Condition { kind, status: false, reason: reason.clone() };
    PodStatus {
        pod: pod.name.clone(),
        owner: format!("{}/{}", pod.owner.kind, pod.owner.object.name),
        location: Some(pod.location.clone()),
        id: None,
        uid: None,
        phase: PodPhase::Pending,
        conditions: vec![
            condition(ConditionKind::PodScheduled),
            condition(ConditionKind::Initialized),
            condition(ConditionKind::ContainersReady),
            condition(ConditionKind::Ready),
        ],
        reason,
        message,
        pod_ip: None,
        ports: Vec::new(),
        started_at: None,
        restarts: 0,
        containers,
        notes,
    }
}

fn services(inner: &Inner) -> Vec<(StackName, ServiceStatus)> {
    let addressed: BTreeMap<ObjectName, AddressedService> = inner.site.services.all();
    let in_force = inner.site.services.in_force();
    inner
        .services()
        .iter()
        .map(|(name, note)| {
            let key = service_key(name);
            let ports = note.service.ports.iter().map(|port| match port.node_port {
                Some(node_port) => format!("{}:{node_port}/{}", port.port, port.protocol.as_str()),
                None => format!("{}/{}", port.port, port.protocol.as_str()),
            });
            let status = ServiceStatus {
                service: name.clone(),
                address: addressed.get(name).and_then(|known| known.address),
                ports: ports.collect(),
                endpoints: in_force
                    .iter()
                    .filter(|service| service.name == key)
                    .flat_map(|service| service.endpoints.iter().copied())
                    .collect(),
            };
            (note.stack.clone(), status)
        })
        .collect()
}

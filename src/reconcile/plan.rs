//! The decision: what has to be done so that the machine becomes what is written. Pure: no I/O, no
//! clock, no engine; the same two states give the same plan.
//!
//! In order: what is held is found first (nothing of it is touched), then what each remaining stack
//! lacks, then which of those actions have to wait for others. What is not ours, what came from a
//! source that was not read, and what belongs to a held stack is never an object of an action.

use std::collections::{BTreeMap, BTreeSet};

use crate::engine::image::PullPolicy;
use crate::reconcile::action::{
    Action, Drift, FetchKey, FieldChange, Freshness, Gate, Hold, HoldCause, HoldSubject, ImageChange, Plan,
    PlannedAction,
};
use crate::reconcile::actual::{Activity, ActualPod, ActualState, ImageState};
use crate::reconcile::claim::{Claim, Claims, pod_claims, service_claims};
use crate::reconcile::desired::{
    DesiredContainer, DesiredPod, DesiredService, DesiredStack, DesiredState, ObjectName, ServiceAddress,
    SourceHealth, SourceName, StackName, StackObjects, TargetPort,
};

/// What one pass has to do.
pub fn plan(desired: &DesiredState, actual: &ActualState) -> Plan {
    let scene = Scene::new(desired, actual);
    let (accepted, mut holds) = scene.accept();
    let mut drafts = Vec::new();
    let mut unchanged = 0;
    for (stack, objects) in &accepted {
        unchanged += scene.compare(stack, objects, &mut drafts);
    }
    scene.orphans(&accepted, &mut drafts);
    scene.gate(&mut drafts);
    drafts.sort_by(|a, b| a.order().cmp(&b.order()));
    for hold in &mut holds {
        hold.keeps = scene.kept_by(hold, &accepted);
    }
    let actions = drafts
        .into_iter()
        .map(|draft| PlannedAction { stack: draft.stack, action: draft.action, gate: draft.gate })
        .collect();
    Plan { actions, holds, unchanged }
}

/// Which containers' images a pod needs before it is made, and why they would be asked for again.
pub fn fetch_key(pod: &DesiredPod, container: &DesiredContainer) -> FetchKey {
    let freshness = match container.pull_policy {
        PullPolicy::Always | PullPolicy::Newer => Freshness::Asked { shape: pod.hash.clone() },
        PullPolicy::Missing => Freshness::Present,
        PullPolicy::Never => Freshness::Local,
    };
    FetchKey { image: container.spec.image.clone(), freshness }
}

/// How much of a pod a new spec touches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Impact {
    /// Only these containers; with none, nothing that runs.
    Containers(Vec<String>),
    /// The pod as a whole: its sandbox, its volumes, its init containers.
    Pod,
}

/// What has to be made anew so that `old` becomes `new`.
pub fn impact(old: &DesiredPod, new: &DesiredPod) -> Impact {
    let names = |containers: &[DesiredContainer]| -> Vec<String> {
        containers.iter().map(|container| container.name.clone()).collect()
    };
    let whole = old.sandbox != new.sandbox
        || old.volumes != new.volumes
        || old.fs_group != new.fs_group
        || names(&old.init_containers) != names(&new.init_containers)
        || names(&old.containers) != names(&new.containers)
        || old.init_containers.iter().zip(&new.init_containers).any(|(old, new)| !same_process(old, new))
        // A Job is done once; another one is another pod.
        || new.job.is_some()
        || old.job != new.job
        || (old.restart_policy != new.restart_policy);
    if whole {
        return Impact::Pod;
    }
    let changed = old.containers.iter().zip(&new.containers).filter(|(old, new)| !same_process(old, new));
    Impact::Containers(changed.map(|(_, new)| new.name.clone()).collect())
}

/// Nothing that a running container was made from differs (its probes may).
fn same_process(old: &DesiredContainer, new: &DesiredContainer) -> bool {
    old.spec == new.spec && old.mounts == new.mounts && old.sidecar == new.sidecar
}

type Accepted<'a> = BTreeMap<&'a StackName, &'a StackObjects>;

/// What happens to a pod that is there.
enum Fate<'a> {
    /// Nothing, whatever the stacks say.
    Stays,
    /// An accepted stack wants it.
    Wanted,
    /// It is no longer written, and may have moved to this broken newcomer.
    MaybeRenamed(&'a StackName),
    Orphan {
        cause: String,
    },
}

struct Scene<'a> {
    desired: &'a DesiredState,
    actual: &'a ActualState,
    held_sources: BTreeMap<&'a SourceName, String>,
    /// Broken stacks that never were good: nobody knows what is in them.
    strangers: Vec<&'a StackName>,
    /// What the objects of each stack occupy now.
    held: BTreeMap<&'a StackName, Claims>,
    /// Which stacks want a pod or Service.
    wanted: BTreeMap<(Kind, &'a ObjectName), Vec<&'a StackName>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Pod,
    Service,
}

/// An action whose gate is not decided yet.
struct Draft<'a> {
    stack: StackName,
    action: Action,
    gate: Option<Gate>,
    /// The pod to be made, if one is.
    wanted: Option<&'a DesiredPod>,
}

impl Draft<'_> {
    /// Removals come before what may need the room they make.
    fn order(&self) -> (&StackName, u8, Option<&ObjectName>, &str) {
        let (rank, name) = match &self.action {
            Action::FetchImage { image, .. } => (0, image.as_str()),
            Action::RemoveService { service, .. } => return (&self.stack, 1, Some(service), ""),
            Action::RemovePod { .. } => (2, ""),
            Action::CreateVolume { volume, .. } => (3, volume.as_str()),
            Action::PutService { service, .. } => return (&self.stack, 4, Some(service), ""),
            Action::ReplacePod { .. } => (5, ""),
            Action::UpdatePod { .. } => (6, ""),
            Action::MovePod { .. } => (7, ""),
            Action::CreatePod { .. } => (8, ""),
        };
        (&self.stack, rank, self.action.pod(), name)
    }

    /// It takes a pod away or interrupts it.
    fn disrupts(&self) -> bool {
        match &self.action {
            Action::ReplacePod { .. } | Action::RemovePod { .. } => true,
            Action::UpdatePod { containers, .. } => !containers.is_empty(),
            Action::FetchImage { .. }
            | Action::RemoveService { .. }
            | Action::CreateVolume { .. }
            | Action::PutService { .. }
            | Action::MovePod { .. }
            | Action::CreatePod { .. } => false,
        }
    }
}

impl<'a> Scene<'a> {
    fn new(desired: &'a DesiredState, actual: &'a ActualState) -> Self {
        let seen: BTreeSet<&StackName> = actual
            .pods
            .values()
            .map(|pod| &pod.stack)
            .chain(actual.services.values().map(|service| &service.stack))
            .collect();
        let mut held_sources = BTreeMap::new();
        for (source, health) in &desired.sources {
            match health {
                SourceHealth::Held { cause } => {
                    held_sources.insert(source, cause.clone());
                }
                SourceHealth::Read => {
                    let wants = desired.stacks.keys().any(|stack| stack.source == *source);
                    let has = seen.iter().any(|stack| stack.source == *source);
                    // Played manifests are ours to forget; a directory that lost everything at once is
                    // more likely not mounted.
                    if let (SourceName::Directory(path), false, true) = (source, wants, has) {
                        let cause = format!(
                            "{} is suddenly empty; what came from it is removed once a file there says \
                             {{apiVersion: v1, kind: List, items: []}}",
                            path.display()
                        );
                        held_sources.insert(source, cause);
                    }
                }
            }
        }
        let strangers = desired
            .stacks
            .iter()
            .filter(|(name, stack)| matches!(stack, DesiredStack::Held { .. }) && !seen.contains(name))
            .map(|(name, _)| name)
            .collect();
        let mut held: BTreeMap<&StackName, Claims> = BTreeMap::new();
        for (name, pod) in &actual.pods {
            let claims = held.entry(&pod.stack).or_default();
            held_claims(name, pod).into_iter().for_each(|claim| claims.insert(claim, name.to_string()));
        }
        for (name, service) in &actual.services {
            let claims = held.entry(&service.stack).or_default();
            service_claims(&service.applied)
                .into_iter()
                .for_each(|claim| claims.insert(claim, name.to_string()));
        }
        let mut wanted: BTreeMap<(Kind, &ObjectName), Vec<&StackName>> = BTreeMap::new();
        for (name, stack) in &desired.stacks {
            let DesiredStack::Loaded(objects) = stack else { continue };
            for pod in &objects.pods {
                wanted.entry((Kind::Pod, &pod.name)).or_default().push(name);
            }
            for service in &objects.services {
                wanted.entry((Kind::Service, &service.name)).or_default().push(name);
            }
        }
        Self { desired, actual, held_sources, strangers, held, wanted }
    }

    /// The stacks that are whole, and what is held instead.
    fn accept(&self) -> (Accepted<'a>, Vec<Hold>) {
        let mut holds = Vec::new();
        for (source, cause) in &self.held_sources {
            holds.push(Hold {
                subject: HoldSubject::Source((*source).clone()),
                cause: HoldCause::Source { cause: cause.clone() },
                keeps: Vec::new(),
            });
        }
        let mut accepted = Accepted::new();
        for (name, stack) in &self.desired.stacks {
            match stack {
                DesiredStack::Held { errors } => holds.push(Hold {
                    subject: HoldSubject::Stack(name.clone()),
                    cause: HoldCause::Errors { errors: errors.clone() },
                    keeps: Vec::new(),
                }),
                DesiredStack::Loaded(_) if self.held_sources.contains_key(&name.source) => {}
                DesiredStack::Loaded(objects) => {
                    accepted.insert(name, objects);
                }
            }
        }
        // Each stack that is held keeps what it has, which may be in the way of another one: again
        // until nothing more is held. Ends, because stacks are only taken away.
        while let Some((stack, what, by)) = self.first_conflict(&accepted) {
            accepted.remove(stack);
            holds.push(Hold {
                subject: HoldSubject::Stack(stack.clone()),
                cause: HoldCause::Conflict { what, by },
                keeps: Vec::new(),
            });
        }
        let mut renaming: BTreeMap<&StackName, &StackName> = BTreeMap::new();
        for (name, pod) in &self.actual.pods {
            if let Fate::MaybeRenamed(broken) = self.fate(name, &pod.stack, &accepted) {
                renaming.insert(&pod.stack, broken);
            }
        }
        for (stack, broken) in renaming {
            holds.push(Hold {
                subject: HoldSubject::Stack(stack.clone()),
                cause: HoldCause::Renaming { broken: broken.clone() },
                keeps: Vec::new(),
            });
        }
        holds.sort_by(|a, b| a.subject.cmp(&b.subject));
        (accepted, holds)
    }

    /// The first stack, by name, that wants what something else has or wants with a better right:
    /// first what stays whatever happens, then those who have it already, then by name.
    fn first_conflict(&self, accepted: &Accepted<'a>) -> Option<(&'a StackName, String, String)> {
        let mut claims = Claims::default();
        for (name, holder) in &self.actual.foreign.names {
            claims.insert(Claim::EngineName(name.clone()), holder.clone());
        }
        for (mapping, holder) in &self.actual.foreign.ports {
            for claim in Claim::of_port(mapping) {
                claims.insert(claim, holder.clone());
            }
        }
        for (name, pod) in &self.actual.pods {
            if !matches!(self.fate(name, &pod.stack, accepted), Fate::Stays | Fate::MaybeRenamed(_)) {
                continue;
            }
            for claim in held_claims(name, pod) {
                claims.insert(claim, format!("pod {name} of stack {}", pod.stack));
            }
        }
        for (name, service) in &self.actual.services {
            if matches!(
                self.service_fate(name, &service.stack, accepted),
                Fate::Stays | Fate::MaybeRenamed(_)
            ) {
                for claim in service_claims(&service.applied) {
                    claims.insert(claim, format!("service {name} of stack {}", service.stack));
                }
            }
        }
        for incumbents in [true, false] {
            for (&stack, objects) in accepted {
                for (claim, holder) in stack_claims(objects) {
                    if self.has_already(stack, &claim) != incumbents {
                        continue;
                    }
                    if let Some(other) = claims.holder(&claim) {
                        return Some((stack, claim.to_string(), other.to_owned()));
                    }
                    claims.insert(claim, holder);
                }
            }
        }
        None
    }

    fn has_already(&self, stack: &StackName, claim: &Claim) -> bool {
        self.held.get(stack).is_some_and(|claims| claims.holder(claim).is_some())
    }

    fn fate(&self, name: &ObjectName, stack: &'a StackName, accepted: &Accepted<'a>) -> Fate<'a> {
        self.fate_of(Kind::Pod, name, stack, accepted)
    }

    fn service_fate(&self, name: &ObjectName, stack: &'a StackName, accepted: &Accepted<'a>) -> Fate<'a> {
        self.fate_of(Kind::Service, name, stack, accepted)
    }

    fn fate_of(
        &self,
        kind: Kind,
        name: &ObjectName,
        stack: &'a StackName,
        accepted: &Accepted<'a>,
    ) -> Fate<'a> {
        let watched = self.desired.sources.contains_key(&stack.source);
        if !watched || self.held_sources.contains_key(&stack.source) {
            return Fate::Stays;
        }
        let cause = match self.desired.stacks.get(stack) {
            Some(DesiredStack::Held { .. }) => return Fate::Stays,
            Some(DesiredStack::Loaded(_)) if !accepted.contains_key(stack) => return Fate::Stays,
            Some(DesiredStack::Loaded(_)) => format!("no longer written in {stack}"),
            None => format!("{stack} is gone"),
        };
        let wanted_by = self.wanted.get(&(kind, name)).map(Vec::as_slice).unwrap_or_default();
        if wanted_by.iter().any(|stack| accepted.contains_key(stack)) {
            return Fate::Wanted;
        }
        // A stack that is held for a conflict would take it over: left alone until that is settled.
        if !wanted_by.is_empty() {
            return Fate::Stays;
        }
        match self.strangers.iter().find(|stranger| stranger.source == stack.source) {
            Some(broken) => Fate::MaybeRenamed(broken),
            None => Fate::Orphan { cause },
        }
    }

    /// Actions for everything `stack` wants and has not; returns how many pods are as they should be.
    fn compare(&self, stack: &StackName, objects: &'a StackObjects, drafts: &mut Vec<Draft<'a>>) -> usize {
        let before = drafts.len();
        let mut unchanged = 0;
        for claim in &objects.volumes {
            if !self.actual.volumes.contains(&claim.volume) {
                let action = Action::CreateVolume { volume: claim.volume.clone(), drift: Drift::Missing };
                drafts.push(Draft { stack: stack.clone(), action, gate: None, wanted: None });
            }
        }
        for service in &objects.services {
            if let Some(drift) = self.service_drift(stack, service) {
                let action = Action::PutService { service: service.name.clone(), drift };
                drafts.push(Draft { stack: stack.clone(), action, gate: None, wanted: None });
            }
        }
        for pod in &objects.pods {
            match self.pod_action(stack, pod) {
                Some(action) => {
                    drafts.push(Draft { stack: stack.clone(), action, gate: None, wanted: Some(pod) });
                }
                None => unchanged += 1,
            }
        }
        let fetches = self.fetches(stack, &drafts[before..]);
        drafts.extend(fetches);
        unchanged
    }

    fn pod_action(&self, stack: &StackName, pod: &DesiredPod) -> Option<Action> {
        let name = pod.name.clone();
        let Some(actual) = self.actual.pods.get(&pod.name) else {
            return Some(Action::CreatePod { pod: name, drift: Drift::Missing, after: Vec::new() });
        };
        let id = actual.id.clone();
        if actual.leaving {
            return Some(Action::ReplacePod { pod: name, id, drift: Drift::Leaving, after: Vec::new() });
        }
        let Some(applied) = &actual.applied else {
            return Some(Action::ReplacePod { pod: name, id, drift: Drift::RecordLost, after: Vec::new() });
        };
        if applied.hash != pod.hash {
            let drift = Drift::SpecChanged { changes: field_changes(&applied.fields, &pod.fields) };
            return Some(match impact(applied, pod) {
                Impact::Pod => Action::ReplacePod { pod: name, id, drift, after: Vec::new() },
                Impact::Containers(containers) => Action::UpdatePod { pod: name, id, containers, drift },
            });
        }
        let images = self.image_changes(actual, pod);
        if !images.is_empty() {
            let of_init =
                |change: &ImageChange| pod.init_containers.iter().any(|c| c.name == change.container);
            let containers: Vec<String> = images.iter().map(|change| change.container.clone()).collect();
            let whole = images.iter().any(of_init) || pod.job.is_some();
            let drift = Drift::ImageChanged { images };
            return Some(match whole {
                true => Action::ReplacePod { pod: name, id, drift, after: Vec::new() },
                false => Action::UpdatePod { pod: name, id, containers, drift },
            });
        }
        if actual.stack != *stack {
            return Some(Action::MovePod {
                pod: name,
                id,
                drift: Drift::Moved { from: actual.stack.clone() },
            });
        }
        None
    }

    /// Containers that run another image than their name stands for, where the policy is to follow it.
    fn image_changes(&self, actual: &ActualPod, pod: &DesiredPod) -> Vec<ImageChange> {
        let mut changes = Vec::new();
        for container in pod.all_containers() {
            let follows = match container.pull_policy {
                PullPolicy::Always | PullPolicy::Newer => true,
                PullPolicy::Missing | PullPolicy::Never => false,
            };
            let image = &container.spec.image;
            let (Some(from), Some(to), true) =
                (actual.images.get(&container.name), self.actual.image_ids.get(image), follows)
            else {
                continue;
            };
            if from != to {
                changes.push(ImageChange {
                    container: container.name.clone(),
                    image: image.clone(),
                    from: from.clone(),
                    to: to.clone(),
                });
            }
        }
        changes
    }

    fn service_drift(&self, stack: &StackName, service: &DesiredService) -> Option<Drift> {
        let Some(actual) = self.actual.services.get(&service.name) else {
            return Some(Drift::Missing);
        };
        let changes = field_changes(&service_fields(&actual.applied), &service_fields(service));
        if !changes.is_empty() {
            return Some(Drift::SpecChanged { changes });
        }
        (actual.stack != *stack).then(|| Drift::Moved { from: actual.stack.clone() })
    }

    /// The images that the pods to be made need and that are not here.
    fn fetches(&self, stack: &StackName, drafts: &[Draft<'a>]) -> Vec<Draft<'a>> {
        let mut fetches: BTreeMap<FetchKey, Draft> = BTreeMap::new();
        for (pod, container) in drafts.iter().flat_map(needed_containers) {
            let key = fetch_key(pod, container);
            let gate = match self.image_state(&key) {
                ImageState::Present => continue,
                _ if container.pull_policy == PullPolicy::Never => continue,
                ImageState::Absent => None,
                ImageState::Fetching => Some(Gate::InFlight),
                ImageState::Failed { due: true, .. } => None,
                ImageState::Failed { message, .. } => Some(Gate::BackOff { message: message.clone() }),
            };
            let action = Action::FetchImage {
                image: key.image.clone(),
                policy: container.pull_policy,
                key: key.clone(),
            };
            fetches.insert(key, Draft { stack: stack.clone(), action, gate, wanted: None });
        }
        fetches.into_values().collect()
    }

    fn image_state(&self, key: &FetchKey) -> &'a ImageState {
        const ABSENT: &ImageState = &ImageState::Absent;
        self.actual.images.get(key).unwrap_or(ABSENT)
    }

    /// Removal of what no stack wants any more.
    fn orphans(&self, accepted: &Accepted<'a>, drafts: &mut Vec<Draft<'a>>) {
        for (name, pod) in &self.actual.pods {
            if let Fate::Orphan { cause } = self.fate(name, &pod.stack, accepted) {
                let drift = Drift::Orphaned { cause };
                let action = Action::RemovePod { pod: name.clone(), id: pod.id.clone(), drift };
                drafts.push(Draft { stack: pod.stack.clone(), action, gate: None, wanted: None });
            }
        }
        for (name, service) in &self.actual.services {
            if let Fate::Orphan { cause } = self.service_fate(name, &service.stack, accepted) {
                let drift = Drift::Orphaned { cause };
                let action = Action::RemoveService { service: name.clone(), drift };
                drafts.push(Draft { stack: service.stack.clone(), action, gate: None, wanted: None });
            }
        }
    }

    /// Decides which actions have to wait.
    fn gate(&self, drafts: &mut [Draft<'a>]) {
        self.gate_busy(drafts);
        self.gate_images(drafts);
        self.gate_rolling(drafts);
        self.gate_taken(drafts);
    }

    /// One action at a time on a pod, and a pause after one that failed.
    fn gate_busy(&self, drafts: &mut [Draft<'a>]) {
        for draft in drafts {
            let Some(pod) = draft.action.pod() else { continue };
            draft.gate = match self.actual.activity(pod) {
                Activity::Idle => None,
                Activity::InFlight => Some(Gate::InFlight),
                Activity::BackOff { message } => Some(Gate::BackOff { message: message.clone() }),
            };
        }
    }

    /// All or nothing: no part of a stack moves before every image it needs is here.
    fn gate_images(&self, drafts: &mut [Draft<'a>]) {
        let mut waiting: BTreeMap<StackName, Gate> = BTreeMap::new();
        for draft in drafts.iter() {
            let mut missing = Vec::new();
            let mut failed = None;
            for (pod, container) in needed_containers(draft) {
                match self.image_state(&fetch_key(pod, container)) {
                    ImageState::Present => {}
                    ImageState::Absent | ImageState::Fetching | ImageState::Failed { due: true, .. } => {
                        missing.push(container.spec.image.clone());
                    }
                    ImageState::Failed { reason, message, due: false } => {
                        failed = Some(Gate::ImageFailed {
                            image: container.spec.image.clone(),
                            reason: reason.clone(),
                            message: message.clone(),
                        });
                    }
                }
            }
            let gate = match (failed, missing.is_empty()) {
                (Some(failed), _) => failed,
                (None, false) => Gate::Images { missing },
                (None, true) => continue,
            };
            match (waiting.get_mut(&draft.stack), gate) {
                (None, gate) => {
                    waiting.insert(draft.stack.clone(), gate);
                }
                (Some(Gate::Images { missing }), Gate::Images { missing: more }) => {
                    missing.extend(more);
                    missing.sort();
                    missing.dedup();
                }
                (Some(Gate::Images { .. }), gate @ Gate::ImageFailed { .. }) => {
                    waiting.insert(draft.stack.clone(), gate);
                }
                (Some(_), _) => {}
            }
        }
        for draft in drafts.iter_mut() {
            if let (None, Some(gate), false) =
                (&draft.gate, waiting.get(&draft.stack), matches!(draft.action, Action::FetchImage { .. }))
            {
                draft.gate = Some(gate.clone());
            }
        }
    }

    /// Replicas of one owner are interrupted one after the other, each only when the others are ready.
    /// One that is not ready itself has nothing to lose; one that has what another waits for goes first,
    /// or both would wait for each other.
    fn gate_rolling(&self, drafts: &mut [Draft<'a>]) {
        let mut owners: BTreeMap<String, Vec<&ObjectName>> = BTreeMap::new();
        for (name, pod) in &self.actual.pods {
            if let Some(applied) = &pod.applied {
                owners.entry(applied.owner.to_string()).or_default().push(name);
            }
        }
        let awaited = self.awaited(drafts);
        let mut interrupted: BTreeSet<ObjectName> = drafts
            .iter()
            .filter(|draft| draft.disrupts() && draft.gate.is_none())
            .filter_map(|draft| draft.action.pod().cloned())
            .filter(|pod| !self.is_ready(pod) || awaited.contains(pod))
            .collect();
        for draft in drafts.iter_mut() {
            let (Some(pod), Some(wanted)) = (draft.action.pod(), draft.wanted) else { continue };
            if !draft.disrupts() || draft.gate.is_some() || interrupted.contains(pod) {
                continue;
            }
            let siblings = owners.get(&wanted.owner.to_string()).map(Vec::as_slice).unwrap_or_default();
            let unready = siblings.iter().find(|sibling| {
                **sibling != pod && (!self.is_ready(sibling) || interrupted.contains(**sibling))
            });
            match unready {
                Some(sibling) => draft.gate = Some(Gate::Rolling { pod: (*sibling).clone() }),
                None => {
                    interrupted.insert(pod.clone());
                }
            }
        }
    }

    /// Pods that have a name or host port which another pod to be made needs.
    fn awaited(&self, drafts: &[Draft<'a>]) -> BTreeSet<ObjectName> {
        let mut needs: Vec<(&ObjectName, Claim)> = Vec::new();
        for wanted in drafts.iter().filter_map(|draft| draft.wanted) {
            needs.extend(pod_claims(wanted).into_iter().map(|claim| (&wanted.name, claim)));
        }
        let is_awaited = |(name, pod): &(&ObjectName, &ActualPod)| {
            held_claims(name, pod)
                .iter()
                .any(|held| needs.iter().any(|(by, need)| by != name && held.overlaps(need)))
        };
        self.actual.pods.iter().filter(is_awaited).map(|(name, _)| name.clone()).collect()
    }

    fn is_ready(&self, pod: &ObjectName) -> bool {
        self.actual.pods.get(pod).is_some_and(|pod| pod.ready)
    }

    /// A pod that needs the name or host port of another waits until that one is gone: in this pass if
    /// it goes now, else its whole stack waits for a later one.
    fn gate_taken(&self, drafts: &mut [Draft<'a>]) {
        let held: Vec<(&ObjectName, &ActualPod, Vec<Claim>)> =
            self.actual.pods.iter().map(|(name, pod)| (name, pod, held_claims(name, pod))).collect();
        loop {
            let releasing: BTreeSet<ObjectName> = drafts
                .iter()
                .filter(|draft| draft.gate.is_none())
                .filter(|draft| matches!(draft.action, Action::RemovePod { .. } | Action::ReplacePod { .. }))
                .filter_map(|draft| draft.action.pod().cloned())
                .collect();
            let mut blocked: BTreeMap<StackName, Gate> = BTreeMap::new();
            for draft in drafts.iter_mut().filter(|draft| draft.gate.is_none()) {
                let Some(wanted) = draft.wanted else { continue };
                let (Action::CreatePod { after, .. } | Action::ReplacePod { after, .. }) = &mut draft.action
                else {
                    continue;
                };
                after.clear();
                for claim in pod_claims(wanted) {
                    for (name, holder, claims) in &held {
                        if **name == wanted.name || !claims.iter().any(|held| held.overlaps(&claim)) {
                            continue;
                        }
                        if releasing.contains(*name) {
                            after.push(holder.id.clone());
                        } else {
                            let gate = Gate::Taken { what: claim.to_string(), by: format!("pod {name}") };
                            blocked.entry(draft.stack.clone()).or_insert(gate);
                        }
                    }
                }
                after.sort();
                after.dedup();
            }
            if blocked.is_empty() {
                return;
            }
            for draft in drafts.iter_mut().filter(|draft| draft.gate.is_none()) {
                draft.gate = blocked.get(&draft.stack).cloned();
            }
        }
    }

    /// The pods that go on as they are because of a hold.
    fn kept_by(&self, hold: &Hold, accepted: &Accepted<'a>) -> Vec<ObjectName> {
        let keeps = |stack: &StackName| match &hold.subject {
            HoldSubject::Source(source) => stack.source == *source,
            HoldSubject::Stack(name) => stack == name,
        };
        self.actual
            .pods
            .iter()
            // Its own, and those of others that it would take over.
            .filter(|(name, pod)| {
                let wanted_by = self.wanted.get(&(Kind::Pod, name)).map(Vec::as_slice).unwrap_or_default();
                keeps(&pod.stack) || wanted_by.iter().any(|stack| keeps(stack))
            })
            .filter(|(name, pod)| {
                matches!(self.fate(name, &pod.stack, accepted), Fate::Stays | Fate::MaybeRenamed(_))
            })
            .map(|(name, _)| name.clone())
            .collect()
    }
}

/// Containers whose image must be here before the draft's pod is touched.
fn needed_containers<'d>(
    draft: &'d Draft<'_>,
) -> impl Iterator<Item = (&'d DesiredPod, &'d DesiredContainer)> {
    let touches = move |name: &str| match &draft.action {
        Action::CreatePod { .. } | Action::ReplacePod { .. } => true,
        Action::UpdatePod { containers, .. } => containers.iter().any(|container| container == name),
        Action::FetchImage { .. }
        | Action::RemoveService { .. }
        | Action::RemovePod { .. }
        | Action::CreateVolume { .. }
        | Action::PutService { .. }
        | Action::MovePod { .. } => false,
    };
    draft
        .wanted
        .into_iter()
        .flat_map(|pod| pod.all_containers().map(move |container| (pod, container)))
        .filter(move |(_, container)| container.spec.rootfs.is_none() && touches(&container.name))
}

/// What a pod that is there occupies.
fn held_claims(name: &ObjectName, pod: &ActualPod) -> Vec<Claim> {
    match &pod.applied {
        Some(applied) => pod_claims(applied),
        None => vec![Claim::Pod(name.clone())],
    }
}

fn stack_claims(objects: &StackObjects) -> Vec<(Claim, String)> {
    let pods = objects.pods.iter().flat_map(|pod| {
        pod_claims(pod).into_iter().map(|claim| (claim, format!("pod {} ({})", pod.name, pod.location)))
    });
    let services = objects.services.iter().flat_map(|service| {
        service_claims(service)
            .into_iter()
            .map(|claim| (claim, format!("service {} ({})", service.name, service.location)))
    });
    // In an order of their own, so that the order of documents does not decide which conflict is told.
    let mut claims: Vec<(Claim, String)> = pods.chain(services).collect();
    claims.sort();
    claims
}

/// What differs between two sets of named values.
pub fn field_changes(old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) -> Vec<FieldChange> {
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    names
        .into_iter()
        .filter(|name| old.get(*name) != new.get(*name))
        .map(|name| FieldChange {
            field: name.clone(),
            from: old.get(name).cloned(),
            to: new.get(name).cloned(),
        })
        .collect()
}

/// A Service in words, for field-by-field comparison.
fn service_fields(service: &DesiredService) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    for (key, value) in &service.selector {
        fields.insert(format!("spec.selector.{key}"), value.clone());
    }
    let address = match &service.address {
        ServiceAddress::Cluster(None) => "auto".to_owned(),
        ServiceAddress::Cluster(Some(address)) => address.to_string(),
        ServiceAddress::Headless => "None".to_owned(),
    };
    fields.insert("spec.clusterIP".to_owned(), address);
    for (index, port) in service.ports.iter().enumerate() {
        let target = match &port.target {
            TargetPort::Number(number) => number.to_string(),
            TargetPort::Name(name) => name.clone(),
        };
        let prefix = format!("spec.ports[{index}]");
        fields.insert(format!("{prefix}.port"), port.port.to_string());
        fields.insert(format!("{prefix}.protocol"), port.protocol.as_str().to_uppercase());
        fields.insert(format!("{prefix}.targetPort"), target);
        if let Some(name) = &port.name {
            fields.insert(format!("{prefix}.name"), name.clone());
        }
        if let Some(node_port) = port.node_port {
            fields.insert(format!("{prefix}.nodePort"), node_port.to_string());
        }
    }
    if service.publish_not_ready {
        fields.insert("spec.publishNotReadyAddresses".to_owned(), "true".to_owned());
    }
    fields
}

//! Carries out a plan. Decides nothing: which action, and whether it may be done now, is in the plan.
//!
//! What only writes the store is done at once; each pod's action is a task of its own, so that a pod that
//! is slow to stop or fails holds up nobody. Tasks: one per pod action under way.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::engine::container::RemoveOptions;
use crate::engine::container::spec::CreatedBy;
use crate::engine::error::{EngineError, ErrorKind, Result, Subject};
use crate::engine::id::{NameOrId, PodId};
use crate::engine::image::{Credentials, PullOptions};
use crate::reconcile::Inner;
use crate::reconcile::action::{Action, Plan, PlannedAction};
use crate::reconcile::actual::Activity;
use crate::reconcile::backoff::ACTION;
use crate::reconcile::desired::{
    DesiredPod, DesiredService, DesiredStack, DesiredState, ObjectName, ServiceAddress, StackName,
};
use crate::reconcile::records::{PodNote, ServiceNote, container_hash, label, new_uid, service_key};
use crate::reconcile::services::AddressedService;
use crate::reconcile::worker::WorkerHandle;

/// What our own hands are doing, by pod.
#[derive(Default)]
pub struct Hands {
    by_pod: BTreeMap<ObjectName, Hand>,
}

enum Hand {
    Busy { failures: u32 },
    Failed { failures: u32, message: String, retry_at: Instant },
}

impl Hands {
    pub fn activity(&self, now: Instant) -> BTreeMap<ObjectName, Activity> {
        let activity = |hand: &Hand| match hand {
            Hand::Busy { .. } => Activity::InFlight,
            Hand::Failed { message, retry_at, .. } if *retry_at > now => {
                Activity::BackOff { message: message.clone() }
            }
            Hand::Failed { .. } => Activity::Idle,
        };
        self.by_pod.iter().map(|(pod, hand)| (pod.clone(), activity(hand))).collect()
    }

    pub fn is_busy(&self, pod: &ObjectName) -> bool {
        matches!(self.by_pod.get(pod), Some(Hand::Busy { .. }))
    }

    pub fn any_busy(&self) -> bool {
        self.by_pod.values().any(|hand| matches!(hand, Hand::Busy { .. }))
    }

    pub fn failure(&self, pod: &ObjectName) -> Option<String> {
        match self.by_pod.get(pod) {
            Some(Hand::Failed { message, .. }) => Some(message.clone()),
            Some(Hand::Busy { .. }) | None => None,
        }
    }

    /// When the next failed action is due again.
    pub fn next_retry(&self, now: Instant) -> Option<Instant> {
        let retries = self.by_pod.values().filter_map(|hand| match hand {
            Hand::Failed { retry_at, .. } => Some(*retry_at),
            Hand::Busy { .. } => None,
        });
        retries.filter(|at| *at > now).min()
    }

    /// Someone asks now: what failed is due at once.
    pub fn forgive(&mut self, now: Instant) {
        for hand in self.by_pod.values_mut() {
            if let Hand::Failed { retry_at, .. } = hand {
                *retry_at = now;
            }
        }
    }

    fn begin(&mut self, pod: &ObjectName) {
        let failures = match self.by_pod.get(pod) {
            Some(Hand::Busy { failures } | Hand::Failed { failures, .. }) => *failures,
            None => 0,
        };
        self.by_pod.insert(pod.clone(), Hand::Busy { failures });
    }

    fn end(&mut self, pod: &ObjectName, result: Result<(), String>, now: Instant) {
        let failures = match self.by_pod.remove(pod) {
            Some(Hand::Busy { failures } | Hand::Failed { failures, .. }) => failures + 1,
            None => 1,
        };
        if let Err(message) = result {
            let retry_at = now + ACTION.delay(failures);
            self.by_pod.insert(pod.clone(), Hand::Failed { failures, message, retry_at });
        }
    }
}

/// Whether a pod that is to make room has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Departure {
    Pending,
    Gone,
    Failed,
}

/// Starts everything in `plan` that may be done now. Returns when the store's part is done.
pub async fn apply(inner: &Arc<Inner>, desired: &DesiredState, plan: &Plan) {
    let mut departures: BTreeMap<PodId, watch::Sender<Departure>> = BTreeMap::new();
    for planned in plan.ready() {
        if let Action::RemovePod { id, .. } | Action::ReplacePod { id, .. } = &planned.action {
            departures.insert(id.clone(), watch::Sender::new(Departure::Pending));
        }
    }
    let waits: BTreeMap<PodId, watch::Receiver<Departure>> =
        departures.iter().map(|(id, departure)| (id.clone(), departure.subscribe())).collect();
    let mut failed_stacks = std::collections::BTreeSet::new();
    for planned in plan.ready() {
        if failed_stacks.contains(&planned.stack) {
            continue;
        }
        tracing::info!(stack = %planned.stack, "{}", planned.to_string().trim());
        let done = match &planned.action {
            Action::FetchImage { key, .. } => {
                inner.fetcher.fetch(key.clone(), pull_options(inner, desired, planned));
                Ok(())
            }
            Action::CreateVolume { volume, .. } => create_volume(inner, desired, planned, volume).await,
            Action::PutService { service, .. } => put_service(inner, desired, planned, service).await,
            Action::RemoveService { service, .. } => remove_service(inner, service).await,
            Action::RemovePod { pod, id, .. } => {
                let departure =
                    departures.remove(id).unwrap_or_else(|| watch::Sender::new(Departure::Pending));
                spawn_remove(inner, pod.clone(), id.clone(), departure);
                Ok(())
            }
            Action::ReplacePod { pod, id, after, .. } => {
                let Some(wanted) = find_pod(desired, &planned.stack, pod) else { continue };
                let departure =
                    departures.remove(id).unwrap_or_else(|| watch::Sender::new(Departure::Pending));
                let after = after.iter().filter_map(|id| waits.get(id).cloned()).collect();
                let old = Some((id.clone(), departure));
                spawn_create(inner, planned.stack.clone(), wanted.clone(), old, after);
                Ok(())
            }
            Action::CreatePod { pod, after, .. } => {
                let Some(wanted) = find_pod(desired, &planned.stack, pod) else { continue };
                let after = after.iter().filter_map(|id| waits.get(id).cloned()).collect();
                spawn_create(inner, planned.stack.clone(), wanted.clone(), None, after);
                Ok(())
            }
            Action::UpdatePod { pod, containers, .. } => {
                let Some(wanted) = find_pod(desired, &planned.stack, pod) else { continue };
                update_pod(inner, &planned.stack, wanted, containers).await
            }
            Action::MovePod { pod, .. } => {
                let Some(wanted) = find_pod(desired, &planned.stack, pod) else { continue };
                update_pod(inner, &planned.stack, wanted, &[]).await
            }
        };
        if let Err(error) = done {
            tracing::error!(stack = %planned.stack, "{}: {}", planned.to_string().trim(), error.chain());
            inner.stack_failed(&planned.stack, error.chain());
            failed_stacks.insert(planned.stack.clone());
        }
    }
}

fn find_pod<'a>(desired: &'a DesiredState, stack: &StackName, pod: &ObjectName) -> Option<&'a DesiredPod> {
    match desired.stacks.get(stack)? {
        DesiredStack::Loaded(objects) => objects.pods.iter().find(|known| known.name == *pod),
        DesiredStack::Held { .. } => None,
    }
}

fn pull_options(inner: &Inner, desired: &DesiredState, planned: &PlannedAction) -> PullOptions {
    let Action::FetchImage { image, policy, .. } = &planned.action else { return PullOptions::default() };
    let login = match desired.stacks.get(&planned.stack) {
        Some(DesiredStack::Loaded(objects)) => objects.pods.iter().find_map(|pod| {
            let needs = pod.all_containers().any(|container| container.spec.image == *image);
            needs.then(|| pod.login_for(image)).flatten()
        }),
        Some(DesiredStack::Held { .. }) | None => None,
    };
    PullOptions {
        policy: Some(*policy),
        credentials: login
            .map(|login| Credentials { username: login.username.clone(), password: login.password.clone() }),
        tls_verify: inner.played_tls_verify(&planned.stack),
        platform: None,
    }
}

async fn create_volume(
    inner: &Inner,
    desired: &DesiredState,
    planned: &PlannedAction,
    volume: &str,
) -> Result<()> {
    let Some(DesiredStack::Loaded(objects)) = desired.stacks.get(&planned.stack) else { return Ok(()) };
    let Some(claim) = objects.volumes.iter().find(|claim| claim.volume == *volume) else { return Ok(()) };
    let name = claim.volume.parse().map_err(|error: crate::engine::id::InvalidName| {
        EngineError::invalid(Subject::Volume(claim.volume.clone()), error.to_string())
    })?;
    let created =
        inner.site.engine.create_volume(Some(name), claim.labels.clone(), claim.options.clone()).await;
    inner.site.passed();
    match created {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

async fn put_service(
    inner: &Inner,
    desired: &DesiredState,
    planned: &PlannedAction,
    name: &ObjectName,
) -> Result<()> {
    let Some(DesiredStack::Loaded(objects)) = desired.stacks.get(&planned.stack) else { return Ok(()) };
    let Some(service) = objects.services.iter().find(|known| known.name == *name) else { return Ok(()) };
    let note = ServiceNote { stack: planned.stack.clone(), service: service.clone() };
    note.write(&inner.site.engine).await?;
    inner.site.passed();
    let address = service_address(inner, service).await?;
    inner.site.services.put(AddressedService { service: service.clone(), address });
    inner.services().insert(name.clone(), Arc::new(note));
    inner.site.services.sync(&inner.site).await;
    Ok(())
}

/// The address a Service has or gets; a headless one gives back what it may have had.
pub async fn service_address(inner: &Inner, service: &DesiredService) -> Result<Option<std::net::IpAddr>> {
    let key = service_key(&service.name);
    let engine = &inner.site.engine;
    let address = match service.address {
        ServiceAddress::Cluster(wanted) => Some(engine.allocate_service_address(&key, wanted).await?),
        ServiceAddress::Headless => {
            engine.release_service_address(&key).await?;
            None
        }
    };
    inner.site.passed();
    Ok(address)
}

async fn remove_service(inner: &Inner, service: &ObjectName) -> Result<()> {
    inner.site.services.remove(service);
    inner.site.services.sync(&inner.site).await;
    inner.site.engine.release_service_address(&service_key(service)).await?;
    inner.site.passed();
    ServiceNote::remove(&inner.site.engine, service).await?;
    inner.site.passed();
    inner.services().remove(service);
    Ok(())
}

async fn update_pod(
    inner: &Inner,
    stack: &StackName,
    wanted: &DesiredPod,
    containers: &[String],
) -> Result<()> {
    let Some(worker) = inner.worker(&wanted.name) else { return Ok(()) };
    let Some(report) = inner.site.reports.of(&wanted.name) else { return Ok(()) };
    let mut hashes = report.note.hashes.clone();
    for container in wanted.containers.iter().filter(|container| containers.contains(&container.name)) {
        hashes.insert(container.name.clone(), hash_of(inner, container));
    }
    let note = Arc::new(PodNote {
        uid: report.note.uid.clone(),
        stack: stack.clone(),
        pod: Arc::new(wanted.clone()),
        hashes,
        start: report.note.start,
        leaving: report.note.leaving,
    });
    note.write(&inner.site.engine).await?;
    inner.site.passed();
    worker.update(&inner.site, note);
    Ok(())
}

fn hash_of(inner: &Inner, container: &crate::reconcile::desired::DesiredContainer) -> String {
    let image = inner.site.engine.image(&container.spec.image);
    container_hash(container, image.as_ref().map_or("", |image| image.id.as_str()))
}

/// Goes on with the removal of a pod in which an earlier daemon was interrupted.
pub fn resume_removal(inner: &Arc<Inner>, pod: ObjectName, id: PodId) {
    tracing::info!(pod.name = %pod, "its removal goes on");
    spawn_remove(inner, pod, id, watch::Sender::new(Departure::Pending));
}

fn spawn_remove(inner: &Arc<Inner>, pod: ObjectName, id: PodId, departure: watch::Sender<Departure>) {
    inner.hands().begin(&pod);
    let inner = inner.clone();
    tokio::spawn(async move {
        let removed = remove_pod(&inner, &pod, &id).await;
        departure.send_replace(if removed.is_ok() { Departure::Gone } else { Departure::Failed });
        finish(&inner, &pod, removed);
    });
}

fn spawn_create(
    inner: &Arc<Inner>,
    stack: StackName,
    wanted: DesiredPod,
    old: Option<(PodId, watch::Sender<Departure>)>,
    after: Vec<watch::Receiver<Departure>>,
) {
    let pod = wanted.name.clone();
    inner.hands().begin(&pod);
    let inner = inner.clone();
    tokio::spawn(async move {
        if let Some((id, departure)) = old {
            let removed = remove_pod(&inner, &pod, &id).await;
            departure.send_replace(if removed.is_ok() { Departure::Gone } else { Departure::Failed });
            if removed.is_err() {
                return finish(&inner, &pod, removed);
            }
        }
        for mut departure in after {
            let gone = departure.wait_for(|departure| *departure != Departure::Pending).await;
            if !gone.is_ok_and(|departure| *departure == Departure::Gone) {
                // What it needs is still taken; the next pass says so.
                return finish(&inner, &pod, Ok(()));
            }
        }
        let created = create_pod(&inner, stack, wanted).await.map_err(|error| error.chain());
        finish(&inner, &pod, created);
    });
}

fn finish(inner: &Inner, pod: &ObjectName, result: Result<(), String>) {
    if let Err(message) = &result {
        tracing::error!(pod.name = %pod, "{message}");
    }
    inner.hands().end(pod, result, Instant::now());
    inner.wake();
}

async fn remove_pod(inner: &Inner, pod: &ObjectName, id: &PodId) -> Result<(), String> {
    match inner.worker(pod) {
        Some(worker) => {
            worker.remove().await.map_err(|failure| failure.message)?;
            inner.workers().remove(pod);
            Ok(())
        }
        // No note, no worker: nothing says how to stop it, so its containers' own settings do.
        None => {
            let options = RemoveOptions { force: true, volumes: true, stop_timeout_secs: None };
            let removed = inner.site.engine.remove_pod(&NameOrId::from(id), options).await;
            inner.site.passed();
            match removed {
                Ok(()) => Ok(()),
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                Err(error) => Err(error.chain()),
            }
        }
    }
}

/// The note first, then the pod, then the worker that does the rest.
async fn create_pod(inner: &Arc<Inner>, stack: StackName, wanted: DesiredPod) -> Result<()> {
    let uid = new_uid();
    let hashes = wanted
        .all_containers()
        .map(|container| (container.name.clone(), hash_of(inner, container)))
        .collect();
    let start = inner.played_start(&stack);
    let mut sandbox = wanted.sandbox.clone();
    sandbox.created_by = CreatedBy::Reconciler;
    for (name, value) in [
        (label::POD_NAME, wanted.name.name.clone()),
        (label::POD_NAMESPACE, wanted.name.namespace.clone()),
        (label::POD_UID, uid.clone()),
        (label::STACK, stack.to_string()),
        (label::OBJECT, format!("{}/{}", wanted.owner.kind, wanted.owner.object.name)),
    ] {
        sandbox.labels.insert(name.to_owned(), value);
    }
    let source = serde_json::to_string(&stack).expect("a stack's name is plain data");
    sandbox.annotations.insert(label::STACK.to_owned(), source);
    let note = Arc::new(PodNote { uid, stack, pod: Arc::new(wanted), hashes, start, leaving: false });
    note.write(&inner.site.engine).await?;
    inner.site.passed();
    let created = inner.site.engine.create_pod(sandbox).await;
    inner.site.passed();
    let record = match created {
        Ok(record) => record,
        Err(error) => {
            if let Err(error) = PodNote::remove(&inner.site.engine, &note.uid).await {
                tracing::warn!(pod.name = %note.pod.name, "drop the pod's note: {}", error.chain());
            }
            return Err(error);
        }
    };
    let name = note.pod.name.clone();
    let worker = WorkerHandle::spawn(inner.site.clone(), record.id.clone(), note);
    inner.workers().insert(name, Arc::new(worker));
    Ok(())
}

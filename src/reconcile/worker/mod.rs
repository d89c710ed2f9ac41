//! Pod workers: one task per pod, which looks at it, asks the machine what it needs, and starts those
//! effects; then it sleeps until an effect ends, the engine tells of one of its containers, or a timer
//! the machine asked for. Each look is at the engine anew: a lost or doubled message changes nothing.
//!
//! Tasks: one per pod, and one for each effect under way.

pub mod effects;
pub mod machine;
pub mod probes;
pub mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::engine::Engine;
use crate::engine::container::spec::{CreatedBy, NetworkMode};
use crate::engine::container::state::ContainerState;
use crate::engine::id::{ContainerId, NameOrId, PodId};
use crate::reconcile::desired::ObjectName;
use crate::reconcile::probe;
use crate::reconcile::records::{PodNote, RunState, label};
use crate::reconcile::services::Services;
use crate::reconcile::volumes::Prepared;

use effects::{Failure, PodAt, Run};
use machine::{Busy, Decision, Fault, Look, Memory, Observed, Seen, SeenState, Step, decide};
use probes::ProbeKind;
use report::{PodReport, Scene};

/// How long the daemon waits for effects under way when it ends.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(2);

/// What all workers share.
pub struct Site {
    pub engine: Engine,
    /// Bounds how many containers are made and started at the same time.
    pub launches: Semaphore,
    pub reports: Reports,
    pub services: Services,
    /// The host's own address: `status.hostIP`.
    pub host_address: IpAddr,
}

impl Site {
    /// A point at which a crash test ends the daemon: after every effect.
    pub fn passed(&self) {
        crate::engine::failpoint::pass("reconcile");
    }
}

/// The latest word of each pod's worker.
pub struct Reports {
    by_pod: Mutex<BTreeMap<ObjectName, Arc<PodReport>>>,
    changes: watch::Sender<u64>,
}

impl Default for Reports {
    fn default() -> Self {
        Self { by_pod: Mutex::default(), changes: watch::Sender::new(0) }
    }
}

impl Reports {
    pub fn all(&self) -> BTreeMap<ObjectName, Arc<PodReport>> {
        self.by_pod.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn of(&self, pod: &ObjectName) -> Option<Arc<PodReport>> {
        self.by_pod.lock().unwrap_or_else(PoisonError::into_inner).get(pod).cloned()
    }

    /// Bumped with every change of any report.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn publish(&self, report: PodReport) {
        let name = report.note.pod.name.clone();
        let mut by_pod = self.by_pod.lock().unwrap_or_else(PoisonError::into_inner);
        let same = by_pod.get(&name).is_some_and(|known| {
            known.status == report.status
                && known.launched == report.launched
                && Arc::ptr_eq(&known.note, &report.note)
        });
        by_pod.insert(name, Arc::new(report));
        drop(by_pod);
        if !same {
            self.changes.send_modify(|count| *count += 1);
        }
    }

    /// What a pod shall be has changed; its worker comes to it in a moment.
    fn renote(&self, note: &Arc<PodNote>) {
        let mut by_pod = self.by_pod.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(report) = by_pod.get_mut(&note.pod.name) {
            let mut changed = (**report).clone();
            changed.note = note.clone();
            changed.launched = false;
            *report = Arc::new(changed);
        }
    }

    pub fn forget(&self, pod: &ObjectName, id: &PodId) {
        let mut by_pod = self.by_pod.lock().unwrap_or_else(PoisonError::into_inner);
        if by_pod.get(pod).is_some_and(|known| known.id == *id) {
            by_pod.remove(pod);
        }
        drop(by_pod);
        self.changes.send_modify(|count| *count += 1);
    }
}

enum Message {
    /// Something about the pod may have changed.
    Wake,
    Update(Arc<PodNote>),
    Done(Effect),
    Remove(oneshot::Sender<Result<(), Failure>>),
    Shutdown,
}

/// How an effect ended.
enum Effect {
    Sandbox(Result<(RunState, BTreeMap<String, Prepared>), Failure>),
    Launched { container: String, result: Result<Option<Arc<BTreeMap<String, Prepared>>>, Failure> },
    Stopped { container: String, result: Result<(), Failure> },
    Probed { container: String, run: ContainerId, kind: ProbeKind, answer: Result<(), String> },
    Dropped(Result<(), Failure>),
}

/// The loop's hold on one worker.
pub struct WorkerHandle {
    messages: mpsc::UnboundedSender<Message>,
}

impl WorkerHandle {
    pub fn spawn(site: Arc<Site>, id: PodId, note: Arc<PodNote>) -> Self {
        let (messages, inbox) = mpsc::unbounded_channel();
        let run_state = RunState::read(&site.engine.config().run_root, &id);
        let memory = Memory { leaving: note.leaving, ..Memory::default() };
        let mut worker = Worker {
            at: PodAt { site, id, note, leaving: CancellationToken::new() },
            memory,
            run_state,
            prepared: None,
            effects: JoinSet::new(),
            outbox: messages.clone(),
            inbox,
        };
        // Known from now on, not from when the task first runs: a pod without a word is taken for lost.
        worker.introduce();
        tokio::spawn(worker.run());
        Self { messages }
    }

    pub fn wake(&self) {
        let _ = self.messages.send(Message::Wake);
    }

    pub fn update(&self, site: &Site, note: Arc<PodNote>) {
        site.reports.renote(&note);
        let _ = self.messages.send(Message::Update(note));
    }

    /// Stops the pod gracefully and removes it. After an error the worker goes on trying nothing but
    /// this, when it is asked again.
    pub async fn remove(&self) -> Result<(), Failure> {
        let (answer, answered) = oneshot::channel();
        let _ = self.messages.send(Message::Remove(answer));
        // A worker that has ended has removed its pod.
        answered.await.unwrap_or(Ok(()))
    }

    /// Ends the worker; its pod runs on.
    pub async fn shutdown(&self) {
        let _ = self.messages.send(Message::Shutdown);
        let _ = tokio::time::timeout(2 * SHUTDOWN_PATIENCE, self.messages.closed()).await;
    }
}

struct Worker {
    at: PodAt,
    memory: Memory,
    run_state: RunState,
    /// Volumes, once they are known to be there.
    prepared: Option<Arc<BTreeMap<String, Prepared>>>,
    effects: JoinSet<()>,
    outbox: mpsc::UnboundedSender<Message>,
    inbox: mpsc::UnboundedReceiver<Message>,
}

impl Worker {
    async fn run(mut self) {
        loop {
            let wake_at = match self.memory.leaving {
                true => None,
                false => self.look(),
            };
            while self.effects.try_join_next().is_some() {}
            let message = match wake_at {
                Some(at) => {
                    tokio::time::timeout_at(at, self.inbox.recv()).await.unwrap_or(Some(Message::Wake))
                }
                None => self.inbox.recv().await,
            };
            let mut next = message;
            while let Some(message) = next {
                match message {
                    Message::Wake => {}
                    Message::Update(note) => self.at.note = note,
                    Message::Done(effect) => self.take(effect),
                    Message::Remove(answer) => {
                        let removed = self.remove().await;
                        let gone = removed.is_ok();
                        let _ = answer.send(removed);
                        if gone {
                            return;
                        }
                    }
                    Message::Shutdown => {
                        // A launch is let come to its end; what takes longer is cut off, as by a crash.
                        self.at.leaving.cancel();
                        let ended = async { while self.effects.join_next().await.is_some() {} };
                        let _ = tokio::time::timeout(SHUTDOWN_PATIENCE, ended).await;
                        return;
                    }
                }
                next = self.inbox.try_recv().ok();
            }
        }
    }

    /// Says how things are without doing anything about it.
    fn introduce(&mut self) {
        let (seen, images, network) = self.observe();
        let decision = self.decide(&seen);
        self.tell(&seen, &decision, network.as_ref(), &images);
    }

    fn decide(&mut self, seen: &Observed) -> Decision {
        let note = self.at.note.clone();
        let look = Look {
            pod: &note.pod,
            hashes: &note.hashes,
            seen,
            start: note.start,
            now: Instant::now(),
            wall: Timestamp::now(),
        };
        self.memory.update(&look, &self.run_state);
        decide(&look, &self.memory)
    }

    /// Looks, decides, tells, acts; returns when to look again at the latest.
    fn look(&mut self) -> Option<Instant> {
        let (seen, images, network) = self.observe();
        if !self.at.note.start && seen.containers.values().any(|seen| !matches!(seen.state, SeenState::New)) {
            // Someone has started it: from now on it is looked after as any other.
            let note = PodNote { start: true, ..(*self.at.note).clone() };
            self.at.note = Arc::new(note);
            let (engine, note) = (self.at.site.engine.clone(), self.at.note.clone());
            self.effects.spawn(async move {
                if let Err(error) = note.write(&engine).await {
                    tracing::warn!(pod.name = %note.pod.name, "note that the pod was started: {}", error.chain());
                }
            });
        }
        let decision = self.decide(&seen);
        self.keep_run_state(&seen);
        self.act(&decision, &seen);
        self.tell(&seen, &decision, network.as_ref(), &images);
        decision.wake_at
    }

    fn observe(&self) -> (Observed, BTreeMap<String, String>, Option<crate::engine::network::NetworkStatus>) {
        let engine = &self.at.site.engine;
        let mut observed =
            Observed { sandbox: None, created_at: Timestamp::now(), containers: BTreeMap::new() };
        let mut images = BTreeMap::new();
        let Some(record) = self.at.record() else { return (observed, images, None) };
        observed.created_at = record.created_at;
        for id in &record.containers {
            let Ok(container) = engine.container(&NameOrId::from(id)) else { continue };
            let labels = container.labels();
            let text = |name: &str| labels.get(name).cloned().unwrap_or_default();
            if container.spec.created_by != CreatedBy::Reconciler || text(label::POD_UID) != self.at.note.uid
            {
                continue;
            }
            let state = match &container.state {
                ContainerState::Configured | ContainerState::Created(_) => SeenState::New,
                ContainerState::Running(process) | ContainerState::Paused(process) => {
                    SeenState::Running { started_at: process.started_at }
                }
                ContainerState::Stopping(_) => SeenState::Stopping,
                ContainerState::Exited(exit) => SeenState::Exited(exit.clone()),
                ContainerState::Removing => SeenState::Removing,
            };
            let seen = Seen {
                id: container.id.clone(),
                hash: text(label::CONTAINER_HASH),
                sandbox: text(label::SANDBOX),
                restarts: text(label::RESTART_COUNT).parse().unwrap_or(0),
                streak: text(label::STREAK).parse().unwrap_or(0),
                was_stopped: container.stopped_by_user,
                state,
            };
            let name = text(label::CONTAINER_NAME);
            if let Some(image) = &container.image_id {
                images.insert(name.clone(), image.to_string());
            }
            observed.containers.insert(name, seen);
        }
        let needs_network = matches!(record.spec.network, NetworkMode::Bridge(_));
        let stands = !needs_network || record.network.is_some();
        // A running container vouches for the sandbox it is in, should the run state have been lost.
        let running = || {
            observed.containers.values().find_map(|seen| match seen.state {
                SeenState::Running { .. } | SeenState::Stopping => Some(seen.sandbox.clone()),
                SeenState::New | SeenState::Exited(_) | SeenState::Removing => None,
            })
        };
        observed.sandbox = self.run_state.sandbox.clone().or_else(running).filter(|_| stands);
        (observed, images, record.network.clone())
    }

    /// Which runs have started up and are ready, for the daemon that may come after this one.
    fn keep_run_state(&mut self, observed: &Observed) {
        let mut started = BTreeSet::new();
        let mut ready = BTreeSet::new();
        for container in self.at.note.pod.all_containers() {
            let Some(seen) = observed.containers.get(&container.name) else { continue };
            if container.startup_probe.is_some() && self.memory.is_started(container, observed) {
                started.insert(seen.id.clone());
            }
            if container.readiness_probe.is_some() && self.memory.is_ready(container, observed) {
                ready.insert(seen.id.clone());
            }
        }
        if observed.sandbox.is_none() || (started == self.run_state.started && ready == self.run_state.ready)
        {
            return;
        }
        self.run_state = RunState { sandbox: observed.sandbox.clone(), started, ready };
        self.write_run_state();
    }

    fn write_run_state(&self) {
        let run_root = &self.at.site.engine.config().run_root;
        if let Err(error) = self.run_state.write(run_root, &self.at.id) {
            tracing::warn!(pod.name = %self.at.pod().name, "write the pod's run state: {error}");
        }
    }

    fn tell(
        &self,
        seen: &Observed,
        decision: &Decision,
        network: Option<&crate::engine::network::NetworkStatus>,
        images: &BTreeMap<String, String>,
    ) {
        let scene = Scene {
            note: &self.at.note,
            id: &self.at.id,
            seen,
            memory: &self.memory,
            decision,
            network,
            host_address: self.at.site.host_address,
            images,
            now: Instant::now(),
        };
        self.at.site.reports.publish(scene.report());
    }

    fn act(&mut self, decision: &Decision, seen: &Observed) {
        for step in &decision.steps {
            match step {
                Step::MakeSandbox => {
                    self.memory.sandbox_busy = true;
                    self.spawn(|at| async move { Effect::Sandbox(at.make_sandbox().await) });
                }
                Step::Launch { container, restarts, streak } => {
                    let Some(sandbox) = seen.sandbox.clone() else { continue };
                    self.set_busy(container, Some(Busy::Launching));
                    let run = Run {
                        container: container.clone(),
                        sandbox,
                        restarts: *restarts,
                        streak: *streak,
                        start: self.at.note.start,
                    };
                    let prepared = self.prepared.clone();
                    self.spawn(|at| async move {
                        let result = at.launch(&run, prepared).await;
                        Effect::Launched { container: run.container, result }
                    });
                }
                Step::Stop { container, reason, grace_secs } => {
                    tracing::info!(pod.name = %self.at.pod().name, container, ?reason, "stopping a container");
                    self.set_busy(container, Some(Busy::Stopping));
                    self.memory.tracks.entry(container.clone()).or_default().stopped = true;
                    let (container, grace_secs) = (container.clone(), *grace_secs);
                    self.spawn(move |at| async move {
                        let result = at.stop(&container, grace_secs).await;
                        Effect::Stopped { container, result }
                    });
                }
                Step::Probe { container, kind } => self.probe(container, *kind, seen),
                Step::DropSandbox => {
                    self.memory.sandbox_busy = true;
                    self.spawn(|at| async move { Effect::Dropped(at.drop_sandbox().await) });
                }
            }
        }
    }

    fn probe(&mut self, container: &str, kind: ProbeKind, seen: &Observed) {
        let note = self.at.note.clone();
        let desired = note.pod.all_containers().find(|known| known.name == container);
        let probe = desired.and_then(|desired| machine::probes_of(desired).find(|(known, _)| *known == kind));
        let (Some((_, probe)), Some(seen)) = (probe, seen.containers.get(container)) else { return };
        let track = self.memory.tracks.get_mut(container).and_then(|track| track.probes.get_mut(&kind));
        let Some(track) = track else { return };
        track.begin();
        let timeout = Duration::from_secs(probe.timeout_secs.max(1).into());
        let (action, run, container) = (probe.action.clone(), seen.id.clone(), container.to_owned());
        self.spawn(move |at| async move {
            let target = at.target(run.clone());
            let answer = probe::probe(&at.site.engine, &target, &action, timeout).await;
            Effect::Probed { container, run, kind, answer }
        });
    }

    fn spawn<F>(&mut self, effect: impl FnOnce(PodAt) -> F)
    where
        F: Future<Output = Effect> + Send + 'static,
    {
        let outbox = self.outbox.clone();
        let effect = effect(self.at.clone());
        self.effects.spawn(async move {
            let _ = outbox.send(Message::Done(effect.await));
        });
    }

    fn set_busy(&mut self, container: &str, busy: Option<Busy>) {
        self.memory.tracks.entry(container.to_owned()).or_default().busy = busy;
    }

    fn take(&mut self, effect: Effect) {
        let now = Instant::now();
        let pod = self.at.note.pod.clone();
        match effect {
            Effect::Sandbox(Ok((run_state, prepared))) => {
                self.memory.sandbox_busy = false;
                self.memory.sandbox_fault = None;
                self.run_state = run_state;
                self.prepared = Some(Arc::new(prepared));
            }
            Effect::Sandbox(Err(failure)) => {
                self.memory.sandbox_busy = false;
                tracing::warn!(pod.name = %pod.name, "{}: {}", failure.reason, failure.message);
                let before = self.memory.sandbox_fault.take();
                self.memory.sandbox_fault =
                    Some(Fault::after(before.as_ref(), failure.reason, failure.message, now));
            }
            Effect::Launched { container, result } => {
                self.set_busy(&container, None);
                match result {
                    Ok(prepared) => {
                        self.prepared = prepared;
                        if let Some(track) = self.memory.tracks.get_mut(&container) {
                            track.fault = None;
                        }
                    }
                    Err(failure) => {
                        tracing::warn!(
                            pod.name = %pod.name, container, "{}: {}", failure.reason, failure.message
                        );
                        self.memory.failed(&container, failure.reason, failure.message, now);
                    }
                }
            }
            Effect::Stopped { container, result } => {
                self.set_busy(&container, None);
                if let Err(failure) = result {
                    tracing::warn!(pod.name = %pod.name, container, "{}: {}", failure.reason, failure.message);
                    self.memory.failed(&container, failure.reason, failure.message, now);
                }
            }
            Effect::Probed { container, run, kind, answer } => {
                let Some(desired) = pod.all_containers().find(|known| known.name == container) else {
                    return;
                };
                if let Err(message) = &answer {
                    tracing::debug!(pod.name = %pod.name, container, "{} probe: {message}", kind.as_str());
                }
                self.memory.probed(desired, &run, kind, answer, now);
            }
            Effect::Dropped(result) => {
                self.memory.sandbox_busy = false;
                match result {
                    Ok(()) => self.run_state = RunState::default(),
                    Err(failure) => {
                        tracing::warn!(pod.name = %pod.name, "{}: {}", failure.reason, failure.message);
                    }
                }
            }
        }
    }

    async fn remove(&mut self) -> Result<(), Failure> {
        self.memory.leaving = true;
        self.at.leaving.cancel();
        self.introduce();
        // Out of its Services before it stops.
        self.at.site.services.sync(&self.at.site).await;
        while self.effects.join_next().await.is_some() {}
        if !self.at.note.leaving {
            let note = PodNote { leaving: true, ..(*self.at.note).clone() };
            let written = note.write(&self.at.site.engine).await;
            self.at.site.passed();
            written.map_err(|error| Failure::new("FailedKillPod", error.chain()))?;
            self.at.note = Arc::new(note);
        }
        self.at.remove().await?;
        self.at.site.reports.forget(&self.at.pod().name, &self.at.id);
        Ok(())
    }
}

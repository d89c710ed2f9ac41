//! The reconciler: makes the machine match a directory of Kubernetes YAML and keeps it so.
//!
//! `source -> documents -> desired (pure); engine -> actual; plan(desired, actual) (pure) -> apply -> status`.
//!
//! | file | what |
//! |---|---|
//! | `manifest/`, `desired.rs` | what is written |
//! | `actual.rs`, `observe.rs` | what is there; reading it off the engine |
//! | `plan.rs`, `claim.rs`, `action.rs` | the decision (pure), what two objects can not both have, the vocabulary |
//! | `apply.rs`, `fetch.rs` | carrying out; images in the background |
//! | `worker/` | one task per pod: restarts, probes, hooks; `machine.rs` decides (pure) |
//! | `probe.rs`, `volumes.rs`, `services.rs` | one check of a container; files and mounts; endpoints |
//! | `played.rs`, `records.rs` | manifests that came over the API; what is kept where |
//! | `watch.rs`, `backoff.rs`, `status.rs` | directory -> number; when to try again (pure); what an operator can ask |
//!
//! It is level triggered: file events, engine events and timers only say that it is time to look again.
//! It owns the engine objects that it has made, by their labels and notes, and touches no other. It does
//! not run containers, pull layers or write rules: the engine does.
//!
//! Tasks: the loop (here, with the module's only `select!`), the directory's watch, one that keeps
//! Services' endpoints, one per pod, one per action and fetch under way.

pub mod action;
pub mod actual;
mod apply;
mod archives;
pub mod backoff;
mod claim;
pub mod desired;
mod fetch;
pub mod generate;
pub mod manifest;
mod observe;
pub mod plan;
mod played;
mod probe;
mod records;
mod report;
mod services;
pub mod status;
mod volumes;
mod watch;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Semaphore, mpsc, watch as channel};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::engine::Engine;
use crate::engine::error::{EngineError, ErrorKind, Result, Subject};
use crate::engine::event::{Event, EventAction, EventKind};
use crate::engine::id::{NameOrId, PodId};

use action::{Action, Gate, Plan};
use apply::Hands;
use backoff::ACTION;
use desired::{DesiredState, ObjectName, SourceName, StackName};
use fetch::Fetcher;
use manifest::SourceFiles;
use records::{PlayedNote, PodNote, ServiceNote, label};
use services::{AddressedService, Services};
use status::StatusReport;
use volumes::VolumeDirs;
use watch::DirectoryWatch;
use worker::{Reports, Site, WorkerHandle};

/// Passes that nobody waits for follow each other no closer than this.
const BREATH: Duration = Duration::from_millis(20);

/// When nothing moves for so long, `apply` answers with how far things are.
const PATIENCE: Duration = Duration::from_secs(120);

/// A handle on the running reconciler. Cheap to clone.
#[derive(Clone)]
pub struct Reconciler {
    inner: Arc<Inner>,
    tasks: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

/// How this reconciler works.
#[derive(Debug, Clone)]
pub struct ReconcilerOptions {
    /// Containers that are made and started at the same time.
    pub launches: usize,
    /// Images that are fetched from one registry at the same time.
    pub fetches: usize,
    /// What `spec.nodeName` of the downward API says.
    pub node_name: String,
}

impl Default for ReconcilerOptions {
    fn default() -> Self {
        Self { launches: 16, fetches: 4, node_name: "localhost".to_owned() }
    }
}

/// How manifests are played over the API.
#[derive(Debug, Clone)]
pub struct PlayRequest {
    pub yaml: String,
    /// `false`: create, do not start.
    pub start: bool,
    /// Remove pods of the same names first. Without it they are a conflict.
    pub replace: bool,
    /// Networks to join instead of the default.
    pub networks: Vec<String>,
    pub log_driver: Option<String>,
    pub tls_verify: Option<bool>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct PlayOutcome {
    pub pods: Vec<PlayedPod>,
    /// Names of volumes that were created.
    pub volumes: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct PlayedPod {
    pub id: PodId,
    pub containers: Vec<String>,
    pub init_containers: Vec<String>,
    /// Containers that did not start, and why.
    pub container_errors: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct DownOutcome {
    /// Pods stopped and removed, with the error if one failed.
    pub pods: Vec<(PodId, Option<String>)>,
}

/// What the loop, the actions and the callers share. Each lock is held for a moment, never across an
/// await; `playing` alone keeps two callers from changing the played manifests at once.
struct Inner {
    site: Arc<Site>,
    fetcher: Arc<Fetcher>,
    context: manifest::Context,
    directory: Option<PathBuf>,
    workers: Mutex<BTreeMap<ObjectName, Arc<WorkerHandle>>>,
    hands: Mutex<Hands>,
    services: Mutex<BTreeMap<ObjectName, Arc<ServiceNote>>>,
    played: Mutex<BTreeMap<String, PlayedNote>>,
    playing: tokio::sync::Mutex<()>,
    picture: Mutex<Picture>,
    orders: mpsc::UnboundedSender<Order>,
    /// Bumped when a pass has ended or a pod has changed.
    progress: channel::Sender<u64>,
    ended: CancellationToken,
}

/// What the last pass saw and decided, for those who ask.
#[derive(Debug, Clone, Default)]
struct Picture {
    desired: Arc<DesiredState>,
    plan: Arc<Plan>,
    last_pass: Option<Timestamp>,
    /// Store actions that failed, to be tried again.
    stack_failures: BTreeMap<StackName, StackFailure>,
    /// What someone else did to a pod of ours, and that it was repaired.
    repairs: BTreeMap<ObjectName, String>,
    /// Image archives that could not be loaded.
    warnings: Vec<String>,
    /// How many times the sources were read.
    readings: u64,
}

#[derive(Debug, Clone)]
struct StackFailure {
    message: String,
    failures: u32,
    retry_at: Instant,
}

/// What the loop is told besides events.
enum Order {
    /// An action has ended.
    Look,
    /// The sources may have changed.
    Reload,
    /// One more directory, to be looked at until the answer's receiver is gone.
    Also(PathBuf),
    NoLonger(PathBuf),
}

impl Reconciler {
    /// `directory`: the watched one (`selkie up DIR`); `None`: played manifests only.
    pub async fn spawn(
        engine: Engine,
        directory: Option<PathBuf>,
        options: ReconcilerOptions,
    ) -> Result<Self, EngineError> {
        let directory = directory.map(|directory| absolute(&directory)).transpose()?;
        let (orders, inbox) = mpsc::unbounded_channel();
        let site = Arc::new(Site {
            engine: engine.clone(),
            launches: Semaphore::new(options.launches.max(1)),
            reports: Reports::default(),
            services: Services::default(),
            host_address: host_address(),
        });
        let inner = Arc::new(Inner {
            fetcher: Arc::new(Fetcher::new(engine.clone(), options.fetches.max(1))),
            context: manifest::Context {
                node_name: options.node_name,
                memory_bytes: memory_bytes(),
                cpus: std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32),
                seccomp_profile_root: PathBuf::from("/var/lib/kubelet/seccomp"),
            },
            directory: directory.clone(),
            workers: Mutex::default(),
            hands: Mutex::default(),
            services: Mutex::default(),
            played: Mutex::new(PlayedNote::all(&engine)),
            playing: tokio::sync::Mutex::default(),
            picture: Mutex::default(),
            orders,
            progress: channel::Sender::new(0),
            ended: CancellationToken::new(),
            site,
        });
        let events = engine.subscribe();
        inner.adopt().await?;
        let watch = directory.map(DirectoryWatch::spawn);
        let endpoints = tokio::spawn(keep_endpoints(inner.clone()));
        let the_loop = tokio::spawn(Loop::new(inner.clone(), watch).run(inbox, events));
        Ok(Self { inner, tasks: Arc::new(Mutex::new(vec![the_loop, endpoints])) })
    }

    /// Keeps the manifests and runs them; returns when their containers have been started.
    pub async fn play(&self, request: PlayRequest) -> Result<PlayOutcome, EngineError> {
        self.inner.play_manifest(request).await
    }

    /// Forgets the manifests and removes their pods. Their volumes go only with `force`.
    pub async fn down(&self, yaml: String, force: bool) -> Result<DownOutcome, EngineError> {
        self.inner.down_manifest(&yaml, force).await
    }

    /// Kubernetes YAML of running containers and pods, that `play` accepts. Our own pods are written from
    /// what they were made from.
    pub fn generate(&self, names: &[NameOrId], service: bool) -> Result<String, EngineError> {
        let reports = self.inner.site.reports.all();
        generate::generate(&self.inner.site.engine, names, service, &|wanted| {
            let report = reports.values().find(|report| report.note.pod.sandbox.name == *wanted)?;
            Some((*report.note.pod).clone())
        })
    }

    /// What was asked for and how far it is. Answered from memory.
    pub fn status(&self) -> StatusReport {
        report::status(&self.inner)
    }

    /// What one pass over `directory` (default: the watched one) would do.
    pub async fn plan(&self, directory: Option<PathBuf>) -> Result<Plan, EngineError> {
        let directory = self.inner.directory_or_watched(directory)?;
        let watched = self.inner.directory.as_ref() == Some(&directory);
        let files = read(directory).await?;
        let sources = match watched {
            true => vec![files, played::source(&self.inner.played())],
            false => vec![files],
        };
        let desired = self.inner.desired_from(&sources);
        Ok(self.inner.plan(&desired))
    }

    /// One pass over `directory` (default: the watched one), carried out.
    pub async fn apply(&self, directory: Option<PathBuf>) -> Result<StatusReport, EngineError> {
        let directory = self.inner.directory_or_watched(directory)?;
        let watched = self.inner.directory.as_ref() == Some(&directory);
        let now = Instant::now();
        self.inner.fetcher.forgive(now);
        self.inner.hands().forgive(now);
        let readings = self.inner.picture().readings;
        self.inner.order(match watched {
            true => Order::Reload,
            false => Order::Also(directory.clone()),
        });
        let source = SourceName::Directory(directory.clone());
        self.inner.wait_settled(&source, readings).await;
        let status = self.status();
        if !watched {
            self.inner.order(Order::NoLonger(directory));
        }
        Ok(status)
    }

    /// Ends the loop and the pod workers. Containers run on.
    pub async fn shutdown(&self) {
        self.inner.ended.cancel();
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for task in tasks {
            let _ = task.await;
        }
        let workers = std::mem::take(&mut *self.inner.workers());
        futures_util::future::join_all(workers.values().map(|worker| worker.shutdown())).await;
    }
}

impl Inner {
    fn workers(&self) -> MutexGuard<'_, BTreeMap<ObjectName, Arc<WorkerHandle>>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn worker(&self, pod: &ObjectName) -> Option<Arc<WorkerHandle>> {
        self.workers().get(pod).cloned()
    }

    fn hands(&self) -> MutexGuard<'_, Hands> {
        self.hands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn services(&self) -> MutexGuard<'_, BTreeMap<ObjectName, Arc<ServiceNote>>> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn played(&self) -> MutexGuard<'_, BTreeMap<String, PlayedNote>> {
        self.played.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn picture(&self) -> MutexGuard<'_, Picture> {
        self.picture.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn order(&self, order: Order) {
        let _ = self.orders.send(order);
    }

    fn wake(&self) {
        self.order(Order::Look);
    }

    fn reload(&self) {
        self.order(Order::Reload);
    }

    fn moved(&self) {
        self.progress.send_modify(|count| *count += 1);
    }

    fn directory_or_watched(&self, directory: Option<PathBuf>) -> Result<PathBuf> {
        match (directory, &self.directory) {
            (Some(directory), _) => absolute(&directory),
            (None, Some(watched)) => Ok(watched.clone()),
            (None, None) => {
                let message = "this daemon watches no directory: name one";
                Err(EngineError::new(ErrorKind::InvalidArgument, Subject::Engine, message))
            }
        }
    }

    fn played_note(&self, stack: &StackName) -> Option<PlayedNote> {
        match stack.source {
            SourceName::Played => self.played().get(&stack.name).cloned(),
            SourceName::Directory(_) => None,
        }
    }

    fn played_tls_verify(&self, stack: &StackName) -> Option<bool> {
        self.played_note(stack).and_then(|note| note.tls_verify)
    }

    fn played_start(&self, stack: &StackName) -> bool {
        self.played_note(stack).is_none_or(|note| note.start)
    }

    fn stack_failed(&self, stack: &StackName, message: String) {
        let mut picture = self.picture();
        let failures = picture.stack_failures.get(stack).map_or(0, |failure| failure.failures) + 1;
        let retry_at = Instant::now() + ACTION.delay(failures);
        picture.stack_failures.insert(stack.clone(), StackFailure { message, failures, retry_at });
    }

    fn desired_from(&self, sources: &[SourceFiles]) -> DesiredState {
        let mut desired = manifest::desired_from(sources, &self.context);
        played::adjust(&mut desired, &self.played());
        desired
    }

    fn plan(&self, desired: &DesiredState) -> Plan {
        let activity = self.hands().activity(Instant::now());
        let services = self.services().clone();
        let memory = observe::Memory {
            reports: &self.site.reports,
            services: &services,
            activity: &activity,
            fetcher: &self.fetcher,
        };
        let actual = observe::observe_actual(&self.site.engine, desired, &memory);
        plan::plan(desired, &actual)
    }

    /// Takes up what an earlier daemon has left: its pods get their workers, its Services their
    /// endpoints, and what a crash left of pods that are no more is cleared away.
    async fn adopt(self: &Arc<Self>) -> Result<()> {
        let engine = &self.site.engine;
        let mut notes = PodNote::all(engine);
        for pod in engine.pods().into_iter().filter(|pod| observe::is_ours(pod)) {
            let uid = pod.spec.labels.get(label::POD_UID).cloned().unwrap_or_default();
            let Some(note) = notes.remove(&uid) else {
                tracing::warn!(pod.name = %pod.spec.name, "nothing says what this pod was made from");
                continue;
            };
            let (name, leaving) = (note.pod.name.clone(), note.leaving);
            let worker = WorkerHandle::spawn(self.site.clone(), pod.id.clone(), Arc::new(note));
            self.workers().insert(name.clone(), Arc::new(worker));
            if leaving {
                apply::resume_removal(self, name, pod.id.clone());
            }
        }
        for uid in notes.into_keys() {
            PodNote::remove(engine, &uid).await?;
        }
        self.clear_leftovers().await;
        for (name, note) in ServiceNote::all(engine) {
            match apply::service_address(self, &note.service).await {
                Ok(address) => {
                    self.site.services.put(AddressedService { service: note.service.clone(), address });
                }
                Err(error) => tracing::error!("service {name}: {}", error.chain()),
            }
            self.services().insert(name, Arc::new(note));
        }
        Ok(())
    }

    /// Volume directories of pods that are no more.
    async fn clear_leftovers(&self) {
        let config = self.site.engine.config();
        let (root, run_root) = (config.root.clone(), config.run_root.clone());
        let alive: BTreeSet<String> =
            self.site.reports.all().values().map(|report| report.note.uid.clone()).collect();
        let cleared = tokio::task::spawn_blocking(move || {
            for uid in VolumeDirs::known_uids(&root, &run_root) {
                if !alive.contains(&uid)
                    && let Err(error) = VolumeDirs::new(&root, &run_root, &uid).remove()
                {
                    tracing::warn!("remove the volumes of pod {uid}, which is gone: {error}");
                }
            }
        });
        let _ = cleared.await;
    }

    /// Returns when what came from `source` is done, or waits for something that time alone brings.
    async fn wait_settled(&self, source: &SourceName, readings: u64) {
        let mut progress = self.progress.subscribe();
        loop {
            progress.borrow_and_update();
            let picture = self.picture().clone();
            let read = picture.readings > readings && picture.desired.sources.contains_key(source);
            if read && self.is_settled(&picture, source) {
                return;
            }
            if tokio::time::timeout(PATIENCE, progress.changed()).await.is_err() {
                return;
            }
        }
    }

    fn is_settled(&self, picture: &Picture, source: &SourceName) -> bool {
        let waits = |gate: &Option<Gate>| match gate {
            None => true,
            Some(Gate::Images { .. } | Gate::InFlight | Gate::Rolling { .. }) => true,
            Some(Gate::ImageFailed { .. } | Gate::BackOff { .. } | Gate::Taken { .. }) => false,
        };
        let of_source = |stack: &StackName| stack.source == *source;
        let acting =
            picture.plan.actions.iter().any(|planned| of_source(&planned.stack) && waits(&planned.gate));
        let failing = |stack: &StackName| picture.stack_failures.contains_key(stack);
        let acting = acting && !picture.stack_failures.keys().any(|stack| of_source(stack) && failing(stack));
        let launching = self
            .site
            .reports
            .all()
            .values()
            .any(|report| of_source(&report.note.stack) && !report.launched && !report.leaving);
        !acting && !launching && !self.hands().any_busy()
    }
}

/// Keeps Services' endpoints what the pods' readiness says, and tells those who wait that a pod changed.
async fn keep_endpoints(inner: Arc<Inner>) {
    let mut changes = inner.site.reports.changes();
    inner.site.services.sync(&inner.site).await;
    while let Some(Ok(())) = inner.ended.run_until_cancelled(changes.changed()).await {
        inner.site.services.sync(&inner.site).await;
        inner.moved();
    }
}

/// The one task that decides.
struct Loop {
    inner: Arc<Inner>,
    watch: Option<DirectoryWatch>,
    /// Directories given to `apply` while their caller waits.
    also: BTreeSet<PathBuf>,
    desired: Arc<DesiredState>,
    /// The sources are to be read before the next pass.
    stale: bool,
    readings: u64,
    warnings: Vec<String>,
    pass_at: Option<Instant>,
    last_pass: Instant,
}

impl Loop {
    fn new(inner: Arc<Inner>, watch: Option<DirectoryWatch>) -> Self {
        let now = Instant::now();
        let desired = Arc::default();
        Self {
            inner,
            watch,
            also: BTreeSet::new(),
            desired,
            stale: true,
            readings: 0,
            warnings: Vec::new(),
            pass_at: Some(now),
            last_pass: now,
        }
    }

    async fn run(
        mut self,
        mut orders: mpsc::UnboundedReceiver<Order>,
        mut events: tokio::sync::broadcast::Receiver<Event>,
    ) {
        let mut generation = self.watch.as_ref().map(DirectoryWatch::generation);
        let mut reports = self.inner.site.reports.changes();
        let mut fetches = self.inner.fetcher.changes();
        let ended = self.inner.ended.clone();
        loop {
            if self.pass_at.is_some_and(|at| at <= Instant::now()) {
                self.pass().await;
            }
            let timer = self.next_timer();
            tokio::select! {
                () = ended.cancelled() => return,
                Some(()) = changed(&mut generation) => self.reread(),
                order = orders.recv() => match order {
                    Some(Order::Look) => self.look_now(),
                    Some(Order::Reload) => self.reread(),
                    Some(Order::Also(directory)) => {
                        self.also.insert(directory);
                        self.reread();
                    }
                    Some(Order::NoLonger(directory)) => {
                        self.also.remove(&directory);
                        self.reread();
                    }
                    None => return,
                },
                event = events.recv() => match event {
                    Ok(event) => self.route(&event),
                    Err(RecvError::Lagged(missed)) => {
                        tracing::debug!(missed, "events were missed; looking at everything");
                        self.wake_all();
                        self.look_soon();
                    }
                    Err(RecvError::Closed) => return,
                },
                Ok(()) = reports.changed() => {
                    // Only replicas that are replaced one by one wait for what a pod says.
                    if !self.inner.picture().plan.actions.is_empty() {
                        self.look_soon();
                    }
                }
                Ok(()) = fetches.changed() => self.look_now(),
                () = tokio::time::sleep_until(timer.unwrap_or_else(Instant::now)), if timer.is_some() => {
                    self.look_now();
                }
            }
        }
    }

    fn look_now(&mut self) {
        self.pass_at = Some(Instant::now());
    }

    fn look_soon(&mut self) {
        let at = self.last_pass + BREATH;
        self.pass_at = Some(self.pass_at.map_or(at, |known| known.min(at)));
    }

    fn reread(&mut self) {
        self.stale = true;
        self.look_now();
    }

    fn next_timer(&self) -> Option<Instant> {
        let now = Instant::now();
        let stacks = self.inner.picture().stack_failures.values().map(|failure| failure.retry_at).min();
        let retries =
            [self.inner.hands().next_retry(now), self.inner.fetcher.next_retry(now), stacks, self.pass_at];
        retries.into_iter().flatten().min()
    }

    /// An event is a reason to look, nothing more.
    fn route(&mut self, event: &Event) {
        match event.kind {
            EventKind::Container => {
                let of_record = self
                    .inner
                    .site
                    .engine
                    .container(&NameOrId::from(event.id.as_str()))
                    .ok()
                    .and_then(|container| container.pod().cloned());
                match of_record {
                    Some(pod) => self.wake_pod(pod.as_str()),
                    None => match event.attributes.get("podId") {
                        Some(pod) => self.wake_pod(&pod.clone()),
                        None if event.action == EventAction::Remove => self.wake_all(),
                        None => {}
                    },
                }
                if matches!(event.action, EventAction::Create | EventAction::Remove) {
                    self.look_soon();
                }
            }
            EventKind::Pod => {
                self.wake_pod(&event.id.clone());
                if matches!(event.action, EventAction::Create | EventAction::Remove) {
                    self.look_soon();
                }
            }
            EventKind::Image | EventKind::Volume => self.look_soon(),
            EventKind::Network | EventKind::System => {}
        }
    }

    fn wake_pod(&self, id: &str) {
        let reports = self.inner.site.reports.all();
        let report = reports.values().find(|report| report.id.as_str() == id);
        if let Some(worker) = report.and_then(|report| self.inner.worker(&report.note.pod.name)) {
            worker.wake();
        }
    }

    fn wake_all(&self) {
        self.inner.workers().values().for_each(|worker| worker.wake());
    }

    /// Read if need be, look, decide, act.
    async fn pass(&mut self) {
        self.pass_at = None;
        if std::mem::take(&mut self.stale) {
            self.read_sources().await;
        }
        self.notice_losses().await;
        let plan = Arc::new(self.inner.plan(&self.desired));
        {
            let mut picture = self.inner.picture();
            picture.desired = self.desired.clone();
            picture.plan = plan.clone();
            picture.readings = self.readings;
            picture.warnings = self.warnings.clone();
            let now = Instant::now();
            picture.stack_failures.retain(|_, failure| failure.retry_at > now);
        }
        self.forget_fetches(&plan);
        let held: Vec<StackName> = self.inner.picture().stack_failures.keys().cloned().collect();
        let doable = match held.is_empty() {
            true => plan.clone(),
            false => Arc::new(without_stacks(&plan, &held)),
        };
        apply::apply(&self.inner, &self.desired, &doable).await;
        self.last_pass = Instant::now();
        self.inner.picture().last_pass = Some(Timestamp::now());
        self.inner.moved();
    }

    async fn read_sources(&mut self) {
        let mut sources = Vec::new();
        let mut warnings = Vec::new();
        let directories: BTreeSet<PathBuf> = self.inner.directory.iter().chain(&self.also).cloned().collect();
        for directory in directories {
            warnings.extend(archives::load(&self.inner.site.engine, &directory).await);
            match read(directory).await {
                Ok(files) => sources.push(files),
                Err(error) => {
                    tracing::error!("read the manifests: {}", error.chain());
                    return self.look_soon();
                }
            }
        }
        sources.push(played::source(&self.inner.played()));
        let inner = self.inner.clone();
        let computed = tokio::task::spawn_blocking(move || inner.desired_from(&sources)).await;
        if let Ok(desired) = computed {
            self.desired = Arc::new(desired);
        }
        self.warnings = warnings;
        self.readings += 1;
    }

    /// Pods that someone else has removed. A played one is forgotten; one of a directory is made again.
    async fn notice_losses(&mut self) {
        for (name, report) in self.inner.site.reports.all() {
            if self.inner.hands().is_busy(&name)
                || self.inner.site.engine.pod(&NameOrId::from(&report.id)).is_ok()
            {
                continue;
            }
            let stack = &report.note.stack;
            tracing::warn!(pod.name = %name, %stack, "the pod was removed by someone else");
            let worker = self.inner.workers().remove(&name);
            if let Some(worker) = worker {
                // Nothing is left to stop; this clears away what was the pod's own.
                if let Err(failure) = worker.remove().await {
                    tracing::warn!(pod.name = %name, "{}", failure.message);
                }
            }
            self.inner.site.reports.forget(&name, &report.id);
            match stack.source {
                SourceName::Played => {
                    if let Err(error) = self.inner.forget_played(&name).await {
                        tracing::error!(pod.name = %name, "forget the pod: {}", error.chain());
                    }
                    self.read_sources().await;
                }
                SourceName::Directory(_) => {
                    let repair =
                        format!("someone removed the pod at {:.0}; it was made again", Timestamp::now());
                    self.inner.picture().repairs.insert(name.clone(), repair);
                }
            }
        }
    }

    /// What no planned action needs any more is not remembered as failed or fetched.
    fn forget_fetches(&self, plan: &Plan) {
        let hashes: BTreeSet<&str> = self
            .desired
            .stacks
            .values()
            .filter_map(|stack| match stack {
                desired::DesiredStack::Loaded(objects) => Some(objects),
                desired::DesiredStack::Held { .. } => None,
            })
            .flat_map(|objects| objects.pods.iter().map(|pod| pod.hash.as_str()))
            .collect();
        self.inner.fetcher.retain(|key| match &key.freshness {
            action::Freshness::Asked { shape } => hashes.contains(shape.as_str()),
            action::Freshness::Present | action::Freshness::Local => plan.actions.iter().any(
                |planned| matches!(&planned.action, Action::FetchImage { image, .. } if *image == key.image),
            ),
        });
    }
}

fn without_stacks(plan: &Plan, stacks: &[StackName]) -> Plan {
    let mut plan = plan.clone();
    plan.actions.retain(|planned| !stacks.contains(&planned.stack));
    plan
}

async fn changed(generation: &mut Option<channel::Receiver<u64>>) -> Option<()> {
    match generation {
        Some(generation) => generation.changed().await.ok(),
        None => std::future::pending().await,
    }
}

async fn read(directory: PathBuf) -> Result<SourceFiles> {
    let failed = |error: tokio::task::JoinError| {
        EngineError::internal(Subject::Engine, "read the manifest directory", error)
    };
    tokio::task::spawn_blocking(move || manifest::read_directory(&directory)).await.map_err(failed)
}

/// Links are not resolved: a swapped one is the same source.
fn absolute(directory: &Path) -> Result<PathBuf> {
    std::path::absolute(directory).map_err(|error| {
        EngineError::invalid(Subject::Engine, format!("{}", directory.display())).with_source(error)
    })
}

/// The address from which this host would speak to the world. Nothing is sent.
fn host_address() -> IpAddr {
    let outward = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
        // An address kept for documentation: routed like any other, and nobody's.
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
        socket.local_addr().ok().map(|address| address.ip())
    };
    outward().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

fn memory_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

//! Start, stop, kill, pause, remove: effects in order, with undo.
//!
//! Each runs under its container's lock (`Entry::effects`), which is never held while waiting for the container
//! itself: a kill gets through while a stop waits. Intent is recorded before an effect, the result after it.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use nix::libc::{SIGKILL, SIGTERM};
use tokio::sync::watch;

use super::command::stop_signal;
use super::prepare::failed;
use super::state::{ContainerState, ExitStatus, Operation, Process, Step};
use super::table::{Entry, View};
use super::{ContainerRecord, Pending, RemoveOptions, StartOutcome, StopOptions, StopOutcome};
use crate::engine::error::{EngineError, ErrorKind, Result, Subject};
use crate::engine::event::{Event, EventAction, EventKind};
use crate::engine::id::NameOrId;
use crate::engine::monitor::MonitorError;
use crate::engine::pod::PodRecord;
use crate::engine::store::Change;
use crate::engine::{Inner, failpoint};

/// A process that is not gone so long after SIGKILL hangs in the kernel.
pub(in crate::engine) const KILL_DEADLINE: Duration = Duration::from_secs(10);

/// Who wants a container to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum StartReason {
    Asked,
    /// Its restart policy.
    Policy,
}

impl Inner {
    pub async fn init_container(self: &Arc<Self>, wanted: &NameOrId) -> Result<()> {
        let entry = self.containers.find(&self.names, wanted)?;
        let _effects = entry.effects.lock().await;
        let record = present(&entry)?;
        match check(&record, Operation::Init)? {
            Step::AlreadyThere => Ok(()),
            Step::Go | Step::InitFirst | Step::UnpauseFirst | Step::StopFirst => {
                let created = self.launch(&entry, &record, StartReason::Asked).await?;
                let events = vec![container_event(&created, EventAction::Init)];
                let created = ContainerRecord { pending: None, ..created };
                self.show_launched(&entry, &record, created, events).await?;
                self.follow(&entry);
                Ok(())
            }
        }
    }

    pub async fn start_container(self: &Arc<Self>, wanted: &NameOrId) -> Result<StartOutcome> {
        let entry = self.containers.find(&self.names, wanted)?;
        let _effects = entry.effects.lock().await;
        let outcome = self.start_locked(&entry, StartReason::Asked).await;
        // One that shall not stay when it has ended does not stay when it could not begin: docker's clients leave
        // the removal to the daemon.
        let record = entry.record();
        if outcome.is_err() && record.spec.auto_remove && matches!(record.state, ContainerState::Exited(_)) {
            let _ = self.remove_locked(&entry, &record, true).await;
        }
        outcome
    }

    /// The caller holds the container's lock.
    pub async fn start_locked(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        reason: StartReason,
    ) -> Result<StartOutcome> {
        let before = present(entry)?;
        let (created, mut events) = match check(&before, Operation::Start)? {
            Step::AlreadyThere => return Ok(StartOutcome::AlreadyRunning),
            Step::Go => ((*before).clone(), Vec::new()),
            Step::InitFirst | Step::UnpauseFirst | Step::StopFirst => {
                let created = self.launch(entry, &before, reason).await?;
                let event = container_event(&created, EventAction::Init);
                (created, vec![event])
            }
        };
        failpoint::pass("launch-created");
        let launched = !events.is_empty();
        let run_dir = self.config.container_run_dir(&created.id);
        let process = match self.monitors.start(&run_dir).await {
            Ok(process) => process,
            Err(error) => {
                self.kill_for_good(&created).await;
                let error = monitor_failed(&created, "start", error);
                self.abandon(entry, &before, &created, &error).await;
                return Err(error);
            }
        };
        failpoint::pass("launch-started");
        if reason == StartReason::Policy {
            events.insert(0, container_event(&created, EventAction::Restart));
        }
        let running = ContainerRecord { state: ContainerState::Running(process), pending: None, ..created };
        events.push(container_event(&running, EventAction::Start));
        self.show_launched(entry, &before, running, events).await?;
        failpoint::pass("start-recorded");
        // One that was initialised before has its follower already.
        if launched {
            self.follow(entry);
        }
        Ok(StartOutcome::Started)
    }

    /// Brings the container to the point where it waits to execute. The record it returns is not shown yet; its
    /// intent is.
    async fn launch(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        before: &ContainerRecord,
        reason: StartReason,
    ) -> Result<ContainerRecord> {
        let intent = ContainerRecord {
            pending: Some(Pending::Launch),
            stopped_by_user: false,
            restart_count: match reason {
                StartReason::Asked => 0,
                StartReason::Policy => before.restart_count + 1,
            },
            ..before.clone()
        };
        self.put(entry, intent.clone(), Vec::new(), "record that it is being started").await?;
        failpoint::pass("launch-intent");
        match self.launch_intended(&intent).await {
            Ok(created) => Ok(created),
            Err(error) => {
                self.abandon(entry, before, &intent, &error).await;
                Err(error)
            }
        }
    }

    async fn launch_intended(&self, intent: &ContainerRecord) -> Result<ContainerRecord> {
        if let Some(pod) = intent.pod() {
            let pod =
                self.pods.by_id(pod).ok_or_else(|| EngineError::no_such(Subject::Pod(pod.to_string())))?;
            self.ensure_sandbox(&pod).await?;
        }
        let prepared = self.prepare(intent).await?;
        let process = self
            .monitors
            .launch(prepared.request)
            .await
            .map_err(|error| monitor_failed(intent, "launch", error))?;
        self.release_pins(intent);
        Ok(ContainerRecord {
            state: ContainerState::Created(process),
            network: prepared.network,
            ..intent.clone()
        })
    }

    /// Records what a launch has made. If that cannot be made durable, it is undone.
    async fn show_launched(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        before: &ContainerRecord,
        launched: ContainerRecord,
        events: Vec<Event>,
    ) -> Result<()> {
        match self.put(entry, launched.clone(), events, "record that it was started").await {
            Ok(_) => Ok(()),
            Err(error) => {
                self.kill_for_good(&launched).await;
                self.abandon(entry, before, &launched, &error).await;
                Err(error)
            }
        }
    }

    /// After a launch that failed: everything it made goes, and the container is as it was before, unless its
    /// command could not be executed, which is an end of its own (exit codes 126 and 127, as podman's).
    async fn abandon(
        &self,
        entry: &Entry,
        before: &ContainerRecord,
        launched: &ContainerRecord,
        error: &EngineError,
    ) {
        // Its failures are logged there; the error that counts is the launch's.
        let _ = self.unprepare(launched).await;
        let exited = |code| {
            ContainerState::Exited(ExitStatus {
                code,
                oom_killed: false,
                finished_at: Timestamp::now(),
                started_at: None,
                error: Some(error.chain()),
            })
        };
        let state = match error.kind() {
            ErrorKind::CommandNotFound => exited(127),
            ErrorKind::CommandNotExecutable => exited(126),
            ErrorKind::NotFound
            | ErrorKind::InvalidArgument
            | ErrorKind::AlreadyExists
            | ErrorKind::InUse
            | ErrorKind::WrongState
            | ErrorKind::NotSupported
            | ErrorKind::Upstream
            | ErrorKind::Internal => match &before.state {
                // What it was before is gone with the launch.
                ContainerState::Created(_) => exited(125),
                ContainerState::Configured
                | ContainerState::Exited(_)
                | ContainerState::Running(_)
                | ContainerState::Paused(_)
                | ContainerState::Stopping(_)
                | ContainerState::Removing => before.state.clone(),
            },
        };
        let ended = before.state != state;
        let after = ContainerRecord { state, pending: None, network: None, ..launched.clone() };
        let events = if ended { vec![container_event(&after, EventAction::Died)] } else { Vec::new() };
        self.put_fact(entry, after, events).await;
    }

    /// Kills what was launched and waits until nothing of it is left.
    async fn kill_for_good(&self, record: &ContainerRecord) {
        let Some(process) = record.state.process() else { return };
        let run_dir = self.config.container_run_dir(&record.id);
        if let Err(error) = self.monitors.kill(&run_dir, SIGKILL).await {
            tracing::debug!(container.id = %record.id, %error, "kill what was launched");
        }
        let ended = self.monitors.exited(&run_dir, process);
        if tokio::time::timeout(KILL_DEADLINE, ended).await.is_err() {
            tracing::error!(container.id = %record.id, pid = process.pid, "a process does not end after SIGKILL");
        }
    }

    pub async fn stop_container(
        self: &Arc<Self>,
        wanted: &NameOrId,
        options: StopOptions,
    ) -> Result<StopOutcome> {
        let entry = self.containers.find(&self.names, wanted)?;
        self.stop_entry(&entry, &options, Resend::No).await
    }

    /// Signal, wait, kill. `resend` is for finishing a stop that a daemon before us began.
    pub async fn stop_entry(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        options: &StopOptions,
        resend: Resend,
    ) -> Result<StopOutcome> {
        let mut views = entry.watch();
        let (process, grace) = {
            let _effects = entry.effects.lock().await;
            let record = present(entry)?;
            match check(&record, Operation::Stop)? {
                Step::AlreadyThere => {
                    self.note_stopped_by_user(entry, &record).await?;
                    return Ok(StopOutcome::AlreadyStopped);
                }
                Step::Go | Step::InitFirst | Step::UnpauseFirst | Step::StopFirst => {}
            }
            let Some(process) = record.state.process().copied() else {
                return Ok(StopOutcome::AlreadyStopped);
            };
            let secs = options.timeout_secs.unwrap_or(record.spec.stop_timeout_secs);
            let grace = self.ask_to_stop(entry, &record, process, secs, resend).await?;
            (process, grace)
        };
        if wait_until_ended(&mut views, &process, grace).await {
            return Ok(StopOutcome::Stopped);
        }
        {
            let _effects = entry.effects.lock().await;
            let record = entry.record();
            if is_run(&record, &process) {
                tracing::info!(container.id = %record.id, "not stopped in time, killing it");
                self.signal(&record, SIGKILL).await;
            }
        }
        if wait_until_ended(&mut views, &process, KILL_DEADLINE).await {
            return Ok(StopOutcome::Stopped);
        }
        Err(EngineError::new(
            ErrorKind::Internal,
            Subject::Container(entry.record().name.to_string()),
            format!(
                "stop: process {} has not ended {} s after SIGKILL",
                process.pid,
                KILL_DEADLINE.as_secs()
            ),
        ))
    }

    /// Records the intent and sends the first signal; how long to wait for its effect.
    async fn ask_to_stop(
        &self,
        entry: &Entry,
        record: &ContainerRecord,
        process: Process,
        timeout_secs: u32,
        resend: Resend,
    ) -> Result<Duration> {
        let grace = Duration::from_secs(timeout_secs.into());
        let run_dir = self.config.container_run_dir(&record.id);
        let first = match &record.state {
            // Nothing runs that could react to a signal.
            ContainerState::Created(_) => true,
            ContainerState::Paused(_) => {
                self.monitors
                    .resume(&run_dir)
                    .await
                    .map_err(|error| monitor_failed(record, "unpause it to stop it", error))?;
                true
            }
            ContainerState::Running(_) => true,
            ContainerState::Stopping(_) => resend == Resend::Yes,
            ContainerState::Configured | ContainerState::Exited(_) | ContainerState::Removing => false,
        };
        if !first {
            return Ok(grace);
        }
        let never_ran = matches!(record.state, ContainerState::Created(_));
        let stopping = ContainerRecord {
            state: ContainerState::Stopping(process),
            pending: Some(Pending::Stop),
            stopped_by_user: true,
            ..record.clone()
        };
        if resend == Resend::No {
            let events = vec![container_event(&stopping, EventAction::Stop)];
            self.put(entry, stopping, events, "record that it is being stopped").await?;
        }
        failpoint::pass("stop-intent");
        let signal = match self.image_config(record) {
            _ if never_ran || grace.is_zero() => SIGKILL,
            Ok(image) => stop_signal(&record.spec, image.as_ref()),
            Err(_) => record.spec.stop_signal.unwrap_or(SIGTERM),
        };
        self.signal(record, signal).await;
        failpoint::pass("stop-signalled");
        Ok(if signal == SIGKILL { KILL_DEADLINE } else { grace })
    }

    /// A signal whose failure only means that the wait that follows takes longer.
    pub(super) async fn signal(&self, record: &ContainerRecord, signal: i32) {
        if let Err(error) = self.monitors.kill(&self.config.container_run_dir(&record.id), signal).await {
            tracing::debug!(container.id = %record.id, signal, %error, "signal a container that is to stop");
        }
    }

    /// A restart policy that waits for its turn shall not start it again.
    async fn note_stopped_by_user(&self, entry: &Entry, record: &ContainerRecord) -> Result<()> {
        use super::spec::RestartPolicy;
        if record.stopped_by_user || record.spec.restart_policy == RestartPolicy::No {
            return Ok(());
        }
        let noted = ContainerRecord { stopped_by_user: true, ..record.clone() };
        self.put(entry, noted, Vec::new(), "record that it was stopped").await?;
        Ok(())
    }

    pub async fn restart_container(self: &Arc<Self>, wanted: &NameOrId, options: StopOptions) -> Result<()> {
        let entry = self.containers.find(&self.names, wanted)?;
        self.stop_entry(&entry, &options, Resend::No).await?;
        let _effects = entry.effects.lock().await;
        self.start_locked(&entry, StartReason::Asked).await?;
        Ok(())
    }

    pub async fn kill_container(self: &Arc<Self>, wanted: &NameOrId, signal: i32) -> Result<()> {
        let entry = self.containers.find(&self.names, wanted)?;
        let mut views = entry.watch();
        let process = {
            let _effects = entry.effects.lock().await;
            let record = present(&entry)?;
            if !(1..=64).contains(&signal) {
                return Err(EngineError::invalid(
                    Subject::Container(record.name.to_string()),
                    format!("{signal} is no signal"),
                ));
            }
            check(&record, Operation::Kill)?;
            // A signal that ends it is a user's stop: the restart policy keeps out of it, as docker's does.
            let image = self.image_config(&record).ok().flatten();
            let ends = signal == SIGKILL || signal == stop_signal(&record.spec, image.as_ref());
            let mut event = container_event(&record, EventAction::Kill);
            event.attributes.insert("signal".to_owned(), signal.to_string());
            let noted =
                ContainerRecord { stopped_by_user: record.stopped_by_user || ends, ..(*record).clone() };
            if noted.stopped_by_user != record.stopped_by_user {
                self.put(&entry, noted, Vec::new(), "record that it is being killed").await?;
            }
            self.monitors.kill(&self.config.container_run_dir(&record.id), signal).await.map_err(
                |error| match error {
                    // It has ended, and this is about to be recorded.
                    MonitorError::Gone { .. } => check_failed(&record, "it has just ended"),
                    error => monitor_failed(&record, "kill", error),
                },
            )?;
            self.tell(vec![event]).await;
            record.state.process().copied()
        };
        // docker waits for the effect of a SIGKILL, and what follows a kill expects it.
        if let (SIGKILL, Some(process)) = (signal, process) {
            wait_until_ended(&mut views, &process, KILL_DEADLINE).await;
        }
        Ok(())
    }

    pub async fn pause_container(&self, wanted: &NameOrId) -> Result<()> {
        let entry = self.containers.find(&self.names, wanted)?;
        let _effects = entry.effects.lock().await;
        let record = present(&entry)?;
        check(&record, Operation::Pause)?;
        let Some(process) = record.state.process().copied() else { return Ok(()) };
        let run_dir = self.config.container_run_dir(&record.id);
        self.monitors.pause(&run_dir).await.map_err(|error| monitor_failed(&record, "pause", error))?;
        let paused = ContainerRecord { state: ContainerState::Paused(process), ..(*record).clone() };
        let events = vec![container_event(&paused, EventAction::Pause)];
        if let Err(error) = self.put(&entry, paused, events, "record that it is paused").await {
            if let Err(error) = self.monitors.resume(&run_dir).await {
                tracing::error!(container.id = %record.id, %error, "unpause a container whose pause could not be recorded");
            }
            return Err(error);
        }
        Ok(())
    }

    pub async fn unpause_container(&self, wanted: &NameOrId) -> Result<()> {
        let entry = self.containers.find(&self.names, wanted)?;
        let _effects = entry.effects.lock().await;
        let record = present(&entry)?;
        check(&record, Operation::Unpause)?;
        let Some(process) = record.state.process().copied() else { return Ok(()) };
        let run_dir = self.config.container_run_dir(&record.id);
        self.monitors.resume(&run_dir).await.map_err(|error| monitor_failed(&record, "unpause", error))?;
        let running = ContainerRecord { state: ContainerState::Running(process), ..(*record).clone() };
        let events = vec![container_event(&running, EventAction::Unpause)];
        // It runs, whether that can be written down or not.
        self.put_fact(&entry, running, events).await;
        Ok(())
    }

    pub async fn remove_container(self: &Arc<Self>, wanted: &NameOrId, options: RemoveOptions) -> Result<()> {
        let entry = self.containers.find(&self.names, wanted)?;
        let operation = if options.force { Operation::RemoveForce } else { Operation::Remove };
        let stop = StopOptions { timeout_secs: options.stop_timeout_secs };
        loop {
            {
                let _effects = entry.effects.lock().await;
                let record = present(&entry)?;
                self.check_dependents(&record)?;
                match check(&record, operation)? {
                    Step::StopFirst | Step::UnpauseFirst | Step::InitFirst => {}
                    Step::Go | Step::AlreadyThere => {
                        return self.remove_locked(&entry, &record, options.volumes).await;
                    }
                }
            }
            match self.stop_entry(&entry, &stop, Resend::No).await {
                Err(error) if error.kind() != ErrorKind::WrongState => return Err(error),
                Ok(_) | Err(_) => {}
            }
        }
    }

    /// Others live in its namespaces.
    fn check_dependents(&self, record: &ContainerRecord) -> Result<()> {
        let dependents: Vec<_> = self
            .containers
            .records()
            .iter()
            .filter(|other| other.spec.shared_containers().any(|id| *id == record.id))
            .map(|other| other.name.to_string())
            .collect();
        if dependents.is_empty() {
            return Ok(());
        }
        Err(EngineError::new(
            ErrorKind::InUse,
            Subject::Container(record.name.to_string()),
            format!("it has dependent containers which must be removed before it: {}", dependents.join(", ")),
        ))
    }

    /// The caller holds the container's lock, and nothing of it runs. The record goes first: what a crash leaves
    /// after that belongs to nobody and is swept at the next start.
    pub async fn remove_locked(
        &self,
        entry: &Entry,
        record: &ContainerRecord,
        anonymous_volumes: bool,
    ) -> Result<()> {
        failpoint::pass("remove-intent");
        let run_dir = self.config.container_run_dir(&record.id);
        if run_dir.exists() {
            self.unprepare(record).await?;
        }
        let removing = ContainerRecord {
            state: ContainerState::Removing,
            pending: Some(Pending::Remove),
            ..record.clone()
        };
        entry.show(Arc::new(removing));
        let pod_entry = record.pod().and_then(|pod| self.pods.by_id(pod));
        let _pod_effects = match &pod_entry {
            Some(pod) => Some(pod.effects.lock().await),
            None => None,
        };
        let pod = pod_entry.as_ref().map(|entry| {
            let pod = entry.record();
            let containers = pod.containers.iter().filter(|id| **id != record.id).cloned().collect();
            Arc::new(PodRecord { containers, ..(*pod).clone() })
        });
        let mut changes = vec![Change::RemoveContainer(record.id.clone())];
        changes.extend(pod.iter().cloned().map(Change::PutPod));
        let committed = self
            .commit(
                || (Subject::Container(record.name.to_string()), "record the removal"),
                changes,
                vec![container_event(record, EventAction::Remove)],
                || {
                    self.remember_exit(&entry.view());
                    self.containers.remove(&record.id);
                    self.names.give_back(record.name.as_str());
                    if let (Some(entry), Some(pod)) = (&pod_entry, pod) {
                        entry.show(pod);
                    }
                    entry.show_removed();
                },
            )
            .await;
        if let Err(error) = committed {
            entry.show(Arc::new(record.clone()));
            return Err(error);
        }
        failpoint::pass("remove-recorded");
        if let Err(error) = self.discard(&self.config.container_dir(&record.id)) {
            tracing::warn!(container.id = %record.id, %error,
                "the files of a removed container could not be deleted; the next start tries again");
        }
        failpoint::pass("remove-files");
        if anonymous_volumes {
            self.remove_anonymous_volumes(record).await;
        }
        Ok(())
    }

    async fn remove_anonymous_volumes(&self, record: &ContainerRecord) {
        for name in &record.anonymous_volumes {
            let _lock = self.volumes.locks.lock(name.as_str()).await;
            let Some(volume) = self.volumes.by_name(name.as_str()) else { continue };
            // `--volumes-from` lets others use it.
            if self.containers.records().iter().any(|other| other.uses_volume(name)) {
                continue;
            }
            if let Err(error) = self.remove_unused_volume(&volume).await {
                tracing::warn!(container.id = %record.id, volume.name = %name, error = error.chain(),
                    "remove an anonymous volume");
            }
        }
    }

    /// Makes `record` durable, then shows it. The caller holds the container's lock.
    pub async fn put(
        &self,
        entry: &Entry,
        record: ContainerRecord,
        events: Vec<Event>,
        step: &'static str,
    ) -> Result<Arc<ContainerRecord>> {
        let record = Arc::new(record);
        self.commit(
            || (Subject::Container(record.name.to_string()), step),
            vec![Change::PutContainer(record.clone())],
            events,
            || entry.show(record.clone()),
        )
        .await?;
        Ok(record)
    }

    /// As [`Inner::put`] for what has happened already: it is shown even if it cannot be made durable. The next
    /// start of the engine finds out again. Whether it is durable.
    pub async fn put_fact(&self, entry: &Entry, record: ContainerRecord, events: Vec<Event>) -> bool {
        let step = "record what has happened";
        let put = self.put(entry, record.clone(), events.clone(), step).await;
        if let Err(error) = &put {
            tracing::error!(container.id = %record.id, error = error.chain(), "a change is not on disk");
            entry.show(Arc::new(record));
            self.events.publish(events);
        }
        put.is_ok()
    }
}

/// Whether a stop that was begun sends its signal (again).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum Resend {
    No,
    Yes,
}

/// The record, unless the container was removed while the caller waited for its lock.
pub(in crate::engine) fn present(entry: &Entry) -> Result<Arc<ContainerRecord>> {
    let record = entry.record();
    if entry.is_removed() {
        return Err(EngineError::no_such(Subject::Container(record.name.to_string())));
    }
    Ok(record)
}

pub(in crate::engine) fn check(record: &ContainerRecord, operation: Operation) -> Result<Step> {
    record
        .state
        .check(operation)
        .map_err(|error| EngineError::wrong_state(Subject::Container(record.name.to_string()), error))
}

/// Whether `record` shows the run of `process`.
pub(in crate::engine) fn is_run(record: &ContainerRecord, process: &Process) -> bool {
    record
        .state
        .process()
        .is_some_and(|current| current.pid == process.pid && current.start_ticks == process.start_ticks)
}

/// True if the run of `process` has ended within `timeout`.
async fn wait_until_ended(views: &mut watch::Receiver<View>, process: &Process, timeout: Duration) -> bool {
    let ended = views.wait_for(|view| view.removed || !is_run(&view.record, process));
    matches!(tokio::time::timeout(timeout, ended).await, Ok(Ok(_)))
}

fn check_failed(record: &ContainerRecord, detail: &str) -> EngineError {
    EngineError::wrong_state(Subject::Container(record.name.to_string()), detail)
}

fn monitor_failed(record: &ContainerRecord, step: &'static str, error: MonitorError) -> EngineError {
    match error.kind() {
        ErrorKind::Internal => failed(record, step)(error),
        kind => EngineError::new(kind, Subject::Container(record.name.to_string()), step).with_source(error),
    }
}

/// An event of a container with podman's attributes.
pub(in crate::engine) fn container_event(record: &ContainerRecord, action: EventAction) -> Event {
    let mut attributes = record.spec.labels.clone();
    attributes.insert("image".to_owned(), record.image_name.clone());
    if let Some(pod) = record.pod() {
        attributes.insert("podId".to_owned(), pod.to_string());
    }
    if action == EventAction::Died
        && let Some(status) = record.state.exit_status()
    {
        attributes.insert("containerExitCode".to_owned(), status.code.to_string());
    }
    Event {
        time: Timestamp::now(),
        kind: EventKind::Container,
        action,
        id: record.id.to_string(),
        name: record.name.to_string(),
        attributes,
    }
}

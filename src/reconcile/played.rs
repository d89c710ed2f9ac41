//! Manifests played over the API: one more source, kept in the engine's notes. Each play is a stack,
//! `played/NAME`, called after its first object. What is taken down or removed by hand is forgotten, so
//! that it does not come back; a stack of which all is forgotten is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::container::RemoveOptions;
use crate::engine::container::spec::{LogDriver, NetworkAttachment, NetworkMode};
use crate::engine::error::{EngineError, ErrorKind, Result, Subject};
use crate::engine::id::{NameOrId, NetworkName, PodId};
use crate::reconcile::action::{Gate, HoldCause, HoldSubject};
use crate::reconcile::desired::{
    DesiredPod, DesiredStack, DesiredState, ObjectName, SourceHealth, SourceName, StackName, StackObjects,
};
use crate::reconcile::manifest::{self, SourceFiles};
use crate::reconcile::records::PlayedNote;
use crate::reconcile::status::ContainerRole;
use crate::reconcile::worker::report::PodReport;
use crate::reconcile::{DownOutcome, Inner, PlayOutcome, PlayRequest, PlayedPod};
use sha2::{Digest, Sha256};

/// When nothing moves for so long, the caller is told how far things are.
const PATIENCE: Duration = Duration::from_secs(120);

/// The played manifests as a source.
pub fn source(notes: &BTreeMap<String, PlayedNote>) -> SourceFiles {
    let files =
        notes.iter().map(|(name, note)| (file_of(name), Ok(Arc::from(note.yaml.as_bytes())))).collect();
    SourceFiles {
        source: SourceName::Played,
        health: SourceHealth::Read,
        files,
        empty_directories: BTreeSet::new(),
    }
}

fn file_of(stack: &str) -> PathBuf {
    PathBuf::from(format!("{stack}.yaml"))
}

pub fn stack(name: &str) -> StackName {
    StackName { source: SourceName::Played, name: name.to_owned() }
}

/// Applies what is not in the text: forgotten objects, networks and log driver asked for.
pub fn adjust(desired: &mut DesiredState, notes: &BTreeMap<String, PlayedNote>) {
    for (name, note) in notes {
        if let Some(DesiredStack::Loaded(objects)) = desired.stacks.get_mut(&stack(name)) {
            objects.pods.retain(|pod| !note.forgotten.contains(&pod.name));
            objects.services.retain(|service| !note.forgotten.contains(&service.name));
            objects.pods.iter_mut().for_each(|pod| with_options(pod, note));
        }
    }
}

fn with_options(pod: &mut DesiredPod, note: &PlayedNote) {
    if note.networks.is_empty() && note.log_driver.is_none() {
        return;
    }
    if let (NetworkMode::Bridge(attachments), false) = (&mut pod.sandbox.network, note.networks.is_empty()) {
        // Names were checked when they were played.
        *attachments = note.networks.iter().filter_map(|name| name.parse().ok()).map(attachment).collect();
        pod.fields.insert("--network".to_owned(), note.networks.join(","));
    }
    if let Some(driver) = &note.log_driver {
        let driver = match driver.as_str() {
            "none" => LogDriver::None,
            "json-file" => LogDriver::JsonFile,
            _ => LogDriver::K8sFile,
        };
        for container in pod.init_containers.iter_mut().chain(&mut pod.containers) {
            container.spec.log.driver = driver;
        }
        pod.fields.insert("--log-driver".to_owned(), format!("{driver:?}"));
    }
    let mut hash = Sha256::new();
    hash.update(&pod.hash);
    hash.update(note.networks.join(","));
    hash.update([0]);
    hash.update(note.log_driver.as_deref().unwrap_or_default());
    pod.hash = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
}

fn attachment(network: NetworkName) -> NetworkAttachment {
    NetworkAttachment {
        network,
        aliases: Vec::new(),
        static_addresses: Vec::new(),
        static_mac: None,
        interface: None,
    }
}

/// What a text alone asks for, or what is wrong with it.
fn parse(inner: &Inner, yaml: &str) -> Result<StackObjects> {
    let invalid = |message: String| EngineError::invalid(Subject::Engine, message);
    let name = "played";
    let files = SourceFiles {
        source: SourceName::Played,
        health: SourceHealth::Read,
        files: [(file_of(name), Ok(Arc::from(yaml.as_bytes())))].into(),
        empty_directories: BTreeSet::new(),
    };
    let mut desired = manifest::desired_from(&[files], &inner.context);
    match desired.stacks.remove(&stack(name)) {
        Some(DesiredStack::Loaded(objects)) => Ok(objects),
        Some(DesiredStack::Held { errors }) => {
            let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
            Err(invalid(lines.join("\n")))
        }
        None => Err(invalid("the manifest has no object".to_owned())),
    }
}

impl Inner {
    pub(super) async fn play_manifest(self: &Arc<Self>, request: PlayRequest) -> Result<PlayOutcome> {
        let objects = parse(self, &request.yaml)?;
        self.check_networks(&request.networks)?;
        let _playing = self.playing.lock().await;
        let mut notes = self.played().clone();
        let names: Vec<ObjectName> = object_names(&objects).cloned().collect();
        let Some(first) = objects.pods.first().map(|pod| &pod.owner.object).or(names.first()) else {
            // Claims and configuration alone: kept, so that later plays find nothing missing.
            return self.play_volumes(&objects).await;
        };
        self.check_taken(&objects, request.replace)?;
        if request.replace {
            self.remove_foreign(&objects).await?;
        }
        // Pods that are replaced are now said here and nowhere else.
        let mut touched = self.forget(&mut notes, &names);
        let name = free_name(&notes, &first.name);
        let note = PlayedNote {
            yaml: request.yaml,
            start: request.start,
            networks: request.networks,
            log_driver: request.log_driver,
            tls_verify: request.tls_verify,
            forgotten: BTreeSet::new(),
            volumes: objects.volumes.clone(),
        };
        let known: BTreeSet<String> =
            self.site.engine.volumes().iter().map(|volume| volume.name.to_string()).collect();
        notes.insert(name.clone(), note);
        touched.insert(name.clone());
        let before = self.played().clone();
        let readings = self.picture().readings;
        self.fetcher.forgive(tokio::time::Instant::now());
        self.write_played(&notes, &touched).await?;
        self.reload();
        let pods: Vec<ObjectName> = objects.pods.iter().map(|pod| pod.name.clone()).collect();
        if let Err(error) = self.wait_launched(&stack(&name), &pods, readings).await {
            // Nothing of it was begun: it is as if it had not been asked for.
            self.write_played(&before, &touched).await?;
            self.reload();
            return Err(error);
        }
        let mut outcome = PlayOutcome::default();
        for pod in &pods {
            if let Some(report) = self.site.reports.of(pod) {
                outcome.pods.push(played_pod(&report));
            }
        }
        outcome.volumes = objects
            .volumes
            .into_iter()
            .map(|claim| claim.volume)
            .filter(|name| !known.contains(name))
            .collect();
        Ok(outcome)
    }

    async fn play_volumes(&self, objects: &StackObjects) -> Result<PlayOutcome> {
        let mut outcome = PlayOutcome::default();
        for claim in &objects.volumes {
            let invalid = |error: crate::engine::id::InvalidName| {
                EngineError::invalid(Subject::Volume(claim.volume.clone()), error.to_string())
            };
            let name = claim.volume.parse().map_err(invalid)?;
            let engine = &self.site.engine;
            match engine.create_volume(Some(name), claim.labels.clone(), claim.options.clone()).await {
                Ok(_) => outcome.volumes.push(claim.volume.clone()),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Ok(outcome)
    }

    fn check_networks(&self, networks: &[String]) -> Result<()> {
        for network in networks {
            self.site.engine.network(&NameOrId::from(network.as_str()))?;
        }
        Ok(())
    }

    /// Pods that are there already, and by whom.
    fn check_taken(&self, objects: &StackObjects, replace: bool) -> Result<()> {
        for pod in &objects.pods {
            let engine_name = NameOrId::from(pod.sandbox.name.as_str());
            let report = self.site.reports.of(&pod.name);
            if let Some(report) = &report
                && let SourceName::Directory(path) = &report.note.stack.source
            {
                let place = format!("{} of {}", report.note.stack, path.display());
                let message = format!("pod already exists: it belongs to stack {place}");
                return Err(EngineError::new(
                    ErrorKind::AlreadyExists,
                    Subject::Pod(pod.name.to_string()),
                    message,
                ));
            }
            if !replace && (report.is_some() || self.site.engine.pod(&engine_name).is_ok()) {
                let message = "pod already exists (use --replace)";
                return Err(EngineError::new(
                    ErrorKind::AlreadyExists,
                    Subject::Pod(pod.name.to_string()),
                    message,
                ));
            }
        }
        Ok(())
    }

    /// `--replace` also means pods of the same name that someone made by hand.
    async fn remove_foreign(&self, objects: &StackObjects) -> Result<()> {
        for pod in &objects.pods {
            let engine_name = NameOrId::from(pod.sandbox.name.as_str());
            let Ok(record) = self.site.engine.pod(&engine_name) else { continue };
            if record.spec.name != pod.sandbox.name || self.site.reports.of(&pod.name).is_some() {
                continue;
            }
            let options = RemoveOptions { force: true, volumes: false, stop_timeout_secs: None };
            self.site.engine.remove_pod(&NameOrId::from(&record.id), options).await?;
        }
        Ok(())
    }

    /// Takes objects out of every note that has them; the names of the notes that changed. A note of
    /// which nothing is left goes.
    fn forget(&self, notes: &mut BTreeMap<String, PlayedNote>, names: &[ObjectName]) -> BTreeSet<String> {
        let mut touched = BTreeSet::new();
        let mut emptied = Vec::new();
        for (stack, note) in notes.iter_mut() {
            // A text that a newer version no longer takes has nothing that runs because of it.
            let objects = parse(self, &note.yaml).unwrap_or_default();
            let had: BTreeSet<&ObjectName> = object_names(&objects).collect();
            let going = names.iter().filter(|name| had.contains(name) && !note.forgotten.contains(name));
            let going: Vec<ObjectName> = going.cloned().collect();
            if !going.is_empty() {
                touched.insert(stack.clone());
                note.forgotten.extend(going);
            }
            if had.iter().all(|name| note.forgotten.contains(name)) {
                touched.insert(stack.clone());
                emptied.push(stack.clone());
            }
        }
        notes.retain(|stack, _| !emptied.contains(stack));
        touched
    }

    /// Writes the notes that differ from what is on record; those of which nothing is left go.
    async fn write_played(
        &self,
        notes: &BTreeMap<String, PlayedNote>,
        touched: &BTreeSet<String>,
    ) -> Result<()> {
        for name in touched {
            match notes.get(name) {
                Some(note) => note.write(&self.site.engine, name).await?,
                None => PlayedNote::remove(&self.site.engine, name).await?,
            }
            self.site.passed();
        }
        *self.played() = notes.clone();
        Ok(())
    }

    /// A pod was removed through the API: what was only played is not wanted any more.
    pub(super) async fn forget_played(&self, pod: &ObjectName) -> Result<()> {
        let _playing = self.playing.lock().await;
        let mut notes = self.played().clone();
        let touched = self.forget(&mut notes, std::slice::from_ref(pod));
        self.write_played(&notes, &touched).await
    }

    async fn wait_launched(&self, stack: &StackName, pods: &[ObjectName], readings: u64) -> Result<()> {
        let mut progress = self.progress.subscribe();
        loop {
            progress.borrow_and_update();
            let picture = self.picture().clone();
            if picture.readings > readings {
                for hold in &picture.plan.holds {
                    if let (HoldSubject::Stack(held), HoldCause::Conflict { what, by }) =
                        (&hold.subject, &hold.cause)
                        && held == stack
                    {
                        let message = format!("{what} is taken by {by}");
                        return Err(EngineError::new(
                            ErrorKind::InUse,
                            Subject::Pod(stack.name.clone()),
                            message,
                        ));
                    }
                }
                let gates = picture.plan.actions.iter().filter(|planned| planned.stack == *stack);
                for planned in gates {
                    if let Some(Gate::ImageFailed { image, message, reason }) = &planned.gate {
                        let kind = match reason.as_str() {
                            "InvalidImageName" => ErrorKind::InvalidArgument,
                            "ErrImageNeverPull" => ErrorKind::NotFound,
                            _ => ErrorKind::Upstream,
                        };
                        let subject = Subject::Image(image.clone());
                        return Err(EngineError::new(kind, subject, message.clone()));
                    }
                }
                let waits = picture.plan.actions.iter().any(|planned| planned.stack == *stack);
                let hands_busy = {
                    let hands = self.hands();
                    pods.iter().any(|pod| hands.is_busy(pod))
                };
                let launched = pods.iter().all(|pod| {
                    self.site
                        .reports
                        .of(pod)
                        .is_some_and(|report| report.launched && report.note.stack == *stack)
                });
                if launched && !hands_busy && !waits {
                    return Ok(());
                }
            }
            if tokio::time::timeout(PATIENCE, progress.changed()).await.is_err() {
                tracing::warn!(%stack, "nothing moves; answering with how far it is");
                return Ok(());
            }
        }
    }

    pub(super) async fn down_manifest(self: &Arc<Self>, yaml: &str, force: bool) -> Result<DownOutcome> {
        let objects = parse(self, yaml)?;
        let names: Vec<ObjectName> = object_names(&objects).cloned().collect();
        let mut going: Vec<(ObjectName, PodId)> = Vec::new();
        {
            let _playing = self.playing.lock().await;
            for pod in &objects.pods {
                let Some(report) = self.site.reports.of(&pod.name) else { continue };
                if let SourceName::Directory(path) = &report.note.stack.source {
                    let message = format!(
                        "it belongs to stack {} of {}: take its document out there",
                        report.note.stack,
                        path.display()
                    );
                    return Err(EngineError::new(
                        ErrorKind::InUse,
                        Subject::Pod(pod.name.to_string()),
                        message,
                    ));
                }
                going.push((pod.name.clone(), report.id.clone()));
            }
            let mut notes = self.played().clone();
            let touched = self.forget(&mut notes, &names);
            self.write_played(&notes, &touched).await?;
        }
        self.reload();
        let pods = self.wait_gone(going).await;
        if force {
            for claim in &objects.volumes {
                match self.site.engine.remove_volume(&claim.volume, true).await {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(DownOutcome { pods })
    }

    async fn wait_gone(&self, going: Vec<(ObjectName, PodId)>) -> Vec<(PodId, Option<String>)> {
        let mut progress = self.progress.subscribe();
        let mut results: BTreeMap<PodId, Option<String>> = BTreeMap::new();
        while results.len() < going.len() {
            progress.borrow_and_update();
            for (pod, id) in &going {
                let gone = self.site.reports.of(pod).is_none_or(|report| report.id != *id);
                if gone && !self.hands().is_busy(pod) {
                    results.insert(id.clone(), None);
                } else if let Some(message) = self.hands().failure(pod) {
                    results.insert(id.clone(), Some(message));
                }
            }
            if results.len() < going.len() {
                let _ = progress.changed().await;
            }
        }
        going.into_iter().map(|(_, id)| (id.clone(), results.remove(&id).flatten())).collect()
    }
}

fn object_names(objects: &StackObjects) -> impl Iterator<Item = &ObjectName> {
    objects.pods.iter().map(|pod| &pod.name).chain(objects.services.iter().map(|service| &service.name))
}

/// A free name for a stack: two plays whose first object is called the same are two stacks.
fn free_name(notes: &BTreeMap<String, PlayedNote>, wanted: &str) -> String {
    if !notes.contains_key(wanted) {
        return wanted.to_owned();
    }
    let mut numbered = (2..).map(|number| format!("{wanted}-{number}"));
    numbered.find(|name| !notes.contains_key(name)).unwrap_or_else(|| wanted.to_owned())
}

fn played_pod(report: &PodReport) -> PlayedPod {
    let ids = |init: bool| {
        let containers = report.status.containers.iter();
        containers
            .filter(move |container| (container.role != ContainerRole::Main) == init)
            .filter_map(|container| container.id.clone())
            .collect()
    };
    PlayedPod {
        id: report.id.clone(),
        containers: ids(false),
        init_containers: ids(true),
        container_errors: report.errors.clone(),
    }
}

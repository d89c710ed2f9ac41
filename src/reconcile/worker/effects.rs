//! What a pod worker does to the world: each function is one step of the machine, safe to repeat after a
//! crash at any point in it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::engine::container::spec::{ContainerSpec, CreatedBy, LogDriver, RestartPolicy};
use crate::engine::container::state::ContainerState;
use crate::engine::container::{ContainerRecord, RemoveOptions, StopOptions};
use crate::engine::error::{EngineError, ErrorKind};
use crate::engine::id::{ContainerId, NameOrId, PodId};
use crate::engine::pod::PodRecord;
use crate::reconcile::claim::container_name;
use crate::reconcile::desired::{DesiredContainer, DesiredPod, DesiredVolume, HookAction, LateFacts};
use crate::reconcile::probe::{self, Target};
use crate::reconcile::records::{PodNote, RunState, label, new_uid};
use crate::reconcile::volumes::{self, Prepared, VolumeDirs};
use crate::reconcile::worker::Site;

/// kubelet's least time between the stop signal and SIGKILL when a hook has used up the grace period.
const LEAST_GRACE_SECS: u32 = 2;

/// Why a step failed: Kubernetes' word for it, and a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub reason: &'static str,
    pub message: String,
}

impl Failure {
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// One pod, as its effects see it.
#[derive(Clone)]
pub struct PodAt {
    pub site: Arc<Site>,
    pub id: PodId,
    pub note: Arc<PodNote>,
    /// The pod is going away: hooks end early.
    pub leaving: CancellationToken,
}

/// One run of a container to be made.
#[derive(Debug, Clone)]
pub struct Run {
    pub container: String,
    pub sandbox: String,
    pub restarts: u32,
    pub streak: u32,
    pub start: bool,
}

impl PodAt {
    pub fn pod(&self) -> &DesiredPod {
        &self.note.pod
    }

    pub fn dirs(&self) -> VolumeDirs {
        let config = self.site.engine.config();
        VolumeDirs::new(&config.root, &config.run_root, &self.note.uid)
    }

    pub fn record(&self) -> Option<Arc<PodRecord>> {
        self.site.engine.pod(&NameOrId::from(&self.id)).ok()
    }

    /// The engine's container of that name in this pod, if it is ours.
    pub fn container(&self, name: &str) -> Option<Arc<ContainerRecord>> {
        let record = self.record()?;
        record.containers.iter().find_map(|id| {
            let container = self.site.engine.container(&NameOrId::from(id)).ok()?;
            let labels = container.labels();
            (labels.get(label::POD_UID) == Some(&self.note.uid)
                && labels.get(label::CONTAINER_NAME).is_some_and(|known| known == name))
            .then_some(container)
        })
    }

    pub fn target(&self, container: ContainerId) -> Target {
        let address = self
            .record()
            .and_then(|record| record.network.as_ref().and_then(|network| network.primary_address()));
        Target { netns: self.site.engine.pod_netns(&self.id), address, container }
    }

    /// Volumes, then namespaces and network. The identity of the sandbox is on record before it stands.
    pub async fn make_sandbox(&self) -> Result<(RunState, BTreeMap<String, Prepared>), Failure> {
        let failed = |message| Failure::new("CreatePodSandboxError", message);
        let _permit = self.site.launches.acquire().await;
        let prepared = self.prepare_volumes().await?;
        let run_state = RunState { sandbox: Some(new_uid()), ..RunState::default() };
        run_state
            .write(&self.site.engine.config().run_root, &self.id)
            .map_err(|error| failed(format!("write the pod's run state: {error}")))?;
        self.site.passed();
        let pod = NameOrId::from(&self.id);
        self.site.engine.ensure_pod_sandbox(&pod).await.map_err(|error| failed(error.chain()))?;
        self.site.passed();
        Ok((run_state, prepared))
    }

    pub async fn prepare_volumes(&self) -> Result<BTreeMap<String, Prepared>, Failure> {
        let pod = self.note.pod.clone();
        if pod.volumes.is_empty() {
            return Ok(BTreeMap::new());
        }
        let failed = |message| Failure::new("FailedMount", message);
        let claims: Vec<(PathBuf, u32)> = pod
            .volumes
            .values()
            .filter_map(|volume| match (volume, pod.fs_group) {
                (DesiredVolume::Claim { volume, .. }, Some(group)) => {
                    let record = self.site.engine.volume(volume).ok()?;
                    Some((record.mountpoint.clone(), group))
                }
                _ => None,
            })
            .collect();
        let dirs = self.dirs();
        tokio::task::spawn_blocking(move || {
            for (mountpoint, group) in claims {
                volumes::share_claim(&mountpoint, group)
                    .map_err(|error| failed(format!("give {} to fsGroup: {error}", mountpoint.display())))?;
            }
            dirs.prepare(&pod).map_err(|error| failed(crate::engine::error::chain(&error)))
        })
        .await
        .map_err(|error| failed(error.to_string()))?
    }

    /// Makes the container anew unless exactly this run of it is there already, starts it, and runs its
    /// `postStart` hook.
    pub async fn launch(
        &self,
        run: &Run,
        prepared: Option<Arc<BTreeMap<String, Prepared>>>,
    ) -> Result<Option<Arc<BTreeMap<String, Prepared>>>, Failure> {
        let engine = &self.site.engine;
        let Some(container) = self.pod().all_containers().find(|known| known.name == run.container) else {
            return Ok(prepared);
        };
        let permit = self.site.launches.acquire().await;
        let prepared = match prepared {
            Some(prepared) => prepared,
            None => Arc::new(self.prepare_volumes().await?),
        };
        let id = match self.container(&run.container) {
            Some(existing) if self.is_this_run(&existing, run) => existing.id.clone(),
            Some(existing) => {
                let options = RemoveOptions { force: true, volumes: true, stop_timeout_secs: None };
                match engine.remove_container(&NameOrId::from(&existing.id), options).await {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => return Err(Failure::new("CreateContainerError", error.chain())),
                }
                self.site.passed();
                self.create(container, run, &prepared).await?
            }
            None => self.create(container, run, &prepared).await?,
        };
        if !run.start {
            return Ok(Some(prepared));
        }
        let started = engine.start_container(&NameOrId::from(&id)).await;
        self.site.passed();
        started.map_err(|error| Failure::new("RunContainerError", error.chain()))?;
        drop(permit);
        if let Some(hook) = &container.post_start {
            let done = self.leaving.run_until_cancelled(self.hook(hook, &id)).await;
            if let Some(Err(message)) = done {
                let reason = format!("postStart hook failed: {message}");
                self.stop(&run.container, self.pod().termination_grace_period_secs).await?;
                return Err(Failure::new("PostStartHookError", reason));
            }
        }
        Ok(Some(prepared))
    }

    fn is_this_run(&self, existing: &ContainerRecord, run: &Run) -> bool {
        let labels = existing.labels();
        let fresh = match existing.state {
            ContainerState::Configured | ContainerState::Created(_) => true,
            ContainerState::Running(_)
            | ContainerState::Paused(_)
            | ContainerState::Stopping(_)
            | ContainerState::Exited(_)
            | ContainerState::Removing => false,
        };
        fresh
            && labels.get(label::SANDBOX) == Some(&run.sandbox)
            && labels.get(label::CONTAINER_HASH) == self.note.hashes.get(&run.container)
    }

    async fn create(
        &self,
        container: &DesiredContainer,
        run: &Run,
        prepared: &BTreeMap<String, Prepared>,
    ) -> Result<ContainerId, Failure> {
        let failed = |message| Failure::new("CreateContainerError", message);
        let mounts = volumes::mounts(container, prepared)
            .map_err(|error| Failure::new("FailedMount", crate::engine::error::chain(&error)))?;
        let mut spec = container.resolved_spec(&self.late_facts());
        spec.name = Some(
            container_name(self.pod(), container)
                .parse()
                .map_err(|error: crate::engine::id::InvalidName| failed(error.to_string()))?,
        );
        spec.mounts.extend(mounts);
        self.fill_in(&mut spec, run).map_err(|error| failed(error.to_string()))?;
        let record = engine_create(&self.site, spec).await?;
        self.site.passed();
        Ok(record.id.clone())
    }

    fn fill_in(&self, spec: &mut ContainerSpec, run: &Run) -> std::io::Result<()> {
        let pod = self.pod();
        spec.pod = Some(self.id.clone());
        spec.created_by = CreatedBy::Reconciler;
        // The worker restarts, with kubelet's back-off.
        spec.restart_policy = RestartPolicy::No;
        if spec.log.driver != LogDriver::None && spec.log.path.is_none() {
            // One file for all runs: what a crashed one said is still there after its restart.
            let logs = self.dirs().logs();
            std::fs::create_dir_all(&logs)?;
            spec.log.path = Some(logs.join(format!("{}.log", run.container)));
        }
        let hash = self.note.hashes.get(&run.container).cloned().unwrap_or_default();
        for (name, value) in [
            (label::POD_NAME, pod.name.name.clone()),
            (label::POD_NAMESPACE, pod.name.namespace.clone()),
            (label::POD_UID, self.note.uid.clone()),
            (label::CONTAINER_NAME, run.container.clone()),
            (label::CONTAINER_HASH, hash),
            (label::RESTART_COUNT, run.restarts.to_string()),
            (label::SANDBOX, run.sandbox.clone()),
            (label::STREAK, run.streak.to_string()),
        ] {
            spec.labels.insert(name.to_owned(), value);
        }
        Ok(())
    }

    fn late_facts(&self) -> LateFacts {
        let network = self.record().and_then(|record| record.network.clone()).unwrap_or_default();
        let pod_addresses = network
            .interfaces
            .iter()
            .flat_map(|interface| interface.addresses.iter().map(|assigned| assigned.address))
            .collect();
        LateFacts { pod_addresses, host_address: self.site.host_address, pod_uid: self.note.uid.clone() }
    }

    /// `preStop`, stop signal, grace period, SIGKILL. What is gone already is as good as stopped.
    pub async fn stop(&self, container: &str, grace_secs: u32) -> Result<(), Failure> {
        let Some(record) = self.container(container) else { return Ok(()) };
        if record.state.process().is_none() {
            return Ok(());
        }
        let begin = Instant::now();
        let mut timeout_secs = grace_secs;
        let desired = self.pod().all_containers().find(|known| known.name == container);
        if let (Some(hook), true) = (desired.and_then(|desired| desired.pre_stop.as_ref()), grace_secs > 0) {
            let grace = Duration::from_secs(grace_secs.into());
            match tokio::time::timeout(grace, self.hook(hook, &record.id)).await {
                Ok(Ok(())) => {}
                Ok(Err(message)) => {
                    tracing::warn!(pod.name = %self.pod().name, container, "preStop hook failed: {message}");
                }
                Err(_) => {
                    tracing::warn!(pod.name = %self.pod().name, container, "preStop hook used up the grace period");
                }
            }
            let used = u32::try_from(begin.elapsed().as_secs()).unwrap_or(u32::MAX);
            timeout_secs = grace_secs.saturating_sub(used).max(LEAST_GRACE_SECS);
        }
        let options = StopOptions { timeout_secs: Some(timeout_secs) };
        let stopped = self.site.engine.stop_container(&NameOrId::from(&record.id), options).await;
        self.site.passed();
        match stopped {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Failure::new("FailedKillPod", error.chain())),
        }
    }

    async fn hook(&self, hook: &HookAction, container: &ContainerId) -> Result<(), String> {
        match hook {
            HookAction::Exec { command } => {
                probe::exec(&self.site.engine, container, command).await.map(drop)
            }
            HookAction::Http(action) => probe::http(&self.target(container.clone()), action).await,
            HookAction::Sleep { seconds } => {
                tokio::time::sleep(Duration::from_secs((*seconds).into())).await;
                Ok(())
            }
        }
    }

    /// The pod has ended for good: its address and namespaces are free for others.
    pub async fn drop_sandbox(&self) -> Result<(), Failure> {
        let pod = NameOrId::from(&self.id);
        let stopped = self.site.engine.stop_pod(&pod, StopOptions { timeout_secs: Some(0) }).await;
        self.site.passed();
        match stopped {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(Failure::new("FailedKillPod", error.chain())),
        }
        RunState::remove(&self.site.engine.config().run_root, &self.id);
        Ok(())
    }

    /// Stops everything gracefully, then removes the pod and all that was its own. Sidecars go after the
    /// containers they serve.
    pub async fn remove(&self) -> Result<(), Failure> {
        let pod = self.pod();
        let deadline = Instant::now() + Duration::from_secs(pod.termination_grace_period_secs.into());
        let stops = pod
            .containers
            .iter()
            .chain(pod.init_containers.iter().filter(|container| !container.sidecar))
            .map(|container| self.stop(&container.name, pod.termination_grace_period_secs));
        let mut failures: Vec<Failure> =
            futures_util::future::join_all(stops).await.into_iter().filter_map(Result::err).collect();
        for sidecar in pod.init_containers.iter().rev().filter(|container| container.sidecar) {
            let left = deadline.saturating_duration_since(Instant::now()).as_secs();
            let grace = u32::try_from(left).unwrap_or(u32::MAX).max(LEAST_GRACE_SECS);
            failures.extend(self.stop(&sidecar.name, grace).await.err());
        }
        if let Some(failure) = failures.into_iter().next() {
            return Err(failure);
        }
        let options = RemoveOptions { force: true, volumes: true, stop_timeout_secs: Some(LEAST_GRACE_SECS) };
        let removed = self.site.engine.remove_pod(&NameOrId::from(&self.id), options).await;
        self.site.passed();
        match removed {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(Failure::new("FailedKillPod", error.chain())),
        }
        self.forget().await
    }

    /// What is left of a pod that is no longer in the engine.
    pub async fn forget(&self) -> Result<(), Failure> {
        let failed = |message| Failure::new("FailedCleanUp", message);
        let dirs = self.dirs();
        tokio::task::spawn_blocking(move || dirs.remove())
            .await
            .map_err(|error| failed(error.to_string()))?
            .map_err(|error| failed(format!("remove the pod's volumes: {error}")))?;
        RunState::remove(&self.site.engine.config().run_root, &self.id);
        self.site.passed();
        let removed = PodNote::remove(&self.site.engine, &self.note.uid).await;
        removed.map_err(|error| failed(error.chain()))
    }
}

async fn engine_create(site: &Site, spec: ContainerSpec) -> Result<Arc<ContainerRecord>, Failure> {
    let reason = |error: &EngineError| match error.kind() {
        ErrorKind::NotFound => "ErrImageNeverPull",
        ErrorKind::InvalidArgument | ErrorKind::NotSupported => "CreateContainerConfigError",
        ErrorKind::AlreadyExists
        | ErrorKind::InUse
        | ErrorKind::WrongState
        | ErrorKind::CommandNotExecutable
        | ErrorKind::CommandNotFound
        | ErrorKind::Upstream
        | ErrorKind::Internal => "CreateContainerError",
    };
    let created = site.engine.create_container(spec).await;
    created.map_err(|error| Failure::new(reason(&error), error.chain()))
}

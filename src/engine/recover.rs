//! Opening an engine: what a crash, a kill or a reboot left is finished or undone, what still runs is adopted,
//! what belongs to nobody is swept. A boot is just another recovery, after which nothing runs.
//!
//! Everything here may itself be interrupted: each step can be repeated.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use nix::libc::SIGKILL;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::config::EngineConfig;
use super::container::follow::{AfterExit, after_exit};
use super::container::lifecycle::{KILL_DEADLINE, Resend, container_event};
use super::container::prepare::{GONE_PREFIX, remove_tree};
use super::container::spec::RestartPolicy;
use super::container::state::{ContainerState, ExitStatus, Process};
use super::container::table::{Containers, Entry};
use super::container::wait::PastExits;
use super::container::{ContainerRecord, Pending, StopOptions};
use super::error::{EngineError, Result, Subject, chain};
use super::event::{EventAction, EventBus};
use super::host::{mount as host_mount, namespace};
use super::id::{ContainerId, PodId};
use super::image::ImageStore;
use super::inner::{Inner, Notes, RootLock, observe_host};
use super::monitor::protocol::MonitorState;
use super::monitor::{Adopted, Monitors};
use super::names::{Names, Owner};
use super::network::{NetworkStatus, Networks, SandboxNetwork};
use super::pod::PodRecord;
use super::pod::table::Pods;
use super::runtime::cgroup::{Cgroup, Layout};
use super::store::{Change, Store};
use super::volume::{REMOVED_PREFIX, Volumes};

/// Area of the engine's own notes.
const NOTES: &str = "engine";
const BOOT_ID: &str = "boot-id";

/// What was found out about a container before anything was changed.
enum Finding {
    /// It runs, or is prepared to.
    Alive {
        state: ContainerState,
        network: Option<NetworkStatus>,
    },
    /// A launch that was begun and got no further than a waiting process.
    HalfLaunched(Process),
    Ended(ExitStatus),
    /// A launch was begun of which nothing is left.
    NeverLaunched,
    /// It did not run before either.
    AtRest,
}

pub(in crate::engine) async fn open(mut config: EngineConfig, patience: Duration) -> Result<Arc<Inner>> {
    // Mounts and monitors take these paths elsewhere: relative ones would mean something else there.
    for path in [&mut config.root, &mut config.run_root] {
        *path = std::path::absolute(&path).map_err(|error| {
            EngineError::internal(Subject::Engine, "find the engine's directories", error)
        })?;
    }
    make_directories(&config)
        .map_err(|error| EngineError::internal(Subject::Engine, "make the engine's directories", error))?;
    let lock = RootLock::take(&config.root, patience).await?;
    let (store, snapshot) = Store::open(&config.root.join("selkie.db"))
        .map_err(|error| EngineError::internal(Subject::Engine, "open the state database", error))?;
    let images = ImageStore::open(&config, store.clone(), snapshot.images)?;
    let networks = Networks::open(&config, store.clone(), snapshot.networks, snapshot.leases).await?;
    let host = observe_host()
        .map_err(|error| EngineError::internal(Subject::Engine, "ask the host for its limits", error))?;
    let inner = Arc::new(Inner {
        monitors: Monitors::new(&config),
        config,
        store,
        events: EventBus::new(),
        containers: Containers::default(),
        pods: Pods::default(),
        names: Names::default(),
        volumes: Volumes::new(snapshot.volumes),
        notes: Notes::new(snapshot.notes),
        images,
        images_in_creation: Mutex::default(),
        networks,
        past_exits: PastExits::default(),
        host,
        closing: CancellationToken::new(),
        tasks: TaskTracker::new(),
        _lock: lock,
    });
    for record in snapshot.containers {
        inner.names.take(record.name.as_str(), Owner::Container(record.id.clone()))?;
        inner.containers.insert(Arc::new(record));
    }
    for record in snapshot.pods {
        inner.names.take(record.spec.name.as_str(), Owner::Pod(record.id.clone()))?;
        inner.pods.insert(Arc::new(record));
    }
    if let Err(error) = inner.recover().await {
        inner.closing.cancel();
        return Err(error);
    }
    Ok(inner)
}

impl Inner {
    async fn recover(self: &Arc<Self>) -> Result<()> {
        let boot_id =
            boot_id().map_err(|error| EngineError::internal(Subject::Engine, "read the boot id", error))?;
        let same_boot =
            self.notes.area(NOTES).get(BOOT_ID).is_some_and(|known| **known == *boot_id.as_bytes());
        let entries: Vec<Arc<Entry>> =
            self.containers.records().iter().filter_map(|record| self.containers.by_id(&record.id)).collect();
        let findings = join_all(entries.iter().map(|entry| self.examine(entry.record(), same_boot))).await;

        self.networks.restore(self.standing_networks(&entries, &findings, same_boot)).await?;
        self.recover_pods(same_boot).await;
        let mut alive = 0;
        let mut restarts = Vec::new();
        for (entry, finding) in entries.iter().zip(findings) {
            alive += usize::from(matches!(finding, Finding::Alive { .. }));
            let next = self.settle(entry, finding).await;
            if let AfterExit::Restart { delay } = next {
                restarts.push((entry.clone(), delay));
            }
        }
        self.sweep().await;
        if !same_boot {
            restarts.extend(self.due_after_boot(&entries).into_iter().map(|entry| (entry, Duration::ZERO)));
            self.put_note(NOTES, BOOT_ID, boot_id.into_bytes()).await?;
        }
        // Only now: what runs from here on was started in the boot that the note names.
        for (entry, delay) in restarts {
            self.restart_later(entry, delay);
        }
        tracing::info!(containers = entries.len(), alive, same_boot, "engine open");
        Ok(())
    }

    async fn examine(&self, record: Arc<ContainerRecord>, same_boot: bool) -> Finding {
        let launching = record.pending == Some(Pending::Launch);
        if record.state.process().is_none() && !launching {
            return Finding::AtRest;
        }
        let run_dir = self.config.container_run_dir(&record.id);
        let adopted = if same_boot { self.monitors.adopt(&run_dir).await } else { Adopted::Lost };
        let network = || record.network.clone().or_else(|| read_network(&run_dir));
        let was_running = record.state.process().is_some();
        match adopted {
            Adopted::Alive { state, monitor_pid } => match state {
                MonitorState::Created { pid, start_ticks } => {
                    let started_at =
                        record.state.process().map_or(record.created_at, |process| process.started_at);
                    let process = Process { pid, start_ticks, monitor_pid, started_at };
                    if launching {
                        return Finding::HalfLaunched(process);
                    }
                    let state = match &record.state {
                        // A stop that was begun is a stop still.
                        ContainerState::Stopping(_) => ContainerState::Stopping(process),
                        ContainerState::Configured
                        | ContainerState::Created(_)
                        | ContainerState::Running(_)
                        | ContainerState::Paused(_)
                        | ContainerState::Exited(_)
                        | ContainerState::Removing => ContainerState::Created(process),
                    };
                    Finding::Alive { state, network: network() }
                }
                MonitorState::Running { pid, start_ticks, started_at } => {
                    let process = Process { pid, start_ticks, monitor_pid, started_at };
                    let state = match record.pending {
                        Some(Pending::Stop) => ContainerState::Stopping(process),
                        Some(Pending::Launch | Pending::Remove) | None => ContainerState::Running(process),
                    };
                    Finding::Alive { state, network: network() }
                }
                MonitorState::Paused { pid, start_ticks, started_at } => {
                    let process = Process { pid, start_ticks, monitor_pid, started_at };
                    Finding::Alive { state: ContainerState::Paused(process), network: network() }
                }
                MonitorState::Exited(status) => Finding::Ended(status),
                MonitorState::Failed { .. } if !was_running => Finding::NeverLaunched,
                MonitorState::Failed { .. } => Finding::Ended(Self::unseen_exit()),
            },
            Adopted::Ended(status) => Finding::Ended(status),
            Adopted::Lost if was_running => Finding::Ended(Self::unseen_exit()),
            Adopted::Lost => Finding::NeverLaunched,
        }
    }

    /// The connections that still stand; the networks free everything else.
    fn standing_networks(
        &self,
        entries: &[Arc<Entry>],
        findings: &[Finding],
        same_boot: bool,
    ) -> Vec<(SandboxNetwork, NetworkStatus)> {
        let of_containers = entries.iter().zip(findings).filter_map(|(entry, finding)| match finding {
            Finding::Alive { network: Some(network), .. } => {
                Some((self.sandbox_network(&entry.record())?, network.clone()))
            }
            Finding::Alive { network: None, .. }
            | Finding::HalfLaunched(_)
            | Finding::Ended(_)
            | Finding::NeverLaunched
            | Finding::AtRest => None,
        });
        let of_pods = self.pods.entries().into_iter().filter_map(|entry| {
            let pod = entry.record();
            let stands = same_boot && self.sandbox_stands(&pod);
            stands.then(|| Some((self.pod_sandbox_network(&pod)?, pod.network.clone()?)))?
        });
        of_containers.chain(of_pods).collect()
    }

    async fn recover_pods(&self, same_boot: bool) {
        for entry in self.pods.entries() {
            let mut effects = entry.effects.lock().await;
            let pod = entry.record();
            if same_boot && self.sandbox_stands(&pod) {
                effects.standing = true;
            } else if (pod.network.is_some() || self.config.pod_run_dir(&pod.id).exists())
                && let Err(error) = self.remove_sandbox(&entry, &mut effects).await
            {
                tracing::warn!(pod.name = %pod.spec.name, error = error.chain(), "clean up a pod's sandbox");
            }
            drop(effects);
            self.drop_unknown_containers(&pod).await;
        }
    }

    /// A pod's list and the containers are changed in one transaction; this only guards against a database that
    /// somebody edited.
    async fn drop_unknown_containers(&self, pod: &PodRecord) {
        let known: Vec<ContainerId> =
            pod.containers.iter().filter(|id| self.containers.by_id(id).is_some()).cloned().collect();
        if known.len() == pod.containers.len() {
            return;
        }
        let Some(entry) = self.pods.by_id(&pod.id) else { return };
        let fixed = Arc::new(PodRecord { containers: known, ..(*entry.record()).clone() });
        let context = || (Subject::Pod(pod.spec.name.to_string()), "correct its list of containers");
        let committed =
            self.commit(context, vec![Change::PutPod(fixed.clone())], Vec::new(), || entry.show(fixed)).await;
        if let Err(error) = committed {
            tracing::warn!(error = error.chain(), "correct a pod");
        }
    }

    /// Makes the record say what was found, and goes on from there.
    async fn settle(self: &Arc<Self>, entry: &Arc<Entry>, finding: Finding) -> AfterExit {
        let _effects = entry.effects.lock().await;
        let record = entry.record();
        match finding {
            Finding::AtRest => {
                // An end that was recorded just before a crash.
                if self.config.container_run_dir(&record.id).exists() {
                    let _ = self.unprepare(&record).await;
                }
                if record.pending.is_some() {
                    self.put_fact(entry, ContainerRecord { pending: None, ..(*record).clone() }, Vec::new())
                        .await;
                }
                return self.resume_policy(entry, &record).await;
            }
            Finding::Alive { state, network } => {
                let launched = record.pending == Some(Pending::Launch);
                let stopping = record.pending == Some(Pending::Stop);
                let pending = if stopping { Some(Pending::Stop) } else { None };
                let adopted = ContainerRecord { state, network, pending, ..(*record).clone() };
                // Unchanged means nothing is written.
                if adopted != *record {
                    let events = match launched {
                        true => [EventAction::Init, EventAction::Start]
                            .map(|action| container_event(&adopted, action))
                            .to_vec(),
                        false => Vec::new(),
                    };
                    self.put_fact(entry, adopted, events).await;
                }
                self.release_pins(&record);
                self.follow(entry);
                if stopping {
                    self.finish_stop(entry.clone());
                }
            }
            Finding::HalfLaunched(process) => {
                let run_dir = self.config.container_run_dir(&record.id);
                if let Err(error) = self.monitors.kill(&run_dir, SIGKILL).await {
                    tracing::debug!(container.id = %record.id, %error, "kill a container that was half launched");
                }
                let ended = self.monitors.exited(&run_dir, &process);
                if tokio::time::timeout(KILL_DEADLINE, ended).await.is_err() {
                    tracing::error!(container.id = %record.id, pid = process.pid, "a process does not end after SIGKILL");
                }
                self.undo_launch(entry, &record).await;
                return self.resume_policy(entry, &entry.record()).await;
            }
            Finding::NeverLaunched => {
                self.undo_launch(entry, &record).await;
                return self.resume_policy(entry, &entry.record()).await;
            }
            Finding::Ended(status) => {
                // A launch whose result was not recorded: its network is known from its run directory only.
                let run_dir = self.config.container_run_dir(&record.id);
                let network = record.network.clone().or_else(|| read_network(&run_dir));
                let record = ContainerRecord { network, ..(*record).clone() };
                return self.record_exit(entry, &record, status).await;
            }
        }
        AfterExit::Stay
    }

    /// A restart or removal that an engine before this one owed to a container that had ended.
    async fn resume_policy(&self, entry: &Entry, record: &ContainerRecord) -> AfterExit {
        let Some(status) = record.state.exit_status() else { return AfterExit::Stay };
        let spec = &record.spec;
        let next = after_exit(spec.restart_policy, spec.auto_remove, record, status, 0);
        if next == AfterExit::Remove
            && let Err(error) = self.remove_locked(entry, record, true).await
        {
            tracing::error!(container.id = %record.id, error = error.chain(), "remove a container that had ended");
        }
        next
    }

    async fn undo_launch(&self, entry: &Entry, record: &ContainerRecord) {
        // Failures are logged there; the next launch tries again.
        let _ = self.unprepare(record).await;
        let before = ContainerRecord { pending: None, network: None, ..record.clone() };
        self.put_fact(entry, before, Vec::new()).await;
    }

    fn finish_stop(self: &Arc<Self>, entry: Arc<Entry>) {
        let inner = self.clone();
        self.tasks.spawn(async move {
            let record = entry.record();
            let closing = inner.closing.clone();
            let options = StopOptions::default();
            let stop = inner.stop_entry(&entry, &options, Resend::Yes);
            tokio::select! {
                stopped = stop => {
                    if let Err(error) = stopped {
                        tracing::error!(container.id = %record.id, error = error.chain(), "finish a stop");
                    }
                }
                () = closing.cancelled() => {}
            }
        });
    }

    /// As podman-restart.service does: after a boot `always` means always, even if it was stopped before.
    fn due_after_boot(&self, entries: &[Arc<Entry>]) -> Vec<Arc<Entry>> {
        let stopped = entries.iter().filter(|entry| {
            let record = entry.record();
            record.spec.restart_policy == RestartPolicy::Always
                && record.stopped_by_user
                && record.state.exit_status().is_some()
        });
        stopped
            .inspect(|entry| {
                entry.show(Arc::new(ContainerRecord { stopped_by_user: false, ..(*entry.record()).clone() }));
            })
            .cloned()
            .collect()
    }

    /// What no record knows. Only below the engine's own directories and in its own cgroup, and there only what
    /// is named as the engine names things.
    async fn sweep(&self) {
        let report = |what: &str, path: &Path, result: io::Result<()>| match result {
            Ok(()) => tracing::info!(path = %path.display(), "swept: {what}"),
            Err(error) => tracing::warn!(path = %path.display(), %error, "sweep: {what}"),
        };
        for (dir, id) in named::<ContainerId>(&self.config.run_root.join("containers"), "") {
            if self.containers.by_id(&id).is_none() {
                report("a run directory without a container", &dir, self.sweep_run_dir(&dir, &id).await);
            }
        }
        for (dir, id) in named::<PodId>(&self.config.run_root.join("pods"), "") {
            if self.pods.by_id(&id).is_none() {
                report("a run directory without a pod", &dir, sweep_namespaces(&dir));
            }
        }
        for (dir, id) in named::<ContainerId>(&self.config.root.join("containers"), "") {
            if self.containers.by_id(&id).is_none() {
                report("the files of a removed container", &dir, remove_tree(&dir));
            }
        }
        for home in [
            self.config.root.join("containers"),
            self.config.run_root.join("containers"),
            self.config.run_root.join("pods"),
        ] {
            for entry in fs::read_dir(home).into_iter().flatten().flatten() {
                if entry.file_name().as_encoded_bytes().starts_with(GONE_PREFIX.as_bytes()) {
                    report("what was being deleted", &entry.path(), remove_tree(&entry.path()));
                }
            }
        }
        self.sweep_volumes(&report);
        self.sweep_cgroups();
    }

    async fn sweep_run_dir(&self, dir: &Path, id: &ContainerId) -> io::Result<()> {
        if let Adopted::Alive { state, monitor_pid } = self.monitors.adopt(dir).await {
            let process = match state {
                MonitorState::Created { pid, start_ticks } => Some((pid, start_ticks)),
                MonitorState::Running { pid, start_ticks, .. }
                | MonitorState::Paused { pid, start_ticks, .. } => Some((pid, start_ticks)),
                MonitorState::Exited(_) | MonitorState::Failed { .. } => None,
            };
            if let Some((pid, start_ticks)) = process {
                let started_at = jiff::Timestamp::now();
                let process = Process { pid, start_ticks, monitor_pid, started_at };
                tracing::warn!(container.id = %id, pid, "ending a container that no record knows");
                self.monitors.kill(dir, SIGKILL).await.map_err(io::Error::other)?;
                tokio::time::timeout(KILL_DEADLINE, self.monitors.exited(dir, &process)).await?;
            }
        }
        sweep_namespaces(dir)
    }

    fn sweep_volumes(&self, report: &dyn Fn(&str, &Path, io::Result<()>)) {
        let volumes = self.config.volumes_dir();
        for entry in fs::read_dir(&volumes).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(volume) = name.to_str().and_then(|name| name.strip_prefix(REMOVED_PREFIX)) else {
                continue;
            };
            let home = volumes.join(volume);
            // Its removal was not recorded: it was not removed.
            if self.volumes.by_name(volume).is_some() && !home.exists() {
                report(
                    "back a volume that was not removed after all",
                    &home,
                    fs::rename(entry.path(), &home),
                );
            } else {
                report("the content of a removed volume", &entry.path(), remove_tree(&entry.path()));
            }
        }
    }

    /// Empty cgroups of containers that are gone. One with processes in it is somebody's: it stays.
    fn sweep_cgroups(&self) {
        let Ok(layout) = Layout::detect() else { return };
        let parent = Path::new(&self.config.cgroup_parent);
        let mut unknown: HashSet<PathBuf> = HashSet::new();
        let roots: Vec<&PathBuf> = match &layout {
            Layout::Unified(root) => vec![root],
            Layout::Legacy { hierarchies, unified } => {
                hierarchies.iter().map(|hierarchy| &hierarchy.mount_point).chain(unified).collect()
            }
        };
        for root in roots {
            let dir = root.join(parent);
            let containers = named::<ContainerId>(&dir, "").into_iter();
            unknown.extend(
                containers
                    .filter(|(_, id)| self.containers.by_id(id).is_none())
                    .map(|(_, id)| id.as_str().into()),
            );
            let pods = named::<PodId>(&dir, "pod").into_iter();
            unknown.extend(
                pods.filter(|(_, id)| self.pods.by_id(id).is_none()).map(|(_, id)| format!("pod{id}").into()),
            );
        }
        for name in unknown {
            let swept = Cgroup::new(layout.clone(), &parent.join(&name))
                .and_then(|cgroup| if cgroup.processes()?.is_empty() { cgroup.remove() } else { Ok(()) });
            if let Err(error) = swept {
                tracing::warn!(cgroup = %name.display(), error = chain(&error), "sweep a cgroup");
            }
        }
    }
}

/// Where a launch leaves the network it was given, until its result is recorded.
pub(in crate::engine) const NETWORK_FILE: &str = "network.json";

fn read_network(run_dir: &Path) -> Option<NetworkStatus> {
    serde_json::from_slice(&fs::read(run_dir.join(NETWORK_FILE)).ok()?).ok()
}

/// Directories named by `prefix` and an id.
fn named<T: std::str::FromStr>(dir: &Path, prefix: &str) -> Vec<(PathBuf, T)> {
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let id = entry.file_name().to_str()?.strip_prefix(prefix)?.parse().ok()?;
            Some((entry.path(), id))
        })
        .collect()
}

fn sweep_namespaces(dir: &Path) -> io::Result<()> {
    namespace::remove_pinned(&dir.join("ns")).map_err(io::Error::other)?;
    host_mount::unmount_all(dir).map_err(io::Error::other)?;
    remove_tree(dir)
}

fn make_directories(config: &EngineConfig) -> io::Result<()> {
    let private = |path: PathBuf| fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    private(config.root.join("containers"))?;
    private(config.root.join("cache"))?;
    private(config.volumes_dir())?;
    private(config.run_root.join("containers"))?;
    private(config.run_root.join("pods"))
}

fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

//! The engine: containers, pods, images, networks and volumes of one machine.
//!
//! [`Engine`] is the whole vocabulary that `api` and `reconcile` may use. It knows neither of them.

mod announce;
pub mod config;
pub mod container;
pub mod error;
pub mod event;
pub mod failpoint;
pub mod host;
pub mod id;
pub mod image;
mod inner;
mod locks;
pub mod monitor;
mod names;
pub mod network;
pub mod pod;
mod recover;
mod rootfs;
pub mod runtime;
pub mod store;
pub mod volume;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use tokio::sync::broadcast;

use config::EngineConfig;
use container::spec::ContainerSpec;
use container::{
    ContainerFilter, ContainerRecord, ExecOutput, ExecRequest, LogLine, LogOptions, RemoveOptions,
    StartOutcome, StopOptions, StopOutcome, WaitCondition,
};
use error::{EngineError, Result, Subject};
use event::Event;
use id::{ContainerName, NameOrId, PodId, VolumeName};
use image::{ImageRecord, ProgressSink, PullOptions};
use inner::Inner;
use network::{NetworkRecord, VirtualService};
use pod::{PodRecord, PodSandboxSpec, PodState};
use volume::VolumeRecord;

/// Items of a stream that can break.
pub type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T>> + Send>>;

/// A container engine. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
    /// The last clone that goes ends what runs for this engine.
    _open: Arc<Open>,
}

struct Open(tokio_util::sync::CancellationToken);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// The two halves of an attached container.
pub struct AttachSession {
    /// Ends when the container does.
    pub output: BoxStream<(container::OutputStream, bytes::Bytes)>,
    /// Shutting it down closes the container's standard input, if it was asked for; dropping it merely detaches.
    pub input: Pin<Box<dyn tokio::io::AsyncWrite + Send>>,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct AttachOptions {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

impl Engine {
    /// Opens the store, recovers what a crash or a reboot left, adopts running containers.
    pub async fn open(config: EngineConfig) -> Result<Self> {
        Self::open_when_free(config, Duration::ZERO).await
    }

    /// As `open`, waiting for whoever has the root open now to close it.
    pub async fn open_when_free(config: EngineConfig, patience: Duration) -> Result<Self> {
        let inner = recover::open(config, patience).await?;
        let open = Arc::new(Open(inner.closing.clone()));
        Ok(Self { inner, _open: open })
    }

    pub fn config(&self) -> &EngineConfig {
        &self.inner.config
    }

    /// Every event from now on. A slow reader loses the oldest and is told how many.
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.inner.events.subscribe()
    }

    /// Persisted events in `[since, until]`, oldest first.
    pub fn past_events(&self, since: jiff::Timestamp, until: jiff::Timestamp) -> Result<Vec<Event>> {
        self.inner
            .store
            .events(since, until)
            .map_err(|source| EngineError::internal(Subject::Engine, "read the event journal", source))
    }

    // Containers. Reads are answered from memory and never wait for an effect.

    /// Records a container: image resolved (must be present), name chosen, volumes created. On disk when it returns.
    pub async fn create_container(&self, spec: ContainerSpec) -> Result<Arc<ContainerRecord>> {
        let inner = self.inner.clone();
        self.inner.detached(async move { inner.create_container(spec).await }).await
    }
    pub fn container(&self, container: &NameOrId) -> Result<Arc<ContainerRecord>> {
        Ok(self.inner.containers.find(&self.inner.names, container)?.record())
    }
    /// Newest first, as podman lists.
    pub fn containers(&self, filter: &ContainerFilter) -> Vec<Arc<ContainerRecord>> {
        self.inner.list_containers(filter)
    }
    pub async fn init_container(&self, container: &NameOrId) -> Result<()> {
        let inner = self.inner.clone();
        let container = container.clone();
        self.inner.detached(async move { inner.init_container(&container).await }).await
    }
    pub async fn start_container(&self, container: &NameOrId) -> Result<StartOutcome> {
        let inner = self.inner.clone();
        let container = container.clone();
        self.inner.detached(async move { inner.start_container(&container).await }).await
    }
    pub async fn stop_container(&self, container: &NameOrId, options: StopOptions) -> Result<StopOutcome> {
        let inner = self.inner.clone();
        let container = container.clone();
        self.inner.detached(async move { inner.stop_container(&container, options).await }).await
    }
    pub async fn restart_container(&self, container: &NameOrId, options: StopOptions) -> Result<()> {
        let inner = self.inner.clone();
        let container = container.clone();
        self.inner.detached(async move { inner.restart_container(&container, options).await }).await
    }
    pub async fn kill_container(&self, container: &NameOrId, signal: i32) -> Result<()> {
        let inner = self.inner.clone();
        let container = container.clone();
        self.inner.detached(async move { inner.kill_container(&container, signal).await }).await
    }
    pub async fn pause_container(&self, container: &NameOrId) -> Result<()> {
        let inner = self.inner.clone();
        let container = container.clone();
        self.inner.detached(async move { inner.pause_container(&container).await }).await
    }
    pub async fn unpause_container(&self, container: &NameOrId) -> Result<()> {
        let inner = self.inner.clone();
        let container = container.clone();
        self.inner.detached(async move { inner.unpause_container(&container).await }).await
    }
    /// Waits until any of `conditions` holds; the exit code of the last run, or -1 if it has none.
    pub async fn wait_container(&self, container: &NameOrId, conditions: &[WaitCondition]) -> Result<i32> {
        self.inner.wait_container(container, conditions).await
    }
    pub async fn remove_container(&self, container: &NameOrId, options: RemoveOptions) -> Result<()> {
        let inner = self.inner.clone();
        let container = container.clone();
        self.inner.detached(async move { inner.remove_container(&container, options).await }).await
    }
    pub async fn rename_container(&self, container: &NameOrId, name: ContainerName) -> Result<()> {
        let inner = self.inner.clone();
        let container = container.clone();
        self.inner.detached(async move { inner.rename_container(&container, name).await }).await
    }
    /// What is at a path inside, whether the container runs or not.
    pub async fn stat_path(&self, container: &NameOrId, path: &Path) -> Result<container::archive::PathStat> {
        let inner = self.inner.clone();
        let (container, path) = (container.clone(), path.to_owned());
        self.inner.detached(async move { inner.stat_path(&container, &path).await }).await
    }
    /// A tar stream of what is at a path inside.
    pub async fn read_archive(
        &self,
        container: &NameOrId,
        path: &Path,
        renames: BTreeMap<String, String>,
    ) -> Result<(container::archive::PathStat, BoxStream<bytes::Bytes>)> {
        let inner = self.inner.clone();
        let (container, path) = (container.clone(), path.to_owned());
        self.inner.detached(async move { inner.read_archive(&container, &path, renames).await }).await
    }
    /// Unpacks a tar file into a directory inside.
    pub async fn write_archive(
        &self,
        container: &NameOrId,
        path: &Path,
        archive: std::fs::File,
        options: container::archive::PutOptions,
    ) -> Result<()> {
        let inner = self.inner.clone();
        let (container, path) = (container.clone(), path.to_owned());
        self.inner
            .detached(async move { inner.write_archive(&container, &path, archive, options).await })
            .await
    }
    /// A tar stream of the whole root file system, without what is mounted in it.
    pub async fn export_container(&self, container: &NameOrId) -> Result<BoxStream<bytes::Bytes>> {
        let inner = self.inner.clone();
        let container = container.clone();
        self.inner.detached(async move { inner.export_container(&container).await }).await
    }
    pub async fn container_stats(&self, container: &NameOrId) -> Result<container::stats::ContainerStats> {
        let container = container.clone();
        self.read_host(move |inner| inner.container_stats(&container)).await
    }
    pub async fn top_of_container(
        &self,
        container: &NameOrId,
        columns: &container::top::Columns,
    ) -> Result<container::top::ProcessTable> {
        let (container, columns) = (container.clone(), columns.clone());
        self.read_host(move |inner| inner.top_of_container(&container, &columns)).await
    }
    pub async fn container_logs(
        &self,
        container: &NameOrId,
        options: LogOptions,
    ) -> Result<BoxStream<LogLine>> {
        self.inner.container_logs(container, options)
    }
    /// The container must have been initialised; attach before start to miss nothing.
    pub async fn attach_container(
        &self,
        container: &NameOrId,
        options: AttachOptions,
    ) -> Result<AttachSession> {
        self.inner.attach_container(container, options).await
    }
    pub async fn resize_container(&self, container: &NameOrId, columns: u16, rows: u16) -> Result<()> {
        self.inner.resize_container(container, columns, rows).await
    }
    /// Runs a command to its end and collects at most `output_limit` bytes; killed when the future is dropped.
    pub async fn exec_container(
        &self,
        container: &NameOrId,
        exec: ExecRequest,
        output_limit: usize,
    ) -> Result<ExecOutput> {
        self.inner.exec_container(container, &exec, output_limit).await
    }
    /// Starts a command with streams of its own, for exec sessions. A session of
    /// [`ExecLifetime::Connection`](monitor::protocol::ExecLifetime::Connection) is killed when its `control`
    /// is dropped.
    pub async fn start_exec(
        &self,
        container: &NameOrId,
        exec: ExecRequest,
        streams: container::exec::ExecStreams,
    ) -> Result<monitor::ExecSession> {
        self.inner.start_exec(container, &exec, streams).await
    }
    /// The image's contribution (command, env ...) merged with the spec: what really runs.
    pub fn runtime_spec(&self, container: &NameOrId) -> Result<oci_spec::runtime::Spec> {
        let record = self.container(container)?;
        self.inner.planned_spec(&record)
    }

    // Pods.

    pub async fn create_pod(&self, spec: PodSandboxSpec) -> Result<Arc<PodRecord>> {
        let inner = self.inner.clone();
        self.inner.detached(async move { inner.create_pod(spec).await }).await
    }
    pub fn pod(&self, pod: &NameOrId) -> Result<Arc<PodRecord>> {
        Ok(self.inner.pods.find(&self.inner.names, pod)?.record())
    }
    pub fn pods(&self) -> Vec<Arc<PodRecord>> {
        let mut pods: Vec<_> = self.inner.pods.entries().iter().map(|entry| entry.record()).collect();
        pods.sort_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| a.id.cmp(&b.id)));
        pods
    }
    pub fn pod_state(&self, pod: &PodRecord) -> PodState {
        self.inner.state_of_pod(pod)
    }
    /// Makes the pod's namespaces and network if they are not there: the address is known afterwards.
    /// Starting any of its containers does this too.
    pub async fn ensure_pod_sandbox(&self, pod: &NameOrId) -> Result<Arc<PodRecord>> {
        let entry = self.inner.pods.find(&self.inner.names, pod)?;
        let inner = self.inner.clone();
        self.inner.detached(async move { inner.ensure_sandbox(&entry).await }).await
    }
    /// The pod's network namespace, for probes from outside its containers. `None` on the host network.
    pub fn pod_netns(&self, pod: &PodId) -> Option<PathBuf> {
        self.inner.pod_netns(pod)
    }
    pub async fn start_pod(&self, pod: &NameOrId) -> Result<()> {
        let inner = self.inner.clone();
        let pod = pod.clone();
        self.inner.detached(async move { inner.start_pod(&pod).await }).await
    }
    pub async fn stop_pod(&self, pod: &NameOrId, options: StopOptions) -> Result<()> {
        let inner = self.inner.clone();
        let pod = pod.clone();
        self.inner.detached(async move { inner.stop_pod(&pod, options).await }).await
    }
    pub async fn kill_pod(&self, pod: &NameOrId, signal: i32) -> Result<()> {
        let inner = self.inner.clone();
        let pod = pod.clone();
        self.inner.detached(async move { inner.kill_pod(&pod, signal).await }).await
    }
    pub async fn top_of_pod(
        &self,
        pod: &NameOrId,
        columns: &container::top::Columns,
    ) -> Result<container::top::ProcessTable> {
        let (pod, columns) = (pod.clone(), columns.clone());
        self.read_host(move |inner| inner.top_of_pod(&pod, &columns)).await
    }
    pub async fn remove_pod(&self, pod: &NameOrId, options: RemoveOptions) -> Result<()> {
        let inner = self.inner.clone();
        let pod = pod.clone();
        self.inner.detached(async move { inner.remove_pod(&pod, options).await }).await
    }

    // Images.

    /// Pulls if the policy (default: missing) asks for it.
    pub async fn pull_image(
        &self,
        reference: &str,
        options: PullOptions,
        progress: Option<ProgressSink>,
    ) -> Result<Arc<ImageRecord>> {
        self.inner.pull_image(reference, options, progress).await
    }
    /// Loads a docker-archive, oci-archive (either may be compressed) or an OCI layout directory.
    pub async fn load_images(&self, archive: &Path) -> Result<Vec<Arc<ImageRecord>>> {
        let inner = self.inner.clone();
        let archive = archive.to_owned();
        self.inner.detached(async move { inner.load_images(&archive).await }).await
    }
    /// One archive with these images, in pieces; an error in the middle means that it is not whole.
    pub async fn save_images(
        &self,
        images: &[String],
        format: image::ArchiveFormat,
    ) -> Result<BoxStream<bytes::Bytes>> {
        self.inner.images.save(images, format).await
    }
    /// By id, unique id prefix, or name (short names resolve as podman does; `localhost/` included).
    pub fn image(&self, name: &str) -> Result<Arc<ImageRecord>> {
        self.inner.images.image(name)
    }
    pub fn images(&self) -> Vec<Arc<ImageRecord>> {
        self.inner.images.images()
    }
    pub async fn tag_image(&self, image: &str, name: &str) -> Result<()> {
        let inner = self.inner.clone();
        let (image, name) = (image.to_owned(), name.to_owned());
        self.inner.detached(async move { inner.tag_image(&image, &name).await }).await
    }
    /// Removes the name, and the image with its last name. Returns what was untagged and deleted.
    pub async fn remove_image(&self, image: &str, force: bool) -> Result<RemovedImage> {
        let inner = self.inner.clone();
        let image = image.to_owned();
        self.inner.detached(async move { inner.remove_image(&image, force).await }).await
    }
    /// Sends the image to a registry. Ends with the future.
    pub async fn push_image(
        &self,
        image: &str,
        options: image::PushOptions,
        progress: Option<image::PushSink>,
    ) -> Result<image::Pushed> {
        self.inner.images.push(image, options, progress).await
    }
    /// Takes `names`, or all, from the image; it stays, even without a name.
    pub async fn untag_image(&self, image: &str, names: &[String]) -> Result<()> {
        let inner = self.inner.clone();
        let (image, names) = (image.to_owned(), names.to_vec());
        self.inner.detached(async move { inner.untag_image(&image, &names).await }).await
    }
    /// Removes the images that are `wanted` away and that no container uses, with all their names.
    pub async fn prune_images(
        &self,
        wanted: impl Fn(&ImageRecord) -> bool + Send + Sync + 'static,
    ) -> Result<Vec<image::PrunedImage>> {
        let inner = self.inner.clone();
        self.inner.detached(async move { inner.prune_images(&wanted).await }).await
    }

    // Volumes.

    pub async fn create_volume(
        &self,
        name: Option<VolumeName>,
        labels: BTreeMap<String, String>,
        options: BTreeMap<String, String>,
    ) -> Result<Arc<VolumeRecord>> {
        let inner = self.inner.clone();
        self.inner.detached(async move { inner.create_volume(name, labels, options).await }).await
    }
    pub fn volume(&self, name: &str) -> Result<Arc<VolumeRecord>> {
        self.inner.volumes.find(name)
    }
    pub fn volumes(&self) -> Vec<Arc<VolumeRecord>> {
        self.inner.volumes.all()
    }
    pub async fn remove_volume(&self, name: &str, force: bool) -> Result<()> {
        let inner = self.inner.clone();
        let name = name.to_owned();
        self.inner.detached(async move { inner.remove_volume(&name, force).await }).await
    }

    // Networks.

    pub async fn create_network(&self, network: network::NetworkCreate) -> Result<Arc<NetworkRecord>> {
        let inner = self.inner.clone();
        self.inner.detached(async move { inner.create_network(network).await }).await
    }
    pub fn network(&self, network: &NameOrId) -> Result<Arc<NetworkRecord>> {
        self.inner.networks.network(network)
    }
    pub fn networks(&self) -> Vec<Arc<NetworkRecord>> {
        self.inner.networks.networks()
    }
    pub async fn remove_network(&self, network: &NameOrId, force: bool) -> Result<()> {
        let inner = self.inner.clone();
        let network = network.clone();
        self.inner.detached(async move { inner.remove_network(&network, force).await }).await
    }
    /// Makes exactly these virtual services true, in one transaction; unchanged means nothing is done.
    pub async fn apply_services(&self, services: Vec<VirtualService>) -> Result<()> {
        let networks = self.inner.networks.clone();
        self.inner.detached(async move { networks.apply_services(services).await }).await
    }
    /// A virtual address for `service` (`namespace/name`), the same one every time it is asked for,
    /// until released. `wanted` is honoured if free.
    pub async fn allocate_service_address(&self, service: &str, wanted: Option<IpAddr>) -> Result<IpAddr> {
        let networks = self.inner.networks.clone();
        let service = service.to_owned();
        self.inner.detached(async move { networks.allocate_service_address(&service, wanted).await }).await
    }
    pub async fn release_service_address(&self, service: &str) -> Result<()> {
        let networks = self.inner.networks.clone();
        let service = service.to_owned();
        self.inner.detached(async move { networks.release_service_address(&service).await }).await
    }

    // The owners' small durable notes: the reconciler keeps its generations and its played manifests here.

    pub async fn put_note(&self, area: &str, key: &str, value: Vec<u8>) -> Result<()> {
        let inner = self.inner.clone();
        let (area, key) = (area.to_owned(), key.to_owned());
        self.inner.detached(async move { inner.put_note(&area, &key, value).await }).await
    }
    pub async fn remove_note(&self, area: &str, key: &str) -> Result<()> {
        let inner = self.inner.clone();
        let (area, key) = (area.to_owned(), key.to_owned());
        self.inner.detached(async move { inner.remove_note(&area, &key).await }).await
    }
    pub fn notes(&self, area: &str) -> BTreeMap<String, Arc<[u8]>> {
        self.inner.notes.area(area)
    }

    /// Runs what reads many files of the host off the async threads.
    async fn read_host<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Arc<Inner>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = self.inner.clone();
        tokio::task::spawn_blocking(move || read(&inner)).await.unwrap_or_else(|source| {
            Err(EngineError::internal(Subject::Engine, "a reading ended before its time", source))
        })
    }

    /// Takes everything of this engine off the host: bridges, rules, cgroups. Refused while a container or a
    /// pod exists. The next container puts back what it needs.
    pub async fn dismantle(&self) -> Result<()> {
        if !self.containers(&ContainerFilter { all: true, ..Default::default() }).is_empty()
            || !self.pods().is_empty()
        {
            return Err(EngineError::new(
                error::ErrorKind::InUse,
                Subject::Engine,
                "containers or pods exist: remove them first",
            ));
        }
        let inner = self.inner.clone();
        self.inner
            .detached(async move {
                inner.networks.take_down().await?;
                let parent = Path::new("/").join(&inner.config.cgroup_parent);
                runtime::cgroup::Layout::detect()
                    .and_then(|layout| runtime::cgroup::Cgroup::new(layout, &parent))
                    .and_then(|cgroup| cgroup.remove())
                    .map_err(|error| {
                        EngineError::internal(Subject::Engine, "remove the parent cgroup", error)
                    })
            })
            .await
    }

    /// Stops what only this process drives (DNS, timers); containers run on.
    pub async fn close(&self) {
        self.inner.close(Machine::GoesOn).await
    }

    /// As `close`, and ends the containers' processes, each with its stop signal and stop timeout. That is
    /// not recorded: what ran comes back with the next boot.
    pub async fn close_and_end_containers(&self) {
        self.inner.close(Machine::GoesDown).await
    }
}

/// Why an engine is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Machine {
    GoesOn,
    GoesDown,
}

/// What `remove_image` removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RemovedImage {
    pub untagged: Vec<String>,
    pub deleted: Vec<id::ImageId>,
}

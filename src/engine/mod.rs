//! The engine: containers, pods, images, networks and volumes of one machine.
//!
//! [`Engine`] is the whole vocabulary that `api` and `reconcile` may use. It knows neither of them.

pub mod config;
pub mod container;
pub mod error;
pub mod event;
pub mod host;
pub mod id;
pub mod image;
pub mod monitor;
pub mod network;
pub mod pod;
pub mod runtime;
pub mod store;
pub mod volume;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use tokio::sync::broadcast;

use config::EngineConfig;
use container::spec::ContainerSpec;
use container::{
    ContainerFilter, ContainerRecord, ExecOutput, ExecRequest, LogLine, LogOptions, RemoveOptions,
    StartOutcome, StopOptions, StopOutcome, WaitCondition,
};
use error::Result;
use event::Event;
use id::{ContainerId, NameOrId, PodId, VolumeName};
use image::{ImageRecord, ProgressSink, PullOptions};
use network::{NetworkRecord, VirtualService};
use pod::{PodRecord, PodSandboxSpec, PodState};
use volume::VolumeRecord;

/// Items of a stream that can break.
pub type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T>> + Send>>;

/// A container engine. Cheap to clone.
#[derive(Clone)]
pub struct Engine(#[allow(dead_code)] Arc<Inner>);

struct Inner {}

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

#[allow(unused_variables)]
impl Engine {
    /// Opens the store, recovers what a crash or a reboot left, adopts running containers.
    pub async fn open(config: EngineConfig) -> Result<Self> {
        todo!("core")
    }

    pub fn config(&self) -> &EngineConfig {
        todo!("core")
    }

    /// Every event from now on. A slow reader loses the oldest and is told how many.
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        todo!("core")
    }

    /// Persisted events in `[since, until]`, oldest first.
    pub fn past_events(&self, since: jiff::Timestamp, until: jiff::Timestamp) -> Result<Vec<Event>> {
        todo!("core")
    }

    // Containers. Reads are answered from memory and never wait for an effect.

    /// Records a container: image resolved (must be present), name chosen, volumes created. On disk when it returns.
    pub async fn create_container(&self, spec: ContainerSpec) -> Result<Arc<ContainerRecord>> {
        todo!("core")
    }
    pub fn container(&self, container: &NameOrId) -> Result<Arc<ContainerRecord>> {
        todo!("core")
    }
    /// Newest first, as podman lists.
    pub fn containers(&self, filter: &ContainerFilter) -> Vec<Arc<ContainerRecord>> {
        todo!("core")
    }
    pub async fn init_container(&self, container: &NameOrId) -> Result<()> {
        todo!("core")
    }
    pub async fn start_container(&self, container: &NameOrId) -> Result<StartOutcome> {
        todo!("core")
    }
    pub async fn stop_container(&self, container: &NameOrId, options: StopOptions) -> Result<StopOutcome> {
        todo!("core")
    }
    pub async fn restart_container(&self, container: &NameOrId, options: StopOptions) -> Result<()> {
        todo!("core")
    }
    pub async fn kill_container(&self, container: &NameOrId, signal: i32) -> Result<()> {
        todo!("core")
    }
    pub async fn pause_container(&self, container: &NameOrId) -> Result<()> {
        todo!("core")
    }
    pub async fn unpause_container(&self, container: &NameOrId) -> Result<()> {
        todo!("core")
    }
    /// Waits until any of `conditions` holds; the exit code of the last run, or -1 if it has none.
    pub async fn wait_container(&self, container: &NameOrId, conditions: &[WaitCondition]) -> Result<i32> {
        todo!("core")
    }
    pub async fn remove_container(&self, container: &NameOrId, options: RemoveOptions) -> Result<()> {
        todo!("core")
    }
    pub async fn container_logs(
        &self,
        container: &NameOrId,
        options: LogOptions,
    ) -> Result<BoxStream<LogLine>> {
        todo!("monitor")
    }
    /// The container must have been initialised; attach before start to miss nothing.
    pub async fn attach_container(
        &self,
        container: &NameOrId,
        options: AttachOptions,
    ) -> Result<AttachSession> {
        todo!("monitor")
    }
    pub async fn resize_container(&self, container: &NameOrId, columns: u16, rows: u16) -> Result<()> {
        todo!("monitor")
    }
    /// Runs a command to its end and collects at most `output_limit` bytes; killed when the future is dropped.
    pub async fn exec_container(
        &self,
        container: &NameOrId,
        exec: ExecRequest,
        output_limit: usize,
    ) -> Result<ExecOutput> {
        todo!("monitor")
    }
    /// The image's contribution (command, env ...) merged with the spec: what really runs.
    pub fn runtime_spec(&self, container: &NameOrId) -> Result<oci_spec::runtime::Spec> {
        todo!("core")
    }

    // Pods.

    pub async fn create_pod(&self, spec: PodSandboxSpec) -> Result<Arc<PodRecord>> {
        todo!("core")
    }
    pub fn pod(&self, pod: &NameOrId) -> Result<Arc<PodRecord>> {
        todo!("core")
    }
    pub fn pods(&self) -> Vec<Arc<PodRecord>> {
        todo!("core")
    }
    pub fn pod_state(&self, pod: &PodRecord) -> PodState {
        todo!("core")
    }
    /// Makes the pod's namespaces and network if they are not there: the address is known afterwards.
    /// Starting any of its containers does this too.
    pub async fn ensure_pod_sandbox(&self, pod: &NameOrId) -> Result<Arc<PodRecord>> {
        todo!("core")
    }
    /// The pod's network namespace, for probes from outside its containers. `None` on the host network.
    pub fn pod_netns(&self, pod: &PodId) -> Option<PathBuf> {
        todo!("core")
    }
    pub async fn start_pod(&self, pod: &NameOrId) -> Result<()> {
        todo!("core")
    }
    pub async fn stop_pod(&self, pod: &NameOrId, options: StopOptions) -> Result<()> {
        todo!("core")
    }
    pub async fn kill_pod(&self, pod: &NameOrId, signal: i32) -> Result<()> {
        todo!("core")
    }
    pub async fn remove_pod(&self, pod: &NameOrId, options: RemoveOptions) -> Result<()> {
        todo!("core")
    }

    // Images.

    /// Pulls if the policy (default: missing) asks for it.
    pub async fn pull_image(
        &self,
        reference: &str,
        options: PullOptions,
        progress: Option<ProgressSink>,
    ) -> Result<Arc<ImageRecord>> {
        todo!("image")
    }
    /// Loads a docker-archive, oci-archive (either may be compressed) or an OCI layout directory.
    pub async fn load_images(&self, archive: &Path) -> Result<Vec<Arc<ImageRecord>>> {
        todo!("image")
    }
    /// By id, unique id prefix, or name (short names resolve as podman does; `localhost/` included).
    pub fn image(&self, name: &str) -> Result<Arc<ImageRecord>> {
        todo!("image")
    }
    pub fn images(&self) -> Vec<Arc<ImageRecord>> {
        todo!("image")
    }
    pub async fn tag_image(&self, image: &str, name: &str) -> Result<()> {
        todo!("image")
    }
    /// Removes the name, and the image with its last name. Returns what was untagged and deleted.
    pub async fn remove_image(&self, image: &str, force: bool) -> Result<RemovedImage> {
        todo!("image")
    }

    // Volumes.

    pub async fn create_volume(
        &self,
        name: Option<VolumeName>,
        labels: BTreeMap<String, String>,
        options: BTreeMap<String, String>,
    ) -> Result<Arc<VolumeRecord>> {
        todo!("core")
    }
    pub fn volume(&self, name: &str) -> Result<Arc<VolumeRecord>> {
        todo!("core")
    }
    pub fn volumes(&self) -> Vec<Arc<VolumeRecord>> {
        todo!("core")
    }
    pub async fn remove_volume(&self, name: &str, force: bool) -> Result<()> {
        todo!("core")
    }

    // Networks.

    pub async fn create_network(&self, network: network::NetworkCreate) -> Result<Arc<NetworkRecord>> {
        todo!("network")
    }
    pub fn network(&self, network: &NameOrId) -> Result<Arc<NetworkRecord>> {
        todo!("network")
    }
    pub fn networks(&self) -> Vec<Arc<NetworkRecord>> {
        todo!("network")
    }
    pub async fn remove_network(&self, network: &NameOrId, force: bool) -> Result<()> {
        todo!("network")
    }
    /// Makes exactly these virtual services true, in one transaction; unchanged means nothing is done.
    pub async fn apply_services(&self, services: Vec<VirtualService>) -> Result<()> {
        todo!("network")
    }
    /// A virtual address for `service` (`namespace/name`), the same one every time it is asked for,
    /// until released. `wanted` is honoured if free.
    pub async fn allocate_service_address(&self, service: &str, wanted: Option<IpAddr>) -> Result<IpAddr> {
        todo!("network")
    }
    pub async fn release_service_address(&self, service: &str) -> Result<()> {
        todo!("network")
    }

    // The owners' small durable notes: the reconciler keeps its generations and its played manifests here.

    pub async fn put_note(&self, area: &str, key: &str, value: Vec<u8>) -> Result<()> {
        todo!("core")
    }
    pub async fn remove_note(&self, area: &str, key: &str) -> Result<()> {
        todo!("core")
    }
    pub fn notes(&self, area: &str) -> BTreeMap<String, Arc<[u8]>> {
        todo!("core")
    }

    /// Stops what only this process drives (DNS, timers); containers run on.
    pub async fn close(&self) {
        todo!("core")
    }
}

/// What `remove_image` removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RemovedImage {
    pub untagged: Vec<String>,
    pub deleted: Vec<id::ImageId>,
}

#[allow(dead_code)]
fn _ids(_: &ContainerId, _: &PodId) {}

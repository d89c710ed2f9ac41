//! What the manifests say, in the engine's terms. Plain data: made by `manifest/`, read by `plan`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::engine::container::spec::{ContainerSpec, Protocol};
use crate::engine::image::PullPolicy;
use crate::engine::pod::PodSandboxSpec;

/// Everything the sources want, by stack.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DesiredState {
    pub stacks: BTreeMap<StackName, DesiredStack>,
    /// Which sources were asked, and whether the answer can be trusted. Only what came from a source
    /// that was read may be removed; what came from one that is not named here is not looked at.
    pub sources: BTreeMap<SourceName, SourceHealth>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceHealth {
    Read,
    /// Missing, unmounted or suddenly empty: nothing that came from it is removed.
    Held {
        cause: String,
    },
}

/// Where stacks come from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceName {
    /// A directory given to `selkie up` or `selkie apply`: absolute, symlinks not resolved, so that a
    /// swapped link (git-sync) stays the same source.
    Directory(PathBuf),
    /// Manifests played over the API, kept by the engine's notes.
    Played,
}

/// One top-level file or one subdirectory of a source.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StackName {
    pub source: SourceName,
    /// File name without extension, or directory name.
    pub name: String,
}

impl fmt::Display for StackName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.source {
            SourceName::Directory(_) => f.write_str(&self.name),
            SourceName::Played => write!(f, "played/{}", self.name),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum DesiredStack {
    Loaded(StackObjects),
    /// Something in it is wrong: it keeps its last good state.
    Held {
        errors: Vec<ManifestError>,
    },
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct StackObjects {
    /// Every object of a kind we handle, in order of kind and name: for the status.
    pub objects: Vec<(ObjectRef, Location)>,
    pub pods: Vec<DesiredPod>,
    pub services: Vec<DesiredService>,
    /// PersistentVolumeClaims: engine volumes to exist before the pods.
    pub volumes: Vec<DesiredVolumeClaim>,
    /// Accepted and without effect on one node, or kinds not handled: for the status.
    pub warnings: Vec<ManifestWarning>,
}

/// `namespace/name` of a Kubernetes object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectName {
    pub namespace: String,
    pub name: String,
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            "default" => f.write_str(&self.name),
            namespace => write!(f, "{namespace}/{}", self.name),
        }
    }
}

/// The document a pod comes from: itself, or its Deployment, Job ...
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectRef {
    /// `Pod`, `Deployment`, `Job` ...
    pub kind: String,
    pub object: ObjectName,
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.to_lowercase(), self.object)
    }
}

/// Where in which file something was said. Lines and columns count from 1.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Location {
    pub file: PathBuf,
    pub line: usize,
    pub column: usize,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

/// Why a manifest is refused: `web.yaml:7:5: spec.contaners: unknown field (did you mean "containers"?)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct ManifestError {
    pub location: Location,
    /// `spec.containers[0].image`; empty when the document as a whole is meant.
    pub field: String,
    pub message: String,
    /// The likely field, for a typo.
    pub hint: Option<String>,
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.location)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " (did you mean {hint:?}?)"),
            None => Ok(()),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestWarning {
    pub location: Location,
    pub field: String,
    pub message: String,
}

/// One pod that shall run. The reconciler keeps it, as it was applied, in the engine's notes: a pod whose
/// manifest is broken today is still supervised by what was good yesterday.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DesiredPod {
    /// Of the pod itself: a Deployment's replicas are `web-0`, `web-1` ...
    pub name: ObjectName,
    pub owner: ObjectRef,
    pub location: Location,
    /// Engine pod to create; the reconciler adds its ownership labels when applying.
    pub sandbox: PodSandboxSpec,
    /// Run one by one before `containers`; those with `sidecar` keep running.
    pub init_containers: Vec<DesiredContainer>,
    pub containers: Vec<DesiredContainer>,
    pub volumes: BTreeMap<String, DesiredVolume>,
    pub restart_policy: PodRestartPolicy,
    pub termination_grace_period_secs: u32,
    pub fs_group: Option<u32>,
    /// Job limits; `None` for pods that shall run for ever.
    pub job: Option<JobLimits>,
    pub active_deadline_secs: Option<u64>,
    /// With `hostname`, the pod's own DNS name: `HOSTNAME.SUBDOMAIN.NAMESPACE.svc.cluster.local`, as
    /// long as a headless Service is called like the subdomain.
    pub subdomain: Option<String>,
    /// From `imagePullSecrets`: the first whose `registry` fits is to be used when pulling.
    pub registry_logins: Vec<RegistryLogin>,
    /// Names of container ports, for Services' `targetPort`.
    pub named_ports: BTreeMap<String, u16>,
    /// Kubernetes labels of the pod, for Service selectors.
    pub labels: BTreeMap<String, String>,
    /// Of everything that shapes the pod (spec, referenced ConfigMaps and Secrets), except the image
    /// digests, which the planner compares by themselves. 64 hex digits.
    pub hash: String,
    /// The shape in words: field path to rendered value (secrets as their hash), so that a plan can
    /// print what changed field by field. Stored with the pod as an annotation.
    pub fields: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PodRestartPolicy {
    Always,
    OnFailure,
    Never,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobLimits {
    /// Failures after which the Job has failed. Default 6.
    pub backoff_limit: u32,
}

/// A container of a pod, with what only the machine can fill in left open.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DesiredContainer {
    /// Name within the pod.
    pub name: String,
    /// Complete but for `pod`, `mounts` of volumes, and texts (command, variables) that hold a value known
    /// only when the pod has its sandbox: `DesiredContainer::resolved_spec` fills those in.
    pub spec: ContainerSpec,
    pub pull_policy: PullPolicy,
    pub mounts: Vec<VolumeMount>,
    /// Variables whose value came from a Secret: never printed.
    pub secret_env: BTreeSet<String>,
    /// A native sidecar: an init container with `restartPolicy: Always`.
    pub sidecar: bool,
    pub startup_probe: Option<Probe>,
    pub liveness_probe: Option<Probe>,
    pub readiness_probe: Option<Probe>,
    pub post_start: Option<HookAction>,
    pub pre_stop: Option<HookAction>,
}

/// What is known of a pod only when it has its sandbox (`status.podIP` ...).
#[derive(Debug, Clone)]
pub struct LateFacts {
    /// Empty on the host network.
    pub pod_addresses: Vec<IpAddr>,
    /// Stands in for the pod's address on the host network.
    pub host_address: IpAddr,
    pub pod_uid: String,
}

/// A text of the manifest that stands for one of the [`LateFacts`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LateValue {
    PodIp,
    PodIps,
    HostIp,
    PodUid,
}

/// Name and password for one registry, out of a `kubernetes.io/dockerconfigjson` Secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryLogin {
    /// Host with port, perhaps with a path: `registry.example:5000/team`.
    pub registry: String,
    pub username: String,
    pub password: String,
}

impl fmt::Debug for RegistryLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RegistryLogin({}, {}, ...)", self.registry, self.username)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VolumeMount {
    pub volume: String,
    pub mount_path: String,
    pub read_only: bool,
    pub sub_path: Option<String>,
    pub propagation: MountPropagation,
}

/// Kubernetes `mountPropagation`: `None`, `HostToContainer`, `Bidirectional`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountPropagation {
    #[default]
    Private,
    Slave,
    Shared,
}

impl MountPropagation {
    /// As a mount option.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Private => "rprivate",
            Self::Slave => "rslave",
            Self::Shared => "rshared",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum DesiredVolume {
    EmptyDir {
        memory: bool,
        size_limit_bytes: Option<u64>,
    },
    HostPath {
        path: PathBuf,
        kind: HostPathKind,
    },
    /// ConfigMap, Secret, projected, downwardAPI: files written by us. Secret content stays in memory.
    Files {
        files: Vec<VolumeFile>,
        secret: bool,
    },
    /// A PersistentVolumeClaim: an engine volume of that name.
    Claim {
        volume: String,
        read_only: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeFile {
    /// Relative, without `..`.
    pub path: String,
    #[serde(with = "base64_bytes")]
    pub content: Vec<u8>,
    /// Permission bits, `0o644`.
    pub mode: u32,
}

/// Kubernetes hostPath types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostPathKind {
    Unchecked,
    DirectoryOrCreate,
    Directory,
    FileOrCreate,
    File,
    Socket,
    CharDevice,
    BlockDevice,
}

/// A check made from the daemon, in the pod's network namespace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    pub action: ProbeAction,
    pub initial_delay_secs: u32,
    /// Default 10, at least 1.
    pub period_secs: u32,
    /// Default 1, at least 1.
    pub timeout_secs: u32,
    pub success_threshold: u32,
    pub failure_threshold: u32,
    pub termination_grace_period_secs: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ProbeAction {
    Exec { command: Vec<String> },
    Http(HttpAction),
    Tcp { host: Option<String>, port: u16 },
    Grpc { port: u16, service: String },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HttpAction {
    /// `None`: the pod's own address.
    pub host: Option<String>,
    pub port: u16,
    pub path: String,
    pub https: bool,
    pub headers: Vec<(String, String)>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum HookAction {
    Exec { command: Vec<String> },
    Http(HttpAction),
    Sleep { seconds: u32 },
}

/// A Kubernetes Service, endpoints not yet known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DesiredService {
    pub name: ObjectName,
    pub location: Location,
    pub selector: BTreeMap<String, String>,
    pub address: ServiceAddress,
    pub ports: Vec<DesiredServicePort>,
    pub publish_not_ready: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceAddress {
    /// A virtual address; `Some` if the manifest fixes it.
    Cluster(Option<IpAddr>),
    Headless,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DesiredServicePort {
    pub name: Option<String>,
    pub port: u16,
    pub protocol: Protocol,
    pub target: TargetPort,
    pub node_port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TargetPort {
    Number(u16),
    /// A container port's name, looked up per pod in `DesiredPod::named_ports`.
    Name(String),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DesiredVolumeClaim {
    pub volume: String,
    pub location: Location,
    pub labels: BTreeMap<String, String>,
    pub options: BTreeMap<String, String>,
}

impl DesiredPod {
    pub fn all_containers(&self) -> impl Iterator<Item = &DesiredContainer> {
        self.init_containers.iter().chain(&self.containers)
    }
}

impl LateValue {
    const ALL: [Self; 4] = [Self::PodIp, Self::PodIps, Self::HostIp, Self::PodUid];

    /// What stands for the value in a converted text. A NUL can be in no argument and no variable, so
    /// nothing a user writes is taken for it.
    pub fn placeholder(self) -> &'static str {
        match self {
            Self::PodIp => "\0status.podIP\0",
            Self::PodIps => "\0status.podIPs\0",
            Self::HostIp => "\0status.hostIP\0",
            Self::PodUid => "\0metadata.uid\0",
        }
    }

    /// The Kubernetes field path.
    pub fn field_path(self) -> &'static str {
        self.placeholder().trim_matches('\0')
    }

    /// The value that `text` stands for as a whole.
    pub fn of_placeholder(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|value| value.placeholder() == text)
    }

    /// Replaces every placeholder in `text`.
    pub fn resolve(text: &str, facts: &LateFacts) -> String {
        if !text.contains('\0') {
            return text.to_owned();
        }
        Self::ALL
            .into_iter()
            .fold(text.to_owned(), |text, value| text.replace(value.placeholder(), &value.of(facts)))
    }

    fn of(self, facts: &LateFacts) -> String {
        let first = facts.pod_addresses.first().unwrap_or(&facts.host_address);
        match self {
            Self::PodIp => first.to_string(),
            Self::PodIps if facts.pod_addresses.is_empty() => first.to_string(),
            Self::PodIps => facts.pod_addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
            Self::HostIp => facts.host_address.to_string(),
            Self::PodUid => facts.pod_uid.clone(),
        }
    }
}

impl DesiredContainer {
    /// `spec` with everything in it that only the sandbox could tell.
    pub fn resolved_spec(&self, facts: &LateFacts) -> ContainerSpec {
        let mut spec = self.spec.clone();
        let texts = spec.entrypoint.iter_mut().flatten().chain(spec.command.iter_mut().flatten());
        for text in texts.chain(spec.env.values_mut()) {
            if text.contains('\0') {
                *text = LateValue::resolve(text, facts);
            }
        }
        spec
    }
}

impl DesiredPod {
    /// The login for pulling `image` (a fully qualified reference), if its pull Secrets have one.
    pub fn login_for(&self, image: &str) -> Option<&RegistryLogin> {
        self.registry_logins.iter().find(|login| {
            image.strip_prefix(&login.registry).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }
}

/// Bytes as base64 text: a JSON array of numbers would be four times as long.
mod base64_bytes {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        STANDARD.decode(text.as_ref()).map_err(serde::de::Error::custom)
    }
}

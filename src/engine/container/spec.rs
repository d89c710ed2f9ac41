//! What a container shall be: validated, immutable after create.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::engine::config::RuntimeName;
use crate::engine::id::{ContainerId, ContainerName, NetworkName, PodId, VolumeName};

/// A container as requested. `None` means "as the image says, else the engine's default".
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// `None`: the engine makes a name up.
    pub name: Option<ContainerName>,
    /// The image as typed; resolved to an id at create and kept for display. Empty with `rootfs`.
    pub image: String,
    /// A prepared root file system instead of an image.
    pub rootfs: Option<PathBuf>,
    pub pod: Option<PodId>,
    pub entrypoint: Option<Vec<String>>,
    /// Arguments. When `entrypoint` is set and this is `None`, the image's own command is dropped too.
    pub command: Option<Vec<String>>,
    /// Added to, and winning over, the image's environment.
    pub env: BTreeMap<String, String>,
    pub working_dir: Option<String>,
    /// `user[:group]`, by name or number.
    pub user: Option<String>,
    pub supplemental_groups: Vec<u32>,
    pub terminal: bool,
    /// Keep standard input open while nobody is attached.
    pub stdin_open: bool,
    pub hostname: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub mounts: Vec<Mount>,
    pub network: NetworkMode,
    pub published_ports: Vec<PortMapping>,
    pub dns: DnsConfig,
    /// Lines added to `/etc/hosts`: address and names.
    pub hosts: Vec<(IpAddr, Vec<String>)>,
    pub pid_namespace: NamespaceMode,
    pub ipc_namespace: NamespaceMode,
    pub uts_namespace: NamespaceMode,
    pub cgroup_namespace: NamespaceMode,
    pub security: SecurityOptions,
    pub resources: Resources,
    pub ulimits: Vec<Ulimit>,
    pub sysctls: BTreeMap<String, String>,
    pub devices: Vec<Device>,
    /// Size of `/dev/shm` in bytes; default 64 MiB.
    pub shm_size_bytes: Option<u64>,
    pub oom_score_adj: Option<i32>,
    /// Default: the image's, else 15 (SIGTERM).
    pub stop_signal: Option<i32>,
    /// Seconds between the stop signal and SIGKILL. Default 10, podman's.
    pub stop_timeout_secs: u32,
    /// What the engine itself does when the container exits. Pods of the reconciler use `No`: their
    /// pod worker restarts, with kubelet's back-off.
    pub restart_policy: RestartPolicy,
    pub log: LogConfig,
    /// Run an init process as PID 1 that reaps zombies.
    pub init: bool,
    /// Remove the container when it has exited.
    pub auto_remove: bool,
    pub healthcheck: Option<Healthcheck>,
    pub umask: Option<u32>,
    pub timezone: Option<String>,
    /// `None`: the engine's default runtime.
    pub runtime: Option<RuntimeName>,
    pub created_by: CreatedBy,
}

impl ContainerSpec {
    /// A container of `image` with podman's defaults for everything else.
    pub fn new(image: impl Into<String>) -> Self {
        Self {
            name: None,
            image: image.into(),
            rootfs: None,
            pod: None,
            entrypoint: None,
            command: None,
            env: BTreeMap::new(),
            working_dir: None,
            user: None,
            supplemental_groups: Vec::new(),
            terminal: false,
            stdin_open: false,
            hostname: None,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            mounts: Vec::new(),
            network: NetworkMode::default(),
            published_ports: Vec::new(),
            dns: DnsConfig::default(),
            hosts: Vec::new(),
            pid_namespace: NamespaceMode::Private,
            ipc_namespace: NamespaceMode::Private,
            uts_namespace: NamespaceMode::Private,
            cgroup_namespace: NamespaceMode::Private,
            security: SecurityOptions::default(),
            resources: Resources::default(),
            ulimits: Vec::new(),
            sysctls: BTreeMap::new(),
            devices: Vec::new(),
            shm_size_bytes: None,
            oom_score_adj: None,
            stop_signal: None,
            stop_timeout_secs: 10,
            restart_policy: RestartPolicy::No,
            log: LogConfig::default(),
            init: false,
            auto_remove: false,
            healthcheck: None,
            umask: None,
            timezone: None,
            runtime: None,
            created_by: CreatedBy::Api,
        }
    }
}

/// Which door made an object. What the reconciler did not make it never removes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CreatedBy {
    Api,
    Reconciler,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path inside the container.
    pub destination: String,
    pub source: MountSource,
    pub read_only: bool,
    /// Further options as mount(8) spells them: `noexec`, `nosuid`, `rslave` ...
    pub options: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountSource {
    /// A file or directory of the host.
    Bind(PathBuf),
    /// A directory below `base` that may be written by someone hostile (`subPath`): resolved without
    /// leaving `base`, at mount time.
    BindBeneath {
        base: PathBuf,
        path: PathBuf,
    },
    /// A named volume, created if missing; `sub_path` is resolved without leaving it.
    Volume {
        name: VolumeName,
        sub_path: Option<PathBuf>,
    },
    /// A volume made for this container alone and removed with it when asked for (`rm -v`).
    AnonymousVolume,
    Tmpfs {
        size_bytes: Option<u64>,
        mode: Option<u32>,
    },
}

/// How the container reaches the network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// Joined to these networks; empty means the default network.
    Bridge(Vec<NetworkAttachment>),
    Host,
    /// A private namespace with nothing but loopback.
    None,
    /// The pod's namespace.
    Pod,
    Container(ContainerId),
    /// An existing namespace, by path.
    Path(PathBuf),
}

impl Default for NetworkMode {
    fn default() -> Self {
        Self::Bridge(Vec::new())
    }
}

/// One network to join, with what the user fixed about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetworkAttachment {
    pub network: NetworkName,
    /// Extra DNS names on this network.
    pub aliases: Vec<String>,
    pub static_addresses: Vec<IpAddr>,
    /// `aa:bb:cc:dd:ee:ff`
    pub static_mac: Option<String>,
    pub interface: Option<String>,
}

/// One host port (or a range of them) forwarded into the container.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PortMapping {
    /// Host address to listen on; unspecified means all.
    pub host_address: IpAddr,
    /// 0: a free port is chosen at create.
    pub host_port: u16,
    pub container_port: u16,
    /// How many consecutive ports; at least 1.
    pub range: u16,
    pub protocol: Protocol,
}

impl PortMapping {
    pub fn new(host_port: u16, container_port: u16, protocol: Protocol) -> Self {
        Self {
            host_address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            host_port,
            container_port,
            range: 1,
            protocol,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// The container's `/etc/resolv.conf`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DnsConfig {
    /// Empty: the network's own resolver, else the host's servers.
    pub servers: Vec<IpAddr>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NamespaceMode {
    Private,
    Host,
    Pod,
    Container(ContainerId),
    Path(PathBuf),
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SecurityOptions {
    pub privileged: bool,
    pub read_only_rootfs: bool,
    pub no_new_privileges: bool,
    /// `CAP_`-prefixed upper-case names, or `ALL`.
    pub capabilities_add: Vec<String>,
    pub capabilities_drop: Vec<String>,
    pub seccomp: SeccompProfile,
    pub apparmor_profile: Option<String>,
    pub selinux_label: Option<String>,
    /// Lift the masked and read-only paths of `/proc` and `/sys` (Kubernetes `procMount: Unmasked`).
    pub unmasked: bool,
    /// Refuse to start as uid 0 (Kubernetes `runAsNonRoot`).
    pub run_as_non_root: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SeccompProfile {
    #[default]
    Default,
    Unconfined,
    File(PathBuf),
}

/// Limits, by cgroup. `None`: no limit of our own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Resources {
    pub memory_limit_bytes: Option<u64>,
    pub memory_reservation_bytes: Option<u64>,
    /// Memory and swap together; -1 is unlimited.
    pub memory_swap_bytes: Option<i64>,
    /// Microseconds of CPU time per period.
    pub cpu_quota_us: Option<i64>,
    /// Microseconds; kernel default 100,000.
    pub cpu_period_us: Option<u64>,
    /// Relative weight as of cgroup v1: 2 to 262,144, default 1,024.
    pub cpu_shares: Option<u64>,
    pub cpuset_cpus: Option<String>,
    pub cpuset_mems: Option<String>,
    /// Number of processes. Default 2,048, podman's; -1 is unlimited.
    pub pids_limit: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// Lower case without the `RLIMIT_` prefix: `nofile`.
    pub name: String,
    pub soft: u64,
    pub hard: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    pub host_path: PathBuf,
    pub container_path: PathBuf,
    /// Any of `r`, `w`, `m`.
    pub permissions: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    #[default]
    No,
    Always,
    UnlessStopped,
    OnFailure {
        /// `None`: without end.
        max_retries: Option<u32>,
    },
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogConfig {
    pub driver: LogDriver,
    /// `None`: `ctr.log` in the container's directory.
    pub path: Option<PathBuf>,
    /// Rotate past this size; `None`: never.
    pub max_size_bytes: Option<u64>,
    pub tag: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogDriver {
    /// The CRI line format: `TIMESTAMP STREAM F|P LINE`.
    #[default]
    K8sFile,
    JsonFile,
    None,
}

/// A health check that runs a command in the container (podman and docker; Kubernetes probes are the
/// reconciler's).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Healthcheck {
    /// As in the image config: `["CMD", ...]`, `["CMD-SHELL", text]` or `["NONE"]`.
    pub test: Vec<String>,
    pub interval_ns: u64,
    pub timeout_ns: u64,
    pub start_period_ns: u64,
    pub retries: u32,
}

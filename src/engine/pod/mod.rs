//! Pods: containers that share namespaces. The sandbox is the namespaces themselves, kept alive by
//! bind mounts below the run root; it costs no process unless the pod shares a PID namespace.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub(in crate::engine) mod lifecycle;
mod sandbox;
pub(in crate::engine) mod table;

use crate::engine::container::spec::{CreatedBy, DnsConfig, NetworkMode, PortMapping, Resources};
use crate::engine::id::{ContainerId, PodId, PodName};
use crate::engine::network::NetworkStatus;

/// A pod as requested.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PodSandboxSpec {
    pub name: PodName,
    /// Default: the pod's name.
    pub hostname: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub share: SharedNamespaces,
    /// `Bridge`, `Host` or `None`.
    pub network: NetworkMode,
    pub published_ports: Vec<PortMapping>,
    pub dns: DnsConfig,
    pub hosts: Vec<(IpAddr, Vec<String>)>,
    pub sysctls: BTreeMap<String, String>,
    pub resources: Resources,
    /// Size of the `/dev/shm` its containers share, bytes; default 64 MiB.
    pub shm_size_bytes: Option<u64>,
    pub created_by: CreatedBy,
}

/// Which namespaces the pod's containers share. `Host` network, ipc or pid come from the specs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedNamespaces {
    pub net: bool,
    pub ipc: bool,
    pub uts: bool,
    pub pid: bool,
    pub host_pid: bool,
    pub host_ipc: bool,
}

impl Default for SharedNamespaces {
    fn default() -> Self {
        Self { net: true, ipc: true, uts: true, pid: false, host_pid: false, host_ipc: false }
    }
}

/// A pod as the engine knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PodRecord {
    pub id: PodId,
    pub spec: PodSandboxSpec,
    pub created_at: Timestamp,
    /// In order of creation.
    pub containers: Vec<ContainerId>,
    /// Addresses while the sandbox stands.
    pub network: Option<NetworkStatus>,
}

/// podman's pod states, computed from the containers'.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodState {
    Created,
    Running,
    Degraded,
    Paused,
    Stopped,
    Exited,
    Error,
}

impl PodState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "Created",
            Self::Running => "Running",
            Self::Degraded => "Degraded",
            Self::Paused => "Paused",
            Self::Stopped => "Stopped",
            Self::Exited => "Exited",
            Self::Error => "Error",
        }
    }
}

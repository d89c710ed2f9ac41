//! Where one engine keeps its things and which defaults it applies.

use std::path::PathBuf;

/// Paths and defaults of one engine. Every path is a flag and an environment variable of the
/// daemon, so that many instances run side by side.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Durable: state database, blobs, layers, volumes. Default `/var/lib/selkie`.
    pub root: PathBuf,
    /// Disposable, empty after a boot: sockets, namespaces, pid and exit files. Default `/run/selkie`.
    pub run_root: PathBuf,
    /// The `selkie-monitor` program.
    pub monitor: PathBuf,
    /// The OCI runtime for containers that name none: `selkie` is our own launcher.
    pub runtime: RuntimeName,
    /// Bridges are named this and a number, the nftables table just this: at most 10 bytes, unique per
    /// instance on a host. Default `selkie`.
    pub network_prefix: String,
    /// Address pool from which bridge networks take their subnets, as CIDR. Default `10.88.0.0/16` for the
    /// default network (podman's); other networks take `/24`s from `10.89.0.0/16` on.
    pub default_subnet: String,
    /// Where Services get their virtual addresses, as CIDR; must overlap with nothing the host can reach and
    /// differ between instances on a host. Default `10.96.0.0/16`.
    pub service_subnet: String,
    /// Parent cgroup of everything this instance starts. Default `selkie`.
    pub cgroup_parent: String,
}

/// Which OCI runtime runs a container.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuntimeName {
    /// The launcher built into the monitor.
    Selkie,
    /// An external program, by name on `PATH` or by path: `crun`, `runc`, `youki`.
    External(String),
}

impl EngineConfig {
    /// The defaults for an engine that keeps its things in `root` and `run_root`.
    pub fn new(root: PathBuf, run_root: PathBuf) -> Self {
        Self {
            root,
            run_root,
            monitor: PathBuf::from("selkie-monitor"),
            runtime: RuntimeName::Selkie,
            network_prefix: "selkie".to_owned(),
            default_subnet: "10.88.0.0/16".to_owned(),
            service_subnet: "10.96.0.0/16".to_owned(),
            cgroup_parent: "selkie".to_owned(),
        }
    }

    /// Directory of one container's durable files: overlay upper and work directories, log, artifacts.
    pub fn container_dir(&self, id: &super::id::ContainerId) -> PathBuf {
        self.root.join("containers").join(id.as_str())
    }

    /// Directory of one container's disposable files: bundle, control socket, exit file.
    pub fn container_run_dir(&self, id: &super::id::ContainerId) -> PathBuf {
        self.run_root.join("containers").join(id.as_str())
    }

    /// Directory of one pod's disposable files: its namespaces.
    pub fn pod_run_dir(&self, id: &super::id::PodId) -> PathBuf {
        self.run_root.join("pods").join(id.as_str())
    }

    pub fn volumes_dir(&self) -> PathBuf {
        self.root.join("volumes")
    }
}

//! A pod's sandbox: the namespaces its containers share, its network, its `/dev/shm` and its files.
//!
//! It is made at first need and stands until the pod is stopped or removed or the machine goes down: a
//! container that is restarted alone finds the same address, as Kubernetes promises, and stopping the pod
//! frees address and ports, as in podman.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::mount::{MsFlags, mount};

use super::PodRecord;
use super::table::{Effects, Entry};
use crate::engine::container::files;
use crate::engine::container::oci_spec::{PING_GROUP_RANGE, resources};
use crate::engine::container::prepare::{DEFAULT_SHM_BYTES, or_default_network};
use crate::engine::container::spec::{NetworkMode, Resources};
use crate::engine::error::{EngineError, Result, Subject};
use crate::engine::host::namespace::{self, NamespaceKind, pinned_path};
use crate::engine::host::{mount as host_mount, sysctl};
use crate::engine::id::PodId;
use crate::engine::network::{NetworkStatus, SandboxNetwork};
use crate::engine::runtime::cgroup::{Cgroup, Layout};
use crate::engine::store::Change;
use crate::engine::{Inner, failpoint};

impl PodRecord {
    /// The namespaces the sandbox holds; the others are the host's or each container's own.
    pub(in crate::engine) fn namespaces(&self) -> Vec<NamespaceKind> {
        let share = &self.spec.share;
        let own_net = match self.spec.network {
            NetworkMode::Bridge(_) | NetworkMode::None => true,
            NetworkMode::Host | NetworkMode::Pod | NetworkMode::Container(_) | NetworkMode::Path(_) => false,
        };
        let mut kinds = Vec::new();
        if share.net && own_net {
            kinds.push(NamespaceKind::Net);
        }
        if share.ipc && !share.host_ipc {
            kinds.push(NamespaceKind::Ipc);
        }
        if share.uts {
            kinds.push(NamespaceKind::Uts);
        }
        if share.pid && !share.host_pid {
            kinds.push(NamespaceKind::Pid);
        }
        kinds
    }

    /// Kubernetes: on the host's network a pod has the host's name.
    pub(in crate::engine) fn hostname(&self, host: &str) -> String {
        match (&self.spec.hostname, &self.spec.network) {
            (Some(name), _) => name.clone(),
            (None, NetworkMode::Host) => host.to_owned(),
            (None, _) => {
                // A pod's name may be longer than the kernel lets a host name be.
                let name = self.spec.name.as_str();
                name[..name.len().min(63)].trim_end_matches(['-', '.', '_']).to_owned()
            }
        }
    }

    fn joins_networks(&self) -> bool {
        self.spec.share.net && matches!(self.spec.network, NetworkMode::Bridge(_))
    }
}

fn failed<E>(pod: &PodRecord, step: impl Into<String>) -> impl FnOnce(E) -> EngineError
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let subject = Subject::Pod(pod.spec.name.to_string());
    let step = step.into();
    move |source| EngineError::internal(subject, step, source)
}

impl Inner {
    pub fn pod_namespace_dir(&self, id: &PodId) -> PathBuf {
        self.config.pod_run_dir(id).join("ns")
    }

    /// `None` if the pod has no network namespace of its own.
    pub fn pod_netns(&self, id: &PodId) -> Option<PathBuf> {
        let pod = self.pods.by_id(id)?.record();
        let own = pod.namespaces().contains(&NamespaceKind::Net);
        own.then(|| pinned_path(&self.pod_namespace_dir(id), NamespaceKind::Net))
    }

    pub fn pod_cgroup(&self, id: &PodId) -> PathBuf {
        Path::new("/").join(&self.config.cgroup_parent).join(format!("pod{id}"))
    }

    /// What the networks know the pod's connection by.
    pub fn pod_sandbox_network(&self, pod: &PodRecord) -> Option<SandboxNetwork> {
        let NetworkMode::Bridge(attachments) = &pod.spec.network else { return None };
        if !pod.joins_networks() {
            return None;
        }
        let mut aliases = vec![pod.id.short().to_owned()];
        aliases.extend(pod.spec.hostname.clone());
        Some(SandboxNetwork {
            owner: pod.id.to_string(),
            name: pod.spec.name.to_string(),
            aliases,
            netns: pinned_path(&self.pod_namespace_dir(&pod.id), NamespaceKind::Net),
            attachments: or_default_network(attachments),
            ports: pod.spec.published_ports.clone(),
        })
    }

    /// Makes the sandbox if it does not stand.
    pub async fn ensure_sandbox(&self, entry: &Entry) -> Result<Arc<PodRecord>> {
        let mut effects = entry.effects.lock().await;
        let pod = entry.record();
        if effects.removed {
            return Err(EngineError::no_such(Subject::Pod(pod.spec.name.to_string())));
        }
        if effects.standing {
            return Ok(pod);
        }
        // Whatever a failed attempt or a crash left is in the way.
        self.take_down(&pod).await?;
        match self.set_up(&pod).await {
            Ok(network) => {
                let standing = Arc::new(PodRecord { network, ..(*pod).clone() });
                let committed = self
                    .commit(
                        || (Subject::Pod(pod.spec.name.to_string()), "record its network"),
                        vec![Change::PutPod(standing.clone())],
                        Vec::new(),
                        || entry.show(standing.clone()),
                    )
                    .await;
                if let Err(error) = committed {
                    self.take_down_and_log(&pod).await;
                    return Err(error);
                }
                failpoint::pass("pod-sandbox-recorded");
                effects.standing = true;
                Ok(standing)
            }
            Err(error) => {
                self.take_down_and_log(&pod).await;
                Err(error)
            }
        }
    }

    /// Takes the sandbox down, if it stands; the record loses its addresses.
    pub async fn remove_sandbox(&self, entry: &Entry, effects: &mut Effects) -> Result<()> {
        let pod = entry.record();
        self.take_down(&pod).await?;
        effects.standing = false;
        if pod.network.is_some() {
            let down = Arc::new(PodRecord { network: None, ..(*pod).clone() });
            self.commit(
                || (Subject::Pod(pod.spec.name.to_string()), "record that it has no network"),
                vec![Change::PutPod(down.clone())],
                Vec::new(),
                || entry.show(down.clone()),
            )
            .await?;
        }
        Ok(())
    }

    async fn set_up(&self, pod: &PodRecord) -> Result<Option<NetworkStatus>> {
        let run_dir = self.config.pod_run_dir(&pod.id);
        fs::create_dir_all(&run_dir).map_err(failed(pod, format!("create {}", run_dir.display())))?;
        let layout = Layout::detect().map_err(failed(pod, "find the cgroup hierarchies"))?;
        let limits = pod_limits(&pod.spec.resources);
        Cgroup::new(layout, &self.pod_cgroup(&pod.id))
            // Every container restricts its own devices.
            .and_then(|cgroup| cgroup.create(Some(&resources(&limits, true, Vec::new()))))
            .map_err(failed(pod, "make its cgroup"))?;
        self.pin_namespaces(pod).await?;
        failpoint::pass("pod-namespaces");
        if pod.namespaces().contains(&NamespaceKind::Ipc) {
            let size = pod.spec.shm_size_bytes.unwrap_or(DEFAULT_SHM_BYTES);
            mount_shm(&run_dir.join("shm"), size).map_err(failed(pod, "mount its /dev/shm"))?;
        }
        let network = match self.pod_sandbox_network(pod) {
            Some(request) => {
                Some(self.connect_network(Subject::Pod(pod.spec.name.to_string()), &request).await?)
            }
            None => None,
        };
        failpoint::pass("pod-network");
        self.write_pod_files(pod, network.as_ref())
            .map_err(failed(pod, format!("write its files in {}", run_dir.display())))?;
        Ok(network)
    }

    async fn pin_namespaces(&self, pod: &PodRecord) -> Result<()> {
        let kinds = pod.namespaces();
        if kinds.is_empty() {
            return Ok(());
        }
        let mut sysctls = pod.spec.sysctls.clone();
        if kinds.contains(&NamespaceKind::Net) {
            sysctls.entry(PING_GROUP_RANGE.0.to_owned()).or_insert_with(|| PING_GROUP_RANGE.1.to_owned());
        }
        if let Some(key) =
            sysctls.keys().find(|key| !sysctl::namespace_of(key).is_some_and(|kind| kinds.contains(&kind)))
        {
            return Err(EngineError::invalid(
                Subject::Pod(pod.spec.name.to_string()),
                format!("sysctl {key} belongs to no namespace of this pod"),
            ));
        }
        let dir = self.pod_namespace_dir(&pod.id);
        let hostname = pod.hostname(&self.host.hostname);
        let monitor = self.config.monitor.clone();
        let uts = kinds.contains(&NamespaceKind::Uts);
        let step = "make its namespaces";
        tokio::task::spawn_blocking(move || {
            namespace::create_pinned(&dir, &kinds, uts.then_some(hostname.as_str()), &sysctls, &monitor)
        })
        .await
        .map_err(failed(pod, step))?
        .map_err(failed(pod, step))?;
        Ok(())
    }

    fn write_pod_files(&self, pod: &PodRecord, network: Option<&NetworkStatus>) -> io::Result<()> {
        let run_dir = self.config.pod_run_dir(&pod.id);
        let host_file = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let on_host = matches!(pod.spec.network, NetworkMode::Host);
        let hosts = if on_host {
            files::hosts_of_host(&host_file("/etc/hosts"), &pod.spec.hosts)
        } else {
            let hostname = pod.hostname(&self.host.hostname);
            files::hosts(network, &[&hostname, pod.spec.name.as_str()], &pod.spec.hosts)
        };
        fs::write(run_dir.join("hosts"), hosts)?;
        let servers = network.map(|network| network.dns_servers.as_slice()).unwrap_or_default();
        let resolv_conf =
            files::resolv_conf(&pod.spec.dns, servers, &host_file("/etc/resolv.conf"), !on_host);
        fs::write(run_dir.join("resolv.conf"), resolv_conf)
    }

    /// Removes whatever of the sandbox there is. Goes on past failures; may be repeated.
    pub async fn take_down(&self, pod: &PodRecord) -> Result<()> {
        let run_dir = self.config.pod_run_dir(&pod.id);
        let dir = self.pod_namespace_dir(&pod.id);
        let mut outcome = Ok(());
        if pod.joins_networks() {
            let netns = pinned_path(&dir, NamespaceKind::Net);
            outcome = outcome.and(self.networks.teardown(pod.id.as_str(), &netns).await);
        }
        outcome = outcome
            .and(namespace::remove_pinned(&dir).map_err(failed(pod, "let go of its namespaces")))
            .and(host_mount::unmount_all(&run_dir).map_err(failed(pod, "unmount its /dev/shm")));
        if outcome.is_ok() {
            // Never through a mount.
            outcome = self.discard(&run_dir).map_err(failed(pod, format!("remove {}", run_dir.display())));
        }
        let cgroup = Layout::detect()
            .and_then(|layout| Cgroup::new(layout, &self.pod_cgroup(&pod.id)))
            .and_then(|cgroup| cgroup.remove())
            .map_err(failed(pod, "remove its cgroup"));
        outcome.and(cgroup)
    }

    async fn take_down_and_log(&self, pod: &PodRecord) {
        if let Err(error) = self.take_down(pod).await {
            tracing::warn!(pod.name = %pod.spec.name, error = error.chain(), "clean up after a pod's sandbox");
        }
    }

    /// Whether the sandbox that the record tells of is there.
    pub fn sandbox_stands(&self, pod: &PodRecord) -> bool {
        namespace::is_pinned(&self.pod_namespace_dir(&pod.id), &pod.namespaces())
            && self.config.pod_run_dir(&pod.id).join("resolv.conf").exists()
            && pod.joins_networks() == pod.network.is_some()
    }
}

/// podman's default of 2,048 processes is for one container; a pod has a limit only if it asks for one.
fn pod_limits(wanted: &Resources) -> Resources {
    Resources { pids_limit: Some(wanted.pids_limit.unwrap_or(-1)), ..wanted.clone() }
}

fn mount_shm(path: &Path, size_bytes: u64) -> io::Result<()> {
    fs::create_dir_all(path)?;
    let options = format!("mode=1777,size={size_bytes}");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV;
    mount(Some("shm"), path, Some("tmpfs"), flags, Some(options.as_str()))?;
    Ok(())
}

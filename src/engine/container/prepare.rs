//! What a container needs before it can be launched: namespaces, network, files, bundle. Everything made here
//! is in the container's run directory or owned by its id, so that undoing it needs no memory of how far it got.

use std::fs;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use oci_spec::image::Config as ImageConfig;
use oci_spec::runtime::{Capability, Spec};

use super::files;
use super::mounts::{GeneratedFile, ResolvedMount, ResolvedSource, Shm};
use super::oci_spec::{NamespacePlan, NamespacePlans, PING_GROUP_RANGE, Resolved, SpecError, runtime_spec};
use super::spec::{DnsConfig, MountSource, NamespaceMode, NetworkAttachment, NetworkMode, SeccompProfile};
use super::user::{ResolvedUser, resolve_user};
use super::{ContainerRecord, devices};
use crate::engine::config::RuntimeName;
use crate::engine::error::{EngineError, ErrorKind, Result, Subject};
use crate::engine::host::namespace::{self, NamespaceKind, pinned_path};
use crate::engine::id::ContainerId;
use crate::engine::monitor::protocol::LaunchRequest;
use crate::engine::network::{NetworkStatus, SandboxNetwork};
use crate::engine::pod::PodRecord;
use crate::engine::recover::NETWORK_FILE;
use crate::engine::rootfs::MergedTree;
use crate::engine::runtime::seccomp::{self, SeccompSource};
use crate::engine::runtime::{CreateRequest, Rootfs, config_path};
use crate::engine::volume::beneath::open_beneath;
use crate::engine::{Inner, failpoint};

/// podman's default size of `/dev/shm`.
pub(in crate::engine) const DEFAULT_SHM_BYTES: u64 = 64 << 20;

/// The network a container joins when none is named.
pub(in crate::engine) const DEFAULT_NETWORK: &str = "podman";

/// More is not read of an image's `/etc/passwd` or `/etc/group`.
const MAX_PASSWD_BYTES: u64 = 4 << 20;

/// The kernel answers in microseconds; one that does not must not block a container for ever.
const NETWORK_DEADLINE: Duration = Duration::from_secs(30);

/// Whose network namespace a container lives in.
enum NetworkOwner {
    Itself,
    Pod(Arc<PodRecord>),
    Container(Arc<ContainerRecord>),
}

/// A container ready to be launched.
pub(in crate::engine) struct Prepared {
    pub request: LaunchRequest,
    /// Its own network, not a pod's.
    pub network: Option<NetworkStatus>,
}

/// Names the container and the step of a failure.
pub(in crate::engine) fn failed<E>(
    record: &ContainerRecord,
    step: impl Into<String>,
) -> impl FnOnce(E) -> EngineError
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let subject = Subject::Container(record.name.to_string());
    let step = step.into();
    move |source| EngineError::internal(subject, step, source)
}

impl Inner {
    /// Makes everything. On error the caller undoes it with [`Inner::unprepare`].
    pub async fn prepare(&self, record: &ContainerRecord) -> Result<Prepared> {
        let run_dir = self.config.container_run_dir(&record.id);
        let container_dir = self.config.container_dir(&record.id);
        if run_dir.exists() {
            // Of a run whose end could not be cleaned up after.
            self.unprepare(record).await?;
        }
        make_directories(&run_dir, &container_dir)
            .map_err(failed(record, format!("make {} and {}", run_dir.display(), container_dir.display())))?;
        let network = self.connect(record).await?;
        failpoint::pass("launch-network");
        let image = self.image_config(record)?;
        let (spec, seccomp_bpf) = self.bundle(record, image.as_ref(), network.as_ref()).await?;
        write_bundle(&run_dir, &spec).map_err(failed(record, "write the bundle"))?;
        failpoint::pass("launch-bundle");
        let request = LaunchRequest {
            create: CreateRequest {
                id: record.id.to_string(),
                bundle: run_dir.clone(),
                rootfs: self.rootfs(record)?,
                seccomp_bpf,
            },
            runtime: self.runtime_name(record).clone(),
            terminal: record.spec.terminal,
            stdin_open: record.spec.stdin_open,
            log: record.spec.log.clone(),
            log_path: self.log_path(record),
            run_dir,
        };
        Ok(Prepared { request, network })
    }

    /// Takes away whatever `prepare` may have made. Goes on past failures and reports them; may be repeated.
    pub async fn unprepare(&self, record: &ContainerRecord) -> Result<()> {
        let run_dir = self.config.container_run_dir(&record.id);
        let mut first = None;
        let mut note = |error: EngineError| {
            tracing::warn!(container.id = %record.id, error = error.chain(), "clean up after a container");
            first.get_or_insert(error);
        };
        if let Some(netns) = self.own_netns(record) {
            if has_network(record)
                && let Err(error) = self.disconnect_network(record, &netns).await
            {
                note(error);
            }
            if let Err(error) = namespace::remove_pinned(&run_dir.join("ns")) {
                note(failed(record, "let go of its namespaces")(error));
            }
        }
        if let Err(error) = self.unprepare_files(record) {
            first.get_or_insert(error);
        }
        first.map_or(Ok(()), Err)
    }

    /// The last part of it: the run directory, and with it what the monitor left there.
    pub fn unprepare_files(&self, record: &ContainerRecord) -> Result<()> {
        let run_dir = self.config.container_run_dir(&record.id);
        remove_pins(&run_dir).and_then(|()| self.discard(&run_dir)).map_err(|error| {
            let error = failed(record, format!("remove {}", run_dir.display()))(error);
            tracing::warn!(container.id = %record.id, error = error.chain(), "clean up after a container");
            error
        })
    }

    /// Takes a directory out of the way at once and deletes it meanwhile: nobody waits for the disk. What a crash
    /// leaves of it is swept at the next start.
    pub fn discard(&self, dir: &Path) -> io::Result<()> {
        let gone = dir.with_file_name(format!("{GONE_PREFIX}{}", ContainerId::random()));
        match fs::rename(dir, &gone) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            renamed => renamed?,
        }
        self.tasks.spawn_blocking(move || {
            if let Err(error) = remove_tree(&gone) {
                tracing::warn!(path = %gone.display(), %error, "delete what was discarded");
            }
        });
        Ok(())
    }

    /// Lets go of the mounts that only the launch needed: the container has its own copies now.
    pub fn release_pins(&self, record: &ContainerRecord) {
        if let Err(error) = remove_pins(&self.config.container_run_dir(&record.id)) {
            tracing::warn!(container.id = %record.id, %error, "unmount what the launch needed");
        }
    }

    /// The container's network namespace, if it is its own.
    pub fn own_netns(&self, record: &ContainerRecord) -> Option<PathBuf> {
        match record.spec.network {
            NetworkMode::Bridge(_) | NetworkMode::None => {
                let dir = self.config.container_run_dir(&record.id).join("ns");
                Some(pinned_path(&dir, NamespaceKind::Net))
            }
            NetworkMode::Host | NetworkMode::Pod | NetworkMode::Container(_) | NetworkMode::Path(_) => None,
        }
    }

    pub fn log_path(&self, record: &ContainerRecord) -> PathBuf {
        match &record.spec.log.path {
            Some(path) => path.clone(),
            None => self.config.container_dir(&record.id).join("ctr.log"),
        }
    }

    /// What the networks know the container's own connection by.
    pub fn sandbox_network(&self, record: &ContainerRecord) -> Option<SandboxNetwork> {
        let NetworkMode::Bridge(attachments) = &record.spec.network else { return None };
        Some(SandboxNetwork {
            owner: record.id.to_string(),
            name: record.name.to_string(),
            aliases: dns_aliases(record),
            netns: self.own_netns(record)?,
            attachments: or_default_network(attachments),
            ports: record.spec.published_ports.clone(),
        })
    }

    /// Makes the network namespace, if it has one of its own, and connects it.
    async fn connect(&self, record: &ContainerRecord) -> Result<Option<NetworkStatus>> {
        if self.own_netns(record).is_none() {
            return Ok(None);
        }
        let dir = self.config.container_run_dir(&record.id).join("ns");
        let monitor = self.config.monitor.clone();
        let mut sysctls = std::collections::BTreeMap::new();
        if !record.spec.sysctls.contains_key(PING_GROUP_RANGE.0) {
            sysctls.insert(PING_GROUP_RANGE.0.to_owned(), PING_GROUP_RANGE.1.to_owned());
        }
        tokio::task::spawn_blocking(move || {
            namespace::create_pinned(&dir, &[NamespaceKind::Net], None, &sysctls, &monitor)
        })
        .await
        .map_err(failed(record, "make its network namespace"))?
        .map_err(failed(record, "make its network namespace"))?;
        failpoint::pass("launch-namespaces");
        match self.sandbox_network(record) {
            Some(request) => {
                let network =
                    self.connect_network(Subject::Container(record.name.to_string()), &request).await?;
                // For a daemon that finds this launch without its result.
                let path = self.config.container_run_dir(&record.id).join(NETWORK_FILE);
                serde_json::to_vec(&network)
                    .map_err(io::Error::other)
                    .and_then(|json| fs::write(&path, json))
                    .map_err(failed(record, format!("write {}", path.display())))?;
                Ok(Some(network))
            }
            None => Ok(None),
        }
    }

    /// The runtime spec, and the compiled filter for our own launcher.
    async fn bundle(
        &self,
        record: &ContainerRecord,
        image: Option<&ImageConfig>,
        network: Option<&NetworkStatus>,
    ) -> Result<(Spec, Option<PathBuf>)> {
        let user = self.user(record, image)?;
        self.write_files(record, network)?;
        let mounts = self.resolve_mounts(record, &user).await?;
        let mut spec = self.build_spec(record, image, user, mounts)?;
        let seccomp = self.seccomp(record, &mut spec)?;
        Ok((spec, seccomp))
    }

    /// What would run, without touching anything but a few reads: volumes and files are named where they will be.
    pub fn planned_spec(&self, record: &ContainerRecord) -> Result<Spec> {
        let image = self.image_config(record)?;
        let user = self.user(record, image.as_ref())?;
        let mounts =
            record.spec.mounts.iter().map(|mount| self.planned_mount(mount)).collect::<Result<_>>()?;
        self.build_spec(record, image.as_ref(), user, mounts)
    }

    fn build_spec(
        &self,
        record: &ContainerRecord,
        image: Option<&ImageConfig>,
        user: ResolvedUser,
        mounts: Vec<ResolvedMount>,
    ) -> Result<Spec> {
        let (mut nodes, rules) = devices::requested(&record.spec.devices)
            .map_err(|error| EngineError::invalid(subject(record), error.to_string()))?;
        if record.spec.security.privileged {
            nodes.extend(devices::all().map_err(failed(record, "list the host's devices"))?);
        }
        let rootfs = match &record.spec.rootfs {
            Some(directory) => directory.clone(),
            None => self.config.container_run_dir(&record.id).join("rootfs"),
        };
        let resolved = Resolved {
            rootfs,
            user,
            hostname: self.hostname(record),
            namespaces: self.namespaces(record)?,
            shm: self.shm(record),
            files: self.generated_files(record),
            mounts,
            devices: nodes,
            device_rules: rules,
            cgroup: self.cgroup(record),
            seccomp: None,
        };
        runtime_spec(record, image, &self.host, resolved).map_err(|error| match error {
            SpecError::NoCommand(_)
            | SpecError::Capability(_)
            | SpecError::RunsAsRoot
            | SpecError::UnknownUlimit(_) => EngineError::invalid(subject(record), error.to_string()),
        })
    }

    pub fn image_config(&self, record: &ContainerRecord) -> Result<Option<ImageConfig>> {
        match &record.image_id {
            Some(id) => Ok(self.images.image(id.as_str())?.config.config().clone()),
            None => Ok(None),
        }
    }

    pub fn rootfs(&self, record: &ContainerRecord) -> Result<Rootfs> {
        let dir = self.config.container_dir(&record.id);
        match (&record.spec.rootfs, &record.image_id) {
            (Some(directory), _) => Ok(Rootfs::Directory(directory.clone())),
            (None, Some(image)) => Ok(Rootfs::Overlay {
                lower: self.images.rootfs(image)?.lower,
                upper: dir.join("upper"),
                work: dir.join("work"),
            }),
            (None, None) => {
                Err(EngineError::invalid(subject(record), "it has neither an image nor a rootfs"))
            }
        }
    }

    /// The container's file system as it would be seen, for reading.
    fn tree(&self, record: &ContainerRecord) -> Result<MergedTree> {
        let layers = match self.rootfs(record)? {
            Rootfs::Overlay { lower, upper, .. } => [vec![upper], lower].concat(),
            Rootfs::Directory(directory) => vec![directory],
        };
        MergedTree::open(&layers).map_err(failed(record, "open the layers of its root file system"))
    }

    pub fn user(&self, record: &ContainerRecord, image: Option<&ImageConfig>) -> Result<ResolvedUser> {
        let of_image = || image.and_then(|image| image.user().clone()).unwrap_or_default();
        let wanted = record.spec.user.clone().unwrap_or_else(of_image);
        let tree = self.tree(record)?;
        let read = |path: &str| {
            tree.read(Path::new(path), MAX_PASSWD_BYTES)
                .map(Option::unwrap_or_default)
                .map_err(failed(record, format!("read {path} of its root file system")))
        };
        resolve_user(&wanted, &read("/etc/passwd")?, &read("/etc/group")?)
            .map_err(|error| EngineError::invalid(subject(record), error.to_string()))
    }

    pub fn hostname(&self, record: &ContainerRecord) -> String {
        let own = record.spec.hostname.clone();
        let of_pod = || {
            let pod = self.pods.by_id(record.pod()?)?.record();
            Some(pod.hostname(&self.host.hostname))
        };
        match &record.spec.uts_namespace {
            NamespaceMode::Pod => of_pod().unwrap_or_default(),
            NamespaceMode::Host => self.host.hostname.clone(),
            // podman: on the host's network the name is the host's too.
            NamespaceMode::Private | NamespaceMode::Container(_) | NamespaceMode::Path(_) => own
                .unwrap_or_else(|| match record.spec.network {
                    NetworkMode::Host => self.host.hostname.clone(),
                    NetworkMode::Bridge(_)
                    | NetworkMode::None
                    | NetworkMode::Pod
                    | NetworkMode::Container(_)
                    | NetworkMode::Path(_) => record.id.short().to_owned(),
                }),
        }
    }

    pub fn cgroup(&self, record: &ContainerRecord) -> PathBuf {
        let parent = Path::new("/").join(&self.config.cgroup_parent);
        match record.pod() {
            Some(pod) => parent.join(format!("pod{pod}")).join(record.id.as_str()),
            None => parent.join(record.id.as_str()),
        }
    }

    fn runtime_name<'a>(&'a self, record: &'a ContainerRecord) -> &'a RuntimeName {
        record.spec.runtime.as_ref().unwrap_or(&self.config.runtime)
    }

    fn namespaces(&self, record: &ContainerRecord) -> Result<NamespacePlans> {
        let spec = &record.spec;
        let net = match &spec.network {
            NetworkMode::Bridge(_) | NetworkMode::None => self.own_netns(record).map(NamespacePlan::Join),
            NetworkMode::Host => Some(NamespacePlan::Host),
            NetworkMode::Pod => self.pod_namespace(record, NamespaceKind::Net),
            NetworkMode::Container(id) => Some(NamespacePlan::Join(self.namespace_of(record, id, "net")?)),
            NetworkMode::Path(path) => Some(NamespacePlan::Join(path.clone())),
        };
        let plan = |mode: &NamespaceMode, kind: NamespaceKind| -> Result<NamespacePlan> {
            Ok(match mode {
                NamespaceMode::Private => NamespacePlan::New,
                NamespaceMode::Host => NamespacePlan::Host,
                NamespaceMode::Pod => self.pod_namespace(record, kind).ok_or_else(|| no_pod(record))?,
                NamespaceMode::Container(id) => {
                    NamespacePlan::Join(self.namespace_of(record, id, kind.as_str())?)
                }
                NamespaceMode::Path(path) => NamespacePlan::Join(path.clone()),
            })
        };
        let cgroup = match &spec.cgroup_namespace {
            // A pod shares no cgroup namespace.
            NamespaceMode::Private | NamespaceMode::Pod => NamespacePlan::New,
            NamespaceMode::Host => NamespacePlan::Host,
            NamespaceMode::Container(id) => NamespacePlan::Join(self.namespace_of(record, id, "cgroup")?),
            NamespaceMode::Path(path) => NamespacePlan::Join(path.clone()),
        };
        Ok(NamespacePlans {
            net: net.ok_or_else(|| no_pod(record))?,
            ipc: plan(&spec.ipc_namespace, NamespaceKind::Ipc)?,
            uts: plan(&spec.uts_namespace, NamespaceKind::Uts)?,
            pid: plan(&spec.pid_namespace, NamespaceKind::Pid)?,
            cgroup,
        })
    }

    /// `None`: it is in no pod that is known.
    fn pod_namespace(&self, record: &ContainerRecord, kind: NamespaceKind) -> Option<NamespacePlan> {
        let pod = self.pods.by_id(record.pod()?)?.record();
        Some(match pod.namespaces().contains(&kind) {
            true => NamespacePlan::Join(pinned_path(&self.pod_namespace_dir(&pod.id), kind)),
            false => NamespacePlan::Host,
        })
    }

    /// A namespace of another container, which must be running.
    fn namespace_of(&self, record: &ContainerRecord, other: &ContainerId, kind: &str) -> Result<PathBuf> {
        let other = self
            .containers
            .by_id(other)
            .ok_or_else(|| EngineError::no_such(Subject::Container(other.to_string())))?
            .record();
        match other.state.process() {
            Some(process) => Ok(PathBuf::from(format!("/proc/{}/ns/{kind}", process.pid))),
            None => Err(EngineError::wrong_state(
                subject(record),
                format!("container {}, whose {kind} namespace it shares, is not running", other.name),
            )),
        }
    }

    fn shm(&self, record: &ContainerRecord) -> Shm {
        let private = Shm::Private { size_bytes: record.spec.shm_size_bytes.unwrap_or(DEFAULT_SHM_BYTES) };
        match (&record.spec.ipc_namespace, record.pod()) {
            (NamespaceMode::Pod, Some(pod)) => Shm::Shared(self.config.pod_run_dir(pod).join("shm")),
            (NamespaceMode::Host, _) => Shm::Shared(PathBuf::from("/dev/shm")),
            (NamespaceMode::Pod, None)
            | (NamespaceMode::Private | NamespaceMode::Container(_) | NamespaceMode::Path(_), _) => private,
        }
    }

    /// Where the engine's own files are for this container.
    fn generated_files(&self, record: &ContainerRecord) -> Vec<GeneratedFile> {
        let run_dir = self.config.container_run_dir(&record.id);
        let files = [
            ("/etc/hosts", self.hosts_path(record)),
            ("/etc/resolv.conf", self.resolv_conf_path(record)),
            ("/etc/hostname", run_dir.join("hostname")),
            ("/run/.containerenv", run_dir.join("containerenv")),
        ];
        files
            .into_iter()
            .map(|(destination, source)| GeneratedFile {
                destination,
                source,
                read_only: record.spec.security.read_only_rootfs,
            })
            .collect()
    }

    /// Containers in one network namespace share the file, unless the request adds lines of its own.
    fn hosts_path(&self, record: &ContainerRecord) -> PathBuf {
        let own = || self.config.container_run_dir(&record.id).join("hosts");
        if !record.spec.hosts.is_empty() {
            return own();
        }
        match self.network_owner(record) {
            NetworkOwner::Itself => own(),
            NetworkOwner::Pod(pod) => self.config.pod_run_dir(&pod.id).join("hosts"),
            NetworkOwner::Container(other) => self.hosts_path(&other),
        }
    }

    fn resolv_conf_path(&self, record: &ContainerRecord) -> PathBuf {
        let own = || self.config.container_run_dir(&record.id).join("resolv.conf");
        if record.spec.dns != DnsConfig::default() {
            return own();
        }
        match self.network_owner(record) {
            NetworkOwner::Itself => own(),
            NetworkOwner::Pod(pod) => self.config.pod_run_dir(&pod.id).join("resolv.conf"),
            NetworkOwner::Container(other) => self.resolv_conf_path(&other),
        }
    }

    /// Whose network namespace the container lives in.
    fn network_owner(&self, record: &ContainerRecord) -> NetworkOwner {
        let owner = match &record.spec.network {
            NetworkMode::Pod => record
                .pod()
                .and_then(|pod| self.pods.by_id(pod))
                .map(|entry| NetworkOwner::Pod(entry.record())),
            NetworkMode::Container(id) => {
                self.containers.by_id(id).map(|entry| NetworkOwner::Container(entry.record()))
            }
            NetworkMode::Bridge(_) | NetworkMode::Host | NetworkMode::None | NetworkMode::Path(_) => None,
        };
        owner.unwrap_or(NetworkOwner::Itself)
    }

    fn write_files(&self, record: &ContainerRecord, network: Option<&NetworkStatus>) -> Result<()> {
        let run_dir = self.config.container_run_dir(&record.id);
        let write = |path: PathBuf, text: String| {
            // Only its own; a shared one is its owner's to write.
            if !path.starts_with(&run_dir) {
                return Ok(());
            }
            fs::write(&path, text).map_err(failed(record, format!("write {}", path.display())))
        };
        let hostname = self.hostname(record);
        let host_file = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let mut extra = record.spec.hosts.clone();
        let owner = self.network_owner(record);
        let (mode, standing) = match &owner {
            NetworkOwner::Itself => (&record.spec.network, network),
            NetworkOwner::Pod(pod) => {
                extra.extend(pod.spec.hosts.clone());
                (&pod.spec.network, pod.network.as_ref())
            }
            NetworkOwner::Container(other) => (&other.spec.network, other.network.as_ref()),
        };
        let on_host = *mode == NetworkMode::Host;
        let hosts = if on_host {
            files::hosts_of_host(&host_file("/etc/hosts"), &extra)
        } else {
            files::hosts(standing, &[&hostname, record.name.as_str()], &extra)
        };
        write(self.hosts_path(record), hosts)?;
        let servers = standing.map(|network| network.dns_servers.as_slice()).unwrap_or_default();
        let resolv_conf =
            files::resolv_conf(&record.spec.dns, servers, &host_file("/etc/resolv.conf"), !on_host);
        write(self.resolv_conf_path(record), resolv_conf)?;
        write(run_dir.join("hostname"), format!("{hostname}\n"))?;
        write(run_dir.join("containerenv"), files::container_environment(record))
    }

    /// [`Networks::setup`](crate::engine::network::Networks::setup) with a deadline.
    pub async fn connect_network(&self, subject: Subject, request: &SandboxNetwork) -> Result<NetworkStatus> {
        let setup = self.networks.setup(request);
        tokio::time::timeout(NETWORK_DEADLINE, setup)
            .await
            .unwrap_or_else(|_| Err(late(subject, "connect it to its networks")))
    }

    /// [`Networks::teardown`](crate::engine::network::Networks::teardown) with a deadline.
    pub async fn disconnect_network(&self, record: &ContainerRecord, netns: &Path) -> Result<()> {
        let teardown = self.networks.teardown(record.id.as_str(), netns);
        tokio::time::timeout(NETWORK_DEADLINE, teardown)
            .await
            .unwrap_or_else(|_| Err(late(subject(record), "disconnect it from its networks")))
    }

    async fn resolve_mounts(
        &self,
        record: &ContainerRecord,
        user: &ResolvedUser,
    ) -> Result<Vec<ResolvedMount>> {
        let run_dir = self.config.container_run_dir(&record.id);
        let mut resolved = Vec::with_capacity(record.spec.mounts.len());
        for (number, mount) in record.spec.mounts.iter().enumerate() {
            let step = || format!("mount {}", mount.destination);
            let mut planned = self.planned_mount(mount)?;
            match &mount.source {
                MountSource::Bind(path) => {
                    fs::metadata(path).map_err(|error| {
                        EngineError::invalid(
                            subject(record),
                            format!("{}: source {}", step(), path.display()),
                        )
                        .with_source(error)
                    })?;
                }
                MountSource::BindBeneath { base, path } => {
                    let pin = pin_beneath(base, path, &run_dir, number)
                        .map_err(failed(record, format!("{}: {}", step(), path.display())))?;
                    planned.source = ResolvedSource::Bind(pin);
                }
                MountSource::Volume { name, sub_path } => {
                    if !mount.options.iter().any(|option| option == "nocopy") {
                        let destination = Path::new(&mount.destination);
                        let tree = || self.tree(record).map_err(|error| io::Error::other(error.chain()));
                        self.fill_volume(name, destination, (user.uid, user.gid), tree).await?;
                    }
                    if let Some(path) = sub_path {
                        let ResolvedSource::Volume(data) = &planned.source else {
                            unreachable!("a volume's mount is planned as one")
                        };
                        let pin = pin_beneath(data, path, &run_dir, number)
                            .map_err(failed(record, format!("{}: {}", step(), path.display())))?;
                        planned.source = ResolvedSource::Volume(pin);
                    }
                }
                MountSource::AnonymousVolume | MountSource::Tmpfs { .. } => {}
            }
            resolved.push(planned);
        }
        Ok(resolved)
    }

    fn planned_mount(&self, mount: &super::spec::Mount) -> Result<ResolvedMount> {
        let source = match &mount.source {
            MountSource::Bind(path) => ResolvedSource::Bind(path.clone()),
            MountSource::BindBeneath { base, path } => ResolvedSource::Bind(base.join(path)),
            MountSource::Volume { name, .. } => {
                let volume = self.volumes.by_name(name.as_str());
                let volume = volume.ok_or_else(|| EngineError::no_such(Subject::Volume(name.to_string())))?;
                ResolvedSource::Volume(volume.mountpoint.clone())
            }
            MountSource::AnonymousVolume => {
                return Err(EngineError::new(
                    ErrorKind::Internal,
                    Subject::Engine,
                    "an anonymous volume was given no name when its container was created",
                ));
            }
            MountSource::Tmpfs { size_bytes, mode } => {
                ResolvedSource::Tmpfs { size_bytes: *size_bytes, mode: *mode }
            }
        };
        Ok(ResolvedMount {
            destination: mount.destination.clone(),
            source,
            read_only: mount.read_only,
            options: mount.options.clone(),
        })
    }

    /// Puts the profile where the container's runtime looks for it.
    fn seccomp(&self, record: &ContainerRecord, spec: &mut Spec) -> Result<Option<PathBuf>> {
        let source = match (&record.spec.security.seccomp, record.spec.security.privileged) {
            (SeccompProfile::Unconfined, _) | (SeccompProfile::Default, true) => return Ok(None),
            (SeccompProfile::Default, false) => SeccompSource::Default,
            (SeccompProfile::File(path), _) => SeccompSource::File(path.clone()),
        };
        let capabilities: Vec<Capability> = spec
            .process()
            .as_ref()
            .and_then(|process| process.capabilities().as_ref())
            .and_then(|sets| sets.bounding().as_ref())
            .map(|bounding| bounding.iter().copied().collect())
            .unwrap_or_default();
        match self.runtime_name(record) {
            RuntimeName::Selkie => {
                let cache = self.config.root.join("cache/seccomp");
                seccomp::compiled(&source, &capabilities, &cache)
                    .map(Some)
                    .map_err(failed(record, "compile its seccomp profile"))
            }
            RuntimeName::External(_) => {
                let profile = seccomp::linux_seccomp(&source, &capabilities)
                    .map_err(failed(record, "read its seccomp profile"))?;
                if let Some(linux) = spec.linux_mut() {
                    linux.set_seccomp(Some(profile));
                }
                Ok(None)
            }
        }
    }
}

pub(in crate::engine) fn or_default_network(attachments: &[NetworkAttachment]) -> Vec<NetworkAttachment> {
    if !attachments.is_empty() {
        return attachments.to_vec();
    }
    vec![NetworkAttachment {
        network: DEFAULT_NETWORK.parse().expect("the default network's name is a name"),
        aliases: Vec::new(),
        static_addresses: Vec::new(),
        static_mac: None,
        interface: None,
    }]
}

fn subject(record: &ContainerRecord) -> Subject {
    Subject::Container(record.name.to_string())
}

pub(in crate::engine) fn late(subject: Subject, step: &str) -> EngineError {
    let detail = format!("{step}: not done within {} s", NETWORK_DEADLINE.as_secs());
    EngineError::new(ErrorKind::Internal, subject, detail)
}

fn no_pod(record: &ContainerRecord) -> EngineError {
    EngineError::wrong_state(subject(record), "its pod is gone")
}

fn has_network(record: &ContainerRecord) -> bool {
    matches!(record.spec.network, NetworkMode::Bridge(_))
}

/// docker and podman: the short id and the host name find the container too.
fn dns_aliases(record: &ContainerRecord) -> Vec<String> {
    let mut aliases = vec![record.id.short().to_owned()];
    aliases.extend(record.spec.hostname.clone());
    aliases
}

pub(in crate::engine) fn make_directories(run_dir: &Path, container_dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    // Strangers' files are in there: nobody but root looks in.
    let make = |path: PathBuf, mode| fs::DirBuilder::new().recursive(true).mode(mode).create(path);
    make(run_dir.to_owned(), 0o700)?;
    make(run_dir.join("rootfs"), 0o755)?;
    make(container_dir.to_owned(), 0o700)?;
    make(container_dir.join("upper"), 0o755)?;
    make(container_dir.join("work"), 0o700)
}

fn write_bundle(run_dir: &Path, spec: &Spec) -> io::Result<()> {
    fs::write(config_path(run_dir), serde_json::to_vec(spec)?)
}

/// Binds what `path` leads to beneath `base` to a place of our own, so that the container gets the very object
/// that was checked.
fn pin_beneath(base: &Path, path: &Path, run_dir: &Path, number: usize) -> io::Result<PathBuf> {
    let object = open_beneath(base, path)?;
    let pins = run_dir.join("pins");
    let pin = pins.join(number.to_string());
    fs::create_dir_all(&pins)?;
    if object.metadata()?.is_dir() {
        fs::create_dir(&pin)?;
    } else {
        fs::File::create_new(&pin)?;
    }
    let source = format!("/proc/self/fd/{}", object.as_raw_fd());
    let none: Option<&str> = None;
    mount(Some(source.as_str()), &pin, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)?;
    mount(none, &pin, none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none)?;
    Ok(pin)
}

/// Never deletes through a mount: if one cannot be undone, nothing is removed.
fn remove_pins(run_dir: &Path) -> io::Result<()> {
    let pins = run_dir.join("pins");
    let entries = match fs::read_dir(&pins) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        match nix::mount::umount2(&path, nix::mount::MntFlags::MNT_DETACH) {
            // EINVAL: not mounted (any more).
            Ok(()) | Err(nix::errno::Errno::EINVAL) => {}
            Err(errno) => return Err(errno.into()),
        }
        // Empty now, whatever it was; a directory that is not has something mounted after all.
        if path.is_dir() { fs::remove_dir(&path)? } else { fs::remove_file(&path)? }
    }
    fs::remove_dir(&pins)
}

/// Directories on their way out; no id begins like this.
pub(in crate::engine) const GONE_PREFIX: &str = ".gone-";

/// Removes a directory of ours. Already gone is as good.
pub(in crate::engine) fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

//! What both dialects tell about a container, worked out of its record once. No behaviour: only
//! what is on record, read the way clients expect it.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;

use crate::engine::Engine;
use crate::engine::config::EngineConfig;
use crate::engine::container::ContainerRecord;
use crate::engine::container::spec::{Mount, MountSource, NetworkMode, PortMapping};
use crate::engine::container::state::ContainerState;
use crate::engine::id::{ImageId, NameOrId};
use crate::engine::image::ImageRecord;
use crate::engine::network::{InterfaceStatus, NetworkStatus};
use crate::engine::pod::PodRecord;

/// The network containers join that name none.
pub const DEFAULT_NETWORK: &str = "podman";

/// A container's record with what it refers to.
pub struct ContainerView {
    pub record: Arc<ContainerRecord>,
    pub pod: Option<Arc<PodRecord>>,
    pub image: Option<Arc<ImageRecord>>,
}

impl ContainerView {
    pub fn new(engine: &Engine, record: Arc<ContainerRecord>) -> Self {
        Self::of(engine, &image_table(engine), record)
    }

    /// Of many: the images are asked for once.
    pub fn all(engine: &Engine, records: Vec<Arc<ContainerRecord>>) -> impl Iterator<Item = Self> {
        let images = image_table(engine);
        records.into_iter().map(move |record| Self::of(engine, &images, record))
    }

    fn of(engine: &Engine, images: &ImageTable, record: Arc<ContainerRecord>) -> Self {
        let pod = record.pod().and_then(|id| engine.pod(&NameOrId::from(id)).ok());
        let image = record.image_id.as_ref().and_then(|id| images.get(id).cloned());
        Self { record, pod, image }
    }

    /// The arguments, without the entry point: podman lists these as the command.
    pub fn command(&self) -> &[String] {
        let spec = &self.record.spec;
        match (&spec.command, &spec.entrypoint) {
            (Some(command), _) => command,
            (None, Some(_)) => &[],
            (None, None) => image_config(&self.image).and_then(|c| c.cmd().as_deref()).unwrap_or(&[]),
        }
    }

    pub fn entrypoint(&self) -> &[String] {
        let from_image = || image_config(&self.image).and_then(|c| c.entrypoint().as_deref());
        self.record.spec.entrypoint.as_deref().or_else(from_image).unwrap_or(&[])
    }

    /// What is executed first, and its arguments.
    pub fn path_and_args(&self) -> (String, Vec<String>) {
        let mut words = self.entrypoint().iter().chain(self.command()).cloned();
        (words.next().unwrap_or_default(), words.collect())
    }

    pub fn working_dir(&self) -> &str {
        let from_image = || image_config(&self.image).and_then(|c| c.working_dir().as_deref());
        self.record.spec.working_dir.as_deref().or_else(from_image).filter(|d| !d.is_empty()).unwrap_or("/")
    }

    pub fn user(&self) -> &str {
        let from_image = || image_config(&self.image).and_then(|c| c.user().as_deref());
        self.record.spec.user.as_deref().or_else(from_image).unwrap_or_default()
    }

    /// The image's variables and over them the container's own.
    pub fn env(&self) -> Vec<String> {
        let from_image = image_config(&self.image).and_then(|c| c.env().as_deref()).unwrap_or(&[]);
        let own = &self.record.spec.env;
        let name = |pair: &str| pair.split('=').next().unwrap_or_default().to_owned();
        let kept = from_image.iter().filter(|pair| !own.contains_key(&name(pair))).cloned();
        kept.chain(own.iter().map(|(name, value)| format!("{name}={value}"))).collect()
    }

    pub fn stop_signal(&self) -> i32 {
        let from_image = || {
            let text = image_config(&self.image)?.stop_signal().as_deref()?;
            super::signal::parse(text).ok()
        };
        self.record.spec.stop_signal.or_else(from_image).unwrap_or(15)
    }

    pub fn hostname(&self) -> &str {
        let spec = &self.record.spec;
        match (&spec.hostname, &self.pod) {
            (Some(name), _) => name,
            (None, Some(pod)) => pod.spec.hostname.as_deref().unwrap_or(pod.spec.name.as_str()),
            (None, None) => self.record.id.short(),
        }
    }

    /// The name of the container's pod, or nothing.
    pub fn pod_name(&self) -> &str {
        self.pod.as_ref().map_or("", |pod| pod.spec.name.as_str())
    }

    pub fn pod_id(&self) -> &str {
        self.record.pod().map_or("", |id| id.as_str())
    }

    pub fn image_id(&self) -> &str {
        self.record.image_id.as_ref().map_or("", |id| id.as_str())
    }

    pub fn started_at(&self) -> Option<Timestamp> {
        match &self.record.state {
            ContainerState::Running(process)
            | ContainerState::Paused(process)
            | ContainerState::Stopping(process) => Some(process.started_at),
            ContainerState::Exited(status) => status.started_at,
            ContainerState::Configured | ContainerState::Created(_) | ContainerState::Removing => None,
        }
    }

    pub fn finished_at(&self) -> Option<Timestamp> {
        self.record.state.exit_status().map(|status| status.finished_at)
    }

    pub fn exit_code(&self) -> i32 {
        self.record.state.exit_status().map_or(0, |status| status.code)
    }

    pub fn pid(&self) -> i32 {
        self.record.state.process().map_or(0, |process| process.pid)
    }

    /// The network it has now: its own, or its pod's.
    fn network_status(&self) -> Option<&NetworkStatus> {
        match &self.pod {
            Some(pod) if self.record.spec.network == NetworkMode::Pod => pod.network.as_ref(),
            _ => self.record.network.as_ref(),
        }
    }

    /// Every network it is to be in, with what it got there if it is up.
    pub fn networks(&self) -> Vec<(&str, Option<&InterfaceStatus>)> {
        let mode = match &self.pod {
            Some(pod) if self.record.spec.network == NetworkMode::Pod => &pod.spec.network,
            _ => &self.record.spec.network,
        };
        let NetworkMode::Bridge(attachments) = mode else { return Vec::new() };
        let status = self.network_status();
        let interface = |name: &str| status?.interfaces.iter().find(|i| i.network.as_str() == name);
        match attachments.is_empty() {
            true => vec![(DEFAULT_NETWORK, interface(DEFAULT_NETWORK))],
            false => {
                attachments.iter().map(|a| (a.network.as_str(), interface(a.network.as_str()))).collect()
            }
        }
    }

    /// Published ports, with the host ports that were chosen if it is up.
    pub fn ports(&self) -> &[PortMapping] {
        match (self.network_status(), &self.pod) {
            (Some(status), _) => &status.ports,
            (None, Some(pod)) => &pod.spec.published_ports,
            (None, None) => &self.record.spec.published_ports,
        }
    }

    pub fn mounts<'a>(&'a self, config: &EngineConfig) -> Vec<MountView<'a>> {
        let volumes_dir = config.volumes_dir();
        let mut anonymous = self.record.anonymous_volumes.iter();
        let volume = |name: &str| volumes_dir.join(name).join("_data").to_string_lossy().into_owned();
        let view = |mount: &'a Mount| {
            let (kind, name, source) = match &mount.source {
                MountSource::Bind(path) => ("bind", None, path.to_string_lossy().into_owned()),
                MountSource::BindBeneath { base, path } => {
                    ("bind", None, base.join(path).to_string_lossy().into_owned())
                }
                MountSource::Volume { name, .. } => ("volume", Some(name.to_string()), volume(name.as_str())),
                MountSource::AnonymousVolume => {
                    let name = anonymous.next()?;
                    ("volume", Some(name.to_string()), volume(name.as_str()))
                }
                MountSource::Tmpfs { .. } => return None,
            };
            Some(MountView { mount, kind, name, source })
        };
        self.record.spec.mounts.iter().filter_map(view).collect()
    }

    /// `/tmp` → `rw,size=65536k`: memory file systems are told apart from mounts.
    pub fn tmpfs(&self) -> BTreeMap<String, String> {
        let options = |mount: &Mount| match &mount.source {
            MountSource::Tmpfs { size_bytes, mode } => {
                let mut options = vec![if mount.read_only { "ro" } else { "rw" }.to_owned()];
                options.extend(mount.options.iter().cloned());
                options.extend(size_bytes.map(|size| format!("size={size}")));
                options.extend(mode.map(|mode| format!("mode={mode:o}")));
                Some((mount.destination.clone(), options.join(",")))
            }
            MountSource::Bind(_)
            | MountSource::BindBeneath { .. }
            | MountSource::Volume { .. }
            | MountSource::AnonymousVolume => None,
        };
        self.record.spec.mounts.iter().filter_map(options).collect()
    }

    /// Where its `hosts` and `resolv.conf` are: the pod's, if it has the pod's network.
    pub fn network_files(&self, config: &EngineConfig) -> PathBuf {
        match self.record.pod() {
            Some(pod) if self.record.spec.network == NetworkMode::Pod => config.pod_run_dir(pod),
            _ => config.container_run_dir(&self.record.id),
        }
    }

    pub fn log_path(&self, config: &EngineConfig) -> String {
        let path = self.record.spec.log.path.clone();
        let path = path.unwrap_or_else(|| config.container_dir(&self.record.id).join("ctr.log"));
        path.to_string_lossy().into_owned()
    }
}

/// A bind mount or volume of a container.
pub struct MountView<'a> {
    pub mount: &'a Mount,
    pub kind: &'static str,
    /// Of the volume.
    pub name: Option<String>,
    pub source: String,
}

impl MountView<'_> {
    pub fn propagation(&self) -> &str {
        let known = ["shared", "slave", "private", "rshared", "rslave", "rprivate"];
        let given = self.mount.options.iter().find(|option| known.contains(&option.as_str()));
        given.map_or("rprivate", String::as_str)
    }

    /// Mount options but for propagation and `ro`, which have members of their own.
    pub fn options(&self) -> Vec<String> {
        let propagation = self.propagation();
        let mut options: Vec<String> = self
            .mount
            .options
            .iter()
            .filter(|o| *o != propagation && *o != "ro" && *o != "rw")
            .cloned()
            .collect();
        if !options.iter().any(|option| option == "bind" || option == "rbind") {
            options.push("rbind".to_owned());
        }
        options
    }

    /// `source:destination:options` as in `HostConfig.Binds`.
    pub fn bind(&self) -> String {
        let source = self.name.as_deref().unwrap_or(&self.source);
        let access = if self.mount.read_only { "ro" } else { "rw" };
        let options = self.options().join(",");
        format!("{source}:{}:{access},{},{options}", self.mount.destination, self.propagation())
    }
}

/// By id: `Engine::image` would look for names too, and for what short ones stand for.
type ImageTable = HashMap<ImageId, Arc<ImageRecord>>;

fn image_table(engine: &Engine) -> ImageTable {
    engine.images().into_iter().map(|image| (image.id.clone(), image)).collect()
}

/// The host address as podman prints it: empty when all addresses are meant.
pub fn host_ip(address: IpAddr) -> String {
    if address.is_unspecified() { String::new() } else { address.to_string() }
}

fn image_config(image: &Option<Arc<ImageRecord>>) -> Option<&oci_spec::image::Config> {
    image.as_ref()?.config.config().as_ref()
}

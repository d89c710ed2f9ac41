//! Creating a container: everything is checked, then recorded in one transaction. Nothing is made on disk but
//! the directories of new volumes.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use jiff::Timestamp;
use oci_spec::image::Config as ImageConfig;

use super::command::arguments;
use super::spec::{ContainerSpec, Mount, MountSource, NamespaceMode, NetworkMode};
use super::state::ContainerState;
use super::{ContainerRecord, validate};
use crate::engine::error::{EngineError, ErrorKind, Result, Subject};
use crate::engine::event::EventAction;
use crate::engine::id::{ContainerId, ContainerName, ImageId, VolumeName};
use crate::engine::image::ImageRecord;
use crate::engine::names::Owner;
use crate::engine::pod::PodRecord;
use crate::engine::store::Change;
use crate::engine::volume::{VolumeRecord, random_volume_name, volume_event};
use crate::engine::{Inner, failpoint};

use super::lifecycle::container_event;

impl Inner {
    pub async fn create_container(self: &Arc<Self>, mut spec: ContainerSpec) -> Result<Arc<ContainerRecord>> {
        let subject =
            Subject::Container(spec.name.as_ref().map_or_else(|| spec.image.clone(), ToString::to_string));
        let refuse = |detail: String| EngineError::invalid(subject.clone(), detail);
        validate::check(&spec).map_err(refuse)?;
        if spec.init {
            return Err(EngineError::new(
                ErrorKind::NotSupported,
                subject,
                "an init process inside the container is not supported",
            ));
        }
        let image = match (&spec.rootfs, spec.image.is_empty()) {
            (Some(rootfs), _) if !rootfs.is_absolute() => {
                return Err(refuse(format!("rootfs {} is not an absolute path", rootfs.display())));
            }
            (Some(_), _) => None,
            (None, true) => return Err(refuse("it needs an image or a rootfs".into())),
            (None, false) => Some(self.images.image(&spec.image)?),
        };
        let in_creation = image.as_ref().map(|image| ImageInCreation::reserve(self, &image.id));
        if let Some(image) = &image {
            // It may have been removed before the reservation counted.
            self.images.image(image.id.as_str())?;
        }
        let config = image.as_ref().and_then(|image| image.config.config().clone());
        arguments(&spec, config.as_ref()).map_err(|error| refuse(error.to_string()))?;
        self.check_references(&spec, &subject)?;

        // The pod's lock is held until the container is in its list.
        let pod_entry = match &spec.pod {
            Some(id) => {
                Some(self.pods.by_id(id).ok_or_else(|| EngineError::no_such(Subject::Pod(id.to_string())))?)
            }
            None => None,
        };
        let pod_effects = match &pod_entry {
            Some(entry) => Some(entry.effects.lock().await),
            None => None,
        };
        if let (Some(entry), Some(effects)) = (&pod_entry, &pod_effects) {
            let pod = entry.record();
            if effects.removed {
                return Err(EngineError::no_such(Subject::Pod(pod.spec.name.to_string())));
            }
            validate::join_pod(&mut spec, &pod.spec).map_err(refuse)?;
        }

        let anonymous_volumes = name_anonymous_volumes(&mut spec, config.as_ref());
        let named: Vec<VolumeName> = spec
            .mounts
            .iter()
            .filter_map(|mount| match &mount.source {
                MountSource::Volume { name, .. } => Some(name.clone()),
                MountSource::Bind(_)
                | MountSource::BindBeneath { .. }
                | MountSource::AnonymousVolume
                | MountSource::Tmpfs { .. } => None,
            })
            .collect();
        let _volume_locks =
            self.volumes.locks.lock_all(named.iter().map(|name| name.as_str().to_owned())).await;
        let new_volumes = self.missing_volumes(&named, &anonymous_volumes)?;

        let id = ContainerId::random();
        let name = NameTaken::take(self, &id, spec.name.as_ref())?;
        let record = Arc::new(ContainerRecord {
            name: name.name.clone(),
            image_id: image.as_ref().map(|image| image.id.clone()),
            image_name: image.as_ref().map(|image| resolved_name(image, &spec.image)).unwrap_or_default(),
            created_at: Timestamp::now(),
            state: ContainerState::Configured,
            pending: None,
            restart_count: 0,
            stopped_by_user: false,
            network: None,
            anonymous_volumes,
            id,
            spec,
        });
        let pod = pod_entry.as_ref().map(|entry| {
            let pod = entry.record();
            let mut containers = pod.containers.clone();
            containers.push(record.id.clone());
            Arc::new(PodRecord { containers, ..(*pod).clone() })
        });
        let mut changes: Vec<Change> = new_volumes.iter().cloned().map(Change::PutVolume).collect();
        changes.push(Change::PutContainer(record.clone()));
        changes.extend(pod.iter().cloned().map(Change::PutPod));
        let mut events: Vec<_> =
            new_volumes.iter().map(|volume| volume_event(volume, EventAction::Create)).collect();
        events.push(container_event(&record, EventAction::Create));
        self.commit(
            || (subject.clone(), "record the new container"),
            changes,
            events,
            || {
                self.show_volumes(new_volumes);
                self.containers.insert(record.clone());
                if let (Some(entry), Some(pod)) = (&pod_entry, pod) {
                    entry.show(pod);
                }
            },
        )
        .await?;
        name.keep();
        drop(in_creation);
        failpoint::pass("create-recorded");
        Ok(record)
    }

    /// Containers whose namespaces are shared must be there.
    fn check_references(&self, spec: &ContainerSpec, subject: &Subject) -> Result<()> {
        for id in spec.shared_containers() {
            if self.containers.by_id(id).is_none() {
                return Err(EngineError::invalid(
                    subject.clone(),
                    format!("it shares a namespace with container {}, which does not exist", id.short()),
                ));
            }
        }
        Ok(())
    }

    /// Records, with their directories made, for the volumes that are not there yet.
    fn missing_volumes(
        &self,
        named: &[VolumeName],
        anonymous: &[VolumeName],
    ) -> Result<Vec<Arc<VolumeRecord>>> {
        let mut missing: Vec<Arc<VolumeRecord>> = Vec::new();
        for name in named {
            let known =
                self.volumes.by_name(name.as_str()).is_some() || missing.iter().any(|v| v.name == *name);
            if !known {
                let volume = self.new_volume(name.clone(), anonymous.contains(name));
                self.make_volume_directory(&volume)?;
                missing.push(Arc::new(volume));
            }
        }
        Ok(missing)
    }
}

impl ContainerSpec {
    /// The containers whose namespaces it shares.
    pub(in crate::engine) fn shared_containers(&self) -> impl Iterator<Item = &ContainerId> {
        let network = match &self.network {
            NetworkMode::Container(id) => Some(id),
            NetworkMode::Bridge(_)
            | NetworkMode::Host
            | NetworkMode::None
            | NetworkMode::Pod
            | NetworkMode::Path(_) => None,
        };
        let modes = [&self.pid_namespace, &self.ipc_namespace, &self.uts_namespace, &self.cgroup_namespace];
        let others = modes.into_iter().filter_map(|mode| match mode {
            NamespaceMode::Container(id) => Some(id),
            NamespaceMode::Private | NamespaceMode::Host | NamespaceMode::Pod | NamespaceMode::Path(_) => {
                None
            }
        });
        network.into_iter().chain(others)
    }
}

/// Gives every anonymous volume a name, those that the image declares included.
fn name_anonymous_volumes(spec: &mut ContainerSpec, image: Option<&ImageConfig>) -> Vec<VolumeName> {
    let normalized = |path: &str| -> PathBuf { PathBuf::from(path).components().collect() };
    for destination in image.and_then(|image| image.volumes().clone()).unwrap_or_default() {
        let taken =
            spec.mounts.iter().any(|mount| normalized(&mount.destination) == normalized(&destination));
        let sensible = destination.starts_with('/')
            && normalized(&destination).components().count() > 1
            && !destination.split('/').any(|part| part == "..");
        if !taken && sensible {
            spec.mounts.push(Mount {
                destination,
                source: MountSource::AnonymousVolume,
                read_only: false,
                options: Vec::new(),
            });
        }
    }
    let mut names = Vec::new();
    for mount in &mut spec.mounts {
        if mount.source == MountSource::AnonymousVolume {
            let name = random_volume_name();
            mount.source = MountSource::Volume { name: name.clone(), sub_path: None };
            names.push(name);
        }
    }
    names
}

/// The image's full name that the user meant; its id when it has none or was asked for by id.
fn resolved_name(image: &ImageRecord, wanted: &str) -> String {
    let names = &image.names;
    let tagged = format!("{wanted}:latest");
    let exact = names.iter().find(|name| *name == wanted || **name == tagged);
    let short = || {
        let ends =
            |name: &str, wanted: &str| name.strip_suffix(wanted).is_some_and(|rest| rest.ends_with('/'));
        names.iter().find(|name| ends(name, wanted) || ends(name, &tagged))
    };
    exact.or_else(short).or_else(|| names.first()).cloned().unwrap_or_else(|| image.id.to_string())
}

/// A name that is given back unless the container becomes real.
struct NameTaken<'a> {
    inner: &'a Inner,
    name: ContainerName,
    kept: bool,
}

impl<'a> NameTaken<'a> {
    fn take(inner: &'a Inner, id: &ContainerId, wanted: Option<&ContainerName>) -> Result<Self> {
        let name = match wanted {
            Some(name) => {
                inner.names.take(name.as_str(), Owner::Container(id.clone()))?;
                name.clone()
            }
            None => inner.names.take_random(id),
        };
        Ok(Self { inner, name, kept: false })
    }

    fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for NameTaken<'_> {
    fn drop(&mut self) {
        if !self.kept {
            self.inner.names.give_back(self.name.as_str());
        }
    }
}

/// Counts as a use of the image until the container itself does.
struct ImageInCreation<'a> {
    inner: &'a Inner,
    id: ImageId,
}

impl<'a> ImageInCreation<'a> {
    fn reserve(inner: &'a Inner, id: &ImageId) -> Self {
        inner.images_in_creation.lock().unwrap_or_else(PoisonError::into_inner).push(id.clone());
        Self { inner, id: id.clone() }
    }
}

impl Drop for ImageInCreation<'_> {
    fn drop(&mut self) {
        let mut reserved = self.inner.images_in_creation.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(position) = reserved.iter().position(|id| *id == self.id) {
            reserved.swap_remove(position);
        }
    }
}

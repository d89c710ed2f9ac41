//! Named volumes: directories that survive their containers. Never pruned unasked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::engine::container::spec::MountSource;
use crate::engine::container::table::unique_prefix;
use crate::engine::container::{ContainerRecord, RemoveOptions};
use crate::engine::error::{EngineError, ErrorKind, Result, Subject};
use crate::engine::event::{Event, EventAction, EventKind};
use crate::engine::id::{ContainerId, VolumeName};
use crate::engine::locks::KeyedLocks;
use crate::engine::rootfs::MergedTree;
use crate::engine::store::Change;
use crate::engine::{Inner, failpoint};

pub(in crate::engine) mod beneath;
mod copy_up;

use copy_up::copy_up;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VolumeRecord {
    pub name: VolumeName,
    pub created_at: Timestamp,
    pub driver: String,
    pub labels: BTreeMap<String, String>,
    pub options: BTreeMap<String, String>,
    /// Made for one container alone.
    pub anonymous: bool,
    /// `ROOT/volumes/NAME/_data`
    pub mountpoint: PathBuf,
    /// The image's content has not been copied in yet.
    pub needs_copy_up: bool,
}

/// Every volume in memory, and a lock for each.
#[derive(Default)]
pub(in crate::engine) struct Volumes {
    records: RwLock<BTreeMap<String, Arc<VolumeRecord>>>,
    /// Held while a volume is made, filled or removed, and while a container that uses it is created.
    pub locks: KeyedLocks,
}

impl Volumes {
    pub fn new(records: Vec<VolumeRecord>) -> Self {
        let records =
            records.into_iter().map(|record| (record.name.as_str().to_owned(), Arc::new(record))).collect();
        Self { records: RwLock::new(records), locks: KeyedLocks::default() }
    }

    pub fn by_name(&self, name: &str) -> Option<Arc<VolumeRecord>> {
        self.records.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// By name or its unique beginning.
    pub fn find(&self, name: &str) -> Result<Arc<VolumeRecord>> {
        let records = self.records.read().unwrap_or_else(PoisonError::into_inner);
        match records.get(name) {
            Some(record) => Ok(record.clone()),
            None => unique_prefix(&records, name, Subject::Volume(name.to_owned())),
        }
    }

    /// By name.
    pub fn all(&self) -> Vec<Arc<VolumeRecord>> {
        self.records.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn insert(&self, record: Arc<VolumeRecord>) {
        let name = record.name.as_str().to_owned();
        self.records.write().unwrap_or_else(PoisonError::into_inner).insert(name, record);
    }

    fn remove(&self, name: &VolumeName) {
        self.records.write().unwrap_or_else(PoisonError::into_inner).remove(name.as_str());
    }
}

/// Names no volume can have: what is being deleted waits under one of these.
pub(in crate::engine) const REMOVED_PREFIX: &str = ".removed-";

impl Inner {
    pub async fn create_volume(
        &self,
        name: Option<VolumeName>,
        labels: BTreeMap<String, String>,
        options: BTreeMap<String, String>,
    ) -> Result<Arc<VolumeRecord>> {
        if let Some(option) = options.keys().next() {
            // podman's local driver mounts file systems with these; pretending would lose data.
            return Err(EngineError::new(
                ErrorKind::NotSupported,
                Subject::Volume(name.as_ref().map_or_else(String::new, ToString::to_string)),
                format!("volume option {option:?} is not supported"),
            ));
        }
        let name = name.unwrap_or_else(random_volume_name);
        let _lock = self.volumes.locks.lock(name.as_str()).await;
        let subject = Subject::Volume(name.to_string());
        if self.volumes.by_name(name.as_str()).is_some() {
            return Err(EngineError::new(
                ErrorKind::AlreadyExists,
                subject,
                format!("volume with name {name} already exists"),
            ));
        }
        let mut record = self.new_volume(name, false);
        record.labels = labels;
        let record = Arc::new(record);
        self.make_volume_directory(&record)?;
        self.commit(
            || (subject, "record the new volume"),
            vec![Change::PutVolume(record.clone())],
            vec![volume_event(&record, EventAction::Create)],
            || self.volumes.insert(record.clone()),
        )
        .await?;
        Ok(record)
    }

    /// A record for a volume that is not there yet.
    pub fn new_volume(&self, name: VolumeName, anonymous: bool) -> VolumeRecord {
        VolumeRecord {
            mountpoint: self.config.volumes_dir().join(name.as_str()).join("_data"),
            name,
            created_at: Timestamp::now(),
            driver: "local".to_owned(),
            labels: BTreeMap::new(),
            options: BTreeMap::new(),
            anonymous,
            needs_copy_up: true,
        }
    }

    /// A directory that is there already, with whatever it holds, becomes the volume's.
    pub fn make_volume_directory(&self, record: &VolumeRecord) -> Result<()> {
        std::fs::create_dir_all(&record.mountpoint).map_err(|source| {
            EngineError::internal(
                Subject::Volume(record.name.to_string()),
                format!("create {}", record.mountpoint.display()),
                source,
            )
        })?;
        failpoint::pass("volume-directory");
        Ok(())
    }

    /// Shows volumes that were made durable together with something else.
    pub fn show_volumes(&self, records: Vec<Arc<VolumeRecord>>) {
        for record in records {
            self.volumes.insert(record);
        }
    }

    /// The first use by a container: its image's content moves in. `tree` is called only if there is need.
    pub async fn fill_volume(
        &self,
        name: &VolumeName,
        destination: &Path,
        owner: (u32, u32),
        tree: impl FnOnce() -> std::io::Result<MergedTree>,
    ) -> Result<Arc<VolumeRecord>> {
        let subject = || Subject::Volume(name.to_string());
        let known = || self.volumes.by_name(name.as_str()).ok_or_else(|| EngineError::no_such(subject()));
        let record = known()?;
        if !record.needs_copy_up {
            return Ok(record);
        }
        let _lock = self.volumes.locks.lock(name.as_str()).await;
        let record = known()?;
        if !record.needs_copy_up {
            return Ok(record);
        }
        self.make_volume_directory(&record)?;
        let step = format!("copy the image's {} into the volume", destination.display());
        let tree = tree().map_err(|source| EngineError::internal(subject(), &step, source))?;
        let (path, data) = (destination.to_owned(), record.mountpoint.clone());
        tokio::task::spawn_blocking(move || copy_up(&tree, &path, &data, owner))
            .await
            .map_err(|source| EngineError::internal(subject(), &step, source))?
            .map_err(|source| EngineError::internal(subject(), &step, source))?;
        failpoint::pass("volume-copied");
        let filled = Arc::new(VolumeRecord { needs_copy_up: false, ..(*record).clone() });
        self.commit(
            || (subject(), "record the volume's first use"),
            vec![Change::PutVolume(filled.clone())],
            Vec::new(),
            || self.volumes.insert(filled.clone()),
        )
        .await?;
        Ok(filled)
    }

    pub async fn remove_volume(self: &Arc<Self>, name: &str, force: bool) -> Result<()> {
        loop {
            let record = self.volumes.find(name)?;
            let lock = self.volumes.locks.lock(record.name.as_str()).await;
            // It may have gone while we waited.
            let Some(record) = self.volumes.by_name(record.name.as_str()) else {
                return Err(EngineError::no_such(Subject::Volume(name.to_owned())));
            };
            let users = self.users_of_volume(&record.name);
            if users.is_empty() {
                return self.remove_unused_volume(&record).await;
            }
            if !force {
                return Err(EngineError::new(
                    ErrorKind::InUse,
                    Subject::Volume(record.name.to_string()),
                    format!("volume is being used by the following container(s): {}", users.join(", ")),
                ));
            }
            drop(lock);
            for id in users {
                let options = RemoveOptions { force: true, ..RemoveOptions::default() };
                match self.remove_container(&id.as_str().into(), options).await {
                    Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                    Ok(()) | Err(_) => {}
                }
            }
        }
    }

    fn users_of_volume(&self, name: &VolumeName) -> Vec<String> {
        self.containers
            .records()
            .iter()
            .filter(|container| container.uses_volume(name))
            .map(|container| container.id.to_string())
            .collect()
    }

    /// The caller holds the volume's lock and knows that nobody uses it.
    pub async fn remove_unused_volume(&self, record: &VolumeRecord) -> Result<()> {
        let subject = || Subject::Volume(record.name.to_string());
        // Aside first: with the record gone nothing may be left that a new volume of this name would adopt.
        // Recovery moves it back if the record is still there.
        let dir = self.config.volumes_dir().join(record.name.as_str());
        let aside = self.config.volumes_dir().join(format!("{REMOVED_PREFIX}{}", record.name));
        let moved = move_aside(&dir, &aside).map_err(|source| {
            EngineError::internal(subject(), format!("move {} aside", dir.display()), source)
        })?;
        failpoint::pass("volume-remove-moved");
        let committed = self
            .commit(
                || (subject(), "record the removal"),
                vec![Change::RemoveVolume(record.name.clone())],
                vec![volume_event(record, EventAction::Remove)],
                || self.volumes.remove(&record.name),
            )
            .await;
        if let Err(error) = committed {
            if moved && let Err(source) = std::fs::rename(&aside, &dir) {
                tracing::error!(volume.name = %record.name, error = %source,
                    "a volume that could not be removed is not moved back before the next start");
            }
            return Err(error);
        }
        failpoint::pass("volume-remove-recorded");
        if moved {
            let deleted = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(aside)).await;
            if let Ok(Err(source)) = deleted {
                tracing::warn!(volume.name = %record.name, error = %source,
                    "the content of a removed volume could not be deleted; the next start tries again");
            }
        }
        Ok(())
    }
}

impl ContainerRecord {
    pub(in crate::engine) fn uses_volume(&self, name: &VolumeName) -> bool {
        self.spec.mounts.iter().any(|mount| match &mount.source {
            MountSource::Volume { name: used, .. } => used == name,
            MountSource::Bind(_)
            | MountSource::BindBeneath { .. }
            | MountSource::AnonymousVolume
            | MountSource::Tmpfs { .. } => false,
        })
    }
}

/// 64 hexadecimal digits, as podman names anonymous volumes.
pub(in crate::engine) fn random_volume_name() -> VolumeName {
    ContainerId::random().as_str().parse().expect("hexadecimal digits are a name")
}

pub(in crate::engine) fn volume_event(record: &VolumeRecord, action: EventAction) -> Event {
    Event {
        time: Timestamp::now(),
        kind: EventKind::Volume,
        action,
        id: record.name.to_string(),
        name: record.name.to_string(),
        attributes: record.labels.clone(),
    }
}

/// False if there was nothing to move.
fn move_aside(dir: &Path, aside: &Path) -> std::io::Result<bool> {
    match std::fs::remove_dir_all(aside) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    match std::fs::rename(dir, aside) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

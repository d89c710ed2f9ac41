//! Durable records: SQLite with one writer thread that groups commits. All SQL of the engine is here.
//!
//! Reads never come here: [`Store::open`] hands everything to memory once.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::engine::container::ContainerRecord;
use crate::engine::event::Event;
use crate::engine::id::{ContainerId, ImageId, NetworkId, PodId, VolumeName};
use crate::engine::image::ImageRecord;
use crate::engine::network::NetworkRecord;
use crate::engine::pod::PodRecord;
use crate::engine::volume::VolumeRecord;

/// A handle on the writer. Cheap to clone.
#[derive(Clone)]
pub struct Store {}

/// One change to the durable state.
#[derive(Debug, Clone)]
pub enum Change {
    PutContainer(Arc<ContainerRecord>),
    RemoveContainer(ContainerId),
    PutPod(Arc<PodRecord>),
    RemovePod(PodId),
    PutImage(Arc<ImageRecord>),
    RemoveImage(ImageId),
    PutNetwork(Arc<NetworkRecord>),
    RemoveNetwork(NetworkId),
    PutVolume(Arc<VolumeRecord>),
    RemoveVolume(VolumeName),
    PutLease(Lease),
    /// All leases of one owner.
    RemoveLeases {
        owner: String,
    },
    PutNote {
        area: String,
        key: String,
        value: Arc<[u8]>,
    },
    RemoveNote {
        area: String,
        key: String,
    },
    /// Appended to the bounded journal.
    AppendEvent(Event),
}

/// An address that is taken: by a container, a pod or a Service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// A network's id, or `services`.
    pub network: String,
    pub address: IpAddr,
    /// Container or pod id, or the Service's `namespace/name`.
    pub owner: String,
}

/// Everything that was durable when the store was opened.
#[derive(Debug, Default)]
pub struct Snapshot {
    pub containers: Vec<ContainerRecord>,
    pub pods: Vec<PodRecord>,
    pub images: Vec<ImageRecord>,
    pub networks: Vec<NetworkRecord>,
    pub volumes: Vec<VolumeRecord>,
    pub leases: Vec<Lease>,
    pub notes: BTreeMap<String, BTreeMap<String, Arc<[u8]>>>,
}

#[derive(Debug, Error)]
pub enum StoreError {
    #[error("the database was written by a newer selkie (schema {found}, this one knows {known})")]
    TooNew { found: u32, known: u32 },
    #[error("{step}")]
    Sqlite {
        step: &'static str,
        #[source]
        source: rusqlite::Error,
    },
    #[error("the store's writer has ended")]
    Closed,
}

#[allow(unused_variables)]
impl Store {
    pub fn open(path: &Path) -> Result<(Self, Snapshot), StoreError> {
        todo!("core")
    }

    /// Applies all changes in one transaction; returns when they are on disk.
    pub async fn commit(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        todo!("core")
    }

    /// Journal entries in `[since, until]`, oldest first.
    pub fn events(&self, since: jiff::Timestamp, until: jiff::Timestamp) -> Result<Vec<Event>, StoreError> {
        todo!("core")
    }
}

//! Durable records: SQLite with one writer thread that groups commits. All SQL of the engine is here.
//!
//! Reads never come here: [`Store::open`] hands everything to memory once.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::oneshot;

use crate::engine::container::ContainerRecord;
use crate::engine::event::Event;
use crate::engine::id::{ContainerId, ImageId, NetworkId, PodId, VolumeName};
use crate::engine::image::ImageRecord;
use crate::engine::network::NetworkRecord;
use crate::engine::pod::PodRecord;
use crate::engine::volume::VolumeRecord;

mod schema;
#[cfg(test)]
mod tests;
mod writer;

/// A handle on the writer. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    requests: Sender<writer::Request>,
    /// For the journal alone.
    reader: Arc<Mutex<rusqlite::Connection>>,
}

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

/// Why the store could not be opened, read or written. Clonable, because one failed commit fails everyone
/// who waited for it.
#[derive(Debug, Clone, Error)]
pub enum StoreError {
    #[error("the database was written by a newer selkie (schema {found}, this one knows {known})")]
    TooNew { found: u32, known: u32 },
    #[error("{} is damaged: {detail}", path.display())]
    Corrupt { path: PathBuf, detail: String },
    #[error("{step}")]
    Sqlite {
        step: &'static str,
        #[source]
        source: Arc<rusqlite::Error>,
    },
    #[error("the record {id} in table {table} can not be understood")]
    Record {
        table: &'static str,
        id: String,
        #[source]
        source: Arc<serde_json::Error>,
    },
    #[error("the lease of {address:?} on network {network} by {owner} is not an address")]
    Lease { network: String, address: String, owner: String },
    #[error("encode record {id} for table {table}")]
    Encode {
        table: &'static str,
        id: String,
        #[source]
        source: Arc<serde_json::Error>,
    },
    #[error("start the store's writer")]
    Spawn(#[source] Arc<std::io::Error>),
    #[error("the store's writer has ended")]
    Closed,
}

impl StoreError {
    /// Nothing was written because the disk is full.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Sqlite { source, .. } => source.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull),
            Self::TooNew { .. }
            | Self::Corrupt { .. }
            | Self::Record { .. }
            | Self::Lease { .. }
            | Self::Encode { .. }
            | Self::Spawn(_)
            | Self::Closed => false,
        }
    }
}

impl Store {
    /// Opens or creates the database, brings its schema up to date and reads it whole.
    pub fn open(path: &Path) -> Result<(Self, Snapshot), StoreError> {
        let connection = schema::open_writer(path)?;
        let snapshot = schema::read_snapshot(&connection)?;
        let reader = schema::open_reader(path)?;
        let requests = writer::spawn(connection).map_err(|e| StoreError::Spawn(Arc::new(e)))?;
        let store = Self { requests, reader: Arc::new(Mutex::new(reader)) };
        Ok((store, snapshot))
    }

    /// Applies all changes in one transaction; returns when they are on disk. On error none of them is.
    ///
    /// Dropping the future does not take the changes back: they may or may not be applied.
    pub async fn commit(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        let (done, outcome) = oneshot::channel();
        self.requests.send(writer::Request { changes, done }).map_err(|_| StoreError::Closed)?;
        outcome.await.map_err(|_| StoreError::Closed)?
    }

    /// Journal entries in `[since, until]`, oldest first.
    pub fn events(&self, since: jiff::Timestamp, until: jiff::Timestamp) -> Result<Vec<Event>, StoreError> {
        // Only readers of the journal share this connection: nobody else ever waits for it.
        let reader = self.reader.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut statement = reader
            .prepare_cached("SELECT seq, event FROM events WHERE time_ns BETWEEN ?1 AND ?2 ORDER BY seq")
            .step("read the event journal")?;
        let mut rows =
            statement.query([nanoseconds(since), nanoseconds(until)]).step("read the event journal")?;
        let mut events = Vec::new();
        while let Some(row) = rows.next().step("read the event journal")? {
            let seq: i64 = row.get(0).step("read the event journal")?;
            let event: String = row.get(1).step("read the event journal")?;
            events.push(serde_json::from_str(&event).map_err(|source| StoreError::Record {
                table: "events",
                id: seq.to_string(),
                source: Arc::new(source),
            })?);
        }
        Ok(events)
    }
}

/// Names the step that SQLite failed at.
trait StoreResultExt<T> {
    fn step(self, step: &'static str) -> Result<T, StoreError>;
}

impl<T> StoreResultExt<T> for rusqlite::Result<T> {
    fn step(self, step: &'static str) -> Result<T, StoreError> {
        self.map_err(|source| StoreError::Sqlite { step, source: Arc::new(source) })
    }
}

/// Nanoseconds since 1970, as far as SQLite's integers reach (1677 to 2262).
fn nanoseconds(time: jiff::Timestamp) -> i64 {
    i64::try_from(time.as_nanosecond()).unwrap_or(if time.as_nanosecond() < 0 { i64::MIN } else { i64::MAX })
}

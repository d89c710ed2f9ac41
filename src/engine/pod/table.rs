//! Pods in memory; the counterpart of `container/table.rs`.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use super::PodRecord;
use crate::engine::container::table::unique_prefix;
use crate::engine::error::{Result, Subject};
use crate::engine::id::{NameOrId, PodId};
use crate::engine::names::{Names, Owner};

pub(in crate::engine) struct Entry {
    record: RwLock<Arc<PodRecord>>,
    /// Held through a change of the sandbox or the list of containers. Whoever holds a container's lock may take
    /// this one, never the other way round.
    pub effects: tokio::sync::Mutex<Effects>,
}

/// What only the holder of the lock knows.
#[derive(Debug, Default)]
pub(in crate::engine) struct Effects {
    /// The sandbox was seen standing since this daemon runs, and nobody took it down.
    pub standing: bool,
    /// Being removed or gone: nothing may be added any more.
    pub removed: bool,
}

impl Entry {
    pub fn record(&self) -> Arc<PodRecord> {
        self.record.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The caller holds `effects` and has made it durable.
    pub fn show(&self, record: Arc<PodRecord>) {
        *self.record.write().unwrap_or_else(PoisonError::into_inner) = record;
    }
}

#[derive(Default)]
pub(in crate::engine) struct Pods(RwLock<BTreeMap<String, Arc<Entry>>>);

impl Pods {
    pub fn insert(&self, record: Arc<PodRecord>) -> Arc<Entry> {
        let id = record.id.as_str().to_owned();
        let entry = Arc::new(Entry { record: RwLock::new(record), effects: tokio::sync::Mutex::default() });
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(id, entry.clone());
        entry
    }

    pub fn remove(&self, id: &PodId) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(id.as_str());
    }

    pub fn by_id(&self, id: &PodId) -> Option<Arc<Entry>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(id.as_str()).cloned()
    }

    pub fn entries(&self) -> Vec<Arc<Entry>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// By id, by name, or by the unique beginning of an id, in this order.
    pub fn find(&self, names: &Names, wanted: &NameOrId) -> Result<Arc<Entry>> {
        let text = wanted.as_str();
        let pods = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = pods.get(text) {
            return Ok(entry.clone());
        }
        if let Some(Owner::Pod(id)) = names.owner(text)
            && let Some(entry) = pods.get(id.as_str())
        {
            return Ok(entry.clone());
        }
        unique_prefix(&pods, text, Subject::Pod(text.to_owned()))
    }
}

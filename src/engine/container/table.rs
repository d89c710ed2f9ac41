//! Containers in memory. Reading one takes a short lock that is never held across I/O; changing one takes
//! its own lock for effects, so that no container waits for another.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::watch;

use super::ContainerRecord;
use crate::engine::error::{EngineError, Result, Subject};
use crate::engine::id::{ContainerId, NameOrId};
use crate::engine::names::{Names, Owner};

/// What can be seen of a container. Waiters are woken by every change.
#[derive(Debug, Clone)]
pub(in crate::engine) struct View {
    pub record: Arc<ContainerRecord>,
    /// Counts the ends of its runs: a waiter that was not scheduled in between still notices one.
    pub ended_runs: u64,
    /// Exit code of the last run.
    pub last_exit_code: Option<i32>,
    /// Gone altogether; this view is the last.
    pub removed: bool,
}

pub(in crate::engine) struct Entry {
    view: watch::Sender<View>,
    /// Held through an effect and the record of its result; never while waiting for the container.
    pub effects: Arc<tokio::sync::Mutex<()>>,
    /// How often in a row it ended soon after its start.
    quick_exits: AtomicU32,
}

impl Entry {
    pub fn new(record: Arc<ContainerRecord>) -> Self {
        let last_exit_code = record.state.exit_status().map(|status| status.code);
        Self {
            view: watch::Sender::new(View { record, ended_runs: 0, last_exit_code, removed: false }),
            effects: Arc::default(),
            quick_exits: AtomicU32::new(0),
        }
    }

    pub fn record(&self) -> Arc<ContainerRecord> {
        self.view.borrow().record.clone()
    }

    pub fn view(&self) -> View {
        self.view.borrow().clone()
    }

    pub fn watch(&self) -> watch::Receiver<View> {
        self.view.subscribe()
    }

    /// Shows `record` to everyone. The caller holds `effects` and has made it durable.
    pub fn show(&self, record: Arc<ContainerRecord>) {
        self.view.send_modify(|view| {
            if let Some(status) = record.state.exit_status()
                && view.record.state.exit_status() != Some(status)
            {
                view.ended_runs += 1;
                view.last_exit_code = Some(status.code);
            }
            view.record = record;
        });
    }

    /// Counts an end; how many quick ones there were in a row.
    pub fn count_exit(&self, quick: bool) -> u32 {
        if quick {
            self.quick_exits.fetch_add(1, Ordering::Relaxed) + 1
        } else {
            self.quick_exits.store(0, Ordering::Relaxed);
            0
        }
    }

    pub fn show_removed(&self) {
        self.view.send_modify(|view| view.removed = true);
    }

    pub fn is_removed(&self) -> bool {
        self.view.borrow().removed
    }
}

/// Every container, by id.
#[derive(Default)]
pub(in crate::engine) struct Containers(RwLock<BTreeMap<String, Arc<Entry>>>);

impl Containers {
    pub fn insert(&self, record: Arc<ContainerRecord>) -> Arc<Entry> {
        let id = record.id.as_str().to_owned();
        let entry = Arc::new(Entry::new(record));
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(id, entry.clone());
        entry
    }

    pub fn remove(&self, id: &ContainerId) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(id.as_str());
    }

    pub fn by_id(&self, id: &ContainerId) -> Option<Arc<Entry>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(id.as_str()).cloned()
    }

    pub fn records(&self) -> Vec<Arc<ContainerRecord>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).values().map(|entry| entry.record()).collect()
    }

    /// By id, by name, or by the unique beginning of an id, in this order.
    pub fn find(&self, names: &Names, wanted: &NameOrId) -> Result<Arc<Entry>> {
        let text = wanted.as_str();
        let containers = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = containers.get(text) {
            return Ok(entry.clone());
        }
        if let Some(Owner::Container(id)) = names.owner(text)
            && let Some(entry) = containers.get(id.as_str())
        {
            return Ok(entry.clone());
        }
        let subject = Subject::Container(text.to_owned());
        unique_prefix(&containers, text, subject)
    }
}

/// The one object whose id begins with `prefix`.
pub(in crate::engine) fn unique_prefix<T: Clone>(
    objects: &BTreeMap<String, T>,
    prefix: &str,
    subject: Subject,
) -> Result<T> {
    if prefix.is_empty() {
        return Err(EngineError::no_such(subject));
    }
    let mut matches = objects
        .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
        .take_while(|(id, _)| id.starts_with(prefix));
    match (matches.next(), matches.next()) {
        (None, _) => Err(EngineError::no_such(subject)),
        (Some((_, object)), None) => Ok(object.clone()),
        (Some(_), Some(_)) => {
            Err(EngineError::invalid(subject, "more than one result for this beginning of an id"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::error::ErrorKind;

    #[test]
    fn beginnings_of_ids_must_be_unique() {
        let objects = BTreeMap::from([("abc1".to_owned(), 1), ("abd2".to_owned(), 2), ("b".to_owned(), 3)]);
        let find = |prefix| unique_prefix(&objects, prefix, Subject::Container(prefix.to_owned()));
        assert_eq!(find("abc").unwrap(), 1);
        assert_eq!(find("b").unwrap(), 3);
        assert_eq!(find("ab").unwrap_err().kind(), ErrorKind::InvalidArgument);
        assert_eq!(find("abe").unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(find("").unwrap_err().kind(), ErrorKind::NotFound);
    }
}

//! Which layers are unpacked, who still needs them, and that each is unpacked once.
//!
//! A layer is *wanted* while a record names it, and *held* while a pull or a load that will commit such a record is
//! under way. Removing an image never takes a layer from under a pull.
//!
//! A pull that fails leaves the layers it has finished, so that the next try fetches only the others; they go with
//! the next removal, at the next start, or at once if what failed is a full disk.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::Semaphore;

use super::digest::Digest;
use super::layer::{Expected, LayerError, Limits, unpack_blob};
use super::store::{Content, ContentError};

pub struct Layers {
    content: Content,
    limits: Limits,
    table: Mutex<Table>,
    /// One lock per layer that is being made or waited for.
    making: Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
    /// Each layer being made takes one: bounds threads, connections and buffers of all pulls together.
    slots: Semaphore,
}

#[derive(Default)]
struct Table {
    /// Every unpacked layer, with the size of its files in bytes.
    sizes: HashMap<Digest, u64>,
    held: HashMap<Digest, usize>,
}

/// Keeps layers from being removed.
pub struct Held {
    layers: Arc<Layers>,
    chain_ids: Vec<Digest>,
}

/// What [`Layers::ensure`] found or did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ensured {
    Present { size_bytes: u64 },
    Made { size_bytes: u64 },
}

impl Ensured {
    pub fn size_bytes(self) -> u64 {
        match self {
            Self::Present { size_bytes } | Self::Made { size_bytes } => size_bytes,
        }
    }
}

impl Layers {
    /// `sizes` are the layers that records name; those whose directory is gone are left out.
    pub fn new(
        content: Content,
        sizes: impl IntoIterator<Item = (Digest, u64)>,
        limits: Limits,
        at_once: usize,
    ) -> Self {
        let sizes = sizes.into_iter().filter(|(chain_id, _)| content.has_layer(chain_id)).collect();
        Self {
            content,
            limits,
            table: Mutex::new(Table { sizes, held: HashMap::new() }),
            making: Mutex::default(),
            slots: Semaphore::new(at_once),
        }
    }

    pub fn hold(self: &Arc<Self>, chain_ids: &[Digest]) -> Held {
        let mut table = self.table();
        for chain_id in chain_ids {
            *table.held.entry(chain_id.clone()).or_default() += 1;
        }
        Held { layers: Arc::clone(self), chain_ids: chain_ids.to_vec() }
    }

    /// Makes the layer unless it is there. `blob` is polled only if it is needed; whoever asks for the same layer
    /// meanwhile waits and finds it. The caller holds the layer.
    pub async fn ensure<E>(
        &self,
        chain_id: &Digest,
        expected: Expected,
        blob: impl Future<Output = Result<Box<dyn Read + Send>, E>>,
    ) -> Result<Ensured, E>
    where
        E: From<LayerError> + From<ContentError>,
    {
        let lock = self.making_lock(chain_id);
        let _making = lock.lock().await;
        if let Some(size_bytes) = self.size_of(chain_id) {
            return Ok(Ensured::Present { size_bytes });
        }
        let _slot = self.slots.acquire().await.expect("the semaphore is never closed");
        let mut blob = blob.await?;
        let ingest = self.content.begin_layer()?;
        let recipe = ingest.create_recipe()?;
        let limits = self.limits;
        let unpack = move || {
            let size_bytes = unpack_blob(&mut *blob, &expected, ingest.path(), Some(recipe), &limits)?;
            Ok((ingest, size_bytes))
        };
        let (ingest, size_bytes) = tokio::task::spawn_blocking(unpack)
            .await
            .unwrap_or_else(|panic| Err(LayerError::Read(io::Error::other(panic))))?;
        self.content.sync().await?;
        self.content.commit_layer(ingest, chain_id)?;
        self.table().sizes.insert(chain_id.clone(), size_bytes);
        Ok(Ensured::Made { size_bytes })
    }

    pub fn is_present(&self, chain_id: &Digest) -> bool {
        self.size_of(chain_id).is_some()
    }

    /// Removes every layer that is neither wanted nor held. Names go at once, files in the background.
    pub fn remove_unused(&self, wanted: &HashSet<&str>) {
        let mut removed = Vec::new();
        {
            let mut table = self.table();
            let unused: Vec<Digest> = table
                .sizes
                .keys()
                .filter(|chain_id| !wanted.contains(chain_id.as_str()) && !table.held.contains_key(chain_id))
                .cloned()
                .collect();
            for chain_id in unused {
                table.sizes.remove(&chain_id);
                match self.content.remove_layer(&chain_id) {
                    Ok(ingest) => removed.push(ingest),
                    Err(error) => {
                        let error = crate::engine::error::chain(&error);
                        tracing::warn!(layer = %chain_id, error, "a layer stays until the next start");
                    }
                }
            }
        }
        // Dropping them removes the files.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(move || drop(removed));
        }
    }

    /// The size of a layer that is there.
    fn size_of(&self, chain_id: &Digest) -> Option<u64> {
        let mut table = self.table();
        let size_bytes = *table.sizes.get(chain_id)?;
        if self.content.has_layer(chain_id) {
            return Some(size_bytes);
        }
        // Somebody removed it by hand: it will be fetched again.
        table.sizes.remove(chain_id);
        None
    }

    fn making_lock(&self, chain_id: &Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        making.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = making.get(chain_id).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        making.insert(chain_id.clone(), Arc::downgrade(&lock));
        lock
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut table = self.layers.table();
        for chain_id in &self.chain_ids {
            if let Some(count) = table.held.get_mut(chain_id) {
                *count -= 1;
                if *count == 0 {
                    table.held.remove(chain_id);
                }
            }
        }
    }
}

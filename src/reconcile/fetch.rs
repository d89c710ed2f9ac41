//! Images that pods wait for: fetched in the background, with kubelet's back-off, a few at a time per
//! registry, so that one that stalls keeps nobody else waiting.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use crate::engine::Engine;
use crate::engine::error::{EngineError, ErrorKind};
use crate::engine::image::PullOptions;
use crate::reconcile::action::{FetchKey, Freshness};
use crate::reconcile::actual::ImageState;
use crate::reconcile::backoff::IMAGE;

/// What is known of the fetches so far.
pub struct Fetcher {
    engine: Engine,
    per_registry: usize,
    entries: Mutex<BTreeMap<FetchKey, Entry>>,
    registries: Mutex<BTreeMap<String, Arc<Semaphore>>>,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Clone)]
enum Entry {
    Fetching,
    Fetched,
    Failed { reason: &'static str, message: String, failures: u32, retry_at: Instant },
}

impl Fetcher {
    pub fn new(engine: Engine, per_registry: usize) -> Self {
        Self {
            engine,
            per_registry,
            entries: Mutex::default(),
            registries: Mutex::default(),
            changes: watch::Sender::new(0),
        }
    }

    /// Bumped whenever a fetch ends.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub fn state(&self, key: &FetchKey, now: Instant) -> ImageState {
        let present = self.engine.image(&key.image).is_ok();
        let entry = self.entries().get(key).cloned();
        match (&key.freshness, entry) {
            // It only has to be there, however it came.
            (Freshness::Present | Freshness::Local, _) if present => ImageState::Present,
            (Freshness::Asked { .. }, Some(Entry::Fetched)) if present => ImageState::Present,
            (Freshness::Local, _) => ImageState::Failed {
                reason: "ErrImageNeverPull".to_owned(),
                message: "it is not on this machine, and its pull policy is Never".to_owned(),
                due: false,
            },
            (_, None | Some(Entry::Fetched)) => ImageState::Absent,
            (_, Some(Entry::Fetching)) => ImageState::Fetching,
            (_, Some(Entry::Failed { reason, message, retry_at, .. })) => {
                ImageState::Failed { reason: reason.to_owned(), message, due: retry_at <= now }
            }
        }
    }

    /// When the next failed fetch is due again.
    pub fn next_retry(&self, now: Instant) -> Option<Instant> {
        let entries = self.entries();
        let retries = entries.values().filter_map(|entry| match entry {
            Entry::Failed { retry_at, .. } => Some(*retry_at),
            Entry::Fetching | Entry::Fetched => None,
        });
        retries.filter(|at| *at > now).min()
    }

    /// Someone asks now: failed fetches are due at once.
    pub fn forgive(&self, now: Instant) {
        for entry in self.entries().values_mut() {
            if let Entry::Failed { retry_at, .. } = entry {
                *retry_at = now;
            }
        }
    }

    /// What nobody needs any more is forgotten.
    pub fn retain(&self, wanted: impl Fn(&FetchKey) -> bool) {
        self.entries().retain(|key, entry| matches!(entry, Entry::Fetching) || wanted(key));
    }

    /// Starts to fetch, unless that is under way.
    pub fn fetch(self: &Arc<Self>, key: FetchKey, options: PullOptions) {
        let failures = {
            let mut entries = self.entries();
            let failures = match entries.get(&key) {
                Some(Entry::Fetching) => return,
                Some(Entry::Failed { failures, .. }) => *failures,
                Some(Entry::Fetched) | None => 0,
            };
            entries.insert(key.clone(), Entry::Fetching);
            failures
        };
        let registry = registry_of(&key.image).to_owned();
        let permits = {
            let mut registries = self.registries.lock().unwrap_or_else(PoisonError::into_inner);
            registries.entry(registry).or_insert_with(|| Arc::new(Semaphore::new(self.per_registry))).clone()
        };
        let fetcher = self.clone();
        tokio::spawn(async move {
            let _permit = permits.acquire().await;
            let begin = Instant::now();
            let fetched = fetcher.engine.pull_image(&key.image, options, None).await;
            let entry = match fetched {
                Ok(_) => {
                    let duration_ms = begin.elapsed().as_millis() as u64;
                    tracing::info!(image.reference = %key.image, duration_ms, "image is here");
                    Entry::Fetched
                }
                Err(error) => {
                    let message = error.chain();
                    tracing::warn!(image.reference = %key.image, "fetch image: {message}");
                    let failures = failures + 1;
                    let retry_at = Instant::now() + IMAGE.delay(failures);
                    Entry::Failed { reason: reason(&error, failures), message, failures, retry_at }
                }
            };
            fetcher.entries().insert(key, entry);
            fetcher.changes.send_modify(|count| *count += 1);
        });
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<FetchKey, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// kubelet's words.
fn reason(error: &EngineError, failures: u32) -> &'static str {
    match (error.kind(), failures) {
        (ErrorKind::InvalidArgument, _) => "InvalidImageName",
        (_, 0 | 1) => "ErrImagePull",
        (_, _) => "ImagePullBackOff",
    }
}

/// Near enough to tell registries apart: a first component with a dot or a port is a host.
fn registry_of(image: &str) -> &str {
    match image.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => first,
        Some(_) | None => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_are_told_apart() {
        for (image, registry) in [
            ("busybox", ""),
            ("library/busybox", ""),
            ("quay.io/a/b:1", "quay.io"),
            ("localhost/web", "localhost"),
            ("127.0.0.1:5000/x@sha256:0", "127.0.0.1:5000"),
        ] {
            assert_eq!(registry_of(image), registry, "{image}");
        }
    }
}

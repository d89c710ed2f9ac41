//! Taking names away from images, and images that nobody needs from the disk.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::OwnedMutexGuard;

use super::records::Records;
use super::reference::ImageReference;
use super::{ImageRecord, ImageStore, Shared, blobs_of, image_subject, uncancelled};
use crate::engine::RemovedImage;
use crate::engine::error::{EngineError, ErrorKind, Result, Subject};
use crate::engine::id::ImageId;
use crate::engine::store::StoreError;

/// An image that was pruned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrunedImage {
    pub id: ImageId,
    pub removed: RemovedImage,
    /// Of its layers that no other image has: the sum over all is what the disk gained.
    pub reclaimed_bytes: u64,
}

impl ImageStore {
    /// Takes `names` from the image, all of them if none is given. The image stays, perhaps without a name.
    /// Returns the names it had and has no more.
    pub async fn untag(&self, image: &str, names: &[String]) -> Result<(ImageId, Vec<String>)> {
        let changing = Arc::clone(&self.shared.changing).lock_owned().await;
        let (record, _) = self.find(image)?;
        let mut untagged = Vec::new();
        for name in names {
            let invalid = |error: &dyn std::error::Error| {
                EngineError::invalid(Subject::Image(name.clone()), error.to_string())
            };
            let typed = name.parse().map_err(|error: super::reference::InvalidReference| invalid(&error))?;
            let candidates = self.shared.registries().local_candidates(&typed);
            let held =
                candidates.iter().map(ImageReference::to_string).find(|full| record.names.contains(full));
            let held = held.ok_or_else(|| {
                // podman's words.
                EngineError::new(ErrorKind::NotFound, Subject::Image(name.clone()), "tag not known")
            })?;
            untagged.push(held);
        }
        if names.is_empty() {
            untagged = record.names.clone();
        }
        let mut left = record.as_ref().clone();
        left.names.retain(|name| !untagged.contains(name));
        self.take_away(changing, vec![Arc::new(left)], Vec::new())
            .await
            .map_err(|error| EngineError::internal(image_subject(&record), "untag", error))?;
        Ok((record.id.clone(), untagged))
    }

    /// Removes every image that is `wanted` away and that no container uses, with all its names.
    pub async fn prune(
        &self,
        wanted: &(dyn Fn(&ImageRecord) -> bool + Send + Sync),
        in_use: &(dyn Fn(&ImageId) -> bool + Send + Sync),
    ) -> Result<Vec<PrunedImage>> {
        let changing = Arc::clone(&self.shared.changing).lock_owned().await;
        let records = self.shared.records();
        let mut gone: Vec<_> =
            records.iter().filter(|record| wanted(record) && !in_use(&record.id)).cloned().collect();
        gone.sort_by(|a, b| a.added_at.cmp(&b.added_at).then_with(|| a.id.cmp(&b.id)));
        let pruned = account(&records, &gone);
        if !gone.is_empty() {
            self.take_away(changing, Vec::new(), gone)
                .await
                .map_err(|error| EngineError::internal(Subject::Engine, "prune images", error))?;
        }
        Ok(pruned)
    }

    /// Makes the change durable, and removes what only `gone` needed. The guard is held since the decision.
    pub(super) async fn take_away(
        &self,
        changing: OwnedMutexGuard<()>,
        changed: Vec<Arc<ImageRecord>>,
        gone: Vec<Arc<ImageRecord>>,
    ) -> Result<(), StoreError> {
        let shared: Arc<Shared> = Arc::clone(&self.shared);
        uncancelled(async move {
            let records = shared.records();
            let ids = gone.iter().map(|record| record.id.clone()).collect();
            shared.publish(&records, changed, ids).await?;
            for blob in gone.iter().flat_map(|record| blobs_of(record)) {
                if let Err(error) = shared.content.remove_blob(&blob) {
                    let error = crate::engine::error::chain(&error);
                    tracing::warn!(blob = %blob, error, "a blob stays until the next start");
                }
            }
            shared.remove_unused_layers();
            drop(changing);
            Ok(())
        })
        .await
    }
}

/// What each of `gone` frees: a layer that several of them share counts for the first.
fn account(records: &Records, gone: &[Arc<ImageRecord>]) -> Vec<PrunedImage> {
    let ids: HashSet<_> = gone.iter().map(|record| &record.id).collect();
    let staying = records.iter().filter(|record| !ids.contains(&record.id));
    let mut counted: HashSet<&str> =
        staying.flat_map(|record| &record.layers).map(|layer| layer.chain_id.as_str()).collect();
    let mut pruned = Vec::new();
    for record in gone {
        let freed = record.layers.iter().filter(|layer| counted.insert(layer.chain_id.as_str()));
        pruned.push(PrunedImage {
            id: record.id.clone(),
            reclaimed_bytes: freed.map(|layer| layer.size_bytes).sum(),
            removed: RemovedImage { untagged: record.names.clone(), deleted: vec![record.id.clone()] },
        });
    }
    pruned
}

//! Images and networks: their own modules act, here their changes are told, and checked against the containers
//! that use them. And closing, which concerns them all.

use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use super::container::RemoveOptions;
use super::error::{ErrorKind, Result};
use super::event::{Event, EventAction, EventKind};
use super::id::{ContainerId, ImageId, NameOrId, NetworkName};
use super::image::{ImageRecord, ProgressSink, PrunedImage, PullOptions};
use super::inner::Inner;
use super::network::{NetworkCreate, NetworkRecord};
use super::{Machine, RemovedImage, container::spec::NetworkMode};

/// How long closing waits for effects that are under way.
const CLOSE_DEADLINE: Duration = Duration::from_secs(10);

impl Inner {
    pub async fn pull_image(
        &self,
        reference: &str,
        options: PullOptions,
        progress: Option<ProgressSink>,
    ) -> Result<Arc<ImageRecord>> {
        let before = self.images.image(reference).ok();
        let image = self.images.pull(reference, options, progress).await?;
        // Already there and the same: nothing happened.
        if before.is_none_or(|before| before != image) {
            self.tell(vec![image_event(&image.id, reference, EventAction::Pull)]).await;
        }
        Ok(image)
    }

    pub async fn load_images(&self, archive: &Path) -> Result<Vec<Arc<ImageRecord>>> {
        let images = self.images.load(archive).await?;
        let events = images
            .iter()
            .map(|image| {
                let name = image.names.first().map_or(image.id.as_str(), String::as_str);
                image_event(&image.id, name, EventAction::LoadFromArchive)
            })
            .collect();
        self.tell(events).await;
        Ok(images)
    }

    pub async fn tag_image(&self, image: &str, name: &str) -> Result<()> {
        self.images.tag(image, name).await?;
        let id = self.images.image(image)?.id.clone();
        self.tell(vec![image_event(&id, name, EventAction::Tag)]).await;
        Ok(())
    }

    /// With `force` the containers of an image that would go are removed first, as podman does.
    pub async fn remove_image(self: &Arc<Self>, image: &str, force: bool) -> Result<RemovedImage> {
        let id = self.images.image(image)?.id.clone();
        let in_use = |id: &ImageId| self.users_of_image(id).iter().map(ToString::to_string).collect();
        let mut removed = self.images.remove(image, false, &in_use).await;
        if force && removed.as_ref().is_err_and(|error| error.kind() == ErrorKind::InUse) {
            for container in self.users_of_image(&id) {
                let options = RemoveOptions { force: true, ..RemoveOptions::default() };
                match self.remove_container(&NameOrId::from(&container), options).await {
                    Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                    Ok(()) | Err(_) => {}
                }
            }
            removed = self.images.remove(image, true, &in_use).await;
        }
        let removed = removed?;
        let untagged = removed.untagged.iter().map(|name| image_event(&id, name, EventAction::Untag));
        let deleted = removed.deleted.iter().map(|id| image_event(id, image, EventAction::Remove));
        self.tell(untagged.chain(deleted).collect()).await;
        Ok(removed)
    }

    pub async fn untag_image(&self, image: &str, names: &[String]) -> Result<()> {
        let (id, untagged) = self.images.untag(image, names).await?;
        self.tell(untagged.iter().map(|name| image_event(&id, name, EventAction::Untag)).collect()).await;
        Ok(())
    }

    /// Images that are `wanted` away and that no container uses.
    pub async fn prune_images(
        &self,
        wanted: &(dyn Fn(&ImageRecord) -> bool + Send + Sync),
    ) -> Result<Vec<PrunedImage>> {
        let in_use = |id: &ImageId| !self.users_of_image(id).is_empty();
        let pruned = self.images.prune(wanted, &in_use).await?;
        let mut events = Vec::new();
        for image in &pruned {
            let untagged = image.removed.untagged.iter();
            events.extend(untagged.map(|name| image_event(&image.id, name, EventAction::Untag)));
            events.push(image_event(&image.id, image.id.as_str(), EventAction::Remove));
        }
        self.tell(events).await;
        Ok(pruned)
    }

    fn users_of_image(&self, id: &ImageId) -> Vec<ContainerId> {
        let in_creation = self.images_in_creation.lock().unwrap_or_else(PoisonError::into_inner);
        let records = self.containers.records();
        let users = records.iter().filter(|record| record.image_id.as_ref() == Some(id));
        let mut users: Vec<_> = users.map(|record| record.id.clone()).collect();
        // It has an id nobody knows yet; any will do to say that there is one.
        users.extend(in_creation.iter().filter(|image| *image == id).map(|_| ContainerId::random()));
        users
    }

    pub async fn create_network(&self, network: NetworkCreate) -> Result<Arc<NetworkRecord>> {
        let network = self.networks.create(network).await?;
        self.tell(vec![network_event(&network, EventAction::Create)]).await;
        Ok(network)
    }

    pub async fn remove_network(self: &Arc<Self>, wanted: &NameOrId, force: bool) -> Result<()> {
        let network = self.networks.network(wanted)?;
        if force {
            for container in self.users_of_network(&network.name) {
                let options = RemoveOptions { force: true, ..RemoveOptions::default() };
                match self.remove_container(&NameOrId::from(&container), options).await {
                    Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                    Ok(()) | Err(_) => {}
                }
            }
        }
        let removed = self.networks.remove(wanted, force).await?;
        self.tell(vec![network_event(&removed, EventAction::Remove)]).await;
        Ok(())
    }

    fn users_of_network(&self, name: &NetworkName) -> Vec<ContainerId> {
        let joins = |mode: &NetworkMode| match mode {
            NetworkMode::Bridge(attachments) => {
                attachments.iter().any(|attachment| attachment.network == *name)
            }
            NetworkMode::Host
            | NetworkMode::None
            | NetworkMode::Pod
            | NetworkMode::Container(_)
            | NetworkMode::Path(_) => false,
        };
        let records = self.containers.records();
        records.iter().filter(|record| joins(&record.spec.network)).map(|record| record.id.clone()).collect()
    }

    /// Ends what only this process drives; containers run on, or end unless the machine goes on.
    pub async fn close(&self, machine: Machine) {
        self.closing.cancel();
        self.tasks.close();
        if tokio::time::timeout(CLOSE_DEADLINE, self.tasks.wait()).await.is_err() {
            tracing::warn!("closing while operations are under way; the next start finishes them");
        }
        match machine {
            Machine::GoesOn => {}
            Machine::GoesDown => self.end_processes().await,
        }
        self.networks.close().await;
    }
}

fn image_event(id: &ImageId, name: &str, action: EventAction) -> Event {
    Event {
        time: Timestamp::now(),
        kind: EventKind::Image,
        action,
        id: id.to_string(),
        name: name.to_owned(),
        attributes: Default::default(),
    }
}

fn network_event(network: &NetworkRecord, action: EventAction) -> Event {
    Event {
        time: Timestamp::now(),
        kind: EventKind::Network,
        action,
        id: network.id.to_string(),
        name: network.name.to_string(),
        attributes: network.labels.clone(),
    }
}

//! Giving a container another name.

use std::sync::Arc;

use super::ContainerRecord;
use super::lifecycle::{container_event, present};
use super::state::ContainerState;
use crate::engine::Inner;
use crate::engine::error::{EngineError, Result, Subject};
use crate::engine::event::EventAction;
use crate::engine::id::{ContainerName, NameOrId};
use crate::engine::names::Owner;
use crate::engine::store::Change;

impl Inner {
    /// The new name is taken before it is durable and the old one is given back after: at no time can somebody
    /// else have either.
    pub async fn rename_container(&self, wanted: &NameOrId, name: ContainerName) -> Result<()> {
        let entry = self.containers.find(&self.names, wanted)?;
        let _effects = entry.effects.lock().await;
        let record = present(&entry)?;
        let subject = || Subject::Container(record.name.to_string());
        if record.state == ContainerState::Removing {
            return Err(EngineError::wrong_state(subject(), "it is being removed"));
        }
        // podman agrees; docker would complain.
        if record.name == name {
            return Ok(());
        }
        self.names.take(name.as_str(), Owner::Container(record.id.clone()))?;
        let renamed = Arc::new(ContainerRecord { name, ..(*record).clone() });
        let mut event = container_event(&renamed, EventAction::Rename);
        // As docker has it; compose reads it.
        event.attributes.insert("oldName".to_owned(), format!("/{}", record.name));
        let committed = self
            .commit(
                || (subject(), "record its new name"),
                vec![Change::PutContainer(renamed.clone())],
                vec![event],
                || {
                    entry.show(renamed.clone());
                    self.names.give_back(record.name.as_str());
                    self.networks.rename(renamed.id.as_str(), renamed.name.as_str());
                },
            )
            .await;
        if committed.is_err() {
            self.names.give_back(renamed.name.as_str());
        }
        committed
    }
}

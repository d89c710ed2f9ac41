//! What happened: one typed stream, sent after the change it tells of is durable.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub time: Timestamp,
    pub kind: EventKind,
    pub action: EventAction,
    /// Identifier of the object (image digest, container id, volume name ...).
    pub id: String,
    pub name: String,
    /// Labels and details: `image`, `containerExitCode`, `podId` as podman names them.
    pub attributes: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    Container,
    Pod,
    Image,
    Network,
    Volume,
    System,
}

/// podman's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventAction {
    Attach,
    Connect,
    Create,
    Died,
    Disconnect,
    Exec,
    ExecDied,
    HealthStatus,
    Init,
    Kill,
    LoadFromArchive,
    Pause,
    Prune,
    Pull,
    Refresh,
    Remove,
    Rename,
    Restart,
    Start,
    Stop,
    Tag,
    Unpause,
    Untag,
}

/// Hands events to whoever listens. Publishing never waits: a slow listener loses the oldest.
pub(in crate::engine) struct EventBus {
    sender: broadcast::Sender<Event>,
}

impl EventBus {
    /// How far a listener may fall behind.
    const CAPACITY: usize = 4096;

    pub fn new() -> Self {
        Self { sender: broadcast::channel(Self::CAPACITY).0 }
    }

    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.sender.subscribe()
    }

    /// What the events tell of must be durable already.
    pub fn publish(&self, events: Vec<Event>) {
        for event in events {
            // An error only means that nobody listens.
            let _ = self.sender.send(event);
        }
    }
}

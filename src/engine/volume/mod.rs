//! Named volumes: directories that survive their containers. Never pruned unasked.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::engine::id::VolumeName;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VolumeRecord {
    pub name: VolumeName,
    pub created_at: Timestamp,
    pub driver: String,
    pub labels: BTreeMap<String, String>,
    pub options: BTreeMap<String, String>,
    /// Made for one container alone.
    pub anonymous: bool,
    /// `ROOT/volumes/NAME/_data`
    pub mountpoint: PathBuf,
    /// The image's content has not been copied in yet.
    pub needs_copy_up: bool,
}

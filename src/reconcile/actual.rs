//! What is there: the engine's objects that the reconciler made, and what others' objects occupy.
//!
//! Plain data with the keys of `desired.rs`, so that `plan` can compare the two. `observe.rs` fills it in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::engine::container::spec::PortMapping;
use crate::engine::id::PodId;
use crate::reconcile::action::FetchKey;
use crate::reconcile::desired::{DesiredPod, DesiredService, ObjectName, StackName};

#[derive(Debug, Clone, Default, PartialEq)]
pub struct ActualState {
    /// Ours. What others made is in `foreign` and never an object of an action.
    pub pods: BTreeMap<ObjectName, ActualPod>,
    pub services: BTreeMap<ObjectName, ActualService>,
    /// What our own hands are doing with a pod, whether it exists or not. Not listed: nothing.
    pub activity: BTreeMap<ObjectName, Activity>,
    /// Names of all volumes, whoever made them.
    pub volumes: BTreeSet<String>,
    pub foreign: Foreign,
    /// What is known of each image the desired pods need.
    pub images: BTreeMap<FetchKey, ImageState>,
    /// What each image name stands for now.
    pub image_ids: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ActualPod {
    pub id: PodId,
    pub stack: StackName,
    /// What it was made from; `None` if that is not on record.
    pub applied: Option<Arc<DesiredPod>>,
    /// Image id of each container that exists.
    pub images: BTreeMap<String, String>,
    pub ready: bool,
    /// Its removal has begun and did not end.
    pub leaving: bool,
}

/// What our own hands are doing with a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Activity {
    #[default]
    Idle,
    /// An action of an earlier pass has not ended.
    InFlight,
    /// The last action failed and is not due again yet.
    BackOff { message: String },
}

#[derive(Debug, Clone, PartialEq)]
pub struct ActualService {
    pub stack: StackName,
    pub applied: DesiredService,
}

/// What objects that are not ours hold, with a description of the holder: `container db`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Foreign {
    /// Names of pods and containers, which share one name space.
    pub names: BTreeMap<String, String>,
    pub ports: Vec<(PortMapping, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageState {
    Present,
    Absent,
    Fetching,
    /// `due`: it may be tried again.
    Failed {
        reason: String,
        message: String,
        due: bool,
    },
}

impl ActualState {
    pub fn activity(&self, pod: &ObjectName) -> &Activity {
        self.activity.get(pod).unwrap_or(&Activity::Idle)
    }
}

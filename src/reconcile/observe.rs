//! Reads the actual state off the engine, from its memory; the only place where the two meet.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::time::Instant;

use crate::engine::Engine;
use crate::engine::container::ContainerFilter;
use crate::engine::container::spec::CreatedBy;
use crate::engine::id::NameOrId;
use crate::engine::pod::PodRecord;
use crate::reconcile::action::FetchKey;
use crate::reconcile::actual::{Activity, ActualPod, ActualService, ActualState, Foreign, ImageState};
use crate::reconcile::desired::{DesiredStack, DesiredState, ObjectName, SourceName, StackName};
use crate::reconcile::fetch::Fetcher;
use crate::reconcile::plan::fetch_key;
use crate::reconcile::records::{PodNote, ServiceNote, label};
use crate::reconcile::worker::Reports;

/// What of the reconciler's own memory belongs to the picture.
pub struct Memory<'a> {
    pub reports: &'a Reports,
    pub services: &'a BTreeMap<ObjectName, Arc<ServiceNote>>,
    pub activity: &'a BTreeMap<ObjectName, Activity>,
    pub fetcher: &'a Fetcher,
}

/// The engine's pod is one that the reconciler made.
pub fn is_ours(pod: &PodRecord) -> bool {
    pod.spec.created_by == CreatedBy::Reconciler && pod.spec.labels.contains_key(label::POD_UID)
}

pub fn observe_actual(engine: &Engine, desired: &DesiredState, memory: &Memory<'_>) -> ActualState {
    let mut actual = ActualState { activity: memory.activity.clone(), ..ActualState::default() };
    let reports = memory.reports.all();
    let reports: BTreeMap<_, _> = reports.values().map(|report| (&report.id, report)).collect();
    let mut ours = BTreeSet::new();
    for pod in engine.pods() {
        if !is_ours(&pod) {
            let holder = format!("pod {}", pod.spec.name);
            actual.foreign.names.insert(pod.spec.name.to_string(), holder.clone());
            let ports = pod.spec.published_ports.iter();
            actual.foreign.ports.extend(ports.map(|port| (port.clone(), holder.clone())));
            continue;
        }
        ours.insert(pod.id.clone());
        let report = reports.get(&pod.id);
        let note = report.map(|report| report.note.clone());
        let name = note.as_ref().map_or_else(|| labelled_name(&pod), |note| note.pod.name.clone());
        let found = ActualPod {
            id: pod.id.clone(),
            stack: note.as_ref().map_or_else(|| labelled_stack(&pod), |note| note.stack.clone()),
            applied: note.as_ref().map(|note| note.pod.clone()),
            images: note.as_deref().map(|note| images_of(engine, &pod, note)).unwrap_or_default(),
            ready: report.is_some_and(|report| report.ready),
            leaving: report.is_some_and(|report| report.leaving),
        };
        actual.pods.insert(name, found);
    }
    for container in engine.containers(&ContainerFilter { all: true, ..ContainerFilter::default() }) {
        if container.spec.created_by == CreatedBy::Reconciler
            && container.pod().is_some_and(|pod| ours.contains(pod))
        {
            continue;
        }
        foreign_container(&mut actual.foreign, &container);
    }
    for (name, note) in memory.services {
        let service = ActualService { stack: note.stack.clone(), applied: note.service.clone() };
        actual.services.insert(name.clone(), service);
    }
    actual.volumes = engine.volumes().iter().map(|volume| volume.name.to_string()).collect();
    observe_images(engine, desired, memory.fetcher, &mut actual);
    actual
}

fn foreign_container(foreign: &mut Foreign, container: &crate::engine::container::ContainerRecord) {
    let holder = format!("container {}", container.name);
    foreign.names.insert(container.name.to_string(), holder.clone());
    let ports = container.spec.published_ports.iter();
    foreign.ports.extend(ports.map(|port| (port.clone(), holder.clone())));
}

fn images_of(engine: &Engine, pod: &PodRecord, note: &PodNote) -> BTreeMap<String, String> {
    let containers = pod.containers.iter().filter_map(|id| engine.container(&NameOrId::from(id)).ok());
    containers
        .filter(|container| container.labels().get(label::POD_UID) == Some(&note.uid))
        .filter_map(|container| {
            let name = container.labels().get(label::CONTAINER_NAME)?.clone();
            Some((name, container.image_id.as_ref()?.to_string()))
        })
        .collect()
}

fn observe_images(engine: &Engine, desired: &DesiredState, fetcher: &Fetcher, actual: &mut ActualState) {
    let now = Instant::now();
    let mut images: BTreeMap<FetchKey, ImageState> = BTreeMap::new();
    for stack in desired.stacks.values() {
        let DesiredStack::Loaded(objects) = stack else { continue };
        for pod in &objects.pods {
            for container in pod.all_containers() {
                let key = fetch_key(pod, container);
                images.entry(key).or_insert_with_key(|key| fetcher.state(key, now));
                let image = &container.spec.image;
                if !actual.image_ids.contains_key(image)
                    && let Ok(record) = engine.image(image)
                {
                    actual.image_ids.insert(image.clone(), record.id.to_string());
                }
            }
        }
    }
    actual.images = images;
}

/// Of a pod whose note is lost.
fn labelled_name(pod: &PodRecord) -> ObjectName {
    let text = |name: &str| pod.spec.labels.get(name).cloned();
    ObjectName {
        namespace: text(label::POD_NAMESPACE).unwrap_or_else(|| "default".to_owned()),
        name: text(label::POD_NAME).unwrap_or_else(|| pod.spec.name.to_string()),
    }
}

fn labelled_stack(pod: &PodRecord) -> StackName {
    let stack = pod.spec.annotations.get(label::STACK).and_then(|text| serde_json::from_str(text).ok());
    stack.unwrap_or_else(|| StackName {
        source: SourceName::Played,
        name: pod.spec.labels.get(label::STACK).cloned().unwrap_or_default(),
    })
}

//! A machine made of data: an actual state that actions of the planner can be carried out on, without an
//! engine. What the planner promises is checked against it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use selkie::engine::id::PodId;
use selkie::reconcile::action::{Action, FetchKey, Plan};
use selkie::reconcile::actual::{ActualPod, ActualService, ActualState, ImageState};
use selkie::reconcile::desired::{DesiredPod, DesiredStack, DesiredState, ObjectName, SourceName, StackName};
use selkie::reconcile::manifest::{Context, SourceFiles, desired_from};
use selkie::reconcile::plan::fetch_key;

pub fn context() -> Context {
    Context {
        node_name: "node".into(),
        memory_bytes: 4 << 30,
        cpus: 2,
        seccomp_profile_root: PathBuf::from("/var/lib/kubelet/seccomp"),
    }
}

pub fn directory() -> SourceName {
    SourceName::Directory(PathBuf::from("/m"))
}

/// What a directory with these files (name without extension, text) asks for.
pub fn desired(files: &[(String, String)]) -> DesiredState {
    let texts = files.iter().map(|(name, text)| (name.as_str(), text.as_str()));
    desired_from(&[SourceFiles::of_texts(directory(), texts)], &context())
}

pub fn object(name: &str) -> ObjectName {
    ObjectName { namespace: "default".into(), name: name.into() }
}

/// An identifier that is the same in every run.
pub fn pod_id(number: usize) -> PodId {
    format!("{number:064x}").parse().expect("64 hexadecimal digits")
}

/// What the name of an image stands for, unless a test says otherwise.
pub fn image_id(image: &str) -> String {
    format!("id-of-{image}")
}

pub struct World {
    pub actual: ActualState,
    pods_made: usize,
}

impl World {
    pub fn empty() -> Self {
        Self { actual: ActualState::default(), pods_made: 0 }
    }

    /// A machine on which all of `desired` runs and is ready.
    pub fn running(desired: &DesiredState) -> Self {
        let mut world = Self::empty();
        for (name, stack) in &desired.stacks {
            let DesiredStack::Loaded(objects) = stack else { panic!("{name} can not run: {stack:?}") };
            for pod in &objects.pods {
                world.create(name, pod, true);
            }
            for service in &objects.services {
                let actual = ActualService { stack: name.clone(), applied: service.clone() };
                world.actual.services.insert(service.name.clone(), actual);
            }
            world.actual.volumes.extend(objects.volumes.iter().map(|claim| claim.volume.clone()));
        }
        world
    }

    pub fn create(&mut self, stack: &StackName, pod: &DesiredPod, ready: bool) {
        self.pods_made += 1;
        let images: BTreeMap<String, String> = pod
            .all_containers()
            .map(|container| (container.name.clone(), self.current_image(&container.spec.image)))
            .collect();
        let actual = ActualPod {
            id: pod_id(self.pods_made),
            stack: stack.clone(),
            applied: Some(Arc::new(pod.clone())),
            images,
            ready,
            leaving: false,
        };
        self.actual.pods.insert(pod.name.clone(), actual);
    }

    fn current_image(&self, image: &str) -> String {
        self.actual.image_ids.get(image).cloned().unwrap_or_else(|| image_id(image))
    }

    /// Every image that `desired` needs is here.
    pub fn with_images(mut self, desired: &DesiredState) -> Self {
        for key in needed_images(desired) {
            self.actual.image_ids.entry(key.image.clone()).or_insert_with(|| image_id(&key.image));
            self.actual.images.insert(key, ImageState::Present);
        }
        self
    }

    /// Carries out what may be done now, in the order the plan promises: an action that needs the place
    /// of a pod finds it free. Returns how many actions that were.
    pub fn apply(&mut self, desired: &DesiredState, plan: &Plan) -> usize {
        let mut done = 0;
        let mut gone = Vec::new();
        // Pods that make room go first, whoever takes it.
        for planned in plan.ready() {
            match &planned.action {
                Action::RemovePod { pod, id, .. } | Action::ReplacePod { pod, id, .. } => {
                    let removed = self.actual.pods.remove(pod).expect("only what is there is removed");
                    assert_eq!(removed.id, *id, "the pod that is there is the one that was meant");
                    gone.push(id.clone());
                }
                Action::RemoveService { service, .. } => {
                    self.actual.services.remove(service).expect("only what is there is removed");
                }
                Action::FetchImage { .. }
                | Action::CreateVolume { .. }
                | Action::PutService { .. }
                | Action::UpdatePod { .. }
                | Action::MovePod { .. }
                | Action::CreatePod { .. } => {}
            }
        }
        for planned in plan.ready() {
            done += 1;
            let objects = match desired.stacks.get(&planned.stack) {
                Some(DesiredStack::Loaded(objects)) => Some(objects),
                Some(DesiredStack::Held { .. }) | None => None,
            };
            let wanted = |name: &ObjectName| {
                let objects = objects.expect("only a stack that was read wants something");
                objects.pods.iter().find(|pod| pod.name == *name).expect("the stack has the pod").clone()
            };
            match &planned.action {
                Action::RemovePod { .. } | Action::RemoveService { .. } => {}
                Action::FetchImage { key, .. } => {
                    self.actual.images.insert(key.clone(), ImageState::Present);
                    self.actual.image_ids.entry(key.image.clone()).or_insert_with(|| image_id(&key.image));
                }
                Action::CreateVolume { volume, .. } => {
                    assert!(self.actual.volumes.insert(volume.clone()), "{volume} is made once");
                }
                Action::PutService { service, .. } => {
                    let objects = objects.expect("only a stack that was read wants something");
                    let applied = objects.services.iter().find(|known| known.name == *service);
                    let applied = applied.expect("the stack has the Service").clone();
                    let actual = ActualService { stack: planned.stack.clone(), applied };
                    self.actual.services.insert(service.clone(), actual);
                }
                Action::CreatePod { pod, after, .. } | Action::ReplacePod { pod, after, .. } => {
                    assert!(after.iter().all(|id| gone.contains(id)), "{pod} waits for what does not go");
                    let pod = wanted(pod);
                    self.check_room(&pod);
                    self.create(&planned.stack, &pod, false);
                }
                Action::UpdatePod { pod, id, containers, .. } => {
                    let wanted = wanted(pod);
                    let images: Vec<(String, String)> = wanted
                        .containers
                        .iter()
                        .filter(|container| containers.contains(&container.name))
                        .map(|container| (container.name.clone(), self.current_image(&container.spec.image)))
                        .collect();
                    let actual = self.actual.pods.get_mut(pod).expect("only what is there is updated");
                    assert_eq!(actual.id, *id);
                    actual.images.extend(images);
                    actual.ready &= containers.is_empty();
                    actual.stack = planned.stack.clone();
                    actual.applied = Some(Arc::new(wanted));
                }
                Action::MovePod { pod, id, .. } => {
                    let wanted = wanted(pod);
                    let actual = self.actual.pods.get_mut(pod).expect("only what is there is moved");
                    assert_eq!(actual.id, *id);
                    actual.stack = planned.stack.clone();
                    actual.applied = Some(Arc::new(wanted));
                }
            }
        }
        done
    }

    /// As the engine and the kernel would refuse it.
    fn check_room(&self, pod: &DesiredPod) {
        assert!(!self.actual.pods.contains_key(&pod.name), "{} is there already", pod.name);
        let name = pod.sandbox.name.as_str();
        assert!(!self.actual.foreign.names.contains_key(name), "{name} is someone else's");
        for port in &pod.sandbox.published_ports {
            let theirs = self.actual.foreign.ports.iter().map(|(port, holder)| (port, holder.clone()));
            let ours = self.actual.pods.iter().flat_map(|(name, pod)| {
                let ports = pod.applied.iter().flat_map(|pod| &pod.sandbox.published_ports);
                ports.map(move |port| (port, name.to_string()))
            });
            for (held, holder) in theirs.chain(ours) {
                let same = held.host_port == port.host_port && held.protocol == port.protocol;
                assert!(!same, "host port {} of {} is held by {holder}", port.host_port, pod.name);
            }
        }
    }

    pub fn all_become_ready(&mut self) {
        self.actual.pods.values_mut().for_each(|pod| pod.ready = true);
    }
}

pub fn needed_images(desired: &DesiredState) -> Vec<FetchKey> {
    let pods = desired.stacks.values().flat_map(|stack| match stack {
        DesiredStack::Loaded(objects) => objects.pods.as_slice(),
        DesiredStack::Held { .. } => &[],
    });
    pods.flat_map(|pod| pod.all_containers().map(|container| fetch_key(pod, container))).collect()
}

/// Where the stories are.
pub fn cases_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fast/cases")
}

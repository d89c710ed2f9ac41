//! The example manifests load, all of them, without a warning.

use std::path::Path;

use selkie::reconcile::desired::{DesiredStack, SourceHealth};
use selkie::reconcile::manifest::{Context, desired_from, read_directory};

#[test]
fn every_example_loads_without_a_warning() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/manifests");
    let files = read_directory(&directory);
    assert_eq!(files.health, SourceHealth::Read);
    let desired = desired_from(&[files], &Context::of_this_machine());
    let mut kinds: Vec<String> = Vec::new();
    let mut pods: Vec<String> = Vec::new();
    for (name, stack) in &desired.stacks {
        match stack {
            DesiredStack::Loaded(objects) => {
                assert!(objects.warnings.is_empty(), "{name}: {:?}", objects.warnings);
                kinds.extend(objects.objects.iter().map(|(object, _)| object.kind.clone()));
                pods.extend(objects.pods.iter().map(|pod| pod.name.to_string()));
            }
            DesiredStack::Held { errors } => panic!("{name}: {errors:?}"),
        }
    }
    pods.sort();
    assert_eq!(pods, ["front", "greet-0", "hello-0", "hello-1", "notes", "settings", "web"]);
    for kind in ["ConfigMap", "Deployment", "Job", "PersistentVolumeClaim", "Pod", "Secret", "Service"] {
        assert!(kinds.iter().any(|found| found == kind), "no {kind} among the examples");
    }
}

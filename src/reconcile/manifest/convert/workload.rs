//! The objects that stand for pods, and claims.

use std::collections::BTreeMap;

use super::pod::{PodSource, Restart, pod};
use super::{
    Problems, Scope, check_metadata, integer_within, one_of, required_text, seconds, selects, text_map,
};
use crate::engine::container::spec::PortMapping;
use crate::reconcile::desired::{DesiredPod, DesiredVolumeClaim, JobLimits, Location, ObjectName, ObjectRef};
use crate::reconcile::manifest::names;
use crate::reconcile::manifest::tree::Node;

/// More replicas on one machine are a typing error.
const MAX_REPLICAS: i64 = 1000;
/// Kubernetes' default of a Job.
const DEFAULT_BACKOFF_LIMIT: u32 = 6;

/// Host ports that a pod takes, wherever they come from.
pub type HostPorts = Vec<PortMapping>;

/// An object that makes pods.
pub struct Workload<'a> {
    pub node: &'a Node,
    pub name: &'a ObjectName,
    pub kind: &'a str,
    pub location: Location,
}

type Pods = Vec<(DesiredPod, HostPorts)>;

pub fn single_pod(workload: &Workload<'_>, scope: &Scope<'_>, problems: &mut Problems<'_>) -> Pods {
    let source = PodSource {
        name: workload.name.clone(),
        labels: labels(workload.node),
        ..workload.source(workload.node, Restart::Any)
    };
    pod(source, scope, problems).into_iter().collect()
}

pub fn deployment(workload: &Workload<'_>, scope: &Scope<'_>, problems: &mut Problems<'_>) -> Pods {
    let Some((spec, template)) = workload.template(problems) else { return Vec::new() };
    let replicas = integer_within(spec, "replicas", 0, MAX_REPLICAS, problems).unwrap_or(1);
    check_selector(spec, template, problems);
    (0..replicas)
        .filter_map(|ordinal| pod(workload.numbered(template, ordinal, Restart::AlwaysOnly), scope, problems))
        .collect()
}

pub fn daemon_set(workload: &Workload<'_>, scope: &Scope<'_>, problems: &mut Problems<'_>) -> Pods {
    let Some((spec, template)) = workload.template(problems) else { return Vec::new() };
    check_selector(spec, template, problems);
    pod(workload.numbered(template, 0, Restart::AlwaysOnly), scope, problems).into_iter().collect()
}

/// Also gives the claims of its pods.
pub fn stateful_set(
    workload: &Workload<'_>,
    scope: &Scope<'_>,
    problems: &mut Problems<'_>,
) -> (Pods, Vec<DesiredVolumeClaim>) {
    let Some((spec, template)) = workload.template(problems) else { return Default::default() };
    let replicas = integer_within(spec, "replicas", 0, MAX_REPLICAS, problems).unwrap_or(1);
    let start = spec
        .get("ordinals")
        .and_then(|node| integer_within(node, "start", 0, i64::from(i32::MAX), problems))
        .unwrap_or(0);
    check_selector(spec, template, problems);
    let (mut pods, mut claims) = (Vec::new(), Vec::new());
    for ordinal in start..start + replicas {
        let mut source = workload.numbered(template, ordinal, Restart::AlwaysOnly);
        source.service_name = spec.text("serviceName");
        source.labels.insert("apps.kubernetes.io/pod-index".into(), ordinal.to_string());
        source.labels.insert("statefulset.kubernetes.io/pod-name".into(), source.name.name.clone());
        for claim_template in spec.list("volumeClaimTemplates") {
            let metadata = claim_template.get("metadata");
            let Some(name) = metadata.and_then(|node| node.text("name")) else {
                problems.error_in(metadata.unwrap_or(claim_template), "name", "is required");
                continue;
            };
            if !names::is_dns_label(name) {
                problems.error_in(
                    metadata.unwrap_or(claim_template),
                    "name",
                    "is not a valid name: lower case letters, digits and inner dashes",
                );
            }
            let claim = scope.object(&format!("{name}-{}", source.name.name));
            let volume = names::engine_name(&claim);
            source.claims.insert(name.to_owned(), volume.clone());
            claims.push(DesiredVolumeClaim {
                volume,
                location: workload.location.clone(),
                labels: labels(claim_template),
                options: BTreeMap::new(),
            });
        }
        pods.extend(pod(source, scope, problems));
    }
    (pods, claims)
}

pub fn job(workload: &Workload<'_>, scope: &Scope<'_>, problems: &mut Problems<'_>) -> Pods {
    let Some((spec, template)) = workload.template(problems) else { return Vec::new() };
    let backoff_limit = seconds(spec, "backoffLimit", 0, problems).unwrap_or(DEFAULT_BACKOFF_LIMIT);
    let deadline = seconds(spec, "activeDeadlineSeconds", 1, problems).map(u64::from);
    let mut source = workload.numbered(template, 0, Restart::NotAlways);
    source.job = Some(JobLimits { backoff_limit });
    source.labels.insert("batch.kubernetes.io/job-name".into(), workload.name.name.clone());
    source.labels.insert("job-name".into(), workload.name.name.clone());
    let mut pods: Pods = pod(source, scope, problems).into_iter().collect();
    if spec.boolean("suspend") == Some(true) {
        return Vec::new();
    }
    for (pod, _) in &mut pods {
        pod.active_deadline_secs = [pod.active_deadline_secs, deadline].into_iter().flatten().min();
    }
    pods
}

pub fn claim(
    node: &Node,
    name: &ObjectName,
    location: Location,
    problems: &mut Problems<'_>,
) -> Option<DesiredVolumeClaim> {
    let Some(spec) = node.get("spec") else {
        problems.error_in(node, "spec", "is required");
        return None;
    };
    let modes =
        [("ReadWriteOnce", ()), ("ReadOnlyMany", ()), ("ReadWriteMany", ()), ("ReadWriteOncePod", ())];
    for mode in spec.list("accessModes") {
        if !modes.iter().any(|(name, ())| mode.as_text() == Some(name)) {
            problems.error(mode, "is not an access mode");
        }
    }
    let metadata = node.get("metadata");
    for entry in metadata.map_or(&[][..], |node| node.map("annotations")) {
        if let (true, Some(metadata)) = (entry.key.starts_with("volume.podman.io/"), metadata) {
            problems.warning_at_key(metadata, entry, "has no effect here: volumes are plain directories");
        }
    }
    let volume = names::engine_name(name);
    Some(DesiredVolumeClaim { volume, location, labels: labels(node), options: BTreeMap::new() })
}

impl Workload<'_> {
    fn template<'n>(&'n self, problems: &mut Problems<'_>) -> Option<(&'n Node, &'n Node)> {
        let Some(spec) = self.node.get("spec") else {
            problems.error_in(self.node, "spec", "is required");
            return None;
        };
        let Some(template) = spec.get("template") else {
            problems.error_in(spec, "template", "is required");
            return None;
        };
        check_metadata(template.get("metadata"), problems);
        Some((spec, template))
    }

    fn source<'n>(&self, template: &'n Node, restart: Restart) -> PodSource<'n> {
        PodSource {
            name: self.name.clone(),
            owner: ObjectRef { kind: self.kind.to_owned(), object: self.name.clone() },
            location: self.location.clone(),
            template,
            labels: labels(template),
            restart,
            job: None,
            service_name: None,
            claims: BTreeMap::new(),
        }
    }

    /// The pod NAME-ORDINAL.
    fn numbered<'n>(&self, template: &'n Node, ordinal: i64, restart: Restart) -> PodSource<'n> {
        let mut source = self.source(template, restart);
        source.name.name = format!("{}-{ordinal}", self.name.name);
        source
    }
}

fn labels(node: &Node) -> BTreeMap<String, String> {
    text_map(node.get("metadata").and_then(|metadata| metadata.get("labels")))
}

fn check_selector(spec: &Node, template: &Node, problems: &mut Problems<'_>) {
    let Some(selector) = spec.get("selector").filter(|node| !node.says_nothing()) else {
        problems.error_in(spec, "selector", "is required");
        return;
    };
    for requirement in selector.list("matchExpressions") {
        required_text(requirement, "key", problems);
        required_text(requirement, "operator", problems);
        let operators = [("In", ()), ("NotIn", ()), ("Exists", ()), ("DoesNotExist", ())];
        one_of(requirement, "operator", &operators, problems);
    }
    if !selects(selector, &labels(template)) {
        problems.error_in(spec, "selector", "does not fit the labels of the template");
    }
}

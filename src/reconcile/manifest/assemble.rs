//! Puts the files of all sources together: documents into stacks, references across files, and what two
//! objects can not both have. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::check::{check, nearest};
use super::convert::{self, Converted, HostPorts, Library, Scope, Workload, check_data, check_metadata};
use super::fields::{Class, LIST, TOP_KINDS, TopKind};
use super::problem::Problems;
use super::tree::{Mark, Node, Value, parse};
use super::typed::check_typed;
use super::{Context, SourceFiles, names, render};
use crate::reconcile::claim::{Claim, pod_claims, service_claims};
use crate::reconcile::desired::{
    DesiredPod, DesiredStack, DesiredState, Location, ManifestError, ManifestWarning, ObjectName, ObjectRef,
    SourceName, StackName, StackObjects,
};

/// Everything that `sources` want. The same input gives the same output, in whatever order.
pub fn desired_from(sources: &[SourceFiles], context: &Context) -> DesiredState {
    let mut stacks: BTreeMap<StackName, Stack> = BTreeMap::new();
    let files = decode(sources, &mut stacks);
    let objects = objects(&files, &mut stacks);
    let doubled = doubled_objects(&objects, &mut stacks);

    let mut library = Library::default();
    for object in &objects {
        match object.kind.name {
            "ConfigMap" => library.add_config_map(object.source(), &object.name, object.node),
            "Secret" => library.add_secret(object.source(), &object.name, object.node),
            "PersistentVolumeClaim" => library.add_claim(object.source(), &object.name),
            _ => {}
        }
    }

    let mut wanted = Vec::new();
    for (index, object) in objects.iter().enumerate() {
        let mut problems = Problems::new(object.file, object.root);
        let scope =
            Scope { source: object.source(), namespace: &object.name.namespace, library: &library, context };
        let (converted, host_ports) = object.convert(&scope, &mut problems);
        // Last, because the other checks have words of our own.
        let told = object.broken || object.node.text("apiVersion") != Some(object.kind.api_version);
        if !told && problems.errors.is_empty() {
            check_typed(object.node, object.kind, &mut problems);
        }
        let stack = stacks.entry(object.stack.clone()).or_default();
        stack.take(problems);
        if !doubled.contains(&index) {
            claim(object, &converted, &host_ports, &mut wanted);
        }
        stack.objects.objects.push((object.reference(), object.location.clone()));
        stack.objects.pods.extend(converted.pods);
        stack.objects.services.extend(converted.services);
        stack.objects.volumes.extend(converted.volumes);
    }
    conflicts(wanted, &mut stacks);

    DesiredState {
        stacks: stacks.into_iter().map(|(name, stack)| (name, stack.finish())).collect(),
        sources: sources.iter().map(|source| (source.source.clone(), source.health.clone())).collect(),
    }
}

/// A stack while it is put together.
#[derive(Default)]
struct Stack {
    /// The file or directory of the source that it is.
    origin: Option<PathBuf>,
    objects: StackObjects,
    errors: Vec<ManifestError>,
    warnings: Vec<ManifestWarning>,
}

/// A file that could be parsed.
struct File {
    stack: StackName,
    path: PathBuf,
    documents: Vec<Node>,
}

/// One object of a kind that we handle.
struct Object<'a> {
    stack: &'a StackName,
    file: &'a Path,
    /// The document: the object itself or the List it is in.
    root: &'a Node,
    node: &'a Node,
    kind: &'static TopKind,
    name: ObjectName,
    location: Location,
    /// It does not have the shape of its kind, so that it can not be converted.
    broken: bool,
}

/// Something that only one can have, and who wants it.
struct Wanted {
    claim: Claim,
    stack: StackName,
    who: String,
    location: Location,
}

impl Stack {
    fn take(&mut self, problems: Problems<'_>) {
        self.errors.extend(problems.errors);
        self.warnings.extend(problems.warnings);
    }

    fn finish(mut self) -> DesiredStack {
        // Replicas tell the same of the same template.
        let order = |error: &ManifestError| {
            (error.location.clone(), error.field.clone(), error.message.clone(), error.hint.clone())
        };
        self.errors.sort_by_key(order);
        self.errors.dedup();
        if !self.errors.is_empty() {
            return DesiredStack::Held { errors: self.errors };
        }
        self.warnings.sort_by_key(|warning| {
            (warning.location.clone(), warning.field.clone(), warning.message.clone())
        });
        self.warnings.dedup();
        let mut objects = self.objects;
        objects.warnings = self.warnings;
        objects.objects.sort();
        objects.pods.sort_by(|a, b| a.name.cmp(&b.name));
        objects.services.sort_by(|a, b| a.name.cmp(&b.name));
        objects.volumes.sort_by(|a, b| a.volume.cmp(&b.volume));
        objects.pods.iter_mut().for_each(render::seal);
        DesiredStack::Loaded(objects)
    }
}

/// Parses all files. What can not be read or parsed becomes an error of its stack.
fn decode(sources: &[SourceFiles], stacks: &mut BTreeMap<StackName, Stack>) -> Vec<File> {
    let mut files = Vec::new();
    for source in sources {
        for (path, content) in &source.files {
            let name = stack_name(&source.source, path);
            let stack = stacks.entry(name.clone()).or_default();
            stack.claim_origin(path);
            let parsed = match content {
                Ok(bytes) => documents(bytes),
                Err(cause) => Err((Mark { line: 1, column: 1 }, cause.clone())),
            };
            match parsed {
                Ok(documents) => files.push(File { stack: name, path: path.clone(), documents }),
                Err((at, message)) => stack.errors.push(error_at(path, at, message)),
            }
        }
        for directory in &source.empty_directories {
            let path = PathBuf::from(directory);
            let stack = stacks.entry(stack_name(&source.source, &path.join("x"))).or_default();
            let message = "there is nothing in this directory: what it ran is kept".to_owned();
            stack.errors.push(error_at(&path, Mark { line: 1, column: 1 }, message));
        }
    }
    files
}

impl Stack {
    /// `web.yaml`, `web.json` and `web/` would be one stack without belonging together.
    fn claim_origin(&mut self, path: &Path) {
        let first = PathBuf::from(path.iter().next().unwrap_or_default());
        match &self.origin {
            None => self.origin = Some(first),
            Some(origin) if *origin != first => {
                let message = format!("{} has the same stack name", origin.display());
                self.errors.push(error_at(path, Mark { line: 1, column: 1 }, message));
            }
            Some(_) => {}
        }
    }
}

/// The first component: a directory's name, or a file's without its extension.
fn stack_name(source: &SourceName, path: &Path) -> StackName {
    let mut components = path.components();
    let first = components.next().map(|first| Path::new(first.as_os_str())).unwrap_or(path);
    let name = if components.next().is_some() { first.file_name() } else { first.file_stem() };
    let name = name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    StackName { source: source.clone(), name }
}

fn documents(bytes: &[u8]) -> Result<Vec<Node>, (Mark, String)> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let column = String::from_utf8_lossy(&before[start..]).chars().count() + 1;
        (Mark { line, column }, "not UTF-8 text".to_owned())
    })?;
    let documents = parse(text).map_err(|error| (error.at, error.message))?;
    if documents.is_empty() {
        // An editor or a full disk may have left it so. Who means it removes the file.
        let message = "there is no object in this file: what it ran is kept; to remove that, remove the file";
        return Err((Mark { line: 1, column: 1 }, message.to_owned()));
    }
    Ok(documents)
}

fn error_at(path: &Path, at: Mark, message: String) -> ManifestError {
    let location = Location { file: path.to_owned(), line: at.line, column: at.column };
    ManifestError { location, field: String::new(), message, hint: None }
}

/// The objects of all documents, checked against the field table.
fn objects<'a>(files: &'a [File], stacks: &mut BTreeMap<StackName, Stack>) -> Vec<Object<'a>> {
    let mut objects = Vec::new();
    for file in files {
        for root in &file.documents {
            let mut problems = Problems::new(&file.path, root);
            if root.text("kind") == Some("List") {
                check(root, &LIST, &mut problems);
                match root.get("items").map(|items| &items.value) {
                    Some(Value::List(items)) => {
                        for item in items {
                            objects.extend(object(file, root, item, &mut problems));
                        }
                    }
                    _ => problems.error_in(root, "items", "a list is required"),
                }
            } else {
                objects.extend(object(file, root, root, &mut problems));
            }
            stacks.entry(file.stack.clone()).or_default().take(problems);
        }
    }
    objects
}

fn object<'a>(
    file: &'a File,
    root: &'a Node,
    node: &'a Node,
    problems: &mut Problems<'_>,
) -> Option<Object<'a>> {
    if !matches!(node.value, Value::Map(_)) {
        problems.error(node, format!("expected a Kubernetes object, found {}", node.kind_name()));
        return None;
    }
    let kind = top_kind(node, problems)?;
    let shape = kind.shape?;
    let errors = problems.errors.len();
    check(node, shape, problems);
    let broken = problems.errors.len() > errors;
    let metadata = node.get("metadata");
    check_metadata(metadata, problems);
    if matches!(kind.name, "ConfigMap" | "Secret") {
        check_data(node, problems);
    }
    let Some(name) = metadata.and_then(|metadata| metadata.text("name")) else {
        if !broken {
            problems.error_in(metadata.unwrap_or(node), "name", "is required");
        }
        return None;
    };
    let valid =
        if kind.name == "Service" { names::is_service_name(name) } else { names::is_dns_subdomain(name) };
    if !valid {
        let message = "is not a valid name: lower case letters, digits and inner dashes";
        problems.error_in(metadata.unwrap_or(node), "name", message);
        return None;
    }
    let namespace = metadata.and_then(|metadata| metadata.text("namespace")).unwrap_or("default");
    Some(Object {
        stack: &file.stack,
        file: &file.path,
        root,
        node,
        kind,
        name: ObjectName { namespace: namespace.to_owned(), name: name.to_owned() },
        location: problems.location(node.at),
        broken,
    })
}

/// What kind of object it says it is, if we handle that.
fn top_kind(node: &Node, problems: &mut Problems<'_>) -> Option<&'static TopKind> {
    let (Some(kind), Some(api_version)) = (node.text("kind"), node.text("apiVersion")) else {
        for field in ["apiVersion", "kind"] {
            if node.text(field).is_none() {
                problems.error_in(node, field, "is required");
            }
        }
        return None;
    };
    let known = TOP_KINDS.iter().find(|known| known.name == kind);
    // Others use the same words: a Service of `serving.knative.dev` is not ours.
    let foreign = |known: &TopKind| {
        let group = |version: &str| version.split_once('/').map(|(group, _)| group.to_owned());
        group(api_version) != group(known.api_version)
            && group(api_version).is_some_and(|group| group.contains('.'))
    };
    let Some(known) = known.filter(|known| !foreign(known)) else {
        let like = nearest(kind, TOP_KINDS.iter().map(|known| known.name)).filter(|like| *like != kind);
        match (like, node.entry("kind")) {
            (Some(like), Some(entry)) => {
                problems.error_at_key(node, entry, &format!("unknown kind {kind:?}"), Some(like));
            }
            _ => problems.warning(node, format!("{kind} ({api_version}) is not handled")),
        }
        return None;
    };
    if api_version != known.api_version {
        let message = format!("must be {} for a {}", known.api_version, known.name);
        problems.error_in(node, "apiVersion", message);
    }
    match known.class {
        Class::Honoured | Class::Emulated | Class::Only(_) => Some(known),
        Class::Inert => {
            problems.warning(node, format!("{kind} has no effect here: {}", known.note));
            None
        }
        Class::Refused => {
            problems.error_in(node, "kind", format!("{kind} is not supported: {}", known.note));
            None
        }
    }
}

impl<'a> Object<'a> {
    fn source(&self) -> &'a SourceName {
        &self.stack.source
    }

    fn reference(&self) -> ObjectRef {
        ObjectRef { kind: self.kind.name.to_owned(), object: self.name.clone() }
    }

    /// What it becomes, and the host ports of each pod.
    fn convert(&self, scope: &Scope<'_>, problems: &mut Problems<'_>) -> (Converted, Vec<HostPorts>) {
        let workload = Workload {
            node: self.node,
            name: &self.name,
            kind: self.kind.name,
            location: self.location.clone(),
        };
        let mut converted = Converted::default();
        if self.broken {
            return (converted, Vec::new());
        }
        let pods = match self.kind.name {
            "Pod" => convert::single_pod(&workload, scope, problems),
            "Deployment" => convert::deployment(&workload, scope, problems),
            "DaemonSet" => convert::daemon_set(&workload, scope, problems),
            "StatefulSet" => {
                let (pods, claims) = convert::stateful_set(&workload, scope, problems);
                converted.volumes = claims;
                pods
            }
            "Job" => convert::job(&workload, scope, problems),
            "Service" => {
                let service = convert::service(self.node, &self.name, self.location.clone(), problems);
                converted.services.extend(service);
                Vec::new()
            }
            "PersistentVolumeClaim" => {
                let claim = convert::claim(self.node, &self.name, self.location.clone(), problems);
                converted.volumes.extend(claim);
                Vec::new()
            }
            // ConfigMaps and Secrets are in the library.
            _ => Vec::new(),
        };
        let (pods, host_ports): (Vec<DesiredPod>, Vec<HostPorts>) = pods.into_iter().unzip();
        converted.pods = pods;
        (converted, host_ports)
    }
}

/// Objects that are in the manifests of a source more than once; told at each place.
fn doubled_objects(objects: &[Object<'_>], stacks: &mut BTreeMap<StackName, Stack>) -> BTreeSet<usize> {
    let mut places: BTreeMap<(&SourceName, &str, &ObjectName), Vec<usize>> = BTreeMap::new();
    for (index, object) in objects.iter().enumerate() {
        places.entry((object.source(), object.kind.name, &object.name)).or_default().push(index);
    }
    let mut doubled = BTreeSet::new();
    for indices in places.into_values().filter(|indices| indices.len() > 1) {
        for index in &indices {
            let object = &objects[*index];
            let others: Vec<String> = indices
                .iter()
                .filter(|other| *other != index)
                .map(|other| objects[*other].location.to_string())
                .collect();
            let message = format!("{} is also at {}", object.reference(), others.join(", "));
            let mut problems = Problems::new(object.file, object.root);
            let metadata = object.node.get("metadata").unwrap_or(object.node);
            problems.error_in(metadata, "name", message);
            stacks.entry(object.stack.clone()).or_default().take(problems);
            doubled.insert(*index);
        }
    }
    doubled
}

fn claim(object: &Object<'_>, converted: &Converted, host_ports: &[HostPorts], wanted: &mut Vec<Wanted>) {
    let mut want = |claim: Claim, who: String| {
        wanted.push(Wanted { claim, stack: object.stack.clone(), who, location: object.location.clone() });
    };
    for (pod, ports) in converted.pods.iter().zip(host_ports) {
        let mut claims: BTreeSet<Claim> = pod_claims(pod).into_iter().collect();
        // On the host network ports are taken without being published.
        claims.extend(ports.iter().flat_map(Claim::of_port));
        for claim in claims {
            want(claim, format!("pod {}", pod.name));
        }
    }
    for service in &converted.services {
        for claim in service_claims(service) {
            want(claim, format!("service {}", service.name));
        }
    }
}

/// Tells both sides of every two claims that can not both be had.
fn conflicts(mut wanted: Vec<Wanted>, stacks: &mut BTreeMap<StackName, Stack>) {
    wanted.sort_by(|a, b| (&a.claim, &a.location).cmp(&(&b.claim, &b.location)));
    let mut by_port: BTreeMap<u16, Vec<&Wanted>> = BTreeMap::new();
    let mut groups: Vec<Vec<&Wanted>> = Vec::new();
    for one in &wanted {
        match (&one.claim, groups.last_mut()) {
            (Claim::HostPort { port, .. }, _) => by_port.entry(*port).or_default().push(one),
            (_, Some(group)) if group[0].claim == one.claim => group.push(one),
            _ => groups.push(vec![one]),
        }
    }
    groups.extend(by_port.into_values());
    let mut told = BTreeSet::new();
    for group in groups {
        for (index, one) in group.iter().enumerate() {
            for other in &group[index + 1..] {
                if !one.claim.overlaps(&other.claim)
                    || (one.stack == other.stack && one.who == other.who && one.location == other.location)
                {
                    continue;
                }
                // Two pods of one name have their containers' names in common too: once is enough.
                if !told.insert([
                    (&one.stack, &one.location, &one.who),
                    (&other.stack, &other.location, &other.who),
                ]) {
                    continue;
                }
                for (side, opposite) in [(one, other), (other, one)] {
                    let place = if side.stack.source == opposite.stack.source {
                        opposite.location.to_string()
                    } else {
                        format!("{}, {}", opposite.stack, opposite.location)
                    };
                    let message =
                        format!("{}: {} is also wanted by {} ({place})", side.who, side.claim, opposite.who);
                    let location = side.location.clone();
                    stacks.entry(side.stack.clone()).or_default().errors.push(ManifestError {
                        location,
                        field: String::new(),
                        message,
                        hint: None,
                    });
                }
            }
        }
    }
}

//! Volumes and their content.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::env::{PodFacts, field_value, resource_value};
use super::{Data, Problems, Scope, exactly_one, one_of, required_text};
use crate::engine::id::VolumeName;
use crate::reconcile::desired::{DesiredVolume, HostPathKind, VolumeFile};
use crate::reconcile::manifest::names;
use crate::reconcile::manifest::quantity::Quantity;
use crate::reconcile::manifest::tree::Node;

/// Kubernetes' default permissions of projected files.
const DEFAULT_MODE: u32 = 0o644;

const SOURCES: [&str; 7] =
    ["emptyDir", "hostPath", "configMap", "secret", "projected", "downwardAPI", "persistentVolumeClaim"];

/// The volumes of a pod by name. `claims` are those that a StatefulSet gives the pod.
pub fn volumes(
    spec: &Node,
    claims: &BTreeMap<String, String>,
    facts: &PodFacts<'_>,
    scope: &Scope<'_>,
    problems: &mut Problems<'_>,
) -> BTreeMap<String, DesiredVolume> {
    let mut volumes: BTreeMap<String, DesiredVolume> = claims
        .iter()
        .map(|(name, volume)| {
            (name.clone(), DesiredVolume::Claim { volume: volume.clone(), read_only: false })
        })
        .collect();
    let mut seen = BTreeSet::new();
    for node in spec.list("volumes") {
        let Some(name) = required_text(node, "name", problems) else { continue };
        if !names::is_dns_label(name) {
            problems.error_in(
                node,
                "name",
                "is not a valid name: lower case letters, digits and inner dashes",
            );
        }
        if !seen.insert(name) {
            problems.error_in(node, "name", format!("two volumes are called {name:?}"));
        }
        // A StatefulSet's own claim wins over a volume of the same name.
        if claims.contains_key(name) {
            continue;
        }
        if let Some(volume) = volume(node, facts, scope, problems) {
            volumes.insert(name.to_owned(), volume);
        }
    }
    volumes
}

fn volume(
    node: &Node,
    facts: &PodFacts<'_>,
    scope: &Scope<'_>,
    problems: &mut Problems<'_>,
) -> Option<DesiredVolume> {
    // A volume without a source is an emptyDir for the API server; here it is more likely a mistake.
    let kind = exactly_one(node, &SOURCES, problems)?;
    let source = node.get(kind)?;
    let mut files = Files::default();
    match kind {
        "emptyDir" => return Some(empty_dir(source, problems)),
        "hostPath" => return host_path(source, problems),
        "persistentVolumeClaim" => return claim(source, scope, problems),
        "configMap" => files.config_map(source, default_mode(source), scope, problems),
        "secret" => {
            files.secret(source, "secretName", default_mode(source), scope, problems);
        }
        "downwardAPI" => files.downward(source, default_mode(source), facts, scope, problems),
        _ => {
            let mode = default_mode(source);
            for part in source.list("sources") {
                match exactly_one(part, &["configMap", "secret", "downwardAPI"], problems) {
                    Some("configMap") => files.config_map(part.get("configMap")?, mode, scope, problems),
                    Some("secret") => files.secret(part.get("secret")?, "name", mode, scope, problems),
                    Some(_) => files.downward(part.get("downwardAPI")?, mode, facts, scope, problems),
                    None => {}
                }
            }
        }
    }
    Some(DesiredVolume::Files { files: files.files.into_values().collect(), secret: files.secret })
}

fn empty_dir(node: &Node, problems: &mut Problems<'_>) -> DesiredVolume {
    let memory = one_of(node, "medium", &[("", false), ("Memory", true)], problems);
    let size = node.get("sizeLimit").and_then(Quantity::of).filter(|size| !size.is_zero());
    if size.is_some_and(Quantity::is_negative) {
        problems.error_in(node, "sizeLimit", "must not be negative");
    } else if size.is_some() && !memory {
        problems.error_in(node, "sizeLimit", "not supported on disk: only with `medium: Memory`");
    }
    DesiredVolume::EmptyDir {
        memory,
        size_limit_bytes: size.and_then(|size| u64::try_from(size.units()).ok()),
    }
}

fn host_path(node: &Node, problems: &mut Problems<'_>) -> Option<DesiredVolume> {
    let path = required_text(node, "path", problems)?;
    if !path.starts_with('/') || path.split('/').any(|part| part == "..") {
        problems.error_in(node, "path", "must be absolute and without `..`");
    }
    let kinds = [
        ("", HostPathKind::Unchecked),
        ("DirectoryOrCreate", HostPathKind::DirectoryOrCreate),
        ("Directory", HostPathKind::Directory),
        ("FileOrCreate", HostPathKind::FileOrCreate),
        ("File", HostPathKind::File),
        ("Socket", HostPathKind::Socket),
        ("CharDevice", HostPathKind::CharDevice),
        ("BlockDevice", HostPathKind::BlockDevice),
    ];
    Some(DesiredVolume::HostPath { path: PathBuf::from(path), kind: one_of(node, "type", &kinds, problems) })
}

fn claim(node: &Node, scope: &Scope<'_>, problems: &mut Problems<'_>) -> Option<DesiredVolume> {
    let name = required_text(node, "claimName", problems)?;
    let volume = names::engine_name(&scope.object(name));
    if volume.parse::<VolumeName>().is_err() {
        problems.error_in(node, "claimName", "is not a valid name");
    }
    if !scope.library.claims.contains_key(&scope.key(name)) {
        // podman makes the volume; a cluster would wait for the claim.
        problems.warning(
            node.get("claimName").unwrap_or(node),
            format!("no PersistentVolumeClaim {name:?} in the manifests: the engine's volume {volume} is used, and made if it does not exist"),
        );
    }
    Some(DesiredVolume::Claim { volume, read_only: node.boolean("readOnly").unwrap_or(false) })
}

fn default_mode(node: &Node) -> u32 {
    mode(node, "defaultMode").unwrap_or(DEFAULT_MODE)
}

fn mode(node: &Node, field: &str) -> Option<u32> {
    node.integer(field).and_then(|mode| u32::try_from(mode).ok())
}

/// Files of a volume by path; of two with the same path the later wins.
#[derive(Default)]
struct Files {
    files: BTreeMap<String, VolumeFile>,
    secret: bool,
}

impl Files {
    fn config_map(&mut self, node: &Node, mode: u32, scope: &Scope<'_>, problems: &mut Problems<'_>) {
        let data = scope.config_map(node, "name", problems);
        self.add_data(node, data, mode, problems);
    }

    fn secret(
        &mut self,
        node: &Node,
        name_field: &str,
        mode: u32,
        scope: &Scope<'_>,
        problems: &mut Problems<'_>,
    ) {
        self.secret = true;
        let data = scope.secret(node, name_field, problems);
        self.add_data(node, data, mode, problems);
    }

    fn add_data(&mut self, node: &Node, data: Option<&Data>, default: u32, problems: &mut Problems<'_>) {
        if node.list("items").is_empty() {
            for (key, content) in data.into_iter().flat_map(|data| &data.entries) {
                self.add(key.clone(), content.clone(), default);
            }
            return;
        }
        for item in node.list("items") {
            let key = required_text(item, "key", problems);
            let path = file_path(item, problems);
            let (Some(key), Some(path), Some(data)) = (key, path, data) else { continue };
            match data.entries.get(key) {
                Some(content) => self.add(path, content.clone(), mode(item, "mode").unwrap_or(default)),
                None if node.boolean("optional") == Some(true) => {}
                None => problems.error_in(item, "key", format!("no key {key:?} in it")),
            }
        }
    }

    fn downward(
        &mut self,
        node: &Node,
        default: u32,
        facts: &PodFacts<'_>,
        scope: &Scope<'_>,
        problems: &mut Problems<'_>,
    ) {
        for item in node.list("items") {
            let Some(path) = file_path(item, problems) else { continue };
            let content = match exactly_one(item, &["fieldRef", "resourceFieldRef"], problems) {
                Some("fieldRef") => {
                    item.get("fieldRef").and_then(|field| file_field(field, facts, scope, problems))
                }
                Some(_) => {
                    let resource = item.get("resourceFieldRef");
                    if let Some(resource) = resource.filter(|node| node.text("containerName").is_none()) {
                        problems.error_in(resource, "containerName", "is required");
                        continue;
                    }
                    resource.and_then(|node| resource_value(node, "", facts, scope, problems))
                }
                None => None,
            };
            if let Some(content) = content {
                self.add(path, content.into_bytes(), mode(item, "mode").unwrap_or(default));
            }
        }
    }

    fn add(&mut self, path: String, content: Vec<u8>, mode: u32) {
        self.files.insert(path.clone(), VolumeFile { path, content, mode });
    }
}

/// Files may hold whole maps, and nothing that only the running pod knows.
fn file_field(
    node: &Node,
    facts: &PodFacts<'_>,
    scope: &Scope<'_>,
    problems: &mut Problems<'_>,
) -> Option<String> {
    match node.text("fieldPath") {
        Some("metadata.labels") => return Some(map_lines(facts.labels)),
        Some("metadata.annotations") => return Some(map_lines(facts.annotations)),
        _ => {}
    }
    let value = field_value(node, facts, scope, problems)?;
    if value.contains('\0') {
        problems.error_in(node, "fieldPath", "not supported in a volume: use a variable");
        return None;
    }
    Some(value)
}

/// `key="value"` lines, sorted: kubelet's format.
fn map_lines(map: &BTreeMap<String, String>) -> String {
    map.iter().map(|(key, value)| format!("{key}={value:?}")).collect::<Vec<_>>().join("\n")
}

fn file_path(item: &Node, problems: &mut Problems<'_>) -> Option<String> {
    let path = required_text(item, "path", problems)?;
    let parts: Vec<&str> = path.split('/').collect();
    if parts.iter().any(|part| part.is_empty() || *part == "." || *part == "..")
        || parts[0].starts_with("..")
        || path.contains('\0')
    {
        problems.error_in(item, "path", "must be relative and without `..`");
        return None;
    }
    Some(path.to_owned())
}

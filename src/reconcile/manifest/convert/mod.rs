//! Checked documents become desired objects. Pure.
//!
//! Conversion goes on after a mistake, to tell all of them at once; what it makes of a document with
//! errors is thrown away with the stack.

mod container;
mod env;
mod pod;
mod probe;
mod service;
mod volume;
mod workload;

use std::collections::BTreeMap;

use super::Context;
use super::check::decode_base64;
use super::names;
use super::problem::Problems;
use super::tree::{Node, Value};
use crate::reconcile::desired::{DesiredPod, DesiredService, DesiredVolumeClaim, ObjectName, SourceName};

pub use container::default_pull_policy;
pub use env::escape;
pub use service::service;
pub use workload::{HostPorts, Workload, claim, daemon_set, deployment, job, single_pod, stateful_set};

/// What conversion of one object may look at besides the object.
pub struct Scope<'a> {
    pub source: &'a SourceName,
    pub namespace: &'a str,
    pub library: &'a Library,
    pub context: &'a Context,
}

/// What objects of one source may refer to, whatever file it is in.
#[derive(Debug, Default)]
pub struct Library {
    config_maps: BTreeMap<(SourceName, ObjectName), Data>,
    secrets: BTreeMap<(SourceName, ObjectName), Data>,
    claims: BTreeMap<(SourceName, ObjectName), ()>,
}

/// Content of a ConfigMap or Secret.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Data {
    /// `kubernetes.io/dockerconfigjson` ...
    pub kind: String,
    pub entries: BTreeMap<String, Vec<u8>>,
}

/// What became of one object.
#[derive(Debug, Default)]
pub struct Converted {
    pub pods: Vec<DesiredPod>,
    pub services: Vec<DesiredService>,
    pub volumes: Vec<DesiredVolumeClaim>,
}

impl Library {
    pub fn add_config_map(&mut self, source: &SourceName, name: &ObjectName, node: &Node) {
        let mut data = Data::default();
        for entry in node.map("data") {
            if let Some(text) = entry.node.as_text() {
                data.entries.insert(entry.key.clone(), text.as_bytes().to_vec());
            }
        }
        data.add_base64(node.get("binaryData"));
        self.config_maps.insert((source.clone(), name.clone()), data);
    }

    pub fn add_secret(&mut self, source: &SourceName, name: &ObjectName, node: &Node) {
        let mut data =
            Data { kind: node.text("type").unwrap_or("Opaque").to_owned(), entries: BTreeMap::new() };
        data.add_base64(node.get("data"));
        for entry in node.map("stringData") {
            if let Some(text) = entry.node.as_text() {
                data.entries.insert(entry.key.clone(), text.as_bytes().to_vec());
            }
        }
        self.secrets.insert((source.clone(), name.clone()), data);
    }

    pub fn add_claim(&mut self, source: &SourceName, name: &ObjectName) {
        self.claims.insert((source.clone(), name.clone()), ());
    }
}

impl Data {
    fn add_base64(&mut self, node: Option<&Node>) {
        for entry in node.map_or(&[][..], Node::entries) {
            if let Some(bytes) = entry.node.as_text().and_then(decode_base64) {
                self.entries.insert(entry.key.clone(), bytes);
            }
        }
    }
}

impl Scope<'_> {
    fn key(&self, name: &str) -> (SourceName, ObjectName) {
        (self.source.clone(), self.object(name))
    }

    pub fn object(&self, name: &str) -> ObjectName {
        ObjectName { namespace: self.namespace.to_owned(), name: name.to_owned() }
    }

    /// The data of the ConfigMap that `reference` names under `field`. Missing and not optional is an
    /// error at the reference.
    fn config_map(&self, reference: &Node, field: &str, problems: &mut Problems<'_>) -> Option<&Data> {
        self.data(&self.library.config_maps, "ConfigMap", reference, field, problems)
    }

    fn secret(&self, reference: &Node, field: &str, problems: &mut Problems<'_>) -> Option<&Data> {
        self.data(&self.library.secrets, "Secret", reference, field, problems)
    }

    fn data<'l>(
        &self,
        objects: &'l BTreeMap<(SourceName, ObjectName), Data>,
        kind: &str,
        reference: &Node,
        field: &str,
        problems: &mut Problems<'_>,
    ) -> Option<&'l Data> {
        let name = required_text(reference, field, problems)?;
        let found = objects.get(&self.key(name));
        if found.is_none() && reference.boolean("optional") != Some(true) {
            problems.error_in(reference, field, format!("no {kind} {:?} in the manifests", name));
        }
        found
    }
}

fn required_text<'n>(node: &'n Node, field: &str, problems: &mut Problems<'_>) -> Option<&'n str> {
    let text = node.text(field);
    if text.is_none() {
        problems.error_in(node, field, "is required");
    }
    text
}

/// A text out of a fixed list; the first is the default.
fn one_of<T: Copy>(node: &Node, field: &str, values: &[(&str, T)], problems: &mut Problems<'_>) -> T {
    let default = values[0].1;
    let Some(text) = node.text(field) else { return default };
    if let Some((_, value)) = values.iter().find(|(name, _)| *name == text) {
        return *value;
    }
    let names: Vec<&str> = values.iter().map(|(name, _)| *name).filter(|name| !name.is_empty()).collect();
    problems.error_in(node, field, format!("{text:?} is not one of {}", names.join(", ")));
    default
}

/// An integer within `min..=max`.
fn integer_within(node: &Node, field: &str, min: i64, max: i64, problems: &mut Problems<'_>) -> Option<i64> {
    let number = node.integer(field)?;
    if !(min..=max).contains(&number) {
        let message = match (min, max) {
            (0, i64::MAX) => "must not be negative".to_owned(),
            (min, i64::MAX) => format!("must be at least {min}"),
            (min, max) => format!("must be between {min} and {max}"),
        };
        problems.error_in(node, field, message);
        return None;
    }
    Some(number)
}

fn seconds(node: &Node, field: &str, min: i64, problems: &mut Problems<'_>) -> Option<u32> {
    integer_within(node, field, min, i64::from(i32::MAX), problems).and_then(|n| u32::try_from(n).ok())
}

fn port_number(node: &Node, field: &str, problems: &mut Problems<'_>) -> Option<u16> {
    integer_within(node, field, 1, 65_535, problems).and_then(|n| u16::try_from(n).ok())
}

/// User and group ids: Kubernetes allows what fits 31 bits.
fn unix_id(node: &Node, field: &str, problems: &mut Problems<'_>) -> Option<u32> {
    integer_within(node, field, 0, i64::from(i32::MAX), problems).and_then(|n| u32::try_from(n).ok())
}

fn text_list(node: &Node, field: &str) -> Vec<String> {
    node.list(field).iter().filter_map(Node::as_text).map(str::to_owned).collect()
}

fn text_map(node: Option<&Node>) -> BTreeMap<String, String> {
    node.map_or(&[][..], Node::entries)
        .iter()
        .filter_map(|entry| Some((entry.key.clone(), entry.node.as_text()?.to_owned())))
        .collect()
}

/// Exactly one of `fields` has to be given.
fn exactly_one<'n>(node: &'n Node, fields: &[&'n str], problems: &mut Problems<'_>) -> Option<&'n str> {
    let given: Vec<&str> = fields.iter().copied().filter(|field| node.get(field).is_some()).collect();
    match given.as_slice() {
        [one] => Some(one),
        [] => {
            problems.error(node, format!("one of {} is required", fields.join(", ")));
            None
        }
        many => {
            problems.error(node, format!("{} exclude each other", many.join(" and ")));
            None
        }
    }
}

/// Checks labels of `metadata` as the API server does.
pub fn check_metadata(metadata: Option<&Node>, problems: &mut Problems<'_>) {
    let Some(metadata) = metadata else { return };
    let (labels, annotations) = (metadata.get("labels"), metadata.get("annotations"));
    for (labels, entry) in labels.iter().flat_map(|node| node.entries().iter().map(move |e| (node, e))) {
        if !names::is_qualified_key(&entry.key) {
            problems.error_at_key(labels, entry, "is not a valid label name", None);
        }
        if entry.node.as_text().is_some_and(|text| !names::is_label_value(text)) {
            problems.error(
                &entry.node,
                "is not a valid label value: at most 63 letters, digits, and inner - _ or .",
            );
        }
    }
    for (annotations, entry) in
        annotations.iter().flat_map(|node| node.entries().iter().map(move |e| (node, e)))
    {
        if !names::is_qualified_key(&entry.key.to_lowercase()) {
            problems.error_at_key(annotations, entry, "is not a valid annotation name", None);
        }
        // Superseded by fields, and about security: to keep them without effect would be a lie.
        if entry.key.starts_with("container.apparmor.security.beta.kubernetes.io/")
            || entry.key.starts_with("seccomp.security.alpha.kubernetes.io/")
            || entry.key.starts_with("container.seccomp.security.alpha.kubernetes.io/")
        {
            problems.error_at_key(annotations, entry, "not supported: use securityContext", None);
        }
    }
    if let Some(namespace) = metadata.get("namespace")
        && namespace.as_text().is_some_and(|text| !text.is_empty() && !names::is_dns_label(text))
    {
        problems.error(namespace, "is not a valid namespace: lower case letters, digits and inner dashes");
    }
}

/// Keys of ConfigMaps and Secrets.
pub fn check_data(node: &Node, problems: &mut Problems<'_>) {
    for field in ["data", "binaryData", "stringData"] {
        let Some(map) = node.get(field) else { continue };
        for entry in map.entries() {
            if !names::is_data_key(&entry.key) {
                problems.error_at_key(map, entry, "is not a valid key: letters, digits, - _ and .", None);
            }
        }
    }
}

/// Whether a label selector fits `labels`.
fn selects(selector: &Node, labels: &BTreeMap<String, String>) -> bool {
    let exact = text_map(selector.get("matchLabels"));
    exact.iter().all(|(key, value)| labels.get(key) == Some(value))
        && selector.list("matchExpressions").iter().all(|requirement| {
            let value = requirement.text("key").and_then(|key| labels.get(key));
            let listed = |value: &String| {
                requirement
                    .list("values")
                    .iter()
                    .any(|item| matches!(&item.value, Value::Text(text) if text == value))
            };
            match requirement.text("operator") {
                Some("In") => value.is_some_and(listed),
                Some("NotIn") => !value.is_some_and(listed),
                Some("Exists") => value.is_some(),
                Some("DoesNotExist") => value.is_none(),
                _ => false,
            }
        })
}

//! The field table tells the truth: what it calls honoured has an effect.

use serde_json::Value as Json;

use super::*;
use crate::reconcile::manifest::fields::{Class, Kind, OBJECT_META, POD, Shape, TOP_KINDS};
use crate::reconcile::manifest::tree::{self, Node, Value};

pub const FULL: &str = include_str!("../full.yaml");

/// Said in `full.yaml` and the same as not said, so that leaving it out shows nothing.
const SAME_AS_DEFAULT: &[&str] = &[
    "spec.os",
    "spec.os.name",
    "spec.securityContext.seccompProfile",
    "spec.dnsPolicy",
    "spec.securityContext.seccompProfile.type",
    "fieldRef.apiVersion",
    "ports[0].protocol",
    "ports[0].name", // only the probe's `port: http` needs it, and that fails without it
    "optional",
];

pub fn json(node: &Node) -> Json {
    match &node.value {
        Value::Null => Json::Null,
        Value::Boolean(flag) => Json::Bool(*flag),
        Value::Integer(number) => (*number).into(),
        Value::Float(text) => text.parse::<f64>().unwrap().into(),
        Value::Text(text) => text.as_str().into(),
        Value::List(items) => items.iter().map(json).collect(),
        Value::Map(entries) => entries.iter().map(|e| (e.key.clone(), json(&e.node))).collect(),
    }
}

/// Every honoured field below `node`, as pointer and as readable path.
pub fn honoured(node: &Node, shape: &Shape, pointer: &str, found: &mut Vec<String>) {
    for entry in node.entries() {
        let field = shape.field(&entry.key).unwrap_or_else(|| panic!("{pointer}/{}", entry.key));
        let pointer = format!("{pointer}/{}", entry.key);
        if field.class == Class::Honoured {
            found.push(pointer.clone());
        }
        match field.kind {
            Kind::Object(inner) => honoured(&entry.node, inner, &pointer, found),
            Kind::Objects(inner) => {
                for (index, item) in entry.node.items().iter().enumerate() {
                    honoured(item, inner, &format!("{pointer}/{index}"), found);
                }
            }
            _ => {}
        }
    }
}

pub fn without(document: &Json, pointer: &str) -> Json {
    let mut changed = document.clone();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    changed.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(key);
    changed
}

/// As JSON, which is YAML too: so our own writer has no part in what is read.
pub fn as_text(documents: &[Json]) -> String {
    documents.iter().map(|document| format!("---\n{document}\n")).collect()
}

/// The pod as far as it matters, or `None` if it is refused.
pub fn outcome(documents: &[Json]) -> Option<DesiredPod> {
    match stack(&desired(&[("web.yaml", &as_text(documents))]), "web") {
        DesiredStack::Loaded(objects) => Some(objects.pods[0].clone()),
        DesiredStack::Held { .. } => None,
    }
}

#[test]
fn leaving_an_honoured_field_out_makes_a_difference() {
    let nodes = tree::parse(FULL).unwrap();
    let mut documents: Vec<Json> = nodes.iter().map(json).collect();
    let original = outcome(&documents).expect("full.yaml loads");
    let pod = documents.pop().unwrap();
    let mut fields = Vec::new();
    honoured(nodes.last().unwrap(), &POD, "", &mut fields);
    assert!(fields.len() > 200, "{}", fields.len());
    let mut silent = Vec::new();
    for pointer in fields {
        let readable = pointer[1..].replace('/', ".");
        let readable = (0..10).fold(readable, |text, n| text.replace(&format!(".{n}"), &format!("[{n}]")));
        documents.push(without(&pod, &pointer));
        let same = outcome(&documents).is_some_and(|pod| pod == original);
        documents.pop();
        if same && !SAME_AS_DEFAULT.iter().any(|known| readable.ends_with(known)) {
            silent.push(readable);
        }
    }
    assert!(silent.is_empty(), "these have no effect and are called honoured: {silent:#?}");
}

/// Honoured fields of the Pod that `full.yaml` can not have: they exclude others in it.
const ELSEWHERE: &[(&str, &str)] = &[
    ("ObjectMeta", "namespace"),
    ("PodSpec", "hostNetwork"),
    ("PodSpec", "hostPID"),
    ("PodDNSConfig", "nameservers"),
    ("VolumeMount", "subPathExpr"),
];

#[test]
fn every_honoured_field_of_a_pod_is_in_the_test_manifest() {
    fn note(node: &Node, shape: &'static Shape, seen: &mut BTreeSet<(&'static str, &'static str)>) {
        for entry in node.entries() {
            let field = shape.field(&entry.key).unwrap();
            seen.insert((shape.name, field.name));
            match field.kind {
                Kind::Object(inner) => note(&entry.node, inner, seen),
                Kind::Objects(inner) => entry.node.items().iter().for_each(|item| note(item, inner, seen)),
                _ => {}
            }
        }
    }
    fn all(shape: &'static Shape, into: &mut BTreeSet<(&'static str, &'static str)>) {
        for field in shape.fields {
            if field.class == Class::Honoured
                && into.insert((shape.name, field.name))
                && let Kind::Object(inner) | Kind::Objects(inner) = field.kind
            {
                all(inner, into);
            }
        }
    }
    let mut seen = BTreeSet::new();
    note(tree::parse(FULL).unwrap().last().unwrap(), &POD, &mut seen);
    let mut wanted = BTreeSet::new();
    all(&POD, &mut wanted);
    let missing: Vec<_> = wanted.difference(&seen).filter(|field| !ELSEWHERE.contains(field)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn what_is_elsewhere_makes_a_difference_too() {
    let plain = pod(HEALTHY);
    for (from, to) in [
        ("  labels:", "  namespace: other\n  labels:"),
        ("spec:\n", "spec:\n  hostPID: true\n"),
        ("spec:\n", "spec:\n  dnsPolicy: None\n  dnsConfig: {nameservers: [192.0.2.1]}\n"),
        ("spec:\n", "spec:\n  dnsPolicy: Default\n"),
        ("hostPort: 8080", "hostPort: 80"),
    ] {
        assert_ne!(pod(&HEALTHY.replacen(from, to, 1)).hash, plain.hash, "{to}");
    }
    let host = HEALTHY.replace(", hostPort: 8080", "");
    assert_ne!(pod(&host.replace("spec:\n", "spec:\n  hostNetwork: true\n")).hash, pod(&host).hash);
}

fn shapes() -> Vec<&'static Shape> {
    fn add(shape: &'static Shape, into: &mut Vec<&'static Shape>) {
        if into.iter().any(|known| known.name == shape.name) {
            return;
        }
        into.push(shape);
        for field in shape.fields {
            if let Kind::Object(inner) | Kind::Objects(inner) = field.kind {
                add(inner, into);
            }
        }
    }
    let mut found = Vec::new();
    TOP_KINDS.iter().filter_map(|kind| kind.shape).for_each(|shape| add(shape, &mut found));
    found
}

#[test]
fn a_security_field_is_never_inert() {
    let security =
        ["SecurityContext", "PodSecurityContext", "Capabilities", "SeccompProfile", "AppArmorProfile"];
    for shape in shapes() {
        for field in shape.fields {
            let about = security.contains(&shape.name)
                || ["host", "privileg", "seccomp", "apparmor", "securitycontext", "runas"]
                    .iter()
                    .any(|word| field.name.to_lowercase().contains(word));
            assert!(!about || field.class != Class::Inert, "{}.{}", shape.name, field.name);
        }
    }
}

#[test]
fn the_table_is_in_order() {
    for shape in shapes() {
        let mut names = BTreeSet::new();
        for field in shape.fields {
            assert!(names.insert(field.name), "{}.{} twice", shape.name, field.name);
            let reasoned = !field.note.is_empty() || field.class == Class::Honoured;
            let obvious = matches!(field.class, Class::Only(_));
            assert!(reasoned || obvious, "{}.{} needs a note", shape.name, field.name);
        }
    }
    assert!(OBJECT_META.field("name").is_some());
}

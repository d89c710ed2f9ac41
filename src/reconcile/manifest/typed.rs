//! The second net: what the field table lets through must also be an object of the Kubernetes API.
//! That looks into the fields which have no effect here, where the table does not look.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, Service};
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use super::fields::{Kind, Shape, TopKind};
use super::problem::Problems;
use super::tree::{Node, Value};

/// Reports what of the object `node` the Kubernetes API would not take.
pub fn check_typed(node: &Node, kind: &TopKind, problems: &mut Problems<'_>) {
    let Some((decode, shape)) = decoder(kind.name).zip(kind.shape) else {
        return;
    };
    let kind = Kind::Object(shape);
    if let Some(cause) = decode(json(node, kind)) {
        let (place, cause) = culprit(node, kind, cause, &decode);
        problems.error(place, cause);
    }
}

type Decode = fn(Json) -> Option<String>;

fn decoder(kind: &str) -> Option<Decode> {
    Some(match kind {
        "Pod" => refusal::<Pod>,
        "Deployment" => refusal::<Deployment>,
        "StatefulSet" => refusal::<StatefulSet>,
        "DaemonSet" => refusal::<DaemonSet>,
        "Job" => refusal::<Job>,
        "Service" => refusal::<Service>,
        "ConfigMap" => refusal::<ConfigMap>,
        "Secret" => refusal::<Secret>,
        "PersistentVolumeClaim" => refusal::<PersistentVolumeClaim>,
        _ => return None,
    })
}

/// Why `object` is no `T`.
fn refusal<T: DeserializeOwned>(object: Json) -> Option<String> {
    serde_json::from_value::<T>(object).err().map(|error| error.to_string())
}

/// The innermost value that is wrong by itself. No field is missed by k8s-openapi, so every value can be
/// tried alone within what contains it.
fn culprit<'n>(
    node: &'n Node,
    kind: Kind,
    cause: String,
    decode: &dyn Fn(Json) -> Option<String>,
) -> (&'n Node, String) {
    let empty = match &node.value {
        Value::Map(_) => Json::Object(serde_json::Map::new()),
        Value::List(_) => Json::Array(Vec::new()),
        Value::Null | Value::Boolean(_) | Value::Integer(_) | Value::Float(_) | Value::Text(_) => {
            return (node, cause);
        }
    };
    // A list where a string belongs is wrong whatever it holds.
    if decode(empty).is_some() {
        return (node, cause);
    }
    for entry in node.entries().iter().filter(|entry| entry.node.value != Value::Null) {
        let alone = |value: Json| decode(Json::from_iter([(entry.key.clone(), value)]));
        let inner = member_kind(kind, &entry.key);
        if let Some(cause) = alone(json(&entry.node, inner)) {
            return culprit(&entry.node, inner, cause, &alone);
        }
    }
    for item in node.items().iter().filter(|item| item.value != Value::Null) {
        let alone = |value: Json| decode(Json::Array(vec![value]));
        let inner = item_kind(kind);
        if let Some(cause) = alone(json(item, inner)) {
            return culprit(item, inner, cause, &alone);
        }
    }
    (node, cause)
}

/// A tree as the API's JSON. Quantities and base64 are passed on as we read them. Null means "not given"
/// wherever it stands, as to Go's decoder.
fn json(node: &Node, kind: Kind) -> Json {
    match (&node.value, kind) {
        (Value::Null, _) => Json::Null,
        (Value::Boolean(flag), _) => Json::Bool(*flag),
        (Value::Integer(number), _) => (*number).into(),
        (Value::Float(text), Kind::Quantity) => text.as_str().into(),
        (Value::Float(text), _) => float(text),
        (Value::Text(text), Kind::BytesMap) => text.replace(['\n', '\r'], "").into(),
        (Value::Text(text), _) => text.as_str().into(),
        (Value::List(items), _) => items
            .iter()
            .filter(|item| item.value != Value::Null)
            .map(|item| json(item, item_kind(kind)))
            .collect(),
        (Value::Map(entries), _) => entries
            .iter()
            .filter(|entry| entry.node.value != Value::Null)
            .map(|entry| (entry.key.clone(), json(&entry.node, member_kind(kind, &entry.key))))
            .collect(),
    }
}

/// `1e3` is an integer to the API as well.
fn float(text: &str) -> Json {
    match text.parse::<f64>() {
        #[expect(clippy::cast_possible_truncation, reason = "it is whole and in range")]
        Ok(number) if number.fract() == 0.0 && number.abs() < 9e15 => (number as i64).into(),
        Ok(number) => number.into(),
        Err(_) => text.into(),
    }
}

fn member_kind(kind: Kind, name: &str) -> Kind {
    let field = |shape: &'static Shape| shape.field(name).map(|field| field.kind);
    match kind {
        Kind::Object(shape) => field(shape).unwrap_or(Kind::Any),
        Kind::QuantityMap => Kind::Quantity,
        // Its values are of the same kind to `json`.
        Kind::BytesMap => Kind::BytesMap,
        Kind::Objects(_)
        | Kind::Text
        | Kind::Boolean
        | Kind::Integer
        | Kind::Mode
        | Kind::Quantity
        | Kind::Port
        | Kind::TextMap
        | Kind::TextList
        | Kind::IntegerList
        | Kind::Any => Kind::Any,
    }
}

fn item_kind(kind: Kind) -> Kind {
    if let Kind::Objects(shape) = kind { Kind::Object(shape) } else { Kind::Any }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::fields::TOP_KINDS;
    use super::super::{check, tree};
    use super::*;

    /// What the field table finds, and what this net finds.
    fn found(text: &str) -> (Vec<String>, Vec<String>) {
        let documents = tree::parse(text).unwrap();
        let (mut table, mut typed) = (Vec::new(), Vec::new());
        for node in &documents {
            let kind = TOP_KINDS.iter().find(|kind| Some(kind.name) == node.text("kind")).unwrap();
            let errors = |check: &dyn Fn(&mut Problems<'_>)| {
                let mut problems = Problems::new(Path::new("x"), node);
                check(&mut problems);
                problems.errors.iter().map(ToString::to_string).collect::<Vec<_>>()
            };
            table.extend(errors(&|problems| check::check(node, kind.shape.unwrap(), problems)));
            typed.extend(errors(&|problems| check_typed(node, kind, problems)));
        }
        (table, typed)
    }

    #[test]
    fn what_only_the_types_know_is_told_with_its_place() {
        for (kind, api_version, rest, want) in [
            (
                "Pod",
                "v1",
                "spec: {tolerations: [{key: a}, {key: [b]}]}",
                "x:4:38: spec.tolerations[1].key: invalid type: sequence, expected a string",
            ),
            (
                "Deployment",
                "apps/v1",
                "spec: {minReadySeconds: soon}",
                "x:4:25: spec.minReadySeconds: invalid type: string \"soon\", expected i32",
            ),
            (
                "StatefulSet",
                "apps/v1",
                "spec: {template: {spec: {priority: 99999999999}}}",
                "x:4:36: spec.template.spec.priority: invalid value: integer `99999999999`, expected i32",
            ),
            (
                "DaemonSet",
                "apps/v1",
                "spec: {updateStrategy: OnDelete}",
                "x:4:24: spec.updateStrategy: invalid type: string \"OnDelete\", expected DaemonSetUpdateStrategy",
            ),
            (
                "Job",
                "batch/v1",
                "spec: {ttlSecondsAfterFinished: '60'}",
                "x:4:33: spec.ttlSecondsAfterFinished: invalid type: string \"60\", expected i32",
            ),
            (
                "Service",
                "v1",
                "spec: {internalTrafficPolicy: [Local]}",
                "x:4:31: spec.internalTrafficPolicy: invalid type: sequence, expected a string",
            ),
            (
                "ConfigMap",
                "v1",
                "immutable: 'yes'",
                "x:4:12: immutable: invalid type: string \"yes\", expected a boolean",
            ),
            (
                "Secret",
                "v1",
                "immutable: 1",
                "x:4:12: immutable: invalid type: integer `1`, expected a boolean",
            ),
            (
                "PersistentVolumeClaim",
                "v1",
                "spec: {storageClassName: {name: fast}}",
                "x:4:26: spec.storageClassName: invalid type: map, expected a string",
            ),
        ] {
            let text = format!("apiVersion: {api_version}\nkind: {kind}\nmetadata: {{name: a}}\n{rest}\n");
            assert_eq!(found(&text), (vec![], vec![want.to_owned()]), "{text}");
        }
    }

    #[test]
    fn every_kind_with_a_shape_has_a_type() {
        for kind in TOP_KINDS {
            assert_eq!(kind.shape.is_some(), decoder(kind.name).is_some(), "{}", kind.name);
        }
    }

    #[test]
    fn forms_that_readers_take_are_taken() {
        let text = "\
apiVersion: v1
kind: Secret
metadata: {name: a, creationTimestamp: null}
data:
  key: |
    YWJj
    ZGVm
---
apiVersion: v1
kind: Pod
metadata: {name: a, creationTimestamp: 2024-05-01T10:00:00Z}
spec:
  tolerations: [null, {key: null, tolerationSeconds: 3}]
  topologySpreadConstraints:
  nodeSelector:
  priority: 1e3
  containers:
  - name: a
    resources: {limits: {cpu: 1.5, memory: 1e9}, requests: {cpu: 1}}
  volumes:
  - configMap: {name: a, defaultMode: 0644}
status: {}
";
        assert_eq!(found(text), (vec![], vec![]));
        assert_eq!(found(include_str!("full.yaml")), (vec![], vec![]));
    }
}

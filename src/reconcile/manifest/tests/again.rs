//! A pod that is written as a manifest and read again is the same pod.

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::honesty::{FULL, as_text, honoured, json, outcome, without};
use super::*;
use crate::reconcile::manifest::fields::POD;
use crate::reconcile::manifest::{render, tree, write::yaml};

/// The documents of `full.yaml`, its pod last, and where in that the honoured fields are.
fn full() -> (Vec<Json>, Vec<String>) {
    let nodes = tree::parse(FULL).unwrap();
    let mut fields = Vec::new();
    honoured(nodes.last().unwrap(), &POD, "", &mut fields);
    (nodes.iter().map(json).collect(), fields)
}

/// What keeps `pod` from being the same after writing and reading it.
fn difference(pod: &DesiredPod) -> Option<String> {
    let text = yaml(&render::documents(pod));
    let objects = match stack(&desired(&[("web.yaml", &text)]), "web") {
        DesiredStack::Loaded(objects) => objects.clone(),
        DesiredStack::Held { errors } => return Some(format!("refused: {}\n{text}", printed(errors))),
    };
    let [again] = objects.pods.as_slice() else {
        return Some(format!("{} pods\n{text}", objects.pods.len()));
    };
    let mut again = again.clone();
    // Where it stands is told by no manifest, and that a value came from a Secret by none that has it.
    again.location = pod.location.clone();
    again.registry_logins = pod.registry_logins.clone();
    again.fields = pod.fields.clone();
    for (container, original) in again.containers.iter_mut().zip(&pod.containers) {
        container.secret_env = original.secret_env.clone();
    }
    let (again, pod) = (serde_json::to_value(&again).unwrap(), serde_json::to_value(pod).unwrap());
    first_difference("", &pod, &again).map(|difference| format!("{difference}\n{text}"))
}

fn first_difference(path: &str, was: &Json, is: &Json) -> Option<String> {
    match (was, is) {
        (Json::Object(a), Json::Object(b)) if a.keys().eq(b.keys()) => {
            a.iter().find_map(|(key, was)| first_difference(&format!("{path}/{key}"), was, &b[key]))
        }
        (Json::Array(a), Json::Array(b)) if a.len() == b.len() => {
            (0..a.len()).find_map(|index| first_difference(&format!("{path}/{index}"), &a[index], &b[index]))
        }
        _ => (was != is).then(|| format!("{path}: {was} became {is}")),
    }
}

#[test]
fn every_field_can_be_left_out() {
    let (mut documents, fields) = full();
    let pod = documents.pop().unwrap();
    let mut loaded = 0;
    for field in &fields {
        documents.push(without(&pod, field));
        // Some are required, and others can not do without some.
        if let Some(pod) = outcome(&documents) {
            loaded += 1;
            assert_eq!(difference(&pod), None, "without {field}");
        }
        documents.pop();
    }
    assert!(loaded > 100, "{loaded} of {}", fields.len());
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "",
            "yes",
            "No",
            "on",
            "y",
            "null",
            "~",
            "true",
            "0644",
            "0o17",
            "0x1F",
            "1e3",
            "1_0",
            "12:30:45",
            "2001-01-01",
            ".5",
            ".inf",
            "-0",
            "=",
            "<<",
            " a",
            "a ",
            "\t",
            "a: b",
            "a #b",
            "- a",
            "$",
            "$$(A)",
            "$(A)",
            "a\n",
            "a\n\n",
            "\na",
            "a\n b ",
            "a\r\nb",
            "\u{85}",
            "\u{2028}",
            "\u{feff}",
            "ünï",
            "日本",
            "😀",
        ])
        .prop_map(str::to_owned),
        "[ -~]{0,12}",
        "\\PC{0,8}",
        "[a \n\r\t\u{85}\u{2028}\u{2029}\u{feff}]{0,6}",
        "([a-z:#$() ]{0,6}\n){0,4}[a-z ]{0,4}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_pod_is_the_same_again(
        left_out in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        policy in prop::sample::select(vec!["Always", "OnFailure", "Never"]),
        label in "[A-Za-z0-9]([A-Za-z0-9_.-]{0,6}[A-Za-z0-9])?",
        words in prop::collection::vec(text(), 5),
        (container_port, host_port) in (1..=65535_u16, 1024..=65535_u16),
        period in 1..1000_i32,
    ) {
        let (mut documents, fields) = full();
        let mut pod = documents.pop().unwrap();
        for index in left_out {
            let field = index.get(&fields);
            let (parent, _) = field.rsplit_once('/').unwrap();
            if !pod.pointer(parent).is_some_and(Json::is_object) {
                continue;
            }
            let smaller = without(&pod, field);
            documents.push(smaller.clone());
            if outcome(&documents).is_some() {
                pod = smaller;
            }
            documents.pop();
        }
        let other = json!({
            "name": "any",
            "image": "example.org/any:1",
            "args": [words[0], words[1]],
            "env": [{"name": "ANY", "value": words[2]}, {"name": "MORE", "value": words[3]}],
            "ports": [{"containerPort": container_port, "hostPort": host_port, "hostIP": "127.0.0.9"}],
            "readinessProbe": {"exec": {"command": ["test", words[4]]}, "periodSeconds": period},
        });
        pod["spec"]["containers"].as_array_mut().unwrap().push(other);
        pod["spec"]["restartPolicy"] = policy.into();
        pod["metadata"]["labels"]["any"] = label.into();
        documents[0]["data"]["A"] = words[4].clone().into();
        documents.push(pod);
        let found = desired(&[("web.yaml", &as_text(&documents))]);
        let DesiredStack::Loaded(objects) = stack(&found, "web") else {
            // What an environment or a command can not hold is refused when it is read, not later.
            return Err(TestCaseError::reject(errors_of(&found, "web")));
        };
        let difference = difference(&objects.pods[0]);
        prop_assert!(difference.is_none(), "{}", difference.unwrap_or_default());
    }
}

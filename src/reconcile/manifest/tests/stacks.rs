//! What files, directories and sources do to each other.

use super::*;
use crate::reconcile::desired::{ManifestWarning, ObjectName};

fn pod_called(name: &str, port: u16) -> String {
    HEALTHY
        .replace("name: web", &format!("name: {name}"))
        .replace("hostPort: 8080", &format!("hostPort: {port}"))
}

fn names(objects: &StackObjects) -> Vec<String> {
    objects.pods.iter().map(|pod| pod.name.to_string()).collect()
}

fn loaded_stack<'d>(desired: &'d DesiredState, name: &str) -> &'d StackObjects {
    match stack(desired, name) {
        DesiredStack::Loaded(objects) => objects,
        DesiredStack::Held { errors } => panic!("{name}: {}", printed(errors)),
    }
}

fn messages(warnings: &[ManifestWarning]) -> Vec<String> {
    warnings.iter().map(|w| format!("{}: {}: {}", w.location, w.field, w.message)).collect()
}

#[test]
fn a_file_or_a_directory_is_a_stack() {
    let desired = desired(&[
        ("one.yaml", &pod_called("one", 1)),
        ("shop/a.yaml", &pod_called("a", 2)),
        ("shop/deeper/b.yaml", &pod_called("b", 3)),
    ]);
    assert_eq!(names(loaded_stack(&desired, "one")), ["one"]);
    assert_eq!(names(loaded_stack(&desired, "shop")), ["a", "b"]);
    assert_eq!(loaded_stack(&desired, "shop").pods[1].location.to_string(), "shop/deeper/b.yaml:1:1");
}

#[test]
fn a_broken_file_holds_its_own_stack_only() {
    let desired = desired(&[
        ("good.yaml", &pod_called("good", 1)),
        ("bad.yaml", "kind: [Pod"),
        ("shop/a.yaml", &pod_called("a", 2)),
        ("shop/b.yaml", "just words"),
    ]);
    assert_eq!(names(loaded_stack(&desired, "good")), ["good"]);
    assert!(errors_of(&desired, "bad").starts_with("bad.yaml:"), "{}", errors_of(&desired, "bad"));
    assert_eq!(errors_of(&desired, "shop"), "shop/b.yaml:1:1: expected a Kubernetes object, found a string");
}

#[test]
fn an_emptied_file_holds_what_it_ran() {
    for text in ["", "\n\n", "# only words\n", "---\n---\n", "null\n", "\u{feff}"] {
        let message = errors(text);
        assert!(message.starts_with("web.yaml:1:1: there is no object in this file"), "{text:?}: {message}");
    }
    // This is how to say that nothing is wanted.
    assert_eq!(names(&loaded("apiVersion: v1\nkind: List\nitems: []\n")), [""; 0]);
}

#[test]
fn what_can_not_be_read_holds_its_stack() {
    let mut files = SourceFiles::of_texts(source(), [("good", HEALTHY)]);
    files.files.insert("gone.yaml".into(), Err("can not be read: Input/output error".into()));
    files.files.insert("latin.yaml".into(), Ok(Arc::from(&b"a: 1\nb: caf\xe9\n"[..])));
    files.empty_directories.insert("shop.d".into());
    let desired = desired_from(&[files], &context());
    assert_eq!(names(loaded_stack(&desired, "good")), ["web"]);
    assert_eq!(errors_of(&desired, "gone"), "gone.yaml:1:1: can not be read: Input/output error");
    assert_eq!(errors_of(&desired, "latin"), "latin.yaml:2:7: not UTF-8 text");
    assert_eq!(
        errors_of(&desired, "shop.d"),
        "shop.d:1:1: there is nothing in this directory: what it ran is kept"
    );
}

#[test]
fn a_held_source_has_no_stacks_and_says_so() {
    let health = SourceHealth::Held { cause: "it does not exist".into() };
    let mut files = SourceFiles::of_texts(source(), []);
    files.health = health.clone();
    let desired = desired_from(&[files], &context());
    assert!(desired.stacks.is_empty());
    assert_eq!(desired.sources[&source()], health);
}

#[test]
fn one_stack_name_for_two_things_is_an_error() {
    let desired = desired(&[("web.yaml", &pod_called("a", 1)), ("web/b.yaml", &pod_called("b", 2))]);
    assert_eq!(errors_of(&desired, "web"), "web.yaml:1:1: web has the same stack name");
}

#[test]
fn a_doubled_object_is_told_at_both_places() {
    let desired = desired(&[("a.yaml", HEALTHY), ("b.yaml", &format!("# other\n{HEALTHY}"))]);
    assert_eq!(errors_of(&desired, "a"), "a.yaml:4:9: metadata.name: pod web is also at b.yaml:2:1");
    assert_eq!(errors_of(&desired, "b"), "b.yaml:5:9: metadata.name: pod web is also at a.yaml:1:1");
    let twice = format!("{HEALTHY}---\n{HEALTHY}");
    assert_eq!(errors(&twice).lines().count(), 2, "{}", errors(&twice));
}

#[test]
fn the_same_name_in_another_namespace_is_another_object() {
    let other = pod_called("web", 1).replace("  labels:", "  namespace: prod\n  labels:");
    let desired = desired(&[("a.yaml", HEALTHY), ("b.yaml", &other)]);
    let pod = &loaded_stack(&desired, "b").pods[0];
    assert_eq!(pod.name, ObjectName { namespace: "prod".into(), name: "web".into() });
    assert_eq!(pod.sandbox.name.as_str(), "prod_web");
    assert_eq!(pod.containers[0].spec.name.as_ref().unwrap().as_str(), "prod_web-main");
    assert_eq!(pod.sandbox.dns.searches[0], "prod.svc.cluster.local");
    assert_eq!(names(loaded_stack(&desired, "a")), ["web"]);
}

#[test]
fn two_pods_on_one_host_port_are_told_at_both_places() {
    let both = desired(&[("a.yaml", &pod_called("one", 8080)), ("b.yaml", &pod_called("two", 8080))]);
    assert_eq!(
        errors_of(&both, "a"),
        "a.yaml:1:1: pod one: host port 8080/tcp is also wanted by pod two (b.yaml:1:1)"
    );
    assert_eq!(
        errors_of(&both, "b"),
        "b.yaml:1:1: pod two: host port 8080/tcp is also wanted by pod one (a.yaml:1:1)"
    );
    // Not on two addresses, not with two protocols.
    let apart = pod_called("one", 8080).replace("hostPort: 8080", "hostPort: 8080, hostIP: 127.0.0.1");
    let other = pod_called("two", 8080).replace("hostPort: 8080", "hostPort: 8080, hostIP: 127.0.0.2");
    let udp = pod_called("three", 8080).replace("hostPort: 8080", "hostPort: 8080, protocol: UDP");
    let desired = desired(&[("a.yaml", &apart), ("b.yaml", &other), ("c.yaml", &udp)]);
    assert!(desired.stacks.values().all(|stack| matches!(stack, DesiredStack::Loaded(_))));
}

#[test]
fn pods_on_the_host_network_take_host_ports_too() {
    let host = HEALTHY
        .replace("name: web", "name: host")
        .replace("spec:\n", "spec:\n  hostNetwork: true\n")
        .replace(", hostPort: 8080", "")
        .replace("containerPort: 80", "containerPort: 8080");
    let desired = desired(&[("a.yaml", HEALTHY), ("b.yaml", &host)]);
    assert!(errors_of(&desired, "a").contains("host port 8080/tcp is also wanted by pod host"));
}

#[test]
fn names_of_the_engine_can_not_collide() {
    // `web-a` + `b` and `web` + `a-b` are both called web-a-b.
    let one = pod_called("web-a", 1).replace("name: main", "name: b");
    let other = pod_called("web", 2).replace("name: main", "name: a-b");
    let desired = desired(&[("a.yaml", &one), ("b.yaml", &other)]);
    assert_eq!(
        errors_of(&desired, "a"),
        "a.yaml:1:1: pod web-a: the name web-a-b is also wanted by pod web (b.yaml:1:1)"
    );
}

#[test]
fn references_reach_over_files_but_not_over_sources() {
    let user = HEALTHY.replace("emptyDir: {}", "configMap: {name: settings}");
    let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {a: b}\n";
    let desired = desired(&[("pod.yaml", &user), ("z.yaml", map)]);
    let DesiredVolume::Files { files, .. } = &loaded_stack(&desired, "pod").pods[0].volumes["data"] else {
        panic!("not files");
    };
    assert_eq!((files[0].path.as_str(), &files[0].content[..], files[0].mode), ("a", &b"b"[..], 0o644));

    let played = SourceFiles::of_texts(SourceName::Played, [("z", map)]);
    let directory = SourceFiles::of_texts(source(), [("pod", user.as_str())]);
    let desired = desired_from(&[played, directory], &context());
    assert!(errors_of(&desired, "pod").contains("no ConfigMap \"settings\""));
}

#[test]
fn sources_share_the_machine() {
    let played = SourceFiles::of_texts(SourceName::Played, [("x", HEALTHY)]);
    let directory = SourceFiles::of_texts(source(), [("x", HEALTHY)]);
    let desired = desired_from(&[played, directory], &context());
    assert_eq!(desired.stacks.len(), 2);
    assert!(desired.stacks.values().all(|stack| matches!(stack, DesiredStack::Held { .. })));
    assert!(errors_of(&desired, "x").contains("pod web: pod web is also wanted by pod web"), "{desired:?}");
}

#[test]
fn kinds_we_do_not_handle_are_reported_by_name() {
    let others = "
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: x}
---
apiVersion: serving.knative.dev/v1
kind: Service
metadata: {name: x}
---
apiVersion: v1
kind: Namespace
metadata: {name: prod}
---
";
    let objects = loaded(&format!("{others}{HEALTHY}"));
    assert_eq!(names(&objects), ["web"]);
    assert_eq!(
        messages(&objects.warnings),
        [
            "web.yaml:2:1: : Ingress (networking.k8s.io/v1) is not handled",
            "web.yaml:6:1: : Service (serving.knative.dev/v1) is not handled",
            "web.yaml:10:1: : Namespace has no effect here: namespaces need not be declared",
        ]
    );
    for (kind, version, want) in [
        (
            "NetworkPolicy",
            "networking.k8s.io/v1",
            "NetworkPolicy is not supported: traffic between pods is not filtered yet",
        ),
        ("CronJob", "batch/v1", "CronJob is not supported: schedules are not run yet"),
        ("Deployment", "extensions/v1beta1", "must be apps/v1 for a Deployment"),
        ("Deployment", "v1", "must be apps/v1 for a Deployment"),
    ] {
        let message = errors(&format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: x}}\n"));
        assert!(message.contains(want), "{message}");
    }
}

#[test]
fn inert_fields_are_warnings() {
    let text = HEALTHY.replace(
        "spec:\n",
        "spec:\n  nodeSelector: {disk: ssd}\n  tolerations: []\n  enableServiceLinks: true\n",
    ) + "status: {phase: Running}\n";
    let objects = loaded(&text);
    assert_eq!(
        messages(&objects.warnings),
        [
            "web.yaml:7:3: spec.nodeSelector: has no effect here: there is one node",
            "web.yaml:9:3: spec.enableServiceLinks: has no effect here: no variables are made of Services: they are found by DNS",
            "web.yaml:20:1: status: has no effect here: written by a cluster",
        ]
    );
    assert_eq!(objects.pods[0].hash, pod(HEALTHY).hash);
}

#[test]
fn lists_are_opened() {
    let indented = HEALTHY.replace('\n', "\n    ");
    let text = format!("apiVersion: v1\nkind: List\nitems:\n  - {}", indented.trim_end());
    assert_eq!(names(&loaded(&text)), ["web"]);
    let message = errors(&text.replace("containers:", "contaners:"));
    assert!(message.starts_with("web.yaml:10:7: items[0].spec.contaners: unknown field"), "{message}");
    assert!(errors("apiVersion: v1\nkind: List\n").contains("items: a list is required"));
}

#[test]
fn the_order_of_documents_does_not_matter() {
    let documents: Vec<&str> = include_str!("../full.yaml").split("---\n").collect();
    let forward = loaded(&documents.join("---\n"));
    let backward = loaded(&documents.iter().rev().copied().collect::<Vec<_>>().join("\n---\n"));
    assert_eq!(forward.pods[0].hash, backward.pods[0].hash);
    assert_eq!(forward.pods[0].fields, backward.pods[0].fields);
    assert_eq!(names(&forward), names(&backward));
}

#[test]
fn json_is_read_as_well() {
    let text = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"},
        "spec": {"containers": [{"name": "main", "image": "web:1", "ports": [{"hostPort": "80"}]}]}}"#;
    let desired = desired(&[("web.json", text)]);
    assert!(
        errors_of(&desired, "web")
            .starts_with("web.json:2:91: spec.containers[0].ports[0].hostPort: expected an integer"),
        "{}",
        errors_of(&desired, "web")
    );
}

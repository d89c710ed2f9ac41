//! The main job on real containers: what is written in a directory runs, and stays so.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use selkie::reconcile::action::Plan;
use selkie::reconcile::status::{
    ContainerStateStatus, PodPhase, PodStatus, StackState, StackStatus, StatusReport,
};

use crate::support::{TestNode, image, text, wait_for, wait_until};

pub const IMAGE: &str = "localhost/busybox:latest";

/// A node whose image lies beside the manifests, as on a machine without a registry.
pub fn node() -> TestNode {
    let node = TestNode::new();
    let images = node.manifests().join("images");
    std::fs::create_dir_all(&images).unwrap();
    image::busybox_archive(&images.join("busybox.tar"), IMAGE);
    node
}

/// A pod that runs until it is told to end, and says each start in a file of the host.
pub fn pod(node: &TestNode, name: &str, more: &str) -> String {
    let scratch = node.scratch("starts");
    std::fs::create_dir_all(&scratch).unwrap();
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 5
  containers:
  - name: main
    image: {IMAGE}
    imagePullPolicy: Never
    command: [sh, -c, 'trap \"echo ended >> /starts/{name}.end; exit 0\" TERM; echo {name} >> /starts/{name}; while :; do sleep 0.1; done']
    volumeMounts: [{{name: starts, mountPath: /starts}}]
{more}
  volumes:
  - {{name: starts, hostPath: {{path: {}}}}}
",
        scratch.display()
    )
}

pub fn starts(node: &TestNode, name: &str) -> usize {
    let said = std::fs::read_to_string(node.scratch("starts").join(name)).unwrap_or_default();
    said.lines().count()
}

pub fn status(node: &TestNode) -> StatusReport {
    try_status(node).expect("the daemon answers")
}

/// `None`: no daemon answered. (What is held makes the exit code 1.)
pub fn try_status(node: &TestNode) -> Option<StatusReport> {
    let output = node.selkie(&["status", "--format", "json"]);
    serde_json::from_slice(&output.stdout).ok()
}

pub fn pod_status(node: &TestNode, name: &str) -> Option<PodStatus> {
    status(node).pods().find(|pod| pod.pod.name == name).cloned()
}

#[track_caller]
pub fn wait_ready(node: &TestNode, names: &[&str]) {
    wait_until(&format!("{names:?} are ready"), || {
        let status = status(node);
        names.iter().all(|name| status.pods().any(|pod| pod.pod.name == *name && pod.is_ready()))
    });
}

#[track_caller]
fn wait_gone(node: &TestNode, name: &str) {
    wait_until(&format!("{name} is gone"), || pod_status(node, name).is_none());
}

#[track_caller]
fn wait_stack(node: &TestNode, name: &str, state: StackState) -> StackStatus {
    wait_for(&format!("stack {name} is {state:?}"), || {
        status(node).stacks.into_iter().find(|stack| stack.stack.name == name && stack.state == state)
    })
}

/// Container ids by pod and container: what is the same was not made anew.
fn ids(node: &TestNode) -> BTreeMap<String, String> {
    let status = status(node);
    status
        .pods()
        .flat_map(|pod| {
            pod.containers.iter().filter_map(|container| {
                Some((format!("{}/{}", pod.pod.name, container.name), container.id.clone()?))
            })
        })
        .collect()
}

fn plan(node: &TestNode) -> (Plan, Option<i32>) {
    let output = node.selkie(&["plan", node.manifests().to_str().unwrap(), "--format", "json"]);
    let plan = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)));
    (plan, output.status.code())
}

fn main_pid(node: &TestNode, container: &str) -> i32 {
    let inspected: serde_json::Value = serde_json::from_str(&node.ok(&["inspect", container])).unwrap();
    inspected[0]["State"]["Pid"].as_i64().expect("a running container has a pid") as i32
}

#[test]
fn exactly_what_changed_is_replaced_and_the_plan_says_so_first() {
    let mut node = node();
    let env = |color: &str| format!("    env: [{{name: COLOR, value: {color}}}]");
    node.write_manifest("web.yaml", &pod(&node, "web", &env("blue")));
    node.write_manifest("db.yaml", &pod(&node, "db", ""));
    node.up();
    wait_ready(&node, &["web", "db"]);
    let (in_sync, code) = plan(&node);
    assert!(in_sync.in_sync() && code == Some(0), "{in_sync}");

    // The daemon is stopped while the file is edited, so that the plan is seen before it is carried out.
    let before = ids(&node);
    let edited = node.scratch("edited");
    std::fs::create_dir(&edited).unwrap();
    std::fs::write(edited.join("web.yaml"), pod(&node, "web", &env("green"))).unwrap();
    node.write_manifest("web.yaml", &pod(&node, "web", &env("green")));
    wait_until("the container is another one", || ids(&node).get("web/main") != before.get("web/main"));
    wait_ready(&node, &["web", "db"]);
    assert_eq!(ids(&node).get("db/main"), before.get("db/main"));
    assert_eq!((starts(&node, "web"), starts(&node, "db")), (2, 1));
    assert_eq!(plan(&node).1, Some(0));
}

#[test]
fn a_pod_goes_gracefully_when_its_document_goes() {
    let mut node = node();
    let two = format!("{}---\n{}", pod(&node, "web", ""), pod(&node, "db", ""));
    node.write_manifest("all.yaml", &two);
    node.write_manifest("other.yaml", &pod(&node, "other", ""));
    node.up();
    wait_ready(&node, &["web", "db", "other"]);
    node.write_manifest("all.yaml", &pod(&node, "web", ""));
    wait_gone(&node, "db");
    assert_eq!(starts(&node, "db.end"), 1, "it was asked to end");
    node.remove_manifest("other.yaml");
    wait_gone(&node, "other");
    assert_eq!((starts(&node, "web"), starts(&node, "other.end")), (1, 1));
    assert!(pod_status(&node, "web").unwrap().is_ready());
}

#[test]
fn broken_manifests_change_nothing_and_say_where() {
    let mut node = node();
    let good = pod(&node, "web", "");
    node.write_manifest("web.yaml", &good);
    node.up();
    wait_ready(&node, &["web"]);
    node.write_manifest("web.yaml", &good.replace("    image:", "    imgae:"));
    let stack = wait_stack(&node, "web", StackState::Held);
    let error = &stack.errors[0];
    assert_eq!((error.location.line, error.field.as_str()), (8, "spec.containers[0].imgae"));
    assert_eq!(error.hint.as_deref(), Some("image"));
    assert_eq!(plan(&node).1, Some(1));
    node.write_manifest("web.yaml", "spec: [");
    wait_until("the other error is told", || {
        wait_stack(&node, "web", StackState::Held).errors[0].message.contains("YAML")
    });
    node.write_manifest("web.yaml", &good);
    wait_stack(&node, "web", StackState::Applied);
    assert_eq!(starts(&node, "web"), 1, "it ran all the time");
}

#[test]
fn a_directory_that_is_empty_or_gone_removes_nothing() {
    let mut node = node();
    node.write_manifest("web.yaml", &pod(&node, "web", ""));
    node.up();
    wait_ready(&node, &["web"]);
    let manifests = node.manifests();
    let aside = node.scratch("moved-away");
    let held = |node: &TestNode| status(node).sources.iter().any(|source| source.held.is_some());
    std::fs::rename(&manifests, &aside).unwrap();
    wait_until("the missing directory is held", || held(&node));
    std::fs::create_dir(&manifests).unwrap();
    wait_until("the empty directory is held", || held(&node));
    std::fs::remove_dir(&manifests).unwrap();
    std::fs::rename(&aside, &manifests).unwrap();
    wait_until("all is as before", || !held(&node) && plan(&node).1 == Some(0));
    assert_eq!(starts(&node, "web"), 1);
}

#[test]
fn a_swapped_link_is_followed_as_one_change() {
    let mut node = node();
    for (version, color) in [("v1", "blue"), ("v2", "green")] {
        let dir = node.scratch(version);
        std::fs::create_dir_all(&dir).unwrap();
        let env = format!("    env: [{{name: COLOR, value: {color}}}]");
        std::fs::write(dir.join("web.yaml"), pod(&node, "web", &env)).unwrap();
        std::fs::write(dir.join("db.yaml"), pod(&node, "db", "")).unwrap();
    }
    std::fs::create_dir_all(node.scratch("v1/images")).unwrap();
    std::fs::rename(node.manifests().join("images/busybox.tar"), node.scratch("v1/images/busybox.tar"))
        .unwrap();
    let current = node.scratch("current");
    symlink("v1", &current).unwrap();
    node.start_daemon(&["up", current.to_str().unwrap()]);
    wait_ready(&node, &["web", "db"]);
    let swapped = node.scratch("next");
    symlink("v2", &swapped).unwrap();
    std::fs::rename(&swapped, &current).unwrap();
    wait_until("the new version runs", || starts(&node, "web") == 2);
    wait_ready(&node, &["web", "db"]);
    assert_eq!(starts(&node, "db"), 1);
}

#[test]
fn a_killed_process_is_back_at_once_and_one_that_keeps_crashing_backs_off() {
    let mut node = node();
    node.write_manifest("web.yaml", &pod(&node, "web", ""));
    let crash = pod(&node, "crash", "").replace("while :; do sleep 0.1; done", "exit 3");
    node.write_manifest("crash.yaml", &crash);
    node.up();
    wait_ready(&node, &["web"]);
    kill(Pid::from_raw(main_pid(&node, "web-main")), Signal::SIGKILL).unwrap();
    wait_until("it is back", || starts(&node, "web") == 2);
    wait_ready(&node, &["web"]);
    assert_eq!(pod_status(&node, "web").unwrap().restarts, 1);

    let crashing = wait_for("it backs off", || {
        pod_status(&node, "crash").filter(|pod| pod.reason.as_deref() == Some("CrashLoopBackOff"))
    });
    assert_eq!(crashing.restarts, 1, "the first restart is immediate, the second waits");
    match &crashing.containers[0].last_state {
        Some(ContainerStateStatus::Terminated { exit_code: 3, reason, .. }) => assert_eq!(reason, "Error"),
        other => panic!("how it ended is told: {other:?}"),
    }
    assert_eq!(starts(&node, "crash"), 2);
}

#[test]
fn containers_outlive_the_daemon_and_come_back_after_a_reboot() {
    let mut node = node();
    let job = pod(&node, "once", "")
        .replace("while :; do sleep 0.1; done", "exit 0")
        .replace("  containers:", "  restartPolicy: OnFailure\n  containers:");
    node.write_manifest("web.yaml", &pod(&node, "web", ""));
    node.write_manifest("once.yaml", &job);
    node.up();
    wait_ready(&node, &["web"]);
    wait_until("the job is done", || {
        pod_status(&node, "once").is_some_and(|pod| pod.phase == PodPhase::Succeeded)
    });
    let (before, pid) = (ids(&node), main_pid(&node, "web-main"));
    node.kill_daemon();
    assert!(Path::new(&format!("/proc/{pid}")).exists(), "it runs without the daemon");
    node.up();
    wait_ready(&node, &["web"]);
    assert_eq!((ids(&node), main_pid(&node, "web-main")), (before, pid));

    // It ends while nobody watches: the next daemon sees it and starts it again.
    node.kill_daemon();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    node.up();
    wait_until("it is back", || starts(&node, "web") == 2);
    wait_ready(&node, &["web"]);

    node.kill_daemon();
    node.reboot();
    node.up();
    wait_until("it is back after the reboot", || starts(&node, "web") == 3);
    wait_ready(&node, &["web"]);
    assert_eq!(pod_status(&node, "once").unwrap().phase, PodPhase::Succeeded);
    assert_eq!(starts(&node, "once"), 1, "what is done is done");
}

#[test]
fn when_the_machine_goes_down_containers_end_gracefully_and_come_back() {
    let mut node = node();
    // What systemd says to a service that it stops because of a shutdown.
    let systemctl = node.scratch("systemctl");
    std::fs::create_dir_all(&systemctl).unwrap();
    let program = systemctl.join("systemctl");
    std::fs::write(&program, "#!/bin/sh\necho stopping\nexit 1\n").unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = std::env::var("PATH").unwrap();
    node.set_env("PATH", &format!("{}:{path}", systemctl.display()));
    node.set_env("NOTIFY_SOCKET", systemctl.join("notify").to_str().unwrap());
    node.write_manifest("web.yaml", &pod(&node, "web", ""));
    node.up();
    wait_ready(&node, &["web"]);
    node.stop_daemon();
    assert_eq!((starts(&node, "web"), starts(&node, "web.end")), (1, 1), "it was asked to end");
    assert_eq!(node.processes().len(), 0, "nothing runs on");
    node.reboot();
    node.up();
    wait_ready(&node, &["web"]);
    assert_eq!((starts(&node, "web"), starts(&node, "web.end")), (2, 1), "it came back by itself");
}

#[test]
fn what_runs_is_held_over_a_reboot_although_its_manifest_is_broken_now() {
    let mut node = node();
    node.write_manifest("web.yaml", &pod(&node, "web", ""));
    node.up();
    wait_ready(&node, &["web"]);
    node.kill_daemon();
    node.write_manifest("web.yaml", "kind: [");
    node.reboot();
    node.up();
    wait_ready(&node, &["web"]);
    assert_eq!(starts(&node, "web"), 2);
    assert_eq!(wait_stack(&node, "web", StackState::Held).errors.len(), 1);
}

#[test]
fn init_containers_run_in_order_and_volumes_are_filled() {
    let mut node = node();
    let manifest = format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: full}}
spec:
  terminationGracePeriodSeconds: 0
  initContainers:
  - {{name: one, image: {IMAGE}, imagePullPolicy: Never, command: [sh, -c, 'echo one >> /work/order'], volumeMounts: [{{name: work, mountPath: /work}}]}}
  - {{name: two, image: {IMAGE}, imagePullPolicy: Never, command: [sh, -c, 'echo two >> /work/order'], volumeMounts: [{{name: work, mountPath: /work}}]}}
  containers:
  - name: main
    image: {IMAGE}
    imagePullPolicy: Never
    command: [sh, -c, 'cat /work/order /config/mode /secret/password > /kept/said; echo $POD_IP >> /kept/said; exec sleep 1000']
    env: [{{name: POD_IP, valueFrom: {{fieldRef: {{fieldPath: status.podIP}}}}}}]
    volumeMounts:
    - {{name: work, mountPath: /work}}
    - {{name: config, mountPath: /config}}
    - {{name: secret, mountPath: /secret}}
    - {{name: kept, mountPath: /kept}}
  volumes:
  - {{name: work, emptyDir: {{}}}}
  - {{name: config, configMap: {{name: config}}}}
  - {{name: secret, secret: {{secretName: secret}}}}
  - {{name: kept, persistentVolumeClaim: {{claimName: kept}}}}
---
{{apiVersion: v1, kind: ConfigMap, metadata: {{name: config}}, data: {{mode: \"fast\\n\"}}}}
---
{{apiVersion: v1, kind: Secret, metadata: {{name: secret}}, stringData: {{password: \"hush\\n\"}}}}
---
{{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {{name: kept}}, spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Mi}}}}}}}}
"
    );
    node.write_manifest("full.yaml", &manifest);
    node.write_manifest("web.yaml", &pod(&node, "web", ""));
    node.up();
    wait_ready(&node, &["full"]);
    let full = pod_status(&node, "full").unwrap();
    let said = node.root().join("volumes/kept/_data/said");
    let expected = format!("one\ntwo\nfast\nhush\n{}\n", full.pod_ip.expect("the pod has an address"));
    wait_until("the container has said what it sees", || {
        std::fs::read_to_string(&said).unwrap_or_default() == expected
    });
    let uid = full.uid.unwrap();
    assert!(node.root().join("pods").join(&uid).exists());
    let on_disk =
        std::process::Command::new("grep").args(["-rl", "hush"]).arg(node.root().join("pods")).output();
    assert_eq!(text(&on_disk.unwrap().stdout), "", "a Secret's file is on no disk");
    node.remove_manifest("full.yaml");
    wait_gone(&node, "full");
    assert!(!node.root().join("pods").join(&uid).exists(), "what was the pod's own goes with it");
    assert!(said.exists(), "a claim stays");
    assert_eq!(node.mounts().iter().filter(|mount| mount.to_string_lossy().contains(&uid)).count(), 0);
}

/// Asks from inside a running container of the node.
fn fetch(node: &TestNode, container: &str, url: &str) -> String {
    let pid = main_pid(node, container);
    // Debian's static busybox crashes in `wget -T`.
    let asked = std::process::Command::new("timeout")
        .args(["5", "nsenter", "-t", &pid.to_string(), "-n", "busybox", "wget", "-q", "-O", "-", url])
        .output();
    text(&asked.unwrap().stdout)
}

#[test]
fn only_ready_pods_are_behind_a_service() {
    let mut node = node();
    let gate = node.scratch("gate");
    std::fs::create_dir_all(&gate).unwrap();
    let manifest = format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: hello}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: hello}}}}
  template:
    metadata: {{labels: {{app: hello}}}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: c
        image: {IMAGE}
        imagePullPolicy: Never
        command: [sh, -c, 'mkdir /www; ln -s /gate/$(hostname) /www/ready; hostname > /www/index.html; exec httpd -f -p 8080 -h /www']
        readinessProbe: {{httpGet: {{path: /ready, port: 8080}}, periodSeconds: 1, failureThreshold: 1}}
        volumeMounts: [{{name: gate, mountPath: /gate}}]
      volumes: [{{name: gate, hostPath: {{path: {}}}}}]
---
{{apiVersion: v1, kind: Service, metadata: {{name: hello}}, spec: {{selector: {{app: hello}}, ports: [{{port: 80, targetPort: 8080}}]}}}}
",
        gate.display()
    );
    std::fs::write(gate.join("hello-0"), "").unwrap();
    node.write_manifest("hello.yaml", &manifest);
    node.write_manifest("web.yaml", &pod(&node, "web", ""));
    node.up();
    wait_ready(&node, &["hello-0", "web"]);
    assert!(!pod_status(&node, "hello-1").unwrap().is_ready());
    let endpoints = |node: &TestNode| -> usize {
        status(node)
            .stacks
            .iter()
            .flat_map(|stack| &stack.services)
            .map(|service| service.endpoints.len())
            .sum()
    };
    wait_until("one endpoint", || endpoints(&node) == 1);
    let address =
        status(&node).stacks.iter().flat_map(|stack| &stack.services).find_map(|s| s.address).unwrap();
    let url = format!("http://{address}/");
    for _ in 0..8 {
        assert_eq!(fetch(&node, "web-main", &url), "hello-0\n");
    }
    std::fs::write(gate.join("hello-1"), "").unwrap();
    wait_until("both answer", || endpoints(&node) == 2 && fetch(&node, "web-main", &url) == "hello-1\n");
    std::fs::remove_file(gate.join("hello-0")).unwrap();
    wait_until("only the other is left", || endpoints(&node) == 1);
    for _ in 0..8 {
        assert_eq!(fetch(&node, "web-main", &url), "hello-1\n");
    }
}

#[test]
fn a_sick_container_is_restarted_by_its_liveness_probe() {
    let mut node = node();
    let probe = "    livenessProbe: {exec: {command: [test, '!', -e, /tmp/sick]}, periodSeconds: 1, failureThreshold: 1}";
    node.write_manifest("web.yaml", &pod(&node, "web", probe));
    node.up();
    wait_ready(&node, &["web"]);
    let root = format!("/proc/{}/root/tmp/sick", main_pid(&node, "web-main"));
    std::fs::write(root, "").unwrap();
    wait_until("it was started again", || starts(&node, "web") == 2);
    wait_ready(&node, &["web"]);
    assert_eq!(starts(&node, "web.end"), 1, "it was asked to end");
}

#[test]
fn an_image_that_can_not_be_had_holds_up_nobody_else() {
    let mut node = node();
    let good = pod(&node, "web", "");
    node.write_manifest("web.yaml", &good);
    let absent =
        pod(&node, "lost", "").replace(IMAGE, "127.0.0.1:1/absent:1").replace("Never", "IfNotPresent");
    node.write_manifest("lost.yaml", &absent);
    node.write_manifest("never.yaml", &pod(&node, "never", "").replace(IMAGE, "localhost/absent:1"));
    node.up();
    wait_ready(&node, &["web"]);
    let reason = |name: &str| pod_status(&node, name).and_then(|pod| pod.reason);
    wait_until("the pull's failure is told", || reason("lost").as_deref() == Some("ErrImagePull"));
    assert_eq!(reason("never").as_deref(), Some("ErrImageNeverPull"));
    // A running pod is not given up for an image that is not there.
    node.write_manifest("web.yaml", &good.replace(IMAGE, "localhost/absent:2"));
    wait_stack(&node, "web", StackState::Progressing);
    assert_eq!((starts(&node, "web"), starts(&node, "web.end")), (1, 0));
    assert!(pod_status(&node, "web").unwrap().is_ready());
}

#[test]
fn two_pods_on_one_host_port_are_refused_and_the_running_one_runs_on() {
    let mut node = node();
    let port = "    ports: [{containerPort: 80, hostPort: 28080}]";
    node.write_manifest("first.yaml", &pod(&node, "first", port));
    node.up();
    wait_ready(&node, &["first"]);
    node.write_manifest("second.yaml", &pod(&node, "second", port));
    let stack = wait_stack(&node, "second", StackState::Held);
    let told = format!("{:?} {}", stack.errors, stack.message);
    assert!(told.contains("28080"), "{told}");
    assert!(pod_status(&node, "first").unwrap().is_ready());
    assert_eq!(starts(&node, "first"), 1);
}

#[test]
fn what_someone_does_by_hand_is_repaired_and_said() {
    let mut node = node();
    node.write_manifest("web.yaml", &pod(&node, "web", ""));
    node.up();
    wait_ready(&node, &["web"]);
    node.ok(&["rm", "--force", "web-main"]);
    wait_until("it is back", || starts(&node, "web") == 2);
    wait_ready(&node, &["web"]);
    let notes = pod_status(&node, "web").unwrap().notes;
    assert!(
        notes.iter().any(|note| note.starts_with("someone ") && note.contains("container main")),
        "{notes:?}"
    );
}

#[test]
fn an_unchanged_directory_costs_no_process_and_no_write() {
    let mut node = node();
    for name in ["a", "b", "c"] {
        node.write_manifest(&format!("{name}.yaml"), &pod(&node, name, ""));
    }
    node.up();
    wait_ready(&node, &["a", "b", "c"]);
    wait_until("all is settled", || status(&node).settled);
    let written = |pid: u32| {
        let io = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
        let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).unwrap().to_owned();
        line.parse::<u64>().unwrap()
    };
    let stamps = || -> Vec<_> {
        let mut files: Vec<_> =
            std::fs::read_dir(node.root()).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files.into_iter().map(|path| (std::fs::metadata(&path).unwrap().modified().unwrap(), path)).collect()
    };
    let (before, bytes, containers) = (stamps(), written(node.daemon_pid()), ids(&node));
    // The log goes to a file, so that its lines are told apart from what is written of state.
    let log = node.daemon_log().len() as u64;
    for _ in 0..5 {
        node.ok(&["apply", node.manifests().to_str().unwrap()]);
    }
    let logged = node.daemon_log().len() as u64 - log;
    assert_eq!(stamps(), before, "no file of the state was written");
    assert!(written(node.daemon_pid()) - bytes <= logged + 8192, "only the log grew");
    assert_eq!(ids(&node), containers);
    for name in ["a", "b", "c"] {
        assert_eq!(starts(&node, name), 1);
    }
}

#[test]
fn played_manifests_run_until_they_are_taken_down_or_removed() {
    let mut node = node();
    node.service();
    node.load_busybox();
    let file = node.scratch("played.yaml");
    let two = format!("{}---\n{}", pod(&node, "one", ""), pod(&node, "two", ""));
    std::fs::write(&file, two).unwrap();
    let file = file.to_str().unwrap();
    node.ok(&["kube", "play", file]);
    wait_ready(&node, &["one", "two"]);
    let again = node.selkie(&["kube", "play", file]);
    assert!(
        !again.status.success() && text(&again.stderr).contains("already exists"),
        "{}",
        text(&again.stderr)
    );
    // It is kept: the next daemon looks after it, too.
    node.kill_daemon();
    node.reboot();
    node.service();
    wait_ready(&node, &["one", "two"]);
    assert_eq!(starts(&node, "one"), 2);
    // Removed by hand is not wanted any more.
    let id = pod_status(&node, "one").unwrap().id.unwrap();
    let removed = crate::support::http::request(
        &node.socket(),
        "DELETE",
        &format!("/v5.0.0/libpod/pods/{id}?force=true"),
        "application/json",
        b"",
    );
    assert!(removed.status < 300, "{}", removed.text());
    wait_gone(&node, "one");
    node.kill_daemon();
    node.service();
    wait_ready(&node, &["two"]);
    assert!(pod_status(&node, "one").is_none(), "it stays away");
    node.ok(&["kube", "down", file]);
    wait_gone(&node, "two");
    assert_eq!(starts(&node, "two.end"), 1, "it was asked to end");
}
